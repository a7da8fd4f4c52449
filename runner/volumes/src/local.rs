//! Volumes as directories of this host: POSIX-complete, and all that one machine needs.

use std::path::PathBuf;

use async_trait::async_trait;
use pinfold_proto::id::VolumeId;

use crate::mounts::has_mounts;
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

    async fn remove(&self, volume: &VolumeId) -> Result<(), VolumeError> {
        let path = self.root.join(volume.as_str());
        let failed =
            |source| VolumeError::Io { step: "remove the volume directory", path: path.clone(), source };
        // Removal goes down into other file systems: what an operator mounted there is not the volume's.
        let mountinfo = tokio::fs::read_to_string("/proc/self/mountinfo").await.map_err(failed)?;
        if has_mounts(&mountinfo, &path) {
            return Err(failed(std::io::Error::new(
                std::io::ErrorKind::ResourceBusy,
                "something is mounted in it",
            )));
        }
        match tokio::fs::remove_dir_all(&path).await {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(failed(error)),
            _ => Ok(()),
        }
    }

    async fn cleanup(
        &self,
        _in_use: &(dyn for<'a> Fn(&'a VolumeId) -> bool + Sync),
    ) -> Result<Vec<VolumeId>, VolumeError> {
        // The directory is the volume: only its deletion at the control plane may remove it.
        Ok(Vec::new())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_deleted_volume_is_removed_alone_and_twice() {
        let dir = tempfile::tempdir().unwrap();
        let store = LocalVolumes::new(dir.path().join("volumes"));
        let ids = ["b8c3a1d0-2f0e-4a56-8a44-6b3f1d2e9c70", "c8c3a1d0-2f0e-4a56-8a44-6b3f1d2e9c70"];
        let [gone, kept] = ids.map(|id| id.parse::<VolumeId>().unwrap());
        let outside = dir.path().join("outside");
        std::fs::write(&outside, "x").unwrap();
        let path = store.ensure(&gone).await.unwrap();
        std::fs::create_dir(path.join("deep")).unwrap();
        std::os::unix::fs::symlink(dir.path(), path.join("deep/link")).unwrap();
        let other = store.ensure(&kept).await.unwrap();
        for _ in 0..2 {
            store.remove(&gone).await.unwrap();
            assert!(!path.exists() && other.exists() && outside.exists());
        }
    }
}
