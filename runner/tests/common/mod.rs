//! A node over a simulated engine, a daemon that answers on loopback, and a control plane in memory that can misbehave.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "each test file uses its part, and includes this file as a module"
)]

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use pinfold_engine::{ContainerStatus, Engine, Image, Simulated};
use pinfold_network::{Endpoint, Policy};
use pinfold_proto::id::{SandboxId, Secret};
use pinfold_runner::Config;
use pinfold_runner::daemon::InstalledDaemon;
use pinfold_runner::error::{Class, OpError, OpResult};
use pinfold_runner::node::{Node, Parts, sandbox_network};
use pinfold_runner::policy::NetworkPolicy;
use pinfold_runner::takeover::LegacyRules;
use pinfold_runner::volumes::HostVolumes;
use pinfold_volumes::SharedStore;
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

mod control;

pub use control::Control;

pub const TOKEN: &str = "runner-token";
pub const IMAGE: &str = "daytona-test:1";

/// Waits for a condition; a panic names what was awaited.
pub async fn eventually(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !condition() {
        assert!(Instant::now() < deadline, "still waiting for: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// What the daemons of all sandboxes were asked.
#[derive(Debug, Default)]
pub struct Daemon {
    pub tokens: Mutex<Vec<String>>,
    pub requests: Mutex<Vec<(String, HashMap<String, String>)>>,
}

/// Serves the daemon's `/version` and `/init` for every loopback address, and echoes everything else. Returns its port.
pub async fn daemon() -> (Arc<Daemon>, u16) {
    let seen = Arc::new(Daemon::default());
    let (init, echo) = (seen.clone(), seen.clone());
    let app = axum::Router::new()
        .route("/version", axum::routing::get(version))
        .route(
            "/init",
            axum::routing::post(move |axum::Json(body): axum::Json<Value>| async move {
                init.tokens.lock().unwrap().push(body["token"].as_str().unwrap_or_default().to_owned());
            }),
        )
        .fallback(move |request: axum::extract::Request| async move {
            let headers = request.headers().iter();
            let headers =
                headers.map(|(k, v)| (k.to_string(), v.to_str().unwrap_or_default().to_owned())).collect();
            let target = request.uri().path_and_query().map(ToString::to_string).unwrap_or_default();
            echo.requests.lock().unwrap().push((format!("{} {target}", request.method()), headers));
            request.into_body()
        });
    (seen, serve(app).await.0)
}

/// Serves daemons on every loopback address. Returns their port, and the task that they end with.
pub async fn serve(app: axum::Router) -> (u16, tokio::task::JoinHandle<()>) {
    let listener = tokio::net::TcpListener::bind(("0.0.0.0", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    (port, tokio::spawn(async move { axum::serve(listener, app).await.unwrap() }))
}

/// Daemons that only say that they are there, and end with the task.
pub async fn mortal_daemons() -> (u16, tokio::task::JoinHandle<()>) {
    serve(axum::Router::new().route("/version", axum::routing::get(version))).await
}

/// A port at which nobody listens, nor anybody else can, for as long as the socket is kept.
pub fn closed_port() -> (tokio::net::TcpSocket, u16) {
    let taken = tokio::net::TcpSocket::new_v4().unwrap();
    taken.bind(SocketAddr::from(([0, 0, 0, 0], 0))).unwrap();
    let port = taken.local_addr().unwrap().port();
    (taken, port)
}

async fn version() -> axum::Json<Value> {
    axum::Json(json!({"version": "9.9.9"}))
}

/// Records the order of policy calls beside the engine's, and fails on demand.
#[derive(Debug)]
pub struct RecordingPolicy {
    pub engine: Arc<Simulated>,
    pub applied: Mutex<HashMap<String, (Endpoint, Policy)>>,
    /// For each apply: whether the sandbox was already running.
    pub late: Mutex<Vec<bool>>,
    pub fail: Mutex<bool>,
    /// How many applies failed.
    pub refused: Mutex<u32>,
    /// The guarded bridges of link networks.
    pub links: Mutex<HashSet<String>>,
    /// The next call of this name waits before it takes effect.
    pub held: Mutex<HashMap<&'static str, Arc<Notify>>>,
    /// Why the rules cannot be put back.
    pub lost: Mutex<Option<String>>,
    /// For each time that a sandbox's port was let go: whether the sandbox was already running.
    pub unpinned: Mutex<Vec<bool>>,
    /// The original runner's rules of this host, and the scripts that changed them; without any nobody looks for some.
    pub legacy: Mutex<Option<String>>,
    pub legacy_changes: Mutex<Vec<String>>,
}

impl RecordingPolicy {
    pub fn new(engine: Arc<Simulated>) -> Self {
        Self {
            engine,
            applied: Mutex::default(),
            late: Mutex::default(),
            fail: Mutex::default(),
            refused: Mutex::default(),
            links: Mutex::default(),
            held: Mutex::default(),
            lost: Mutex::default(),
            unpinned: Mutex::default(),
            legacy: Mutex::default(),
            legacy_changes: Mutex::default(),
        }
    }

    async fn wait(&self, name: &'static str) {
        let held = self.held.lock().unwrap().remove(name);
        if let Some(gate) = held {
            gate.notified().await;
        }
    }

    fn runs(&self, sandbox: &SandboxId) -> bool {
        self.engine.container(sandbox.as_str()).is_some_and(|c| c.status == ContainerStatus::Running)
    }
}

#[async_trait]
impl NetworkPolicy for RecordingPolicy {
    async fn apply(&self, sandbox: &SandboxId, endpoint: Endpoint, policy: Policy) -> OpResult<()> {
        if *self.fail.lock().unwrap() {
            *self.refused.lock().unwrap() += 1;
            return Err(OpError::new(Class::Internal, "nft says no"));
        }
        self.wait("apply").await;
        let running = self.engine.log().iter().any(|line| *line == format!("start {sandbox}"));
        self.late.lock().unwrap().push(running);
        self.applied.lock().unwrap().insert(sandbox.to_string(), (endpoint, policy));
        Ok(())
    }

    async fn remove(&self, sandbox: &SandboxId) -> OpResult<()> {
        self.wait("remove").await;
        self.applied.lock().unwrap().remove(sandbox.as_str());
        Ok(())
    }

    async fn retain(&self, keep: &HashSet<String>) -> OpResult<()> {
        self.applied.lock().unwrap().retain(|id, _| keep.contains(id));
        Ok(())
    }

    async fn guard_link(&self, bridge: &str) -> OpResult<()> {
        self.links.lock().unwrap().insert(bridge.to_owned());
        Ok(())
    }

    async fn forget_link(&self, bridge: &str) -> OpResult<()> {
        self.links.lock().unwrap().remove(bridge);
        Ok(())
    }

    async fn unpin(&self, sandbox: &SandboxId) -> OpResult<()> {
        self.unpinned.lock().unwrap().push(self.runs(sandbox));
        Ok(())
    }

    async fn restore(&self) -> OpResult<bool> {
        let lost = self.lost.lock().unwrap().clone();
        lost.map_or(Ok(false), |reason| Err(OpError::new(Class::Internal, reason)))
    }

    async fn legacy_rules(&self) -> OpResult<Vec<LegacyRules>> {
        let saved = self.legacy.lock().unwrap().clone();
        Ok(saved.map(|saved| LegacyRules { saved, restore: "iptables-restore" }).into_iter().collect())
    }

    async fn change_legacy_rules(&self, _restore: &str, script: &str) -> OpResult<()> {
        self.legacy_changes.lock().unwrap().push(script.to_owned());
        Ok(())
    }

    fn is_enforced(&self) -> bool {
        self.legacy.lock().unwrap().is_some()
    }
}

/// A node whose engine is simulated.
pub struct Bench {
    pub node: Arc<Node>,
    pub engine: Arc<Simulated>,
    pub policy: Arc<RecordingPolicy>,
    pub daemon: Arc<Daemon>,
    pub dir: tempfile::TempDir,
}

pub fn config(dir: &Path, port: u16) -> Config {
    let mut config = Config::local("http://control.invalid/api", Secret::new(TOKEN), 0, dir.join("data"));
    config.subnet = "127.77.0.0/16".to_owned();
    config.toolbox_port = port;
    // A stop lets the poll under way end.
    config.poll_timeout = Duration::from_millis(50);
    config.drain_timeout = Duration::from_secs(20);
    config.daemon_start_timeout = Duration::from_secs(20);
    let binary = dir.join("daemon-file");
    std::fs::write(&binary, "a daemon").unwrap();
    config.daemon_binary = Some(binary);
    config
}

impl Bench {
    pub async fn new() -> Self {
        Self::with(|_| {}).await
    }

    pub async fn with(adjust: impl FnOnce(&mut Config)) -> Self {
        let engine = Arc::new(Simulated::default());
        engine.add_image(IMAGE, image());
        Self::over(engine, tempfile::tempdir().unwrap(), adjust).await
    }

    /// Another life of the node on the same engine and data.
    pub async fn over(
        engine: Arc<Simulated>,
        dir: tempfile::TempDir,
        adjust: impl FnOnce(&mut Config),
    ) -> Self {
        let policy = Arc::new(RecordingPolicy::new(engine.clone()));
        Self::under(engine, dir, policy, adjust).await
    }

    /// Another life of the node, on the same engine, data and rules.
    pub async fn under(
        engine: Arc<Simulated>,
        dir: tempfile::TempDir,
        policy: Arc<RecordingPolicy>,
        adjust: impl FnOnce(&mut Config),
    ) -> Self {
        Self::assembled(engine, dir, policy, None, adjust).await
    }

    /// A node whose volumes are in `store`.
    pub async fn assembled(
        engine: Arc<Simulated>,
        dir: tempfile::TempDir,
        policy: Arc<RecordingPolicy>,
        store: Option<SharedStore>,
        adjust: impl FnOnce(&mut Config),
    ) -> Self {
        let (daemon, port) = daemon().await;
        let mut config = config(dir.path(), port);
        adjust(&mut config);
        let network = sandbox_network(&*engine, &config).await.unwrap();
        let volumes = match store {
            Some(store) => HostVolumes::over(store, &config.data_dir, true),
            None => HostVolumes::new(&config),
        };
        let parts = Parts {
            engine: engine.clone(),
            info: engine.info().await.unwrap(),
            network,
            policy: policy.clone(),
            volumes: Arc::new(volumes),
            daemon: InstalledDaemon::install(&config).unwrap(),
            config,
        };
        let node = Node::new(parts).unwrap();
        Self { node, engine, policy, daemon, dir }
    }

    /// Runs the whole node against `control`. Returns its address and what stops it.
    pub async fn serve(
        &self,
        control: Arc<Control>,
    ) -> (SocketAddr, CancellationToken, tokio::task::JoinHandle<()>) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let run = pinfold_runner::serve(self.node.clone(), control, listener, stop.clone());
        let task = tokio::spawn(async move { run.await.unwrap() });
        let alive = pinfold_runner::jobs::http_client().unwrap().get(format!("http://{address}/"));
        // Over TLS the answer is an error; either way the node serves, and has repaired what it found.
        let _ = alive.send().await;
        (address, stop, task)
    }
}

pub fn image() -> Image {
    Image {
        id: format!("sha256:{:064x}", 1),
        architecture: "amd64".to_owned(),
        cmd: vec!["sh".to_owned()],
        size: 1 << 30,
        ..Image::default()
    }
}

/// A create payload as the control plane sends it, nulls included.
pub fn create_payload(id: &SandboxId) -> Value {
    json!({
        "id": id, "name": "box", "userId": "org", "snapshot": IMAGE, "osUser": "daytona",
        "cpuQuota": 1, "gpuQuota": 0, "memoryQuota": 1, "storageQuota": 3,
        "env": {"A": "1", "N": null}, "volumes": [], "entrypoint": null,
        "networkBlockAll": false, "networkAllowList": null, "domainAllowList": null,
        "metadata": {"organizationId": "org"}, "authToken": "tok-1", "organizationId": "org", "regionId": "us",
        "sandboxClass": "container", "unknown": {"x": 1},
        "registry": {"url": "reg.test:5000", "project": null, "username": null, "password": null}
    })
}
