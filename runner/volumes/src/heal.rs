//! Healing under running sandboxes: what they have of a volume whose mount has died is replaced in place.
//!
//! What a sandbox has is read off the mounts themselves, so that a runner that was just started knows as much as one that made them. A mount that is alive is never touched, whoever
//! serves it. Whatever asks a volume something has a deadline, because the thing being healed may not answer.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;

use futures_util::future::join_all;
use pinfold_proto::id::{SandboxId, VolumeId};
use pinfold_proto::runner::payload::VolumeMount;

use crate::binder::{blocking, open_beneath, subpath};
use crate::mounts::{Health, layers, mountinfo, probe};
use crate::{Binder, VolumeError, anchor};

/// A part of a volume that does not open within this is left for the next attempt.
const RENEWAL_DEADLINE: Duration = Duration::from_secs(30);

/// A running sandbox and its mounts, in the order in which they were bound.
pub type User = (SandboxId, Vec<VolumeMount>);

/// A place where a sandbox has something of a volume.
struct Place {
    at: PathBuf,
    subpath: String,
    /// The file system that is seen there.
    device: String,
}

impl Binder {
    /// Mounts `volume` anew where `users`, which are running, have dead mounts of it, and returns how many of those were replaced; none is the usual.
    /// A container sees the new one in the old one's place. One that was not bound by us (`rslave`) keeps what it has.
    ///
    /// # Errors
    ///
    /// The first of what failed; the rest is done, and another call does what is left.
    pub async fn heal(&self, volume: &VolumeId, users: &[User]) -> Result<usize, VolumeError> {
        let places = self.dead_places(volume, users).await;
        if places.is_empty() {
            return Ok(0);
        }
        let root = self.store().ensure(volume).await?;
        let renewals = places.into_iter().map(|Place { at, subpath, device }| {
            let (root, path) = (root.clone(), at.clone());
            let failed = move |source| VolumeError::Io { step: "heal", path, source };
            let work = blocking(move || {
                let directory = open_beneath(&root, &subpath)?;
                anchor::renew(&directory, &at, &device).map_err(|source| VolumeError::Io {
                    step: "heal",
                    path: at,
                    source,
                })
            });
            async move {
                let done = tokio::time::timeout(RENEWAL_DEADLINE, work).await;
                done.unwrap_or_else(|_| Err(failed(std::io::ErrorKind::TimedOut.into())))
            }
        });
        let done: Result<Vec<bool>, VolumeError> = join_all(renewals).await.into_iter().collect();
        Ok(done?.into_iter().filter(|renewed| *renewed).count())
    }

    /// Where `users` have a dead mount of `volume`. Each file system is asked once, however many have it.
    async fn dead_places(&self, volume: &VolumeId, users: &[User]) -> Vec<Place> {
        let mountinfo = mountinfo();
        let all = users.iter().flat_map(|(sandbox, mounts)| {
            mounts.iter().enumerate().map(move |(index, mount)| (sandbox, index, mount))
        });
        let mut places: HashMap<String, Vec<Place>> = HashMap::new();
        for (sandbox, index, mount) in all.filter(|(.., mount)| mount.volume_id == volume.as_str()) {
            let at = self.staged(sandbox, index);
            if let Some(device) = layers(&mountinfo, &at).pop() {
                let place = Place { at, subpath: subpath(mount), device: device.clone() };
                places.entry(device).or_default().push(place);
            }
        }
        if !places.is_empty() {
            self.store().watch(volume).await;
        }
        let asked = places.into_values().map(async |places| match places.first() {
            Some(place) if probe(&place.at).await == Health::Dead => places,
            _ => Vec::new(),
        });
        join_all(asked).await.into_iter().flatten().collect()
    }

    /// Whether something that was bound for a sandbox is dead.
    pub async fn is_dead(&self, user: &User) -> bool {
        let ids = user.1.iter().filter_map(|mount| mount.volume_id.parse::<VolumeId>().ok());
        let users = std::slice::from_ref(user);
        let all = ids.map(async |volume| !self.dead_places(&volume, users).await.is_empty());
        self.store().may_die() && join_all(all).await.contains(&true)
    }
}
