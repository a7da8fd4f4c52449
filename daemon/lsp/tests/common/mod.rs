//! A sandbox with the routes over it.
#![allow(dead_code, clippy::unwrap_used, reason = "each test binary uses a part; a test fails by panicking")]

pub(crate) use pinfold_testing::World;
use serde_json::{Value, json};

/// How many servers a world allows.
pub(crate) const MOST: usize = 2;

/// No server in it but those of this machine.
pub(crate) fn bare() -> World {
    World::new(None, &[], |sandbox| pinfold_lsp::router(sandbox, MOST))
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
