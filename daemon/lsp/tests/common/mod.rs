//! A sandbox with the routes over it.
#![allow(dead_code, clippy::unwrap_used, reason = "each test binary uses a part; a test fails by panicking")]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::LazyLock;

use axum::Router;
use axum::body::Body;
use http::{Request, StatusCode};
use http_body_util::BodyExt;
use pinfold_http::{ErrorStyle, render_errors};
use pinfold_spawn::{Environment, Sandbox, Spawner};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tower::ServiceExt;

/// A process can have only one reaper, so its spawner lives on a runtime of its own.
static REAPER: LazyLock<(Runtime, Spawner)> = LazyLock::new(|| {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let spawner = {
        let _entered = runtime.enter();
        Spawner::start().unwrap()
    };
    (runtime, spawner)
});

/// How many servers a world allows.
pub(crate) const MOST: usize = 2;

pub(crate) struct World {
    pub(crate) sandbox: Sandbox,
    routes: Router,
    folder: TempDir,
}

impl World {
    /// `path` comes before the process's own `PATH`.
    pub(crate) fn new(path: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let home = folder.path().to_str().unwrap().to_owned();
        let path = format!("{path}:{}", std::env::var("PATH").unwrap());
        let map = BTreeMap::from([("PATH".to_owned(), path), ("HOME".to_owned(), home)]);
        let sandbox = Sandbox {
            spawner: REAPER.1.clone(),
            environment: Environment::from_map(map),
            work_dir: folder.path().canonicalize().unwrap().into(),
            home: folder.path().into(),
        };
        let layer = axum::middleware::from_fn_with_state(ErrorStyle::Daemon, render_errors);
        let routes = pinfold_lsp::router(sandbox.clone(), MOST).layer(layer);
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

    pub(crate) async fn call(&self, method: &str, uri: &str, body: Value) -> (StatusCode, Value) {
        let body = if body.is_null() { Body::empty() } else { Body::from(body.to_string()) };
        let request = Request::builder().method(method).uri(uri).body(body).unwrap();
        let response = self.routes.clone().oneshot(request).await.unwrap();
        let status = response.status();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        (status, if bytes.is_empty() { Value::Null } else { serde_json::from_slice(&bytes).unwrap() })
    }

    pub(crate) async fn post(&self, uri: &str, body: Value) {
        let (status, answer) = self.call("POST", uri, body.clone()).await;
        assert_eq!((status.as_u16(), &answer), (200, &Value::Null), "POST {uri} {body}");
    }

    pub(crate) async fn get(&self, uri: &str) -> Value {
        let (status, answer) = self.call("GET", uri, Value::Null).await;
        assert_eq!(status, StatusCode::OK, "GET {uri}: {answer}");
        answer
    }

    pub(crate) async fn fails(
        &self,
        method: &str,
        uri: &str,
        body: Value,
        status: u16,
        code: &str,
    ) -> String {
        let (found, answer) = self.call(method, uri, body.clone()).await;
        assert_eq!(
            (found.as_u16(), answer["code"].as_str()),
            (status, Some(code)),
            "{method} {uri} {body}: {answer}"
        );
        answer["message"].as_str().unwrap().to_owned()
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
