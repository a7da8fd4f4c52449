//! Rows of the contract's section 14 that no other test is about.

use pinfold_engine::Limits;

use super::*;

/// Engine and data of a host whose disks can be resized, by a copy.
async fn on_xfs() -> Bench {
    let (engine, dir) = (Arc::new(pinfold_engine::Simulated::default()), tempfile::tempdir().unwrap());
    engine.add_image(IMAGE, common::image());
    engine.keep_layers_in(dir.path().join("layers"));
    Bench::over(engine, dir, |_| {}).await
}

fn closed() -> NetworkSettings {
    NetworkSettings { network_block_all: Some(true), ..NetworkSettings::default() }
}

fn layer(bench: &Bench, id: &SandboxId) -> std::path::PathBuf {
    bench.engine.container(id.as_str()).unwrap().upper_dir.unwrap()
}

fn recover(quota: u32) -> RecoverSandbox {
    RecoverSandbox {
        error_reason: Some("write: no space left on device".to_owned()),
        storage_quota: quota,
        ..RecoverSandbox::default()
    }
}

/// 14.1, rows 5 and 7: a recreated container has its address, its networks and its policy, without a moment in between.
#[tokio::test]
async fn a_resized_and_a_recovered_sandbox_keep_address_networks_and_policy() {
    let bench = on_xfs().await;
    let (owner, id) = (SandboxId::random(), SandboxId::random());
    bench.node.create(request(&owner)).await.unwrap();
    let linked_sandbox_id = Some(owner.to_string());
    let wanted = CreateSandbox { network_block_all: Some(true), linked_sandbox_id, ..request(&id) };
    bench.node.create(wanted).await.unwrap();
    bench.node.stop(&id, StopSandbox::default()).await.unwrap();
    std::fs::write(layer(&bench, &id).join("work"), "precious").unwrap();
    let before = bench.engine.container(id.as_str()).unwrap();
    let attached = bench.engine.attachments(id.as_str());
    assert!(attached.len() == 2 && attached[1].aliases == ["box"], "{attached:?}");
    let watched = bench.policy.applied.lock().unwrap()[id.as_str()].clone();
    let disk = ResizeSandbox { disk: Some(10), ..ResizeSandbox::default() };
    bench.node.resize(&id, disk).await.unwrap();
    bench.node.recover(&id, recover(10)).await.unwrap();
    let after = bench.engine.container(id.as_str()).unwrap();
    assert!(after.id != before.id && bench.engine.calls("duplicate") == 2, "both by a new container");
    assert_eq!(bench.engine.attachments(id.as_str()), attached);
    assert!(after.networks.keys().eq(before.networks.keys()), "{:?}", after.networks);
    assert_eq!(std::fs::read_to_string(layer(&bench, &id).join("work")).unwrap(), "precious");
    let mut left = [id.to_string(), owner.to_string()];
    left.sort();
    assert_eq!(bench.engine.container_names(), left, "the old ones are gone");
    assert!(bench.policy.applied.lock().unwrap()[id.as_str()] == watched && watched.1.is_closed());
    bench.policy.late.lock().unwrap().clear();
    bench.policy.applied.lock().unwrap().clear();
    bench.node.start(&id, StartSandbox::default()).await.unwrap();
    assert_eq!(bench.policy.applied.lock().unwrap()[id.as_str()], watched);
}

/// 14.3, rows 1 and 3: what cannot be finished is undone, and a destroy finds both containers.
#[tokio::test]
async fn a_resize_that_fails_gives_the_old_container_back_and_a_destroy_finds_both() {
    let bench = on_xfs().await;
    let id = SandboxId::random();
    bench.node.create(request(&id)).await.unwrap();
    bench.node.stop(&id, StopSandbox::default()).await.unwrap();
    std::fs::write(layer(&bench, &id).join("work"), "precious").unwrap();
    let before = bench.engine.container(id.as_str()).unwrap().id;
    let disk = || ResizeSandbox { disk: Some(10), ..ResizeSandbox::default() };
    for fault in [Fault::Error(broken()), Fault::Lost(broken())] {
        bench.engine.fail_next("duplicate", fault);
        let error = bench.node.resize(&id, disk()).await.unwrap_err();
        assert!(error.message.starts_with("resizing the disk failed after "), "{error}");
        assert_eq!(bench.engine.container_names(), [id.to_string()]);
        assert_eq!(bench.engine.container(id.as_str()).unwrap().id, before);
        assert_eq!(std::fs::read_to_string(layer(&bench, &id).join("work")).unwrap(), "precious");
        assert_eq!(bench.node.records.get(&id).unwrap().replacing, None);
    }
    let aside = format!("{id}-resize-1");
    bench.engine.rename(id.as_str(), &aside).await.unwrap();
    bench.node.records.change(&id, |r| r.replacing = Some(aside)).await.unwrap();
    bench.node.destroy(&id).await.unwrap();
    assert!(bench.engine.container_names().is_empty());
}

/// Makes all five attempts of one removal fail.
fn refuse_removal(bench: &Bench) {
    for _ in 0..5 {
        bench.engine.fail_next("remove", Fault::Error(broken()));
    }
}

/// 14.3, rows 1 and 3: once all of the data is in the new container, that one wins, however long the old one cannot be removed.
#[tokio::test]
async fn a_resize_whose_old_container_cannot_be_removed_keeps_what_was_done_since() {
    let bench = on_xfs().await;
    let id = SandboxId::random();
    bench.node.create(request(&id)).await.unwrap();
    bench.node.stop(&id, StopSandbox::default()).await.unwrap();
    std::fs::write(layer(&bench, &id).join("work"), "precious").unwrap();
    refuse_removal(&bench);
    let disk = || ResizeSandbox { disk: Some(10), ..ResizeSandbox::default() };
    bench.node.resize(&id, disk()).await.unwrap();
    // It starts all the same, and is used.
    refuse_removal(&bench);
    bench.node.start(&id, StartSandbox::default()).await.unwrap();
    assert_eq!(bench.engine.container_names().len(), 2);
    std::fs::write(layer(&bench, &id).join("work"), "newer").unwrap();
    let new = bench.engine.container(id.as_str()).unwrap().id;
    let Bench { engine, dir, .. } = bench;
    let again = Bench::over(engine, dir, |_| {}).await;
    let (_, stop, task) = again.serve(Arc::new(Control::default())).await;
    assert_eq!(again.engine.container_names(), [id.to_string()]);
    assert_eq!(again.engine.container(id.as_str()).unwrap().id, new);
    assert_eq!(std::fs::read_to_string(layer(&again, &id).join("work")).unwrap(), "newer");
    assert_eq!(again.node.records.get(&id).unwrap().replacing, None);
    stop.cancel();
    task.await.unwrap();
}

/// A container that has only a part of the data is never run, committed or resized, and never forgotten over the one that has it all.
#[tokio::test]
async fn a_half_copied_container_gives_way_before_anything_is_done_with_it() {
    let bench = on_xfs().await;
    let id = SandboxId::random();
    bench.node.create(request(&id)).await.unwrap();
    bench.node.stop(&id, StopSandbox::default()).await.unwrap();
    let before = bench.engine.container(id.as_str()).unwrap().id;
    let disk = || ResizeSandbox { disk: Some(10), ..ResizeSandbox::default() };
    let backup = || CreateBackup { snapshot: "b:1".to_owned(), registry: None };
    for step in ["start", "commit", "resize", "loss"] {
        if step == "start" {
            // The new one is made, the answer is lost, and it cannot be removed.
            bench.engine.fail_next("duplicate", Fault::Lost(broken()));
            refuse_removal(&bench);
            bench.node.resize(&id, disk()).await.unwrap_err();
        } else {
            let aside = format!("{id}-resize-1");
            bench.engine.rename(id.as_str(), &aside).await.unwrap();
            bench.engine.duplicate(&aside, id.as_str(), &[], Limits::default()).await.unwrap();
            bench.node.records.change(&id, |r| r.replacing = Some(aside)).await.unwrap();
        }
        assert_ne!(bench.engine.container(id.as_str()).unwrap().id, before, "{step}");
        match step {
            "start" => {
                bench.node.start(&id, StartSandbox::default()).await.unwrap();
                bench.node.stop(&id, StopSandbox::default()).await.unwrap();
            }
            "commit" => bench.node.backup(&id, backup()).await.unwrap(),
            "resize" => {
                let more = ResizeSandbox { cpu: Some(2), ..ResizeSandbox::default() };
                bench.node.resize(&id, more).await.unwrap();
            }
            _ => {
                bench.engine.remove(id.as_str(), true).await.unwrap();
                bench.engine.fail_next("rename", Fault::Error(broken()));
                // Nor is it lost when a start of the runner cannot put it right.
                for _ in 0..2 {
                    let (_, stop, task) = bench.serve(Arc::new(Control::default())).await;
                    stop.cancel();
                    task.await.unwrap();
                }
            }
        }
        assert_eq!(bench.engine.container_names(), [id.to_string()], "{step}");
        assert_eq!(bench.engine.container(id.as_str()).unwrap().id, before, "{step}");
        assert_eq!(bench.node.records.get(&id).unwrap().replacing, None, "{step}");
    }
}

/// Pain D32, the loop: storage is expanded by a twentieth at a time, a tenth at most, and then the refusal says so in the contract's words.
#[tokio::test]
async fn pain_32_recovery_of_a_full_disk_has_an_end() {
    let bench = on_xfs().await;
    let id = SandboxId::random();
    bench.node.create(CreateSandbox { storage_quota: 20, ..request(&id) }).await.unwrap();
    let gib = |bench: &Bench| bench.node.index.get(&id).unwrap().disk >> 30;
    for expected in [21, 22] {
        bench.node.recover(&id, recover(20)).await.unwrap();
        assert_eq!(gib(&bench), expected);
        bench.node.start(&id, StartSandbox::default()).await.unwrap();
    }
    let before = bench.engine.log().len();
    let refused = bench.node.recover(&id, recover(20)).await.unwrap_err();
    assert!(refused.message.contains("storage cannot be further expanded"), "{refused}");
    // A refusal that counted as recoverable would be tried for ever.
    let text = pinfold_proto::runner::recovery::error_message(&refused.message);
    assert!(!text.contains("\"recoverable\":true"), "{text}");
    assert_eq!((bench.engine.log().len(), gib(&bench)), (before, 22), "nothing was touched");
    assert_eq!(bench.node.index.get(&id).unwrap().state, SandboxState::Started);
}

/// 14.1, row 8: a signal is no end; nothing is opened while a sandbox takes its time to stop.
#[tokio::test]
async fn a_signal_leaves_the_policy_alone() {
    let bench = Bench::new().await;
    let control = Arc::new(Control::default());
    let (_, stop, task) = bench.serve(control).await;
    let (id, other) = (SandboxId::random(), SandboxId::random());
    for id in [&id, &other] {
        bench.node.create(request(id)).await.unwrap();
    }
    bench.node.set_network(&id, closed()).await.unwrap();
    for action in ["kill", "die", "stop"] {
        bench.engine.tell(action, id.as_str());
    }
    // Events are followed in order.
    bench.engine.exit(other.as_str(), 0, false);
    let ended = || bench.node.index.get(&other).is_some_and(|s| s.state == SandboxState::Stopped);
    eventually("the last event", ended).await;
    assert!(bench.policy.applied.lock().unwrap()[id.as_str()].1.is_closed());
    assert_eq!(
        bench.node.index.get(&id).unwrap().state,
        SandboxState::Started,
        "the engine says that it runs"
    );
    stop.cancel();
    task.await.unwrap();
}

/// 14.1, row 9: an engine that cannot answer is no reason to open anything.
#[tokio::test]
async fn an_engine_that_does_not_answer_opens_nothing() {
    let bench = Bench::new().await;
    let id = SandboxId::random();
    bench.node.create(CreateSandbox { network_block_all: Some(true), ..request(&id) }).await.unwrap();
    let Bench { engine, dir, policy, .. } = bench;
    let again = Bench::under(engine, dir, policy, |_| {}).await;
    let asked = again.engine.calls("inspect");
    for _ in 0..3 {
        again.engine.fail_next("inspect", Fault::Error(broken()));
    }
    let (_, stop, task) = again.serve(Arc::new(Control::default())).await;
    // While it repairs, before it would forget a sandbox, and when it follows the engine.
    eventually("the engine to be asked in vain", || again.engine.calls("inspect") >= asked + 3).await;
    assert!(again.policy.applied.lock().unwrap()[id.as_str()].1.is_closed());
    assert!(again.node.records.get(&id).is_some());
    stop.cancel();
    task.await.unwrap();
}

/// 14.1, row 10: rules are for an address, and an address is one sandbox's until that is destroyed, however it ends.
#[tokio::test]
async fn the_address_of_a_sandbox_that_ended_by_itself_is_nobody_elses() {
    let bench = Bench::new().await;
    let (_, stop, task) = bench.serve(Arc::new(Control::default())).await;
    let ids: Vec<SandboxId> = (0..3).map(|_| SandboxId::random()).collect();
    bench.node.create(CreateSandbox { network_block_all: Some(true), ..request(&ids[0]) }).await.unwrap();
    bench.engine.exit(ids[0].as_str(), 0, false);
    let ended = || bench.node.index.get(&ids[0]).is_some_and(|s| s.state == SandboxState::Stopped);
    eventually("its end", ended).await;
    for id in &ids[1..] {
        bench.node.create(request(id)).await.unwrap();
    }
    let applied = bench.policy.applied.lock().unwrap().clone();
    let addresses: std::collections::HashSet<_> = applied.values().map(|(endpoint, _)| endpoint.ip).collect();
    assert_eq!(addresses.len(), 3, "{applied:?}");
    assert!(applied[ids[0].as_str()].1.is_closed());
    stop.cancel();
    task.await.unwrap();
}

/// 14.2, row 4: a destroy removes what the engine calls dead, and one that nobody asks for is removed and told.
#[tokio::test]
async fn dead_containers_are_removed_and_told() {
    let bench = Bench::new().await;
    let control = Arc::new(Control::default());
    let (asked, forgotten) = (SandboxId::random(), SandboxId::random());
    for id in [&asked, &forgotten] {
        bench.node.create(request(id)).await.unwrap();
        bench.engine.alter(id.as_str(), |c| c.status = ContainerStatus::Dead);
    }
    bench.node.destroy(&asked).await.unwrap();
    assert_eq!(bench.engine.container_names(), [forgotten.to_string()]);
    control.believes(&forgotten, "started", "started");
    let (_, stop, task) = bench.serve(control.clone()).await;
    eventually("the removal", || bench.engine.container_names().is_empty()).await;
    let told = || {
        control
            .pushed
            .lock()
            .unwrap()
            .iter()
            .any(|(id, state, _)| *id == forgotten.as_str() && state == "error")
    };
    eventually("the report", told).await;
    assert!(bench.policy.applied.lock().unwrap().is_empty() && bench.node.records.ids().is_empty());
    stop.cancel();
    task.await.unwrap();
}

/// A name like a sandbox's makes no sandbox: nothing is done to somebody else's container, nor told of it, and its name cannot be had.
#[tokio::test]
async fn a_container_that_is_only_named_like_a_sandbox_is_left_alone() {
    let bench = Bench::new().await;
    let (ours, frozen, dead) = (SandboxId::random(), SandboxId::random(), SandboxId::random());
    bench.node.create(request(&ours)).await.unwrap();
    // As one of an image that was committed from a sandbox.
    let spec = bench.engine.spec(ours.as_str()).unwrap();
    for (id, status) in [(&frozen, ContainerStatus::Paused), (&dead, ContainerStatus::Dead)] {
        let spec = pinfold_engine::ContainerSpec { name: id.to_string(), ..spec.clone() };
        bench.engine.create(&spec).await.unwrap();
        bench.engine.alter(id.as_str(), |c| c.status = status);
    }
    let Bench { engine, dir, .. } = bench;
    let again = Bench::over(engine, dir, |_| {}).await;
    let (_, stop, task) = again.serve(Arc::new(Control::default())).await;
    let known: Vec<SandboxId> = again.node.index.all().into_iter().map(|(id, _)| id).collect();
    assert_eq!(known, [ours]);
    let refused = again.node.create(request(&frozen)).await.unwrap_err();
    assert_eq!(refused.class, Class::Conflict, "{refused}");
    let status = |id: &SandboxId| again.engine.container(id.as_str()).unwrap().status;
    assert_eq!((status(&frozen), status(&dead)), (ContainerStatus::Paused, ContainerStatus::Dead));
    // Nor does an event make it one.
    let looks = again.engine.calls("inspect");
    again.engine.start(frozen.as_str()).await.unwrap();
    eventually("a look after the event", || again.engine.calls("inspect") > looks).await;
    stop.cancel();
    task.await.unwrap();
    assert!(again.node.index.get(&frozen).is_none());
}

/// 14.2, row 5: a start thaws, and does not wait for a daemon that is frozen.
#[tokio::test]
async fn a_start_thaws_a_frozen_sandbox() {
    let bench = Bench::new().await;
    let id = SandboxId::random();
    bench.node.create(request(&id)).await.unwrap();
    bench.engine.pause(id.as_str()).await.unwrap();
    bench.node.start(&id, StartSandbox::default()).await.unwrap();
    assert_eq!(bench.engine.container(id.as_str()).unwrap().status, ContainerStatus::Running);
    assert_eq!(bench.engine.calls("start"), 1);
}

/// 14.2, row 9: figures are of sandboxes, whatever else is on the engine, and one with an odd size spoils nobody else's.
#[tokio::test]
async fn figures_are_of_sandboxes_alone_and_an_odd_one_spoils_no_other() {
    let bench = Bench::new().await;
    let (plain, odd) = (SandboxId::random(), SandboxId::random());
    for id in [&plain, &odd] {
        bench.node.create(request(id)).await.unwrap();
    }
    bench.engine.alter(plain.as_str(), |c| c.storage_size = Some("3G".to_owned()));
    bench.engine.alter(odd.as_str(), |c| c.storage_size = Some("plenty".to_owned()));
    let spec = bench.engine.spec(plain.as_str()).unwrap();
    bench
        .engine
        .create(&pinfold_engine::ContainerSpec { name: "somebody-elses".to_owned(), ..spec })
        .await
        .unwrap();
    bench.engine.start("somebody-elses").await.unwrap();
    let Bench { engine, dir, .. } = bench;
    let again = Bench::over(engine, dir, |_| {}).await;
    let control = Arc::new(Control::default());
    let (_, stop, task) = again.serve(control.clone()).await;
    eventually("a healthcheck", || !control.health.lock().unwrap().is_empty()).await;
    let figures = control.health.lock().unwrap()[0].metrics.clone().unwrap();
    assert_eq!((figures.current_started_sandboxes, figures.current_allocated_cpu), (2, 2.0));
    assert_eq!((figures.current_allocated_memory_gib, figures.current_allocated_disk_gib), (2.0, 3.0));
    stop.cancel();
    task.await.unwrap();
}

/// 14.4, row 8: a commit that was cancelled is not made again.
#[tokio::test]
async fn a_cancelled_commit_is_not_tried_again() {
    let bench = Bench::new().await;
    let id = SandboxId::random();
    bench.node.create(request(&id)).await.unwrap();
    let gate = Arc::new(tokio::sync::Notify::new());
    bench.engine.fail_next("commit", Fault::Held(gate.clone()));
    let (node, owned) = (bench.node.clone(), id.clone());
    let wanted = CreateBackup { snapshot: "reg.test/p/backup:1".to_owned(), registry: None };
    let backup = tokio::spawn(async move { node.backup(&owned, wanted).await });
    eventually("the commit", || bench.engine.calls("commit") == 1).await;
    bench.node.stop(&id, StopSandbox::default()).await.unwrap();
    backup.await.unwrap().unwrap_err();
    gate.notify_one();
    // After its turn, which a further attempt would have had first.
    bench.node.start(&id, StartSandbox::default()).await.unwrap();
    bench
        .node
        .snapshot(&id, SnapshotSandbox { name: "s".to_owned(), ..SnapshotSandbox::default() })
        .await
        .unwrap();
    assert_eq!(bench.engine.calls("commit"), 2);
}

/// 14.5, row 3: whatever networks a container has, everyone reaches it at the same one.
#[tokio::test]
async fn a_container_with_several_networks_has_one_address() {
    let bench = Bench::with(|c| c.container_network = Some("operators".to_owned())).await;
    let address = |names: &[&str]| {
        let at = |i: usize| Some(std::net::Ipv4Addr::new(10, 0, 0, u8::try_from(i).unwrap()));
        let networks = names.iter().enumerate().map(|(i, name)| ((*name).to_owned(), at(i))).collect();
        let found = pinfold_engine::Container { networks, ..Default::default() };
        bench.node.address_of_container(&found).map(|address| address.octets()[3])
    };
    let ours = bench.node.network.name.as_str();
    assert_eq!(address(&["a-link", "bridge", "operators", ours]), Some(3));
    assert_eq!(address(&["a-link", "operators", "bridge"]), Some(2));
    assert_eq!(address(&["a-link", "operators"]), Some(1));
    assert_eq!(address(&["b-link", "a-link"]), Some(1), "the first by name");
    assert_eq!(address(&[]), None);
}
