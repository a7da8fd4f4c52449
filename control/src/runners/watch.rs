//! Notices when a runner is lost or comes back. Nothing is asked: the next silence that would be too long is waited for.

use std::collections::HashMap;
use std::sync::Arc;

use super::RunnerState;
use crate::core::Core;
use crate::events;
use crate::store::sandboxes::Record;
use crate::time::until;

/// Tells when a runner was lost or came back, until the control plane stops.
pub(crate) async fn watch(core: Arc<Core>) {
    let mut known: HashMap<String, RunnerState> = HashMap::new();
    loop {
        let mut changed = std::pin::pin!(core.runners.changed.notified());
        changed.as_mut().enable();
        let mut next = None;
        for runner in core.runners.list() {
            let state = core.runners.state(&runner);
            if state == RunnerState::Ready {
                let silent = core.runners.lost_at(&runner.id);
                next = Some(next.map_or(silent, |next: i64| next.min(silent)));
            }
            let before = known.insert(runner.id.clone(), state);
            if before.is_none_or(|before| before == state) {
                continue;
            }
            let (old, new) = (before.map_or("", RunnerState::as_str), state.as_str());
            let holds = |r: &Arc<Record>| r.runner_id.as_deref() == Some(&runner.id);
            let sandboxes = core.directory.scan(|r, _| holds(r).then_some(())).len();
            tracing::warn!(runner = runner.name, old, new, sandboxes, "a runner's state changed");
            core.events.emit("runner.state.updated", || {
                events::changed("runner", core.runners.dto(&runner, false), "State", old, new)
            });
        }
        let silence = async {
            match next {
                Some(at) => tokio::time::sleep(until(at)).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = changed => {}
            () = silence => {}
            () = core.stop.cancelled() => return,
        }
    }
}
