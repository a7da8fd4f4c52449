//! Images: pulls with single flight, a cache that engine events empty, builds with logs to follow, backups and snapshots of sandboxes.

mod backup;
mod build;
mod context;
mod flights;
mod inspect;
mod logs;
mod newest;
mod pull;
mod reference;
mod registry;
mod retired;
mod snapshot;

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pinfold_engine::{Credentials, Image};
use pinfold_proto::runner::payload::{Registry, SnapshotInfo};
use tokio::time::Instant;

use crate::config::Config;
use crate::error::{Class, OpError, OpResult};

pub use backup::{BackupState, Backups};
use flights::Flights;
pub use logs::{BuildLogs, LogStream};
use newest::Looks;
pub(crate) use reference::build_id;
use retired::Retired;

/// Most failures that are remembered for push-mode callers.
const REMEMBERED: usize = 1024;
/// Most images whose inspection is kept.
const CACHED: usize = 4096;

/// The state of images: pulls under way, inspections, failures that push-mode callers ask for later, build logs.
#[derive(Debug)]
pub struct Images {
    pulls: Flights<Image>,
    looks: Looks,
    cache: Mutex<HashMap<String, Image>>,
    failures: Mutex<HashMap<String, (Instant, OpError)>>,
    retention: Duration,
    /// Why the last exchange with a registry failed, if it did.
    unreached: Mutex<Option<String>>,
    retired: Retired,
    /// Build logs.
    pub logs: BuildLogs,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Images {
    /// Nothing under way and nothing known.
    pub fn new(config: &Config) -> Self {
        Self {
            pulls: Flights::default(),
            looks: Looks::default(),
            cache: Mutex::default(),
            failures: Mutex::default(),
            retention: config.snapshot_error_retention,
            unreached: Mutex::default(),
            retired: Retired::open(&config.data_dir.join("retired-images.json")),
            logs: BuildLogs::new(config.build_log_dir.clone()),
        }
    }

    /// Forgets all inspections: some image changed.
    pub fn invalidate(&self) {
        lock(&self.cache).clear();
    }

    /// Notes how an exchange with a registry went. One that refuses something is there.
    fn note_exchange<T>(&self, result: &OpResult<T>) {
        let reason = match result {
            Err(error) if matches!(error.class, Class::Internal | Class::Timeout) => {
                Some(error.message.clone())
            }
            _ => None,
        };
        *lock(&self.unreached) = reason;
    }

    /// Why the last exchange with a registry failed, if it did.
    pub(crate) fn registry_problem(&self) -> Option<String> {
        lock(&self.unreached).clone()
    }

    /// Forgets what nobody will ask for any more.
    pub(crate) fn tidy(&self) {
        self.looks.tidy();
        lock(&self.failures).retain(|_, (at, _)| at.elapsed() < self.retention);
    }

    /// Its tables, and how many entries they have.
    pub(crate) fn tables(&self) -> [(&'static str, usize); 5] {
        [
            ("pulls", self.pulls.len()),
            ("image_looks", self.looks.len()),
            ("images", lock(&self.cache).len()),
            ("image_failures", lock(&self.failures).len()),
            ("build_logs", self.logs.running()),
        ]
    }

    fn cached(&self, reference: &str) -> Option<Image> {
        lock(&self.cache).get(reference).cloned()
    }

    fn remember(&self, reference: &str, image: &Image) {
        let mut cache = lock(&self.cache);
        if cache.len() >= CACHED {
            cache.clear();
        }
        cache.insert(reference.to_owned(), image.clone());
    }

    /// Remembers why a pull or build failed, for callers that ask later (runner contract 4.16).
    pub fn note_failure(&self, key: &str, error: &OpError) {
        let mut failures = lock(&self.failures);
        let retention = self.retention;
        failures.retain(|_, (at, _)| at.elapsed() < retention);
        if failures.len() < REMEMBERED {
            failures.insert(key.to_owned(), (Instant::now(), error.clone()));
        }
    }

    /// Forgets a remembered failure.
    pub fn clear_failure(&self, key: &str) {
        lock(&self.failures).remove(key);
    }

    /// Why the last pull or build of `key` failed, while that is remembered.
    pub fn failure(&self, key: &str) -> Option<OpError> {
        lock(&self.failures)
            .get(key)
            .filter(|(at, _)| at.elapsed() < self.retention)
            .map(|(_, error)| error.clone())
    }
}

/// The registry's credentials, when it has both parts.
pub(crate) fn credentials(registry: Option<&Registry>) -> Option<Credentials> {
    let (username, password) = registry?.credentials()?;
    Some(Credentials { username: username.to_owned(), password: password.clone() })
}

/// An image as control planes read it (runner contract 7.8).
pub(crate) fn info(name: &str, image: &Image) -> SnapshotInfo {
    let list = |l: &[String]| Some(l.to_vec()).filter(|l| !l.is_empty());
    SnapshotInfo {
        name: name.to_owned(),
        size_gb: gib(image.size),
        entrypoint: list(&image.entrypoint),
        cmd: list(&image.cmd),
        hash: reference::digest_of(name, image),
    }
}

#[expect(clippy::cast_precision_loss, reason = "sizes far above 2^53 bytes do not occur")]
pub(crate) fn gib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 30)
}
