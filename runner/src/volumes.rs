//! The seam to volumes, and the implementation that needs no object store: local directories under the data directory.

use std::collections::HashSet;
use std::path::{Component, Path, PathBuf};

use async_trait::async_trait;
use pinfold_proto::id::VolumeId;
use pinfold_proto::runner::payload::VolumeMount;

use crate::error::{Class, OpError, OpResult};

/// A host directory mounted into a sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bind {
    /// On the host.
    pub source: PathBuf,
    /// In the sandbox.
    pub target: String,
}

impl Bind {
    /// As engines write it: read-write, trailing slashes on both sides (runner contract 8.3).
    pub fn text(&self) -> String {
        let slash = |s: &str| if s.ends_with('/') { s.to_owned() } else { format!("{s}/") };
        format!("{}:{}", slash(&self.source.to_string_lossy()), slash(&self.target))
    }
}

/// Makes volumes available on this host.
#[async_trait]
pub trait Volumes: Send + Sync + 'static {
    /// Makes all `mounts` available, in parallel, and returns their binds in order. Doing it again is harmless.
    async fn mount(&self, mounts: &[VolumeMount]) -> OpResult<Vec<Bind>>;

    /// Releases what no container uses; `in_use` are the host paths mounted into existing containers, running or not.
    async fn cleanup(&self, in_use: &HashSet<PathBuf>);
}

/// Volumes that are directories of this host: `<base>/<volume id>`. They are never deleted here; the control plane's word is needed.
#[derive(Debug, Clone)]
pub struct LocalVolumes {
    base: PathBuf,
}

impl LocalVolumes {
    /// Volumes under `base`.
    pub fn new(base: impl Into<PathBuf>) -> Self {
        Self { base: base.into() }
    }
}

/// The directory of a subpath, which must stay below its volume: component by component, and after symlinks.
fn subdirectory(root: &Path, subpath: &str) -> OpResult<PathBuf> {
    let outside =
        || OpError::new(Class::BadRequest, format!("the volume subpath {subpath:?} leaves its volume"));
    if Path::new(subpath).components().any(|c| !matches!(c, Component::Normal(_) | Component::CurDir)) {
        return Err(outside());
    }
    let failed =
        |e: std::io::Error| OpError::new(Class::Internal, format!("volume subpath {subpath:?}: {e}"));
    let mut path = root.canonicalize().map_err(failed)?;
    let root = path.clone();
    for component in Path::new(subpath).components() {
        path.push(component);
        match std::fs::create_dir(&path) {
            Ok(()) => {}
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(failed(e)),
        }
        path = path.canonicalize().map_err(failed)?;
        if !path.starts_with(&root) {
            return Err(outside());
        }
    }
    Ok(path)
}

#[async_trait]
impl Volumes for LocalVolumes {
    async fn mount(&self, mounts: &[VolumeMount]) -> OpResult<Vec<Bind>> {
        let (base, mounts) = (self.base.clone(), mounts.to_vec());
        let make = move || {
            let one = |mount: &VolumeMount| {
                let invalid =
                    |e: pinfold_proto::id::InvalidId| OpError::new(Class::BadRequest, e.to_string());
                let id: VolumeId = mount.volume_id.parse().map_err(invalid)?;
                let root = base.join(id.as_str());
                let failed =
                    |e| OpError::new(Class::Internal, format!("volume {id}: {}: {e}", root.display()));
                std::fs::create_dir_all(&root).map_err(failed)?;
                // Any user of a sandbox may write to a volume, as with the mount options of an object store.
                let mode = <std::fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o777);
                std::fs::set_permissions(&root, mode).map_err(failed)?;
                let source = subdirectory(&root, mount.subpath.as_deref().unwrap_or_default())?;
                Ok(Bind { source, target: mount.mount_path.clone() })
            };
            mounts.iter().map(one).collect()
        };
        tokio::task::spawn_blocking(make)
            .await
            .map_err(|e| OpError::new(Class::Internal, format!("volumes: {e}")))?
    }

    async fn cleanup(&self, _in_use: &HashSet<PathBuf>) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(id: &str, subpath: Option<&str>) -> VolumeMount {
        VolumeMount {
            volume_id: id.to_owned(),
            mount_path: "/data".to_owned(),
            subpath: subpath.map(str::to_owned),
        }
    }

    #[tokio::test]
    async fn directories_are_made_and_stay_inside() {
        let dir = tempfile::tempdir().unwrap();
        let volumes = LocalVolumes::new(dir.path());
        let id = "b8c3a1d0-2f0e-4a56-8a44-6b3f1d2e9c70";
        let binds = volumes.mount(&[mount(id, None), mount(id, Some("a/b"))]).await.unwrap();
        assert!(binds[1].source.ends_with(format!("{id}/a/b")) && binds[1].source.is_dir());
        assert!(binds[1].text().ends_with("/a/b/:/data/"), "{}", binds[1].text());
        std::os::unix::fs::symlink("/etc", dir.path().join(id).join("out")).unwrap();
        for bad in ["../x", "/etc", "a/../../x", "out"] {
            let error = volumes.mount(&[mount(id, Some(bad))]).await.unwrap_err();
            assert_eq!(error.class, Class::BadRequest, "{bad}");
        }
        assert!(volumes.mount(&[mount("../etc", None)]).await.is_err());
    }
}
