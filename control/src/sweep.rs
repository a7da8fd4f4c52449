//! The one tick: claimed jobs that nobody has heard of for too long have failed, and what has long ended is forgotten.

use std::sync::Arc;
use std::time::Duration;

use pinfold_proto::runner::job::JobStatus;

use crate::api::end_job;
use crate::core::Core;
use crate::jobs::stale_after;
use crate::store::jobs as table;
use crate::time::now;

const EVERY: Duration = Duration::from_secs(60);
/// How long a job that ended can still be asked for, in milliseconds.
const KEEP_MS: i64 = 24 * 3_600_000;

/// Sweeps until the control plane stops.
pub(crate) async fn run(core: Arc<Core>) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(EVERY) => {}
            () = core.stop.cancelled() => return,
        }
        if let Err(error) = sweep(&core).await {
            tracing::warn!(%error, "could not look for jobs that take too long");
        }
    }
}

async fn sweep(core: &Core) -> Result<(), sqlx::Error> {
    for mut job in table::open(core.store.read()).await? {
        let limit = stale_after(&job.kind);
        let age = Duration::from_millis(u64::try_from(now() - job.updated_at).unwrap_or(0));
        if job.status != JobStatus::InProgress || age < limit {
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
