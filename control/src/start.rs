//! Start and end of the control plane.

use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use pinfold_proto::error::chain;
use pinfold_proto::id::Secret;
use pinfold_proxy::Proxy;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::Config;
use crate::core::Core;
use crate::events::Events;
use crate::images::Images;
use crate::jobs::Jobs;
use crate::keys::{Keys, PERMISSIONS, secret_file};
use crate::lock::{self, LockError};
use crate::pools::{self, Pools};
use crate::registries::{self, Registries, Remote};
use crate::runners::{self, Runners};
use crate::s3::ObjectStore;
use crate::snapshots::Snapshots;
use crate::storage::{self, Storage};
use crate::store::{self, DATABASE, MigrateError, Store};
use crate::time::now;
use crate::tokens::Tokens;
use crate::volumes::Volumes;
use crate::{client, edge, gateway, sandbox, sweep, token, volumes};

/// The file with the first API key.
const KEY_FILE: &str = "api-key";
/// The file with the local runner's token.
const RUNNER_FILE: &str = "runner-token";
/// The name of the key that is made at the first start.
const FIRST_KEY: &str = "default";
/// The name of the local runner.
const LOCAL_RUNNER: &str = "local";
/// How long open requests have to end.
const GRACE: Duration = Duration::from_secs(5);

/// Why the control plane cannot start: one sentence that names what to change.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Somebody else listens there.
    #[error(
        "the address {address} is in use by another program; stop it, or set PINFOLD_BIND to another port"
    )]
    PortInUse {
        /// Where we wanted to listen.
        address: SocketAddr,
    },
    /// Listening failed otherwise.
    #[error("cannot listen on {address}, which {setting} names: {source}")]
    Listen {
        /// Where we wanted to listen.
        address: SocketAddr,
        /// The setting to change.
        setting: &'static str,
        /// What the system says.
        source: std::io::Error,
    },
    /// Somebody else listens on the SSH gateway's port.
    #[error(
        "the address {address} for SSH is in use by another program; stop it, or set PINFOLD_SSH_PORT to another port (0 for no SSH)"
    )]
    SshPortInUse {
        /// Where we wanted to listen.
        address: SocketAddr,
    },
    /// A key of the SSH gateway cannot be used.
    #[error("the SSH key {path} cannot be used: {reason}", path = path.display())]
    SshKey {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The data directory cannot be used.
    #[error("the data directory {path} cannot be written: {source}; set PINFOLD_DATA_DIR to a directory that can", path = path.display())]
    DataDir {
        /// The directory, or the file in it.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// The client of outside services cannot be made.
    #[error("no HTTP client for object stores and registries can be made: {reason}")]
    Client {
        /// What is wrong, usually that the host has no certificate authorities.
        reason: String,
    },
    /// Another instance has the data directory.
    #[error("the data directory {path} is in use by another pinfold: end it, or set PINFOLD_DATA_DIR to another directory", path = path.display())]
    DataDirInUse {
        /// The directory.
        path: PathBuf,
    },
    /// The database was written by a later version.
    #[error("the database {path} was written by a newer version of this program ({found}; this one knows {known}): use that version, or another PINFOLD_DATA_DIR", path = path.display())]
    NewerDatabase {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: i64,
        /// Ours.
        known: i64,
    },
    /// The database cannot be read.
    #[error("the database {path} cannot be used ({reason}): restore it from a backup, or move it away to start anew", path = path.display())]
    Database {
        /// The file.
        path: PathBuf,
        /// What SQLite says.
        reason: String,
    },
}

impl StartError {
    /// The documented exit status of each class (docs/exit-status.md).
    pub fn exit_status(&self) -> u8 {
        match self {
            Self::PortInUse { .. } | Self::SshPortInUse { .. } | Self::Listen { .. } => 7,
            Self::DataDir { .. }
            | Self::DataDirInUse { .. }
            | Self::NewerDatabase { .. }
            | Self::Database { .. } => 5,
            Self::SshKey { .. } | Self::Client { .. } => 9,
        }
    }
}

/// A control plane that serves.
#[derive(Debug)]
pub struct Running {
    /// Where the API, the toolbox and the previews are served.
    pub address: SocketAddr,
    /// Where the SSH gateway listens, if it does.
    pub ssh_address: Option<SocketAddr>,
    /// What runners have to trust for SSH: the base64 of an `authorized_keys` line, for the runner's `SSH_PUBLIC_KEY`.
    pub ssh_public_key: Option<String>,
    /// The API key to show: the configured one, else the one made at the first start.
    pub api_key: Secret,
    /// The token with which the local runner calls.
    pub runner_token: Secret,
    serving: tokio::task::JoinHandle<()>,
    core: Arc<Core>,
    /// The data directory is ours until this is dropped.
    _lock: std::fs::File,
}

impl Running {
    /// The base address that clients use, with `/api`.
    pub fn api_url(&self) -> String {
        format!("{}/api", self.core.base_url(None))
    }

    /// The port on which build contexts are taken over TLS, and the certificate that clients have to trust for it.
    pub fn storage(&self) -> Option<(u16, PathBuf)> {
        let port = *self.core.storage_port.get()?;
        Some((port, self.core.config.data_dir.join(storage::tls::CA_FILE)))
    }

    /// Waits until the local runner has reported: from then on sandboxes can be made and reached.
    pub async fn runner_reported(&self) {
        self.core.runners.reported(self.runner_token.expose()).await;
    }

    /// Waits for the end, which comes when `stop` is cancelled: open requests are given a few seconds, and everything is stored.
    pub async fn join(self) {
        if let Err(error) = self.serving.await {
            tracing::error!(%error, "the server ended badly");
        }
        self.core.tasks.close();
        if tokio::time::timeout(GRACE, self.core.tasks.wait()).await.is_err() {
            tracing::warn!(tasks = self.core.tasks.len(), "some tasks did not end in time");
        }
        self.core.store.close().await;
    }
}

/// Starts the control plane. It serves until `stop` is cancelled.
pub async fn start(config: Config, stop: CancellationToken) -> Result<Running, StartError> {
    let dir = config.data_dir.clone();
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir);
    made.map_err(|source| StartError::DataDir { path: dir.clone(), source })?;
    // The listener first: what fails most often shall fail before anything is changed.
    let listener = TcpListener::bind(config.bind).await.map_err(|source| match source.kind() {
        std::io::ErrorKind::AddrInUse => StartError::PortInUse { address: config.bind },
        _ => StartError::Listen { address: config.bind, setting: "PINFOLD_BIND", source },
    })?;
    let address = listener.local_addr().map_err(|source| StartError::Listen {
        address: config.bind,
        setting: "PINFOLD_BIND",
        source,
    })?;
    let ssh = match config.ssh_port {
        0 => None,
        port => Some(gateway::prepare(SocketAddr::new(config.bind.ip(), port), &dir).await?),
    };
    let lock = lock::take(&dir).map_err(|error| match error {
        LockError::Held => StartError::DataDirInUse { path: dir.clone() },
        LockError::File(source) => StartError::DataDir { path: dir.clone(), source },
    })?;
    let kept = |name: &str| {
        let path = dir.join(name);
        secret_file(&path, token::api_key).map_err(|source| StartError::DataDir { path, source })
    };
    let first_key = kept(KEY_FILE)?;
    let runner_token = match &config.runner_token {
        Some(token) => token.expose().to_owned(),
        None => kept(RUNNER_FILE)?,
    };
    let path = dir.join(DATABASE);
    private_file(&path).map_err(|source| StartError::DataDir { path: path.clone(), source })?;
    let store = Store::open(&path).await.map_err(|error| match error {
        MigrateError::Newer { found, known } => {
            StartError::NewerDatabase { path: path.clone(), found, known }
        }
        MigrateError::Sql(error) => StartError::Database { path: path.clone(), reason: error.to_string() },
    })?;
    let client = client::new().map_err(|error| StartError::Client { reason: chain(&error) })?;
    let core = load(config, store, client, stop, &first_key, &runner_token)
        .await
        .map_err(|error| StartError::Database { path, reason: error.to_string() })?;
    // Set once, here.
    let _ = core.listening.set(address);
    let ssh_public_key = ssh.as_ref().map(|ssh| ssh.public_key.clone());
    if let Some(ssh) = ssh {
        let _ = core.ssh_listening.set(ssh.address);
        core.tasks.spawn(gateway::run(core.clone(), ssh));
    }
    serve_storage(&core, &dir).await;
    core.snapshots.resume(&core);
    core.follow();
    core.tasks.spawn(pools::keep_filled(core.clone()));
    core.tasks.spawn(core.clone().flush_activity());
    core.tasks.spawn(sweep::run(core.clone()));
    core.tasks.spawn(runners::watch(core.clone()));
    core.tasks.spawn(registries::clean(core.clone()));
    volumes::resume(&core);
    edge::environment::resume(&core);
    core.runners.list().iter().for_each(|runner| core.drain(&runner.id));
    let router = edge::entrance(&core);
    let ending = core.stop.clone();
    let serving = tokio::spawn(async move {
        if let Err(error) = pinfold_http::serve(listener, router, ending.cancelled_owned(), GRACE).await {
            tracing::warn!(%error, "the server did not end cleanly");
        }
    });
    let api_key = core.config.api_key.clone().unwrap_or_else(|| Secret::new(first_key));
    Ok(Running {
        address,
        ssh_address: core.ssh_listening.get().copied(),
        ssh_public_key,
        api_key,
        runner_token: Secret::new(runner_token),
        serving,
        core,
        _lock: lock,
    })
}

/// Serves the object store over TLS, too. Without it everything but Python's uploads of local files works, so its failure is only told.
async fn serve_storage(core: &Arc<Core>, dir: &Path) {
    if core.config.storage_port == 0 || core.s3.is_some() {
        return;
    }
    let address = SocketAddr::new(core.config.bind.ip(), core.config.storage_port);
    let authority = match storage::tls::Authority::load(dir) {
        Ok(authority) => Arc::new(authority),
        Err(error) => return tracing::warn!(%error, "no object store over TLS: its authority cannot be made"),
    };
    match TcpListener::bind(address).await {
        Ok(listener) => {
            // Set once, here.
            let _ = core.storage_port.set(listener.local_addr().map_or(address.port(), |a| a.port()));
            let stop = core.stop.clone();
            core.tasks.spawn(storage::tls::serve(listener, authority, storage::entrance(core), stop, GRACE));
        }
        Err(error) => tracing::warn!(
            %address, %error,
            "no object store over TLS; set PINFOLD_STORAGE_PORT to another port, or to 0 for none"
        ),
    }
}

/// Makes the database file before SQLite does, for its owner alone; SQLite gives its journals the same mode.
fn private_file(path: &Path) -> std::io::Result<()> {
    std::fs::OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))
}

async fn load(
    config: Config,
    store: Store,
    client: reqwest::Client,
    stop: CancellationToken,
    first_key: &str,
    runner_token: &str,
) -> store::Result<Arc<Core>> {
    let keys = Keys::load(&store).await?;
    let all = || PERMISSIONS.iter().map(|p| (*p).to_owned()).collect::<Vec<_>>();
    if !keys.has(first_key) {
        keys.put(FIRST_KEY, first_key, all(), None).await?;
    }
    match &config.api_key {
        Some(key) if !keys.has(key.expose()) => {
            keys.put("configured", key.expose(), all(), None).await?;
        }
        None => keys.remove("configured").await?,
        Some(_) => {}
    }
    let runners = Runners::load(&store, config.runner_silence).await?;
    runners.register(LOCAL_RUNNER, &config.region, Vec::new(), runner_token).await?;
    let jobs = Jobs::new(&store);
    let registries = Registries::load(&store, config.registry.clone()).await?;
    let images = Images::load(&store, &jobs, &registries).await?;
    let mut tx = store.begin().await?;
    let org_id =
        store::meta::get_or_set(&mut tx, "organization", || uuid::Uuid::new_v4().to_string()).await?;
    let records = store::sandboxes::all(&mut tx).await?;
    tx.commit().await?;
    let remote = config.registry.clone();
    let remote = remote.map(|own| Remote::new(own, client.clone(), config.registry_plain));
    let s3 = config.s3.clone().map(|s3| Arc::new(ObjectStore::new(s3, client)));
    let core = Arc::new(Core {
        org_id,
        remote,
        leftovers: Default::default(),
        s3,
        started_at: now(),
        keys,
        runners,
        jobs,
        registries,
        images,
        snapshots: Snapshots::load(&store, &config.default_snapshot).await?,
        volumes: Volumes::load(&store).await?,
        pools: Pools::load(&store).await?,
        storage: Storage::new(config.context_dir.clone()),
        tokens: Tokens::load(&store).await?,
        directory: Arc::default(),
        events: Events::new(),
        proxy: Proxy::new(),
        stop,
        tasks: TaskTracker::new(),
        listening: OnceLock::new(),
        ssh_listening: OnceLock::new(),
        storage_port: OnceLock::new(),
        active: Default::default(),
        config,
        store,
    });
    for record in records {
        sandbox::resume(&core, record);
    }
    Ok(core)
}
