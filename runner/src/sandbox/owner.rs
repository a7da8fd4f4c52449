//! One owner task for each sandbox that has something to do: its operations run in order, one at a time.
//!
//! The queue is bounded; a full one is "unavailable", which callers may retry. Destroying and killing have a channel of their own: they end
//! the operation that runs (its future is dropped at its next await, its caller told so) and are never stuck behind a slow one. A panic ends
//! its operation alone. A task that has been idle goes away; handing it work and its farewell exclude each other by the table's lock.

use std::collections::HashMap;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use pinfold_proto::id::SandboxId;
use tokio::sync::{mpsc, oneshot};
use tracing::Instrument;

use crate::error::{Class, OpError, OpResult};

/// Operations that may wait for one sandbox.
const QUEUE: usize = 8;
/// How long an owner without work stays.
const IDLE: Duration = Duration::from_secs(30);

type Work = BoxFuture<'static, ()>;

#[derive(Debug, Clone)]
struct Mailbox {
    ordinary: mpsc::Sender<Work>,
    urgent: mpsc::Sender<Work>,
}

/// The owners of all sandboxes. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Owners {
    table: Arc<Mutex<HashMap<SandboxId, Mailbox>>>,
}

/// Whether an operation waits for its turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Urgency {
    /// After what is under way.
    InTurn,
    /// Instead of what is under way.
    AtOnce,
}

impl Owners {
    /// Runs `work` in the sandbox's owner task and returns its result. Dropping the returned future does not stop the work.
    pub async fn run<T, F>(&self, id: &SandboxId, urgency: Urgency, work: F) -> OpResult<T>
    where
        T: Send + 'static,
        F: Future<Output = OpResult<T>> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let guarded = async move {
            let result = match AssertUnwindSafe(work).catch_unwind().await {
                Ok(result) => result,
                Err(panic) => Err(OpError::new(
                    Class::Internal,
                    format!("the operation panicked: {}", panic_text(panic.as_ref())),
                )),
            };
            // A caller that left does not undo what was done.
            let _ = reply.send(result);
        };
        // What its caller is doing is what the work is part of, also in the log.
        self.hand_over(id, urgency, guarded.in_current_span().boxed())?;
        let superseded =
            || OpError::new(Class::Unavailable, "a destroy or forced stop of the same sandbox took over");
        answer.await.unwrap_or_else(|_| Err(superseded()))
    }

    fn hand_over(&self, id: &SandboxId, urgency: Urgency, work: Work) -> OpResult<()> {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        let mailbox = table.entry(id.clone()).or_insert_with(|| self.open(id));
        let queue = if urgency == Urgency::AtOnce { &mailbox.urgent } else { &mailbox.ordinary };
        queue.try_send(work).map_err(|_| {
            OpError::new(
                Class::Unavailable,
                format!("{QUEUE} operations already wait for sandbox {id}; try again shortly"),
            )
        })
    }

    fn open(&self, id: &SandboxId) -> Mailbox {
        let (ordinary, ordinary_work) = mpsc::channel(QUEUE);
        let (urgent, urgent_work) = mpsc::channel(QUEUE);
        tokio::spawn(own(id.clone(), self.clone(), ordinary_work, urgent_work));
        Mailbox { ordinary, urgent }
    }

    /// Number of sandboxes with an owner.
    pub fn len(&self) -> usize {
        self.table.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Whether no sandbox has an owner.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

async fn own(
    id: SandboxId,
    owners: Owners,
    mut ordinary: mpsc::Receiver<Work>,
    mut urgent: mpsc::Receiver<Work>,
) {
    loop {
        let next = tokio::select! {
            biased;
            work = urgent.recv() => work.map(|work| (work, true)),
            work = ordinary.recv() => work.map(|work| (work, false)),
            () = tokio::time::sleep(IDLE) => {
                let mut table = owners.table.lock().unwrap_or_else(PoisonError::into_inner);
                if ordinary.is_empty() && urgent.is_empty() {
                    table.remove(&id);
                    return;
                }
                continue;
            }
        };
        let Some((mut work, is_urgent)) = next else { return };
        if is_urgent {
            work.await;
            continue;
        }
        tokio::select! {
            biased;
            interruption = urgent.recv() => {
                drop(work);
                if let Some(interruption) = interruption {
                    interruption.await;
                }
            }
            () = &mut work => {}
        }
    }
}

/// What a panic said.
pub(crate) fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn operations_run_in_order_and_a_destroy_takes_over() {
        let (owners, id) = (Owners::default(), SandboxId::random());
        let (slow_owners, slow_id) = (owners.clone(), id.clone());
        let (started, has_started) = oneshot::channel();
        let slow = tokio::spawn(async move {
            let work = async move {
                let _ = started.send(());
                std::future::pending::<OpResult<()>>().await
            };
            slow_owners.run(&slow_id, Urgency::InTurn, work).await
        });
        has_started.await.unwrap();
        let (queued_owners, queued_id) = (owners.clone(), id.clone());
        let queued =
            tokio::spawn(
                async move { queued_owners.run(&queued_id, Urgency::InTurn, async { Ok(2) }).await },
            );
        assert_eq!(owners.run(&id, Urgency::AtOnce, async { Ok(1) }).await.unwrap(), 1);
        assert_eq!(slow.await.unwrap().unwrap_err().class, Class::Unavailable);
        assert_eq!(queued.await.unwrap().unwrap(), 2);
    }

    #[tokio::test]
    async fn a_full_queue_is_unavailable_and_a_panic_is_contained() {
        let (owners, id) = (Owners::default(), SandboxId::random());
        let mut waiting = Vec::new();
        for _ in 0..=QUEUE + 1 {
            let (owners, id) = (owners.clone(), id.clone());
            waiting.push(tokio::spawn(async move {
                owners.run(&id, Urgency::InTurn, std::future::pending::<OpResult<()>>()).await
            }));
            tokio::task::yield_now().await;
        }
        let refused = owners.run(&id, Urgency::InTurn, async { Ok(()) }).await.unwrap_err();
        assert_eq!(refused.class, Class::Unavailable);
        for task in waiting {
            task.abort();
        }
        let other = SandboxId::random();
        let panicked: OpResult<()> = owners.run(&other, Urgency::InTurn, async { panic!("boom") }).await;
        assert!(panicked.unwrap_err().message.contains("boom"));
        assert_eq!(owners.run(&other, Urgency::InTurn, async { Ok(3) }).await.unwrap(), 3);
    }
}
