//! How many jobs run at once, what is done at a stop, and when what failed is tried again.

use super::*;

fn executor(bench: &Bench, control: &Arc<Control>) -> Executor {
    let outbox = Outbox::open(&bench.dir.path().join("outbox")).unwrap();
    Executor::new(bench.node.clone(), control.clone(), outbox)
}

/// Contract 14.4, row 4: each class of jobs has places of its own, and no more.
#[tokio::test]
async fn each_class_of_jobs_has_its_places() {
    let build = |n: u32| json!({"snapshot": format!("daytona-{n}:daytona"), "dockerfile": "FROM scratch", "organizationId": "o"});
    let create = |n: u32| json!({"snapshot": IMAGE, "id": format!("b8c3a1d0-2f0e-4a56-8a44-6b3f1d2e{n:04}"), "osUser": "u"});
    type Payload<'a> = &'a dyn Fn(u32) -> serde_json::Value;
    let cases: [(&str, &'static str, u64, Payload<'_>); 6] = [
        ("CREATE_SANDBOX", "create", 32, &create),
        ("PULL_SNAPSHOT", "pull", 4, &|n| json!({"snapshot": format!("slow:{n}")})),
        ("BUILD_SNAPSHOT", "build", 2, &build),
        ("CREATE_BACKUP", "commit", 6, &|n| json!({"snapshot": format!("backup:{n}")})),
        (
            "INSPECT_SNAPSHOT_IN_REGISTRY",
            "registry_digest",
            16,
            &|n| json!({"snapshot": format!("reg.test/x:{n}")}),
        ),
        ("DESTROY_SANDBOX", "remove", 64, &|_| json!({})),
    ];
    let (bench, control) = (Bench::new().await, Arc::new(Control::default()));
    let backed_up: Vec<SandboxId> = (0..8).map(|_| SandboxId::random()).collect();
    for id in &backed_up {
        bench.node.create(serde_json::from_value(create_payload(id)).unwrap()).await.unwrap();
    }
    let executor = executor(&bench, &control);
    for (kind, call, places, payload) in cases {
        let (before, more) = (bench.engine.calls(call), places + 2);
        for n in 0..u32::try_from(more).unwrap() {
            bench.engine.fail_next(call, Fault::Hang);
            let id = match kind {
                "CREATE_BACKUP" => backed_up[n as usize].clone(),
                _ => format!("b8c3a1d0-2f0e-4a56-8a44-6b3f1d2e{n:04}").parse().unwrap(),
            };
            executor.accept(json!({"id": format!("{kind}-{n}"), "type": kind, "status": "IN_PROGRESS", "resourceId": id, "payload": payload(n).to_string()}));
        }
        let begun = || bench.engine.calls(call) - before;
        eventually(&format!("{places} jobs of the type {kind}"), || begun() == places).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert_eq!(begun(), places, "{kind}");
    }
}

/// Above a number of jobs that no node can have in hand, none are claimed.
#[tokio::test]
async fn a_node_with_hundreds_of_jobs_claims_no_more() {
    let (bench, control) = (Bench::new().await, Arc::new(Control::default()));
    let executor = executor(&bench, &control);
    let gate = Arc::new(tokio::sync::Notify::new());
    for _ in 0..64 {
        bench.engine.fail_next("remove", Fault::Held(gate.clone()));
    }
    for n in 0..400 {
        executor.accept(json!({"id": format!("{n}"), "type": "DESTROY_SANDBOX", "status": "IN_PROGRESS", "resourceId": SandboxId::random()}));
    }
    eventually("as many removals as there are places", || bench.engine.calls("remove") == 64).await;
    let stop = CancellationToken::new();
    let time = Duration::from_millis(50);
    let polling = tokio::spawn(poll(control.clone(), executor.clone(), time, 10, time, stop.clone()));
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!((control.polls.lock().unwrap().len(), executor.running()), (0, 400));
    gate.notify_waiters();
    eventually("room, and a poll", || !control.polls.lock().unwrap().is_empty()).await;
    stop.cancel();
    polling.await.unwrap();
}

/// An answer without jobs that comes at once, which a left-over hint brings about, does not make a busy loop.
#[tokio::test]
async fn empty_answers_are_not_asked_for_in_a_loop() {
    let (bench, control) = (Bench::new().await, Arc::new(Control::default()));
    let executor = executor(&bench, &control);
    let stop = CancellationToken::new();
    let (time, began) = (Duration::from_millis(1), std::time::Instant::now());
    let polling = tokio::spawn(poll(control.clone(), executor, time, 10, time, stop.clone()));
    eventually("some polls", || control.polls.lock().unwrap().len() >= 4).await;
    assert!(began.elapsed() >= Duration::from_millis(300), "{:?}", began.elapsed());
    stop.cancel();
    polling.await.unwrap();
}

/// Contract 3.1 and 17.1: what a poll claimed for nobody is found, also by the next life, and although a listing fails.
#[tokio::test]
async fn claims_that_nobody_heard_of_are_found_long_before_the_next_regular_look() {
    let (bench, control) =
        (Bench::new().await, Arc::new(Control { refuse_lists: 1.into(), ..Control::default() }));
    let claim = |id: &str| {
        let job = json!({"id": id, "type": "STOP_SANDBOX", "status": "IN_PROGRESS", "resourceId": SandboxId::random()});
        control.claimed.lock().unwrap().insert(id.to_owned(), job);
    };
    claim("before");
    let (_, stop, task) = bench.serve(control.clone()).await;
    control.result("before").await;
    let looks = *control.lists.lock().unwrap();
    // The last life's poll lives on at the control plane for its time.
    claim("meanwhile");
    control.result("meanwhile").await;
    eventually("no more looks", || *control.lists.lock().unwrap() > looks).await;
    // Then nothing is suspicious any more, until a poll fails.
    let quiet = async {
        loop {
            let looks = *control.lists.lock().unwrap();
            tokio::time::sleep(Duration::from_millis(1300)).await;
            if *control.lists.lock().unwrap() == looks {
                return;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(10), quiet).await.expect("the looks become rare");
    *control.lose_polls.lock().unwrap() = 1;
    let swallowed = control.push("STOP_SANDBOX", SandboxId::random().as_str(), None);
    control.result(&swallowed).await;
    stop.cancel();
    task.await.unwrap();
}

/// Contract 14.4, row 10, and 17.1: at a stop the poll under way ends by itself, and what it brings is done; results that are on their way arrive.
#[tokio::test]
async fn a_stop_swallows_neither_a_claim_nor_a_result() {
    let bench = Bench::with(|c| c.poll_timeout = Duration::from_secs(30)).await;
    let control = Arc::new(Control { slow_reports: Duration::from_millis(200).into(), ..Control::default() });
    let (_, stop, task) = bench.serve(control.clone()).await;
    eventually("a poll", || !control.polls.lock().unwrap().is_empty()).await;
    stop.cancel();
    tokio::task::yield_now().await;
    let job = control.push("STOP_SANDBOX", SandboxId::random().as_str(), None);
    task.await.unwrap();
    assert_eq!(control.reports_of(&job), 1);
}

/// What runs on during a drain still learns of the engine's events.
#[tokio::test]
async fn a_container_that_dies_during_the_drain_fails_its_job_at_once() {
    let bench = Bench::with(|c| {
        (c.toolbox_port, c.daemon_start_timeout) = (1, Duration::from_secs(60));
        c.drain_timeout = Duration::from_secs(60);
    })
    .await;
    let control = Arc::new(Control::default());
    let (address, stop, task) = bench.serve(control.clone()).await;
    let id = SandboxId::random();
    let job = control.push("CREATE_SANDBOX", id.as_str(), Some(create_payload(&id)));
    let runs = || bench.node.index.get(&id).is_some_and(|s| s.address.is_some());
    eventually("the start", runs).await;
    stop.cancel();
    eventually("the stop", || std::net::TcpStream::connect(address).is_err()).await;
    bench.engine.exit(id.as_str(), 127, false);
    tokio::time::timeout(Duration::from_secs(30), task).await.expect("the drain ends with the job").unwrap();
    let failed = control.result(&job).await;
    assert!(failed.error_message.as_ref().is_some_and(|m| m.contains("code 127")), "{failed:?}");
}

/// A result that is not taken is sent again with growing pauses, five seconds at most.
#[tokio::test(start_paused = true)]
async fn a_result_is_sent_again_with_growing_pauses() {
    let (bench, control) = (Bench::new().await, Arc::new(Control::default()));
    control.refuse_reports.lock().unwrap().extend(std::iter::repeat_n(503, 10));
    let outbox = Outbox::open(&bench.dir.path().join("outbox")).unwrap();
    let update = StatusUpdate { status: JobStatus::Completed, error_message: None, result_metadata: None };
    // As the next life finds it: no file is written, for which time would stand still.
    outbox.submit(&(control.clone() as Arc<dyn ControlPlane>), "job".to_owned(), update, None);
    eventually("the last attempt", || control.reports_of("job") == 1).await;
    let asked = control.asked.lock().unwrap().clone();
    let pauses: Vec<Duration> = asked.windows(2).map(|pair| pair[1] - pair[0]).collect();
    // The first two come at once: one beside the file, one after it.
    for (n, pause) in pauses[1..].iter().enumerate() {
        let wanted = Duration::from_millis(50 << n).min(Duration::from_secs(5));
        let slack = Duration::from_millis(2);
        assert!(*pause + slack >= wanted / 2 && *pause <= wanted * 3 / 2 + slack, "pause {n} of {pauses:?}");
    }
}

/// Contract 3.7: a full disk can be recovered from where a user can do that, and is plain text where nobody can; a payload of `null` is none.
#[tokio::test]
async fn failures_say_what_the_control_plane_reads_in_them() {
    let (bench, control) = (Bench::new().await, Arc::new(Control::default()));
    let (_, stop, task) = bench.serve(control.clone()).await;
    let id = SandboxId::random();
    bench.node.create(serde_json::from_value(create_payload(&id)).unwrap()).await.unwrap();
    bench.node.stop(&id, Default::default()).await.unwrap();
    let full = || pinfold_engine::EngineError::Internal {
        what: "e".to_owned(),
        message: "No space left on device".to_owned(),
    };
    for (kind, call, payload, recoverable) in [
        ("START_SANDBOX", "start", json!({}), true),
        ("RESIZE_SANDBOX", "update", json!({"cpu": 2}), true),
        ("CREATE_BACKUP", "commit", json!({"snapshot": "b:1"}), true),
        ("SNAPSHOT_SANDBOX", "commit", json!({"name": "s"}), true),
        ("PULL_SNAPSHOT", "pull", json!({"snapshot": "other:1"}), false),
        (
            "BUILD_SNAPSHOT",
            "build",
            json!({"snapshot": "daytona-b:daytona", "dockerfile": "FROM x", "organizationId": "o"}),
            false,
        ),
    ] {
        bench.engine.fail_next(call, Fault::Error(full()));
        let text =
            control.result(&control.push(kind, id.as_str(), Some(payload))).await.error_message.unwrap();
        let parsed: Option<serde_json::Value> = serde_json::from_str(&text).ok();
        assert_eq!(parsed.is_some_and(|body| body["recoverable"] == true), recoverable, "{kind}: {text}");
        assert!(text.contains("No space left on device"), "{kind}: {text}");
    }
    for (kind, payload, missing) in [
        ("STOP_SANDBOX", Some(json!(null)), None),
        ("START_SANDBOX", Some(json!(null)), Some("needs a payload")),
        ("START_SANDBOX", None, Some("needs a payload")),
    ] {
        let told = control.result(&control.push(kind, id.as_str(), payload)).await;
        let reason = told.error_message.unwrap_or_default();
        assert!(missing.map_or(reason.is_empty(), |text| reason.contains(text)), "{kind}: {reason}");
    }
    stop.cancel();
    task.await.unwrap();
}
