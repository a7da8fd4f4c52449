//! Start, stop, delete, archive, back up, recover, resize, snapshot (control-plane contract 7).
//!
//! What contradicts an operation under way is not refused: it is remembered and done next. Delete wins over everything.

use std::sync::Arc;
use std::time::Duration;

use axum::routing::{delete, get, post};
use axum::{Json, Router};
use http::StatusCode;
use pinfold_http::{ApiError, ApiResult, JsonBody, OptionalJsonBody, Query};
use pinfold_proto::control::sandbox::{BackupState, DesiredState, Sandbox, SandboxState};
use pinfold_proto::runner::job::JobKind;
use serde::Deserialize;

use super::auth::User;
use super::call::{Answer, Call};
use super::create::started;
use super::not_for_containers;
use crate::core::Core;
use crate::sandbox::{START_LIMIT, settle, start_ended};
use crate::store::sandboxes::{Record, Resize};

/// How long resize and recover keep their callers waiting.
const OPERATION_WAIT: Duration = Duration::from_secs(30);

const WRITE: &str = "write:sandboxes";

pub(super) fn routes() -> Router<Arc<Core>> {
    Router::new()
        .route("/sandbox/{id}", delete(destroy))
        .route("/sandbox/{id}/start", post(start))
        .route("/sandbox/{id}/stop", post(stop))
        .route("/sandbox/{id}/archive", post(archive))
        .route("/sandbox/{id}/backup", post(backup))
        .route("/sandbox/{id}/recover", post(recover))
        .route("/sandbox/{id}/resize", post(resize))
        .route("/sandbox/{id}/snapshot", post(snapshot))
        .route("/sandbox/{id}/fork", post(|_: User| async { not_for_containers("forking") }))
        .route("/sandbox/{id}/pause", post(|_: User| async { not_for_containers("pausing") }))
        .route("/sandbox/{id}/forks", get(no_relatives))
        .route("/sandbox/{id}/ancestors", get(no_relatives))
        .route("/sandbox/{id}/parent", get(no_parent))
}

fn refused(r: &Record, what: &str) -> ApiError {
    let state = crate::sandbox::plan::wire_state(r.state, r.desired);
    let message = format_args!("cannot {what} a sandbox that is {state}");
    if r.desired == DesiredState::Destroyed {
        return ApiError::conflict(message);
    }
    ApiError::bad_request(message)
}

/// Whether nothing is asked of it or under way that changes its state.
fn rests(r: &Record) -> bool {
    matches!(
        (r.state, r.desired),
        (SandboxState::Started, DesiredState::Started) | (SandboxState::Stopped, DesiredState::Stopped)
    )
}

/// A restore that has failed may be tried again: the archive still has the sandbox.
fn back_to_archive(r: &mut Record) {
    if r.in_archive() {
        r.state = SandboxState::Archived;
        r.clear_error();
    }
}

async fn start(call: Call) -> Answer {
    let changed = call.change(WRITE, |r| {
        if r.desired == DesiredState::Destroyed {
            return Err(refused(r, "start"));
        }
        back_to_archive(r);
        if matches!(r.state, SandboxState::Error | SandboxState::BuildFailed) {
            let hint = if r.recoverable { "; recover it first" } else { "" };
            return Err(ApiError::bad_request(format_args!("cannot start a sandbox that has failed{hint}")));
        }
        if r.state == SandboxState::Archived {
            r.clear_error();
        }
        // Whoever starts it needs it where it is.
        r.task.moving &= r.state == SandboxState::Restoring;
        r.desired = DesiredState::Started;
        // With the stop that it came with.
        r.task.force = None;
        Ok(())
    });
    let record = changed.await?;
    if matches!(record.state, SandboxState::Restoring | SandboxState::Archiving) {
        return Ok(call.answer(&record));
    }
    let view = settle(call.handle.watch(), START_LIMIT, start_ended).await;
    if view.record.state == SandboxState::Started {
        return Ok(call.answer(&view.record));
    }
    started(&call.core, &call.handle, &call.headers).await.map(Json)
}

async fn stop(call: Call, query: Query) -> Answer {
    let force = query.get("force").filter(|text| !text.is_empty()).map(|text| text == "true");
    let change = move |r: &mut Record| {
        let over =
            matches!(r.state, SandboxState::Error | SandboxState::BuildFailed | SandboxState::Archived);
        if over || r.desired == DesiredState::Destroyed {
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
        let kill = force == Some(true) && r.task.force != Some(true);
        r.task.force = force.max(r.task.force);
        if kill {
            // A kill is never stuck behind a gentle stop.
            r.job = r.job.take().filter(|job| job.kind != JobKind::StopSandbox);
        }
        Ok(())
    };
    call.apply(WRITE, change).await
}

async fn destroy(call: Call) -> Answer {
    let change = |r: &mut Record| {
        r.desired = DesiredState::Destroyed;
        Ok(())
    };
    call.apply("delete:sandboxes", change).await
}

async fn archive(call: Call) -> Answer {
    let change = |r: &mut Record| {
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
    };
    call.apply(WRITE, change).await
}

async fn backup(call: Call) -> ApiResult<(StatusCode, Json<Sandbox>)> {
    let change = |r: &mut Record| {
        if !rests(r) {
            return Err(refused(r, "back up"));
        }
        match r.backup.state {
            BackupState::Pending | BackupState::InProgress => {
                Err(ApiError::conflict("a backup of this sandbox is being made already"))
            }
            // Nothing has changed since.
            BackupState::Completed if r.state == SandboxState::Stopped => Ok(()),
            _ => {
                r.backup.state = BackupState::Pending;
                Ok(())
            }
        }
    };
    Ok((StatusCode::CREATED, call.apply(WRITE, change).await?))
}

async fn recover(call: Call, query: Query) -> Answer {
    let skip_start = query.flag("skipStart");
    let recovered = call.handle.outcome_of(JobKind::RecoverSandbox)?;
    let changed = call.change(WRITE, move |r| {
        if r.state != SandboxState::Error || r.desired == DesiredState::Destroyed {
            return Err(refused(r, "recover"));
        }
        if !r.recoverable {
            return Err(ApiError::bad_request(
                "this failure is not one that a sandbox can be recovered from",
            ));
        }
        back_to_archive(r);
        if r.state == SandboxState::Archived {
            r.desired = if skip_start { DesiredState::Archived } else { DesiredState::Started };
            return Ok(());
        }
        r.task.recover.get_or_insert(skip_start);
        Ok(())
    });
    let record = changed.await?;
    if record.state != SandboxState::Error {
        return Ok(call.answer(&record));
    }
    failed_in(recovered, "recover").await?;
    if skip_start {
        return Ok(call.answer_now());
    }
    started(&call.core, &call.handle, &call.headers).await.map(Json)
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

async fn resize(call: Call, OptionalJsonBody(body): OptionalJsonBody<ResizeBody>) -> Answer {
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
    let resized = call.handle.outcome_of(JobKind::ResizeSandbox)?;
    call.change(WRITE, move |r| ask_resize(r, to)).await?;
    failed_in(resized, "resize").await?;
    Ok(call.answer_now())
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

async fn snapshot(call: Call, JsonBody(body): JsonBody<SnapshotBody>) -> Answer {
    if body.include_memory == Some(true) {
        return Err(not_for_containers("a snapshot with memory"));
    }
    super::snapshots::check_name(&body.name)?;
    if call.core.snapshots.find(&body.name).is_some() {
        return Err(ApiError::conflict(format_args!("a snapshot named {:?} exists already", body.name)));
    }
    let change = move |r: &mut Record| {
        if !rests(r) {
            return Err(refused(r, "make a snapshot of"));
        }
        if r.job.is_some() || r.task.snapshot.is_some() {
            return Err(ApiError::conflict(
                "cannot make a snapshot of a sandbox while another change is under way",
            ));
        }
        r.task.snapshot = Some(body.name);
        Ok(())
    };
    call.apply("write:snapshots", change).await
}

async fn no_relatives(_call: Call) -> Json<Vec<Sandbox>> {
    Json(Vec::new())
}

async fn no_parent(call: Call) -> ApiError {
    ApiError::not_found(format_args!("the sandbox {} is not a fork", call.handle.record().id))
}
