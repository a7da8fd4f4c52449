//! Tells the control plane what became of sandboxes it believes to run, and removes what it will never ask to remove.
//!
//! Only `stopped`, `error` and `destroyed` are ever pushed: any other state would park the sandbox where nothing resolves it (runner contract
//! 5.2 and 17.5). A sandbox is reported gone only after several looks at an engine that answers.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use pinfold_proto::id::SandboxId;
use pinfold_proto::runner::recovery::is_recoverable;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::index::SandboxState;
use crate::jobs::ControlPlane;
use crate::node::Node;

const INTERVAL: Duration = Duration::from_secs(10);
/// Every so many rounds, sandboxes that were given up in `error` are removed.
const SWEEP_EVERY: u32 = 6;
/// Looks at an answering engine before a sandbox counts as gone.
const CONFIRM: u32 = 3;

/// Runs until `stop`; also at once when a sandbox ends unexpectedly.
pub async fn run(node: Arc<Node>, control: Arc<dyn ControlPlane>, stop: CancellationToken) {
    let mut tick = tokio::time::interval(INTERVAL);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut missing = HashMap::new();
    let mut round = 0_u32;
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            () = crash(&node) => {}
            () = stop.cancelled() => return,
        }
        push(&node, &*control, &mut missing).await;
        if round.is_multiple_of(SWEEP_EVERY) {
            sweep(&node, &*control).await;
        }
        round = round.wrapping_add(1);
    }
}

/// Returns when a sandbox newly shows as ended although nobody asked.
async fn crash(node: &Node) {
    let ended = || {
        node.index
            .all()
            .into_iter()
            .filter(|(_, s)| !s.busy && s.state == SandboxState::Error)
            .map(|(id, _)| id)
    };
    let before: std::collections::HashSet<SandboxId> = ended().collect();
    let mut changes = node.index.changes();
    while changes.changed().await.is_ok() {
        if ended().any(|id| !before.contains(&id)) {
            return;
        }
        // The index changes with every step of every sandbox; once in a while is soon enough.
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    std::future::pending().await
}

async fn push(node: &Arc<Node>, control: &dyn ControlPlane, missing: &mut HashMap<SandboxId, u32>) {
    let believed = match control.sandboxes(true).await {
        Ok(believed) => believed,
        Err(error) => return tracing::debug!(%error, "could not ask which sandboxes should run here"),
    };
    let mut still_missing = HashMap::new();
    for id in believed.iter().filter_map(|s| s.id.parse::<SandboxId>().ok()) {
        let Some(sandbox) = node.index.get(&id) else {
            let looks = missing.get(&id).copied().unwrap_or(0) + 1;
            // The engine has the last word: "not found", and nothing else, is gone.
            let gone = matches!(node.engine.inspect(id.as_str()).await, Err(error) if error.is_not_found());
            if gone && looks >= CONFIRM {
                report(control, &id, "error", Some("the sandbox's container no longer exists on its runner"))
                    .await;
            } else if gone {
                still_missing.insert(id, looks);
            }
            continue;
        };
        if sandbox.busy {
            continue;
        }
        match sandbox.state {
            SandboxState::Stopped => report(control, &id, "stopped", None).await,
            SandboxState::Error => {
                let reason =
                    sandbox.ending.map(|e| e.reason()).unwrap_or_else(|| "the sandbox failed".to_owned());
                let output = crate::sandbox::last_output(node, &id).await;
                report(control, &id, "error", Some(&format!("{reason}{output}"))).await;
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
