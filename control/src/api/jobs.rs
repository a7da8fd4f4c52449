//! What runners do: poll for jobs, report how they ended, and report what they see (control-plane contract 19; runner contract 3, 17).

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use axum::{Json, Router};
use futures_util::stream;
use http::{HeaderMap, StatusCode, header};
use pinfold_http::{ApiError, ApiResult, JsonBody, Query};
use pinfold_proto::control::sandbox::{DesiredState, Sandbox, SandboxState};
use pinfold_proto::runner::job::{Job, JobKind, JobPage, JobStatus, PollResponse, StatusUpdate};
use serde::Deserialize;

use super::auth::Runner;
use super::{sandbox_now, store_failed};
use crate::core::Core;
use crate::jobs::Claim;
use crate::registries;
use crate::sandbox::{FinishError, renewed, written};
use crate::store::jobs::{self as table, JobRow};
use crate::store::sandboxes::IN_REGISTRY;
use crate::time::now;

/// Longest poll.
const MAX_POLL: f64 = 60.0;
/// Longest error text that is kept, in bytes.
const MAX_ERROR: usize = 10_000;

pub(super) fn routes() -> Router<Arc<Core>> {
    Router::new()
        .route("/jobs/poll", get(poll))
        .route("/jobs", get(list))
        .route("/jobs/{id}", get(one))
        .route("/jobs/{id}/status", post(status))
        .route("/sandbox/for-runner", get(for_runner))
        .route("/sandbox/{id}/state", put(drift))
}

async fn poll(State(core): State<Arc<Core>>, Runner(runner): Runner, query: Query) -> ApiResult<Response> {
    let seconds = query.get("timeout").and_then(|text| text.parse::<f64>().ok()).filter(|s| s.is_finite());
    let seconds = seconds.filter(|s| *s != 0.0).unwrap_or(30.0).clamp(0.0, MAX_POLL);
    let limit = query
        .get("limit")
        .and_then(|text| text.parse::<u32>().ok())
        .filter(|n| *n > 0)
        .unwrap_or(10)
        .min(100);
    let stopping = core.stop.clone();
    let claim = tokio::select! {
        claim = core.jobs.poll(&runner, limit, Duration::from_secs_f64(seconds)) => claim.map_err(store_failed)?,
        () = stopping.cancelled() => return Err(ApiError::unavailable("the control plane is stopping").retry_after(1)),
    };
    let jobs = claim.jobs.iter().filter_map(|job| serde_json::to_value(job.wire()).ok()).collect();
    let body = serde_json::to_vec(&PollResponse { jobs }).map_err(ApiError::internal)?;
    Ok(([(header::CONTENT_TYPE, "application/json; charset=utf-8")], delivered_by(body, claim))
        .into_response())
}

/// A body that knows whether it was taken: dropped before, the claim goes with it and the jobs go back.
fn delivered_by(body: Vec<u8>, claim: Claim) -> Body {
    let state = (Some(Bytes::from(body)), claim);
    Body::from_stream(stream::unfold(state, |(body, mut claim)| async move {
        match body {
            Some(bytes) => Some((Ok::<_, std::convert::Infallible>(bytes), (None, claim))),
            // Asked for more, the connection has taken what there was.
            None => {
                claim.delivered();
                None
            }
        }
    }))
}

async fn list(
    State(core): State<Arc<Core>>,
    Runner(runner): Runner,
    query: Query,
) -> ApiResult<Json<JobPage>> {
    let status = match query.get("status").filter(|status| !status.is_empty()) {
        None => None,
        Some(word) => Some(
            serde_json::from_value(word.into())
                .map_err(|_| ApiError::bad_request(format_args!("{word:?} is not a job status")))?,
        ),
    };
    let limit = query.parsed::<i64>("limit")?.unwrap_or(100).clamp(1, 200);
    let page = query.parsed::<i64>("page")?.unwrap_or(1).max(1);
    let offset = query.parsed::<i64>("offset")?.unwrap_or_else(|| (page - 1).saturating_mul(limit)).max(0);
    let (rows, total) =
        table::page(core.store.read(), &runner, status, offset, limit).await.map_err(store_failed)?;
    let items = rows.iter().filter_map(|job| serde_json::to_value(job.wire()).ok()).collect();
    let count = |n: i64| u64::try_from(n).unwrap_or(0);
    Ok(Json(JobPage {
        items,
        total: count(total),
        page: count(page),
        total_pages: count(total).div_ceil(count(limit)),
    }))
}

async fn find(core: &Core, runner: &str, id: &str) -> ApiResult<JobRow> {
    let job = table::get(core.store.read(), id).await.map_err(store_failed)?;
    job.filter(|job| job.runner_id == runner).ok_or_else(|| ApiError::not_found(format_args!("no job {id}")))
}

async fn one(
    State(core): State<Arc<Core>>,
    Runner(runner): Runner,
    Path(id): Path<String>,
) -> ApiResult<Json<Job>> {
    Ok(Json(find(&core, &runner, &id).await?.wire()))
}

async fn status(
    State(core): State<Arc<Core>>,
    Runner(runner): Runner,
    Path(id): Path<String>,
    JsonBody(update): JsonBody<StatusUpdate>,
) -> ApiResult<(StatusCode, Json<Job>)> {
    let mut job = find(&core, &runner, &id).await?;
    if job.error_message.as_deref() == Some(table::SUPERSEDED) {
        return late(&core, job, update).await;
    }
    if !job.status.may_become(update.status) {
        let (from, to) = (job.status.as_str(), update.status.as_str());
        return Err(ApiError::conflict(format_args!("the job {id} is {from} and cannot become {to}")));
    }
    let over = |status| matches!(status, JobStatus::Completed | JobStatus::Failed);
    if over(job.status) {
        // Told again: its effect is committed already.
        return Ok((StatusCode::CREATED, Json(job.wire())));
    }
    let told_more = update.result_metadata.is_some() && update.result_metadata != job.result_metadata;
    if job.status != update.status || told_more {
        job.updated_at = now();
    }
    job.status = update.status;
    job.result_metadata = update.result_metadata.or(job.result_metadata);
    job.error_message = update.error_message.map(cut).or(job.error_message);
    if over(job.status) {
        end(&core, job.clone()).await?;
    } else {
        let stored = async {
            let mut tx = core.store.begin().await?;
            table::update(&mut tx, &job).await?;
            tx.commit().await
        };
        stored.await.map_err(store_failed)?;
    }
    Ok((StatusCode::CREATED, Json(job.wire())))
}

/// How a job ended that was given up meanwhile: taken in, and without effect but for what it has made.
async fn late(core: &Core, job: JobRow, update: StatusUpdate) -> ApiResult<(StatusCode, Json<Job>)> {
    if job.kind == JobKind::CreateBackup && update.status == JobStatus::Completed {
        too_late(core, &job).await.map_err(store_failed)?;
    }
    Ok((StatusCode::CREATED, Json(job.wire())))
}

fn cut(mut text: String) -> String {
    if text.len() > MAX_ERROR {
        let mut end = MAX_ERROR;
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
    }
    text
}

/// Commits the end of a job together with its effect.
pub(crate) async fn end(core: &Core, mut job: JobRow) -> ApiResult<()> {
    if job.resource_type == "SANDBOX"
        && let Some(handle) = core.directory.arrived(&job.resource_id).await
    {
        let record = handle.record();
        if job.kind == JobKind::StartSandbox && job.status == JobStatus::Completed && record.late_env {
            // Nobody sees it started without the environment that it was created with.
            if let Err(why) = core.apply_env(&record).await {
                job.status = JobStatus::Failed;
                job.error_message = Some(format!("the sandbox's environment could not be set: {why}"));
            }
        }
        match handle.finished(job.clone()).await {
            Ok(()) => return Ok(()),
            Err(FinishError::Store(error)) => return Err(store_failed(error)),
            Err(FinishError::Gone) => {}
        }
    }
    // An image's job, or one of a sandbox that is gone: then only the job itself is left to store, and what it has left over.
    core.images.finished(&job).await.map_err(store_failed)?;
    if job.kind == JobKind::CreateBackup && job.status == JobStatus::Completed {
        too_late(core, &job).await.map_err(store_failed)?;
    }
    Ok(())
}

/// A backup that was made of a sandbox that is gone is removed.
async fn too_late(core: &Core, job: &JobRow) -> Result<(), sqlx::Error> {
    let Some((place, reference)) = written(job) else { return Ok(()) };
    let mut tx = core.store.begin().await?;
    if place == IN_REGISTRY {
        registries::leave(core, &mut tx, &reference).await?;
    } else {
        let remove = JobRow::pending(&place, JobKind::RemoveSnapshot, "SNAPSHOT", &reference, None);
        table::insert(&mut tx, &remove).await?;
    }
    tx.commit().await?;
    core.leftovers.notify_one();
    core.jobs.wake(&place);
    Ok(())
}

async fn for_runner(
    State(core): State<Arc<Core>>,
    Runner(runner): Runner,
    headers: HeaderMap,
    query: Query,
) -> ApiResult<Json<Vec<Sandbox>>> {
    let states = query.all("states");
    for word in &states {
        match SandboxState::from_word(word) {
            None => return Err(ApiError::bad_request(format_args!("{word:?} is not a sandbox state"))),
            Some(
                SandboxState::Started
                | SandboxState::Stopped
                | SandboxState::Archived
                | SandboxState::Destroyed,
            ) => {}
            Some(state) => {
                return Err(ApiError::bad_request(format_args!("{state} is not a state that lasts")));
            }
        }
    }
    let skip = query.flag("skipReconcilingSandboxes");
    let mut all = core.directory.all();
    all.sort_by_cached_key(|handle| {
        let r = handle.record();
        (r.created_at, r.id.clone())
    });
    let ours = all.into_iter().filter_map(|handle| {
        let r = handle.record();
        let settled = r.job.is_none() && r.desired.as_str() == r.state.as_str();
        let wanted = states.is_empty() || states.contains(&r.state.as_str());
        let shown = r.runner_id.as_deref() == Some(&runner) && wanted && (settled || !skip);
        shown.then(|| sandbox_now(&core, &handle, &headers))
    });
    Ok(Json(ours.collect()))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Drift {
    state: String,
    #[serde(default)]
    error_reason: Option<String>,
    #[serde(default)]
    recoverable: Option<bool>,
}

async fn drift(
    State(core): State<Arc<Core>>,
    Runner(runner): Runner,
    Path(id): Path<String>,
    JsonBody(body): JsonBody<Drift>,
) -> ApiResult<StatusCode> {
    let unknown =
        || ApiError::bad_request(format_args!("{:?} is not a state that a runner can report", body.state));
    let state = SandboxState::from_word(&body.state).ok_or_else(unknown)?;
    let desired = match state {
        SandboxState::Started => Some(DesiredState::Started),
        SandboxState::Stopped => Some(DesiredState::Stopped),
        SandboxState::Destroyed => Some(DesiredState::Destroyed),
        SandboxState::Error => None,
        _ => return Err(unknown()),
    };
    let missing = || ApiError::not_found(format_args!("no sandbox {id} on this runner"));
    let handle = core.directory.find(&id).ok_or_else(missing)?;
    let record = handle.record();
    if record.id != id || record.runner_id.as_deref() != Some(&runner) {
        return Err(missing());
    }
    let (reason, recoverable) = (body.error_reason.filter(|reason| !reason.is_empty()), body.recoverable);
    handle
        .change(move |r| {
            if r.state == state {
                return Ok(());
            }
            if r.job.is_some() || !matches!(r.state, SandboxState::Started | SandboxState::Stopped) {
                return Err(ApiError::bad_request(
                    "the sandbox is in a change, and its job will tell the state",
                ));
            }
            r.state = state;
            if matches!(state, SandboxState::Started | SandboxState::Stopped) {
                renewed(r);
            }
            if r.desired != DesiredState::Destroyed {
                r.desired = desired.unwrap_or(r.desired);
            }
            if let Some(reason) = reason {
                r.recoverable = recoverable.unwrap_or(false);
                r.error_reason = Some(reason);
            }
            Ok(())
        })
        .await?;
    Ok(StatusCode::OK)
}
