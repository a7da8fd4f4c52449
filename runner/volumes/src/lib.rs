//! Volumes: storage that outlives sandboxes, on this host as a directory that containers bind.
//!
//! A [`VolumeStore`] makes a volume available ([`VolumeStore::ensure`]) as a host directory: a plain one ([`LocalVolumes`]) or an S3 bucket mounted once per node ([`S3Volumes`]). A
//! [`Binder`] turns a sandbox's mounts into bind strings, subpaths resolved so that nothing inside a volume can lead outside it, and heals them when a mount dies under running
//! sandboxes. This crate knows no jobs and no engine.

mod anchor;
mod binder;
mod heal;
mod local;
mod mounts;
mod s3;

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use pinfold_proto::id::{InvalidId, VolumeId};

pub use binder::Binder;
pub use heal::User;
pub use local::LocalVolumes;
pub use mounts::{Health, health};
pub use s3::{S3Credentials, S3Volumes};

/// Why a volume cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    /// The identifier would become part of a path.
    #[error(transparent)]
    Id(#[from] InvalidId),
    /// A path inside or outside the sandbox that cannot be a mount.
    #[error("{path:?} cannot be used as {what}: {reason}")]
    Path {
        /// The path as it was given.
        path: String,
        /// `mount path` or `subpath`.
        what: &'static str,
        /// Why not.
        reason: String,
    },
    /// A step on the file system failed.
    #[error("could not {step} {path}: {source}")]
    Io {
        /// What was tried.
        step: &'static str,
        /// On what.
        path: PathBuf,
        /// The system's word on it.
        source: std::io::Error,
    },
    /// No mount client is installed.
    #[error("no S3 mount client is installed: install mount-s3, or Debian's s3fs")]
    NoClient,
    /// The client did not come up.
    #[error("volume {volume} could not be mounted by {client}: {reason}")]
    Mount {
        /// Which volume.
        volume: VolumeId,
        /// Which program.
        client: &'static str,
        /// Its last words.
        reason: String,
    },
}

/// Makes volumes available on this host.
#[async_trait]
pub trait VolumeStore: std::fmt::Debug + Send + Sync {
    /// The directory of `volume`, mounted and healthy when this returns. Safe to call at the same time for the same volume.
    async fn ensure(&self, volume: &VolumeId) -> Result<PathBuf, VolumeError>;

    /// Whether what it gives out are mounts that can die while containers have them.
    fn may_die(&self) -> bool {
        false
    }

    /// Has the end of `volume`'s client told by [`VolumeStore::client_ended`], also of one that an earlier run started. Doing it again is harmless.
    async fn watch(&self, _volume: &VolumeId) {}

    /// Waits until a client that is watched has ended, or may have.
    async fn client_ended(&self) {
        std::future::pending().await
    }

    /// Why this store would not work on this host, if it would not.
    fn problem(&self) -> Option<String> {
        None
    }

    /// Removes what this host has of a deleted volume; nothing there is a success. The caller knows that no container uses it.
    async fn remove(&self, volume: &VolumeId) -> Result<(), VolumeError>;

    /// What [`VolumeStore::cleanup`] would remove. Asks no volume anything.
    fn unused(
        &self,
        _in_use: &(dyn for<'a> Fn(&'a VolumeId) -> bool + Sync),
    ) -> Result<Vec<VolumeId>, VolumeError> {
        Ok(Vec::new())
    }

    /// Removes what no container uses any more; `in_use` says which volumes are. Returns what was removed.
    async fn cleanup(
        &self,
        in_use: &(dyn for<'a> Fn(&'a VolumeId) -> bool + Sync),
    ) -> Result<Vec<VolumeId>, VolumeError>;
}

/// A store that may be shared.
pub type SharedStore = Arc<dyn VolumeStore>;
