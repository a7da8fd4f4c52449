//! The one tick: claimed jobs that nobody has heard of for too long have failed, what has long ended is forgotten, and what nobody has used for days is put
//! away.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use pinfold_proto::control::snapshot::SnapshotState;
use pinfold_proto::runner::job::JobStatus;

use crate::api::end_job;
use crate::core::Core;
use crate::jobs::stale_after;
use crate::store::jobs as table;
use crate::store::snapshots::Snapshot;
use crate::time::now;

const EVERY: Duration = Duration::from_secs(60);
/// How long a job that ended can still be asked for, in milliseconds.
const KEEP_MS: i64 = 24 * 3_600_000;
const DAY_MS: i64 = 24 * 3_600_000;
/// Days are counted this often.
const DAYS_EVERY: Duration = Duration::from_secs(3600);

/// When each claimed job was first seen as it is: its own times are the wall clock's, which may be set.
type Claimed = HashMap<String, (i64, Instant)>;

/// Sweeps until the control plane stops.
pub(crate) async fn run(core: Arc<Core>) {
    let mut claimed = Claimed::new();
    let mut days: Option<Instant> = None;
    loop {
        if let Err(error) = sweep(&core, &mut claimed).await {
            tracing::warn!(%error, "could not look for jobs that take too long");
        }
        if days.is_none_or(|at| at.elapsed() >= DAYS_EVERY) {
            days = Some(Instant::now());
            put_away(&core).await;
        }
        let ending = tokio::select! {
            () = tokio::time::sleep(EVERY) => false,
            () = core.stop.cancelled() => true,
        };
        if let Err(error) = core.keys.flush().await {
            tracing::warn!(%error, "could not store when keys were last used");
        }
        if ending {
            return;
        }
    }
}

async fn sweep(core: &Core, claimed: &mut Claimed) -> Result<(), sqlx::Error> {
    let mut open = table::open(core.store.read()).await?;
    open.retain(|job| job.status == JobStatus::InProgress);
    let ids: HashSet<&str> = open.iter().map(|job| job.id.as_str()).collect();
    claimed.retain(|id, _| ids.contains(id.as_str()));
    for mut job in open {
        let limit = stale_after(&job.kind);
        let seen = claimed.entry(job.id.clone()).or_insert_with(|| (job.updated_at, Instant::now()));
        if seen.0 != job.updated_at {
            *seen = (job.updated_at, Instant::now());
        }
        if seen.1.elapsed() < limit {
            continue;
        }
        tracing::warn!(job = job.id, kind = job.kind.as_str(), "a job timed out");
        job.status = JobStatus::Failed;
        job.error_message =
            Some(format!("Job timed out: nothing was heard of it for {} minutes", limit.as_secs() / 60));
        job.updated_at = now();
        if let Err(error) = end_job(core, job).await {
            tracing::warn!(%error, "could not end a job that timed out");
        }
    }
    let mut tx = core.store.begin().await?;
    table::purge(&mut tx, now() - KEEP_MS).await?;
    tx.commit().await
}

/// Snapshots and build contexts that nobody has used for long.
async fn put_away(core: &Core) {
    let before = |days: u32| now() - i64::from(days) * DAY_MS;
    if core.config.snapshot_idle_days > 0 {
        for snapshot in idle_snapshots(core, before(core.config.snapshot_idle_days)) {
            if let Err(error) = deactivate(core, snapshot).await {
                tracing::warn!(%error, "could not deactivate a snapshot that nobody uses");
            }
        }
    }
    if core.config.context_days > 0 {
        let limit = before(core.config.context_days);
        match core.storage.expire(limit, core.images.contexts_since(limit)).await {
            Ok(0) => {}
            Ok(removed) => tracing::info!(removed, "removed build contexts that nobody used"),
            Err(error) => tracing::warn!(%error, "could not remove old build contexts"),
        }
    }
}

fn idle_snapshots(core: &Core, before: i64) -> Vec<Snapshot> {
    let mut idle = core.snapshots.list();
    idle.retain(|s| s.state == SnapshotState::Active && !s.general);
    idle.retain(|s| s.last_used_at.unwrap_or(0).max(s.updated_at) < before);
    let pools = core.pools.all.list();
    idle.retain(|s| !pools.iter().any(|pool| pool.snapshot == s.name || pool.snapshot == s.id));
    idle.retain(|s| core.directory.scan(|r, _| (r.image == s.reference).then_some(())).is_empty());
    idle
}

async fn deactivate(core: &Core, snapshot: Snapshot) -> Result<(), sqlx::Error> {
    tracing::info!(snapshot = snapshot.name, "nobody used the snapshot for long; it is inactive now");
    core.snapshots.change(core, &snapshot.id, Snapshot::rest).await?;
    let (reference, pulled) = (snapshot.reference, snapshot.image_name.is_some());
    // What came from a registry comes again; what was made here would be lost.
    let needed = |s: &Snapshot| s.reference == reference && s.state == SnapshotState::Active;
    if pulled && !core.snapshots.list().iter().any(needed) {
        core.images.remove(&reference).await?;
    }
    Ok(())
}
