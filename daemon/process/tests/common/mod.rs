//! A router over real processes, and the questions tests ask it.

#![allow(clippy::unwrap_used, dead_code, unreachable_pub)]

use std::path::Path;
use std::time::Duration;

use pinfold_process::{Processes, Settings};
use pinfold_testing::Routes;
pub use pinfold_testing::until;
use serde_json::Value;

/// A sandbox in a directory of its own, with this shell.
pub struct Daemon {
    pub routes: Routes,
    pub processes: Processes,
    pub home: tempfile::TempDir,
}

impl Daemon {
    pub fn new() -> Self {
        Self::with(&default_shell(), Settings { grace: Duration::from_secs(1), ..Settings::default() })
    }

    pub fn with(shell: &Path, settings: Settings) -> Self {
        let home = tempfile::tempdir().unwrap();
        let work = home.path().join("work");
        std::fs::create_dir(&work).unwrap();
        let sandbox = pinfold_testing::sandbox(&work, home.path(), &[("LANG", "C.UTF-8")]);
        let processes = Processes::new(sandbox, settings).with_shell(shell);
        Self { routes: Routes::new(processes.router()), processes, home }
    }

    pub async fn ask(&self, method: &str, path: &str, body: impl Into<Option<Value>>) -> (u16, Value) {
        self.ask_as("0.226.1", method, path, body).await
    }

    /// As a client of this version; the body is JSON, or else a string.
    pub async fn ask_as(
        &self,
        version: &str,
        method: &str,
        path: &str,
        body: impl Into<Option<Value>>,
    ) -> (u16, Value) {
        let body = body.into().map(|body| body.to_string()).unwrap_or_default();
        let header = [("x-daytona-sdk-version", version)];
        let headers = if version.is_empty() { &[][..] } else { &header };
        let (status, answer) = self.routes.send_with(headers, method, path, &body).await;
        (status.as_u16(), answer)
    }
}

/// The shell of the sandbox that tests run in.
pub fn default_shell() -> std::path::PathBuf {
    "/bin/bash".into()
}
