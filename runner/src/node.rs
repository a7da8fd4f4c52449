//! What every part of the runner shares: the engine, the index, the seams, the node's network. Operations live in [`crate::sandbox`] and
//! [`crate::images`]; this module only holds things together.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pinfold_engine::{Engine, EngineError, EngineInfo, Network, NetworkSpec};
use pinfold_network::AddressPool;
use pinfold_proto::id::{SandboxId, VolumeId};
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::daemon::InstalledDaemon;
use crate::error::{Class, OpError, OpResult, RunError};
use crate::images::Images;
use crate::index::Index;
use crate::observe::Counters;
use crate::policy::NetworkPolicy;
use crate::records::Records;
use crate::sandbox::{Backups, LateStarts, Owners};
use crate::sync::News;
use crate::volumes::{SHORTEST_CLEANUP, Volumes};

/// The isolated sandbox network (runner contract 9.1).
const ISOLATED: &str = "runner-bridge";
/// The sandbox network when sandboxes may reach each other.
const SHARED: &str = "runner-shared";
/// Attempts for calls whose failure may pass, and the first pause between them, which doubles.
pub(crate) const ATTEMPTS: u32 = 5;
pub(crate) const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// How long an engine call that we no longer wait for may still take effect.
const DESTROYED_FOR: Duration = Duration::from_secs(150);

/// One node, shared by all its tasks.
pub struct Node {
    /// The configuration.
    pub config: Config,
    /// The engine.
    pub engine: Arc<dyn Engine>,
    /// What kind of engine it is.
    pub info: EngineInfo,
    /// This node's sandboxes.
    pub index: Index,
    /// Their owner tasks.
    pub owners: Owners,
    /// What is remembered of them.
    pub records: Records,
    /// Network policy.
    pub policy: Arc<dyn NetworkPolicy>,
    /// Volumes.
    pub volumes: Arc<dyn Volumes>,
    /// The sandbox network.
    pub network: Network,
    /// Its free addresses.
    pub addresses: AddressPool,
    /// Images.
    pub images: Images,
    /// The daemon that sandboxes mount.
    pub daemon: InstalledDaemon,
    /// Backups under way.
    pub backups: Backups,
    /// Counters for `/metrics`.
    pub counters: Counters,
    /// Sandboxes that were destroyed a moment ago: a create that was cut off may still make their container.
    pub(crate) destroyed: Mutex<HashMap<SandboxId, Instant>>,
    /// Starts that took too long and may yet take effect.
    pub(crate) late_starts: LateStarts,
    /// Held while a GPU is chosen, until its container exists or runs.
    pub(crate) gpu_turn: tokio::sync::Mutex<()>,
    /// Held while sandboxes of the original runner are taken over, so that nobody takes one over twice.
    pub(crate) takeover_turn: tokio::sync::Mutex<()>,
    /// Raised when a sandbox is gone.
    pub(crate) volumes_changed: Notify,
    /// Raised when a sandbox has been started: its volumes may have died before anybody watched them.
    pub(crate) volumes_bound: Notify,
    /// What the control plane has to hear.
    pub(crate) news: News,
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Node").field("network", &self.network.name).finish_non_exhaustive()
    }
}

/// What a node is made of; [`Node::new`] adds the rest.
pub struct Parts {
    /// The configuration.
    pub config: Config,
    /// The engine.
    pub engine: Arc<dyn Engine>,
    /// What it said of itself.
    pub info: EngineInfo,
    /// The sandbox network.
    pub network: Network,
    /// Network policy.
    pub policy: Arc<dyn NetworkPolicy>,
    /// Volumes.
    pub volumes: Arc<dyn Volumes>,
    /// The daemon that sandboxes mount.
    pub daemon: InstalledDaemon,
}

impl std::fmt::Debug for Parts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Parts").finish_non_exhaustive()
    }
}

impl Node {
    /// Reads the records and puts the node together.
    pub fn new(parts: Parts) -> Result<Arc<Self>, RunError> {
        let Parts { config, engine, info, network, policy, volumes, daemon } = parts;
        let records = Records::open(&config.data_dir.join("sandboxes"))?;
        let bad =
            |what: &str| RunError::Network(format!("the network {} has no usable {what}", network.name));
        let subnet: pinfold_network::Cidr =
            network.subnet.as_deref().and_then(|s| s.parse().ok()).ok_or_else(|| bad("IPv4 subnet"))?;
        let first = std::net::Ipv4Addr::from_bits(subnet.network().to_bits() + 1);
        let addresses = AddressPool::new(subnet, network.gateway.unwrap_or(first));
        for address in records.addresses() {
            addresses.mark_taken(address);
        }
        let images = Images::new(&config);
        Ok(Arc::new(Self {
            config,
            engine,
            info,
            index: Index::default(),
            owners: Owners::default(),
            records,
            policy,
            volumes,
            network,
            addresses,
            images,
            daemon,
            backups: Backups::default(),
            counters: Counters::default(),
            destroyed: Mutex::default(),
            late_starts: LateStarts::default(),
            gpu_turn: tokio::sync::Mutex::default(),
            takeover_turn: tokio::sync::Mutex::default(),
            volumes_changed: Notify::new(),
            volumes_bound: Notify::new(),
            news: News::default(),
        }))
    }

    /// `linux/<architecture of the engine>`.
    pub fn platform(&self) -> String {
        format!("linux/{}", self.info.architecture)
    }

    /// Notes that a sandbox was destroyed.
    pub(crate) fn note_destroyed(&self, id: &SandboxId) {
        let mut destroyed = self.destroyed.lock().unwrap_or_else(PoisonError::into_inner);
        destroyed.insert(id.clone(), Instant::now());
    }

    /// Whether a sandbox was destroyed a moment ago.
    pub(crate) fn was_destroyed(&self, id: &SandboxId) -> bool {
        let destroyed = self.destroyed.lock().unwrap_or_else(PoisonError::into_inner);
        destroyed.get(id).is_some_and(|at| at.elapsed() < DESTROYED_FOR)
    }

    /// Forgets, from time to time, what will not be asked for any more.
    pub(crate) fn tidy(self: &Arc<Self>) {
        let recent = |_: &SandboxId, at: &mut Instant| at.elapsed() < DESTROYED_FOR;
        self.destroyed.lock().unwrap_or_else(PoisonError::into_inner).retain(recent);
        self.images.tidy();
        self.backups.tidy(self.config.backup_retention);
        self.forget_expired_starts();
    }

    /// Everything that grows with sandboxes, images and operations, and how many entries it has. All of it shrinks again.
    pub fn tables(&self) -> Vec<(&'static str, usize)> {
        let destroyed = self.destroyed.lock().unwrap_or_else(PoisonError::into_inner).len();
        let mut tables = vec![
            ("sandboxes", self.index.len()),
            ("records", self.records.len()),
            ("addresses", self.addresses.len()),
            ("owners", self.owners.len()),
            ("backups", self.backups.len()),
            ("destroyed", destroyed),
            ("late_starts", self.late_starts.len()),
            ("vanished", self.news.len()),
        ];
        tables.extend(self.images.tables());
        tables
    }

    /// Tells volumes and old daemon versions what existing sandboxes still use.
    pub async fn reclaim(&self) -> OpResult<()> {
        let listed = self.engine.list().await?;
        let sources: HashSet<PathBuf> =
            listed.into_iter().flat_map(|c| c.mount_sources).map(PathBuf::from).collect();
        self.daemon.reconcile(&sources);
        self.volumes.cleanup(&self.volumes_of(&sources)).await;
        self.remove_retired().await
    }

    /// Removes what this host has of a volume that was deleted; one that a container still has stays.
    pub async fn remove_volume(&self, id: &str) -> OpResult<()> {
        let volume: VolumeId =
            id.parse().map_err(|error| OpError::new(Class::BadRequest, format!("{error}")))?;
        let listed = self.engine.list().await?;
        let sources = listed.into_iter().flat_map(|c| c.mount_sources).map(PathBuf::from).collect();
        if self.volumes_of(&sources).contains(&volume) {
            return Err(OpError::new(Class::Conflict, format!("a container still has the volume {volume}")));
        }
        self.volumes.remove(&volume).await
    }

    /// Volumes of existing sandboxes, running or not, and of containers that mount `sources`.
    fn volumes_of(&self, sources: &HashSet<PathBuf>) -> HashSet<VolumeId> {
        // A sandbox of the original runner has no record, but its mounts name their volumes.
        let named = sources.iter().flat_map(|path| path.iter()).filter_map(|part| part.to_str());
        let named = named
            .filter_map(|part| part.strip_prefix("daytona-volume-").unwrap_or(part).parse::<VolumeId>().ok());
        let ids = self.records.ids();
        let recorded = ids.iter().filter_map(|id| self.records.get(id)).flat_map(|r| r.volumes);
        let recorded = recorded.filter_map(|volume| volume.volume_id.parse::<VolumeId>().ok());
        named.chain(recorded).collect()
    }

    /// Gives unused volumes back some time after sandboxes were destroyed, until `stop`.
    pub(crate) async fn give_volumes_back(self: Arc<Self>, stop: CancellationToken) {
        let interval = self.config.volume_cleanup_interval.max(SHORTEST_CLEANUP);
        loop {
            tokio::select! {
                () = self.volumes_changed.notified() => {}
                () = stop.cancelled() => return,
            }
            tokio::select! {
                () = tokio::time::sleep(interval) => {}
                () = stop.cancelled() => return,
            }
            if let Err(error) = self.reclaim().await {
                tracing::warn!(%error, "could not look for unused volumes");
            }
        }
    }
}

/// The sandbox network: found, or created on the configured subnet.
pub async fn sandbox_network(engine: &dyn Engine, config: &Config) -> Result<Network, RunError> {
    let (name, bridge) = if config.inter_sandbox { (SHARED, "pinfold1") } else { (ISOLATED, "pinfold0") };
    let failed = |e: EngineError| {
        RunError::Network(format!("{e}; set PINFOLD_SANDBOX_SUBNET to a network that is free on this host"))
    };
    match engine.network(name).await {
        Err(error) if error.is_not_found() => {}
        found => return found.map_err(failed),
    }
    let spec = NetworkSpec {
        name: name.to_owned(),
        bridge: Some(bridge.to_owned()),
        icc: config.inter_sandbox,
        internal: false,
        subnet: Some(config.subnet.clone()),
        dynamic_range: None,
        labels: std::collections::BTreeMap::new(),
    };
    match engine.create_network(&spec).await {
        // Someone else made it in between.
        Err(error) if error.is_conflict() => {}
        Err(error) => return Err(failed(error)),
        Ok(_) => tracing::info!(network = name, subnet = config.subnet, "created the sandbox network"),
    }
    engine.network(name).await.map_err(failed)
}

/// A sandbox id from a request.
pub fn sandbox_id(text: &str) -> OpResult<SandboxId> {
    text.parse().map_err(|e: pinfold_proto::id::InvalidId| {
        crate::error::OpError::new(crate::error::Class::BadRequest, e.to_string())
    })
}
