//! The seam to volumes, and what stands behind it: [`pinfold_volumes`], over an object store or local directories.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use pinfold_proto::id::{SandboxId, VolumeId};
use pinfold_proto::runner::payload::VolumeMount;
use pinfold_volumes::{Binder, LocalVolumes, S3Credentials, S3Volumes, SharedStore, User, VolumeError};

use crate::config::Config;
use crate::error::{Class, OpError, OpResult};

/// Makes volumes available to sandboxes.
#[async_trait]
pub trait Volumes: Send + Sync + 'static {
    /// Makes all `mounts` available, side by side, and returns their bind strings in order. Doing it again is harmless.
    async fn mount(&self, sandbox: &SandboxId, mounts: &[VolumeMount]) -> OpResult<Vec<String>>;

    /// Releases what was made for a sandbox that is gone.
    async fn release(&self, sandbox: &SandboxId);

    /// The sandboxes that something was made for.
    fn sandboxes(&self) -> Vec<SandboxId>;

    /// Why volumes would not work on this host, if they would not.
    fn problem(&self) -> Option<String>;

    /// Removes what this host has of a deleted volume that no sandbox uses.
    async fn remove(&self, volume: &VolumeId) -> OpResult<()>;

    /// Whether volumes are mounts that can die under running sandboxes.
    fn may_die(&self) -> bool;

    /// Waits until a volume's mount has died, or may have.
    async fn disturbed(&self);

    /// Replaces dead mounts of `volume` under `users`, which are running, and returns how many there were.
    async fn heal(&self, volume: &VolumeId, users: &[User]) -> OpResult<usize>;

    /// Whether something that was mounted for a sandbox is dead.
    async fn is_dead(&self, user: &User) -> bool;

    /// Gives back volumes that no sandbox uses; `in_use` are those of existing sandboxes, running or not.
    async fn cleanup(&self, in_use: &HashSet<VolumeId>);
}

/// Volumes of this host.
#[derive(Debug, Clone)]
pub struct HostVolumes {
    binder: Binder,
    dry_run: bool,
}

impl HostVolumes {
    /// Buckets of the configured object store, mounted where the original mounts them; local directories where there is none.
    pub fn new(config: &Config) -> Self {
        let store: SharedStore = match &config.object_store {
            Some(store) => {
                let credentials = S3Credentials {
                    endpoint: Some(store.endpoint.clone()),
                    region: Some(store.region.clone()),
                    access_key: pinfold_proto::id::Secret::new(store.access_key.clone()),
                    secret_key: store.secret_key.clone(),
                };
                let theirs = if config.environment == "development" { "/tmp" } else { "/mnt" };
                let base = real(config.bucket_dir.as_deref().unwrap_or(Path::new(theirs)));
                Arc::new(S3Volumes::new(base, credentials, config.volume_cleanup_exclusion))
            }
            None => Arc::new(LocalVolumes::new(config.data_dir.join("volumes"))),
        };
        Self::over(store, &config.data_dir, config.volume_cleanup_dry_run)
    }

    /// Volumes of any store.
    pub fn over(store: SharedStore, data_dir: &Path, dry_run: bool) -> Self {
        Self { binder: Binder::new(store, staging(data_dir)), dry_run }
    }
}

/// A directory without symbolic links in its path, made if it is not there: the kernel names mounts so.
fn real(path: &Path) -> PathBuf {
    let made = std::fs::create_dir_all(path).and_then(|()| path.canonicalize());
    // What is wrong with it is told by the first mount.
    made.unwrap_or_else(|_| path.to_owned())
}

fn staging(data_dir: &Path) -> PathBuf {
    real(data_dir).join("volume-mounts")
}

fn failure(error: &VolumeError) -> OpError {
    let class = match error {
        VolumeError::Id(_) | VolumeError::Path { .. } => Class::BadRequest,
        _ => Class::Internal,
    };
    OpError::new(class, error.to_string())
}

#[async_trait]
impl Volumes for HostVolumes {
    async fn mount(&self, sandbox: &SandboxId, mounts: &[VolumeMount]) -> OpResult<Vec<String>> {
        if mounts.is_empty() {
            return Ok(Vec::new());
        }
        self.binder.bind(sandbox, mounts).await.map_err(|e| failure(&e))
    }

    async fn release(&self, sandbox: &SandboxId) {
        if let Err(error) = self.binder.release(sandbox).await {
            tracing::warn!(%sandbox, %error, "could not release a sandbox's volume mounts");
        }
    }

    fn sandboxes(&self) -> Vec<SandboxId> {
        self.binder.sandboxes()
    }

    fn problem(&self) -> Option<String> {
        self.binder.store().problem()
    }

    async fn remove(&self, volume: &VolumeId) -> OpResult<()> {
        self.binder.store().remove(volume).await.map_err(|e| failure(&e))
    }

    fn may_die(&self) -> bool {
        self.binder.store().may_die()
    }

    async fn disturbed(&self) {
        self.binder.store().client_ended().await;
    }

    async fn heal(&self, volume: &VolumeId, users: &[User]) -> OpResult<usize> {
        self.binder.heal(volume, users).await.map_err(|e| failure(&e))
    }

    async fn is_dead(&self, user: &User) -> bool {
        self.binder.is_dead(user).await
    }

    async fn cleanup(&self, in_use: &HashSet<VolumeId>) {
        let (store, is_used) = (self.binder.store(), |volume: &VolumeId| in_use.contains(volume));
        if self.dry_run {
            match store.unused(&is_used) {
                Ok(unused) if unused.is_empty() => {}
                Ok(unused) => {
                    tracing::info!(
                        ?unused,
                        "would give unused volumes back if VOLUME_CLEANUP_DRY_RUN were off"
                    )
                }
                Err(error) => tracing::warn!(%error, "could not look for unused volumes"),
            }
            return;
        }
        match store.cleanup(&is_used).await {
            Ok(removed) if removed.is_empty() => {}
            Ok(removed) => tracing::info!(?removed, "gave unused volumes back"),
            Err(error) => tracing::warn!(%error, "could not give unused volumes back"),
        }
    }
}

/// Time between two looks for unused volumes, at least.
pub(crate) const SHORTEST_CLEANUP: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_a_caller_got_wrong_is_a_bad_request() {
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(LocalVolumes::new(dir.path().join("volumes")));
        let volumes = HostVolumes::over(store, dir.path(), true);
        let mount = |id: &str, path: &str| VolumeMount {
            volume_id: id.to_owned(),
            mount_path: path.to_owned(),
            subpath: None,
        };
        let id = "b8c3a1d0-2f0e-4a56-8a44-6b3f1d2e9c70";
        let sandbox = SandboxId::random();
        let binds = volumes.mount(&sandbox, &[mount(id, "/data")]).await.unwrap();
        assert!(binds[0].ends_with(":/data") && binds[0].contains(id), "{binds:?}");
        for bad in [mount("../etc", "/data"), mount(id, "data"), mount(id, "/proc/x")] {
            assert_eq!(volumes.mount(&sandbox, &[bad]).await.unwrap_err().class, Class::BadRequest);
        }
    }

    /// An anchor that is looked for by another name than the kernel's would not be found, and stay behind its sandbox.
    #[test]
    fn mounts_are_staged_where_the_kernel_says_that_they_are() {
        let dir = tempfile::tempdir().unwrap();
        let (there, link) = (dir.path().canonicalize().unwrap().join("there"), dir.path().join("link"));
        std::fs::create_dir(&there).unwrap();
        std::os::unix::fs::symlink(&there, &link).unwrap();
        assert_eq!(staging(&link), there.join("volume-mounts"));
        assert_eq!(staging(&link.join("new")), there.join("new/volume-mounts"), "it is made");
    }
}
