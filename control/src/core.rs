//! What every part of the control plane can reach.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use http::HeaderMap;
use pinfold_proto::control::sandbox::{BackupState, DesiredState, SandboxState};
use pinfold_proxy::Proxy;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::Config;
use crate::events::Events;
use crate::images::{Images, Recipe};
use crate::jobs::Jobs;
use crate::keys::Keys;
use crate::pools::Pools;
use crate::registries::{Registries, Remote};
use crate::runners::Runners;
use crate::s3::ObjectStore;
use crate::sandbox::{Directory, Handle};
use crate::snapshots::Snapshots;
use crate::storage::Storage;
use crate::store::Store;
use crate::store::sandboxes::{self as table, Record};
use crate::tokens::Tokens;
use crate::volumes::Volumes;

/// How long the last activity of a sandbox may be in memory only.
const ACTIVITY_FLUSH: Duration = Duration::from_secs(20);

/// The control plane.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) config: Config,
    /// The only organization.
    pub(crate) org_id: String,
    pub(crate) started_at: i64,
    pub(crate) store: Store,
    pub(crate) keys: Keys,
    pub(crate) runners: Runners,
    pub(crate) jobs: Jobs,
    pub(crate) registries: Registries,
    /// Our own registry, to remove images from.
    pub(crate) remote: Option<Remote>,
    /// Something may have come to be needed no more in our own registry.
    pub(crate) leftovers: Notify,
    pub(crate) images: Images,
    pub(crate) snapshots: Snapshots,
    pub(crate) volumes: Volumes,
    pub(crate) pools: Pools,
    pub(crate) storage: Storage,
    /// The operator's object store, in place of the built-in one.
    pub(crate) s3: Option<Arc<ObjectStore>>,
    pub(crate) tokens: Tokens,
    pub(crate) directory: Arc<Directory>,
    pub(crate) events: Events,
    pub(crate) proxy: Proxy,
    pub(crate) stop: CancellationToken,
    pub(crate) tasks: TaskTracker,
    pub(crate) listening: OnceLock<SocketAddr>,
    pub(crate) ssh_listening: OnceLock<SocketAddr>,
    /// Where the object store is reached over TLS.
    pub(crate) storage_port: OnceLock<u16>,
    pub(crate) active: Activity,
}

/// Sandboxes whose last activity is newer in memory than in the store.
#[derive(Debug, Default)]
pub(crate) struct Activity {
    dirty: Mutex<HashSet<String>>,
    some: Notify,
}

impl Core {
    /// How clients reach us, without `/api`: as configured, else as the request says, else where we listen.
    pub(crate) fn base_url(&self, headers: Option<&HeaderMap>) -> String {
        if let Some(url) = &self.config.public_url {
            return url.clone();
        }
        let header = |name: &str| headers.and_then(|h| h.get(name)).and_then(|v| v.to_str().ok());
        let scheme = header("x-forwarded-proto").filter(|s| *s == "https").unwrap_or("http");
        if let Some(host) = header("host") {
            return format!("{scheme}://{host}");
        }
        format!("http://localhost:{}", self.port())
    }

    /// Where a client uploads build contexts. Python's refuses anything but TLS, and others trust no authority but their own.
    pub(crate) fn storage_url(&self, headers: &HeaderMap) -> String {
        let base = self.base_url(Some(headers));
        let source =
            headers.get("x-daytona-source").and_then(|value| value.to_str().ok()).unwrap_or_default();
        match self.storage_port.get() {
            // The asynchronous one calls itself `sdk-python-async`.
            Some(port) if base.starts_with("http://") && source.starts_with("sdk-python") => {
                format!("https://{}:{port}", self.public_host(headers))
            }
            _ => base,
        }
    }

    /// The port that clients use.
    pub(crate) fn port(&self) -> u16 {
        self.listening.get().map_or(self.config.bind.port(), SocketAddr::port)
    }

    /// Scheme and `:port` of preview links: the public address's.
    pub(crate) fn preview_parts(&self, headers: &HeaderMap) -> (String, String) {
        let base = self.base_url(Some(headers));
        let (scheme, authority) = base.split_once("://").unwrap_or(("http", &base));
        let authority = authority.split('/').next().unwrap_or_default();
        let port = authority.rsplit_once(':').map(|(_, port)| port).filter(|p| p.parse::<u16>().is_ok());
        (scheme.to_owned(), port.map(|p| format!(":{p}")).unwrap_or_default())
    }

    /// The host name alone under which the client reaches us.
    pub(crate) fn public_host(&self, headers: &HeaderMap) -> String {
        let base = self.base_url(Some(headers));
        let authority = base.split_once("://").map_or(base.as_str(), |(_, rest)| rest).split('/').next();
        let authority = authority.unwrap_or("localhost");
        match authority.rsplit_once(':') {
            Some((host, port)) if port.parse::<u16>().is_ok() => host.to_owned(),
            _ => authority.to_owned(),
        }
    }

    /// How a sandbox's image comes about.
    pub(crate) fn recipe(&self, record: &Record) -> Recipe {
        let built = record.build_ref.as_ref().filter(|reference| **reference == record.image);
        match built.and_then(|reference| self.images.build(reference)) {
            Some(build) => Recipe::Build(build),
            None => Recipe::Pull(record.image.clone()),
        }
    }

    /// Why a sandbox's runner cannot be reached, if it cannot.
    pub(crate) fn runner_lost(&self, r: &Record) -> Option<String> {
        self.runners.lost(r.runner_id.as_deref()?)
    }

    /// Whether what stops on this runner shall go elsewhere, and can.
    fn leaves(&self, runner: &str) -> bool {
        self.registries.own().is_some() && self.runners.get(runner).is_some_and(|runner| runner.draining)
    }

    /// Sends what is stopped on a runner elsewhere while it is drained, and calls back what has not gone when it is not any more.
    pub(crate) fn drain(self: &Arc<Self>, runner: &str) {
        let leaves = self.leaves(runner);
        self.pools.wake();
        for handle in self.directory.all() {
            let r = handle.record();
            if r.runner_id.as_deref() == Some(runner) && (leaves || r.task.moving) {
                self.tasks.spawn(move_away(handle, leaves));
            }
        }
    }

    /// A sandbox is in use.
    pub(crate) fn touch(&self, handle: &Handle) {
        handle.touch();
        let id = handle.record().id.clone();
        if self.active.dirty.lock().unwrap_or_else(PoisonError::into_inner).insert(id) {
            self.active.some.notify_one();
        }
    }

    /// Writes last activities down, some time after they happened and all of them together.
    pub(crate) async fn flush_activity(self: Arc<Self>) {
        loop {
            tokio::select! {
                () = self.active.some.notified() => {}
                () = self.stop.cancelled() => return,
            }
            tokio::select! {
                () = tokio::time::sleep(ACTIVITY_FLUSH) => {}
                // Each owner task writes its own at the end.
                () = self.stop.cancelled() => return,
            }
            let dirty =
                std::mem::take(&mut *self.active.dirty.lock().unwrap_or_else(PoisonError::into_inner));
            let flushed = async {
                let mut tx = self.store.begin().await?;
                for handle in dirty.iter().filter_map(|id| self.directory.find(id)) {
                    table::touch(&mut tx, &handle.record().id, handle.last_activity()).await?;
                }
                tx.commit().await
            };
            if let Err(error) = flushed.await {
                tracing::warn!(%error, "could not store last activities");
            }
        }
    }

    /// What a change of one sandbox means for others: those linked to it go with it, and a pool that lost it is filled.
    pub(crate) fn sandbox_changed(self: &Arc<Self>, new: &Record, gone: bool) {
        if new.warm_pool_id.is_some()
            && (gone || matches!(new.state, SandboxState::Stopped | SandboxState::Error))
        {
            self.pools.wake();
        }
        if !gone {
            // What has just failed is not tried again at once.
            let rests = new.state == SandboxState::Stopped
                && new.desired == DesiredState::Stopped
                && new.error_reason.is_none();
            let known = rests.then(|| self.directory.find(&new.id)).flatten();
            if let Some(handle) = known.filter(|_| !new.task.moving && !new.ephemeral()) {
                if new.runner_id.as_deref().is_some_and(|runner| self.leaves(runner)) {
                    self.tasks.spawn(move_away(handle, true));
                } else if self.config.backup_on_stop && new.backup.state == BackupState::None {
                    self.tasks.spawn(back_up(handle));
                }
            }
            return;
        }
        self.leftovers.notify_one();
        self.follow();
    }

    /// Those whose parent goes, or is gone already, go with it. The two are stored one after the other, so one may have been missed before: by an end of
    /// ours in between, or because it was made in that moment.
    pub(crate) fn follow(self: &Arc<Self>) {
        let orphaned = |handle: &Handle| {
            let r = handle.record();
            let Some(parent) = r.linked_sandbox_id.as_deref().map(|parent| self.directory.find(parent))
            else {
                return false;
            };
            r.desired != DesiredState::Destroyed
                && parent.is_none_or(|parent| parent.record().desired == DesiredState::Destroyed)
        };
        for handle in self.directory.all().into_iter().filter(orphaned) {
            self.tasks.spawn(async move {
                let _ = handle
                    .change(|r| {
                        r.desired = DesiredState::Destroyed;
                        Ok(())
                    })
                    .await;
            });
        }
    }
}

/// Marks a stopped sandbox as one that is to leave its runner, or that is to stay.
async fn move_away(handle: Handle, leave: bool) {
    // What changed meanwhile is looked at again when it stops.
    let _ = handle
        .change(move |r| {
            let rests = r.state == SandboxState::Stopped && r.desired == DesiredState::Stopped;
            r.task.moving = rests && leave;
            if r.task.moving && r.backup.state == BackupState::Error {
                r.backup.state = BackupState::None;
            }
            Ok(())
        })
        .await;
}

async fn back_up(handle: Handle) {
    let _ = handle
        .change(|r| {
            if r.state == SandboxState::Stopped && r.backup.state == BackupState::None {
                r.backup.state = BackupState::Pending;
            }
            Ok(())
        })
        .await;
}
