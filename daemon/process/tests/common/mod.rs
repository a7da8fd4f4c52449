//! A router over real processes, and the questions tests ask it.

#![allow(clippy::unwrap_used, dead_code, unreachable_pub)]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::middleware::from_fn_with_state;
use http::Request;
use http_body_util::BodyExt;
use pinfold_http::{ErrorStyle, render_errors};
use pinfold_process::{Processes, Settings};
use pinfold_spawn::{Environment, Sandbox, Spawner};
use serde_json::Value;
use tokio::runtime::Runtime;
use tower::ServiceExt;

/// A process can have only one reaper, so its spawner lives on a runtime of its own: a test's runtime ends with the test.
static REAPER: LazyLock<(Runtime, Spawner)> = LazyLock::new(|| {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let spawner = {
        let _entered = runtime.enter();
        Spawner::start().unwrap()
    };
    (runtime, spawner)
});

/// A sandbox in a directory of its own, with this shell.
pub struct Daemon {
    pub router: Router,
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
        let environment = BTreeMap::from([
            ("PATH".to_owned(), std::env::var("PATH").unwrap()),
            ("HOME".to_owned(), home.path().display().to_string()),
            ("LANG".to_owned(), "C.UTF-8".to_owned()),
        ]);
        let sandbox = Sandbox {
            spawner: REAPER.1.clone(),
            environment: Environment::from_map(environment),
            work_dir: work.into(),
            home: home.path().into(),
        };
        let processes = Processes::new(sandbox, settings).with_shell(shell);
        let router = processes.router().layer(from_fn_with_state(ErrorStyle::Daemon, render_errors));
        Self { router, processes, home }
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
        let body = body.into().map_or_else(Body::empty, |body| Body::from(body.to_string()));
        let mut request = Request::builder().method(method).uri(path);
        if !version.is_empty() {
            request = request.header("X-Daytona-SDK-Version", version);
        }
        let response = self.router.clone().oneshot(request.body(body).unwrap()).await.unwrap();
        let status = response.status().as_u16();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        let text = || Value::String(String::from_utf8(bytes.to_vec()).unwrap());
        (status, serde_json::from_slice(&bytes).unwrap_or_else(|_| text()))
    }
}

/// The shell of the sandbox that tests run in.
pub fn default_shell() -> std::path::PathBuf {
    "/bin/bash".into()
}

/// Waits for `condition`, at most ten seconds.
pub async fn until<F: Future<Output = bool>>(what: &str, mut condition: impl FnMut() -> F) {
    let start = Instant::now();
    while !condition().await {
        assert!(start.elapsed() < Duration::from_secs(10), "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
