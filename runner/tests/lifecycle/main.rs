//! What a sandbox's life promises, against a simulated engine: policy first, few engine calls, nothing left behind, honest states.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "tests that fail say where, and one prints what it measured"
)]

mod android;
#[path = "../common/mod.rs"]
mod common;
mod figures;
mod health;
mod images;
mod late;
mod races;
mod reports;
mod runtimes;
mod spec;
mod steps;
mod tables;
mod takeover;
mod volumes;
mod weaknesses;

use std::sync::Arc;
use std::time::Duration;

use common::{Bench, Control, IMAGE, create_payload, eventually, mortal_daemons, serve};
use pinfold_engine::{ContainerStatus, Engine, EngineError, Fault};
use pinfold_proto::id::SandboxId;
use pinfold_proto::runner::payload::{
    CreateBackup, CreateSandbox, NetworkSettings, PullSnapshot, RecoverSandbox, ResizeSandbox,
    SnapshotSandbox, StartSandbox, Started, StopSandbox,
};
use pinfold_runner::error::{Class, OpResult};
use pinfold_runner::index::SandboxState;
use tokio::task::JoinHandle;

fn request(id: &SandboxId) -> CreateSandbox {
    serde_json::from_value(create_payload(id)).unwrap()
}

fn broken() -> EngineError {
    EngineError::Internal { what: "engine".to_owned(), message: "boom".to_owned() }
}

#[tokio::test]
async fn a_create_costs_two_engine_calls_and_hands_the_token_over() {
    let bench = Bench::new().await;
    // The image is known after the first sandbox.
    bench.node.create(request(&SandboxId::random())).await.unwrap();
    let before: Vec<u64> =
        ["create", "start", "inspect", "image", "list"].map(|k| bench.engine.calls(k)).to_vec();
    let id = SandboxId::random();
    let started = bench.node.create(request(&id)).await.unwrap();
    assert_eq!(started.daemon_version, "9.9.9");
    let after: Vec<u64> =
        ["create", "start", "inspect", "image", "list"].map(|k| bench.engine.calls(k)).to_vec();
    let spent: Vec<u64> = after.iter().zip(&before).map(|(a, b)| a - b).collect();
    assert_eq!(spent, [1, 1, 0, 0, 0]);
    eventually("the token", || {
        bench.daemon.tokens.lock().unwrap().iter().filter(|t| *t == "tok-1").count() == 2
    })
    .await;
    let known = bench.node.index.get(&id).unwrap();
    assert_eq!((known.state, known.busy), (SandboxState::Started, false));
    let container = bench.engine.container(id.as_str()).unwrap();
    assert!(
        container.env.contains(&format!("DAYTONA_SANDBOX_ID={id}"))
            && container.env.contains(&"A=1".to_owned())
    );
    assert_eq!(container.labels["daytona.sandbox_name"], "box");
}

#[tokio::test]
async fn policy_is_in_force_before_the_first_packet_on_every_path() {
    let bench = Bench::new().await;
    let id = SandboxId::random();
    let closed = CreateSandbox { network_block_all: Some(true), skip_start: Some(true), ..request(&id) };
    bench.node.create(closed).await.unwrap();
    assert_eq!(bench.engine.calls("start"), 0);
    // The start carries no policy; the stored one is enforced.
    bench.policy.applied.lock().unwrap().clear();
    bench.node.start(&id, StartSandbox::default()).await.unwrap();
    assert_eq!(*bench.policy.late.lock().unwrap(), [false, false]);
    assert!(bench.policy.applied.lock().unwrap()[id.as_str()].1.is_closed());
    let address = bench.engine.attachments(id.as_str())[0].address.unwrap();
    assert_eq!(bench.policy.applied.lock().unwrap()[id.as_str()].0.ip, address);
}

#[tokio::test]
async fn a_policy_that_cannot_be_enforced_fails_the_create_and_leaves_nothing() {
    let bench = Bench::new().await;
    *bench.policy.fail.lock().unwrap() = true;
    let id = SandboxId::random();
    let error = bench.node.create(request(&id)).await.unwrap_err();
    assert!(error.message.contains("network policy") && error.message.contains("nft says no"), "{error}");
    assert_eq!(bench.engine.calls("start"), 0);
    assert!(bench.engine.container(id.as_str()).is_none() && bench.node.index.get(&id).is_none());
    assert!(bench.node.records.get(&id).is_none());
    let bad = CreateSandbox { network_allow_list: Some("not a network".to_owned()), ..request(&id) };
    assert_eq!(bench.node.create(bad).await.unwrap_err().class, Class::BadRequest);
}

#[tokio::test]
async fn a_policy_change_of_a_stopped_sandbox_holds_at_its_next_start_and_after_a_restart() {
    let bench = Bench::new().await;
    let id = SandboxId::random();
    bench.node.create(request(&id)).await.unwrap();
    bench.node.stop(&id, StopSandbox::default()).await.unwrap();
    let settings = NetworkSettings { network_block_all: Some(true), ..NetworkSettings::default() };
    bench.node.set_network(&id, settings).await.unwrap();
    let Bench { engine, dir, .. } = bench;
    let again = Bench::over(engine, dir, |_| {}).await;
    again.node.start(&id, StartSandbox::default()).await.unwrap();
    assert!(again.policy.applied.lock().unwrap()[id.as_str()].1.is_closed());
}

#[tokio::test]
async fn a_sandbox_whose_record_is_lost_gets_no_network_until_its_policy_is_set_again() {
    let bench = Bench::new().await;
    let id = SandboxId::random();
    bench.node.create(request(&id)).await.unwrap();
    bench.node.records.remove(&id).await;
    let Bench { engine, dir, .. } = bench;
    let again = Bench::over(engine, dir, |_| {}).await;
    let (_, stop, task) = again.serve(Arc::new(Control::default())).await;
    let in_force = || again.policy.applied.lock().unwrap().get(id.as_str()).map(|(_, policy)| policy.clone());
    eventually("its policy", || in_force().is_some()).await;
    assert!(in_force().unwrap().is_closed());
    again.node.set_network(&id, NetworkSettings::default()).await.unwrap();
    assert!(!in_force().unwrap().is_closed());
    stop.cancel();
    task.await.unwrap();
}

#[tokio::test]
async fn a_policy_change_that_fails_for_a_moment_is_tried_again() {
    let bench = Bench::new().await;
    let id = SandboxId::random();
    bench.node.create(request(&id)).await.unwrap();
    *bench.policy.fail.lock().unwrap() = true;
    let settings = NetworkSettings { network_block_all: Some(true), ..NetworkSettings::default() };
    let (node, owned) = (bench.node.clone(), id.clone());
    let change = tokio::spawn(async move { node.set_network(&owned, settings).await });
    eventually("two refusals", || *bench.policy.refused.lock().unwrap() == 2).await;
    *bench.policy.fail.lock().unwrap() = false;
    change.await.unwrap().unwrap();
    assert!(bench.policy.applied.lock().unwrap()[id.as_str()].1.is_closed());
}

#[tokio::test]
async fn creating_twice_joins_and_a_lost_answer_is_found() {
    let bench = Bench::new().await;
    let id = SandboxId::random();
    let (one, two) = tokio::join!(bench.node.create(request(&id)), bench.node.create(request(&id)));
    assert_eq!(one.unwrap().daemon_version, two.unwrap().daemon_version);
    assert_eq!(bench.engine.calls("create"), 1);
    // The engine made it, but its answer was lost: the job fails, and running it again succeeds.
    let lost = SandboxId::random();
    let timeout = EngineError::Timeout { what: "create container".to_owned(), after: Duration::from_secs(1) };
    bench.engine.fail_next("create", Fault::Lost(timeout));
    assert!(bench.node.create(request(&lost)).await.is_err());
    assert_eq!(bench.node.create(request(&lost)).await.unwrap().daemon_version, "9.9.9");
}

#[tokio::test]
async fn a_create_that_was_killed_between_the_engine_and_the_record_is_finished_under_its_policy() {
    let bench = Bench::new().await;
    let id = SandboxId::random();
    let made = CreateSandbox { skip_start: Some(true), ..request(&id) };
    bench.node.create(made).await.unwrap();
    let address = bench.engine.attachments(id.as_str())[0].address.unwrap();
    // What the killed run had not got to.
    bench.node.records.remove(&id).await;
    let Bench { engine, dir, .. } = bench;
    let again = Bench::over(engine, dir, |_| {}).await;
    let (_, stop, task) = again.serve(Arc::new(Control::default())).await;
    let closed = CreateSandbox { network_block_all: Some(true), ..request(&id) };
    assert_eq!(again.node.create(closed).await.unwrap().daemon_version, "9.9.9");
    let (endpoint, policy) = again.policy.applied.lock().unwrap()[id.as_str()].clone();
    assert!(endpoint.ip == address && policy.is_closed(), "{endpoint:?} {policy:?}");
    assert_eq!(again.policy.late.lock().unwrap().first(), Some(&false), "enforced before the start");
    assert_eq!(again.node.records.get(&id).unwrap().address, Some(address));
    stop.cancel();
    task.await.unwrap();
}

#[tokio::test]
async fn a_name_that_the_engine_still_holds_for_a_create_that_was_cut_off_is_waited_for() {
    let bench = Bench::new().await;
    let taken = EngineError::Conflict { what: "create container".to_owned(), message: "in use".to_owned() };
    bench.engine.fail_next("create", Fault::Error(taken));
    assert_eq!(bench.node.create(request(&SandboxId::random())).await.unwrap().daemon_version, "9.9.9");
    assert_eq!(bench.engine.calls("create"), 2);
}

#[tokio::test]
async fn every_operation_may_run_twice_and_a_missing_sandbox_is_stopped_and_destroyed() {
    let bench = Bench::new().await;
    let id = SandboxId::random();
    bench.node.create(request(&id)).await.unwrap();
    for _ in 0..2 {
        bench.node.stop(&id, StopSandbox::default()).await.unwrap();
    }
    assert_eq!(bench.node.index.get(&id).unwrap().state, SandboxState::Stopped);
    for _ in 0..2 {
        assert_eq!(bench.node.start(&id, StartSandbox::default()).await.unwrap().daemon_version, "9.9.9");
    }
    bench.node.stop(&id, StopSandbox { force: Some(true) }).await.unwrap();
    for _ in 0..2 {
        bench.node.destroy(&id).await.unwrap();
    }
    bench.node.stop(&id, StopSandbox::default()).await.unwrap();
    assert!(bench.policy.applied.lock().unwrap().is_empty() && bench.node.records.ids().is_empty());
    assert!(bench.engine.container(id.as_str()).is_none());
    assert_eq!(bench.node.start(&id, StartSandbox::default()).await.unwrap_err().class, Class::NotFound);
    assert!(bench.node.index.get(&id).is_none());
}

#[tokio::test]
async fn a_destroy_is_not_stuck_behind_a_slow_pull() {
    let bench = Bench::new().await;
    bench.engine.fail_next("pull", Fault::Hang);
    let id = SandboxId::random();
    let (node, slow) = (bench.node.clone(), CreateSandbox { snapshot: "other:1".to_owned(), ..request(&id) });
    let create = tokio::spawn(async move { node.create(slow).await });
    let state = || bench.node.index.get(&id).map(|s| s.state);
    eventually("the pull to begin", || state() == Some(SandboxState::PullingSnapshot)).await;
    tokio::time::timeout(Duration::from_secs(30), bench.node.destroy(&id))
        .await
        .expect("destroy is prompt")
        .unwrap();
    assert_eq!(create.await.unwrap().unwrap_err().class, Class::Unavailable);
    assert!(bench.node.index.get(&id).is_none());
}

#[tokio::test]
async fn a_removal_that_fails_is_tried_again() {
    let bench = Bench::new().await;
    let id = SandboxId::random();
    bench.node.create(request(&id)).await.unwrap();
    for _ in 0..3 {
        bench.engine.fail_next("remove", Fault::Error(broken()));
    }
    bench.node.destroy(&id).await.unwrap();
    assert_eq!(bench.engine.calls("remove"), 4);
}

/// No daemon ever answers, and each start waits that long for one.
async fn without_daemons(limit: Duration) -> Bench {
    Bench::with(|c| (c.toolbox_port, c.daemon_start_timeout) = (1, limit)).await
}

/// A create is over with its container, and says how that ended.
async fn fails_with_its_end(create: JoinHandle<OpResult<Started>>) {
    let error =
        tokio::time::timeout(Duration::from_secs(30), create).await.expect("prompt").unwrap().unwrap_err();
    assert!(error.message.contains("code 127") && error.message.contains("last output: "), "{error}");
}

#[tokio::test]
async fn pain_20_a_daemon_that_never_answers_is_explained() {
    let bench = without_daemons(Duration::from_millis(50)).await;
    let error = bench.node.create(request(&SandboxId::random())).await.unwrap_err();
    for part in ["waiting for the daemon", "did not answer within", "last output: last words of"] {
        assert!(error.message.contains(part), "{part} in {error}");
    }
}

#[tokio::test]
async fn a_container_that_dies_at_once_fails_the_start_at_once() {
    let bench = without_daemons(Duration::from_secs(60)).await;
    let (_, stop, task) = bench.serve(Arc::new(Control::default())).await;
    let id = SandboxId::random();
    let (node, wanted) = (bench.node.clone(), request(&id));
    let create = tokio::spawn(async move { node.create(wanted).await });
    eventually("the start", || bench.engine.calls("start") == 1).await;
    bench.engine.exit(id.as_str(), 127, false);
    fails_with_its_end(create).await;
    stop.cancel();
    task.await.unwrap();
}

/// What has ended by the time that the engine says that it runs is not waited for as if it ran.
#[tokio::test]
async fn a_container_that_dies_before_its_start_is_answered_fails_the_start_at_once() {
    let bench = without_daemons(Duration::from_secs(60)).await;
    let (_, stop, task) = bench.serve(Arc::new(Control::default())).await;
    let (id, gate) = (SandboxId::random(), Arc::new(tokio::sync::Notify::new()));
    bench.engine.fail_next("start", Fault::Late(gate.clone()));
    let (node, wanted) = (bench.node.clone(), request(&id));
    let create = tokio::spawn(async move { node.create(wanted).await });
    let status = || bench.engine.container(id.as_str()).map(|c| c.status);
    eventually("the start", || status() == Some(ContainerStatus::Running)).await;
    bench.engine.exit(id.as_str(), 127, false);
    let known = || bench.node.index.get(&id).map(|s| s.status);
    eventually("its end to be known", || known() == Some(ContainerStatus::Exited)).await;
    gate.notify_one();
    fails_with_its_end(create).await;
    stop.cancel();
    task.await.unwrap();
}

#[tokio::test]
async fn a_daemon_that_dies_with_its_sandbox_does_not_hide_the_sandboxs_own_end() {
    let (port, daemon) = mortal_daemons().await;
    let bench = Bench::with(|c| (c.use_snapshot_entrypoint, c.toolbox_port) = (true, port)).await;
    let (_, stop, task) = bench.serve(std::sync::Arc::new(Control::default())).await;
    let id = SandboxId::random();
    bench.node.create(request(&id)).await.unwrap();
    // As the engine does it: no new process is launched any more, the daemon's end is told, then the program's.
    let launched = bench.engine.calls("exec");
    bench.engine.fail_next("exec", Fault::Error(broken()));
    daemon.abort();
    let _ = daemon.await;
    bench.engine.tell("exec_die", id.as_str());
    eventually("the refused launch", || bench.engine.calls("exec") == launched + 1).await;
    eventually("its report", || bench.node.index.get(&id).is_some_and(|s| !s.busy)).await;
    let changed = bench.node.index.wait(&id, |s| s.filter(|s| s.state != SandboxState::Started).cloned());
    let end = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        bench.engine.exit(id.as_str(), 3, false);
    };
    let (seen, ()) = tokio::join!(changed, end);
    assert_eq!((seen.state, seen.ending.map(|e| e.code)), (SandboxState::Error, Some(3)));
    assert_eq!(bench.node.index.get(&id).unwrap().failure, None);
    stop.cancel();
    task.await.unwrap();
}

#[tokio::test]
async fn want_of_memory_is_the_reason_when_it_is_told_after_the_end() {
    let bench = Bench::new().await;
    let (_, stop, task) = bench.serve(std::sync::Arc::new(Control::default())).await;
    let id = SandboxId::random();
    bench.node.create(request(&id)).await.unwrap();
    bench.engine.exit(id.as_str(), 137, false);
    let state = || bench.node.index.get(&id).map(|s| s.state);
    eventually("the end", || state() == Some(SandboxState::Stopped)).await;
    bench.engine.tell("oom", id.as_str());
    eventually("the reason", || state() == Some(SandboxState::Error)).await;
    assert!(bench.node.index.get(&id).unwrap().trouble().unwrap().contains("ran out of memory"));
    stop.cancel();
    task.await.unwrap();
}

#[tokio::test]
async fn a_node_that_starts_again_knows_its_sandboxes_and_thaws_frozen_ones() {
    let bench = Bench::new().await;
    let (running, frozen) = (SandboxId::random(), SandboxId::random());
    for id in [&running, &frozen] {
        bench.node.create(request(id)).await.unwrap();
    }
    bench.engine.pause(frozen.as_str()).await.unwrap();
    let Bench { engine, dir, .. } = bench;
    let again = Bench::over(engine, dir, |_| {}).await;
    let (_, stop, task) = again.serve(std::sync::Arc::new(Control::default())).await;
    eventually("the inventory", || again.node.index.all().len() == 2).await;
    eventually("the thaw", || {
        again.engine.container(frozen.as_str()).is_some_and(|c| c.status == ContainerStatus::Running)
    })
    .await;
    let applied = || again.policy.applied.lock().unwrap().len();
    eventually("both policies", || applied() == 2).await;
    // A new sandbox does not get an address that is taken.
    let fresh = SandboxId::random();
    again.node.create(request(&fresh)).await.unwrap();
    let address = |id: &SandboxId| again.engine.attachments(id.as_str())[0].address.unwrap();
    assert!(address(&fresh) != address(&running) && address(&fresh) != address(&frozen));
    stop.cancel();
    task.await.unwrap();
}

#[tokio::test]
async fn a_resize_without_disk_is_an_update_and_a_disk_resize_fails_before_it_touches_anything() {
    let bench = Bench::new().await;
    let id = SandboxId::random();
    bench.node.create(request(&id)).await.unwrap();
    let resize = ResizeSandbox { cpu: Some(2), memory: Some(4), ..ResizeSandbox::default() };
    bench.node.resize(&id, resize).await.unwrap();
    let container = bench.engine.container(id.as_str()).unwrap();
    assert_eq!((container.cpu_quota, container.memory), (200_000, 4 << 30));
    bench.node.stop(&id, StopSandbox::default()).await.unwrap();
    let disk = ResizeSandbox { disk: Some(10), ..ResizeSandbox::default() };
    let error = bench.node.resize(&id, disk).await.unwrap_err();
    assert!(error.message.contains("xfs"), "{error}");
    assert_eq!((bench.engine.calls("rename"), bench.engine.calls("duplicate")), (0, 0));
}

#[tokio::test]
async fn recovery_needs_a_reason_and_has_an_end() {
    let bench = Bench::new().await;
    let id = SandboxId::random();
    bench.node.create(request(&id)).await.unwrap();
    let recover = |reason: &str| RecoverSandbox {
        error_reason: Some(reason.to_owned()),
        storage_quota: 10,
        ..RecoverSandbox::default()
    };
    assert!(
        bench.node.recover(&id, recover("segfault")).await.unwrap_err().message.contains("no known recovery")
    );
    let error = bench.node.recover(&id, recover("write: no space left on device")).await.unwrap_err();
    assert!(error.message.contains("overlay2 driver on xfs"), "{error}");
}

#[tokio::test]
async fn a_container_that_appears_after_its_destroy_is_removed() {
    let bench = Bench::new().await;
    let (_, stop, task) = bench.serve(std::sync::Arc::new(Control::default())).await;
    let id = SandboxId::random();
    bench.node.create(request(&id)).await.unwrap();
    bench.node.destroy(&id).await.unwrap();
    // As when the engine finishes a create whose caller was cancelled.
    let late =
        pinfold_engine::ContainerSpec { name: id.to_string(), image: IMAGE.to_owned(), ..Default::default() };
    bench.engine.create(&late).await.unwrap();
    eventually("the removal", || bench.engine.container(id.as_str()).is_none()).await;
    stop.cancel();
    task.await.unwrap();
}

/// A card is one sandbox's at a time, from its create to its stop, and the sandbox has the size that goes with it.
#[tokio::test]
async fn a_gpu_is_given_once_and_not_taken_back_from_its_next_owner() {
    let bench = Bench::with(|c| {
        c.gpus = vec!["NVIDIA H100 80GB HBM3".to_owned(); 2];
        c.privileged = true;
    })
    .await;
    let ids: Vec<SandboxId> = (0..3).map(|_| SandboxId::random()).collect();
    let with_gpu = |id: &SandboxId| CreateSandbox { gpu_quota: 1, ..request(id) };
    let (one, two) = tokio::join!(bench.node.create(with_gpu(&ids[0])), bench.node.create(with_gpu(&ids[1])));
    one.unwrap();
    two.unwrap();
    let mut given: Vec<String> = ids[..2]
        .iter()
        .map(|id| bench.engine.container(id.as_str()).unwrap().labels["daytona.gpu_index"].clone())
        .collect();
    let first = given[0].clone();
    given.sort();
    assert_eq!(given, ["0", "1"]);
    let container = bench.engine.container(ids[0].as_str()).unwrap();
    assert_eq!((container.cpu_quota, container.memory), (1_600_000, 256 << 30));
    assert!(container.env.contains(&"CUDA_VISIBLE_DEVICES=0".to_owned()), "{:?}", container.env);
    let refused = bench.node.create(with_gpu(&ids[2])).await.unwrap_err();
    assert!(refused.class == Class::Conflict && refused.message.contains("free"), "{refused}");
    assert!(bench.engine.container(ids[2].as_str()).is_none() && bench.node.records.get(&ids[2]).is_none());
    let two_cards = CreateSandbox { gpu_quota: 2, ..request(&ids[2]) };
    assert_eq!(bench.node.create(two_cards).await.unwrap_err().class, Class::BadRequest);
    // Its card goes to another one while it is stopped.
    bench.node.stop(&ids[0], StopSandbox::default()).await.unwrap();
    bench.node.create(with_gpu(&ids[2])).await.unwrap();
    assert_eq!(bench.engine.container(ids[2].as_str()).unwrap().labels["daytona.gpu_index"], first);
    let taken = bench.node.start(&ids[0], StartSandbox::default()).await.unwrap_err();
    assert!(taken.class == Class::Conflict && taken.message.contains("another sandbox"), "{taken}");
    bench.node.stop(&ids[2], StopSandbox::default()).await.unwrap();
    bench.node.start(&ids[0], StartSandbox::default()).await.unwrap();
}

/// What the index does not know may run all the same: only the engine says that a sandbox is gone.
#[tokio::test]
async fn a_sandbox_that_the_index_does_not_know_is_looked_for() {
    let bench = Bench::new().await;
    let id = SandboxId::random();
    bench.node.create(request(&id)).await.unwrap();
    let settings = || NetworkSettings { network_block_all: Some(true), ..NetworkSettings::default() };
    let forget = || drop(bench.node.index.remove(&id));
    forget();
    let more = ResizeSandbox { cpu: Some(2), ..ResizeSandbox::default() };
    bench.node.resize(&id, more).await.unwrap();
    assert_eq!(bench.engine.container(id.as_str()).unwrap().cpu_quota, 200_000);
    forget();
    // Its record says whose policy it is, whatever the engine says.
    bench.engine.fail_next("inspect", Fault::Error(broken()));
    bench.node.set_network(&id, settings()).await.unwrap();
    assert!(bench.policy.applied.lock().unwrap()[id.as_str()].1.is_closed());
    bench.node.records.remove(&id).await;
    bench.node.set_network(&id, settings()).await.unwrap();
    assert_eq!(bench.node.records.get(&id).unwrap().network.network_block_all, Some(true));
    forget();
    bench.engine.fail_next("inspect", Fault::Error(broken()));
    bench.node.stop(&id, StopSandbox::default()).await.unwrap_err();
    bench.node.stop(&id, StopSandbox::default()).await.unwrap();
    assert_eq!(bench.engine.container(id.as_str()).unwrap().status, ContainerStatus::Exited);
    // Nobody's is stopped, and has no settings.
    let gone = SandboxId::random();
    bench.node.stop(&gone, StopSandbox::default()).await.unwrap();
    assert_eq!(bench.node.set_network(&gone, settings()).await.unwrap_err().class, Class::NotFound);
}
