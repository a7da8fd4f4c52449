//! A real registry (Debian's `docker-registry`) and a real S3 server (moto) with Debian's `s3fs`; `tools/setup --tests` installs them.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use pinfold_proto::id::VolumeId;
use pinfold_proto::runner::payload::{PullSnapshot, Registry, VolumeMount};
use pinfold_runner::ObjectStore;
use pinfold_runner::error::Class;
use pinfold_testing::free_port;
use pinfold_volumes::{Binder, Health, S3Credentials, S3Volumes, VolumeStore, health};

use super::*;

const SECRET: &str = "pf-secret-key";

/// A server of this test, ended with it.
pub(super) struct Server {
    child: Child,
    pub(super) port: u16,
    dir: tempfile::TempDir,
}

impl Server {
    /// What it has written.
    pub(super) fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    pub(super) fn signal(&self, name: &str) {
        shell(&format!("kill -{name} {}", self.child.id()));
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn listening(port: u16) {
    eventually("the server to listen", || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()).await;
}

/// A registry that wants user `pf` with password `pf-password`.
pub(super) async fn registry() -> Server {
    let (dir, port) = (tempfile::tempdir().unwrap(), free_port());
    let hash = "import crypt; print('pf:' + crypt.crypt('pf-password', crypt.mksalt(crypt.METHOD_BLOWFISH, rounds=16)))";
    let users = Command::new("python3").args(["-W", "ignore", "-c", hash]).output().unwrap().stdout;
    std::fs::write(dir.path().join("users"), users).unwrap();
    let config = format!(
        "version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: {0}/data\n  delete:\n    enabled: true\n\
         http:\n  addr: 127.0.0.1:{port}\nauth:\n  htpasswd:\n    realm: pf\n    path: {0}/users\n",
        dir.path().display()
    );
    std::fs::write(dir.path().join("config.yml"), config).unwrap();
    let log = std::fs::File::create(dir.path().join("log")).unwrap();
    let mut command = Command::new("docker-registry");
    command.arg("serve").arg(dir.path().join("config.yml")).stdout(Stdio::null()).stderr(log);
    let child = command.spawn().expect("docker-registry is installed: tools/setup --tests");
    listening(port).await;
    Server { child, port, dir }
}

pub(super) fn account(server: &Server, password: &str) -> Registry {
    let value = serde_json::json!({"url": format!("127.0.0.1:{}", server.port), "project": "p", "username": "pf", "password": password});
    serde_json::from_value(value).unwrap()
}

/// Pains D30 and D31: what a registry is for, with credentials and with the wrong ones, and errors that name it.
#[tokio::test(flavor = "multi_thread")]
async fn pain_30_a_private_registry_is_used_and_its_refusals_are_named() {
    let (real, server) = (Real::new().await, registry().await);
    let host = format!("127.0.0.1:{}", server.port);
    let good = account(&server, "pf-password");
    let reference = format!("{host}/p/daytona-pf:daytona");
    // Published from the local store, under the name the control plane computed.
    let publish = PullSnapshot {
        snapshot: IMAGE.to_owned(),
        destination_registry: Some(good.clone()),
        destination_ref: Some(reference.clone()),
        ..PullSnapshot::default()
    };
    real.node.pull_snapshot(publish).await.unwrap();
    let inspect =
        |registry: Registry| InspectSnapshot { snapshot: reference.clone(), registry: Some(registry) };
    let found = real.node.inspect_snapshot(inspect(good.clone())).await.unwrap();
    assert!(found.hash.len() == 64 && found.size_gb > 0.0, "{found:?}");
    real.node.remove_snapshot(&reference).await.unwrap();
    assert!(real.engine.image(&reference).await.unwrap_err().is_not_found());
    let refused = real.node.inspect_snapshot(inspect(account(&server, "wrong"))).await.unwrap_err();
    assert_eq!(refused.class, Class::Unauthorized, "{refused}");
    // Pulled again: refused without the right password, and with it the same image.
    let pull = |registry: Registry| PullSnapshot {
        snapshot: reference.clone(),
        registry: Some(registry),
        ..PullSnapshot::default()
    };
    let refused = real.node.pull_snapshot(pull(account(&server, "wrong"))).await.unwrap_err();
    assert!(refused.message.contains(&host), "the refusal names the registry: {refused}");
    let pulled = real.node.pull_snapshot(pull(good.clone())).await.unwrap();
    assert_eq!(pulled.hash, found.hash);
    // A build on a private parent that is not in the local store.
    real.node.remove_snapshot(&reference).await.unwrap();
    let build = BuildSnapshot {
        snapshot: "daytona-pfbuild:daytona".to_owned(),
        dockerfile: format!("FROM {reference}\nRUN echo built > /tmp/built\n"),
        organization_id: "o".to_owned(),
        source_registries: vec![good.clone()],
        registry: Some(good.clone()),
        push_to_internal_registry: true,
        ..BuildSnapshot::default()
    };
    real.node.build(build).await.unwrap();
    let pushed = InspectSnapshot {
        snapshot: format!("{host}/p/daytona-pfbuild:daytona"),
        registry: Some(good.clone()),
    };
    assert_eq!(real.node.inspect_snapshot(pushed.clone()).await.unwrap().hash.len(), 64);
    // A backup goes there and leaves nothing here; a sandbox is restored from it.
    let (id, copy) = (SandboxId::random(), SandboxId::random());
    let _cleanup = Cleanup(vec![id.clone(), copy.clone()]);
    real.node.create(real.request(&id)).await.unwrap();
    shell(&format!("docker exec {id} sh -c 'echo precious > /tmp/work'"));
    let backup = format!("{host}/p/backup-{id}:2026-11-21");
    real.node
        .backup(&id, CreateBackup { snapshot: backup.clone(), registry: Some(good.clone()) })
        .await
        .unwrap();
    assert!(real.engine.image(&backup).await.unwrap_err().is_not_found(), "the local copy is gone");
    let state = shell(&format!("docker inspect -f '{{{{.State.Status}}}}' {id}"));
    assert_eq!(state.trim(), "running", "not left frozen");
    let restored = CreateSandbox {
        snapshot: backup.clone(),
        registry: Some(good.clone()),
        entrypoint: Vec::new(),
        ..real.request(&copy)
    };
    real.node.create(restored).await.unwrap();
    assert_eq!(shell(&format!("docker exec {copy} cat /tmp/work")), "precious\n");
    // An image that a sandbox needs stays until the sandbox is gone.
    real.node.stop(&copy, StopSandbox::default()).await.unwrap();
    real.node.remove_snapshot(&backup).await.unwrap();
    assert!(real.engine.image(&backup).await.is_ok(), "a stopped sandbox still needs it");
    real.node.destroy(&copy).await.unwrap();
    real.node.reclaim().await.unwrap();
    assert!(real.engine.image(&backup).await.unwrap_err().is_not_found());
    // A registry that is away is named.
    real.node.remove_snapshot(&reference).await.unwrap();
    drop(server);
    let gone = real.node.pull_snapshot(pull(good)).await.unwrap_err();
    assert!(gone.message.contains(&host) && gone.message.contains("refused"), "{gone}");
    real.node.destroy(&id).await.unwrap();
    for name in ["daytona-pfbuild:daytona", pushed.snapshot.as_str()] {
        real.node.remove_snapshot(name).await.unwrap();
    }
    real.stop.cancel();
}

/// An S3 server, and buckets in it.
pub(super) async fn object_store(buckets: &[&VolumeId]) -> Server {
    object_store_on(free_port(), buckets).await
}

/// The same on a port of the caller's.
pub(super) async fn object_store_on(port: u16, buckets: &[&VolumeId]) -> Server {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.pinfold/venv/bin/moto_server");
    let mut command = Command::new(program);
    command.args(["-H", "127.0.0.1", "-p", &port.to_string()]).stdout(Stdio::null()).stderr(Stdio::null());
    let child = command.spawn().expect("moto is installed: tools/setup --tests");
    listening(port).await;
    for volume in buckets {
        let url = format!("http://127.0.0.1:{port}/daytona-volume-{volume}");
        let made = pinfold_runner::jobs::http_client().unwrap().put(url).send().await.unwrap();
        assert!(made.status().is_success(), "{made:?}");
    }
    Server { child, port, dir: tempfile::tempdir().unwrap() }
}

/// A runner's settings for the object store on this port.
pub(super) fn settings(port: u16) -> ObjectStore {
    ObjectStore {
        endpoint: format!("http://127.0.0.1:{port}"),
        region: "us-east-1".to_owned(),
        access_key: "pf-access-key".to_owned(),
        secret_key: Secret::new(SECRET),
        bucket: None,
    }
}

fn credentials(server: &Server) -> S3Credentials {
    let store = settings(server.port);
    S3Credentials {
        endpoint: Some(store.endpoint),
        region: Some(store.region),
        access_key: Secret::new(store.access_key),
        secret_key: store.secret_key,
    }
}

/// The processes that serve a mount, and their arguments.
pub(super) fn clients(path: &Path) -> Vec<(i32, String)> {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let with_arguments =
        pids.filter_map(|pid| Some((pid, std::fs::read_to_string(format!("/proc/{pid}/cmdline")).ok()?)));
    let path = path.display().to_string();
    let ours = |line: &str| ["s3fs", "mount-s3"].iter().any(|program| line.starts_with(program));
    with_arguments.filter(|(_, line)| ours(line) && line.contains(&path)).collect()
}

/// Pain H50: mounts outlive the runner, dead ones are found and healed, and nothing inside a volume leads out of it.
#[tokio::test(flavor = "multi_thread")]
async fn pain_50_volumes_outlive_the_runner_and_dead_mounts_are_healed() {
    let volume: VolumeId = uuid::Uuid::new_v4().to_string().parse().unwrap();
    let server = object_store(&[&volume]).await;
    let base = tempfile::tempdir().unwrap();
    let store = || S3Volumes::new(base.path(), credentials(&server), Duration::ZERO);
    let first = Arc::new(store());
    let (one, two) = tokio::join!(first.ensure(&volume), first.ensure(&volume));
    let path = one.unwrap();
    assert_eq!(two.unwrap(), path);
    let serving = clients(&path);
    assert_eq!(serving.len(), 1, "one mount for all who want it: {serving:?}");
    assert!(!serving[0].1.contains(SECRET), "no secret in the arguments: {serving:?}");
    // Debian's client, unless mount-s3 is installed. That one has no links, and needs no file with the key.
    let s3fs = serving[0].1.starts_with("s3fs");
    let password = std::fs::metadata(base.path().join(".pinfold-s3fs"));
    assert_eq!(password.is_ok(), s3fs);
    assert!(password.is_err() || password.unwrap().permissions().mode() & 0o077 == 0);
    std::fs::write(path.join("kept"), "precious").unwrap();
    // Another life of the runner finds the mount as it is.
    drop(first);
    let second = Arc::new(store());
    second.ensure(&volume).await.unwrap();
    assert_eq!(clients(&path)[0].0, serving[0].0, "the same process serves it");
    // The client dies: told, although another life started it, found, and mounted anew.
    second.watch(&volume).await;
    shell(&format!("kill -9 {}", serving[0].0));
    let told = tokio::time::timeout(Duration::from_secs(30), second.client_ended());
    told.await.expect("the end of the client is told");
    eventually("the mount to be dead", || health(&path) == Health::Dead).await;
    second.ensure(&volume).await.unwrap();
    assert_eq!(std::fs::read_to_string(path.join("kept")).unwrap(), "precious");
    // Subpaths stay inside, whatever a sandbox makes of them.
    assert_eq!(std::os::unix::fs::symlink("/etc", path.join("escape")).is_ok(), s3fs);
    let binder = Binder::new(second.clone(), base.path().join("staging"));
    let sandbox = SandboxId::random();
    let mount = |subpath: &str| VolumeMount {
        volume_id: volume.to_string(),
        mount_path: "/data".to_owned(),
        subpath: Some(subpath.to_owned()),
    };
    if s3fs {
        let refused = binder.bind(&sandbox, &[mount("escape")]).await.unwrap_err();
        assert!(refused.to_string().contains("link"), "{refused}");
    }
    assert!(binder.bind(&sandbox, &[mount("../..")]).await.is_err());
    let binds = binder.bind(&sandbox, &[mount("a/b")]).await.unwrap();
    std::fs::write(Path::new(binds[0].split(':').next().unwrap()).join("x"), "y").unwrap();
    assert_eq!(std::fs::read_to_string(path.join("a/b/x")).unwrap(), "y");
    binder.release(&sandbox).await.unwrap();
    // What is in use stays, what is not goes.
    assert!(second.cleanup(&|_| true).await.unwrap().is_empty() && health(&path) == Health::Live);
    assert_eq!(second.cleanup(&|_| false).await.unwrap(), [volume]);
    assert!(!path.exists());
}

/// The same through sandboxes: what one writes, another reads, after the first is gone.
#[tokio::test(flavor = "multi_thread")]
async fn sandboxes_share_a_bucket() {
    let volume: VolumeId = uuid::Uuid::new_v4().to_string().parse().unwrap();
    let server = object_store(&[&volume]).await;
    let real = Real::with(|c| {
        // The contract's place for mounts of a development host is /tmp.
        c.environment = "development".to_owned();
        c.object_store = Some(settings(server.port));
        c.volume_cleanup_dry_run = false;
        // Longer than a create takes: no clean-up may take what is being mounted.
        c.volume_cleanup_exclusion = Duration::from_secs(3);
    })
    .await;
    let ids = [SandboxId::random(), SandboxId::random()];
    let _cleanup = Cleanup(ids.to_vec());
    for id in &ids {
        let mount = serde_json::json!([{"volumeId": volume, "mountPath": "/data", "subpath": "shared"}]);
        let request = CreateSandbox { volumes: serde_json::from_value(mount).unwrap(), ..real.request(id) };
        real.node.create(request).await.unwrap();
    }
    shell(&format!("docker exec {} sh -c 'echo hello > /data/greeting'", ids[0]));
    real.node.destroy(&ids[0]).await.unwrap();
    assert_eq!(shell(&format!("docker exec {} cat /data/greeting", ids[1])), "hello\n");
    real.node.destroy(&ids[1]).await.unwrap();
    let mounted = Path::new("/tmp").join(format!("daytona-volume-{volume}"));
    let deadline = Instant::now() + Duration::from_secs(60);
    while mounted.exists() {
        assert!(Instant::now() < deadline, "the volume of sandboxes that are gone stays mounted");
        real.node.reclaim().await.unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    real.stop.cancel();
}
