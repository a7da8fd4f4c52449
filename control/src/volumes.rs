//! Volumes: directories at the runners or buckets of the operator's object store, named by id, that outlive sandboxes.
//!
//! A volume has a row before it has a bucket, and until its bucket is gone, so that nothing of it is forgotten when the process ends in between. One
//! that is being deleted is no volume any more for users; its name is free at once.

use std::collections::BTreeSet;
use std::sync::Arc;

use pinfold_http::{ApiError, ApiResult};
use pinfold_proto::control::volume as wire;
use pinfold_proto::runner::job::JobKind;
use pinfold_proto::runner::payload::VolumeMount;

use crate::api::store_failed;
use crate::core::Core;
use crate::events;
use crate::store::jobs::{self as job_table, JobRow};
use crate::store::mirror::Mirror;
use crate::store::volumes::{Volume, VolumeState};
use crate::store::{Result, Store};
use crate::time::{iso, now};

/// All volumes.
#[derive(Debug)]
pub(crate) struct Volumes {
    all: Mirror<Volume>,
}

impl Volumes {
    /// Loads all volumes.
    pub(crate) async fn load(store: &Store) -> Result<Self> {
        Ok(Self { all: Mirror::load(store).await? })
    }

    /// All volumes but those that are being deleted, oldest first.
    pub(crate) fn list(&self) -> Vec<Volume> {
        let mut all = self.all.list();
        all.retain(|volume| volume.state != VolumeState::Deleting);
        all
    }

    /// The volume with this id or name.
    pub(crate) fn find(&self, id_or_name: &str) -> Option<Volume> {
        let all = self.all.lock();
        let found = all.get(id_or_name).or_else(|| all.values().find(|v| v.name == id_or_name));
        found.filter(|volume| volume.state != VolumeState::Deleting).cloned()
    }

    /// Makes a volume. Without a name it is named by its id.
    pub(crate) async fn create(&self, core: &Core, name: Option<String>) -> ApiResult<Volume> {
        let id = uuid::Uuid::new_v4().to_string();
        let name = name.filter(|name| !name.trim().is_empty()).unwrap_or_else(|| id.clone());
        let at = now();
        let state = if core.s3.is_some() { VolumeState::Creating } else { VolumeState::Ready };
        let mut volume = Volume {
            id,
            name,
            state,
            error_reason: None,
            created_at: at,
            updated_at: at,
            last_used_at: None,
        };
        let named = |other: &Volume| other.name == volume.name;
        if !self.all.insert_unless(volume.clone(), named).await.map_err(store_failed)? {
            return Err(ApiError::conflict(format_args!("a volume named {:?} exists already", volume.name)));
        }
        if let Some(s3) = &core.s3 {
            if let Err(error) = s3.make_volume(&volume.id).await {
                self.all.remove(&volume.id).await.map_err(store_failed)?;
                return Err(ApiError::unavailable(format_args!("the volume could not be made: {error}"))
                    .code("OBJECT_STORE_UNAVAILABLE"));
            }
            let made = self.all.change(&volume.id, |volume| {
                if volume.state == VolumeState::Creating {
                    volume.state = VolumeState::Ready;
                }
            });
            volume = made.await.map_err(store_failed)?.unwrap_or(volume);
        }
        core.events.emit("volume.created", || json(core, &volume));
        Ok(volume)
    }

    /// Takes a volume from its users; what is in it is removed in the background.
    pub(crate) async fn delete(&self, core: &Arc<Core>, id: &str) -> Result<()> {
        let deleting = self.change(core, id, |volume| {
            volume.name = volume.id.clone();
            volume.state = VolumeState::Deleting;
            volume.error_reason = None;
        });
        if let Some(volume) = deleting.await? {
            core.tasks.spawn(settle(core.clone(), volume));
        }
        Ok(())
    }

    /// Changes a volume, and tells the event sockets of its state if that is another.
    async fn change(
        &self,
        core: &Core,
        id: &str,
        change: impl FnOnce(&mut Volume),
    ) -> Result<Option<Volume>> {
        let mut old = None;
        let changed = self.all.change(id, |volume| {
            old = Some(volume.state);
            change(volume);
            volume.updated_at = now();
        });
        let changed = changed.await?;
        if let (Some(old), Some(volume)) = (old, &changed)
            && old != volume.state
        {
            tell_state(core, volume, old.as_str(), volume.state.as_str());
        }
        Ok(changed)
    }

    /// Checks the mounts of a create and puts ids in the place of names.
    pub(crate) fn resolve(&self, mounts: Vec<VolumeMount>) -> ApiResult<Vec<VolumeMount>> {
        mounts.into_iter().map(|mount| self.resolve_one(mount)).collect()
    }

    fn resolve_one(&self, mut mount: VolumeMount) -> ApiResult<VolumeMount> {
        let found = self.find(&mount.volume_id);
        let volume =
            found.ok_or_else(|| ApiError::bad_request(format_args!("no volume {}", mount.volume_id)))?;
        if volume.state != VolumeState::Ready {
            return Err(ApiError::bad_request(format_args!(
                "the volume {} is {}, and has to be ready",
                volume.name,
                volume.state.as_str()
            )));
        }
        check_mount_path(&mount.mount_path)?;
        if let Some(subpath) = &mount.subpath {
            check_subpath(subpath)?;
        }
        mount.volume_id = volume.id;
        mount.subpath = mount.subpath.filter(|subpath| !subpath.is_empty());
        Ok(mount)
    }

    /// Notes that volumes were mounted, and tells the event sockets.
    pub(crate) async fn used(&self, core: &Core, mounts: &[VolumeMount]) -> Result<()> {
        let used: BTreeSet<String> =
            mounts.iter().filter_map(|mount| self.find(&mount.volume_id)).map(|volume| volume.id).collect();
        for id in used {
            let changed = self.all.change(&id, |volume| volume.last_used_at = Some(now())).await?;
            if let Some(volume) = changed {
                core.events.emit("volume.last-used-at.updated", || json(core, &volume));
            }
        }
        Ok(())
    }
}

/// Goes on with what was under way when the process ended.
pub(crate) fn resume(core: &Arc<Core>) {
    let under_way = |volume: &Volume| matches!(volume.state, VolumeState::Creating | VolumeState::Deleting);
    for volume in core.volumes.all.list().into_iter().filter(under_way) {
        core.tasks.spawn(settle(core.clone(), volume));
    }
}

/// Makes a volume's bucket, or removes what is in a volume.
async fn settle(core: Arc<Core>, volume: Volume) {
    let gone = volume.state == VolumeState::Deleting;
    let work = async {
        match &core.s3 {
            Some(s3) if gone => s3.remove_volume(&volume.id).await.map_err(|error| error.to_string()),
            Some(s3) => s3.make_volume(&volume.id).await.map_err(|error| error.to_string()),
            None if gone => remove_directories(&core, &volume).await,
            None => Ok(()),
        }
    };
    let done = tokio::select! {
        done = work => done,
        // Gone on with at the next start.
        () = core.stop.cancelled() => return,
    };
    let stored = match done {
        Ok(()) if gone => core.volumes.all.remove(&volume.id).await.inspect(|()| {
            tell_state(&core, &volume, VolumeState::Deleting.as_str(), DELETED);
        }),
        outcome => {
            if let Err(reason) = &outcome {
                tracing::warn!(volume = volume.id, reason, "a volume could not be made or removed");
            }
            let change = |now: &mut Volume| {
                // A delete that has come meanwhile has a task of its own.
                if now.state == volume.state {
                    now.state = if outcome.is_ok() { VolumeState::Ready } else { VolumeState::Error };
                    now.error_reason = outcome.err();
                }
            };
            core.volumes.change(&core, &volume.id, change).await.map(drop)
        }
    };
    if let Err(error) = stored {
        tracing::warn!(%error, "could not store what became of a volume");
    }
}

/// Removes a volume's directory here, and asks runners elsewhere to remove theirs: each has one once a sandbox there had the volume.
async fn remove_directories(core: &Core, volume: &Volume) -> std::result::Result<(), String> {
    if volume.last_used_at.is_some() {
        let asked = async {
            let mut tx = core.store.begin().await?;
            for runner in core.runners.list() {
                let job = JobRow::pending(&runner.id, JobKind::RemoveVolume, "VOLUME", &volume.id, None);
                job_table::insert(&mut tx, &job).await?;
            }
            tx.commit().await
        };
        asked.await.map_err(|error| format!("its runners could not be asked to remove it: {error}"))?;
        core.runners.list().iter().for_each(|runner| core.jobs.wake(&runner.id));
    }
    let path = core.config.volume_dir.join(&volume.id);
    match tokio::fs::remove_dir_all(&path).await {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(format!("{} could not be removed: {error}", path.display()))
        }
        _ => Ok(()),
    }
}

/// The contract's word for a volume whose row is gone.
const DELETED: &str = "deleted";

fn tell_state(core: &Core, volume: &Volume, old: &str, new: &str) {
    core.events.emit("volume.state.updated", || {
        let told = wire::Volume { state: new.to_owned(), ..dto(volume, &core.org_id) };
        events::changed("volume", serde_json::to_value(told).unwrap_or_default(), "State", old, new)
    });
}

fn json(core: &Core, volume: &Volume) -> serde_json::Value {
    serde_json::to_value(dto(volume, &core.org_id)).unwrap_or_default()
}

/// A volume for the wire.
pub(crate) fn dto(volume: &Volume, org: &str) -> wire::Volume {
    wire::Volume {
        id: volume.id.clone(),
        name: volume.name.clone(),
        organization_id: org.to_owned(),
        state: volume.state.as_str().to_owned(),
        created_at: iso(volume.created_at),
        updated_at: iso(volume.updated_at),
        last_used_at: volume.last_used_at.map(iso),
        error_reason: volume.error_reason.clone(),
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
