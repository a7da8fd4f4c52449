//! Against a real Docker engine and the real daemon: `cargo test -p pinfold-runner --features engine-tests --test engine -- --nocapture`.
//!
//! Needs root, Docker, a busybox binary, and a daemon (`make build`, or PINFOLD_DAEMON_BINARY). Everything it makes is named `pf-runner-*`, or
//! is a sandbox that it removes.
#![cfg(feature = "engine-tests")]
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a test that prints what it measured"
)]

mod builds;
#[path = "../common/mod.rs"]
mod common;
mod data;
mod isolation;
mod memory;
mod mounts;
mod newest;
mod storage;
mod takeover;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::{Control, TOKEN, create_payload, eventually};
use futures_util::StreamExt;
use pinfold_engine::{
    Attachment, ContainerSpec, ContainerStatus, Docker, Engine, Limits, Network, NetworkSpec,
};
use pinfold_network::{Bridge, Firewall};
use pinfold_proto::id::{SandboxId, Secret};
use pinfold_proto::runner::payload::{
    BuildSnapshot, CreateBackup, CreateSandbox, InspectSnapshot, ResizeSandbox, SnapshotSandbox,
    StartSandbox, StopSandbox,
};
use pinfold_runner::Config;
use pinfold_runner::daemon::InstalledDaemon;
use pinfold_runner::index::SandboxState;
use pinfold_runner::node::{Node, Parts};
use pinfold_runner::policy::{NetworkPolicy, Unenforced};
use pinfold_runner::volumes::HostVolumes;
use tokio_util::sync::CancellationToken;

const IMAGE: &str = "pf-runner-busybox:1";
const NETWORK: &str = "pf-runner-net";

struct Real {
    node: Arc<Node>,
    engine: Arc<Docker>,
    control: Arc<Control>,
    base: String,
    client: reqwest::Client,
    _dir: tempfile::TempDir,
    stop: CancellationToken,
    served: tokio::task::JoinHandle<Result<(), pinfold_runner::RunError>>,
}

fn daemon_binary() -> PathBuf {
    let built = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../target/x86_64-unknown-linux-musl/release/pinfold-daemon");
    std::env::var_os("PINFOLD_DAEMON_BINARY").map_or(built, PathBuf::from)
}

async fn base_image(engine: &Docker) {
    if engine.image(IMAGE).await.is_ok() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(dir.path().join("bin")).unwrap();
    std::fs::create_dir_all(dir.path().join("tmp")).unwrap();
    std::fs::copy("/usr/bin/busybox", dir.path().join("bin/busybox")).unwrap();
    for tool in ["sh", "sleep", "cat", "ls", "id", "true", "false"] {
        std::os::unix::fs::symlink("busybox", dir.path().join("bin").join(tool)).unwrap();
    }
    let tar = std::process::Command::new("tar")
        .args(["-cf", "-", "-C"])
        .arg(dir.path())
        .arg(".")
        .output()
        .unwrap()
        .stdout;
    let tar = futures_util::stream::once(async { Ok(bytes::Bytes::from(tar)) }).boxed();
    let changes = ["CMD [\"/bin/sh\"]".to_owned(), "ENV PATH=/bin".to_owned()];
    engine.import(IMAGE, &changes, tar, Duration::from_secs(60)).await.unwrap();
}

async fn network(engine: &Docker) -> Network {
    let spec = NetworkSpec {
        name: NETWORK.to_owned(),
        bridge: Some("pfrunner0".to_owned()),
        subnet: Some("10.213.0.0/16".to_owned()),
        ..NetworkSpec::default()
    };
    let _ = engine.create_network(&spec).await;
    engine.network(NETWORK).await.unwrap()
}

impl Real {
    async fn new() -> Self {
        Self::with(|_| {}).await
    }

    async fn with(adjust: impl FnOnce(&mut Config)) -> Self {
        Self::guarded(adjust, Arc::new(Unenforced)).await
    }

    async fn guarded(adjust: impl FnOnce(&mut Config), policy: Arc<dyn NetworkPolicy>) -> Self {
        let engine = Arc::new(Docker::connect().await.unwrap());
        base_image(&engine).await;
        let dir = tempfile::tempdir().unwrap();
        let mut config =
            Config::local("http://control.invalid/api", Secret::new(TOKEN), 0, dir.path().join("data"));
        config.daemon_binary = Some(daemon_binary());
        config.poll_timeout = Duration::from_millis(300);
        adjust(&mut config);
        let parts = Parts {
            info: engine.info().await.unwrap(),
            network: network(&engine).await,
            policy,
            volumes: Arc::new(HostVolumes::new(&config)),
            daemon: InstalledDaemon::install(&config).unwrap(),
            engine: engine.clone(),
            config,
        };
        let node = Node::new(parts).unwrap();
        let control = Arc::new(Control::default());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let stop = CancellationToken::new();
        let served =
            tokio::spawn(pinfold_runner::serve(node.clone(), control.clone(), listener, stop.clone()));
        let client = pinfold_runner::jobs::http_client().unwrap();
        // It serves when it has repaired what it found, which must not be done beside the first create.
        client.get(&base).send().await.expect("the runner serves");
        Self { node, engine, control, base, client, _dir: dir, stop, served }
    }

    /// Stops the runner, and waits until it has.
    async fn end(self) {
        self.stop.cancel();
        self.served.await.unwrap().unwrap();
    }

    fn request(&self, id: &SandboxId) -> CreateSandbox {
        let request: CreateSandbox = serde_json::from_value(create_payload(id)).unwrap();
        CreateSandbox {
            snapshot: IMAGE.to_owned(),
            entrypoint: vec!["sleep".to_owned(), "3600".to_owned()],
            ..request
        }
    }

    async fn get(&self, path: &str) -> (u16, String) {
        let response =
            self.client.get(format!("{}{path}", self.base)).bearer_auth(TOKEN).send().await.unwrap();
        (response.status().as_u16(), response.text().await.unwrap())
    }
}

/// Removes its sandboxes whatever happens.
struct Cleanup(Vec<SandboxId>);

impl Drop for Cleanup {
    fn drop(&mut self) {
        for id in &self.0 {
            let _ = std::process::Command::new("docker").args(["rm", "-fv", id.as_str()]).output();
            let link = format!("daytona-link-{id}");
            let _ = std::process::Command::new("docker").args(["network", "rm", link.as_str()]).output();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_life() {
    let real = Real::new().await;
    let id = SandboxId::random();
    let _cleanup = Cleanup(vec![id.clone()]);
    let volume = uuid::Uuid::new_v4().to_string();
    let mut request = real.request(&id);
    request.volumes = serde_json::from_value(
        serde_json::json!([{"volumeId": volume, "mountPath": "/data", "subpath": "a"}]),
    )
    .unwrap();
    let started = real.node.create(request.clone()).await.unwrap();
    assert!(!started.daemon_version.is_empty());
    let found = real.engine.inspect(id.as_str()).await.unwrap();
    let known = real.node.index.get(&id).unwrap();
    assert_eq!(real.node.address_of_container(&found), known.address, "{found:?}");
    assert_eq!((found.cpu_quota, found.memory), (100_000, 1 << 30));
    let raw = std::process::Command::new("docker").args(["inspect", id.as_str()]).output().unwrap().stdout;
    let raw: serde_json::Value = serde_json::from_slice(&raw).unwrap();
    let host = &raw[0]["HostConfig"];
    assert_eq!(
        (&host["Privileged"], &host["CapDrop"][0], &host["PidsLimit"]),
        (&false.into(), &"ALL".into(), &4096.into())
    );
    assert!(host["MaskedPaths"].as_array().is_some_and(|p| p.len() > 5));
    assert_eq!(raw[0]["Config"]["Hostname"], id.as_str());
    // Idempotent, and through the proxy.
    assert_eq!(real.node.create(request).await.unwrap().daemon_version, started.daemon_version);
    let (status, body) = real.get(&format!("/sandboxes/{id}/toolbox/version")).await;
    assert!(status == 200 && body.contains(&started.daemon_version), "{status} {body}");
    // Limits of a running sandbox.
    real.node
        .resize(&id, ResizeSandbox { cpu: Some(2), memory: Some(2), ..ResizeSandbox::default() })
        .await
        .unwrap();
    assert_eq!(real.engine.inspect(id.as_str()).await.unwrap().cpu_quota, 200_000);
    // A snapshot of it starts with its command, and a backup is found by an inspection.
    let made = real
        .node
        .snapshot(&id, SnapshotSandbox { name: "s".to_owned(), ..SnapshotSandbox::default() })
        .await
        .unwrap();
    assert_eq!(made.entrypoint.as_deref(), Some(&["/usr/local/bin/daytona".to_owned()][..]));
    let backup = CreateBackup { snapshot: "pf-runner-backup:1".to_owned(), registry: None };
    real.node.backup(&id, backup).await.unwrap();
    let inspected = real
        .node
        .inspect_snapshot(InspectSnapshot { snapshot: "pf-runner-backup:1".to_owned(), registry: None })
        .await
        .unwrap();
    assert!(inspected.hash.len() == 64 && inspected.size_gb > 0.0);
    let copy = SandboxId::random();
    let _cleanup_copy = Cleanup(vec![copy.clone()]);
    let from_snapshot = CreateSandbox {
        snapshot: made.reference.clone().unwrap(),
        entrypoint: Vec::new(),
        ..real.request(&copy)
    };
    real.node.create(from_snapshot).await.unwrap();
    assert_eq!(real.engine.inspect(copy.as_str()).await.unwrap().cmd, ["sleep", "3600"]);
    real.node.destroy(&copy).await.unwrap();
    // Stop, start, crash, destroy.
    real.node.stop(&id, StopSandbox::default()).await.unwrap();
    assert_eq!(real.node.index.get(&id).unwrap().state, SandboxState::Stopped);
    let address = known.address;
    real.node.start(&id, StartSandbox::default()).await.unwrap();
    assert_eq!(real.node.index.get(&id).unwrap().address, address);
    let killed = std::process::Command::new("docker")
        .args(["kill", "--signal", "SEGV", id.as_str()])
        .output()
        .unwrap();
    assert!(killed.status.success());
    real.node.stop(&id, StopSandbox { force: Some(true) }).await.unwrap();
    real.node.destroy(&id).await.unwrap();
    real.node.destroy(&id).await.unwrap();
    assert!(real.engine.inspect(id.as_str()).await.unwrap_err().is_not_found());
    real.node.remove_snapshot("pf-runner-backup:1").await.unwrap();
    real.node.remove_snapshot(&made.reference.unwrap()).await.unwrap();
    real.stop.cancel();
}

#[tokio::test(flavor = "multi_thread")]
async fn with_the_images_own_entrypoint_the_daemon_is_launched_and_a_crash_is_seen_by_its_event() {
    let real = Real::with(|c| c.use_snapshot_entrypoint = true).await;
    let id = SandboxId::random();
    let _cleanup = Cleanup(vec![id.clone()]);
    let entrypoint = ["sh", "-c", "while ! test -e /tmp/end; do sleep 0.1; done; echo last words; exit 3"];
    let entrypoint = entrypoint.iter().map(|s| (*s).to_owned()).collect();
    let started = real.node.create(CreateSandbox { entrypoint, ..real.request(&id) }).await.unwrap();
    assert!(!started.daemon_version.is_empty());
    // It may be cut off by the very end that it brings about.
    shell(&format!("docker exec {id} sh -c 'echo > /tmp/end'"));
    eventually("the end", || real.node.index.get(&id).is_some_and(|s| s.ending.is_some() && !s.busy)).await;
    let known = real.node.index.get(&id).unwrap();
    assert_eq!(
        (known.state, known.ending.as_ref().map(|e| e.code)),
        (SandboxState::Error, Some(3)),
        "{known:?}"
    );
    let (status, body) = real.get(&format!("/sandboxes/{id}/toolbox/version")).await;
    assert!(status == 400 && body.contains("code 3"), "{body}");
    real.node.destroy(&id).await.unwrap();
    real.stop.cancel();
}

/// Pains 36 and 52: where the engine keeps its data and what it runs on are its own words, and a crash leaves no core that fills the disk.
#[tokio::test(flavor = "multi_thread")]
async fn pain_36_and_52_data_root_and_architecture_are_the_engines() {
    let real = Real::new().await;
    let told = shell("docker info -f '{{.DockerRootDir}} {{.Architecture}}'");
    let (root, machine) = told.trim().rsplit_once(' ').unwrap();
    assert_eq!(real.node.info.data_root, PathBuf::from(root));
    let architecture = if machine == "aarch64" { "arm64" } else { "amd64" };
    assert_eq!(real.node.platform(), format!("linux/{architecture}"));
    real.node.daemon.check(architecture).unwrap();
    let id = SandboxId::random();
    let _cleanup = Cleanup(vec![id.clone()]);
    real.node.create(real.request(&id)).await.unwrap();
    let asked = shell(&format!("docker inspect -f '{{{{json .HostConfig.Ulimits}}}}' {id}"));
    assert!(
        asked.contains("\"core\"") && asked.contains("\"Soft\":0"),
        "whatever the engine's own default is: {asked}"
    );
    // The hard limit stays: who wants a core may have one.
    let limits = shell(&format!("docker exec {id} sh -c 'ulimit -c; ulimit -c unlimited && ulimit -c'"));
    assert_eq!(limits, "0\nunlimited\n");
    real.stop.cancel();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_cannot_work_says_why() {
    let real = Real::new().await;
    let id = SandboxId::random();
    let _cleanup = Cleanup(vec![id.clone()]);
    let error = real
        .node
        .create(CreateSandbox { snapshot: "pf-runner-nothing:1".to_owned(), ..real.request(&id) })
        .await
        .unwrap_err();
    println!("missing image: {error}");
    assert!(error.message.starts_with("preparing the image failed after"), "{error}");
    assert!(real.engine.inspect(id.as_str()).await.unwrap_err().is_not_found());
    real.stop.cancel();
}

#[tokio::test(flavor = "multi_thread")]
async fn builds_run_and_fail_with_their_log() {
    let real = Real::new().await;
    let build = |tag: &str, dockerfile: &str| BuildSnapshot {
        snapshot: tag.to_owned(),
        dockerfile: dockerfile.to_owned(),
        organization_id: "o".to_owned(),
        ..BuildSnapshot::default()
    };
    // With an earlier run's image there, nothing would be built.
    let _ = real.engine.remove_image("pf-runner-build:1", true).await;
    let made = real
        .node
        .build(build(
            "pf-runner-build:1",
            &format!("FROM {IMAGE}\nRUN echo built > /tmp/x\nCMD [\"sleep\",\"9\"]\n"),
        ))
        .await
        .unwrap();
    assert_eq!(made.cmd.as_deref(), Some(&["sleep".to_owned(), "9".to_owned()][..]));
    let error = real
        .node
        .build(build("pf-runner-bad:1", &format!("FROM {IMAGE}\nRUN echo working; false\n")))
        .await
        .unwrap_err();
    assert!(error.message.contains("exit code: 1"), "{error}");
    let (status, log) = real.get("/snapshots/logs?snapshotRef=pf-runner-bad&follow=true").await;
    assert!(status == 200 && log.contains("working") && log.contains("ERROR: "), "{log}");
    real.node.remove_snapshot("pf-runner-build:1").await.unwrap();
    real.stop.cancel();
}

fn shell(command: &str) -> String {
    let output = std::process::Command::new("sh").args(["-c", command]).output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

async fn firewall(engine: &Docker) -> Arc<Firewall> {
    let network = network(engine).await;
    let bridge = Bridge {
        interface: network.bridge.clone(),
        subnet: network.subnet.as_deref().unwrap().parse().unwrap(),
        gateway: network.gateway.unwrap(),
        inter_sandbox: false,
        resolver_port: None,
        names_for_all: false,
    };
    Arc::new(Firewall::install(bridge).await.unwrap())
}

/// Removes the host's `pinfold` tables at the end of a test that took them for itself: nothing else of Pinfold's may run beside it. A runner that has not ended by then puts them back.
struct Tables;

impl Drop for Tables {
    fn drop(&mut self) {
        for family in ["inet", "bridge"] {
            let _ = std::process::Command::new("nft").args(["delete", "table", family, "pinfold"]).output();
        }
    }
}

fn median(mut all: Vec<Duration>) -> (Duration, Duration, Duration) {
    all.sort();
    (all[all.len() / 2], all[0], all[all.len() - 1])
}

#[tokio::test(flavor = "multi_thread")]
async fn measure() {
    let real = Real::new().await;
    let rounds: u32 = 15;
    let mut ids = Vec::new();
    let (mut bare, mut ours, mut proxied, mut direct) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    // A and B by turns in one run: the engine alone, then the whole create with a daemon that answers.
    for round in 0..rounds {
        let name = format!("pf-runner-bare-{round}");
        let began = Instant::now();
        let spec = ContainerSpec {
            name: name.clone(),
            image: IMAGE.to_owned(),
            entrypoint: Some(vec!["sleep".to_owned(), "60".to_owned()]),
            limits: Limits { cpu: Some(1), memory: Some(1 << 30), pids: Some(4096), storage: None },
            cap_drop: vec!["ALL".to_owned()],
            networks: vec![Attachment { network: NETWORK.to_owned(), ..Attachment::default() }],
            ..ContainerSpec::default()
        };
        real.engine.create(&spec).await.unwrap();
        real.engine.start(&name).await.unwrap();
        bare.push(began.elapsed());
        real.engine.remove(&name, true).await.unwrap();
        let id = SandboxId::random();
        let began = Instant::now();
        real.node.create(real.request(&id)).await.unwrap();
        ours.push(began.elapsed());
        ids.push(id);
    }
    let cleanup = Cleanup(ids.clone());
    let address = real.node.index.get(&ids[0]).unwrap().address.unwrap();
    for _ in 0..300 {
        let began = Instant::now();
        real.client
            .get(format!("http://{address}:2280/version"))
            .send()
            .await
            .unwrap()
            .bytes()
            .await
            .unwrap();
        direct.push(began.elapsed());
        let began = Instant::now();
        real.get(&format!("/sandboxes/{}/toolbox/version", ids[0])).await;
        proxied.push(began.elapsed());
    }
    for (what, all) in [
        ("engine create+start alone", bare),
        ("runner create until ready", ours),
        ("GET /version direct", direct),
        ("GET /version through the proxy", proxied),
    ] {
        let (median, min, max) = median(all);
        println!("{what:32} median {median:?} (min {min:?}, max {max:?})");
    }
    for id in &ids {
        real.node.destroy(id).await.unwrap();
    }
    drop(cleanup);
    // Through jobs: poll, run, report.
    let id = SandboxId::random();
    let _cleanup = Cleanup(vec![id.clone()]);
    let began = Instant::now();
    let job = real.control.push(
        "CREATE_SANDBOX",
        id.as_str(),
        Some(serde_json::to_value(real.request(&id)).unwrap()),
    );
    real.control.result(&job).await;
    println!("CREATE_SANDBOX job until its result {:?}", began.elapsed());
    real.node.destroy(&id).await.unwrap();
    real.stop.cancel();
}
