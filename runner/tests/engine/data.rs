//! What happens to data (the contract's section 14.3) on the real engine: commits of one moment, names that stay, volumes that go.

use super::storage::{account, registry};
use super::*;

/// Row 4: a sandbox stands still during a commit. Two files that are written in turn, with a large one between them in the engine's archive, are of
/// one moment in the image; and the sandbox goes on.
#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_of_a_busy_sandbox_is_of_one_moment() {
    let real = Real::new().await;
    let id = SandboxId::random();
    let _cleanup = Cleanup(vec![id.clone()]);
    let write = "busybox mkdir /tmp/w; busybox dd if=/dev/zero of=/tmp/w/m bs=1M count=64
        while true; do echo x >> /tmp/w/a; echo x >> /tmp/w/z; done";
    let entrypoint = ["sh", "-c", write].map(str::to_owned).to_vec();
    real.node.create(CreateSandbox { entrypoint, ..real.request(&id) }).await.unwrap();
    let lines = |shell_command: String| -> (i64, i64) {
        let counted =
            shell(&format!("{shell_command} -c 'busybox wc -l < /tmp/w/a; busybox wc -l < /tmp/w/z'"));
        let mut numbers = counted.lines().map(|line| line.trim().parse().unwrap_or(0));
        (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
    };
    let inside = || format!("docker exec {id} sh");
    eventually("the writer to write", || lines(inside()).1 > 10).await;
    let made = real
        .node
        .snapshot(&id, SnapshotSandbox { name: "s".to_owned(), ..SnapshotSandbox::default() })
        .await
        .unwrap();
    let reference = made.reference.unwrap();
    let (first, last) = lines(format!("docker run --rm --entrypoint sh {reference}"));
    assert!(first > 10 && (first - last == 0 || first - last == 1), "{first} lines and {last}");
    eventually("the writer to go on", || lines(inside()).1 > last + 10).await;
    real.node.destroy(&id).await.unwrap();
    real.node.remove_snapshot(&reference).await.unwrap();
    real.stop.cancel();
}

/// Row 6: what was just published is here, so the first create asks nobody for it: its registry is gone by then.
#[tokio::test(flavor = "multi_thread")]
async fn a_published_snapshot_needs_no_pull_on_its_own_runner() {
    let (real, server) = (Real::new().await, registry().await);
    let good = account(&server, "pf-password");
    let (id, copy) = (SandboxId::random(), SandboxId::random());
    let _cleanup = Cleanup(vec![id.clone(), copy.clone()]);
    real.node.create(real.request(&id)).await.unwrap();
    shell(&format!("docker exec {id} sh -c 'echo precious > /tmp/work'"));
    let wanted =
        SnapshotSandbox { name: "s".to_owned(), registry: Some(good.clone()), ..SnapshotSandbox::default() };
    let reference = real.node.snapshot(&id, wanted).await.unwrap().reference.unwrap();
    assert!(reference.starts_with(&good.url), "{reference}");
    drop(server);
    let request = CreateSandbox {
        snapshot: reference.clone(),
        registry: Some(good),
        entrypoint: Vec::new(),
        ..real.request(&copy)
    };
    real.node.create(request).await.unwrap();
    assert_eq!(shell(&format!("docker exec {copy} cat /tmp/work")), "precious\n");
    for id in [&id, &copy] {
        real.node.destroy(id).await.unwrap();
    }
    real.node.remove_snapshot(&reference).await.unwrap();
    real.stop.cancel();
}

/// Row 7: volumes that an image asks for go with their sandbox.
#[tokio::test(flavor = "multi_thread")]
async fn anonymous_volumes_go_with_their_sandbox() {
    let real = Real::new().await;
    let image = "pf-runner-volume:1";
    let build = BuildSnapshot {
        snapshot: image.to_owned(),
        dockerfile: format!("FROM {IMAGE}\nVOLUME /kept\n"),
        organization_id: "o".to_owned(),
        ..BuildSnapshot::default()
    };
    real.node.build(build).await.unwrap();
    let id = SandboxId::random();
    let _cleanup = Cleanup(vec![id.clone()]);
    real.node.create(CreateSandbox { snapshot: image.to_owned(), ..real.request(&id) }).await.unwrap();
    let format = "{{range .Mounts}}{{if eq .Type \"volume\"}}{{.Name}}{{end}}{{end}}";
    let volume = shell(&format!("docker inspect -f '{format}' {id}"));
    let exists =
        || shell(&format!("docker volume inspect {} 2>/dev/null", volume.trim())).contains("Mountpoint");
    assert!(exists(), "the engine made one: {volume:?}");
    real.node.destroy(&id).await.unwrap();
    assert!(!exists());
    real.node.remove_snapshot(image).await.unwrap();
    real.stop.cancel();
}
