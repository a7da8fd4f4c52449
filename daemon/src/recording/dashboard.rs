//! The recording dashboard (toolbox contract 17.2).

use axum::extract::{Path, State};
use axum::response::{Html, Response};
use axum::routing::get;
use axum::{Json, Router};
use http::{HeaderMap, StatusCode};
use pinfold_http::{ApiError, ApiResult, JsonBody};
use pinfold_proto::toolbox::system::{DeleteRecordings, DeletedRecordings, RecordingList};

use super::{Recordings, files};

pub(crate) fn router(recordings: Recordings) -> Router {
    Router::new()
        .route("/", get(async || Html(include_str!("dashboard.html"))))
        .route("/videos/{name}", get(video))
        .route("/api/recordings", get(list).delete(delete))
        .with_state(recordings)
}

async fn list(State(recordings): State<Recordings>) -> ApiResult<Json<RecordingList>> {
    Ok(Json(RecordingList { recordings: recordings.list()? }))
}

async fn video(
    State(recordings): State<Recordings>,
    Path(name): Path<String>,
    headers: HeaderMap,
) -> ApiResult<Response> {
    if name.contains(['/', '\0']) || name == ".." || name == "." {
        return Err(ApiError::new(
            StatusCode::FORBIDDEN,
            "only files of the recordings directory are served",
        ));
    }
    let path = recordings.directory().join(&name);
    let real = tokio::fs::canonicalize(&path)
        .await
        .map_err(|error| ApiError::not_found(format_args!("{name}: {error}")))?;
    let root = tokio::fs::canonicalize(recordings.directory()).await.map_err(ApiError::internal)?;
    if !real.starts_with(root) {
        return Err(ApiError::new(
            StatusCode::FORBIDDEN,
            "only files of the recordings directory are served",
        ));
    }
    files::serve(&real, &headers).await
}

async fn delete(
    State(recordings): State<Recordings>,
    JsonBody(body): JsonBody<DeleteRecordings>,
) -> Json<DeletedRecordings> {
    let (deleted, failed) = body.ids.into_iter().partition(|id| recordings.delete(id).is_ok());
    Json(DeletedRecordings { deleted, failed })
}
