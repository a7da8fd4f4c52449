//! Push-mode routes of snapshots, and build logs.

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use http::header::CONTENT_TYPE;
use pinfold_http::{ApiError, ApiResult, JsonBody, Query};
use pinfold_proto::runner::payload::{
    BuildSnapshot, InspectSnapshot, PullSnapshot, RegistryInfo, SnapshotInfo,
};
use serde::{Deserialize, Serialize};

use super::Shared;
use crate::images::build_id;

type Text = Json<&'static str>;

pub(super) async fn pull(
    State(s): State<Shared>,
    JsonBody(body): JsonBody<PullSnapshot>,
) -> ApiResult<(StatusCode, Text)> {
    if body.snapshot.is_empty() {
        return Err(ApiError::invalid_body("snapshot is required"));
    }
    // Its outcome is read through /snapshots/info.
    tokio::spawn(async move { drop(s.node.pull_snapshot(body).await) });
    Ok((StatusCode::ACCEPTED, Json("Snapshot pull started")))
}

pub(super) async fn build(
    State(s): State<Shared>,
    JsonBody(body): JsonBody<BuildSnapshot>,
) -> ApiResult<(StatusCode, Text)> {
    let tagged = body.snapshot.rsplit_once(':').is_some_and(|(_, tag)| !tag.is_empty());
    if !tagged {
        return Err(ApiError::bad_request("bad request: snapshot must have a tag"));
    }
    if body.dockerfile.is_empty() || body.organization_id.is_empty() {
        return Err(ApiError::invalid_body("dockerfile and organizationId are required"));
    }
    tokio::spawn(async move { drop(s.node.build(body).await) });
    Ok((StatusCode::ACCEPTED, Json("Snapshot build started")))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct TagRequest {
    source_image: String,
    target_image: String,
}

pub(super) async fn tag(State(s): State<Shared>, JsonBody(body): JsonBody<TagRequest>) -> ApiResult<Text> {
    s.node.tag_snapshot(&body.source_image, &body.target_image).await?;
    Ok(Json("Image tagged successfully"))
}

#[derive(Serialize)]
pub(super) struct Exists {
    exists: bool,
}

pub(super) async fn exists(State(s): State<Shared>, query: Query) -> ApiResult<Json<Exists>> {
    Ok(Json(Exists { exists: s.node.snapshot_exists(query.required("snapshot")?).await? }))
}

pub(super) async fn info(State(s): State<Shared>, query: Query) -> ApiResult<Json<SnapshotInfo>> {
    Ok(Json(s.node.snapshot_info(query.required("snapshot")?).await?))
}

pub(super) async fn remove(State(s): State<Shared>, query: Query) -> ApiResult<Text> {
    s.node.remove_snapshot(query.required("snapshot")?).await?;
    Ok(Json("Snapshot removed successfully"))
}

pub(super) async fn inspect(
    State(s): State<Shared>,
    JsonBody(body): JsonBody<InspectSnapshot>,
) -> ApiResult<Json<RegistryInfo>> {
    Ok(Json(s.node.inspect_snapshot(body).await?))
}

pub(super) async fn logs(State(s): State<Shared>, query: Query) -> ApiResult<Response> {
    let reference = query.required("snapshotRef")?;
    let read = s.node.images.logs.read(build_id(reference), query.flag("follow")).await;
    match read.map_err(|e| ApiError::internal(format_args!("could not read the build log: {e}")))? {
        Some(stream) => {
            Ok(([(CONTENT_TYPE, "application/octet-stream")], Body::from_stream(stream)).into_response())
        }
        None => Err(ApiError::not_found(format_args!("not found: there is no build log for {reference}"))),
    }
}
