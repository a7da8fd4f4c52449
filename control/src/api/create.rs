//! `POST /sandbox` (control-plane contract 6).

use std::sync::Arc;

use axum::extract::State;
use axum::routing::post;
use axum::{Extension, Json, Router};
use http::{HeaderMap, StatusCode};
use pinfold_http::{ApiError, ApiResult, OptionalJsonBody};
use pinfold_proto::control::sandbox::{CreateBuildInfo, CreateSandbox, DesiredState, Sandbox, SandboxState};
use pinfold_proto::control::snapshot::SnapshotState;

use super::auth::User;
use super::settings::{check_network, clamp_archive};
use super::{dto, not_supported, sandbox_now, store_failed};
use crate::core::Core;
use crate::edge::ClientGone;
use crate::images::{self, Recipe};
use crate::runners::Need;
use crate::sandbox::{self, Handle, START_LIMIT, settle, start_ended};
use crate::store::builds::Build;
use crate::store::runners::Runner;
use crate::store::sandboxes::{Backup, Record, Task};
use crate::time::now;
use crate::{pools, token};

/// Longest name.
const MAX_NAME: usize = 255;

pub(super) fn routes() -> Router<Arc<Core>> {
    Router::new().route("/sandbox", post(create))
}

/// Where a new sandbox comes from.
struct Source {
    snapshot: Option<String>,
    image: String,
    entrypoint: Option<Vec<String>>,
    build_ref: Option<String>,
    /// The runners that alone have the image.
    only: Option<Vec<String>>,
    size: [u32; 4],
    gpu_types: Vec<String>,
}

async fn create(
    State(core): State<Arc<Core>>,
    user: User,
    headers: HeaderMap,
    Extension(client): Extension<ClientGone>,
    OptionalJsonBody(body): OptionalJsonBody<CreateSandbox>,
) -> ApiResult<Json<Sandbox>> {
    user.may("write:sandboxes")?;
    check_unsupported(&body)?;
    let source = match (&body.snapshot, &body.build_info) {
        (Some(_), Some(_)) => {
            return Err(ApiError::bad_request("give either a snapshot or buildInfo, not both"));
        }
        (_, Some(build)) => from_build(&core, build, &body).await?,
        (snapshot, None) => from_snapshot(&core, snapshot.as_deref(), &body)?,
    };
    if body.target.as_ref().is_some_and(|target| !target.is_empty() && *target != core.config.region) {
        return Err(ApiError::not_found(format_args!("no region {:?}", body.target.unwrap_or_default())));
    }
    let id = uuid::Uuid::new_v4().to_string();
    let name = body.name.clone().filter(|name| !name.trim().is_empty()).unwrap_or_else(|| id.clone());
    check_name(&name)?;
    let mut record = compose(&core, id, name, &source, body)?;
    let snapshot = source.snapshot.as_deref().and_then(|name| core.snapshots.find(name));
    if let Some(snapshot) = &snapshot
        && let Some(handle) = pools::claim(&core, &record, snapshot).await?
    {
        return Ok(Json(sandbox_now(&core, &handle, &headers)));
    }
    let reservation = core.directory.reserve(&record.name, &record.id)?;
    tokio::select! {
        placed = place(&core, &mut record, &source) => placed?,
        // Nothing is made for nobody; from here on there is a row, which can be found.
        () = client.told() => return Err(ApiError::new(StatusCode::REQUEST_TIMEOUT, "the client is gone")),
    }
    let building = record.state == SandboxState::PendingBuild;
    core.volumes.used(&core, &record.volumes).await.map_err(store_failed)?;
    let pending = building.then(|| record.clone());
    let handle = sandbox::create(&core, record, reservation).await?;
    if handle.record().linked_sandbox_id.is_some() {
        core.follow();
    }
    if let Some(snapshot) = snapshot {
        core.snapshots.used(&core, &snapshot.id).await.map_err(store_failed)?;
    }
    if let Some(pending) = pending {
        // Exactly this state makes clients ask for the build's log.
        return Ok(Json(dto(&core, &handle, &pending, &headers)));
    }
    started(&core, &handle, &headers).await.map(Json)
}

/// The record of a sandbox that waits in a pool.
pub(crate) fn compose_warm(core: &Core, snapshot: &str, body: CreateSandbox) -> ApiResult<Record> {
    let source = from_snapshot(core, Some(snapshot), &body)?;
    let id = uuid::Uuid::new_v4().to_string();
    compose(core, id.clone(), id, &source, body)
}

/// Waits for the end of a start, and answers with what is then.
pub(super) async fn started(core: &Core, handle: &Handle, headers: &HeaderMap) -> ApiResult<Sandbox> {
    let view = settle(handle.watch(), START_LIMIT, start_ended).await;
    if view.gone || view.record.desired == DesiredState::Destroyed {
        return Err(ApiError::conflict("the sandbox was deleted before it had started"));
    }
    match view.record.state {
        SandboxState::Error | SandboxState::BuildFailed | SandboxState::Archived => {
            let reason = view.record.error_reason.clone().unwrap_or_else(|| "no reason was given".to_owned());
            let message = format!("the sandbox {} could not be started: {reason}", view.record.id);
            Err(ApiError::bad_request(message).with("sandboxId", view.record.id.clone()))
        }
        _ => Ok(sandbox_now(core, handle, headers)),
    }
}

fn check_unsupported(body: &CreateSandbox) -> ApiResult<()> {
    if !body.secrets.is_empty() {
        return Err(not_supported("mapping secrets into a sandbox"));
    }
    if body.kvm == Some(true) || body.sandbox_class.as_deref().is_some_and(|class| class != "container") {
        return Err(super::not_for_containers("a virtual machine"));
    }
    if body.outbound_proxy_url.as_deref().is_some_and(|url| !url.is_empty()) {
        return Err(not_supported("an outbound proxy"));
    }
    if body.auto_pause_interval.is_some_and(|minutes| minutes > 0) {
        return Err(super::not_for_containers("pausing"));
    }
    Ok(())
}

fn size(body: &CreateSandbox, defaults: [u32; 4]) -> ApiResult<[u32; 4]> {
    let asked =
        [("cpu", body.cpu, 1), ("gpu", body.gpu, 0), ("memory", body.memory, 1), ("disk", body.disk, 1)];
    let mut size = defaults;
    for (slot, (what, value, least)) in size.iter_mut().zip(asked) {
        if let Some(value) = value {
            let valid = u32::try_from(value).ok().filter(|v| (least..=65_536).contains(v));
            *slot = valid.ok_or_else(|| {
                ApiError::bad_request(format_args!("{what} must be a whole number ≥ {least}"))
            })?;
        }
    }
    Ok(size)
}

fn from_snapshot(core: &Core, name: Option<&str>, body: &CreateSandbox) -> ApiResult<Source> {
    let wanted = name.filter(|name| !name.is_empty()).unwrap_or(&core.config.default_snapshot.name);
    let sized = [body.cpu, body.memory, body.disk, body.gpu].iter().any(|v| v.is_some_and(|v| v != 0));
    if sized && name.is_some_and(|name| !name.is_empty()) {
        return Err(ApiError::bad_request(
            "cpu, memory, disk and gpu come from the snapshot and cannot be given with one",
        ));
    }
    let missing = || ApiError::bad_request(format_args!("no snapshot {wanted:?}"));
    let snapshot = core.snapshots.find(wanted).ok_or_else(missing)?;
    if snapshot.state != SnapshotState::Active {
        let (name, state) = (&snapshot.name, snapshot.state);
        return Err(ApiError::bad_request(format_args!(
            "the snapshot {name:?} is {state}, and has to be active"
        )));
    }
    let mut only = None;
    if let Some(runner) = &snapshot.runner_id {
        let mut holders = core.images.holders(&snapshot.reference);
        if !holders.contains(runner) {
            holders.push(runner.clone());
        }
        only = Some(holders);
    }
    Ok(Source {
        size: size(body, [snapshot.cpu, snapshot.gpu, snapshot.memory, snapshot.disk])?,
        gpu_types: snapshot.gpu_type.into_iter().collect(),
        snapshot: Some(snapshot.name),
        image: snapshot.reference,
        entrypoint: snapshot.entrypoint,
        build_ref: None,
        only,
    })
}

async fn from_build(core: &Core, build: &CreateBuildInfo, body: &CreateSandbox) -> ApiResult<Source> {
    if build.dockerfile_content.trim().is_empty() {
        return Err(ApiError::bad_request("buildInfo.dockerfileContent is empty"));
    }
    let size = size(body, [1, 0, 1, 3])?;
    let recipe = Recipe::of(&build.dockerfile_content, &build.context_hashes);
    let at = now();
    let kept = Build {
        reference: images::build_reference(&build.dockerfile_content, &build.context_hashes),
        dockerfile: build.dockerfile_content.clone(),
        context_hashes: build.context_hashes.clone(),
        created_at: at,
        last_used_at: at,
    };
    core.images.remember(&kept).await.map_err(store_failed)?;
    let idle = || vec!["sleep".to_owned(), "infinity".to_owned()];
    Ok(Source {
        snapshot: None,
        image: recipe.reference().to_owned(),
        entrypoint: Some(images::dockerfile_entrypoint(&build.dockerfile_content).unwrap_or_else(idle)),
        build_ref: Some(kept.reference),
        only: None,
        size,
        gpu_types: gpu_types(&body.gpu_type)?,
    })
}

/// Kinds of GPU that clients know.
const GPU_TYPES: [&str; 8] =
    ["H100", "H200", "B200", "B300", "RTX-PRO-6000", "RTX-4090", "RTX-5090", "MI355X"];

/// The kinds that are asked for, the best first.
pub(super) fn gpu_types(asked: &[String]) -> ApiResult<Vec<String>> {
    match asked.iter().find(|kind| !GPU_TYPES.contains(&kind.as_str())) {
        Some(unknown) => Err(ApiError::bad_request(format_args!("{unknown:?} is not a kind of GPU"))),
        None => Ok(asked.to_vec()),
    }
}

fn check_name(name: &str) -> ApiResult<()> {
    if name.len() > MAX_NAME || name.chars().any(char::is_control) || name.contains('/') {
        return Err(ApiError::bad_request(
            "a sandbox's name has at most 255 bytes, no slash and no control characters",
        ));
    }
    Ok(())
}

fn interval(what: &str, value: Option<i64>, default: i64) -> ApiResult<i64> {
    match value {
        Some(minutes) if minutes < 0 => {
            Err(ApiError::bad_request(format_args!("{what} must be a number of minutes ≥ 0")))
        }
        Some(minutes) => Ok(minutes),
        None => Ok(default),
    }
}

fn compose(core: &Core, id: String, name: String, source: &Source, body: CreateSandbox) -> ApiResult<Record> {
    let auto_delete = body.auto_delete_interval.unwrap_or(-1).max(-1);
    let [cpu, gpu, memory, disk] = source.size;
    if gpu > 0 && auto_delete != 0 {
        return Err(ApiError::bad_request(
            "a sandbox with a GPU has to be ephemeral: set autoDeleteInterval to 0",
        ));
    }
    let allow = |list: Option<String>| list.filter(|list| !list.trim().is_empty());
    let (cidrs, domains) = (allow(body.network_allow_list), allow(body.domain_allow_list));
    check_network(cidrs.as_deref(), domains.as_deref())?;
    let linked = match body.linked_sandbox.as_deref().filter(|linked| !linked.is_empty()) {
        Some(linked) => Some(linked_to(core, linked, auto_delete)?),
        None => None,
    };
    let at = now();
    let ttl = body.ttl_minutes.filter(|minutes| *minutes > 0);
    Ok(Record {
        id,
        name,
        region: core.config.region.clone(),
        runner_id: linked.as_ref().and_then(|parent| parent.runner_id.clone()),
        snapshot: source.snapshot.clone(),
        image: source.image.clone(),
        entrypoint: source.entrypoint.clone(),
        build_ref: source.build_ref.clone(),
        os_user: body.user.filter(|user| !user.is_empty()).unwrap_or_else(|| "daytona".to_owned()),
        env: body.env,
        late_env: false,
        labels: body.labels,
        volumes: core.volumes.resolve(body.volumes)?,
        public: body.public.unwrap_or(false),
        // A list together with block-all: the list wins.
        network_block_all: body.network_block_all.unwrap_or(false) && cidrs.is_none() && domains.is_none(),
        network_allow_list: cidrs,
        domain_allow_list: domains,
        cpu,
        gpu,
        gpu_type: (gpu > 0).then(|| source.gpu_types.first().cloned()).flatten(),
        memory,
        disk,
        state: SandboxState::Creating,
        desired: DesiredState::Started,
        error_reason: None,
        recoverable: false,
        job: None,
        task: Task::default(),
        backup_image: None,
        backup_at: None,
        backup: Backup::default(),
        auto_stop: interval("autoStopInterval", body.auto_stop_interval, 15)?,
        auto_archive: clamp_archive(interval("autoArchiveInterval", body.auto_archive_interval, 10_080)?),
        auto_delete,
        destroy_at: ttl.map(|minutes| at.saturating_add(minutes.saturating_mul(60_000))),
        auth_token: token::dns_label(32),
        signing_key: None,
        linked_sandbox_id: linked.map(|parent| parent.id.clone()),
        warm_pool_id: None,
        daemon_version: None,
        created_at: at,
        updated_at: at,
        last_activity_at: at,
    })
}

fn linked_to(core: &Core, linked: &str, auto_delete: i64) -> ApiResult<Arc<Record>> {
    let missing = || ApiError::bad_request(format_args!("linkedSandbox: no sandbox {linked:?}"));
    let parent = core.directory.find(linked).ok_or_else(missing)?.record();
    if auto_delete != 0 {
        return Err(ApiError::bad_request(
            "a linked sandbox has to be ephemeral: set autoDeleteInterval to 0",
        ));
    }
    if parent.linked_sandbox_id.is_some() {
        return Err(ApiError::bad_request("a sandbox cannot be linked to one that is linked itself"));
    }
    if parent.desired == DesiredState::Destroyed {
        return Err(ApiError::conflict("the sandbox to link to is being deleted"));
    }
    if parent.runner_id.is_none() {
        return Err(ApiError::bad_request("the sandbox to link to has no runner now"));
    }
    Ok(parent)
}

/// Chooses the runner, and whether the image has to come first.
async fn place(core: &Core, record: &mut Record, source: &Source) -> ApiResult<()> {
    let from_build = record.build_ref.is_some();
    let holders = if from_build { core.images.holders(&record.image) } else { Vec::new() };
    if record.runner_id.is_none() {
        let need =
            Need { gpu_types: source.gpu_types.clone(), only: source.only.clone(), ..Need::of(record) };
        if need.gpu > 0 && !core.runners.has_gpu(&need) {
            return Err(ApiError::bad_request("no runner has such a GPU").code("NO_RUNNER"));
        }
        let holding = Need { only: Some(holders), ..need.clone() };
        let chosen = match core.runners.choose(&holding) {
            Some(runner) => Some(runner),
            None if from_build => core.runners.choose(&need),
            None => core.runners.admit(&need).await,
        };
        if let (true, Some(kind)) = (need.gpu > 0, chosen.as_ref().and_then(Runner::gpu_type)) {
            record.gpu_type = Some(kind);
        }
        record.runner_id = chosen.map(|runner| runner.id);
    }
    match (&record.runner_id, from_build) {
        (None, false) => {
            Err(ApiError::bad_request("no runner is available: none is ready to take a sandbox")
                .code("NO_RUNNER"))
        }
        // A build waits for a runner by itself.
        (None, true) => {
            record.state = SandboxState::PendingBuild;
            Ok(())
        }
        (Some(runner), true) => {
            if !core.images.ready(runner, &record.image) && !core.has_image(runner, &record.image).await {
                record.state = SandboxState::PendingBuild;
            }
            Ok(())
        }
        (Some(_), false) => Ok(()),
    }
}
