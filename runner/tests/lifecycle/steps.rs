//! What goes wrong is told with its step and its cause; what a request says on the way is kept; what is left over goes.

use pinfold_proto::runner::payload::VolumeMount;

use super::*;

const VOLUME: &str = "b8c3a1d0-2f0e-4a56-8a44-6b3f1d2e9c70";

fn volume(mount_path: &str) -> VolumeMount {
    VolumeMount { volume_id: VOLUME.to_owned(), mount_path: mount_path.to_owned(), subpath: None }
}

fn metadata(key: &str, value: &str) -> StartSandbox {
    StartSandbox { metadata: [(key.to_owned(), value.to_owned())].into(), ..StartSandbox::default() }
}

fn entries(bench: &Bench, table: &str) -> usize {
    bench.node.tables().into_iter().find(|(name, _)| *name == table).unwrap().1
}

/// Issue 4, part 4: an `errorReason` names the step and the cause.
#[tokio::test]
async fn every_failure_names_its_step_and_leaves_what_it_found() {
    let bench = Bench::with(|c| c.use_snapshot_entrypoint = true).await;
    type Change = fn(&mut CreateSandbox);
    let cases: [(&str, Option<&'static str>, Change); 6] = [
        ("preparing the image", Some("pull"), |r| r.snapshot = "gone:1".to_owned()),
        ("preparing the link network", None, |r| r.linked_sandbox_id = Some(SandboxId::random().to_string())),
        ("mounting volumes", None, |r| r.volumes = vec![volume("/proc/x")]),
        ("creating the container", Some("create"), |_| {}),
        ("starting the container", Some("start"), |_| {}),
        ("launching the daemon", Some("exec"), |_| {}),
    ];
    for (step, call, change) in cases {
        let mut wanted = request(&SandboxId::random());
        change(&mut wanted);
        if let Some(call) = call {
            bench.engine.fail_next(call, Fault::Error(broken()));
        }
        let error = bench.node.create(wanted.clone()).await.unwrap_err();
        assert!(error.message.starts_with(&format!("{step} failed after ")), "{step}: {error}");
        match call {
            Some(_) => assert!(error.message.contains("boom"), "{error}"),
            None => assert_eq!(error.class, Class::BadRequest, "{error}"),
        }
        let kept = usize::from(bench.engine.container(&wanted.id).is_some());
        for table in ["sandboxes", "records", "addresses"] {
            assert_eq!(entries(&bench, table), kept, "{table} after {step}");
        }
        assert_eq!(bench.policy.applied.lock().unwrap().len(), kept, "{step}");
        bench.node.destroy(&wanted.id.parse().unwrap()).await.unwrap();
    }
    let id = SandboxId::random();
    bench.node.create(request(&id)).await.unwrap();
    bench.engine.fail_next("inspect", Fault::Error(broken()));
    let error = bench.node.start(&id, StartSandbox::default()).await.unwrap_err();
    assert!(error.message.starts_with("inspecting failed after "), "{error}");
    bench.engine.fail_next("stop", Fault::Error(broken()));
    bench.engine.fail_next("kill", Fault::Error(broken()));
    let error = bench.node.stop(&id, StopSandbox::default()).await.unwrap_err();
    assert!(error.message.starts_with("stopping the container failed after "), "{error}");
    // A graceful stop that fails is followed by a kill.
    bench.engine.fail_next("stop", Fault::Error(broken()));
    bench.node.stop(&id, StopSandbox::default()).await.unwrap();
    assert_eq!(bench.engine.container(id.as_str()).unwrap().exit_code, 137);
    let nameless = CreateSandbox { snapshot: String::new(), ..request(&SandboxId::random()) };
    assert_eq!(bench.node.create(nameless).await.unwrap_err().class, Class::BadRequest);
}

#[tokio::test(start_paused = true)]
async fn a_sandbox_that_cannot_be_removed_is_told_and_can_be_asked_for_again() {
    let bench = Bench::new().await;
    let id = SandboxId::random();
    bench.node.create(request(&id)).await.unwrap();
    for _ in 0..5 {
        bench.engine.fail_next("remove", Fault::Error(broken()));
    }
    let error = bench.node.destroy(&id).await.unwrap_err();
    assert!(error.message.starts_with("removing the container failed after "), "{error}");
    assert!(!bench.node.index.get(&id).unwrap().busy && bench.node.records.get(&id).is_some());
    bench.node.destroy(&id).await.unwrap();
    assert!(bench.engine.container_names().is_empty());
}

/// Contract 5.10 and 14.7, row 3: the engine's architecture decides, by whatever name an image calls it.
#[tokio::test]
async fn an_image_of_another_architecture_is_refused_before_anything_is_made() {
    let bench = Bench::new().await;
    for (architecture, fits) in [("arm64", false), ("X86_64", true), ("amd64", true), ("", true)] {
        let image = pinfold_engine::Image { architecture: architecture.to_owned(), ..common::image() };
        bench.engine.add_image("other:1", image);
        bench.node.images.invalidate();
        let id = SandboxId::random();
        let made = bench.node.create(CreateSandbox { snapshot: "other:1".to_owned(), ..request(&id) }).await;
        assert_eq!(made.is_ok(), fits, "{architecture}");
        if let Err(error) = made {
            assert!(error.class == Class::Conflict && error.message.contains("built for arm64"), "{error}");
        }
        assert_eq!(bench.engine.container(id.as_str()).is_some(), fits, "{architecture}");
    }
}

/// Contract 5.3, steps 3 and 4, and 14.1, row 3: a create of what exists takes its policy and its volumes, and starts nothing that is not to be started.
#[tokio::test]
async fn a_repeated_create_takes_what_it_says() {
    let bench = Bench::new().await;
    let id = SandboxId::random();
    let resting = || CreateSandbox { skip_start: Some(true), ..request(&id) };
    for _ in 0..2 {
        bench.node.create(resting()).await.unwrap();
    }
    assert_eq!((bench.engine.calls("create"), bench.engine.calls("start")), (1, 0));
    let closed =
        CreateSandbox { network_block_all: Some(true), volumes: vec![volume("/data")], ..request(&id) };
    bench.node.create(closed).await.unwrap();
    assert!(bench.policy.applied.lock().unwrap()[id.as_str()].1.is_closed());
    assert!(bench.node.config.data_dir.join("volumes").join(VOLUME).is_dir(), "it is there before the start");
    // An archived sandbox comes back under its id, and what tells of its container comes when it is done.
    let (_, stop, task) = bench.serve(Arc::new(Control::default())).await;
    bench.node.destroy(&id).await.unwrap();
    bench.node.create(resting()).await.unwrap();
    let (last, ended) = (SandboxId::random(), |id: &SandboxId| {
        bench.node.index.get(id).is_some_and(|s| s.state == SandboxState::Stopped)
    });
    bench.node.create(request(&last)).await.unwrap();
    bench.engine.exit(last.as_str(), 0, false);
    eventually("the last event", || ended(&last)).await;
    bench.node.start(&id, StartSandbox::default()).await.unwrap();
    stop.cancel();
    task.await.unwrap();
}

/// Contract 4.6 and 9.4: what a start's metadata say holds from that start on, and the egress limit until it is changed.
#[tokio::test]
async fn a_start_takes_volumes_and_limits_from_its_metadata() {
    let bench = Bench::new().await;
    let id = SandboxId::random();
    let limited = CreateSandbox {
        metadata: [("limitNetworkEgress".to_owned(), "true".to_owned())].into(),
        ..request(&id)
    };
    bench.node.create(limited).await.unwrap();
    let is_limited = || bench.policy.applied.lock().unwrap()[id.as_str()].1.limit_egress;
    assert!(is_limited());
    bench
        .node
        .set_network(&id, NetworkSettings { network_block_all: Some(true), ..Default::default() })
        .await
        .unwrap();
    assert!(is_limited(), "it is sent only when it changes");
    let bad = NetworkSettings { network_allow_list: Some("nonsense".to_owned()), ..Default::default() };
    assert_eq!(bench.node.set_network(&id, bad).await.unwrap_err().class, Class::BadRequest);
    assert_eq!(bench.node.records.get(&id).unwrap().network.network_allow_list, None);
    bench.node.stop(&id, StopSandbox::default()).await.unwrap();
    bench.node.start(&id, metadata("limitNetworkEgress", "false")).await.unwrap();
    assert!(!is_limited());
    bench.node.stop(&id, StopSandbox::default()).await.unwrap();
    let volumes = serde_json::to_string(&[volume("/data")]).unwrap();
    bench.node.start(&id, metadata("volumes", &volumes)).await.unwrap();
    assert_eq!(bench.node.records.get(&id).unwrap().volumes, [volume("/data")]);
    assert!(bench.node.config.data_dir.join("volumes").join(VOLUME).is_dir());
    assert!(
        bench.policy.unpinned.lock().unwrap().iter().all(|running| !running),
        "before its port is another"
    );
    assert_eq!(bench.policy.unpinned.lock().unwrap().len(), 3);
    // Metadata alone make no record that says "no restriction", and a damaged one is no freedom.
    bench.node.stop(&id, StopSandbox::default()).await.unwrap();
    bench.node.records.remove(&id).await;
    bench.node.start(&id, metadata("limitNetworkEgress", "true")).await.unwrap();
    assert!(
        bench.node.records.get(&id).is_none()
            && bench.policy.applied.lock().unwrap()[id.as_str()].1.is_closed()
    );
    bench.node.stop(&id, StopSandbox::default()).await.unwrap();
    std::fs::write(bench.node.config.data_dir.join("sandboxes").join(format!("{id}.json")), "{").unwrap();
    let refused = bench.node.start(&id, StartSandbox::default()).await.unwrap_err();
    assert!(refused.message.contains("damaged"), "{refused}");
    bench.engine.alter(id.as_str(), |c| c.status = ContainerStatus::Dead);
    std::fs::remove_file(bench.node.config.data_dir.join("sandboxes").join(format!("{id}.json"))).unwrap();
    let dead = bench.node.start(&id, StartSandbox::default()).await.unwrap_err();
    assert!(dead.class == Class::Conflict && dead.message.contains("being removed"), "{dead}");
}

/// An address that only the engine gives, and only at the start, has its policy all the same.
#[tokio::test]
async fn an_address_that_is_learned_late_has_a_policy() {
    let bench = Bench::new().await;
    let id = SandboxId::random();
    bench.node.create(CreateSandbox { skip_start: Some(true), ..request(&id) }).await.unwrap();
    bench.node.records.remove(&id).await;
    bench.policy.applied.lock().unwrap().clear();
    bench.engine.alter(id.as_str(), |c| c.networks.values_mut().for_each(|address| *address = None));
    bench.node.start(&id, StartSandbox::default()).await.unwrap();
    assert!(bench.policy.applied.lock().unwrap()[id.as_str()].1.is_closed());
}

/// 14.1, row 10: neither a record alone nor a container alone is enough to give an address out twice.
#[tokio::test]
async fn addresses_are_known_from_records_and_from_containers() {
    let bench = Bench::new().await;
    let (recorded, seen) = (SandboxId::random(), SandboxId::random());
    for id in [&recorded, &seen] {
        bench.node.create(request(id)).await.unwrap();
    }
    let address = |bench: &Bench, id: &SandboxId| bench.engine.attachments(id.as_str())[0].address.unwrap();
    let taken = [address(&bench, &recorded), address(&bench, &seen)];
    // An engine shows no address of what does not run.
    bench.node.stop(&recorded, StopSandbox::default()).await.unwrap();
    bench.engine.alter(recorded.as_str(), |c| c.networks.values_mut().for_each(|address| *address = None));
    bench.node.records.remove(&seen).await;
    let Bench { engine, dir, .. } = bench;
    let again = Bench::over(engine, dir, |_| {}).await;
    let (_, stop, task) = again.serve(Arc::new(Control::default())).await;
    for _ in 0..3 {
        let id = SandboxId::random();
        again.node.create(request(&id)).await.unwrap();
        assert!(!taken.contains(&address(&again, &id)));
    }
    stop.cancel();
    task.await.unwrap();
}

/// What an earlier life left of sandboxes that are gone goes at the start of the next, and what guards the others is there again.
#[tokio::test]
async fn the_next_life_removes_what_is_left_of_sandboxes_that_are_gone() {
    let bench = Bench::new().await;
    let (owner, gone, follower, lost) =
        (SandboxId::random(), SandboxId::random(), SandboxId::random(), SandboxId::random());
    for id in [&owner, &gone, &lost] {
        bench.node.create(request(id)).await.unwrap();
    }
    for owner in [&owner, &gone] {
        let linked = CreateSandbox {
            linked_sandbox_id: Some(owner.to_string()),
            name: Some("web".to_owned()),
            ..request(&SandboxId::random())
        };
        bench.node.create(linked).await.unwrap();
    }
    let linked = CreateSandbox {
        linked_sandbox_id: Some(owner.to_string()),
        name: Some("web".to_owned()),
        ..request(&follower)
    };
    bench.node.create(linked).await.unwrap();
    let link = format!("daytona-link-{owner}");
    for id in [&owner, &follower] {
        assert!(bench.engine.container(id.as_str()).unwrap().networks.contains_key(&link), "{id}");
    }
    assert_eq!(bench.policy.links.lock().unwrap().len(), 2);
    for id in [&gone, &lost] {
        bench.engine.vanish(id.as_str());
    }
    bench.policy.links.lock().unwrap().clear();
    // One whose sandbox nobody remembers.
    let ghost = bench.policy.applied.lock().unwrap()[lost.as_str()].clone();
    bench.policy.applied.lock().unwrap().insert(SandboxId::random().to_string(), ghost);
    let Bench { engine, dir, policy, .. } = bench;
    let again = Bench::under(engine, dir, policy, |_| {}).await;
    let (_, stop, task) = again.serve(Arc::new(Control::default())).await;
    let left = |bench: &Bench| {
        let mut left: Vec<String> = bench.policy.applied.lock().unwrap().keys().cloned().collect();
        left.sort();
        left
    };
    let mut alive = again.engine.container_names();
    alive.sort();
    assert_eq!((left(&again), alive.len()), (alive, 4));
    assert!(again.node.records.get(&lost).is_none() && again.node.records.get(&gone).is_none());
    assert!(again.engine.network_names().contains(&link));
    assert!(!again.engine.network_names().contains(&format!("daytona-link-{gone}")), "its owner is gone");
    assert_eq!(again.policy.links.lock().unwrap().len(), 1, "guarded again");
    again.node.destroy(&owner).await.unwrap();
    assert!(!again.engine.network_names().contains(&link) && again.policy.links.lock().unwrap().is_empty());
    stop.cancel();
    task.await.unwrap();
}

/// Pain B18: the kernel's word that memory ran out is the reason, also where the engine's own flag of it is missing.
#[tokio::test]
async fn pain_18_the_event_of_a_want_of_memory_is_enough() {
    let (bench, control) = (Bench::new().await, Arc::new(Control::default()));
    let (_, stop, task) = bench.serve(control.clone()).await;
    let id = SandboxId::random();
    bench.node.create(request(&id)).await.unwrap();
    control.believes(&id, "started", "started");
    bench.engine.tell("oom", id.as_str());
    bench.engine.exit(id.as_str(), 137, false);
    let told = || control.pushed.lock().unwrap().iter().find(|(told, ..)| told == id.as_str()).cloned();
    eventually("the report", || told().is_some()).await;
    let (_, state, reason) = told().unwrap();
    assert!(
        state == "error" && reason.as_deref().is_some_and(|r| r.contains("ran out of memory")),
        "{reason:?}"
    );
    assert!(bench.node.counters.prometheus().contains("pinfold_out_of_memory_total 1\n"));
    stop.cancel();
    task.await.unwrap();
}

/// Contract 3.7 and 5.2: whether a user can recover goes with the reason; and a crash is told at once, not with the next round.
#[tokio::test]
async fn a_crash_that_can_be_recovered_from_is_told_as_such_and_at_once() {
    let (bench, control) = (Bench::new().await, Arc::new(Control::default()));
    let (_, stop, task) = bench.serve(control.clone()).await;
    let (full, other) = (SandboxId::random(), SandboxId::random());
    for (id, error) in [(&full, "no space left on device"), (&other, "segfault")] {
        bench.node.create(request(id)).await.unwrap();
        control.believes(id, "started", "started");
        bench.engine.alter(id.as_str(), |c| c.error = error.to_owned());
        let began = std::time::Instant::now();
        bench.engine.exit(id.as_str(), 3, false);
        let told = || control.recoverable.lock().unwrap().contains_key(id.as_str());
        eventually("the report", told).await;
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    }
    assert!(
        control.recoverable.lock().unwrap()[full.as_str()]
            && !control.recoverable.lock().unwrap()[other.as_str()]
    );
    stop.cancel();
    task.await.unwrap();
}

/// A daemon that cannot be launched again is a sandbox in error, with the reason.
#[tokio::test]
async fn a_daemon_that_stays_dead_is_told() {
    let (port, daemon) = mortal_daemons().await;
    let bench = Bench::with(|c| (c.use_snapshot_entrypoint, c.toolbox_port) = (true, port)).await;
    let (_, stop, task) = bench.serve(Arc::new(Control::default())).await;
    let id = SandboxId::random();
    bench.node.create(request(&id)).await.unwrap();
    bench.engine.fail_next("exec", Fault::Error(broken()));
    daemon.abort();
    let _ = daemon.await;
    bench.engine.tell("exec_die", id.as_str());
    let known = || bench.node.index.get(&id).unwrap();
    eventually("the error", || known().state == SandboxState::Error).await;
    assert!(
        known().trouble().is_some_and(|reason| reason.contains("daemon died") && reason.contains("boom"))
    );
    // Started again, it is as new.
    bench.engine.exit(id.as_str(), 0, false);
    eventually("its end", || known().status == ContainerStatus::Exited).await;
    assert_eq!(known().failure, None);
    stop.cancel();
    task.await.unwrap();
}

/// A start that was given up is no entry of a sandbox that is gone.
#[tokio::test]
async fn a_destroy_forgets_a_start_that_was_given_up_and_cancels_a_backup() {
    let bench = Bench::with(|c| c.sandbox_start_timeout = Duration::from_millis(300)).await;
    let id = SandboxId::random();
    bench.engine.fail_next("start", Fault::Hang);
    bench.node.create(request(&id)).await.unwrap_err();
    assert_eq!(entries(&bench, "late_starts"), 1);
    bench.node.destroy(&id).await.unwrap();
    assert_eq!(entries(&bench, "late_starts"), 0);
    for is_start in [true, false] {
        let id = SandboxId::random();
        bench.node.create(request(&id)).await.unwrap();
        let commits = bench.engine.calls("commit");
        bench.engine.fail_next("commit", Fault::Hang);
        let (node, owned) = (bench.node.clone(), id.clone());
        let wanted = CreateBackup { snapshot: "reg.test/p/backup:1".to_owned(), registry: None };
        let backup = tokio::spawn(async move { node.backup(&owned, wanted).await });
        eventually("the commit", || bench.engine.calls("commit") > commits).await;
        if is_start {
            bench.node.start(&id, StartSandbox::default()).await.unwrap();
        } else {
            bench.node.destroy(&id).await.unwrap();
        }
        assert!(backup.await.unwrap().unwrap_err().message.contains("cancelled"));
    }
}

/// Contract 6.4: nobody is handed a token who was sent none, or where the operator wants none handed.
#[tokio::test]
async fn a_token_is_handed_over_only_where_there_is_one_and_it_is_wanted() {
    let bench = Bench::new().await;
    let silent = Bench::with(|c| c.initialize_telemetry = false).await;
    let id = SandboxId::random();
    silent.node.create(request(&id)).await.unwrap();
    for token in [None, Some(String::new())] {
        let wanted = CreateSandbox {
            auth_token: token.map(pinfold_proto::id::Secret::new),
            ..request(&SandboxId::random())
        };
        bench.node.create(wanted).await.unwrap();
    }
    // What would be handed over is on its way by now.
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(
        bench.daemon.tokens.lock().unwrap().is_empty() && silent.daemon.tokens.lock().unwrap().is_empty()
    );
}

/// A frozen sandbox counts as running while it is committed, whatever the engine tells meanwhile; one that is frozen otherwise is thawed to be stopped.
#[tokio::test]
async fn a_freeze_of_our_own_is_no_stop() {
    let bench = Bench::new().await;
    let (_, stop, task) = bench.serve(Arc::new(Control::default())).await;
    let (id, last) = (SandboxId::random(), SandboxId::random());
    for id in [&id, &last] {
        bench.node.create(request(id)).await.unwrap();
    }
    let gate = Arc::new(tokio::sync::Notify::new());
    bench.engine.fail_next("commit", Fault::Held(gate.clone()));
    let (node, owned) = (bench.node.clone(), id.clone());
    let wanted = SnapshotSandbox { name: "s".to_owned(), ..SnapshotSandbox::default() };
    let snapshot = tokio::spawn(async move { node.snapshot(&owned, wanted).await });
    eventually("the commit", || bench.engine.calls("commit") == 1).await;
    bench.engine.tell("pause", id.as_str());
    bench.engine.exit(last.as_str(), 0, false);
    eventually("the last event", || {
        bench.node.index.get(&last).is_some_and(|s| s.state == SandboxState::Stopped)
    })
    .await;
    let known = bench.node.index.get(&id).unwrap();
    assert_eq!((known.state, known.status), (SandboxState::Started, ContainerStatus::Running));
    gate.notify_one();
    snapshot.await.unwrap().unwrap();
    bench.engine.pause(id.as_str()).await.unwrap();
    bench.engine.tell("pause", id.as_str());
    eventually("the freeze", || {
        bench.node.index.get(&id).is_some_and(|s| s.status == ContainerStatus::Paused)
    })
    .await;
    let thawed = bench.engine.calls("unpause");
    bench.node.stop(&id, StopSandbox::default()).await.unwrap();
    assert_eq!(bench.engine.calls("unpause"), thawed + 1, "a frozen process hears no signal");
    stop.cancel();
    task.await.unwrap();
}
