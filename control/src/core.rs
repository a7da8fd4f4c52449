//! What every part of the control plane can reach.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use http::HeaderMap;
use pinfold_proto::control::sandbox::{DesiredState, SandboxState};
use pinfold_proxy::Proxy;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::Config;
use crate::events::Events;
use crate::images::{Images, Recipe};
use crate::jobs::Jobs;
use crate::keys::Keys;
use crate::pools::{self, Pools};
use crate::runners::Runners;
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
    pub(crate) images: Images,
    pub(crate) snapshots: Snapshots,
    pub(crate) volumes: Volumes,
    pub(crate) pools: Pools,
    pub(crate) storage: Storage,
    pub(crate) tokens: Tokens,
    pub(crate) directory: Arc<Directory>,
    pub(crate) events: Events,
    pub(crate) proxy: Proxy,
    pub(crate) stop: CancellationToken,
    pub(crate) tasks: TaskTracker,
    pub(crate) listening: OnceLock<SocketAddr>,
    pub(crate) ssh_listening: OnceLock<SocketAddr>,
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
            pools::fill(self);
        }
        if !gone {
            return;
        }
        let linked = |handle: &Handle| handle.record().linked_sandbox_id.as_deref() == Some(&new.id);
        for handle in self.directory.all().into_iter().filter(linked) {
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
