//! Clients of buckets that die under running sandboxes (runner contract 14.3, 9): `s3fs` is killed, and what runs in a sandbox goes on.

use std::path::{Path, PathBuf};

use pinfold_proto::id::VolumeId;

use super::storage::{Server, clients, object_store, object_store_on, settings};
use super::*;

/// A host with a volume in a bucket, and the lives of a runner on it.
struct Host {
    server: Option<Server>,
    port: u16,
    volume: VolumeId,
    dir: tempfile::TempDir,
    sandboxes: Cleanup,
}

impl Host {
    async fn new() -> Self {
        let volume: VolumeId = uuid::Uuid::new_v4().to_string().parse().unwrap();
        let server = object_store(&[&volume]).await;
        let (port, dir) = (server.port, tempfile::tempdir().unwrap());
        Self { server: Some(server), port, volume, dir, sandboxes: Cleanup(Vec::new()) }
    }

    async fn runner(&self) -> Real {
        Real::with(|c| {
            c.data_dir = self.dir.path().join("data");
            c.bucket_dir = Some(self.dir.path().join("buckets"));
            c.object_store = Some(settings(self.port));
            c.volume_cleanup_dry_run = false;
            // Longer than a create takes: no clean-up may take what is being mounted.
            c.volume_cleanup_exclusion = Duration::from_secs(3);
        })
        .await
    }

    /// A request for a sandbox that has the volume, or a part of it, at `/data`.
    fn request(&mut self, real: &Real, subpath: Option<&str>) -> (SandboxId, CreateSandbox) {
        let id = SandboxId::random();
        self.sandboxes.0.push(id.clone());
        let mounts = serde_json::json!([{"volumeId": self.volume, "mountPath": "/data", "subpath": subpath}]);
        let volumes = serde_json::from_value(mounts).unwrap();
        (id.clone(), CreateSandbox { volumes, ..real.request(&id) })
    }

    async fn sandbox(&mut self, real: &Real, subpath: Option<&str>) -> SandboxId {
        let (id, request) = self.request(real, subpath);
        real.node.create(request).await.unwrap();
        id
    }

    fn mount_point(&self) -> PathBuf {
        self.dir.path().join("buckets").join(format!("daytona-volume-{}", self.volume))
    }

    /// Ends the client as a crash would.
    fn kill_client(&self) {
        let serving = clients(&self.mount_point());
        assert_eq!(serving.len(), 1, "one client serves the volume: {serving:?}");
        shell(&format!("kill -9 {}", serving[0].0));
    }

    /// Mounts of this host's that are there now.
    fn mounts(&self) -> Vec<String> {
        lines_with(&std::fs::read_to_string("/proc/self/mountinfo").unwrap(), self.dir.path())
    }
}

/// Nothing of a test that failed stays mounted.
impl Drop for Host {
    fn drop(&mut self) {
        for line in self.mounts() {
            let _ = std::process::Command::new("umount").arg("-l").args(line.split(' ').nth(4)).output();
        }
    }
}

fn lines_with(text: &str, path: &Path) -> Vec<String> {
    let path = format!("{}/", path.display());
    text.lines().filter(|line| line.contains(&path)).map(str::to_owned).collect()
}

/// What a command in a sandbox says; nothing if it fails.
fn inside(id: &SandboxId, command: &str) -> String {
    let mut docker = std::process::Command::new("docker");
    let output = docker.args(["exec", id.as_str(), "sh", "-c", command]).output().unwrap();
    if output.status.success() { String::from_utf8(output.stdout).unwrap() } else { String::new() }
}

fn write(id: &SandboxId, file: &str, text: &str) {
    assert_eq!(inside(id, &format!("echo {text} > {file} && cat {file}")), format!("{text}\n"));
}

/// Waits for what takes a mount client and calls of the engine, on a machine that may have other things to do: the runner's longest pause between two attempts, and some.
async fn before_long(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(120);
    while !condition() {
        assert!(Instant::now() < deadline, "still waiting for: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Waits until every one of `ids` reads what was written before and writes anew.
async fn have_it_again(ids: &[&SandboxId]) {
    for id in ids {
        before_long("the sandbox to have its volume again", || {
            inside(id, "cat /data/kept") == "precious\n"
                && inside(id, "echo more > /data/new && cat /data/new") == "more\n"
        })
        .await;
    }
}

async fn metric(real: &Real, name: &str) -> u64 {
    let (_, text) = real.get("/metrics").await;
    let line = text.lines().find_map(|line| line.strip_prefix(&format!("{name} ")));
    line.unwrap_or_else(|| panic!("no {name} in {text}")).parse().unwrap()
}

/// Row 9 of the contract's 14.3, with a sandbox that has the whole volume and one that has a part of it.
#[tokio::test(flavor = "multi_thread")]
async fn running_sandboxes_get_a_new_mount_when_a_client_dies() {
    let mut host = Host::new().await;
    let mut real = host.runner().await;
    let whole = host.sandbox(&real, None).await;
    let part = host.sandbox(&real, Some("users/7")).await;
    let both = [&whole, &part];
    let began = shell(&format!("docker inspect -f '{{{{.State.StartedAt}}}}' {whole} {part}"));
    for id in both {
        write(id, "/data/kept", "precious");
        // One process counts all the while; what it wrote last is beside the volume, too.
        let count = "n=0; while :; do n=$((n+1)); echo $n > /data/count && cat /data/count > /tmp/count; sleep 0.2; done";
        shell(&format!("docker exec -d {id} sh -c '{count}' 2>/dev/null"));
        before_long("the process to count", || !inside(id, "cat /tmp/count").is_empty()).await;
    }
    let mounted = host.mounts().len();
    assert_eq!(mounted, 3, "the volume, and an anchor each: {:?}", host.mounts());
    let mut slowest = Duration::ZERO;
    for round in 1..=5 {
        if round == 3 {
            // It dies while no runner is there; the next life of it knows of the mounts only what the kernel says.
            real.end().await;
            host.kill_client();
            real = host.runner().await;
        } else {
            host.kill_client();
        }
        let killed = Instant::now();
        let counted = both.map(|id| inside(id, "cat /tmp/count"));
        have_it_again(&both).await;
        for (id, before) in both.iter().zip(counted) {
            before_long("the process that ran all the while to count on", || {
                inside(id, "cat /data/count; cat /tmp/count") != before.repeat(2)
                    && inside(id, "cat /tmp/count") != before
            })
            .await;
        }
        slowest = slowest.max(killed.elapsed());
        // The first mount, dead, below; the live one on it. Never more.
        assert_eq!(host.mounts().len(), 5, "round {round}: {:?}", host.mounts());
        for id in both {
            let seen = inside(id, "cat /proc/self/mountinfo");
            assert_eq!(seen.lines().filter(|line| line.contains(" /data ")).count(), 2, "{seen}");
        }
        let expected = if round < 3 { 2 * round } else { 2 * (round - 2) };
        // Counted a moment after the sandboxes have them.
        let deadline = Instant::now() + Duration::from_secs(60);
        while metric(&real, "pinfold_volume_mounts_healed_total").await < expected {
            assert!(Instant::now() < deadline, "still waiting for the count of healed mounts");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(metric(&real, "pinfold_volume_mounts_healed_total").await, expected);
    }
    println!("healed within {slowest:?} at worst, in five rounds");
    let now = shell(&format!("docker inspect -f '{{{{.State.StartedAt}}}}' {whole} {part}"));
    assert_eq!(began, now, "no container was started again");
    assert_eq!(inside(&whole, "cat /data/users/7/kept"), "precious\n");

    // A start from here has one mount again, and a sandbox that is made now shares the client.
    real.node.stop(&part, StopSandbox::default()).await.unwrap();
    real.node.start(&part, StartSandbox::default()).await.unwrap();
    assert_eq!(host.mounts().len(), 4, "{:?}", host.mounts());
    host.kill_client();
    have_it_again(&both).await;
    for id in both {
        real.node.destroy(id).await.unwrap();
    }
    let deadline = Instant::now() + Duration::from_secs(60);
    while host.mount_point().exists() {
        assert!(Instant::now() < deadline, "the volume of sandboxes that are gone stays mounted");
        real.node.reclaim().await.unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(host.mounts(), Vec::<String>::new());
    assert!(std::fs::read_dir(host.dir.path().join("data/volume-mounts")).unwrap().next().is_none());
    before_long("no client to be left", || clients(&host.mount_point()).is_empty()).await;
    real.end().await;
}

/// A client dies and no other can be had: tried until one can, and nobody else waits for that. `away` and `back` are the store's.
async fn tried_until_it_is_back(away: impl AsyncFn(&mut Host), back: impl AsyncFn(&mut Host)) {
    let mut host = Host::new().await;
    let real = host.runner().await;
    let id = host.sandbox(&real, None).await;
    away(&mut host).await;
    host.kill_client();
    let deadline = Instant::now() + Duration::from_secs(120);
    while metric(&real, "pinfold_volume_heal_failures_total").await < 2 {
        assert!(Instant::now() < deadline, "no second attempt");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // Meanwhile the sandbox gets errors, and no empty directory to write to.
    assert_eq!(inside(&id, "ls /data || echo refused"), "refused\n");
    let other = SandboxId::random();
    host.sandboxes.0.push(other.clone());
    real.node.create(real.request(&other)).await.unwrap();
    back(&mut host).await;
    before_long("the sandbox to have its volume again", || {
        inside(&id, "echo more > /data/new && cat /data/new") == "more\n"
    })
    .await;
    for id in [&id, &other] {
        real.node.destroy(id).await.unwrap();
    }
    real.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_mount_is_tried_again_until_its_bucket_is_back() {
    let bucket = async |host: &mut Host, method: reqwest::Method| {
        let url = format!("http://127.0.0.1:{}/daytona-volume-{}", host.port, host.volume);
        let client = pinfold_runner::jobs::http_client().unwrap();
        assert!(client.request(method, url).send().await.unwrap().status().is_success());
    };
    let away = async |host: &mut Host| bucket(host, reqwest::Method::DELETE).await;
    tried_until_it_is_back(away, async |host| bucket(host, reqwest::Method::PUT).await).await;
}

/// The client takes its time, 20 s, before it gives a server up.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "slow"]
async fn a_dead_mount_is_tried_again_until_its_server_is_back() {
    let away = async |host: &mut Host| drop(host.server.take());
    tried_until_it_is_back(away, async |host| {
        host.server = Some(object_store_on(host.port, &[&host.volume]).await);
    })
    .await;
}

/// A client that hangs is found without its end, and those who wait for it are set free.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "slow"]
async fn a_client_that_hangs_is_given_up() {
    let mut host = Host::new().await;
    let real = host.runner().await;
    let id = host.sandbox(&real, None).await;
    write(&id, "/data/kept", "precious");
    let hanging = clients(&host.mount_point())[0].0;
    shell(&format!("kill -STOP {hanging}"));
    let stopped = Instant::now();
    let waiting = std::process::Command::new("docker")
        .args(["exec", id.as_str(), "cat", "/data/kept"])
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn();
    let waiting = std::cell::RefCell::new(waiting.unwrap());
    let other = SandboxId::random();
    host.sandboxes.0.push(other.clone());
    real.node.create(real.request(&other)).await.unwrap();
    let deadline = stopped + Duration::from_secs(150);
    while metric(&real, "pinfold_volume_mounts_healed_total").await < 1 {
        assert!(Instant::now() < deadline, "the client that hangs is not given up");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    println!("given up after {:?}", stopped.elapsed());
    have_it_again(&[&id]).await;
    before_long("the call that waited to end", || waiting.borrow_mut().try_wait().unwrap().is_some()).await;
    shell(&format!("kill -9 {hanging}"));
    for id in [&id, &other] {
        real.node.destroy(id).await.unwrap();
    }
    real.end().await;
}

/// The client dies while another sandbox is made that wants the volume: that one is made, and both have it.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_dies_during_a_create_fails_nobody() {
    let mut host = Host::new().await;
    let real = host.runner().await;
    let first = host.sandbox(&real, None).await;
    write(&first, "/data/kept", "precious");
    let (id, request) = host.request(&real, None);
    let node = real.node.clone();
    let create = tokio::spawn(async move { node.create(request).await });
    let anchor = format!("/{id}/0 ");
    // Bound for the engine, but not yet by it.
    loop {
        let is_over = create.is_finished();
        if host.mounts().iter().any(|line| line.contains(&anchor)) {
            break;
        }
        assert!(!is_over, "the create ended before its volume was bound");
        tokio::task::yield_now().await;
    }
    host.kill_client();
    create.await.unwrap().unwrap();
    have_it_again(&[&first, &id]).await;
    host.kill_client();
    have_it_again(&[&first, &id]).await;
    for id in [&first, &id] {
        real.node.destroy(id).await.unwrap();
    }
    real.end().await;
}
