//! Starts that the engine finishes after nobody waits for them.

use futures_util::StreamExt;
use tokio::sync::Notify;

use super::*;

/// How long the engine is waited for.
const LIMIT: Duration = Duration::from_secs(1);

/// A runner that serves, and an engine whose next start works when it is told to.
async fn slow_engine(
    limit: Duration,
) -> (Bench, Arc<Notify>, tokio_util::sync::CancellationToken, tokio::task::JoinHandle<()>) {
    let bench = Bench::with(|c| c.sandbox_start_timeout = limit).await;
    let gate = Arc::new(Notify::new());
    bench.engine.fail_next("start", Fault::Held(gate.clone()));
    let (_, stop, task) = bench.serve(Arc::new(Control::default())).await;
    (bench, gate, stop, task)
}

fn status(bench: &Bench, id: &SandboxId) -> ContainerStatus {
    bench.engine.container(id.as_str()).unwrap().status
}

#[tokio::test]
async fn a_start_that_took_too_long_is_undone_when_it_comes_and_the_next_one_works() {
    let (bench, gate, stop, task) = slow_engine(LIMIT).await;
    let id = SandboxId::random();
    let error = bench.node.create(request(&id)).await.unwrap_err();
    assert!(error.message.contains("starting the container") && error.message.contains("1s"), "{error}");
    assert_eq!(status(&bench, &id), ContainerStatus::Created, "the engine is not done yet");
    gate.notify_one();
    let is_stopped =
        || bench.node.index.get(&id).is_some_and(|s| s.state == SandboxState::Stopped && !s.busy);
    eventually("what was started after all to be stopped", || {
        bench.engine.calls("kill") == 1 && status(&bench, &id) == ContainerStatus::Exited && is_stopped()
    })
    .await;
    assert!(bench.policy.applied.lock().unwrap().contains_key(id.as_str()), "its policy stays");
    bench.node.start(&id, StartSandbox::default()).await.unwrap();
    assert_eq!((status(&bench, &id), bench.engine.calls("kill")), (ContainerStatus::Running, 1));
    stop.cancel();
    task.await.unwrap();
}

#[tokio::test]
async fn a_start_that_took_too_long_is_kept_when_a_later_one_wants_it() {
    let (bench, gate, stop, task) = slow_engine(LIMIT).await;
    let id = SandboxId::random();
    let mut events = bench.engine.events();
    bench.node.create(request(&id)).await.unwrap_err();
    bench.node.start(&id, StartSandbox::default()).await.unwrap();
    gate.notify_one();
    let mut starts = 0;
    while starts < 2 {
        let event = tokio::time::timeout(Duration::from_secs(60), events.next()).await.expect("both starts");
        starts += u32::from(event.unwrap().unwrap().action == "start");
    }
    // In turn after whatever the late one brought about.
    bench.node.start(&id, StartSandbox::default()).await.unwrap();
    assert_eq!((status(&bench, &id), bench.engine.calls("kill")), (ContainerStatus::Running, 0));
    stop.cancel();
    task.await.unwrap();
}

#[tokio::test]
async fn a_forced_stop_holds_although_a_start_was_under_way() {
    let (bench, gate, stop, task) = slow_engine(Duration::from_secs(30)).await;
    let id = SandboxId::random();
    let (node, wanted) = (bench.node.clone(), request(&id));
    let create = tokio::spawn(async move { node.create(wanted).await });
    eventually("the start", || bench.engine.calls("start") == 1).await;
    bench.node.stop(&id, StopSandbox { force: Some(true) }).await.unwrap();
    assert_eq!(create.await.unwrap().unwrap_err().class, Class::Unavailable);
    gate.notify_one();
    eventually("what was started after all to be stopped", || {
        bench.engine.calls("kill") == 1 && status(&bench, &id) == ContainerStatus::Exited
    })
    .await;
    stop.cancel();
    task.await.unwrap();
}

/// The engine's answer can be lost as well; then its event tells.
#[tokio::test]
async fn a_start_whose_answer_never_comes_is_known_by_its_event() {
    let bench = Bench::with(|c| c.sandbox_start_timeout = LIMIT).await;
    bench.engine.fail_next("start", Fault::Hang);
    let (_, stop, task) = bench.serve(Arc::new(Control::default())).await;
    let id = SandboxId::random();
    bench.node.create(request(&id)).await.unwrap_err();
    // The engine does in its own time what it was asked for.
    bench.engine.start(id.as_str()).await.unwrap();
    eventually("it to be stopped", || status(&bench, &id) == ContainerStatus::Exited).await;
    stop.cancel();
    task.await.unwrap();
}

/// A restart of the runner forgets no start that was given up: what the engine has finished meanwhile, and what it finishes later, is stopped.
#[tokio::test]
async fn a_start_that_was_given_up_is_undone_by_the_next_life_of_the_runner() {
    let bench = Bench::with(|c| c.sandbox_start_timeout = LIMIT).await;
    let (meanwhile, later, forced) = (SandboxId::random(), SandboxId::random(), SandboxId::random());
    let (_, stop, task) = bench.serve(Arc::new(Control::default())).await;
    for id in [&meanwhile, &later] {
        bench.engine.fail_next("start", Fault::Hang);
        bench.node.create(request(id)).await.unwrap_err();
    }
    stop.cancel();
    task.await.unwrap();
    bench.engine.start(meanwhile.as_str()).await.unwrap();
    let Bench { engine, policy, dir, .. } = bench;
    // In this life a forced stop comes in between.
    let again = Bench::under(engine, dir, policy, |_| {}).await;
    let (_, stop, task) = again.serve(Arc::new(Control::default())).await;
    eventually("what was started meanwhile to be stopped", || {
        status(&again, &meanwhile) == ContainerStatus::Exited
    })
    .await;
    again.engine.start(later.as_str()).await.unwrap();
    eventually("what was started later to be stopped", || status(&again, &later) == ContainerStatus::Exited)
        .await;
    again.engine.fail_next("start", Fault::Hang);
    let before = again.engine.calls("start");
    let (node, wanted) = (again.node.clone(), request(&forced));
    let create = tokio::spawn(async move { node.create(wanted).await });
    eventually("the start", || again.engine.calls("start") > before).await;
    again.node.stop(&forced, StopSandbox { force: Some(true) }).await.unwrap();
    create.await.unwrap().unwrap_err();
    // One that was given up and is wanted after all is left alone by the life after that.
    again.node.start(&later, StartSandbox::default()).await.unwrap();
    stop.cancel();
    task.await.unwrap();
    again.engine.start(forced.as_str()).await.unwrap();
    let Bench { engine, policy, dir, .. } = again;
    let third = Bench::under(engine, dir, policy, |_| {}).await;
    let (_, stop, task) = third.serve(Arc::new(Control::default())).await;
    eventually("what was forced to stop to be stopped", || {
        status(&third, &forced) == ContainerStatus::Exited
    })
    .await;
    assert_eq!(status(&third, &later), ContainerStatus::Running);
    let marked = |id| third.node.records.get(id).unwrap().start_given_up;
    eventually("the records to say so", || ![&meanwhile, &later, &forced].into_iter().any(marked)).await;
    stop.cancel();
    task.await.unwrap();
}
