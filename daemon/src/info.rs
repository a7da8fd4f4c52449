//! What the sandbox is: version, directories, environment (toolbox contract 4).

use axum::extract::State;
use axum::routing::{get, post};
use axum::{Json, Router};
use pinfold_http::{ApiError, ApiResult, JsonBody};
use pinfold_proto::toolbox::system::{Directory, Message, UpdateEnvironment, Version};
use pinfold_spawn::Sandbox;

/// The daemon's version as `/version` tells it.
pub const VERSION: &str = concat!("v", env!("CARGO_PKG_VERSION"));

pub(crate) fn router(sandbox: Sandbox) -> Router {
    Router::new()
        .route("/version", get(async || Json(Version { version: VERSION.to_owned() })))
        .route("/work-dir", get(work_dir))
        .route("/user-home-dir", get(home_dir))
        .route("/project-dir", get(home_dir))
        .route("/env", post(update_environment))
        .with_state(sandbox)
}

async fn work_dir(State(sandbox): State<Sandbox>) -> Json<Directory> {
    Json(Directory { dir: sandbox.work_dir.display().to_string() })
}

async fn home_dir(State(sandbox): State<Sandbox>) -> Json<Directory> {
    Json(Directory { dir: sandbox.home.display().to_string() })
}

async fn update_environment(
    State(sandbox): State<Sandbox>,
    JsonBody(change): JsonBody<UpdateEnvironment>,
) -> ApiResult<Json<Message>> {
    let prefix = change.unset_value_prefix.as_deref();
    sandbox.environment.update(&change.set, &change.unset, prefix).map_err(ApiError::bad_request)?;
    Ok(Json(Message { message: "environment updated".to_owned() }))
}
