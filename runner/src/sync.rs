//! Tells the control plane what became of sandboxes it believes to run or to be stopped, and removes what it will never ask to remove.
//!
//! Only `started`, `stopped` and `error` are ever pushed: any other state would park the sandbox where nothing resolves it (runner contract
//! 5.2 and 17.5). That a sandbox is gone is believed at once when the engine said so of a container that we knew, and does not find it; of one
//! that we never knew, only after several looks at an engine that answers.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pinfold_proto::id::SandboxId;
use pinfold_proto::runner::recovery::is_recoverable;
use tokio::sync::Notify;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::index::SandboxState;
use crate::jobs::{ControlPlane, RemoteSandbox};
use crate::node::Node;

const INTERVAL: Duration = Duration::from_secs(10);
/// Every so many rounds, sandboxes that were given up in `error` are removed.
const SWEEP_EVERY: u32 = 6;
/// Looks at an answering engine before a sandbox that we never knew counts as gone.
const CONFIRM: u32 = 3;
/// Between news and the report of it, so that a host which loses many sandboxes at once asks only so often.
const SETTLE: Duration = Duration::from_millis(200);

/// What happened to sandboxes although no operation of ours did it.
#[derive(Debug, Default)]
pub(crate) struct News {
    raised: Notify,
    vanished: Mutex<HashSet<SandboxId>>,
}

impl News {
    /// Something changed that the control plane should hear of at once.
    pub(crate) fn raise(&self) {
        self.raised.notify_one();
    }

    /// The engine said that a sandbox's container was removed.
    pub(crate) fn vanished(&self, id: &SandboxId) {
        self.lost().insert(id.clone());
        self.raise();
    }

    /// Forgets those that the control plane no longer asks for, and those that are back.
    fn retain(&self, keep: impl Fn(&SandboxId) -> bool) {
        self.lost().retain(|id| keep(id));
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.lost().len()
    }

    fn has_vanished(&self, id: &SandboxId) -> bool {
        self.lost().contains(id)
    }

    fn lost(&self) -> std::sync::MutexGuard<'_, HashSet<SandboxId>> {
        self.vanished.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Runs until `stop`; also at once when there is news.
pub async fn run(node: Arc<Node>, control: Arc<dyn ControlPlane>, stop: CancellationToken) {
    let mut tick = tokio::time::interval(INTERVAL);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut missing = HashMap::new();
    let mut round = 0_u32;
    loop {
        let ticked = tokio::select! {
            _ = tick.tick() => true,
            () = node.news.raised.notified() => false,
            () = stop.cancelled() => return,
        };
        if !ticked {
            // What dies is often removed right after.
            tokio::time::sleep(SETTLE).await;
        }
        push(&node, &*control, &mut missing, ticked).await;
        if ticked {
            node.tidy();
            if round.is_multiple_of(SWEEP_EVERY) {
                sweep(&node, &*control).await;
            }
            round = round.wrapping_add(1);
        }
    }
}

async fn push(
    node: &Arc<Node>,
    control: &dyn ControlPlane,
    missing: &mut HashMap<SandboxId, u32>,
    ticked: bool,
) {
    let believed = match control.sandboxes(true).await {
        Ok(believed) => believed,
        Err(error) => return tracing::debug!(%error, "could not ask which sandboxes should run here"),
    };
    let believed: Vec<(SandboxId, RemoteSandbox)> =
        believed.into_iter().filter_map(|remote| Some((remote.id.parse().ok()?, remote))).collect();
    let asked: HashSet<&SandboxId> = believed.iter().map(|(id, _)| id).collect();
    node.news.retain(|id| asked.contains(id) && node.index.get(id).is_none());
    let mut still_missing = HashMap::new();
    for (id, remote) in believed {
        let runs = remote.state == "started";
        let Some(sandbox) = node.index.get(&id) else {
            let known = node.news.has_vanished(&id);
            // A stopped sandbox that we never knew may be on its way here from another runner.
            if !known && !runs {
                continue;
            }
            let looks = missing.get(&id).copied().unwrap_or(0) + u32::from(ticked);
            // The engine has the last word: "not found", and nothing else, is gone.
            let gone = matches!(node.engine.inspect(id.as_str()).await, Err(error) if error.is_not_found());
            if gone && (known || looks >= CONFIRM) {
                // The event of its removal may have been missed.
                node.let_go(&id, None).await;
                if node.index.get(&id).is_none() {
                    let reason = "the sandbox's container no longer exists on its runner";
                    report(control, &id, "error", Some(reason)).await;
                }
            } else if gone {
                still_missing.insert(id, looks);
            }
            continue;
        };
        if sandbox.busy {
            continue;
        }
        match sandbox.state {
            SandboxState::Started if !runs => report(control, &id, "started", None).await,
            SandboxState::Stopped if runs => report(control, &id, "stopped", None).await,
            SandboxState::Error if runs => {
                let reason = sandbox.trouble().unwrap_or_else(|| "the sandbox failed".to_owned());
                let output = crate::sandbox::last_output(node, &id).await;
                // It may have been started again while its output was read.
                if node.index.get(&id).is_some_and(|now| !now.busy && now.state == SandboxState::Error) {
                    report(control, &id, "error", Some(&format!("{reason}{output}"))).await;
                }
            }
            _ => {}
        }
    }
    *missing = still_missing;
}

async fn report(control: &dyn ControlPlane, id: &SandboxId, state: &str, reason: Option<&str>) {
    let recoverable = reason.is_some_and(is_recoverable);
    match control.push_state(id.as_str(), state, reason, recoverable).await {
        Ok(()) => tracing::info!(sandbox = %id, state, reason, "told the control plane a sandbox's state"),
        Err(error) => {
            tracing::debug!(sandbox = %id, state, %error, "the control plane did not take a sandbox's state")
        }
    }
}

/// Deleting a sandbox that is in `error` sends no job, ever (17.2). Its container, volumes and quota are given back here.
async fn sweep(node: &Arc<Node>, control: &dyn ControlPlane) {
    let Ok(all) = control.sandboxes(false).await else { return };
    for remote in all.iter().filter(|s| s.state == "error" && s.desired_state == "destroyed") {
        let Ok(id) = remote.id.parse::<SandboxId>() else { continue };
        if node.index.get(&id).is_some() {
            tracing::info!(sandbox = %id, "removing a sandbox that was deleted in error");
            let _ = node.destroy(&id).await;
        }
    }
}
