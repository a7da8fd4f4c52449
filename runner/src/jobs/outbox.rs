//! Results of jobs, kept on disk until the control plane acknowledges them.
//!
//! A result is written and sent side by side: if the process dies before either is done, the job is still IN_PROGRESS and runs again, which is
//! harmless. 404 and 409 mean that nobody waits for the result any more. Everything else is tried again, for as long as it takes.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pinfold_otlp::TraceContext;
use pinfold_proto::runner::job::StatusUpdate;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument;

use super::{ApiCallError, ControlPlane};
use crate::error::RunError;
use crate::files;
use crate::spans;

const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// Results sent at the same time.
const PARALLEL: usize = 8;

/// What became of a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    /// It was taken.
    Taken,
    /// It came too late: the control plane had given its job up, or does not know it.
    Refused,
    /// It is kept for the next life of this process.
    Kept,
}

#[derive(Debug, Serialize, Deserialize)]
struct Entry {
    job: String,
    update: StatusUpdate,
}

#[derive(Debug)]
struct Shared {
    dir: PathBuf,
    pending: Mutex<HashMap<String, StatusUpdate>>,
    sending: Semaphore,
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// The results that are not acknowledged yet. Clones share them.
#[derive(Debug, Clone)]
pub struct Outbox(Arc<Shared>);

impl Outbox {
    /// Reads what an earlier run left in `dir`.
    pub fn open(dir: &Path) -> Result<Self, RunError> {
        let failed = |source| RunError::DataDir { path: dir.display().to_string(), source };
        std::fs::create_dir_all(dir).map_err(failed)?;
        let mut pending = HashMap::new();
        for entry in std::fs::read_dir(dir).map_err(failed)?.flatten() {
            if files::is_unfinished(&entry.path()) {
                std::fs::remove_file(entry.path()).map_err(failed)?;
                continue;
            }
            if entry.path().extension().is_none_or(|e| e != "json") {
                continue;
            }
            let read = std::fs::read(entry.path())
                .ok()
                .and_then(|bytes| serde_json::from_slice::<Entry>(&bytes).ok());
            match read {
                Some(Entry { job, update }) => drop(pending.insert(job, update)),
                None => {
                    tracing::error!(path = %entry.path().display(), "a kept job result cannot be read; its job will run again")
                }
            }
        }
        Ok(Self(Arc::new(Shared {
            dir: dir.to_owned(),
            pending: Mutex::new(pending),
            sending: Semaphore::new(PARALLEL),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
        })))
    }

    fn pending(&self) -> std::sync::MutexGuard<'_, HashMap<String, StatusUpdate>> {
        self.0.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a job's result waits here: then the job must not run again.
    pub fn holds(&self, job: &str) -> bool {
        self.pending().contains_key(job)
    }

    /// The jobs whose results wait.
    pub fn jobs(&self) -> Vec<String> {
        self.pending().keys().cloned().collect()
    }

    /// Number of results that wait.
    pub fn len(&self) -> usize {
        self.pending().len()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Sends everything that an earlier run left.
    pub fn resume(&self, control: &Arc<dyn ControlPlane>) {
        let left: Vec<(String, StatusUpdate)> =
            self.pending().iter().map(|(job, update)| (job.clone(), update.clone())).collect();
        if !left.is_empty() {
            tracing::info!(results = left.len(), "sending the results that an earlier run left");
        }
        for (job, update) in left {
            self.0.tasks.spawn(self.clone().deliver(control.clone(), job, update, None));
        }
    }

    /// Keeps a result and sends it until it is acknowledged; what is returned says how that ended. `trace` is the job's span.
    pub fn submit(
        &self,
        control: &Arc<dyn ControlPlane>,
        job: String,
        update: StatusUpdate,
        trace: Option<TraceContext>,
    ) -> JoinHandle<Delivery> {
        self.pending().insert(job.clone(), update.clone());
        let (outbox, control) = (self.clone(), control.clone());
        self.0.tasks.spawn(async move {
            let kept = outbox.keep(&job, &update);
            let sent = outbox.attempt(&control, &job, &update, trace.as_ref());
            let (kept, sent) = tokio::join!(kept, sent);
            if let Err(error) = kept {
                tracing::error!(job, %error, "could not keep a job's result on disk");
            }
            match sent {
                Some(delivery) => {
                    outbox.acknowledged(&job).await;
                    delivery
                }
                None => outbox.deliver(control, job, update, trace).await,
            }
        })
    }

    /// Stops trying, and waits up to `grace` for what is on its way. What remains is on disk.
    pub async fn close(&self, grace: Duration) {
        self.0.tasks.close();
        if tokio::time::timeout(grace, self.0.tasks.wait()).await.is_err() {
            tracing::warn!(results = self.len(), "results remain to be sent at the next start");
        }
        self.0.stop.cancel();
        self.0.tasks.wait().await;
    }

    async fn keep(&self, job: &str, update: &StatusUpdate) -> std::io::Result<()> {
        let bytes = serde_json::to_vec(&Entry { job: job.to_owned(), update: update.clone() })?;
        files::replace(&self.path(job), bytes).await
    }

    /// Sends once; none when it has to be tried again.
    async fn attempt(
        &self,
        control: &Arc<dyn ControlPlane>,
        job: &str,
        update: &StatusUpdate,
        trace: Option<&TraceContext>,
    ) -> Option<Delivery> {
        let _permit = self.0.sending.acquire().await.ok()?;
        let span = spans::update_job_status(job, update, trace);
        let reported = control.report(job, update).instrument(span.clone()).await;
        if let Err(error) = &reported {
            span.record("error", error.to_string());
        }
        match reported {
            Ok(()) => Some(Delivery::Taken),
            Err(ApiCallError::Status { status: status @ (404 | 409), .. }) => {
                tracing::warn!(job, status, "nobody waits for this result any more");
                Some(Delivery::Refused)
            }
            Err(error) => {
                if !error.is_told() {
                    tracing::warn!(job, %error, "could not report a result; trying again");
                }
                None
            }
        }
    }

    async fn deliver(
        self,
        control: Arc<dyn ControlPlane>,
        job: String,
        update: StatusUpdate,
        trace: Option<TraceContext>,
    ) -> Delivery {
        let mut pause = FIRST_PAUSE;
        loop {
            tokio::select! {
                sent = self.attempt(&control, &job, &update, trace.as_ref()) => if let Some(delivery) = sent {
                    self.acknowledged(&job).await;
                    return delivery;
                },
                () = self.0.stop.cancelled() => return Delivery::Kept,
            }
            let jittered = pause.mul_f64(0.5 + rand::random::<f64>());
            tokio::select! {
                () = tokio::time::sleep(jittered) => pause = (pause * 2).min(LONGEST_PAUSE),
                () = self.0.stop.cancelled() => return Delivery::Kept,
            }
        }
    }

    async fn acknowledged(&self, job: &str) {
        if let Err(error) = files::remove(&self.path(job)).await {
            tracing::warn!(job, %error, "could not remove an acknowledged result; it will be sent again");
        }
        self.pending().remove(job);
    }

    /// Job ids come from outside, so a file is named by their hash.
    fn path(&self, job: &str) -> PathBuf {
        let hash: String = Sha256::digest(job).iter().take(16).map(|b| format!("{b:02x}")).collect();
        self.0.dir.join(format!("{hash}.json"))
    }
}
