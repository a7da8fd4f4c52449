//! Volumes: directories at the runners, named by id, that outlive sandboxes. They are ready as soon as they have a row.

use pinfold_http::{ApiError, ApiResult};
use pinfold_proto::control::volume as wire;
use pinfold_proto::runner::payload::VolumeMount;

use crate::api::store_failed;
use crate::store::mirror::{Mirror, Row};
use crate::store::volumes::Volume;
use crate::store::{Result, Store};
use crate::time::{iso, now};

/// All volumes.
#[derive(Debug)]
pub(crate) struct Volumes {
    store: Store,
    all: Mirror<Volume>,
}

impl Volumes {
    /// Loads all volumes.
    pub(crate) async fn load(store: &Store) -> Result<Self> {
        Ok(Self { store: store.clone(), all: Mirror::load(store).await? })
    }

    /// All volumes, oldest first.
    pub(crate) fn list(&self) -> Vec<Volume> {
        self.all.list()
    }

    /// The volume with this id or name.
    pub(crate) fn find(&self, id_or_name: &str) -> Option<Volume> {
        let all = self.all.lock();
        all.get(id_or_name).or_else(|| all.values().find(|v| v.name == id_or_name)).cloned()
    }

    /// Makes a volume. Without a name it is named by its id.
    pub(crate) async fn create(&self, name: Option<String>) -> ApiResult<Volume> {
        let id = uuid::Uuid::new_v4().to_string();
        let name = name.filter(|name| !name.trim().is_empty()).unwrap_or_else(|| id.clone());
        let at = now();
        let volume = Volume { id, name, created_at: at, updated_at: at, last_used_at: None };
        let mut tx = self.store.begin().await.map_err(store_failed)?;
        // Under the writer's lock, so two creates of one name cannot both pass.
        if self.all.lock().values().any(|v| v.name == volume.name) {
            return Err(ApiError::conflict(format_args!("a volume named {:?} exists already", volume.name)));
        }
        volume.put(&mut tx).await.map_err(store_failed)?;
        tx.commit().await.map_err(store_failed)?;
        self.all.lock().insert(volume.id.clone(), volume.clone());
        Ok(volume)
    }

    /// Removes a volume.
    pub(crate) async fn delete(&self, id: &str) -> Result<()> {
        self.all.remove(id).await
    }

    /// Checks the mounts of a create and puts ids in the place of names.
    pub(crate) fn resolve(&self, mounts: Vec<VolumeMount>) -> ApiResult<Vec<VolumeMount>> {
        mounts.into_iter().map(|mount| self.resolve_one(mount)).collect()
    }

    fn resolve_one(&self, mut mount: VolumeMount) -> ApiResult<VolumeMount> {
        let found = self.find(&mount.volume_id);
        let volume =
            found.ok_or_else(|| ApiError::bad_request(format_args!("no volume {}", mount.volume_id)))?;
        check_mount_path(&mount.mount_path)?;
        if let Some(subpath) = &mount.subpath {
            check_subpath(subpath)?;
        }
        mount.volume_id = volume.id;
        mount.subpath = mount.subpath.filter(|subpath| !subpath.is_empty());
        Ok(mount)
    }

    /// Notes that volumes were mounted.
    pub(crate) async fn used(&self, mounts: &[VolumeMount]) -> Result<()> {
        if mounts.is_empty() {
            return Ok(());
        }
        let used: Vec<Volume> = mounts
            .iter()
            .filter_map(|mount| self.find(&mount.volume_id))
            .map(|volume| Volume { last_used_at: Some(now()), ..volume })
            .collect();
        let mut tx = self.store.begin().await?;
        for volume in &used {
            volume.put(&mut tx).await?;
        }
        tx.commit().await?;
        let mut all = self.all.lock();
        for volume in used {
            all.insert(volume.id.clone(), volume);
        }
        Ok(())
    }
}

/// A volume for the wire.
pub(crate) fn dto(volume: &Volume, org: &str) -> wire::Volume {
    wire::Volume {
        id: volume.id.clone(),
        name: volume.name.clone(),
        organization_id: org.to_owned(),
        state: "ready".to_owned(),
        created_at: iso(volume.created_at),
        updated_at: iso(volume.updated_at),
        last_used_at: volume.last_used_at.map(iso),
        error_reason: None,
    }
}

const SYSTEM: [&str; 9] = ["/proc", "/sys", "/dev", "/boot", "/etc", "/bin", "/sbin", "/lib", "/lib64"];

fn check_mount_path(path: &str) -> ApiResult<()> {
    let refuse = |why: &str| Err(ApiError::bad_request(format_args!("the mount path {path:?} {why}")));
    if !path.starts_with('/') {
        return refuse("is not absolute");
    }
    if path.trim_end_matches('/').is_empty() {
        return refuse("is the root");
    }
    if path.contains("//") || path.split('/').any(|part| part == "." || part == "..") {
        return refuse("has empty or relative parts");
    }
    let inside = |system: &str| path == system || path.starts_with(&format!("{system}/"));
    if SYSTEM.into_iter().any(inside) {
        return refuse("is inside a system directory");
    }
    Ok(())
}

fn check_subpath(path: &str) -> ApiResult<()> {
    let bad = path.starts_with('/')
        || path.contains("//")
        || path.split('/').any(|part| part == "." || part == "..");
    if bad {
        Err(ApiError::bad_request(format_args!("the subpath {path:?} is not a plain relative path")))
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_paths_stay_out_of_the_system() {
        for good in ["/data", "/home/daytona/v", "/etcetera"] {
            assert!(check_mount_path(good).is_ok(), "{good}");
        }
        for bad in ["", "data", "/", "//", "/a//b", "/a/../b", "/etc", "/proc/1", "/lib64/x", "/./a"] {
            assert!(check_mount_path(bad).is_err(), "{bad}");
        }
        for bad in ["/a", "a/../b", "a//b", ".."] {
            assert!(check_subpath(bad).is_err(), "{bad}");
        }
        assert!(check_subpath("a/b").is_ok());
    }
}
