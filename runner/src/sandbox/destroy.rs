//! Destroy (runner contract 5.7): one forced removal with volumes, and nothing of the sandbox left on this node.
//!
//! Control planes ask once (17.2), so a removal that fails is tried again here before the job fails.

use std::sync::Arc;
use std::time::Instant;

use pinfold_engine::EngineError;
use pinfold_proto::id::SandboxId;

use super::Urgency;
use crate::error::{OpError, OpResult};
use crate::index::SandboxState;
use crate::node::{ATTEMPTS, FIRST_PAUSE, Node};

impl Node {
    /// Removes a sandbox; one that is gone is a success. It does not wait for its turn.
    pub async fn destroy(self: &Arc<Self>, id: &SandboxId) -> OpResult<()> {
        let began = Instant::now();
        let _under_way = self.counters.begin("destroy");
        let (node, owned) = (self.clone(), id.clone());
        let work = async move { node.destroy_now(&owned).await };
        let result = self.owners.run(id, Urgency::AtOnce, work).await;
        self.counters.finished("destroy", id.as_str(), began, &result);
        result
    }

    async fn destroy_now(&self, id: &SandboxId) -> OpResult<()> {
        let began = Instant::now();
        self.backups.cancel(id);
        self.note_destroyed(id);
        self.index.change_known(id, |s| {
            s.busy = true;
            s.state = SandboxState::Destroying;
        });
        let removed = self.remove_container(id.as_str()).await;
        if let Err(error) = removed {
            self.index.change_known(id, |s| s.busy = false);
            return Err(OpError::from(error).during("removing the container", began));
        }
        if let Some(leftover) = self.records.get(id).and_then(|r| r.replacing) {
            self.remove_container(&leftover)
                .await
                .map_err(|e| OpError::from(e).during("removing the replaced container", began))?;
        }
        self.forget(id).await;
        self.drop_link(id).await;
        Ok(())
    }

    /// Removes a container, trying again while the failure may pass. Gone is a success.
    pub(crate) async fn remove_container(&self, name: &str) -> Result<(), EngineError> {
        let mut pause = FIRST_PAUSE;
        for attempt in 1.. {
            match self.engine.remove(name, true).await {
                Ok(()) => return Ok(()),
                Err(error) if error.is_not_found() => return Ok(()),
                Err(error) if attempt >= ATTEMPTS => return Err(error),
                // "Removal already in progress" is a conflict, and passes.
                Err(error) => {
                    tracing::debug!(container = name, attempt, %error, "a removal failed; trying again")
                }
            }
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
        Ok(())
    }

    /// Forgets a sandbox whose container was found to be gone, unless the index knows another one than `container`: a create of the same sandbox may have begun meanwhile, which is
    /// why this is done in its turn. True when it was forgotten.
    pub(crate) async fn let_go(self: &Arc<Self>, id: &SandboxId, container: Option<String>) -> bool {
        let (node, owned) = (self.clone(), id.clone());
        let work = async move {
            if node.is_replacing(&owned) {
                node.repair_recreation(&owned).await?;
                node.adopt(&owned).await?;
            }
            let is_gone = node.index.get(&owned).map(|known| known.container_id) == container;
            if is_gone {
                node.forget(&owned).await;
            }
            Ok(is_gone)
        };
        self.owners.run(id, Urgency::InTurn, work).await.unwrap_or_else(|error| {
            tracing::warn!(sandbox = %id, %error, "could not forget a sandbox whose container is gone");
            false
        })
    }

    /// Removes a container that a cut-off create made after its sandbox was destroyed. In its turn: a sandbox that is wanted again has that container.
    pub(crate) async fn remove_unowned(self: &Arc<Self>, id: &SandboxId, container: String) {
        let (node, owned) = (self.clone(), id.clone());
        let work = async move {
            if !node.was_destroyed(&owned) {
                return Ok(());
            }
            tracing::warn!(sandbox = %owned, "a create that was cut off made its container after all; removing it");
            Ok(node.remove_container(&container).await?)
        };
        if let Err(error) = self.owners.run(id, Urgency::InTurn, work).await {
            tracing::error!(sandbox = %id, %error, "could not remove a container that nobody owns");
        }
    }

    /// Forgets a sandbox whose container is gone: policy, address, record, index entry, in that order, so that its address is not given out
    /// while rules for it exist.
    pub(crate) async fn forget(&self, id: &SandboxId) {
        if let Err(error) = self.policy.remove(id).await {
            tracing::warn!(sandbox = %id, %error, "could not remove a policy; it stays closed until the next start of the runner");
        } else if let Some(address) = self.records.get(id).and_then(|r| r.address) {
            self.addresses.release(address);
        }
        self.late_starts.forget(id);
        self.backups.forget(id);
        self.volumes.release(id).await;
        self.records.remove(id).await;
        self.index.remove(id);
        self.volumes_changed.notify_one();
    }
}
