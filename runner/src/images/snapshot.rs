//! A snapshot of a sandbox (runner contract 7.6), and the freeze around a commit, so that files are not torn. It ends on every path, also when the
//! caller is cancelled: freeze, commit and thaw are a task of their own, one at a time for each sandbox.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use pinfold_engine::ContainerStatus;
use pinfold_proto::id::SandboxId;
use pinfold_proto::runner::payload::{SandboxSnapshot, SnapshotSandbox};
use tracing::Instrument;

use super::credentials;
use super::reference::internal;
use crate::error::{Class, OpError, OpResult};
use crate::node::Node;

/// How the names of images begin that are about to be published under another.
const TEMPORARY: &str = "daytona-from-sandbox-";

impl Node {
    /// Makes an image of a sandbox. Without a registry the image is local, under `daytona-<hash>:daytona`.
    pub async fn snapshot(
        self: &Arc<Self>,
        id: &SandboxId,
        request: SnapshotSandbox,
    ) -> OpResult<SandboxSnapshot> {
        let began = Instant::now();
        if request.include_memory == Some(true) {
            return Err(OpError::new(
                Class::BadRequest,
                "containers cannot be snapshotted with their memory",
            ));
        }
        let _under_way = self.counters.begin("snapshot");
        let limit = self.config.backup_timeout;
        let result = tokio::time::timeout(limit, self.snapshot_inner(id, request)).await;
        let result = result.unwrap_or_else(|_| {
            Err(OpError::new(Class::Timeout, format!("the snapshot did not finish within {limit:?}")))
        });
        self.counters.finished("snapshot", id.as_str(), began, &result);
        result
    }

    async fn snapshot_inner(
        self: &Arc<Self>,
        id: &SandboxId,
        request: SnapshotSandbox,
    ) -> OpResult<SandboxSnapshot> {
        let began = Instant::now();
        let nanoseconds =
            SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_nanos();
        let temporary = format!("{TEMPORARY}{id}:{nanoseconds}");
        let image_id = self.commit_frozen(id, &temporary).await;
        let image_id = image_id.map_err(|e| e.during("committing the sandbox", began))?;
        let hash = image_id.trim_start_matches("sha256:").to_owned();
        let registry = request.registry.filter(|r| !r.url.is_empty());
        let reference =
            registry.as_ref().map_or_else(|| format!("daytona-{hash}:daytona"), |r| internal(r, &hash));
        let published = async {
            self.engine.tag(&temporary, &reference).await?;
            let image = self.engine.image(&reference).await?;
            if let Some(registry) = &registry {
                let auth = credentials(Some(registry));
                self.engine.push(&reference, auth.as_ref(), self.config.backup_timeout).await?;
            }
            Ok::<_, OpError>(image)
        };
        let published = published.await;
        // The canonical name stays: the control plane records this node as having the image.
        if let Err(error) = self.engine.remove_image(&temporary, true).await {
            tracing::warn!(temporary, %error, "could not remove a temporary image name");
        }
        if published.is_err() {
            // Under this name it would look published.
            let _ = self.engine.remove_image(&reference, true).await;
        }
        self.images.invalidate();
        let image = published.map_err(|e| e.during("publishing the snapshot", began))?;
        let info = super::info(&reference, &image);
        let (entrypoint, cmd) = (info.entrypoint, info.cmd);
        Ok(SandboxSnapshot { reference: Some(reference), hash, size_gb: info.size_gb, entrypoint, cmd })
    }

    /// Makes an image of a sandbox that stands still meanwhile, and returns its id. Dropping the returned future does not cut it short.
    pub(super) async fn commit_frozen(self: &Arc<Self>, id: &SandboxId, reference: &str) -> OpResult<String> {
        let (node, owned, name) = (self.clone(), id.clone(), reference.to_owned());
        let work = async move { node.commit_in_turn(&owned, &name).await };
        let task = tokio::spawn(work.in_current_span());
        task.await.unwrap_or_else(|e| Err(OpError::new(Class::Internal, format!("the commit was lost: {e}"))))
    }

    async fn commit_in_turn(&self, id: &SandboxId, reference: &str) -> OpResult<String> {
        let turn = self.backups.turn(id);
        let _turn = turn.lock().await;
        self.make_whole_in_turn(id).await?;
        let running = self.index.get(id).is_some_and(|s| s.status == ContainerStatus::Running);
        if !running {
            return self.commit(id, reference).await;
        }
        self.index.change_known(id, |s| s.frozen = true);
        let paused = self.engine.pause(id.as_str()).await;
        let committed = match paused {
            Ok(()) => self.commit(id, reference).await,
            Err(error) => Err(error.into()),
        };
        let thawed = self.thaw(id).await;
        self.index.change_known(id, |s| s.frozen = false);
        match thawed {
            // It was destroyed meanwhile; what became of the commit is what counts.
            Err(error) if error.class == Class::NotFound => committed,
            thawed => thawed.and(committed),
        }
    }

    /// Removes the names that a killed run left on images it was about to publish.
    pub(crate) async fn remove_temporary_images(&self) {
        let names = self.engine.image_tags().await.unwrap_or_default();
        for name in names.iter().filter(|name| name.starts_with(TEMPORARY)) {
            if let Err(error) = self.engine.remove_image(name, true).await {
                tracing::warn!(name, %error, "could not remove a temporary image name");
            }
        }
    }

    /// Unfreezes a sandbox, trying for two minutes: a frozen sandbox looks dead to its user.
    pub(crate) async fn thaw(&self, id: &SandboxId) -> OpResult<()> {
        let began = Instant::now();
        loop {
            match self.engine.unpause(id.as_str()).await {
                Ok(()) => {
                    self.index.change_known(id, |s| {
                        if s.status == ContainerStatus::Paused {
                            s.status = ContainerStatus::Running;
                        }
                    });
                    return Ok(());
                }
                Err(error) if error.is_not_found() || began.elapsed() > Duration::from_secs(120) => {
                    return Err(error.into());
                }
                Err(error) => tracing::warn!(sandbox = %id, %error, "could not thaw a sandbox; trying again"),
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }
}
