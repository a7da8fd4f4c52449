//! The queues of work for runners.
//!
//! A job is inserted in the transaction of the change that needs it, and [`Jobs::wake`] is called after the commit. A claim is one statement; it is given
//! back when the poll's connection is gone before the answer was written.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pinfold_proto::runner::job::JobKind;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::store::jobs::{self as table, JobRow};
use crate::store::{Result, Store};

/// The queues.
#[derive(Debug, Clone)]
pub(crate) struct Jobs {
    store: Store,
    wakers: Arc<Mutex<HashMap<String, Arc<Notify>>>>,
}

impl Jobs {
    /// Queues over `store`.
    pub(crate) fn new(store: &Store) -> Self {
        Self { store: store.clone(), wakers: Arc::default() }
    }

    fn waker(&self, runner: &str) -> Arc<Notify> {
        let mut wakers = self.wakers.lock().unwrap_or_else(PoisonError::into_inner);
        wakers.entry(runner.to_owned()).or_default().clone()
    }

    /// Tells a waiting poll that there is work.
    pub(crate) fn wake(&self, runner: &str) {
        self.waker(runner).notify_one();
    }

    /// Claims work for a runner, waiting up to `timeout` for some.
    pub(crate) async fn poll(&self, runner: &str, limit: u32, timeout: Duration) -> Result<Claim> {
        let deadline = Instant::now() + timeout;
        let waker = self.waker(runner);
        loop {
            let claim = self.claim(runner, limit).await?;
            if !claim.jobs.is_empty() {
                return Ok(claim);
            }
            // `notify_one` leaves a permit, so work that came since the claim wakes us at once.
            if tokio::time::timeout_at(deadline, waker.notified()).await.is_err() {
                return Ok(claim);
            }
        }
    }

    /// The claim runs in a task of its own: if the poll is dropped in the middle, the task's [`Claim`] is dropped too, and gives the jobs back.
    async fn claim(&self, runner: &str, limit: u32) -> Result<Claim> {
        let (jobs, runner) = (self.clone(), runner.to_owned());
        let claiming = tokio::spawn(async move {
            let mut tx = jobs.store.begin().await?;
            let claimed = table::claim(&mut tx, &runner, limit).await?;
            tx.commit().await?;
            if u32::try_from(claimed.len()).is_ok_and(|n| n == limit) {
                // There may be more than fits: the next poll shall not sleep.
                jobs.wake(&runner);
            }
            Ok(Claim { jobs: claimed, delivered: false, queues: jobs, runner })
        });
        claiming.await.map_err(|error| sqlx::Error::Protocol(error.to_string()))?
    }

    async fn release(&self, runner: &str, jobs: &[JobRow]) -> Result<()> {
        let mut tx = self.store.begin().await?;
        for job in jobs {
            table::release(&mut tx, &job.id).await?;
        }
        tx.commit().await?;
        self.wake(runner);
        Ok(())
    }
}

/// Claimed jobs. Dropped undelivered, they go back to the queue.
#[derive(Debug)]
pub(crate) struct Claim {
    pub(crate) jobs: Vec<JobRow>,
    delivered: bool,
    queues: Jobs,
    runner: String,
}

impl Claim {
    /// The answer was handed to the connection.
    pub(crate) fn delivered(&mut self) {
        self.delivered = true;
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if self.delivered || self.jobs.is_empty() {
            return;
        }
        let (queues, runner, jobs) =
            (self.queues.clone(), self.runner.clone(), std::mem::take(&mut self.jobs));
        tracing::info!(runner, jobs = jobs.len(), "a poll went away; its jobs go back to the queue");
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                if let Err(error) = queues.release(&runner, &jobs).await {
                    tracing::warn!(%error, "could not give jobs back");
                }
            });
        }
    }
}

/// How long a claimed job may go without an update.
pub(crate) fn stale_after(kind: &JobKind) -> Duration {
    let minutes = match kind {
        JobKind::CreateSandbox => 30,
        JobKind::BuildSnapshot | JobKind::PullSnapshot | JobKind::CreateBackup | JobKind::SnapshotSandbox => {
            120
        }
        _ => 10,
    };
    Duration::from_secs(minutes * 60)
}
