//! A sandbox with the routes over it.
#![allow(dead_code, clippy::unwrap_used, reason = "each test binary uses a part; a test fails by panicking")]

use std::collections::BTreeMap;
use std::ops::Deref;
use std::path::PathBuf;

use pinfold_spawn::{Environment, Sandbox};
use pinfold_testing::Routes;
use serde_json::{Value, json};
use tempfile::TempDir;

/// How many servers a world allows.
pub(crate) const MOST: usize = 2;

pub(crate) struct World {
    pub(crate) sandbox: Sandbox,
    routes: Routes,
    folder: TempDir,
}

impl Deref for World {
    type Target = Routes;

    fn deref(&self) -> &Routes {
        &self.routes
    }
}

impl World {
    /// `path` comes before the process's own `PATH`.
    pub(crate) fn new(path: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let home = folder.path().to_str().unwrap().to_owned();
        let path = format!("{path}:{}", std::env::var("PATH").unwrap());
        let map = BTreeMap::from([("PATH".to_owned(), path), ("HOME".to_owned(), home)]);
        let sandbox = Sandbox {
            spawner: pinfold_testing::spawner(),
            environment: Environment::from_map(map),
            work_dir: folder.path().canonicalize().unwrap().into(),
            home: folder.path().into(),
        };
        let routes = Routes::new(pinfold_lsp::router(sandbox.clone(), MOST));
        Self { sandbox, routes, folder }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.sandbox.resolve(name)
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    /// POSTs and expects 200 without a body.
    pub(crate) async fn post(&self, uri: &str, body: Value) {
        self.routes.post(uri, body, 200).await;
    }
}

/// What names a server of the project `app`.
pub(crate) fn server(language: &str) -> Value {
    json!({"languageId": language, "pathToProject": "app"})
}

pub(crate) fn with(language: &str, more: Value) -> Value {
    let mut body = server(language);
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

pub(crate) fn names(symbols: &Value) -> Vec<&str> {
    symbols.as_array().unwrap().iter().map(|symbol| symbol["name"].as_str().unwrap()).collect()
}
