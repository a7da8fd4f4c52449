//! Runners: their healthchecks, their own record, and their administration (control-plane contract 5.5, 19.1).

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::routing::{get, patch, post};
use axum::{Json, Router};
use http::StatusCode;
use pinfold_http::{ApiError, ApiResult, JsonBody, OptionalJsonBody, Query};
use pinfold_proto::control::account::CreateRunner;
use pinfold_proto::control::sandbox::{BackupState, DesiredState, SandboxState};
use pinfold_proto::runner::health::Healthcheck;
use serde_json::{Map, Value, json};

use super::auth::{Runner, User};
use super::store_failed;
use crate::core::Core;
use crate::registries::Registries;
use crate::store::sandboxes::{Record, Task};
use crate::token;

pub(super) fn routes() -> Router<Arc<Core>> {
    Router::new()
        .route("/runners/healthcheck", post(healthcheck))
        .route("/runners/me", get(me))
        .route("/runners/me/snapshots", get(my_snapshots))
        .route("/runners", get(list).post(create))
        .route("/runners/{id}", get(one).delete(remove))
        .route("/runners/{id}/full", get(full))
        .route("/runners/{id}/scheduling", patch(scheduling))
        .route("/runners/{id}/draining", patch(draining))
        .route("/runners/by-sandbox/{id}", get(by_sandbox))
        .route("/runners/by-snapshot-ref", get(by_snapshot_ref))
}

async fn healthcheck(
    State(core): State<Arc<Core>>,
    Runner(runner): Runner,
    JsonBody(health): JsonBody<Healthcheck>,
) -> ApiResult<StatusCode> {
    core.runners.healthcheck(&runner, health).await.map_err(store_failed)?;
    Ok(StatusCode::CREATED)
}

fn missing(id: &str) -> ApiError {
    ApiError::not_found(format_args!("no runner {id}"))
}

async fn me(State(core): State<Arc<Core>>, Runner(id): Runner) -> ApiResult<Json<Value>> {
    let runner = core.runners.get(&id).ok_or_else(|| missing(&id))?;
    Ok(Json(core.runners.dto(&runner, true)))
}

async fn my_snapshots(State(core): State<Arc<Core>>, Runner(id): Runner) -> Json<Vec<String>> {
    Json(core.images.references(&id))
}

async fn list(State(core): State<Arc<Core>>, user: User) -> ApiResult<Json<Vec<Value>>> {
    user.may("read:runners")?;
    Ok(Json(core.runners.list().iter().map(|runner| core.runners.dto(runner, false)).collect()))
}

async fn create(
    State(core): State<Arc<Core>>,
    user: User,
    JsonBody(body): JsonBody<CreateRunner>,
) -> ApiResult<(StatusCode, Json<Value>)> {
    user.may("write:runners")?;
    let name = body.name.unwrap_or_default();
    let valid = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
    if !(2..=255).contains(&name.len()) || !name.chars().all(valid) {
        return Err(ApiError::bad_request(
            "a runner's name has 2 to 255 letters, digits, dots, dashes and underscores",
        ));
    }
    if body.region_id.as_ref().is_some_and(|region| !region.is_empty() && *region != core.config.region) {
        return Err(ApiError::not_found(format_args!("no region {:?}", body.region_id.unwrap_or_default())));
    }
    if core.runners.list().iter().any(|runner| runner.name == name) {
        return Err(ApiError::conflict(format_args!("a runner named {name:?} exists already")));
    }
    let key = token::api_key();
    let runner =
        core.runners.register(&name, &core.config.region, body.tags, &key).await.map_err(store_failed)?;
    Ok((StatusCode::CREATED, Json(json!({ "id": runner.id, "apiKey": key }))))
}

async fn one(State(core): State<Arc<Core>>, user: User, Path(id): Path<String>) -> ApiResult<Json<Value>> {
    user.may("read:runners")?;
    let runner = core.runners.get(&id).ok_or_else(|| missing(&id))?;
    Ok(Json(core.runners.dto(&runner, false)))
}

async fn full(State(core): State<Arc<Core>>, user: User, Path(id): Path<String>) -> ApiResult<Json<Value>> {
    user.may("write:runners")?;
    let runner = core.runners.get(&id).ok_or_else(|| missing(&id))?;
    Ok(Json(core.runners.dto(&runner, true)))
}

async fn remove(
    State(core): State<Arc<Core>>,
    user: User,
    Path(id): Path<String>,
    query: Query,
) -> ApiResult<StatusCode> {
    user.may("delete:runners")?;
    let runner = core.runners.get(&id).ok_or_else(|| missing(&id))?;
    let holds = |handle: &crate::sandbox::Handle| handle.record().runner_id.as_deref() == Some(id.as_str());
    let held = core.directory.all().iter().filter(|handle| holds(handle)).count();
    if held > 0 && query.flag("force") {
        // First, so that nothing new is placed there meanwhile.
        core.runners.change(&id, |runner| runner.draining = true).await.map_err(store_failed)?;
        for handle in core.directory.all().iter().filter(|handle| holds(handle)) {
            let (registries, name, id) = (core.registries.clone(), runner.name.clone(), id.clone());
            let given_up = handle.change(move |r| {
                forsake(r, &id, &name, &registries);
                Ok(())
            });
            given_up.await?;
        }
    } else if held > 0 {
        return Err(ApiError::conflict(format_args!(
            "the runner still has {held} sandbox(es): delete or archive them first, or give force=true to lose them"
        )));
    }
    core.runners.remove(&id).await.map_err(store_failed)?;
    Ok(StatusCode::NO_CONTENT)
}

/// What becomes of a sandbox whose runner is gone for good: what was backed up to a registry can be restored, anything else is lost.
fn forsake(r: &mut Record, id: &str, name: &str, registries: &Registries) {
    if r.runner_id.as_deref() != Some(id) {
        return;
    }
    r.runner_id = None;
    r.job = None;
    r.task = Task::default();
    r.backup.job = None;
    let backup = r.backup_image.as_deref().is_some_and(|image| registries.holds(image));
    if backup && r.backup.state == BackupState::Completed {
        r.state = SandboxState::Archived;
        r.error_reason = Some(format!("its runner {name} was removed; its backup is what is left"));
        if r.desired != DesiredState::Destroyed {
            r.desired = DesiredState::Archived;
        }
    } else {
        r.state = SandboxState::Error;
        r.recoverable = false;
        r.error_reason = Some(format!("its runner {name} was removed, and its files with it"));
    }
}

async fn flag(
    core: &Arc<Core>,
    user: &User,
    id: &str,
    body: &Map<String, Value>,
    name: &str,
) -> ApiResult<Json<Value>> {
    user.may("write:runners")?;
    let value = body.get(name).and_then(Value::as_bool);
    let value = value.ok_or_else(|| ApiError::bad_request(format_args!("the body has no boolean {name}")))?;
    let draining = name == "draining";
    let changed = core
        .runners
        .change(id, |runner| if draining { runner.draining = value } else { runner.unschedulable = value });
    let runner = changed.await.map_err(store_failed)?.ok_or_else(|| missing(id))?;
    if draining {
        if value && body.get("stop").and_then(Value::as_bool) == Some(true) {
            stop_all(core, id).await?;
        }
        core.drain(id);
    }
    Ok(Json(core.runners.dto(&runner, false)))
}

/// Stops what runs on a runner, so that it can leave. Ephemeral sandboxes are left alone: their stop is their end.
async fn stop_all(core: &Core, runner: &str) -> ApiResult<()> {
    for handle in core.directory.all() {
        let r = handle.record();
        if r.runner_id.as_deref() != Some(runner) || r.ephemeral() || r.warm_pool_id.is_some() {
            continue;
        }
        let stopped = handle.change(|r| {
            if r.desired == DesiredState::Started && r.state == SandboxState::Started {
                r.desired = DesiredState::Stopped;
            }
            Ok(())
        });
        match stopped.await {
            Err(error) if error.status() != StatusCode::NOT_FOUND => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

type Flags = OptionalJsonBody<Map<String, Value>>;

async fn scheduling(
    State(core): State<Arc<Core>>,
    user: User,
    Path(id): Path<String>,
    OptionalJsonBody(body): Flags,
) -> ApiResult<Json<Value>> {
    flag(&core, &user, &id, &body, "unschedulable").await
}

async fn draining(
    State(core): State<Arc<Core>>,
    user: User,
    Path(id): Path<String>,
    OptionalJsonBody(body): Flags,
) -> ApiResult<Json<Value>> {
    flag(&core, &user, &id, &body, "draining").await
}

async fn by_sandbox(
    State(core): State<Arc<Core>>,
    user: User,
    Path(id): Path<String>,
) -> ApiResult<Json<Value>> {
    user.may("read:runners")?;
    let none = || ApiError::not_found("the sandbox has no runner now");
    let runner = core.runner_of(&core.directory.get(&id)?.record()).ok_or_else(none)?;
    // The token opens every sandbox of the runner: a proxy or gateway of one's own gets it, a reader does not.
    Ok(Json(core.runners.dto(&runner, user.may("write:runners").is_ok())))
}

async fn by_snapshot_ref(
    State(core): State<Arc<Core>>,
    user: User,
    query: Query,
) -> ApiResult<Json<Vec<Value>>> {
    user.may("read:runners")?;
    let holders = core.images.holders(query.required("ref")?);
    let dto = |id: &String| {
        let domain = core.runners.get(id).and_then(|r| r.health.and_then(|h| h.domain));
        json!({ "runnerSnapshotId": id, "runnerId": id, "runnerDomain": domain })
    };
    Ok(Json(holders.iter().map(dto).collect()))
}
