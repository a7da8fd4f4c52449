//! API keys, regions, the only organization and its only user (control-plane contract 5.3).

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::routing::{delete, get};
use axum::{Json, Router};
use http::{HeaderMap, StatusCode};
use pinfold_http::{ApiError, ApiResult, JsonBody};
use pinfold_proto::control::account::{ApiKey, CreateApiKey, Region};
use pinfold_proto::control::sandbox::SandboxState;
use pinfold_proto::control::snapshot::StorageAccess;
use serde_json::{Value, json};

use super::auth::User;
use super::{not_supported, store_failed};
use crate::core::Core;
use crate::keys::PERMISSIONS;
use crate::sandbox::payload::ORGANIZATION_NAME;
use crate::store::keys::Key;
use crate::{time, token};

/// The id of the only user.
const USER: &str = "local";
/// What a quota says that does not exist.
const UNLIMITED: u32 = 1_000_000;

pub(super) fn routes() -> Router<Arc<Core>> {
    Router::new()
        .route("/api-keys", get(list_keys).post(create_key))
        .route("/api-keys/current", get(current_key))
        .route("/api-keys/{name}", get(one_key).delete(delete_key))
        .route("/api-keys/{user}/{name}", delete(delete_users_key))
        .route("/regions", get(regions))
        .route("/shared-regions", get(regions))
        .route("/regions/{id}", get(one_region))
        .route("/organizations", get(organizations).post(one_only).delete(one_only))
        .route("/organizations/invitations", get(one_only))
        .route("/organizations/{id}", get(one_organization).delete(one_only))
        .route("/organizations/{id}/usage", get(usage))
        .route("/users/me", get(me))
        .route("/object-storage/push-access", get(push_access))
        .route("/secret", get(no_secrets).post(no_secrets))
        .route("/secret/paginated", get(no_secrets))
        .route("/secret/{id}", get(no_secrets).patch(no_secrets).delete(no_secrets))
}

fn key_dto(core: &Core, key: &Key, value: &str) -> ApiKey {
    ApiKey {
        name: key.name.clone(),
        value: value.to_owned(),
        created_at: time::iso(key.created_at),
        permissions: key.permissions.clone(),
        last_used_at: key.last_used_at.map(time::iso),
        expires_at: key.expires_at.map(time::iso),
        user_id: USER.to_owned(),
        organization_id: core.org_id.clone(),
    }
}

async fn list_keys(State(core): State<Arc<Core>>, _user: User) -> Json<Vec<ApiKey>> {
    Json(core.keys.list().iter().map(|key| key_dto(&core, key, &key.masked)).collect())
}

async fn current_key(State(core): State<Arc<Core>>, User(key): User) -> Json<ApiKey> {
    Json(key_dto(&core, &key, &key.masked))
}

fn find_key(core: &Core, name: &str) -> ApiResult<Key> {
    let key = core.keys.list().into_iter().find(|key| key.name == name);
    key.ok_or_else(|| ApiError::not_found(format_args!("no API key {name:?}")))
}

async fn one_key(
    State(core): State<Arc<Core>>,
    _user: User,
    Path(name): Path<String>,
) -> ApiResult<Json<ApiKey>> {
    let key = find_key(&core, &name)?;
    Ok(Json(key_dto(&core, &key, &key.masked)))
}

async fn create_key(
    State(core): State<Arc<Core>>,
    user: User,
    JsonBody(body): JsonBody<CreateApiKey>,
) -> ApiResult<(StatusCode, Json<ApiKey>)> {
    if body.name.trim().is_empty() || body.name.len() > 255 {
        return Err(ApiError::bad_request("an API key needs a name of at most 255 bytes"));
    }
    if core.keys.list().iter().any(|key| key.name == body.name) {
        return Err(ApiError::conflict(format_args!("an API key named {:?} exists already", body.name)));
    }
    if let Some(unknown) = body.permissions.iter().find(|p| !PERMISSIONS.contains(&p.as_str())) {
        return Err(ApiError::bad_request(format_args!("{unknown:?} is not a permission")));
    }
    // A key cannot make one that may do more than itself.
    body.permissions.iter().try_for_each(|permission| user.may(permission))?;
    let invalid = || ApiError::bad_request("expiresAt is not a time");
    let expires = body.expires_at.map(|text| time::parse(&text).ok_or_else(invalid)).transpose()?;
    let secret = token::api_key();
    let key = core.keys.put(&body.name, &secret, body.permissions, expires).await.map_err(store_failed)?;
    Ok((StatusCode::CREATED, Json(key_dto(&core, &key, &secret))))
}

async fn delete_key(
    State(core): State<Arc<Core>>,
    user: User,
    Path(name): Path<String>,
) -> ApiResult<StatusCode> {
    let key = find_key(&core, &name)?;
    key.permissions.iter().try_for_each(|permission| user.may(permission))?;
    core.keys.remove(&name).await.map_err(store_failed)?;
    Ok(StatusCode::NO_CONTENT)
}

async fn delete_users_key(
    State(core): State<Arc<Core>>,
    user: User,
    Path((owner, name)): Path<(String, String)>,
) -> ApiResult<StatusCode> {
    if owner != USER {
        return Err(ApiError::not_found(format_args!("no user {owner:?}")));
    }
    delete_key(State(core), user, Path(name)).await
}

fn region(core: &Core) -> Region {
    Region {
        id: core.config.region.clone(),
        name: core.config.region.clone(),
        organization_id: None,
        region_type: "shared".to_owned(),
        created_at: time::iso(core.started_at),
        updated_at: time::iso(core.started_at),
        proxy_url: None,
        ssh_gateway_url: None,
        snapshot_manager_url: None,
    }
}

async fn regions(State(core): State<Arc<Core>>, _user: User) -> Json<Vec<Region>> {
    Json(vec![region(&core)])
}

async fn one_region(
    State(core): State<Arc<Core>>,
    _user: User,
    Path(id): Path<String>,
) -> ApiResult<Json<Region>> {
    if id != core.config.region {
        return Err(ApiError::not_found(format_args!("no region {id:?}")));
    }
    Ok(Json(region(&core)))
}

fn organization(core: &Core) -> Value {
    let at = time::iso(core.started_at);
    json!({
        "id": core.org_id, "name": ORGANIZATION_NAME, "createdBy": USER, "personal": true, "createdAt": at, "updatedAt": at,
        "suspended": false, "suspendedAt": null, "suspensionReason": null, "suspendedUntil": null,
        "suspensionCleanupGracePeriodHours": 0, "maxCpuPerSandbox": UNLIMITED, "maxMemoryPerSandbox": UNLIMITED,
        "maxDiskPerSandbox": UNLIMITED, "secretQuota": 0, "maxSecretsPerSandbox": 0, "snapshotDeactivationTimeoutMinutes": core.config.snapshot_idle_days * 1440,
        "sandboxLimitedNetworkEgress": false, "previewWarningEnabled": core.config.preview_warning, "ssoEnabled": false, "scimEnabled": false,
        "defaultRegionId": core.config.region, "defaultQueueTimeout": null, "authenticatedRateLimit": null,
        "sandboxCreateRateLimit": null, "sandboxLifecycleRateLimit": null, "authenticatedRateLimitTtlSeconds": null,
        "sandboxCreateRateLimitTtlSeconds": null, "sandboxLifecycleRateLimitTtlSeconds": null, "experimentalConfig": {},
        "otelConfig": null,
    })
}

async fn organizations(State(core): State<Arc<Core>>, _user: User) -> Json<Value> {
    Json(json!([organization(&core)]))
}

fn check_organization(core: &Core, id: &str) -> ApiResult<()> {
    if id == core.org_id { Ok(()) } else { Err(ApiError::not_found(format_args!("no organization {id}"))) }
}

async fn one_organization(
    State(core): State<Arc<Core>>,
    _user: User,
    Path(id): Path<String>,
) -> ApiResult<Json<Value>> {
    check_organization(&core, &id)?;
    Ok(Json(organization(&core)))
}

async fn one_only(_user: User) -> ApiError {
    not_supported("more than one organization")
}

async fn usage(State(core): State<Arc<Core>>, _user: User, Path(id): Path<String>) -> ApiResult<Json<Value>> {
    check_organization(&core, &id)?;
    let mut used = [0u64; 4];
    for handle in core.directory.all() {
        let r = handle.record();
        if !matches!(r.state, SandboxState::Stopped | SandboxState::Archived | SandboxState::Error) {
            used[0] += u64::from(r.cpu);
            used[1] += u64::from(r.memory);
            used[2] += u64::from(r.gpu);
        }
        if r.state != SandboxState::Archived {
            used[3] += u64::from(r.disk);
        }
    }
    let snapshots = core.snapshots.list().iter().filter(|s| !s.general).count();
    Ok(Json(json!({
        "regionUsage": [{
            "regionId": core.config.region, "sandboxClass": "container",
            "totalCpuQuota": UNLIMITED, "currentCpuUsage": used[0], "totalMemoryQuota": UNLIMITED, "currentMemoryUsage": used[1],
            "totalGpuQuota": UNLIMITED, "currentGpuUsage": used[2], "totalDiskQuota": UNLIMITED, "currentDiskUsage": used[3],
            "maxCpuPerSandbox": null, "maxMemoryPerSandbox": null, "maxDiskPerSandbox": null, "maxDiskPerNonEphemeralSandbox": null,
            "maxCpuPerGpu": null, "maxMemoryPerGpu": null, "maxDiskPerGpu": null,
            "maxCpuPerGpuSandbox": null, "maxMemoryPerGpuSandbox": null, "maxDiskPerGpuSandbox": null,
        }],
        "totalSnapshotQuota": UNLIMITED, "currentSnapshotUsage": snapshots,
        "totalVolumeQuota": UNLIMITED, "currentVolumeUsage": core.volumes.list().len(),
    })))
}

async fn me(State(core): State<Arc<Core>>, _user: User) -> Json<Value> {
    let at = time::iso(core.started_at);
    Json(
        json!({ "id": USER, "name": USER, "email": "", "emailVerified": false, "publicKeys": [], "createdAt": at }),
    )
}

async fn push_access(
    State(core): State<Arc<Core>>,
    user: User,
    headers: HeaderMap,
) -> ApiResult<Json<StorageAccess>> {
    user.may("write:snapshots")?;
    if let Some(s3) = &core.s3 {
        let failed = |error| ApiError::unavailable(error).code("OBJECT_STORE_UNAVAILABLE");
        return s3.access(&core.org_id).await.map(Json).map_err(failed);
    }
    let url = core.storage_url(&headers);
    Ok(Json(core.storage.grant(url, &core.org_id)))
}

async fn no_secrets(_user: User) -> ApiError {
    not_supported("storing secrets")
}
