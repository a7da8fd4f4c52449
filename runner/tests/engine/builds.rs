//! Builds on the real engine, by BuildKit and by the legacy builder; and images that have too many layers.

use pinfold_engine::Builder;

use super::*;

fn request(tag: &str, dockerfile: &str) -> BuildSnapshot {
    BuildSnapshot {
        snapshot: format!("{tag}:daytona"),
        dockerfile: dockerfile.to_owned(),
        organization_id: "o".to_owned(),
        ..BuildSnapshot::default()
    }
}

/// Removes an image of an earlier or of this run: with it there, nothing would be built.
async fn forget(real: &Real, image: &str) {
    let _ = real.engine.remove_image(image, true).await;
}

/// The log of a build, followed to its end.
async fn log(real: &Real, tag: &str) -> String {
    let (status, log) = real.get(&format!("/snapshots/logs?snapshotRef={tag}&follow=true")).await;
    assert_eq!(status, 200, "{log}");
    log
}

/// A context with one file, as the control plane stores it.
fn context(real: &Real, file: &str, content: &str) -> String {
    let dir = real.node.config.data_dir.join("contexts/o/c0ffee");
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(dir.join(file), content).unwrap();
    shell(&format!("tar -cf {0}/context.tar -C {0} {file}", dir.display()));
    "c0ffee".to_owned()
}

/// The contract's section 7.4, item 5: a Dockerfile that only BuildKit understands, its context, its log, and its cache.
#[tokio::test(flavor = "multi_thread")]
async fn buildkit_builds_with_a_cache_and_a_context() {
    let real = Real::new().await;
    // The engine keeps caches from one run of these tests to the next.
    let cache = SandboxId::random();
    let dockerfile = |n: u32| {
        format!(
            "FROM {IMAGE}\nCOPY greeting /tmp/greeting\n\
             RUN --mount=type=cache,id=pf-{cache},target=/cache echo run {n} >> /cache/runs && cat /cache/runs > /tmp/runs\n"
        )
    };
    for n in [1, 2] {
        let tag = format!("pf-runner-kit{n}");
        forget(&real, &format!("{tag}:daytona")).await;
        let context = vec![context(&real, "greeting", "hello from the context")];
        real.node.build(BuildSnapshot { context, ..request(&tag, &dockerfile(n)) }).await.unwrap();
        let log = log(&real, &tag).await;
        assert!(log.contains("#1 ") && log.contains("RUN --mount=type=cache"), "{log}");
    }
    let runs = shell("docker run --rm pf-runner-kit2:daytona cat /tmp/runs /tmp/greeting");
    assert_eq!(runs, "run 1\nrun 2\nhello from the context", "the second build sees the first one's cache");
    let bad = request("pf-runner-kitbad", &format!("FROM {IMAGE}\nRUN echo working; exit 7\n"));
    let error = real.node.build(bad).await.unwrap_err();
    assert!(error.message.contains("exit code: 7"), "{error}");
    let log = log(&real, "pf-runner-kitbad").await;
    assert!(log.contains("working\n") && log.contains("ERROR: "), "{log}");
    for n in [1, 2] {
        forget(&real, &format!("pf-runner-kit{n}:daytona")).await;
    }
    real.stop.cancel();
}

/// The contract's section 14.5, item 12: steps of BuildKit are within the limits too, and one that takes too long is ended.
#[tokio::test(flavor = "multi_thread")]
async fn buildkit_is_bounded() {
    let real = Real::with(|config| {
        config.build_memory_gib = 1;
        config.build_cpu = 1;
    })
    .await;
    // Named after this run: had one without limits ever succeeded here, its step would come from the cache.
    let this = SandboxId::random();
    let hungry =
        format!("FROM {IMAGE}\nRUN : {this}; /bin/busybox dd if=/dev/zero of=/dev/null bs=1500M count=1\n");
    let error = real.node.build(request("pf-runner-hungry", &hungry)).await.unwrap_err();
    assert!(error.message.contains("exit code: 137"), "a step that eats too much is killed: {error}");
    let quick = Real::with(|config| config.build_timeout = Duration::from_secs(3)).await;
    let endless = format!("FROM {IMAGE}\nRUN sleep 86399\n");
    let error = quick.node.build(request("pf-runner-endless", &endless)).await.unwrap_err();
    assert!(error.message.contains("timed out"), "{error}");
    let running = || !shell("pgrep -f '^sleep 86399$'").is_empty();
    eventually("the engine to end the step of a build that nobody waits for", || !running()).await;
    quick.stop.cancel();
    real.stop.cancel();
}

/// `BUILD_ENGINE=legacy`.
#[tokio::test(flavor = "multi_thread")]
async fn the_legacy_builder_can_be_asked_for() {
    let real = Real::with(|config| config.builder = Builder::Legacy).await;
    forget(&real, "pf-runner-legacy:daytona").await;
    real.node.build(request("pf-runner-legacy", &format!("FROM {IMAGE}\nENV A=1\n"))).await.unwrap();
    let log = log(&real, "pf-runner-legacy").await;
    assert!(log.contains("Step 1/2"), "{log}");
    forget(&real, "pf-runner-legacy:daytona").await;
    real.stop.cancel();
}

/// The contract's section 14.3, item 5: each archive and restore adds a layer, and engines refuse too many. At a hundred they become one, and files,
/// their owners, the environment and the command stay.
#[tokio::test(flavor = "multi_thread")]
async fn an_image_of_many_layers_becomes_one() {
    let real = Real::new().await;
    let layers: String = (0..99).map(|n| format!("COPY Dockerfile /tmp/layer{n}\n")).collect();
    let dockerfile = format!("FROM {IMAGE}\nENV GENERATION=\"a \\\"quoted\\\" \\$value\"\n{layers}");
    forget(&real, "pf-runner-deep:daytona").await;
    real.node.build(request("pf-runner-deep", &dockerfile)).await.unwrap();
    let deep = "pf-runner-deep:daytona";
    assert_eq!(real.engine.image(deep).await.unwrap().layers, 100);
    let (id, copy) = (SandboxId::random(), SandboxId::random());
    let _cleanup = Cleanup(vec![id.clone(), copy.clone()]);
    let request = CreateSandbox { snapshot: deep.to_owned(), ..real.request(&id) };
    real.node.create(request).await.unwrap();
    shell(&format!("docker exec {id} sh -c 'echo precious > /tmp/work && busybox chown 12:34 /tmp/work'"));
    let backup = format!("pf-runner-flat:{}", id.as_str());
    real.node.backup(&id, CreateBackup { snapshot: backup.clone(), registry: None }).await.unwrap();
    let flat = real.engine.image(&backup).await.unwrap();
    assert_eq!(flat.layers, 1, "{flat:?}");
    real.node.destroy(&id).await.unwrap();
    let restored = CreateSandbox { snapshot: backup.clone(), entrypoint: Vec::new(), ..real.request(&copy) };
    real.node.create(restored).await.unwrap();
    let seen = shell(&format!(
        "docker exec {copy} sh -c 'cat /tmp/work; busybox stat -c %u:%g /tmp/work; echo $GENERATION; ls /tmp/layer98'"
    ));
    assert_eq!(seen, "precious\n12:34\na \"quoted\" $value\n/tmp/layer98\n");
    let found = real.engine.inspect(copy.as_str()).await.unwrap();
    assert_eq!(found.cmd, ["sleep", "3600"], "the command is the one it had");
    real.node.destroy(&copy).await.unwrap();
    for image in [deep, backup.as_str()] {
        forget(&real, image).await;
    }
    real.stop.cancel();
}
