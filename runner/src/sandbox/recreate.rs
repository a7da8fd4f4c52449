//! A new container with another disk size in place of an old one, with the old one's data: the way that is left where the quota of a layer
//! cannot be changed in place.
//!
//! The old container is removed only after its data was copied, and nothing begins unless data *can* be copied: elsewhere a resize used to
//! delete what it could not copy. The record names the old container while it waits, and says when the new one has all of the data. By that, what
//! was cut short is ended at the next start of the runner, and before the sandbox is started, committed or resized again.

use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime};

use pinfold_engine::{ContainerStatus, Limits};
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
    let run = async {
        let output = command.output().await.map_err(|e| failed(format!("could not run cp: {e}")))?;
        if output.status.success() {
            return flush(to).await.map_err(|e| failed(format!("writing the copied data: {e}")));
        }
        let text = String::from_utf8_lossy(&output.stderr);
        Err(failed(format!("copying the data: {}", text.trim().chars().take(500).collect::<String>())))
    };
    let run = tokio::time::timeout(COPY_LIMIT, run).await;
    run.map_err(|_| failed(format!("copying the data took longer than {COPY_LIMIT:?}")))?
}

/// Brings what was written to the file system of `directory` to its disk: after a loss of power, what was copied from may be gone.
async fn flush(directory: &Path) -> io::Result<()> {
    let directory = directory.to_owned();
    let flushed = move || Ok(nix::unistd::syncfs(std::fs::File::open(directory)?)?);
    tokio::task::spawn_blocking(flushed).await.map_err(io::Error::other)?
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
        let turn = self.backups.turn(id);
        // A commit would take what is half copied for the whole.
        let _turn = turn.lock().await;
        self.take_over_late(id).await?;
        let old = self.engine.inspect(id.as_str()).await?;
        let Some(old_layer) = old.upper_dir.clone().filter(|dir| dir.is_dir()) else {
            return Err(failed("the sandbox's data layer cannot be found, so nothing was changed"));
        };
        let seconds = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        let aside = format!("{id}-{operation}-{seconds}");
        self.records.change(id, |r| (r.replacing, r.copied) = (Some(aside.clone()), false)).await?;
        match self.replace(id, &aside, &old_layer, limits).await {
            Ok(container_id) => {
                self.index.change(id, |s| s.container_id = container_id);
                if let Err(error) = self.end_recreation(id, &aside).await {
                    tracing::warn!(sandbox = %id, aside, %error, "could not remove a replaced container; trying again at the next start");
                }
                Ok(())
            }
            Err(error) => {
                if let Err(error) = self.repair_in_turn(id).await {
                    tracing::error!(sandbox = %id, aside, %error, "could not put a replaced container back; trying again before anything is done with the sandbox");
                }
                Err(error)
            }
        }
    }

    /// The new container, with all of the data when this returns.
    async fn replace(
        &self,
        id: &SandboxId,
        aside: &str,
        old_layer: &Path,
        limits: Limits,
    ) -> OpResult<String> {
        self.engine.rename(id.as_str(), aside).await?;
        let address = self.records.get(id).and_then(|r| r.address);
        let mut networks = match address {
            Some(ip) => definition::attachments(self, Endpoint::new(ip), None),
            None => Vec::new(),
        };
        networks.extend(self.link_of(aside).await?);
        let container_id = self.engine.duplicate(aside, id.as_str(), &networks, limits).await?;
        let new = self.engine.inspect(id.as_str()).await?;
        let new_layer = new.upper_dir.ok_or_else(|| failed("the new container has no data layer"))?;
        copy(old_layer, &new_layer).await?;
        self.records.change(id, |r| r.copied = true).await?;
        Ok(container_id)
    }

    /// Removes the old container, which nobody needs any more.
    async fn end_recreation(&self, id: &SandboxId, aside: &str) -> OpResult<()> {
        self.remove_container(aside).await?;
        self.forget_replacement(id).await
    }

    async fn forget_replacement(&self, id: &SandboxId) -> OpResult<()> {
        self.records.change(id, |r| (r.replacing, r.copied) = (None, false)).await
    }

    /// Ends a replacement that was cut short, by a crash or by an engine that refused: nothing may be done with the sandbox before.
    pub(crate) async fn repair_recreation(&self, id: &SandboxId) -> OpResult<()> {
        if !self.is_replacing(id) {
            return Ok(());
        }
        let turn = self.backups.turn(id);
        let _turn = turn.lock().await;
        self.repair_in_turn(id).await
    }

    /// Makes sure that the container of a sandbox is whole; what is left of an older one may stay for now.
    pub(super) async fn make_whole(&self, id: &SandboxId) -> OpResult<()> {
        if !self.is_replacing(id) {
            return Ok(());
        }
        let turn = self.backups.turn(id);
        let _turn = turn.lock().await;
        self.make_whole_in_turn(id).await
    }

    /// The same for a caller that has the turn to commit it.
    pub(crate) async fn make_whole_in_turn(&self, id: &SandboxId) -> OpResult<()> {
        match self.repair_in_turn(id).await {
            Err(error) if self.records.get(id).is_some_and(|r| r.copied) => {
                tracing::warn!(sandbox = %id, %error, "could not remove a replaced container");
                Ok(())
            }
            other => other,
        }
    }

    /// Whether a replacement of its container is under way, or was cut short.
    pub(crate) fn is_replacing(&self, id: &SandboxId) -> bool {
        self.records.get(id).is_some_and(|r| r.replacing.is_some())
    }

    /// The old container wins until all of its data is in the new one, which wins from then on.
    async fn repair_in_turn(&self, id: &SandboxId) -> OpResult<()> {
        let Some(record) = self.records.get(id) else { return Ok(()) };
        let Some(aside) = record.replacing else { return Ok(()) };
        if self.look_at(&aside).await?.is_none() {
            return self.forget_replacement(id).await;
        }
        match self.look_at(id.as_str()).await? {
            Some(_) if record.copied => return self.end_recreation(id, &aside).await,
            // None of ours starts what is not whole, so somebody wanted this one.
            Some(new) if new.status != ContainerStatus::Created => {
                tracing::error!(sandbox = %id, aside, "a sandbox ran although a resize of it was not finished; its old container is kept, and is yours to remove");
                return self.forget_replacement(id).await;
            }
            Some(_) | None => {}
        }
        tracing::warn!(sandbox = %id, aside, "a resize was not finished; putting the old container back");
        self.remove_container(id.as_str()).await?;
        self.engine.rename(&aside, id.as_str()).await?;
        self.forget_replacement(id).await?;
        self.adopt(id).await.map(drop)
    }
}
