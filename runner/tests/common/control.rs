//! A control plane in memory that can misbehave.

use std::collections::{HashMap, VecDeque};
use std::sync::Mutex;
use std::time::Duration;

use async_trait::async_trait;
use pinfold_proto::id::SandboxId;
use pinfold_proto::runner::health::Healthcheck;
use pinfold_proto::runner::job::{JobStatus, StatusUpdate};
use pinfold_runner::jobs::{ApiCallError, ControlPlane, Listing, RemoteSandbox};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::eventually;

/// A control plane in memory. What it does wrong is settable.
#[derive(Debug, Default)]
pub struct Control {
    pub jobs: Mutex<VecDeque<Value>>,
    pub claimed: Mutex<HashMap<String, Value>>,
    pub reports: Mutex<Vec<(String, StatusUpdate)>>,
    pub health: Mutex<Vec<Healthcheck>>,
    pub pushed: Mutex<Vec<(String, String, Option<String>)>>,
    pub remote: Mutex<Vec<RemoteSandbox>>,
    /// The next polls claim and then lose their answer.
    pub lose_polls: Mutex<u32>,
    /// The next polls fail at once.
    pub refuse_polls: Mutex<u32>,
    /// When each poll began.
    pub polls: Mutex<Vec<Instant>>,
    /// The next reports fail after being stored.
    pub lose_reports: Mutex<u32>,
    /// The next reports fail with this status.
    pub refuse_reports: Mutex<VecDeque<u16>>,
    /// Every claimed job is delivered this many times.
    pub repeats: Mutex<usize>,
    /// Polls sleep for their whole time, for measurements of a node at rest.
    pub calm: Mutex<bool>,
    /// When each report began.
    pub asked: Mutex<Vec<Instant>>,
    /// Reports take this long.
    pub slow_reports: Mutex<Duration>,
    /// The next listings of claimed jobs fail.
    pub refuse_lists: Mutex<u32>,
    /// What time it is for the listings.
    pub clock: Mutex<Option<jiff::Timestamp>>,
    /// How many listings there were.
    pub lists: Mutex<u32>,
    /// The next healthchecks fail, or are never answered.
    pub refuse_health: Mutex<u32>,
    pub hang_health: Mutex<u32>,
    /// When each healthcheck began.
    pub health_at: Mutex<Vec<Instant>>,
    /// Whether the last state that was told of a sandbox can be recovered from.
    pub recoverable: Mutex<HashMap<String, bool>>,
}

impl Control {
    pub fn push(&self, kind: &str, resource: &str, payload: Option<Value>) -> String {
        let id = uuid::Uuid::new_v4().to_string();
        self.push_with_id(&id, kind, resource, payload);
        id
    }

    pub fn push_with_id(&self, id: &str, kind: &str, resource: &str, payload: Option<Value>) {
        let mut job = json!({"id": id, "type": kind, "status": "IN_PROGRESS", "resourceType": "SANDBOX", "resourceId": resource});
        if let Some(payload) = payload {
            job["payload"] = Value::String(payload.to_string());
        }
        self.jobs.lock().unwrap().push_back(job);
    }

    /// A job with a trace context.
    pub fn push_traced(&self, kind: &str, resource: &str, payload: Option<Value>, context: &Value) -> String {
        let id = self.push(kind, resource, payload);
        if let Some(job) = self.jobs.lock().unwrap().back_mut() {
            job["traceContext"] = context.clone();
        }
        id
    }

    /// Knows a sandbox, and where it should stand.
    pub fn believes(&self, sandbox: &SandboxId, state: &str, desired: &str) {
        let (state, desired_state) = (state.to_owned(), desired.to_owned());
        self.remote.lock().unwrap().push(RemoteSandbox { id: sandbox.to_string(), state, desired_state });
    }

    /// Waits for a job's result.
    pub async fn result(&self, job: &str) -> StatusUpdate {
        let found = || {
            self.reports
                .lock()
                .unwrap()
                .iter()
                .rev()
                .find(|(id, _)| id == job)
                .map(|(_, update)| update.clone())
        };
        eventually(&format!("the result of job {job}"), || found().is_some()).await;
        found().unwrap()
    }

    pub fn reports_of(&self, job: &str) -> usize {
        self.reports.lock().unwrap().iter().filter(|(id, _)| id == job).count()
    }
}

/// Counts one down, if there is one.
fn take_one(count: &Mutex<u32>) -> bool {
    let mut count = count.lock().unwrap();
    let is_one = *count > 0;
    *count = count.saturating_sub(1);
    is_one
}

fn lost() -> ApiCallError {
    ApiCallError::Transport("the answer was lost".to_owned())
}

#[async_trait]
impl ControlPlane for Control {
    async fn poll(&self, timeout: Duration, limit: u32) -> Result<Vec<Value>, ApiCallError> {
        self.polls.lock().unwrap().push(Instant::now());
        if take_one(&self.refuse_polls) {
            return Err(lost());
        }
        let deadline = Instant::now() + timeout;
        loop {
            let taken: Vec<Value> = {
                let mut jobs = self.jobs.lock().unwrap();
                let count = jobs.len().min(limit as usize);
                jobs.drain(..count).collect()
            };
            if !taken.is_empty() {
                let mut claimed = self.claimed.lock().unwrap();
                for job in &taken {
                    claimed.insert(job["id"].as_str().unwrap_or_default().to_owned(), job.clone());
                }
                if take_one(&self.lose_polls) {
                    return Err(lost());
                }
                let repeats = (*self.repeats.lock().unwrap()).max(1);
                return Ok(taken.iter().cycle().take(taken.len() * repeats).cloned().collect());
            }
            if Instant::now() >= deadline {
                return Ok(Vec::new());
            }
            let pause = if *self.calm.lock().unwrap() { timeout } else { Duration::from_millis(2) };
            tokio::time::sleep(pause).await;
        }
    }

    async fn in_progress(&self, page: u32) -> Result<Listing, ApiCallError> {
        *self.lists.lock().unwrap() += 1;
        if take_one(&self.refuse_lists) {
            return Err(lost());
        }
        // Two jobs a page, so that paging is exercised.
        let all: Vec<Value> = self.claimed.lock().unwrap().values().cloned().collect();
        let jobs = all.iter().skip((page as usize - 1) * 2).take(2).cloned().collect();
        let at = *self.clock.lock().unwrap();
        Ok(Listing { jobs, pages: all.len().div_ceil(2) as u64, at })
    }

    async fn report(&self, job: &str, update: &StatusUpdate) -> Result<(), ApiCallError> {
        self.asked.lock().unwrap().push(Instant::now());
        let slow = *self.slow_reports.lock().unwrap();
        if !slow.is_zero() {
            tokio::time::sleep(slow).await;
        }
        if let Some(status) = self.refuse_reports.lock().unwrap().pop_front() {
            return Err(ApiCallError::Status { status, message: "no".to_owned() });
        }
        self.reports.lock().unwrap().push((job.to_owned(), update.clone()));
        if matches!(update.status, JobStatus::Completed | JobStatus::Failed) {
            self.claimed.lock().unwrap().remove(job);
        }
        if take_one(&self.lose_reports) { Err(lost()) } else { Ok(()) }
    }

    async fn healthcheck(&self, body: &Healthcheck) -> Result<(), ApiCallError> {
        self.health_at.lock().unwrap().push(Instant::now());
        if take_one(&self.hang_health) {
            std::future::pending::<()>().await;
        }
        if take_one(&self.refuse_health) {
            return Err(lost());
        }
        self.health.lock().unwrap().push(body.clone());
        Ok(())
    }

    async fn sandboxes(&self, settled: bool) -> Result<Vec<RemoteSandbox>, ApiCallError> {
        let remote = self.remote.lock().unwrap();
        let rests = |s: &RemoteSandbox| matches!(s.state.as_str(), "started" | "stopped");
        Ok(remote.iter().filter(|s| !settled || rests(s)).cloned().collect())
    }

    async fn push_state(
        &self,
        sandbox: &str,
        state: &str,
        reason: Option<&str>,
        recoverable: bool,
    ) -> Result<(), ApiCallError> {
        self.recoverable.lock().unwrap().insert(sandbox.to_owned(), recoverable);
        let mut remote = self.remote.lock().unwrap();
        if let Some(known) = remote.iter_mut().find(|s| s.id == sandbox) {
            known.state = state.to_owned();
        }
        self.pushed.lock().unwrap().push((sandbox.to_owned(), state.to_owned(), reason.map(str::to_owned)));
        Ok(())
    }
}
