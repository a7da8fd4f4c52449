//! A sandbox that is a folder of the test's own.

use std::collections::BTreeMap;
use std::ops::Deref;
use std::path::{Path, PathBuf};

use axum::Router;
use pinfold_spawn::{Environment, Sandbox};
use tempfile::TempDir;

use crate::{Routes, spawner};

/// A sandbox whose processes have `HOME`, this process's `PATH`, and `variables`, which win over both.
pub fn sandbox(work_dir: &Path, home: &Path, variables: &[(&str, &str)]) -> Sandbox {
    let path = std::env::var("PATH").unwrap();
    let inherited = [("PATH", path.as_str()), ("HOME", home.to_str().unwrap())];
    let all =
        inherited.iter().chain(variables).map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    Sandbox {
        spawner: spawner(),
        environment: Environment::from_map(all.collect::<BTreeMap<_, _>>()),
        work_dir: work_dir.into(),
        home: home.into(),
    }
}

/// Routes over a sandbox, and the files in its work directory.
#[derive(Debug)]
pub struct World {
    /// The sandbox.
    pub sandbox: Sandbox,
    routes: Routes,
    _folder: TempDir,
}

impl Deref for World {
    type Target = Routes;

    fn deref(&self) -> &Routes {
        &self.routes
    }
}

impl World {
    /// A new folder as work directory, and as home unless there is another.
    pub fn new(
        home: Option<&Path>,
        variables: &[(&str, &str)],
        router: impl FnOnce(Sandbox) -> Router,
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let work_dir = folder.path().canonicalize().unwrap();
        let sandbox = sandbox(&work_dir, home.unwrap_or(&work_dir), variables);
        let routes = Routes::new(router(sandbox.clone()));
        Self { sandbox, routes, _folder: folder }
    }

    /// Where a file of this name is.
    pub fn path(&self, name: &str) -> PathBuf {
        self.sandbox.resolve(name)
    }

    /// Writes a file and makes the directories above it.
    pub fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
}
