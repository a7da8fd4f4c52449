//! Push-mode routes of sandboxes. Each does what the job of the same name does.

use axum::Json;
use axum::extract::{Path, State};
use http::StatusCode;
use pinfold_http::{ApiError, ApiResult, JsonBody, OptionalJsonBody, Query};
use pinfold_proto::id::{SandboxId, Secret};
use pinfold_proto::runner::payload::{
    CreateBackup, CreateSandbox, NetworkSettings, RecoverSandbox, ResizeSandbox, SnapshotInfo,
    SnapshotSandbox, StartSandbox, Started, StopSandbox,
};
use pinfold_proto::runner::recovery;
use serde::{Deserialize, Serialize};

use super::Shared;
use crate::index::SandboxState;
use crate::node::sandbox_id;
use crate::sandbox::{Backups, daemon_version};

type Text = Json<&'static str>;

fn id_of(text: &str) -> ApiResult<SandboxId> {
    Ok(sandbox_id(text)?)
}

fn required(fields: &[(&str, &String)]) -> ApiResult<()> {
    match fields.iter().find(|(_, text)| text.is_empty()) {
        Some((name, _)) => Err(ApiError::invalid_body(format_args!("{name} is required"))),
        None => Ok(()),
    }
}

/// Quotas of cores, memory and disk.
fn at_least_one(quotas: [u32; 3]) -> ApiResult<()> {
    match quotas.iter().zip(["cpuQuota", "memoryQuota", "storageQuota"]).find(|(quota, _)| **quota == 0) {
        Some((_, name)) => Err(ApiError::invalid_body(format_args!("{name} must be at least 1"))),
        None => Ok(()),
    }
}

pub(super) async fn create(
    State(s): State<Shared>,
    JsonBody(body): JsonBody<CreateSandbox>,
) -> ApiResult<(StatusCode, Json<Started>)> {
    required(&[
        ("id", &body.id),
        ("userId", &body.user_id),
        ("snapshot", &body.snapshot),
        ("osUser", &body.os_user),
    ])?;
    at_least_one([body.cpu_quota, body.memory_quota, body.storage_quota])?;
    Ok((StatusCode::CREATED, Json(s.node.create(body).await?)))
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct SandboxInfo {
    state: SandboxState,
    backup_state: &'static str,
    #[serde(skip_serializing_if = "String::is_empty")]
    backup_snapshot: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    backup_error: Option<String>,
    recoverable: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    daemon_version: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error_reason: Option<String>,
}

fn backup_of(backups: &Backups, id: &SandboxId) -> (&'static str, String, Option<String>) {
    use crate::images::BackupState as B;
    match backups.last(id) {
        B::None => ("NONE", String::new(), None),
        B::InProgress(reference) => ("IN_PROGRESS", reference, None),
        B::Completed(reference) => ("COMPLETED", reference, None),
        B::Failed(reference, error) => ("FAILED", reference, Some(error)),
    }
}

pub(super) async fn info(State(s): State<Shared>, Path(id): Path<String>) -> ApiResult<Json<SandboxInfo>> {
    let id = id_of(&id)?;
    let known = s.node.index.get(&id);
    let state = known.as_ref().map_or(SandboxState::Destroyed, |k| k.state);
    let (backup_state, backup_snapshot, backup_error) = backup_of(&s.node.backups, &id);
    let mut version = known.as_ref().and_then(|k| k.daemon_version.clone());
    if state == SandboxState::Started
        && version.is_none()
        && let Some(address) = known.as_ref().and_then(|k| k.address)
    {
        version = daemon_version((address, s.node.config.toolbox_port).into()).await;
    }
    let trouble = known.and_then(|k| k.trouble()).filter(|_| state == SandboxState::Error);
    Ok(Json(SandboxInfo {
        state,
        backup_state,
        backup_snapshot,
        recoverable: backup_error.as_deref().is_some_and(recovery::is_recoverable),
        backup_error,
        daemon_version: version.filter(|_| state == SandboxState::Started),
        error_reason: trouble,
    }))
}

pub(super) async fn start(
    State(s): State<Shared>,
    Path(id): Path<String>,
    query: Query,
    OptionalJsonBody(metadata): OptionalJsonBody<Metadata>,
) -> ApiResult<Json<Started>> {
    let auth_token = query.get("token").filter(|t| !t.is_empty()).map(Secret::new);
    Ok(Json(s.node.start(&id_of(&id)?, StartSandbox { auth_token, metadata: metadata.0 }).await?))
}

#[derive(Default, Deserialize)]
#[serde(transparent)]
pub(super) struct Metadata(
    #[serde(deserialize_with = "pinfold_proto::null::string_map")] std::collections::BTreeMap<String, String>,
);

pub(super) async fn stop(
    State(s): State<Shared>,
    Path(id): Path<String>,
    body: axum::body::Bytes,
) -> ApiResult<Text> {
    // Undecodable bodies are ignored, as the contract says.
    let request: StopSandbox = serde_json::from_slice(&body).unwrap_or_default();
    s.node.stop(&id_of(&id)?, request).await?;
    Ok(Json("Sandbox stopped"))
}

pub(super) async fn destroy(State(s): State<Shared>, Path(id): Path<String>) -> ApiResult<Text> {
    s.node.destroy(&id_of(&id)?).await?;
    Ok(Json("Sandbox destroyed"))
}

pub(super) async fn backup(
    State(s): State<Shared>,
    Path(id): Path<String>,
    JsonBody(body): JsonBody<CreateBackup>,
) -> ApiResult<(StatusCode, Text)> {
    let id = id_of(&id)?;
    if body.snapshot.is_empty() {
        return Err(ApiError::invalid_body("snapshot is required"));
    }
    if s.node.index.get(&id).is_none() {
        return Err(ApiError::not_found(format_args!("not found: sandbox {id} is not on this node")));
    }
    let node = s.node.clone();
    // Its outcome is read through the sandbox's info.
    tokio::spawn(async move { drop(node.backup(&id, body).await) });
    Ok((StatusCode::CREATED, Json("Backup started")))
}

pub(super) async fn snapshot(
    State(s): State<Shared>,
    Path(id): Path<String>,
    JsonBody(body): JsonBody<SnapshotSandbox>,
) -> ApiResult<Json<SnapshotInfo>> {
    if body.name.is_empty() {
        return Err(ApiError::invalid_body("name is required"));
    }
    let made = s.node.snapshot(&id_of(&id)?, body).await?;
    let name = made.reference.unwrap_or_default();
    Ok(Json(SnapshotInfo {
        name,
        size_gb: made.size_gb,
        entrypoint: made.entrypoint,
        cmd: made.cmd,
        hash: made.hash,
    }))
}

pub(super) async fn resize(
    State(s): State<Shared>,
    Path(id): Path<String>,
    JsonBody(body): JsonBody<ResizeSandbox>,
) -> ApiResult<Text> {
    s.node.resize(&id_of(&id)?, body).await?;
    Ok(Json("Sandbox resized"))
}

pub(super) async fn recover(
    State(s): State<Shared>,
    Path(id): Path<String>,
    JsonBody(body): JsonBody<RecoverSandbox>,
) -> ApiResult<Text> {
    required(&[("userId", &body.user_id), ("osUser", &body.os_user)])?;
    at_least_one([body.cpu_quota, body.memory_quota, body.storage_quota])?;
    s.node.recover(&id_of(&id)?, body).await?;
    Ok(Json("Sandbox recovered"))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Reason {
    #[serde(default, deserialize_with = "pinfold_proto::null::as_default")]
    error_reason: String,
}

#[derive(Serialize)]
pub(super) struct Recoverable {
    recoverable: bool,
}

pub(super) async fn is_recoverable(JsonBody(body): JsonBody<Reason>) -> ApiResult<Json<Recoverable>> {
    if body.error_reason.is_empty() {
        return Err(ApiError::invalid_body("errorReason is required"));
    }
    Ok(Json(Recoverable { recoverable: recovery::is_recoverable(&body.error_reason) }))
}

pub(super) async fn network_settings(
    State(s): State<Shared>,
    Path(id): Path<String>,
    JsonBody(body): JsonBody<NetworkSettings>,
) -> ApiResult<Text> {
    s.node.set_network(&id_of(&id)?, body).await?;
    Ok(Json("Network settings updated"))
}
