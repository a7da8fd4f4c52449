//! Volumes as directories of this host: POSIX-complete, and all that one machine needs.

use std::path::PathBuf;

use async_trait::async_trait;
use pinfold_proto::id::VolumeId;

use crate::{VolumeError, VolumeStore};

/// One directory for each volume below a root.
#[derive(Debug)]
pub struct LocalVolumes {
    root: PathBuf,
}

impl LocalVolumes {
    /// Volumes below `root`, which is made when it is needed.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }
}

#[async_trait]
impl VolumeStore for LocalVolumes {
    async fn ensure(&self, volume: &VolumeId) -> Result<PathBuf, VolumeError> {
        let path = self.root.join(volume.as_str());
        let failed =
            |source| VolumeError::Io { step: "make the volume directory", path: path.clone(), source };
        if !tokio::fs::try_exists(&path).await.map_err(failed)? {
            tokio::fs::create_dir_all(&path).await.map_err(failed)?;
            // Sandboxes of any user share it, as they would a bucket.
            let everybody = std::os::unix::fs::PermissionsExt::from_mode(0o777);
            tokio::fs::set_permissions(&path, everybody).await.map_err(failed)?;
        }
        Ok(path)
    }

    async fn cleanup(
        &self,
        _in_use: &(dyn for<'a> Fn(&'a VolumeId) -> bool + Sync),
    ) -> Result<Vec<VolumeId>, VolumeError> {
        // The directory is the volume: only its deletion at the control plane may remove it.
        Ok(Vec::new())
    }
}
