//! The container that a create asks for (contract 5.4), its size afterwards (5.8), and its image (7).

use pinfold_engine::Image;
use pinfold_proto::runner::payload::{BuildSnapshot, InspectSnapshot, Registry, VolumeMount};

use super::*;

#[tokio::test]
async fn a_container_is_what_the_contract_says() {
    let bench = Bench::with(|c| {
        c.no_new_privileges = true;
        c.container_network = Some("operators".to_owned());
    })
    .await;
    let id = SandboxId::random();
    let volume = |path: &str| VolumeMount {
        volume_id: "b8c3a1d0-2f0e-4a56-8a44-6b3f1d2e9c70".to_owned(),
        mount_path: path.to_owned(),
        subpath: None,
    };
    let wanted = CreateSandbox {
        volumes: vec![volume("/data"), volume("/more")],
        otel_endpoint: Some("http://host.docker.internal:4318".to_owned()),
        ..request(&id)
    };
    bench.node.create(wanted).await.unwrap();
    let spec = bench.engine.spec(id.as_str()).unwrap();
    for expected in [
        format!("DAYTONA_SANDBOX_ID={id}"),
        format!("DAYTONA_SANDBOX_SNAPSHOT={IMAGE}"),
        "DAYTONA_SANDBOX_USER=daytona".to_owned(),
        "DAYTONA_OTEL_ENDPOINT=http://host.docker.internal:4318".to_owned(),
        "DAYTONA_ORGANIZATION_ID=org".to_owned(),
        "DAYTONA_REGION_ID=us".to_owned(),
        "DAYTONA_USER_HOME_AS_WORKDIR=true".to_owned(),
    ] {
        assert!(spec.env.contains(&expected), "{expected} in {:?}", spec.env);
    }
    assert_eq!(spec.labels["daytona.volume_mount_paths"], "/data,/more");
    assert_eq!(
        (spec.labels["daytona.sandbox_name"].as_str(), spec.labels["daytona.organization_id"].as_str()),
        ("box", "org")
    );
    assert_eq!(spec.extra_hosts, ["host.docker.internal:host-gateway"]);
    assert_eq!(spec.security_opt, ["no-new-privileges"]);
    assert!(spec.no_core_dumps && !spec.privileged && spec.cap_drop == ["ALL"]);
    assert!(
        !spec.cap_add.iter().any(|c| c == "NET_RAW" || c == "SYS_ADMIN" || c == "MKNOD"),
        "{:?}",
        spec.cap_add
    );
    assert!(
        spec.binds[0].ends_with(":/usr/local/bin/daytona:ro") && spec.binds.len() == 3,
        "{:?}",
        spec.binds
    );
    assert_eq!((spec.limits.cpu, spec.limits.memory, spec.limits.storage), (Some(1), Some(1 << 30), None));
    let [own, theirs] = spec.networks.as_slice() else { panic!("{:?}", spec.networks) };
    assert!(
        own.address.is_some() && own.mac.as_deref().is_some_and(|mac| mac.starts_with("02:42:")),
        "{own:?}"
    );
    assert_eq!(theirs.network, "operators");
    assert_eq!(
        (spec.name.as_str(), spec.image.as_str(), spec.platform.as_str()),
        (id.as_str(), IMAGE, "linux/amd64")
    );
}

/// `USE_SNAPSHOT_ENTRYPOINT`, and the rules of a card.
#[tokio::test]
async fn the_images_own_program_and_a_card_have_their_own_rules() {
    let bench = Bench::with(|c| {
        (c.use_snapshot_entrypoint, c.privileged) = (true, true);
        c.gpus = vec!["NVIDIA H100".to_owned(); 2];
    })
    .await;
    let (plain, asked, card, other) =
        (SandboxId::random(), SandboxId::random(), SandboxId::random(), SandboxId::random());
    bench.node.create(request(&plain)).await.unwrap();
    assert_eq!(bench.engine.spec(plain.as_str()).unwrap().entrypoint, None);
    let program = CreateSandbox { entrypoint: vec!["serve".to_owned()], ..request(&asked) };
    bench.node.create(program).await.unwrap();
    assert_eq!(bench.engine.spec(asked.as_str()).unwrap().entrypoint, Some(vec!["serve".to_owned()]));
    // The card is chosen under a lock that is held no longer than until its container exists; choosing twice at once gives two.
    let gate = Arc::new(tokio::sync::Notify::new());
    bench.engine.fail_next("start", Fault::Held(gate.clone()));
    bench.engine.delay("create", Duration::from_millis(20));
    let with_card = |id: &SandboxId| CreateSandbox { gpu_quota: 1, ..request(id) };
    let (node, wanted) = (bench.node.clone(), with_card(&card));
    let first = tokio::spawn(async move { node.create(wanted).await });
    let (node, wanted) = (bench.node.clone(), with_card(&other));
    let second = tokio::spawn(async move { node.create(wanted).await });
    let made = || [&card, &other].iter().filter_map(|id| bench.engine.spec(id.as_str())).collect::<Vec<_>>();
    eventually("both containers", || made().len() == 2).await;
    let mut cards: Vec<String> = made().iter().flat_map(|spec| spec.cdi_devices.clone()).collect();
    cards.sort();
    assert_eq!(cards, ["nvidia.com/gpu=0", "nvidia.com/gpu=1"]);
    assert!(made().iter().all(|spec| !spec.privileged));
    gate.notify_one();
    first.await.unwrap().unwrap();
    second.await.unwrap().unwrap();
}

/// Contract 5.8: a resize is known to the node's figures, nothing is something that changes nothing, and what cannot be is refused before it begins.
#[tokio::test]
async fn a_resize_is_counted_and_refused_in_time() {
    let bench = Bench::new().await;
    let id = SandboxId::random();
    bench.node.create(request(&id)).await.unwrap();
    let nothing = ResizeSandbox { cpu: Some(0), memory: Some(0), disk: Some(0), ..ResizeSandbox::default() };
    bench.node.resize(&id, nothing).await.unwrap();
    assert_eq!(bench.engine.calls("update"), 0);
    bench
        .node
        .resize(&id, ResizeSandbox { cpu: Some(2), memory: Some(4), ..ResizeSandbox::default() })
        .await
        .unwrap();
    let (known, record) = (bench.node.index.get(&id).unwrap(), bench.node.records.get(&id).unwrap());
    assert_eq!((known.cpu, known.memory >> 30, record.cpu, record.memory_gib), (2.0, 4, 2, 4));
    let disk = || ResizeSandbox { disk: Some(10), ..ResizeSandbox::default() };
    let running = bench.node.resize(&id, disk()).await.unwrap_err();
    assert!(running.class == Class::Conflict && running.message.contains("stop it first"), "{running}");
    let unlimited = Bench::with(|c| c.limits_disabled = true).await;
    unlimited.node.create(request(&id)).await.unwrap();
    unlimited.node.resize(&id, ResizeSandbox { cpu: Some(2), ..disk() }).await.unwrap();
    assert_eq!(unlimited.engine.container(id.as_str()).unwrap().cpu_quota, 0, "the operator wants no limits");
    // A backup that failed for want of space is a reason too.
    let recover = RecoverSandbox {
        backup_error_reason: Some("disk quota exceeded".to_owned()),
        storage_quota: 10,
        ..RecoverSandbox::default()
    };
    let error = bench.node.recover(&id, recover).await.unwrap_err();
    assert!(error.message.contains("overlay2 driver on xfs"), "{error}");
    assert_eq!(bench.engine.calls("stop"), 1, "its data stand still");
}

fn pull(snapshot: &str) -> PullSnapshot {
    PullSnapshot { snapshot: snapshot.to_owned(), ..PullSnapshot::default() }
}

/// Contract 7.3 and 17.3: what is here already is enough, and what a pull is asked to do beside it is done.
#[tokio::test]
async fn a_pull_takes_what_is_here_and_does_what_it_is_asked() {
    let bench = Bench::new().await;
    let target = "reg.test/p/daytona-1:daytona";
    bench.engine.add_image(target, common::image());
    let here = PullSnapshot { destination_ref: Some(target.to_owned()), ..pull("absent:1") };
    bench.node.pull_snapshot(here).await.unwrap();
    assert_eq!(bench.engine.calls("pull"), 0);
    bench
        .node
        .pull_snapshot(PullSnapshot { new_tag: Some("mine:2".to_owned()), ..pull("absent:1") })
        .await
        .unwrap();
    assert!(bench.engine.image_names().contains(&"mine:2".to_owned()));
    let nowhere = Registry { url: "reg.test".to_owned(), ..Registry::default() };
    let nowhere = PullSnapshot { destination_registry: Some(nowhere), ..pull("absent:1") };
    assert_eq!(bench.node.pull_snapshot(nowhere).await.unwrap_err().class, Class::BadRequest);
    // A newer one that cannot be had is no reason to have none.
    let moving = Image { digests: vec!["team/moving@sha256:00".to_owned()], ..common::image() };
    bench.engine.add_image("team/moving:latest", moving);
    bench.engine.fail_next("pull", Fault::Error(broken()));
    bench.node.pull_snapshot(pull("team/moving:latest")).await.unwrap();
    assert!(!bench.node.snapshot_exists("team/moving:latest").await.unwrap(), "it never is");
    // A registry's refusal is told at once, and not tried again until the API has given up.
    let refused = EngineError::Unauthorized { what: "inspect".to_owned(), message: "no".to_owned() };
    bench.engine.fail_next("registry_digest", Fault::Error(refused));
    let asked = InspectSnapshot { snapshot: "reg.test/p/x:1".to_owned(), ..InspectSnapshot::default() };
    assert_eq!(bench.node.inspect_snapshot(asked).await.unwrap_err().class, Class::Unauthorized);
}

/// Contract 7.4 and 7.9, and 14.3, row 8: an image goes when nobody needs it any more, unless somebody wants it again; and an operator's own never.
#[tokio::test]
async fn an_image_goes_with_the_last_who_needs_it_unless_it_is_wanted_again() {
    let bench = Bench::new().await;
    let has = |name: &str| bench.engine.image_names().contains(&name.to_owned());
    bench.engine.add_image("operators/base:1", common::image());
    for name in ["operators/base:1", "nothing:1"] {
        bench.node.remove_snapshot(name).await.unwrap();
    }
    assert!(has("operators/base:1"));
    let snapshot = "reg.test/p/daytona-1:daytona";
    for is_wanted_again in [false, true] {
        bench
            .engine
            .add_image(snapshot, Image { digests: vec![format!("{snapshot}@sha256:01")], ..common::image() });
        bench.node.images.invalidate();
        let ids = [SandboxId::random(), SandboxId::random()];
        for id in &ids {
            bench.node.create(CreateSandbox { snapshot: snapshot.to_owned(), ..request(id) }).await.unwrap();
        }
        bench.node.remove_snapshot(snapshot).await.unwrap();
        bench.node.destroy(&ids[0]).await.unwrap();
        bench.node.reclaim().await.unwrap();
        assert!(has(snapshot), "one needs it");
        if is_wanted_again {
            bench.node.pull_snapshot(pull(snapshot)).await.unwrap();
        }
        bench.node.destroy(&ids[1]).await.unwrap();
        bench.node.reclaim().await.unwrap();
        assert_eq!(has(snapshot), is_wanted_again);
    }
    // What was built before is not built again, and is wanted again by being asked for.
    let build = |snapshot: &str| BuildSnapshot {
        snapshot: snapshot.to_owned(),
        dockerfile: "FROM scratch".to_owned(),
        ..BuildSnapshot::default()
    };
    let id = SandboxId::random();
    bench.node.create(CreateSandbox { snapshot: snapshot.to_owned(), ..request(&id) }).await.unwrap();
    bench.node.remove_snapshot(snapshot).await.unwrap();
    bench.node.build(build(snapshot)).await.unwrap();
    bench.node.destroy(&id).await.unwrap();
    bench.node.reclaim().await.unwrap();
    assert!(has(snapshot) && bench.engine.calls("build") == 0);
    let late = EngineError::Timeout { what: "build".to_owned(), after: Duration::from_secs(7200) };
    bench.engine.fail_next("build", Fault::Error(late));
    let error = bench.node.build(build("daytona-2:daytona")).await.unwrap_err();
    assert!(error.message.contains("timed out after 120 minutes"), "{error}");
}

/// A restored sandbox takes its backup along, archived or deleted, where a registry has it; the only one stays.
#[tokio::test]
async fn a_backup_that_a_registry_has_goes_with_its_sandbox() {
    let bench = Bench::new().await;
    let has = |name: &str| bench.engine.image_names().contains(&name.to_owned());
    let id = SandboxId::random();
    let pulled = format!("reg.test/p/backup-{id}:2026");
    let only = format!("backup-{id}:2026");
    for (backup, digests) in [(&pulled, vec![format!("reg.test/p/backup-{id}@sha256:01")]), (&only, vec![])] {
        let image = Image { digests: digests.clone(), ..common::image() };
        bench.engine.add_image(backup, image);
        bench.node.create(CreateSandbox { snapshot: backup.clone(), ..request(&id) }).await.unwrap();
        bench.node.stop(&id, StopSandbox::default()).await.unwrap();
        bench.node.reclaim().await.unwrap();
        assert!(has(backup), "a stopped sandbox needs it");
        bench.node.destroy(&id).await.unwrap();
        bench.node.reclaim().await.unwrap();
        assert_eq!(has(backup), digests.is_empty());
    }
}

/// Contract 7.5 and 7.6: both end in their time, and find another way where a commit cannot work.
#[tokio::test]
async fn commits_end_in_their_time_and_have_another_way() {
    let bench = Bench::with(|c| c.backup_timeout = Duration::from_millis(300)).await;
    let id = SandboxId::random();
    bench.node.create(request(&id)).await.unwrap();
    let backup = || CreateBackup { snapshot: "backup:1".to_owned(), registry: None };
    let snapshot = || SnapshotSandbox { name: "s".to_owned(), ..SnapshotSandbox::default() };
    let broken_store = EngineError::Internal {
        what: "commit".to_owned(),
        message: "failed to get digest sha256:1".to_owned(),
    };
    bench.engine.fail_next("commit", Fault::Error(broken_store));
    bench.node.backup(&id, backup()).await.unwrap();
    assert_eq!(bench.engine.calls("import"), 1, "exported and imported instead");
    let memory = SnapshotSandbox { include_memory: Some(true), ..snapshot() };
    assert_eq!(bench.node.snapshot(&id, memory).await.unwrap_err().class, Class::BadRequest);
    bench.engine.fail_next("commit", Fault::Hang);
    let late = bench.node.backup(&id, backup()).await.unwrap_err();
    assert!(late.class == Class::Timeout && late.message.contains("did not finish within"), "{late}");
    let late = bench.node.snapshot(&id, snapshot()).await.unwrap_err();
    assert!(late.class == Class::Timeout && late.message.contains("did not finish within"), "{late}");
}

/// No policy holds on a network of the operator's, so no sandbox is there that believes itself closed.
#[tokio::test]
async fn beside_the_operators_network_nothing_is_restricted_in_words_alone() {
    let bench = Bench::with(|c| c.container_network = Some("operators".to_owned())).await;
    let (open, closed) = (SandboxId::random(), SandboxId::random());
    let lists = [
        NetworkSettings { network_block_all: Some(true), ..NetworkSettings::default() },
        NetworkSettings {
            network_allow_list: Some("203.0.113.0/24".to_owned()),
            ..NetworkSettings::default()
        },
        NetworkSettings { domain_allow_list: Some("example.com".to_owned()), ..NetworkSettings::default() },
    ];
    bench.node.create(request(&open)).await.unwrap();
    let recorded = bench.node.records.get(&open).unwrap();
    for network in lists {
        let refused = bench.node.set_network(&open, network.clone()).await.unwrap_err();
        assert!(
            refused.class == Class::BadRequest && refused.message.contains("CONTAINER_NETWORK"),
            "{refused}"
        );
        let wanted = CreateSandbox {
            network_block_all: network.network_block_all,
            network_allow_list: network.network_allow_list,
            domain_allow_list: network.domain_allow_list,
            ..request(&closed)
        };
        assert_eq!(bench.node.create(wanted).await.unwrap_err().class, Class::BadRequest);
    }
    assert_eq!(bench.node.records.get(&open).unwrap(), recorded);
    assert!(bench.engine.container(closed.as_str()).is_none());
    // One whose policy is of a time before the operator's network.
    bench.node.stop(&open, StopSandbox::default()).await.unwrap();
    bench.node.records.change(&open, |r| r.network.network_block_all = Some(true)).await.unwrap();
    bench.engine.alter(open.as_str(), |c| _ = c.networks.insert("operators".to_owned(), None));
    assert_eq!(bench.node.start(&open, StartSandbox::default()).await.unwrap_err().class, Class::BadRequest);
    bench.engine.alter(open.as_str(), |c| _ = c.networks.remove("operators"));
    bench.node.start(&open, StartSandbox::default()).await.unwrap();
}
