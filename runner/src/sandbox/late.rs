//! Starts that nobody waits for any more: the engine took longer than it was given, or a forced stop came in between.
//!
//! The engine goes on with what it was asked for, and its container would run although its control plane was told that the start failed, or that
//! the sandbox is stopped. So the engine's call is a task of its own that outlives its operation. What it started is stopped, unless a later start
//! wants the same; and where its answer is lost as well, the engine's event tells. The sandbox's record says so too before anyone is told that the
//! start was given up, so that the next life of this process knows what to undo.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pinfold_engine::{ContainerStatus, EngineError};
use pinfold_proto::id::SandboxId;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::Instant;
use tracing::Instrument;

use super::Urgency;
use crate::error::{OpError, OpResult};
use crate::node::Node;
use crate::records::Record;

/// How long an engine may take to do what nobody waits for: longer than any of our calls of it.
const UNWANTED_FOR: Duration = Duration::from_secs(600);

/// The sandboxes whose container may yet be started although it should not run.
#[derive(Debug, Default)]
pub(crate) struct LateStarts(Mutex<HashMap<SandboxId, Instant>>);

impl LateStarts {
    fn unwanted(&self) -> MutexGuard<'_, HashMap<SandboxId, Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, id: &SandboxId) {
        self.unwanted().insert(id.clone(), Instant::now());
    }

    /// Takes out those that no engine will finish any more.
    fn expired(&self) -> Vec<SandboxId> {
        self.unwanted().extract_if(|_, at| at.elapsed() >= UNWANTED_FOR).map(|(id, _)| id).collect()
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.unwanted().len()
    }

    /// Forgets a sandbox: it is to run, or gone, or dealt with. True when a start of it was unwanted.
    pub(crate) fn forget(&self, id: &SandboxId) -> bool {
        self.unwanted().remove(id).is_some_and(|at| at.elapsed() < UNWANTED_FOR)
    }

    /// Whether a start of a sandbox is unwanted.
    pub(crate) fn expects(&self, id: &SandboxId) -> bool {
        self.unwanted().get(id).is_some_and(|at| at.elapsed() < UNWANTED_FOR)
    }
}

/// The engine's answer to a start, for as long as somebody waits for it. Who goes away without it leaves the start unwanted.
struct Awaited {
    node: Arc<Node>,
    id: SandboxId,
    answer: oneshot::Receiver<Result<(), EngineError>>,
    heard: bool,
}

impl Drop for Awaited {
    fn drop(&mut self) {
        if self.heard {
            return;
        }
        // Noted first: an answer from now on finds nobody, and its task sees the note.
        self.node.late_starts.note(&self.id);
        self.answer.close();
        if let (Ok(_), Ok(runtime)) = (self.answer.try_recv(), Handle::try_current()) {
            let (node, id) = (self.node.clone(), self.id.clone());
            runtime.spawn(async move { node.end_late_start(&id).await });
        }
    }
}

impl Node {
    /// Has the engine start a container, within the time that is configured for that.
    pub(super) async fn start_container(self: &Arc<Self>, id: &SandboxId) -> Result<(), EngineError> {
        let (reply, answer) = oneshot::channel();
        let mut awaited = Awaited { node: self.clone(), id: id.clone(), answer, heard: false };
        let (node, owned) = (self.clone(), id.clone());
        let start = async move {
            let result = node.engine.start(owned.as_str()).await;
            let unknown =
                matches!(result, Err(EngineError::Timeout { .. } | EngineError::Unreachable { .. }));
            if reply.send(result).is_err() && !unknown {
                node.end_late_start(&owned).await;
            }
        };
        tokio::spawn(start.in_current_span());
        let limit = self.config.sandbox_start_timeout;
        let what = || format!("start container {id}");
        match tokio::time::timeout(limit, &mut awaited.answer).await {
            Ok(Ok(result)) => {
                awaited.heard = true;
                result
            }
            Ok(Err(_)) => {
                Err(EngineError::Internal { what: what(), message: "the call was lost".to_owned() })
            }
            Err(_) => {
                drop(awaited);
                self.record_given_up(id).await;
                Err(EngineError::Timeout { what: what(), after: limit })
            }
        }
    }

    /// Somebody wants a sandbox to run: no earlier start of it is unwanted from here on, also after a restart of ours.
    pub(super) async fn want(&self, id: &SandboxId) -> OpResult<()> {
        self.late_starts.forget(id);
        match self.records.get(id) {
            Some(known) if known.start_given_up => {
                self.records.put(id, Record { start_given_up: false, ..known }).await
            }
            _ => Ok(()),
        }
    }

    /// Records that a start was given up, if one was and it is still unwanted.
    pub(super) async fn record_given_up(&self, id: &SandboxId) {
        let Some(known) = self.records.get(id).filter(|_| self.late_starts.expects(id)) else { return };
        if let Err(error) = self.records.put(id, Record { start_given_up: true, ..known }).await {
            tracing::warn!(sandbox = %id, %error, "could not record that a start was given up");
        }
    }

    /// Takes up what an earlier life of this process gave up: what runs is stopped, and what is yet to be started is expected.
    pub(crate) fn expect_given_up(self: &Arc<Self>) {
        let recorded = |id: &SandboxId| self.records.get(id).is_some_and(|r| r.start_given_up);
        for id in self.records.ids().into_iter().filter(recorded) {
            self.late_starts.note(&id);
            if self.index.get(&id).is_some_and(|s| s.status == ContainerStatus::Running) {
                let node = self.clone();
                tokio::spawn(async move { node.end_late_start(&id).await });
            }
        }
    }

    /// Forgets the starts that no engine will finish any more.
    pub(crate) fn forget_expired_starts(self: &Arc<Self>) {
        for id in self.late_starts.expired() {
            let node = self.clone();
            // In its turn: nobody else may write its record meanwhile.
            tokio::spawn(async move {
                let (owner, owned) = (node.clone(), id.clone());
                let work = async move {
                    if node.late_starts.expects(&owned) { Ok(()) } else { node.want(&owned).await }
                };
                if let Err(error) = owner.owners.run(&id, Urgency::InTurn, work).await {
                    tracing::warn!(sandbox = %id, %error, "could not record that a start is no longer expected");
                }
            });
        }
    }

    /// Stops a sandbox that was started after all, unless a later operation wants it to run.
    pub(crate) async fn end_late_start(self: &Arc<Self>, id: &SandboxId) {
        let (node, owned) = (self.clone(), id.clone());
        let ended =
            self.owners.run(id, Urgency::InTurn, async move { node.end_unwanted(&owned).await }).await;
        if let Err(error) = ended {
            tracing::error!(sandbox = %id, %error, "could not stop a sandbox whose start had been given up");
        }
        self.news.raise();
    }

    async fn end_unwanted(&self, id: &SandboxId) -> OpResult<()> {
        if !self.late_starts.forget(id) {
            return Ok(());
        }
        let _busy = self.busy(id);
        match self.engine.inspect(id.as_str()).await {
            Ok(found) => self.learn(id, &found),
            Err(error) if error.is_not_found() => return Ok(()),
            Err(error) => return Err(OpError::from(error)),
        }
        if self.index.get(id).is_some_and(|s| s.status == ContainerStatus::Running) {
            tracing::warn!(sandbox = %id, "the engine started a sandbox after its start had been given up; stopping it");
            self.stop_in_turn(id, true).await?;
        }
        self.want(id).await
    }
}
