//! Warm pools: started sandboxes that wait for someone to claim them, so that a create takes no time.
//!
//! One task ([`keep_filled`]) fills them when something of a pool changes: it was made or resized, one of its sandboxes was claimed or lost, or the control plane
//! started. A pool whose fill failed is tried again after a pause, or when its user changes it; the others do not wait for that.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pinfold_http::{ApiError, ApiResult};
use pinfold_proto::control::sandbox::{CreateSandbox, DesiredState, SandboxState};
use pinfold_proto::runner::job::JobKind;
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::api::{compose_warm, store_failed};
use crate::core::Core;
use crate::edge::environment::can_be_late;
use crate::runners::Need;
use crate::sandbox::{self, Handle, START_LIMIT, settle, start_ended};
use crate::store::mirror::Mirror;
use crate::store::sandboxes::{Record, Resize};
use crate::store::snapshots::Snapshot;
use crate::store::warm_pools::WarmPool;
use crate::store::{Result, Store};
use crate::time::{iso, now};

/// Pause after a fill that failed.
const RETRY: Duration = Duration::from_secs(30);

/// All pools.
#[derive(Debug)]
pub(crate) struct Pools {
    /// The pools themselves. The sandboxes of one that is removed go with the next fill.
    pub(crate) all: Mirror<WarmPool>,
    /// The last fill of these failed, by the pool's id.
    failures: Mutex<HashMap<String, Failure>>,
    changed: Notify,
}

/// A fill that failed.
#[derive(Debug)]
struct Failure {
    reason: String,
    /// When the pool that was to be filled was last changed by its user: a later change is worth a try.
    of: i64,
    /// When it is tried again.
    again: Instant,
}

impl Pools {
    /// Loads all pools.
    pub(crate) async fn load(store: &Store) -> Result<Self> {
        Ok(Self { all: Mirror::load(store).await?, failures: Mutex::default(), changed: Notify::new() })
    }

    /// Something of a pool has changed: it is looked at whether all are full.
    pub(crate) fn wake(&self) {
        self.changed.notify_one();
    }

    fn failures(&self) -> MutexGuard<'_, HashMap<String, Failure>> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a pool is in the pause after a failure.
    fn rests(&self, pool: &WarmPool) -> bool {
        let failures = self.failures();
        failures.get(&pool.id).is_some_and(|f| f.of == pool.updated_at && f.again > Instant::now())
    }

    fn filled(&self, pool: &WarmPool, filled: ApiResult<()>) {
        let Err(error) = filled else {
            self.failures().remove(&pool.id);
            return;
        };
        tracing::warn!(pool = pool.id, %error, "could not fill a warm pool");
        let failure =
            Failure { reason: error.to_string(), of: pool.updated_at, again: Instant::now() + RETRY };
        self.failures().insert(pool.id.clone(), failure);
    }

    /// The end of the pause that ends first.
    async fn pause(&self) {
        let first = self.failures().values().map(|failure| failure.again).min();
        match first {
            Some(at) => tokio::time::sleep_until(at).await,
            None => std::future::pending().await,
        }
    }
}

/// Whether its runner takes new sandboxes: to be handed out is to be new.
fn is_open(core: &Core, r: &Record) -> bool {
    core.runner_of(r).is_some_and(|runner| !runner.draining && !runner.unschedulable)
}

fn members(core: &Core, pool: &str) -> Vec<Handle> {
    let mut all = core.directory.all();
    all.retain(|handle| {
        let r = handle.record();
        r.warm_pool_id.as_deref() == Some(pool) && r.desired != DesiredState::Destroyed
    });
    all
}

/// A pool for the wire.
pub(crate) fn dto(core: &Core, pool: &WarmPool) -> Value {
    let size = core.snapshots.find(&pool.snapshot).map_or([0; 3], |s| [s.cpu, s.memory, s.disk]);
    let ready = members(core, &pool.id).iter().filter(|h| h.record().state == SandboxState::Started).count();
    let error = core.pools.failures().get(&pool.id).map(|failure| failure.reason.clone());
    json!({
        "id": pool.id, "organizationId": core.org_id, "snapshot": pool.snapshot, "target": pool.region, "pool": pool.pool,
        "currentSize": ready, "cpu": size[0], "mem": size[1], "disk": size[2], "osUser": "daytona", "env": {},
        "errorReason": error, "createdAt": iso(pool.created_at), "updatedAt": iso(pool.updated_at),
    })
}

/// Keeps every pool at its size, until the control plane stops.
pub(crate) async fn keep_filled(core: Arc<Core>) {
    loop {
        tokio::select! {
            () = fill_all(&core) => {}
            () = core.stop.cancelled() => return,
        }
        tokio::select! {
            () = core.pools.changed.notified() => {}
            () = core.pools.pause() => {}
            () = core.stop.cancelled() => return,
        }
    }
}

async fn fill_all(core: &Arc<Core>) {
    let pools = core.pools.all.list();
    let known = |id: &str| pools.iter().any(|pool| pool.id == id);
    core.pools.failures().retain(|id, _| known(id));
    for handle in core.directory.all() {
        if handle.record().warm_pool_id.as_deref().is_some_and(|id| !known(id)) {
            discard(handle).await;
        }
    }
    for pool in &pools {
        let missing = trim(core, pool).await;
        if !core.pools.rests(pool) {
            core.pools.filled(pool, make(core, pool, missing).await);
        }
    }
}

async fn discard(handle: Handle) {
    // Gone already is as good.
    let _ = handle
        .change(|r| {
            if r.warm_pool_id.is_some() {
                r.desired = DesiredState::Destroyed;
            }
            Ok(())
        })
        .await;
}

/// Discards what is broken or too many. Returns how many are missing.
async fn trim(core: &Core, pool: &WarmPool) -> usize {
    let wanted = usize::try_from(pool.pool).unwrap_or(usize::MAX);
    let (broken, mut good): (Vec<Handle>, Vec<Handle>) =
        members(core, &pool.id).into_iter().partition(|handle| {
            let r = handle.record();
            !matches!(r.state, SandboxState::Started | SandboxState::Creating) || !is_open(core, &r)
        });
    let spare = good.split_off(good.len().min(wanted));
    for handle in broken.into_iter().chain(spare) {
        discard(handle).await;
    }
    wanted - good.len()
}

/// Makes so many sandboxes, one after the other, up to the first that fails, which is discarded.
async fn make(core: &Arc<Core>, pool: &WarmPool, missing: usize) -> ApiResult<()> {
    for _ in 0..missing {
        let mut record = compose_warm(core, &pool.snapshot, CreateSandbox::default())?;
        record.warm_pool_id = Some(pool.id.clone());
        record.name = format!("warm-{}", record.id);
        let runner = core.runners.admit(&Need::of(&record)).await;
        let runner = runner.ok_or_else(|| ApiError::unavailable("no runner is ready to take a sandbox"))?;
        record.runner_id = Some(runner.id);
        let name = core.directory.reserve(&record.name, &record.id)?;
        let handle = sandbox::create(core, record, name).await?;
        let view = settle(handle.watch(), START_LIMIT, start_ended).await;
        if view.record.state == SandboxState::Error {
            discard(handle).await;
            let reason = view.record.error_reason.clone().unwrap_or_default();
            return Err(ApiError::internal(reason));
        }
    }
    Ok(())
}

/// A waiting sandbox made into what `wanted` describes, if it can be: name, labels, intervals and visibility are the record's alone; limits can grow
/// but for the disk, the network policy can be set, and the environment where nothing has read it yet. All of it is so when this returns.
pub(crate) async fn claim(
    core: &Arc<Core>,
    wanted: &Record,
    snapshot: &Snapshot,
) -> ApiResult<Option<Handle>> {
    let entrypoint = snapshot.entrypoint.as_deref().or(snapshot.image_entrypoint.as_deref());
    let possible = can_be_late(&wanted.env, entrypoint)
        && wanted.volumes.is_empty()
        && wanted.gpu == 0
        && wanted.linked_sandbox_id.is_none()
        && wanted.os_user == "daytona";
    let pools = core.pools.all.list();
    let Some(pool) = pools
        .iter()
        .find(|pool| possible && (pool.snapshot == snapshot.name || pool.snapshot == snapshot.id))
    else {
        return Ok(None);
    };
    let unnamed = wanted.name == wanted.id;
    for handle in members(core, &pool.id) {
        let waiting = handle.record();
        let fits = waiting.image == wanted.image
            && waiting.disk == wanted.disk
            && waiting.cpu <= wanted.cpu
            && waiting.memory <= wanted.memory;
        if !fits || waiting.state != SandboxState::Started || !is_open(core, &waiting) {
            continue;
        }
        let mut wish = wanted.clone();
        if unnamed {
            wish.name.clone_from(&waiting.id);
        }
        let name = match core.directory.reserve(&wish.name, &waiting.id) {
            Ok(name) => name,
            // Its own id is taken: somebody else is claiming it.
            Err(_) if unnamed => continue,
            Err(taken) => return Err(taken),
        };
        let awaited = (
            handle.outcome_of(JobKind::UpdateSandboxNetworkSettings),
            handle.outcome_of(JobKind::ResizeSandbox),
        );
        // It has gone meanwhile, or too much waits for it.
        let (Ok(policy), Ok(limits)) = awaited else { continue };
        let claimed = handle.change(move |r| take(r, wish)).await;
        let Ok(claimed) = claimed else { continue };
        name.keep();
        core.pools.wake();
        let applied = async {
            if claimed.task.resize.is_some() {
                ended("limits", limits).await?;
            }
            if claimed.task.network {
                ended("network policy", policy).await?;
            }
            if claimed.late_env {
                core.apply_env(&claimed).await.map_err(|why| format!("environment: {why}"))?;
            }
            Ok::<_, String>(())
        };
        if let Err(why) = applied.await {
            tracing::warn!(sandbox = claimed.id, why, "a waiting sandbox did not become what was asked for");
            give_up(handle).await;
            return Ok(None);
        }
        return Ok(Some(handle));
    }
    Ok(None)
}

/// Waits for the end of a job that makes a claimed sandbox what was asked for.
async fn ended(
    what: &str,
    job: tokio::sync::oneshot::Receiver<std::result::Result<(), String>>,
) -> std::result::Result<(), String> {
    match tokio::time::timeout(START_LIMIT, job).await {
        Ok(Ok(Ok(()))) => Ok(()),
        Ok(Ok(Err(why))) => Err(format!("{what}: {why}")),
        _ => Err(format!("{what}: the runner did not answer within {} s", START_LIMIT.as_secs())),
    }
}

/// Deletes a sandbox that could not be made into what was asked for; a new one takes its name.
async fn give_up(handle: Handle) {
    let _ = handle
        .change(|r| {
            r.desired = DesiredState::Destroyed;
            Ok(())
        })
        .await;
}

fn take(r: &mut Record, wish: Record) -> ApiResult<()> {
    if r.warm_pool_id.is_none() || r.state != SandboxState::Started || r.desired != DesiredState::Started {
        return Err(ApiError::conflict("the sandbox was claimed by somebody else"));
    }
    let guarded =
        wish.network_block_all || wish.network_allow_list.is_some() || wish.domain_allow_list.is_some();
    let more = |wanted: u32, has: u32| (wanted != has).then_some(wanted);
    let (cpu, memory) = (more(wish.cpu, r.cpu), more(wish.memory, r.memory));
    r.task.resize = (cpu.is_some() || memory.is_some()).then_some(Resize { cpu, memory, disk: None });
    r.late_env = !wish.env.is_empty();
    r.env = wish.env;
    r.warm_pool_id = None;
    r.name = wish.name;
    r.labels = wish.labels;
    r.public = wish.public;
    r.network_block_all = wish.network_block_all;
    r.network_allow_list = wish.network_allow_list;
    r.domain_allow_list = wish.domain_allow_list;
    r.task.network = guarded;
    r.auto_stop = wish.auto_stop;
    r.auto_archive = wish.auto_archive;
    r.auto_delete = wish.auto_delete;
    r.destroy_at = wish.destroy_at;
    r.created_at = now();
    r.last_activity_at = now();
    Ok(())
}

/// Makes a pool of a snapshot, or says why not.
pub(crate) async fn create(core: &Arc<Core>, snapshot: &str, size: u32) -> ApiResult<WarmPool> {
    compose_warm(core, snapshot, CreateSandbox::default())?;
    let at = now();
    let pool = WarmPool {
        id: uuid::Uuid::new_v4().to_string(),
        snapshot: snapshot.to_owned(),
        region: core.config.region.clone(),
        pool: size,
        created_at: at,
        updated_at: at,
    };
    core.pools.all.insert(pool.clone()).await.map_err(store_failed)?;
    core.pools.wake();
    Ok(pool)
}
