//! Stop (runner contract 5.7): SIGTERM and a grace, or at once; a sandbox that does not run, or does not exist, is stopped.

use std::sync::Arc;
use std::time::{Duration, Instant};

use pinfold_engine::ContainerStatus;
use pinfold_proto::id::SandboxId;
use pinfold_proto::runner::payload::StopSandbox;

use super::Urgency;
use crate::error::{OpError, OpResult};
use crate::index::{Ending, SandboxState};
use crate::node::Node;

/// How long a sandbox may take to end by itself.
const GRACE: Duration = Duration::from_secs(10);

impl Node {
    /// Stops a sandbox. A forced stop does not wait for its turn.
    pub async fn stop(self: &Arc<Self>, id: &SandboxId, request: StopSandbox) -> OpResult<()> {
        let began = Instant::now();
        let _under_way = self.counters.begin("stop");
        let force = request.force == Some(true);
        let (node, owned) = (self.clone(), id.clone());
        let urgency = if force { Urgency::AtOnce } else { Urgency::InTurn };
        let work = async move {
            let stopped = node.stop_in_turn(&owned, force).await;
            // It may have come in between a start, and whoever asked for it believes it.
            node.record_given_up(&owned).await;
            stopped
        };
        let result = self.owners.run(id, urgency, work).await;
        self.counters.finished("stop", id.as_str(), began, &result);
        result
    }

    pub(super) async fn stop_in_turn(&self, id: &SandboxId, force: bool) -> OpResult<()> {
        let began = Instant::now();
        self.backups.cancel(id);
        let looked = self.known(id).await.map_err(|e| e.during("inspecting", began))?;
        let Some(known) = looked else {
            // A create that this cut off may have mounted some.
            self.release_unowned(id).await;
            return Ok(());
        };
        if matches!(known.status, ContainerStatus::Exited | ContainerStatus::Created) {
            return Ok(());
        }
        let _busy = self.busy(id);
        self.index.change(id, |s| s.state = SandboxState::Stopping);
        if known.status == ContainerStatus::Paused || known.frozen {
            let _ = self.engine.unpause(id.as_str()).await;
        }
        let mut result = if force {
            self.engine.kill(id.as_str()).await
        } else {
            self.engine.stop(id.as_str(), GRACE).await
        };
        if !force && matches!(&result, Err(e) if !e.is_not_found()) {
            tracing::warn!(sandbox = %id, error = ?result, "a graceful stop failed; killing");
            result = self.engine.kill(id.as_str()).await;
        }
        match result {
            Err(error) if error.is_not_found() => {
                self.index.remove(id);
                return Ok(());
            }
            Err(error) => return Err(OpError::from(error).during("stopping the container", began)),
            Ok(()) => {}
        }
        // A kill returns before the process is gone; the engine's event, or its own word, says when it is.
        let ended = self.index.wait(id, |s| match s {
            None => Some(()),
            Some(s) if !matches!(s.status, ContainerStatus::Running | ContainerStatus::Paused) => Some(()),
            _ => None,
        });
        if tokio::time::timeout(Duration::from_millis(if force { 500 } else { 20 }), ended).await.is_err() {
            self.await_end(id, began).await?;
        }
        self.index.change_known(id, |s| {
            s.status = ContainerStatus::Exited;
            s.address = None;
            s.daemon_version = None;
            // It was asked to end, so its status is no failure.
            s.ending = Some(Ending { code: 143, ..Ending::default() });
        });
        Ok(())
    }

    async fn await_end(&self, id: &SandboxId, began: Instant) -> OpResult<()> {
        const LIMIT: Duration = Duration::from_secs(30);
        loop {
            match self.engine.inspect(id.as_str()).await {
                Ok(found) if found.status == ContainerStatus::Running => {}
                Ok(_) => return Ok(()),
                Err(error) if error.is_not_found() => return Ok(()),
                Err(error) => return Err(OpError::from(error).during("stopping the container", began)),
            }
            if began.elapsed() > GRACE + LIMIT {
                let message = "the container still runs although it was killed";
                return Err(OpError::new(crate::error::Class::Internal, message)
                    .during("stopping the container", began));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}
