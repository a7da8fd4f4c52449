//! The recording routes (toolbox contract 17.1).

use axum::extract::{Path, State};
use axum::response::Response;
use axum::routing::{get, post};
use axum::{Json, Router};
use http::{HeaderMap, StatusCode};
use pinfold_http::{ApiError, ApiResult, JsonBody};
use pinfold_proto::toolbox::system::{Recording, RecordingList, StartRecording, StopRecording};

use super::{RecordingError, Recordings, files};

pub(crate) fn router(recordings: Recordings) -> Router {
    Router::new()
        .route("/computeruse/recordings", get(list))
        .route("/computeruse/recordings/start", post(start))
        .route("/computeruse/recordings/stop", post(stop))
        .route("/computeruse/recordings/{id}", get(show).delete(delete))
        .route("/computeruse/recordings/{id}/download", get(download))
        .with_state(recordings)
}

impl From<RecordingError> for ApiError {
    fn from(error: RecordingError) -> Self {
        match &error {
            RecordingError::NoFfmpeg => {
                Self::unavailable(&error).code("RECORDING_FFMPEG_NOT_FOUND").with("error", "ffmpeg_not_found")
            }
            RecordingError::Label => Self::bad_request(&error).with("error", "invalid_label"),
            RecordingError::Unknown(_) => Self::not_found(&error),
            RecordingError::Active(_) => Self::conflict(&error).code("RECORDING_STILL_ACTIVE"),
            RecordingError::TooMany => Self::new(StatusCode::TOO_MANY_REQUESTS, &error),
            RecordingError::Start(_) | RecordingError::File { .. } => Self::internal(&error),
        }
    }
}

type Store = State<Recordings>;

async fn list(State(recordings): Store) -> ApiResult<Json<RecordingList>> {
    Ok(Json(RecordingList { recordings: recordings.list()? }))
}

/// Any body that cannot be read counts as empty.
async fn start(
    State(recordings): Store,
    body: axum::body::Bytes,
) -> ApiResult<(StatusCode, Json<Recording>)> {
    let body: StartRecording = serde_json::from_slice(&body).unwrap_or_default();
    let label = body.label.as_deref().filter(|label| !label.is_empty());
    Ok((StatusCode::CREATED, Json(recordings.start(label)?)))
}

async fn stop(
    State(recordings): Store,
    JsonBody(body): JsonBody<StopRecording>,
) -> ApiResult<Json<Recording>> {
    if body.id.is_empty() {
        return Err(ApiError::invalid_body("id is required"));
    }
    Ok(Json(recordings.stop(&body.id).await?))
}

async fn show(State(recordings): Store, Path(id): Path<String>) -> ApiResult<Json<Recording>> {
    Ok(Json(recordings.get(&id)?))
}

async fn delete(State(recordings): Store, Path(id): Path<String>) -> ApiResult<StatusCode> {
    recordings.delete(&id)?;
    Ok(StatusCode::NO_CONTENT)
}

async fn download(
    State(recordings): Store,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> ApiResult<Response> {
    files::serve(recordings.get(&id)?.file_path.as_ref(), &headers).await
}
