//! The interpreter's routes.

use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get};
use axum::{Json, Router};
use pinfold_http::{ApiError, ApiResult, OptionalJsonBody};
use pinfold_proto::toolbox::interpreter::{ContextInfo, ContextList, CreateContext, DEFAULT_CONTEXT, PYTHON};
use pinfold_spawn::Sandbox;
use serde_json::json;

use super::attach;
use super::registry::{Contexts, CreateError};

/// The routes under `/process/interpreter` (toolbox contract 11).
pub(crate) fn router(sandbox: Sandbox, max: usize) -> Router {
    Router::new()
        .route("/process/interpreter/context", get(list).post(create))
        .route("/process/interpreter/context/{id}", delete(remove))
        .route("/process/interpreter/execute", get(attach::execute))
        .with_state(Contexts::new(sandbox, max))
}

async fn list(State(contexts): State<Contexts>) -> Json<ContextList> {
    Json(ContextList { contexts: contexts.list().iter().map(|c| c.info()).collect() })
}

async fn create(
    State(contexts): State<Contexts>,
    OptionalJsonBody(request): OptionalJsonBody<CreateContext>,
) -> ApiResult<Json<ContextInfo>> {
    if !request.language.is_empty() && request.language != PYTHON {
        return Err(ApiError::bad_request(format_args!(
            "the language {:?} is not supported: python is",
            request.language
        )));
    }
    let context = contexts.create(&request.cwd).await.map_err(|error| match error {
        CreateError::Full(max) => {
            ApiError::too_many(max, "interpreter contexts", "PINFOLD_MAX_INTERPRETER_CONTEXTS")
        }
        CreateError::Start(error) => {
            let message = format_args!("the interpreter could not be started: {error}");
            if error.is_no_room() { ApiError::exhausted(message) } else { ApiError::internal(message) }
        }
    })?;
    Ok(Json(context.info()))
}

async fn remove(State(contexts): State<Contexts>, Path(id): Path<String>) -> ApiResult<Response> {
    if id == DEFAULT_CONTEXT {
        return Err(ApiError::bad_request("the default context cannot be deleted"));
    }
    if !contexts.delete(&id).await {
        return Err(ApiError::not_found(format_args!("the context {id:?} does not exist")));
    }
    Ok(Json(json!({ "message": format!("context {id} deleted") })).into_response())
}
