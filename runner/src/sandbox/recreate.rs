//! A new container with another disk size in place of an old one, with the old one's data: the way that is left where the quota of a layer
//! cannot be changed in place.
//!
//! The old container is removed only after its data was copied, and nothing begins unless data *can* be copied: elsewhere a resize used to
//! delete what it could not copy. The record names the old container while it waits, so a crash in between is repaired at the next start.

use std::path::Path;
use std::time::{Duration, SystemTime};

use pinfold_engine::Limits;
use pinfold_network::Endpoint;
use pinfold_proto::id::SandboxId;

use super::definition;
use crate::error::{Class, OpError, OpResult};
use crate::node::Node;

/// How long data may be copied: less than the deadline of a resize job, so that one which was reported to have failed does not happen after all.
pub(crate) const COPY_LIMIT: Duration = Duration::from_secs(8 * 60);

fn failed(message: impl Into<String>) -> OpError {
    OpError::new(Class::Internal, message)
}

/// Copies a directory's contents with modes, owners, times, attributes and holes.
async fn copy(from: &Path, to: &Path) -> OpResult<()> {
    let mut command = tokio::process::Command::new("cp");
    command
        .arg("--archive")
        // Not silently without them: capabilities of programs, and what the sandbox deleted from its image, are attributes.
        .arg("--preserve=xattr")
        .arg("--sparse=always")
        .arg("--reflink=auto")
        .arg("--")
        .arg(from.join("."))
        .arg(to);
    command.kill_on_drop(true);
    let run = tokio::time::timeout(COPY_LIMIT, command.output()).await;
    let output = run.map_err(|_| failed(format!("copying the data took longer than {COPY_LIMIT:?}")))?;
    let output = output.map_err(|e| failed(format!("could not run cp: {e}")))?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    Err(failed(format!("copying the data: {}", text.trim().chars().take(500).collect::<String>())))
}

impl Node {
    pub(super) async fn recreate(&self, id: &SandboxId, operation: &str, limits: Limits) -> OpResult<()> {
        if self.info.backing_filesystem.as_deref() != Some("xfs") || self.info.driver != "overlay2" {
            let message = format!(
                "this node cannot resize disks: that needs the overlay2 driver on xfs, and it has {} on {}",
                self.info.driver,
                self.info.backing_filesystem.as_deref().unwrap_or("an unknown filesystem"),
            );
            return Err(OpError::new(Class::BadRequest, message));
        }
        let old = self.engine.inspect(id.as_str()).await?;
        let Some(old_layer) = old.upper_dir.clone().filter(|dir| dir.is_dir()) else {
            return Err(failed("the sandbox's data layer cannot be found, so nothing was changed"));
        };
        let seconds = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        let aside = format!("{id}-{operation}-{seconds}");
        self.records.change(id, |r| r.replacing = Some(aside.clone())).await?;
        self.engine.rename(id.as_str(), &aside).await?;
        match self.replace(id, &aside, &old_layer, limits).await {
            Ok(container_id) => {
                self.index.change(id, |s| s.container_id = container_id);
                self.remove_container(&aside).await?;
                self.records.change(id, |r| r.replacing = None).await
            }
            Err(error) => {
                self.restore(id, &aside).await?;
                Err(error)
            }
        }
    }

    async fn replace(
        &self,
        id: &SandboxId,
        aside: &str,
        old_layer: &Path,
        limits: Limits,
    ) -> OpResult<String> {
        let address = self.records.get(id).and_then(|r| r.address);
        let networks = match address {
            Some(ip) => definition::attachments(self, Endpoint::new(ip), None),
            None => self.link_of(aside).await?,
        };
        let container_id = self.engine.duplicate(aside, id.as_str(), &networks, limits).await?;
        let new = self.engine.inspect(id.as_str()).await?;
        let new_layer = new.upper_dir.ok_or_else(|| failed("the new container has no data layer"))?;
        copy(old_layer, &new_layer).await?;
        Ok(container_id)
    }

    /// Puts the old container back under its name.
    async fn restore(&self, id: &SandboxId, aside: &str) -> OpResult<()> {
        self.remove_container(id.as_str()).await?;
        self.engine.rename(aside, id.as_str()).await?;
        self.records.change(id, |r| r.replacing = None).await
    }

    /// Repairs what a crash left between the two containers: the old one has the data, so it wins.
    pub(crate) async fn repair_recreation(&self, id: &SandboxId) -> OpResult<()> {
        let Some(aside) = self.records.get(id).and_then(|r| r.replacing) else { return Ok(()) };
        match self.engine.inspect(&aside).await {
            Ok(_) => {
                tracing::warn!(sandbox = %id, "a resize was interrupted; putting the old container back");
                self.restore(id, &aside).await
            }
            Err(error) if error.is_not_found() => self.records.change(id, |r| r.replacing = None).await,
            Err(error) => Err(error.into()),
        }
    }
}
