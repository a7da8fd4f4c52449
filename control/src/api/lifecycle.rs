//! Start, stop, delete, archive, recover, resize, snapshot (control-plane contract 7).
//!
//! What contradicts an operation under way is not refused: it is remembered and done next. Delete wins over everything.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, State};
use axum::routing::{delete, get, post};
use axum::{Json, Router};
use http::{HeaderMap, StatusCode};
use pinfold_http::{ApiError, ApiResult, JsonBody, OptionalJsonBody, Query};
use pinfold_proto::control::sandbox::{DesiredState, Sandbox, SandboxState};
use pinfold_proto::runner::job::JobKind;
use serde::Deserialize;

use super::auth::User;
use super::create::started;
use super::{dto, not_for_containers, not_supported};
use crate::core::Core;
use crate::sandbox::{Handle, START_LIMIT, settle, start_ended};
use crate::store::sandboxes::{Record, Resize};

/// How long resize and recover keep their callers waiting.
const OPERATION_WAIT: Duration = Duration::from_secs(30);

pub(super) fn routes() -> Router<Arc<Core>> {
    Router::new()
        .route("/sandbox/{id}", delete(destroy))
        .route("/sandbox/{id}/start", post(start))
        .route("/sandbox/{id}/stop", post(stop))
        .route("/sandbox/{id}/archive", post(archive))
        .route("/sandbox/{id}/recover", post(recover))
        .route("/sandbox/{id}/resize", post(resize))
        .route("/sandbox/{id}/snapshot", post(snapshot))
        .route(
            "/sandbox/{id}/backup",
            post(|_: User| async { not_supported("backing up without archiving") }),
        )
        .route("/sandbox/{id}/fork", post(|_: User| async { not_for_containers("forking") }))
        .route("/sandbox/{id}/pause", post(|_: User| async { not_for_containers("pausing") }))
        .route("/sandbox/{id}/forks", get(no_relatives))
        .route("/sandbox/{id}/ancestors", get(no_relatives))
        .route("/sandbox/{id}/parent", get(no_parent))
}

type Answer = ApiResult<Json<Sandbox>>;

fn conflict(r: &Record, what: &str) -> ApiError {
    let state = crate::sandbox::plan::wire_state(r.state, r.desired);
    ApiError::conflict(format_args!("cannot {what} a sandbox that is {state}"))
}

fn refused(r: &Record, what: &str) -> ApiError {
    let state = crate::sandbox::plan::wire_state(r.state, r.desired);
    ApiError::bad_request(format_args!("cannot {what} a sandbox that is {state}"))
}

async fn start(
    State(core): State<Arc<Core>>,
    user: User,
    headers: HeaderMap,
    Path(id): Path<String>,
) -> Answer {
    user.may("write:sandboxes")?;
    let handle = core.directory.get(&id)?;
    let record = handle
        .change(|r| {
            if r.desired == DesiredState::Destroyed {
                return Err(conflict(r, "start"));
            }
            if matches!(r.state, SandboxState::Error | SandboxState::BuildFailed) {
                let hint = if r.recoverable { "; recover it first" } else { "" };
                return Err(ApiError::bad_request(format_args!(
                    "cannot start a sandbox that has failed{hint}"
                )));
            }
            if r.state == SandboxState::Archived {
                r.error_reason = None;
            }
            r.desired = DesiredState::Started;
            Ok(())
        })
        .await?;
    if matches!(record.state, SandboxState::Restoring | SandboxState::Archiving) {
        return Ok(Json(dto(&core, &handle, &record, &headers)));
    }
    let view = settle(handle.watch(), START_LIMIT, start_ended).await;
    if view.record.state == SandboxState::Started {
        return Ok(Json(dto(&core, &handle, &view.record, &headers)));
    }
    started(&core, &handle, &headers).await.map(Json)
}

async fn stop(
    State(core): State<Arc<Core>>,
    user: User,
    headers: HeaderMap,
    Path(id): Path<String>,
    query: Query,
) -> Answer {
    user.may("write:sandboxes")?;
    let force = query.flag("force");
    let handle = core.directory.get(&id)?;
    let record = handle
        .change(move |r| {
            if r.desired == DesiredState::Destroyed {
                return Err(conflict(r, "stop"));
            }
            if matches!(r.state, SandboxState::Error | SandboxState::BuildFailed | SandboxState::Archived) {
                return Err(refused(r, "stop"));
            }
            if r.ephemeral() {
                r.desired = DesiredState::Destroyed;
                return Ok(());
            }
            if r.state == SandboxState::Stopped && r.desired == DesiredState::Stopped {
                return Ok(());
            }
            r.desired = DesiredState::Stopped;
            if force && !r.task.force {
                r.task.force = true;
                // A kill is never stuck behind a gentle stop.
                r.job = r.job.take().filter(|job| job.kind != JobKind::StopSandbox);
            }
            Ok(())
        })
        .await?;
    Ok(Json(dto(&core, &handle, &record, &headers)))
}

async fn destroy(
    State(core): State<Arc<Core>>,
    user: User,
    headers: HeaderMap,
    Path(id): Path<String>,
) -> Answer {
    user.may("delete:sandboxes")?;
    let handle = core.directory.get(&id)?;
    let record = handle
        .change(|r| {
            r.desired = DesiredState::Destroyed;
            Ok(())
        })
        .await?;
    Ok(Json(dto(&core, &handle, &record, &headers)))
}

async fn archive(
    State(core): State<Arc<Core>>,
    user: User,
    headers: HeaderMap,
    Path(id): Path<String>,
) -> Answer {
    user.may("write:sandboxes")?;
    let handle = core.directory.get(&id)?;
    let record = handle
        .change(|r| {
            if r.desired == DesiredState::Archived {
                return Ok(());
            }
            if r.ephemeral() {
                return Err(ApiError::bad_request(
                    "cannot archive an ephemeral sandbox: archive is not supported for it",
                ));
            }
            if r.state != SandboxState::Stopped || r.desired != DesiredState::Stopped {
                return Err(ApiError::bad_request("cannot archive a sandbox that is not stopped"));
            }
            r.desired = DesiredState::Archived;
            Ok(())
        })
        .await?;
    Ok(Json(dto(&core, &handle, &record, &headers)))
}

async fn recover(
    State(core): State<Arc<Core>>,
    user: User,
    headers: HeaderMap,
    Path(id): Path<String>,
    query: Query,
) -> Answer {
    user.may("write:sandboxes")?;
    let skip_start = query.flag("skipStart");
    let handle = core.directory.get(&id)?;
    let recovered = handle.outcome_of(JobKind::RecoverSandbox)?;
    handle
        .change(move |r| {
            if r.state != SandboxState::Error || r.desired == DesiredState::Destroyed {
                return Err(refused(r, "recover"));
            }
            if !r.recoverable {
                return Err(ApiError::bad_request(
                    "this failure is not one that a sandbox can be recovered from",
                ));
            }
            r.task.recover.get_or_insert(skip_start);
            Ok(())
        })
        .await?;
    failed_in(recovered, "recover").await?;
    if skip_start {
        return Ok(Json(super::sandbox_now(&core, &handle, &headers)));
    }
    started(&core, &handle, &headers).await.map(Json)
}

/// Waits for an operation's end; its failure is the caller's to see.
async fn failed_in(end: tokio::sync::oneshot::Receiver<Result<(), String>>, what: &str) -> ApiResult<()> {
    match tokio::time::timeout(OPERATION_WAIT, end).await {
        Ok(Ok(Err(why))) => Err(ApiError::bad_request(format_args!("could not {what} the sandbox: {why}"))),
        _ => Ok(()),
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ResizeBody {
    cpu: Option<i64>,
    memory: Option<i64>,
    disk: Option<i64>,
}

async fn resize(
    State(core): State<Arc<Core>>,
    user: User,
    headers: HeaderMap,
    Path(id): Path<String>,
    OptionalJsonBody(body): OptionalJsonBody<ResizeBody>,
) -> Answer {
    user.may("write:sandboxes")?;
    let size = |what: &str, value: Option<i64>| match value {
        None => Ok(None),
        Some(value) => match u32::try_from(value) {
            Ok(value) if (1..=65_536).contains(&value) => Ok(Some(value)),
            _ => Err(ApiError::bad_request(format_args!("{what} must be a whole number ≥ 1"))),
        },
    };
    let to = Resize {
        cpu: size("cpu", body.cpu)?,
        memory: size("memory", body.memory)?,
        disk: size("disk", body.disk)?,
    };
    let handle = core.directory.get(&id)?;
    let resized = handle.outcome_of(JobKind::ResizeSandbox)?;
    handle.change(move |r| ask_resize(r, to)).await?;
    failed_in(resized, "resize").await?;
    Ok(Json(super::sandbox_now(&core, &handle, &headers)))
}

fn ask_resize(r: &mut Record, to: Resize) -> ApiResult<()> {
    let running = match (r.state, r.desired) {
        (SandboxState::Started, DesiredState::Started) => true,
        (SandboxState::Stopped, DesiredState::Stopped) => false,
        _ => return Err(refused(r, "resize")),
    };
    if r.job.is_some() || r.task.resize.is_some() {
        return Err(ApiError::bad_request("cannot resize a sandbox while another change is under way"));
    }
    let changed = |new: Option<u32>, old: u32| new.filter(|new| *new != old);
    let to = Resize {
        cpu: changed(to.cpu, r.cpu),
        memory: changed(to.memory, r.memory),
        disk: changed(to.disk, r.disk),
    };
    if to == (Resize { cpu: None, memory: None, disk: None }) {
        return Err(ApiError::bad_request("give a new value for at least one of cpu, memory and disk"));
    }
    if to.disk.is_some_and(|disk| disk < r.disk) {
        return Err(ApiError::bad_request("a disk can only grow"));
    }
    if running
        && (to.disk.is_some() || to.cpu.is_some_and(|n| n < r.cpu) || to.memory.is_some_and(|n| n < r.memory))
    {
        return Err(ApiError::bad_request(
            "a started sandbox can only get more cpu and memory; stop it for other changes",
        ));
    }
    r.task.resize = Some(to);
    Ok(())
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct SnapshotBody {
    name: String,
    #[serde(default)]
    include_memory: Option<bool>,
}

async fn snapshot(
    State(core): State<Arc<Core>>,
    user: User,
    headers: HeaderMap,
    Path(id): Path<String>,
    JsonBody(body): JsonBody<SnapshotBody>,
) -> Answer {
    user.may("write:snapshots")?;
    if body.include_memory == Some(true) {
        return Err(not_for_containers("a snapshot with memory"));
    }
    super::snapshots::check_name(&body.name)?;
    if core.snapshots.find(&body.name).is_some() {
        return Err(ApiError::conflict(format_args!("a snapshot named {:?} exists already", body.name)));
    }
    let handle = core.directory.get(&id)?;
    let record = handle
        .change(move |r| {
            let resting = matches!(
                (r.state, r.desired),
                (SandboxState::Started, DesiredState::Started)
                    | (SandboxState::Stopped, DesiredState::Stopped)
            );
            if !resting {
                return Err(refused(r, "make a snapshot of"));
            }
            if r.job.is_some() || r.task.snapshot.is_some() {
                return Err(ApiError::conflict(
                    "cannot make a snapshot of a sandbox while another change is under way",
                ));
            }
            r.task.snapshot = Some(body.name);
            Ok(())
        })
        .await?;
    Ok(Json(dto(&core, &handle, &record, &headers)))
}

async fn no_relatives(
    State(core): State<Arc<Core>>,
    _user: User,
    Path(id): Path<String>,
) -> ApiResult<Json<Vec<Sandbox>>> {
    let _exists: Handle = core.directory.get(&id)?;
    Ok(Json(Vec::new()))
}

async fn no_parent(
    State(core): State<Arc<Core>>,
    _user: User,
    Path(id): Path<String>,
) -> ApiResult<StatusCode> {
    let _exists: Handle = core.directory.get(&id)?;
    Err(ApiError::not_found(format_args!("the sandbox {id} is not a fork")))
}
