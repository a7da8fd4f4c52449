//! Registries of images: those that users' images come from, and our own, which holds backups and snapshots for all runners.
//!
//! Without one of our own, what runners make stays in their engines' stores, and only they can use it. What is in ours and needed no more is removed by
//! [`clean()`].

mod clean;
mod remote;

use std::sync::Arc;

use pinfold_proto::id::Secret;
use pinfold_proto::runner::payload;

use crate::store::mirror::Mirror;
use crate::store::registries::Registry;
use crate::store::{Result, Store};
use crate::time::iso;

pub(crate) use clean::{clean, leave};
pub(crate) use remote::Remote;

/// Where Docker Hub is known by.
const HUB: [&str; 4] = ["docker.io", "index.docker.io", "registry-1.docker.io", "registry.hub.docker.com"];
/// The project of our own registry that is used when none is configured.
const PROJECT: &str = "daytona";

/// All registries. Clones share everything.
#[derive(Debug, Clone)]
pub(crate) struct Registries {
    own: Option<payload::Registry>,
    /// Those of the users.
    pub(crate) all: Arc<Mirror<Registry>>,
}

impl Registries {
    /// Loads all registries. `own` is the configured one.
    pub(crate) async fn load(store: &Store, own: Option<payload::Registry>) -> Result<Self> {
        Ok(Self { own, all: Arc::new(Mirror::load(store).await?) })
    }

    /// Our own registry, if one is configured.
    pub(crate) fn own(&self) -> Option<payload::Registry> {
        self.own.clone()
    }

    /// The name of a locally named image in our own registry.
    pub(crate) fn in_own(&self, image: &str) -> Option<String> {
        let own = self.own.as_ref()?;
        Some(format!("{}/{}/{image}", own.url, own.project.as_deref().unwrap_or(PROJECT)))
    }

    /// Whether every runner can get this image from our own registry.
    pub(crate) fn holds(&self, reference: &str) -> bool {
        self.own.as_ref().is_some_and(|own| below(reference, &own.url))
    }

    /// What a backup made at `at` is called.
    pub(crate) fn backup_reference(&self, sandbox: &str, at: i64) -> String {
        let local = format!("backup-{sandbox}:{}", iso(at).replace([':', '.'], "-"));
        self.in_own(&local).unwrap_or(local)
    }

    /// What opens the registry of an image, the longest address that fits.
    pub(crate) fn of_image(&self, reference: &str) -> Option<payload::Registry> {
        if self.holds(reference) {
            return self.own();
        }
        let all = self.all.lock();
        let fitting = all.values().filter(|r| below(reference, &place(r)));
        fitting.max_by_key(|r| (place(r).len(), r.updated_at)).map(wire)
    }

    /// What opens the registries that a build's base images may be in.
    pub(crate) fn sources(&self) -> Vec<payload::Registry> {
        self.own.iter().cloned().chain(self.all.list().iter().map(wire)).collect()
    }
}

fn wire(r: &Registry) -> payload::Registry {
    payload::Registry {
        url: address(&r.url),
        project: Some(r.project.clone()).filter(|project| !project.is_empty()),
        username: Some(r.username.clone()),
        password: Some(Secret::new(r.password.clone())),
    }
}

/// An address without its scheme, Docker Hub's by one name.
pub(crate) fn address(url: &str) -> String {
    let bare = url.trim().trim_start_matches("https://").trim_start_matches("http://").trim_end_matches('/');
    let (host, path) = bare.split_once('/').unwrap_or((bare, ""));
    // Hub's API version is part of the address that its own clients are given.
    if HUB.contains(&host) && matches!(path, "" | "v1" | "v2") { HUB[0].to_owned() } else { bare.to_owned() }
}

/// The address and project that a registry's images are below.
fn place(r: &Registry) -> String {
    let url = address(&r.url);
    if r.project.is_empty() { url } else { format!("{url}/{}", r.project.trim_matches('/')) }
}

/// Whether an image is below an address. A first part without a dot, a port or `localhost` is no host: such an image is Docker Hub's.
fn below(reference: &str, place: &str) -> bool {
    let reference = reference.trim_start_matches("https://").trim_start_matches("http://");
    let first = reference.split('/').next().unwrap_or_default();
    let host = reference.contains('/') && (first.contains(['.', ':']) || first == "localhost");
    let full = if !host {
        format!("{}/{reference}", HUB[0])
    } else if HUB.contains(&first) {
        format!("{}{}", HUB[0], &reference[first.len()..])
    } else {
        reference.to_owned()
    };
    full.strip_prefix(place).is_some_and(|rest| rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_below_their_registry() {
        assert!(below("registry.test:5000/team/app:1", "registry.test:5000"));
        assert!(below("registry.test:5000/team/app:1", "registry.test:5000/team"));
        assert!(!below("registry.test:5000/team2/app:1", "registry.test:5000/team"));
        assert!(!below("registry.test:50/app:1", "registry.test:5000"));
        assert!(below("python:3.12", "docker.io") && below("a/b:1", "docker.io"));
        assert!(below("index.docker.io/a/b:1", "docker.io/a"));
        assert!(below("localhost/a:1", "localhost") && !below("localhost/a:1", "docker.io"));
    }

    #[test]
    fn addresses_have_no_scheme() {
        assert_eq!(address("https://ghcr.io/"), "ghcr.io");
        assert_eq!(address("http://host:5000/p"), "host:5000/p");
        for hub in ["https://index.docker.io/v1/", "registry.hub.docker.com", "docker.io"] {
            assert_eq!(address(hub), "docker.io", "{hub}");
        }
    }
}
