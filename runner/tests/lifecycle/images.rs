//! Snapshots, backups and the images that sandboxes need.

use super::*;

#[tokio::test]
async fn snapshots_thaw_on_every_path_and_work_without_a_registry() {
    let bench = Bench::new().await;
    let id = SandboxId::random();
    bench.node.create(request(&id)).await.unwrap();
    let wanted = || SnapshotSandbox { name: "s".to_owned(), ..SnapshotSandbox::default() };
    let made = bench.node.snapshot(&id, wanted()).await.unwrap();
    assert_eq!(made.reference.unwrap(), format!("daytona-{}:daytona", made.hash));
    bench.engine.fail_next("commit", Fault::Error(broken()));
    assert!(bench.node.snapshot(&id, wanted()).await.is_err());
    assert_eq!(bench.engine.container(id.as_str()).unwrap().status, ContainerStatus::Running);
    assert_eq!(bench.node.index.get(&id).unwrap().state, SandboxState::Started);
}

#[tokio::test]
async fn a_stop_cancels_the_backup() {
    let bench = Bench::new().await;
    let id = SandboxId::random();
    bench.node.create(request(&id)).await.unwrap();
    bench.engine.fail_next("commit", Fault::Hang);
    let (node, owned) = (bench.node.clone(), id.clone());
    let wanted = CreateBackup { snapshot: "reg.test/p/backup:1".to_owned(), registry: None };
    let backup = tokio::spawn(async move { node.backup(&owned, wanted).await });
    eventually("the commit", || bench.engine.calls("commit") == 1).await;
    bench.node.stop(&id, StopSandbox::default()).await.unwrap();
    assert!(backup.await.unwrap().unwrap_err().message.contains("cancelled"));
}

#[tokio::test]
async fn pain_31_one_pull_serves_everyone_who_waits_for_it() {
    let bench = Bench::new().await;
    bench.engine.delay("pull", Duration::from_millis(50));
    let creates = (0..8).map(|_| {
        let wanted = CreateSandbox { snapshot: "pulled:1".to_owned(), ..request(&SandboxId::random()) };
        bench.node.create(wanted)
    });
    for result in futures_util::future::join_all(creates).await {
        result.unwrap();
    }
    assert_eq!(bench.engine.calls("pull"), 1);
    assert!(bench.node.snapshot_exists("pulled:1").await.unwrap());
    assert!(
        !bench.node.snapshot_exists("pulled:10").await.unwrap()
            && !bench.node.snapshot_exists(IMAGE.trim_end_matches(":1")).await.unwrap()
    );
}

#[tokio::test]
async fn an_image_made_here_is_never_replaced_by_a_strangers() {
    let bench = Bench::new().await;
    bench.engine.add_image("team/box:latest", common::image());
    let create =
        |snapshot: &str| CreateSandbox { snapshot: snapshot.to_owned(), ..request(&SandboxId::random()) };
    bench.node.create(create("team/box:latest")).await.unwrap();
    assert_eq!(bench.engine.calls("pull"), 0);
    // One that came from a registry may be newer there; a registry that is away does not keep it from running.
    let pulled =
        pinfold_engine::Image { digests: vec!["team/pulled@sha256:00".to_owned()], ..common::image() };
    bench.engine.add_image("team/pulled:latest", pulled);
    bench.engine.fail_next("pull", Fault::Error(broken()));
    bench.node.create(create("team/pulled:latest")).await.unwrap();
    assert_eq!(bench.engine.calls("pull"), 1);
}

/// A snapshot whose image sandboxes still need goes with the last of them, also after a restart.
#[tokio::test]
async fn an_image_that_sandboxes_need_is_removed_after_the_last_of_them() {
    let bench = Bench::new().await;
    let id = SandboxId::random();
    let reference = "daytona-needed:1";
    bench.engine.add_image(reference, common::image());
    let wanted = CreateSandbox { snapshot: reference.to_owned(), ..request(&id) };
    bench.node.create(wanted).await.unwrap();
    bench.node.stop(&id, StopSandbox::default()).await.unwrap();
    bench.node.remove_snapshot(reference).await.unwrap();
    assert!(bench.engine.image_names().contains(&reference.to_owned()), "a stopped sandbox needs it");
    let Bench { engine, dir, .. } = bench;
    let again = Bench::over(engine, dir, |_| {}).await;
    again.node.destroy(&id).await.unwrap();
    again.node.reclaim().await.unwrap();
    assert!(!again.engine.image_names().contains(&reference.to_owned()));
}

/// 14.5, row 16: a name that may move is looked up by its digest, once for everyone who asks within half a minute, and not pulled again while it
/// is the same; a registry that says nothing is waited for once, and shortly.
#[tokio::test(start_paused = true)]
async fn a_name_that_may_move_is_looked_up_shortly_and_not_by_each() {
    let bench = Bench::new().await;
    let reference = "team/moving:latest";
    let current = format!("team/moving@sha256:{:064x}", 9);
    let local = |digest: &str| pinfold_engine::Image { digests: vec![digest.to_owned()], ..common::image() };
    bench.engine.add_image(reference, local(&current));
    let pull = || {
        let wanted = PullSnapshot { snapshot: reference.to_owned(), ..PullSnapshot::default() };
        bench.node.pull_snapshot(wanted)
    };
    let asked = || (bench.engine.calls("registry_digest"), bench.engine.calls("pull"));
    for result in futures_util::future::join_all((0..20).map(|_| pull())).await {
        result.unwrap();
    }
    assert_eq!(asked(), (1, 0), "twenty at once are one question");
    let minute = Duration::from_secs(31);
    tokio::time::advance(minute).await;
    pull().await.unwrap();
    assert_eq!(asked(), (2, 0), "the answer holds for half a minute");
    // Silence, too.
    bench.engine.fail_next("registry_digest", Fault::Hang);
    tokio::time::advance(minute).await;
    let began = tokio::time::Instant::now();
    pull().await.unwrap();
    let waited = began.elapsed();
    assert!((Duration::from_secs(3)..Duration::from_secs(4)).contains(&waited), "{waited:?}");
    pull().await.unwrap();
    assert_eq!((began.elapsed(), asked()), (waited, (3, 0)), "the second waits for nothing");
    // The name means another image now; and what a registry refuses to tell, a pull may find out.
    bench.engine.add_image(reference, local("team/moving@sha256:00"));
    bench.node.images.invalidate();
    tokio::time::advance(minute).await;
    pull().await.unwrap();
    assert_eq!(asked(), (4, 1));
    pull().await.unwrap();
    assert_eq!(asked(), (4, 1), "what was just pulled is the newest");
    let refused = EngineError::Unauthorized { what: "ask".to_owned(), message: "no".to_owned() };
    bench.engine.fail_next("registry_digest", Fault::Error(refused));
    tokio::time::advance(minute).await;
    pull().await.unwrap();
    assert_eq!(asked(), (5, 2));
}

/// What could not be published leaves no name behind: it would take room for ever, and look published to the next attempt.
#[tokio::test]
async fn what_could_not_be_pushed_leaves_no_image() {
    let bench = Bench::new().await;
    let id = SandboxId::random();
    bench.node.create(request(&id)).await.unwrap();
    let before = bench.engine.image_names();
    let left = || {
        let names = bench.engine.image_names().into_iter();
        names.filter(|name| !before.contains(name)).collect::<Vec<String>>()
    };
    let registry: pinfold_proto::runner::payload::Registry =
        serde_json::from_value(serde_json::json!({"url": "reg.test", "project": "p"})).unwrap();
    let wanted =
        || CreateBackup { snapshot: "reg.test/p/backup:1".to_owned(), registry: Some(registry.clone()) };
    bench.engine.fail_next("push", Fault::Error(broken()));
    bench.node.backup(&id, wanted()).await.unwrap_err();
    eventually("a failed backup's image to go", || left().is_empty()).await;
    // Cancelled while it is committed: the engine makes the image all the same.
    let gate = Arc::new(tokio::sync::Notify::new());
    bench.engine.fail_next("commit", Fault::Held(gate.clone()));
    let (node, owned, backup) = (bench.node.clone(), id.clone(), wanted());
    let cancelled = tokio::spawn(async move { node.backup(&owned, backup).await });
    eventually("the commit", || bench.engine.calls("commit") == 2).await;
    bench.node.stop(&id, StopSandbox::default()).await.unwrap();
    cancelled.await.unwrap().unwrap_err();
    let removals = bench.engine.calls("remove_image");
    gate.notify_one();
    eventually("the removal", || bench.engine.calls("remove_image") > removals).await;
    eventually("a cancelled backup's image to go", || left().is_empty()).await;
    bench.engine.fail_next("push", Fault::Error(broken()));
    let snapshot =
        SnapshotSandbox { name: "s".to_owned(), registry: Some(registry.clone()), ..Default::default() };
    bench.node.snapshot(&id, snapshot).await.unwrap_err();
    assert!(left().is_empty(), "{:?}", left());
    let publish = || PullSnapshot {
        snapshot: IMAGE.to_owned(),
        destination_registry: Some(registry.clone()),
        destination_ref: Some("reg.test/p/daytona-x:daytona".to_owned()),
        ..PullSnapshot::default()
    };
    bench.engine.fail_next("push", Fault::Error(broken()));
    bench.node.pull_snapshot(publish()).await.unwrap_err();
    assert!(left().is_empty(), "{:?}", left());
    let build = pinfold_proto::runner::payload::BuildSnapshot {
        snapshot: IMAGE.to_owned(),
        dockerfile: "FROM scratch".to_owned(),
        registry: Some(registry.clone()),
        push_to_internal_registry: true,
        ..Default::default()
    };
    bench.engine.fail_next("push", Fault::Error(broken()));
    bench.node.build(build).await.unwrap_err();
    assert!(left().is_empty(), "{:?}", left());
    let pushes = bench.engine.calls("push");
    bench.node.pull_snapshot(publish()).await.unwrap();
    assert_eq!(bench.engine.calls("push"), pushes + 1, "the next attempt pushes");
}
