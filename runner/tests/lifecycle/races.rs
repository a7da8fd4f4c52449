//! What is read of a sandbox is old by the time it is used: what an operation did meanwhile is newer, and stays.

use tokio::sync::{Notify, watch};

use super::*;

/// For what must wait: how long it is watched not coming.
const CHANCE: Duration = Duration::from_millis(300);

/// Waits until every event so far has been dealt with, by one more.
async fn events_followed(bench: &Bench) {
    let last = SandboxId::random();
    bench.node.create(request(&last)).await.unwrap();
    bench.engine.exit(last.as_str(), 0, false);
    let ended = || bench.node.index.get(&last).is_some_and(|s| s.state == SandboxState::Stopped);
    eventually("the last event", ended).await;
}

/// Daemons that answer only while they are told to.
async fn silent_daemons() -> (watch::Sender<bool>, u16) {
    let (answer, answers) = watch::channel(true);
    let version = axum::routing::get(move || {
        let mut answers = answers.clone();
        async move {
            let _ = answers.wait_for(|open| *open).await;
            axum::Json(serde_json::json!({"version": "9.9.9"}))
        }
    });
    let (port, _) = serve(axum::Router::new().route("/version", version)).await;
    (answer, port)
}

#[tokio::test]
async fn the_end_of_an_earlier_run_does_not_undo_a_start() {
    let (answer, port) = silent_daemons().await;
    let bench =
        Bench::with(|c| (c.toolbox_port, c.daemon_start_timeout) = (port, Duration::from_secs(20))).await;
    let (_, stop, task) = bench.serve(Arc::new(Control::default())).await;
    let id = SandboxId::random();
    bench.node.create(request(&id)).await.unwrap();
    events_followed(&bench).await;
    // What the engine says of the end is on its way while the sandbox is started again.
    let (gate, asked) = (Arc::new(Notify::new()), bench.engine.calls("inspect"));
    bench.engine.fail_next("inspect", Fault::Late(gate.clone()));
    bench.engine.exit(id.as_str(), 3, false);
    eventually("the question", || bench.engine.calls("inspect") > asked).await;
    answer.send_replace(false);
    let (node, owned) = (bench.node.clone(), id.clone());
    let start = tokio::spawn(async move { node.start(&owned, StartSandbox::default()).await });
    let runs = || bench.node.index.get(&id).is_some_and(|s| s.status == ContainerStatus::Running);
    eventually("the start", || bench.engine.calls("start") == 3 && runs()).await;
    gate.notify_one();
    let followed = async {
        // The daemon of the last one must answer.
        tokio::time::sleep(CHANCE).await;
        answer.send_replace(true);
        events_followed(&bench).await;
    };
    let (started, ()) = tokio::join!(start, followed);
    started.unwrap().unwrap();
    let known = bench.node.index.get(&id).unwrap();
    assert_eq!(
        (known.state, known.status, known.ending),
        (SandboxState::Started, ContainerStatus::Running, None)
    );
    assert!(known.address.is_some(), "it is reached where it was");
    stop.cancel();
    task.await.unwrap();
}

#[tokio::test]
async fn a_create_during_the_forgetting_of_its_predecessor_keeps_its_record_and_policy() {
    let bench = Bench::new().await;
    let (_, stop, task) = bench.serve(Arc::new(Control::default())).await;
    let id = SandboxId::random();
    bench.node.create(request(&id)).await.unwrap();
    let gate = Arc::new(Notify::new());
    bench.policy.held.lock().unwrap().insert("remove", gate.clone());
    bench.engine.remove(id.as_str(), true).await.unwrap();
    eventually("the forgetting", || bench.policy.held.lock().unwrap().is_empty()).await;
    let closed = CreateSandbox { network_block_all: Some(true), ..request(&id) };
    let node = bench.node.clone();
    let mut create = tokio::spawn(async move { node.create(closed).await });
    let early = tokio::time::timeout(CHANCE, &mut create).await;
    gate.notify_one();
    if early.is_err() {
        create.await.unwrap().unwrap();
    }
    events_followed(&bench).await;
    assert_eq!(bench.node.index.get(&id).map(|s| s.state), Some(SandboxState::Started));
    assert_eq!(bench.node.records.get(&id).unwrap().network.network_block_all, Some(true));
    assert!(bench.policy.applied.lock().unwrap()[id.as_str()].1.is_closed());
    stop.cancel();
    task.await.unwrap();
}

#[tokio::test]
async fn a_container_that_comes_late_is_not_removed_from_a_sandbox_that_is_wanted_again() {
    let bench = Bench::new().await;
    let (_, stop, task) = bench.serve(Arc::new(Control::default())).await;
    let id = SandboxId::random();
    bench.node.create(request(&id)).await.unwrap();
    bench.node.destroy(&id).await.unwrap();
    let (gate, removals) = (Arc::new(Notify::new()), bench.engine.calls("remove"));
    bench.engine.fail_next("remove", Fault::Held(gate.clone()));
    let late =
        pinfold_engine::ContainerSpec { name: id.to_string(), image: IMAGE.to_owned(), ..Default::default() };
    bench.engine.create(&late).await.unwrap();
    eventually("the removal", || bench.engine.calls("remove") > removals).await;
    let (node, again) = (bench.node.clone(), request(&id));
    let mut create = tokio::spawn(async move { node.create(again).await });
    let early = tokio::time::timeout(CHANCE, &mut create).await;
    gate.notify_one();
    if early.is_err() {
        create.await.unwrap().unwrap();
    }
    events_followed(&bench).await;
    assert_eq!(bench.engine.container(id.as_str()).map(|c| c.status), Some(ContainerStatus::Running));
    assert_eq!(bench.node.index.get(&id).map(|s| s.state), Some(SandboxState::Started));
    stop.cancel();
    task.await.unwrap();
}

#[tokio::test]
async fn a_crash_is_not_told_of_a_sandbox_that_was_started_since() {
    let (bench, control) = (Bench::new().await, Arc::new(Control::default()));
    let (_, stop, task) = bench.serve(control.clone()).await;
    let (crashed, last) = (SandboxId::random(), SandboxId::random());
    for id in [&crashed, &last] {
        bench.node.create(request(id)).await.unwrap();
        control.believes(id, "started", "started");
    }
    let (gate, read) = (Arc::new(Notify::new()), bench.engine.calls("logs"));
    bench.engine.fail_next("logs", Fault::Held(gate.clone()));
    bench.engine.exit(crashed.as_str(), 3, false);
    eventually("its output to be read", || bench.engine.calls("logs") > read).await;
    bench.node.start(&crashed, StartSandbox::default()).await.unwrap();
    gate.notify_one();
    bench.engine.exit(last.as_str(), 3, false);
    let told = |id: &SandboxId| control.pushed.lock().unwrap().iter().any(|(told, ..)| told == id.as_str());
    eventually("the next report", || told(&last)).await;
    assert!(!told(&crashed), "{:?}", control.pushed.lock().unwrap());
    stop.cancel();
    task.await.unwrap();
}

#[tokio::test]
async fn a_policy_that_was_read_before_a_change_does_not_stay_in_force() {
    let bench = Bench::new().await;
    let (_, stop, task) = bench.serve(Arc::new(Control::default())).await;
    let id = SandboxId::random();
    bench.node.create(request(&id)).await.unwrap();
    events_followed(&bench).await;
    let gate = Arc::new(Notify::new());
    bench.policy.held.lock().unwrap().insert("apply", gate.clone());
    // As after a start by somebody else: what is recorded is put in force again.
    bench.engine.tell("start", id.as_str());
    eventually("the open policy", || bench.policy.held.lock().unwrap().is_empty()).await;
    let settings = NetworkSettings { network_block_all: Some(true), ..NetworkSettings::default() };
    bench.node.set_network(&id, settings).await.unwrap();
    gate.notify_one();
    events_followed(&bench).await;
    assert!(bench.policy.applied.lock().unwrap()[id.as_str()].1.is_closed());
    stop.cancel();
    task.await.unwrap();
}

#[tokio::test]
async fn an_image_that_is_wanted_again_while_it_is_removed_is_brought_again() {
    let bench = Bench::new().await;
    let (id, reference) = (SandboxId::random(), "reg.test/p/daytona-1:daytona");
    let image = pinfold_engine::Image { digests: vec![format!("{reference}@sha256:01")], ..common::image() };
    bench.engine.add_image(reference, image);
    bench.node.create(CreateSandbox { snapshot: reference.to_owned(), ..request(&id) }).await.unwrap();
    bench.node.remove_snapshot(reference).await.unwrap();
    bench.node.destroy(&id).await.unwrap();
    let gate = Arc::new(Notify::new());
    bench.engine.fail_next("remove_image", Fault::Held(gate.clone()));
    let (node, removals) = (bench.node.clone(), bench.engine.calls("remove_image"));
    let removal = tokio::spawn(async move { node.reclaim().await });
    eventually("the removal", || bench.engine.calls("remove_image") > removals).await;
    let wanted = PullSnapshot { snapshot: reference.to_owned(), ..PullSnapshot::default() };
    let node = bench.node.clone();
    let mut pull = tokio::spawn(async move { node.pull_snapshot(wanted).await });
    let early = tokio::time::timeout(CHANCE, &mut pull).await;
    gate.notify_one();
    removal.await.unwrap().unwrap();
    if early.is_err() {
        pull.await.unwrap().unwrap();
    }
    assert!(bench.engine.image_names().contains(&reference.to_owned()));
}
