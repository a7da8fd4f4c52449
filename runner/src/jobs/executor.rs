//! Runs jobs: each once, within the limits of its class, against its own deadline, with panics contained. Every job ends in the outbox.

use std::collections::{HashSet, VecDeque};
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use jiff::Timestamp;
use pinfold_otlp::TraceContext;
use pinfold_proto::id::SandboxId;
use pinfold_proto::runner::job::{Job, JobKind, JobStatus, StatusUpdate};
use pinfold_proto::runner::payload::StopSandbox;
use pinfold_proto::runner::recovery::{error_message, is_recoverable};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;
use tracing::Instrument;

use super::deadline::{age, deadline, remaining};
use super::outbox::Delivery;
use super::{ControlPlane, Outbox};
use crate::error::{Class, OpError, OpResult};
use crate::node::{Node, sandbox_id};
use crate::sandbox::panic_text;
use crate::spans;

/// Finished jobs whose ids are remembered against repeated deliveries.
const REMEMBERED: usize = 8192;

/// How many jobs of a class run at once. Creates have places of their own, so that pulls and builds never hold them up.
#[derive(Debug)]
struct Places {
    create: Semaphore,
    lifecycle: Semaphore,
    pull: Semaphore,
    build: Semaphore,
    backup: Semaphore,
    inspect: Semaphore,
}

impl Places {
    fn of(&self, kind: &JobKind) -> &Semaphore {
        match kind {
            JobKind::CreateSandbox => &self.create,
            JobKind::PullSnapshot => &self.pull,
            JobKind::BuildSnapshot => &self.build,
            JobKind::CreateBackup | JobKind::SnapshotSandbox => &self.backup,
            JobKind::InspectSnapshotInRegistry => &self.inspect,
            _ => &self.lifecycle,
        }
    }
}

/// Whether a sandbox runs when a job of this kind is done.
fn is_start(kind: &JobKind) -> bool {
    matches!(kind, JobKind::CreateSandbox | JobKind::StartSandbox)
}

#[derive(Debug, Default)]
struct Seen {
    running: HashSet<String>,
    finished: HashSet<String>,
    order: VecDeque<String>,
}

impl Seen {
    fn finish(&mut self, id: String) {
        self.running.remove(&id);
        if self.finished.insert(id.clone()) {
            self.order.push_back(id);
        }
        if self.order.len() > REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.finished.remove(&oldest);
        }
    }
}

struct Shared {
    node: Arc<Node>,
    control: Arc<dyn ControlPlane>,
    outbox: Outbox,
    places: Places,
    seen: Mutex<Seen>,
    tasks: TaskTracker,
}

/// Runs jobs. Clones share everything.
#[derive(Clone)]
pub struct Executor(Arc<Shared>);

impl std::fmt::Debug for Executor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Executor").field("running", &self.running()).finish_non_exhaustive()
    }
}

impl Executor {
    /// An executor that reports through `outbox`.
    pub fn new(node: Arc<Node>, control: Arc<dyn ControlPlane>, outbox: Outbox) -> Self {
        let places = Places {
            create: Semaphore::new(32),
            lifecycle: Semaphore::new(64),
            pull: Semaphore::new(4),
            build: Semaphore::new(2),
            backup: Semaphore::new(6),
            inspect: Semaphore::new(16),
        };
        // A listing that was made before an earlier run's result was acknowledged may arrive after it.
        let mut seen = Seen::default();
        outbox.jobs().into_iter().for_each(|id| seen.finish(id));
        Self(Arc::new(Shared {
            node,
            control,
            outbox,
            places,
            seen: Mutex::new(seen),
            tasks: TaskTracker::new(),
        }))
    }

    fn seen(&self) -> std::sync::MutexGuard<'_, Seen> {
        self.0.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Number of jobs that run or wait for a place.
    pub fn running(&self) -> usize {
        self.seen().running.len()
    }

    /// The outbox.
    pub fn outbox(&self) -> &Outbox {
        &self.0.outbox
    }

    /// Takes a job that was just claimed. One that is known already is ignored; one that does not decode fails, if it says who it is.
    pub fn accept(&self, value: Value) {
        self.accept_claimed(value, None);
    }

    /// The same for one that was claimed some time before it was listed: that is a part of its time.
    pub fn accept_claimed(&self, value: Value, listed_at: Option<Timestamp>) {
        let Some(id) = value.get("id").and_then(Value::as_str).map(str::to_owned) else {
            tracing::error!("the control plane sent a job without an id");
            return;
        };
        {
            let mut seen = self.seen();
            if seen.finished.contains(&id) || self.0.outbox.holds(&id) || !seen.running.insert(id.clone()) {
                return;
            }
        }
        let executor = self.clone();
        self.0.tasks.spawn(async move {
            let mut started = None;
            let (update, trace) = match serde_json::from_value::<Job>(value) {
                Ok(job) => {
                    let trace = spans::of_job(&job);
                    started = Some(job.resource_id.clone()).filter(|_| is_start(&job.kind));
                    let limit = remaining(&job.kind, age(&job, listed_at));
                    (executor.perform(job, limit, &trace).await, Some(trace))
                }
                Err(error) => (failed(&format!("the job could not be read: {error}")), None),
            };
            let started = started.filter(|_| update.status == JobStatus::Completed);
            executor.finish(id, update, trace, started);
        });
    }

    /// `started` is the sandbox that a job which completed has started.
    fn finish(&self, id: String, update: StatusUpdate, trace: Option<TraceContext>, started: Option<String>) {
        // In the outbox first: there is no moment at which the job is neither running nor held.
        let sent = self.0.outbox.submit(&self.0.control, id.clone(), update, trace);
        self.seen().finish(id);
        if let Some(sandbox) = started {
            let executor = self.clone();
            // Not one of the tasks that a drain waits for: the control plane may be away.
            tokio::spawn(async move {
                if matches!(sent.await, Ok(Delivery::Refused)) {
                    executor.take_back(&sandbox).await;
                }
            });
        }
    }

    /// Stops a sandbox whose start came too late for its control plane, which counts it as failed (runner contract 14.4.11). One that it has
    /// wanted again since is left alone.
    async fn take_back(&self, sandbox: &str) {
        let listed = match self.0.control.sandboxes(false).await {
            Ok(listed) => listed,
            Err(error) => {
                return tracing::warn!(sandbox, %error, "could not ask whether a sandbox that was started too late is wanted");
            }
        };
        let failed = listed.iter().any(|remote| remote.id == sandbox && remote.state == "error");
        let Ok(id) = sandbox_id(sandbox) else { return };
        if !failed || self.0.node.index.get(&id).is_none_or(|known| known.busy) {
            return;
        }
        tracing::warn!(
            sandbox,
            "stopping a sandbox that was started too late: its control plane counts it as failed"
        );
        if let Err(error) = self.0.node.stop(&id, StopSandbox::default()).await {
            tracing::warn!(sandbox, %error, "could not stop a sandbox that was started too late");
        }
    }

    /// Runs a job in its span; every line that is logged meanwhile names the job and the span.
    async fn perform(&self, job: Job, limit: Duration, trace: &TraceContext) -> StatusUpdate {
        let span = spans::job(&job, trace);
        let log = tracing::info_span!(
            parent: &span,
            "job",
            job_id = job.id,
            job_type = job.kind.as_str(),
            resource_type = job.resource_type,
            resource_id = job.resource_id,
            trace_id = trace.trace_id(),
            span_id = trace.span_id(),
            baggage = trace.baggage.as_deref(),
        );
        let update = self.perform_logged(job, limit).instrument(log).await;
        spans::job_ended(&span, &update);
        update
    }

    async fn perform_logged(&self, job: Job, limit: Duration) -> StatusUpdate {
        let began = Instant::now();
        tracing::info!("job begins");
        let kind = job.kind.clone();
        let work = async {
            let _place = self.0.places.of(&kind).acquire().await;
            self.dispatch(&job).await
        };
        let guarded = AssertUnwindSafe(tokio::time::timeout(limit, work)).catch_unwind().await;
        if matches!(guarded, Ok(Err(_))) && is_start(&kind) {
            self.give_up(&job.resource_id).await;
        }
        let result = match guarded {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(OpError::new(
                Class::Timeout,
                format!("{} did not finish within {:?} of its claim", kind.as_str(), deadline(&kind)),
            )),
            Err(panic) => Err(OpError::new(
                Class::Internal,
                format!("{} panicked: {}", kind.as_str(), panic_text(panic.as_ref())),
            )),
        };
        let ms = began.elapsed().as_millis();
        match result {
            Ok(result_metadata) => {
                tracing::info!(ms, "job completed");
                StatusUpdate { status: JobStatus::Completed, error_message: None, result_metadata }
            }
            Err(error) => {
                tracing::warn!(ms, %error, "job failed");
                let recoverable = matches!(
                    kind,
                    JobKind::CreateSandbox
                        | JobKind::StartSandbox
                        | JobKind::StopSandbox
                        | JobKind::DestroySandbox
                        | JobKind::RecoverSandbox
                        | JobKind::ResizeSandbox
                        | JobKind::CreateBackup
                        | JobKind::SnapshotSandbox
                );
                if recoverable && is_recoverable(&error.message) {
                    failed(&error_message(&error.message))
                } else {
                    failed(&plain(&error.message))
                }
            }
        }
    }

    /// Ends an operation that went on too long: nothing may start a sandbox after its control plane was told that this failed.
    async fn give_up(&self, sandbox: &str) {
        let Ok(id) = sandbox_id(sandbox) else { return };
        if let Err(error) = self.0.node.stop(&id, StopSandbox { force: Some(true) }).await {
            tracing::warn!(sandbox, %error, "could not stop a sandbox whose job took too long");
        }
    }

    async fn dispatch(&self, job: &Job) -> OpResult<Option<String>> {
        let node = &self.0.node;
        let sandbox = || -> OpResult<SandboxId> { sandbox_id(&job.resource_id) };
        match &job.kind {
            JobKind::CreateSandbox => result(node.create(payload(job)?).await?),
            JobKind::StartSandbox => result(node.start(&sandbox()?, payload(job)?).await?),
            JobKind::StopSandbox => node.stop(&sandbox()?, optional_payload(job)?).await.map(|()| None),
            JobKind::DestroySandbox => node.destroy(&sandbox()?).await.map(|()| None),
            JobKind::ResizeSandbox => node.resize(&sandbox()?, payload(job)?).await.map(|()| None),
            JobKind::CreateBackup => node.backup(&sandbox()?, payload(job)?).await.map(|()| None),
            JobKind::RecoverSandbox => node.recover(&sandbox()?, payload(job)?).await.map(|()| None),
            JobKind::UpdateSandboxNetworkSettings => {
                node.set_network(&sandbox()?, payload(job)?).await.map(|()| None)
            }
            JobKind::SnapshotSandbox => result(node.snapshot(&sandbox()?, payload(job)?).await?),
            JobKind::BuildSnapshot => result(node.build(payload(job)?).await?),
            JobKind::PullSnapshot => result(node.pull_snapshot(payload(job)?).await?),
            JobKind::RemoveSnapshot => node.remove_snapshot(&job.resource_id).await.map(|()| None),
            JobKind::RemoveVolume => node.remove_volume(&job.resource_id).await.map(|()| None),
            JobKind::InspectSnapshotInRegistry => result(node.inspect_snapshot(payload(job)?).await?),
            JobKind::PauseSandbox | JobKind::ForkSandbox => Err(OpError::new(
                Class::BadRequest,
                format!("{} is not supported for containers", job.kind.as_str()),
            )),
            JobKind::Unknown(kind) => Err(OpError::new(
                Class::BadRequest,
                format!("this runner does not know jobs of type {kind:?}"),
            )),
        }
    }

    /// Waits up to `grace` for running jobs. What remains is IN_PROGRESS at the control plane and runs again at the next start.
    pub async fn drain(&self, grace: Duration) {
        self.0.tasks.close();
        if tokio::time::timeout(grace, self.0.tasks.wait()).await.is_err() {
            tracing::warn!(
                jobs = self.running(),
                "jobs were still running at the end of the drain; they run again at the next start"
            );
        }
    }
}

fn failed(message: &str) -> StatusUpdate {
    StatusUpdate { status: JobStatus::Failed, error_message: Some(message.to_owned()), result_metadata: None }
}

/// Text for errors that nobody can recover from: not empty, and not by accident JSON (runner contract 0.4).
fn plain(message: &str) -> String {
    let text: String = message.chars().take(9000).collect();
    match text.trim() {
        "" => "failed without a reason".to_owned(),
        trimmed if serde_json::from_str::<Value>(trimmed).is_ok() => format!("error: {trimmed}"),
        _ => text,
    }
}

fn result<T: Serialize>(value: T) -> OpResult<Option<String>> {
    let text = serde_json::to_string(&value);
    text.map(Some).map_err(|e| OpError::new(Class::Internal, format!("the result could not be written: {e}")))
}

fn payload<T: DeserializeOwned>(job: &Job) -> OpResult<T> {
    match job.payload.as_deref().map(str::trim).filter(|text| !text.is_empty() && *text != "null") {
        Some(text) => parse(job, text),
        None => Err(OpError::new(Class::BadRequest, format!("a {} job needs a payload", job.kind.as_str()))),
    }
}

fn optional_payload<T: DeserializeOwned + Default>(job: &Job) -> OpResult<T> {
    match job.payload.as_deref().map(str::trim).filter(|text| !text.is_empty() && *text != "null") {
        Some(text) => parse(job, text),
        None => Ok(T::default()),
    }
}

fn parse<T: DeserializeOwned>(job: &Job, text: &str) -> OpResult<T> {
    // Payloads hold secrets, so the error says where it broke and not what was there.
    let bad = |e: serde_json::Error| {
        OpError::new(
            Class::BadRequest,
            format!(
                "the payload of a {} job is invalid at line {} column {}",
                job.kind.as_str(),
                e.line(),
                e.column()
            ),
        )
    };
    serde_json::from_str(text).map_err(bad)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Contract 0.4: an API parses what it is told, so text that means nothing to it must not look as if it did.
    #[test]
    fn plain_text_is_neither_empty_nor_json() {
        assert_eq!(plain("  "), "failed without a reason");
        for accident in ["null", "7", "\"x\"", " {\"recoverable\": true} "] {
            assert!(serde_json::from_str::<Value>(&plain(accident)).is_err(), "{accident}");
        }
        assert_eq!(plain("could not: 7"), "could not: 7");
        assert!(plain(&"x".repeat(20_000)).len() < 10_000);
    }

    #[test]
    fn what_is_remembered_against_repeated_deliveries_is_bounded() {
        let mut seen = Seen::default();
        for n in 0..REMEMBERED + 10 {
            seen.finish(n.to_string());
        }
        assert_eq!((seen.finished.len(), seen.order.len()), (REMEMBERED, REMEMBERED));
        assert!(!seen.finished.contains("9") && seen.finished.contains("10"), "the oldest are forgotten");
    }

    /// A resize that was reported to have failed must not happen after all: its data are copied within its job's time, with room for the rest.
    #[test]
    fn a_copy_of_data_ends_before_its_job() {
        for kind in [JobKind::ResizeSandbox, JobKind::RecoverSandbox] {
            assert!(crate::sandbox::COPY_LIMIT + Duration::from_secs(60) < deadline(&kind));
        }
    }
}
