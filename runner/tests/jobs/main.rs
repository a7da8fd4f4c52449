//! Every job ends at the control plane, exactly once in effect: repeated deliveries, lost polls, lost answers, restarts, nonsense.
#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

mod calls;
#[path = "../common/mod.rs"]
mod common;
mod limits;

use std::sync::Arc;
use std::time::Duration;

use common::{Bench, Control, IMAGE, create_payload, eventually};
use pinfold_engine::{ContainerStatus, Fault};
use pinfold_proto::id::{SandboxId, Secret};
use pinfold_proto::runner::job::{JobStatus, StatusUpdate};
use pinfold_runner::jobs::{ApiCallError, ControlPlane, Executor, HttpControlPlane, Outbox, poll};
use serde_json::json;
use tokio::io::AsyncReadExt;
use tokio_util::sync::CancellationToken;

#[tokio::test]
async fn a_life_in_jobs() {
    let bench = Bench::new().await;
    let control = Arc::new(Control::default());
    let (_, stop, task) = bench.serve(control.clone()).await;
    let id = SandboxId::random();
    let created =
        control.result(&control.push("CREATE_SANDBOX", id.as_str(), Some(create_payload(&id)))).await;
    assert_eq!(created.status, JobStatus::Completed);
    assert_eq!(created.result_metadata.as_deref(), Some("{\"daemonVersion\":\"9.9.9\"}"));
    for (kind, payload, completed) in [
        ("STOP_SANDBOX", Some(json!({})), true),
        ("START_SANDBOX", Some(json!({"authToken": "tok-2", "metadata": {"volumes": null}})), true),
        ("UPDATE_SANDBOX_NETWORK_SETTINGS", Some(json!({"networkBlockAll": true})), true),
        ("RESIZE_SANDBOX", Some(json!({"cpu": 2, "memory": null})), true),
        ("SNAPSHOT_SANDBOX", Some(json!({"name": "s", "registry": null})), true),
        ("CREATE_BACKUP", Some(json!({"snapshot": "backup-x:1", "registry": null})), true),
        ("PAUSE_SANDBOX", None, false),
        ("FORK_SANDBOX", Some(json!({})), false),
        ("MAKE_COFFEE", Some(json!({})), false),
        ("CREATE_SANDBOX", None, false),
        ("START_SANDBOX", Some(json!(null)), false),
        ("STOP_SANDBOX", None, true),
        ("DESTROY_SANDBOX", None, true),
        ("DESTROY_SANDBOX", None, true),
    ] {
        let result = control.result(&control.push(kind, id.as_str(), payload)).await;
        assert_eq!(result.status == JobStatus::Completed, completed, "{kind}: {result:?}");
        assert_eq!(
            result.error_message.as_ref().is_none_or(String::is_empty),
            completed,
            "{kind}: {result:?}"
        );
    }
    assert!(bench.engine.container(id.as_str()).is_none());
    stop.cancel();
    task.await.unwrap();
}

#[tokio::test]
async fn a_deleted_volume_goes_when_no_container_has_it() {
    let bench = Bench::new().await;
    let control = Arc::new(Control::default());
    let (_, stop, task) = bench.serve(control.clone()).await;
    let (id, volume) = (SandboxId::random(), "b8c3a1d0-2f0e-4a56-8a44-6b3f1d2e9c70");
    let mut payload = create_payload(&id);
    payload["volumes"] = json!([{"volumeId": volume, "mountPath": "/data"}]);
    let directory = bench.dir.path().join("data/volumes").join(volume);
    for (kind, resource, payload, completed) in [
        ("CREATE_SANDBOX", id.as_str(), Some(payload), true),
        ("STOP_SANDBOX", id.as_str(), None, true),
        ("REMOVE_VOLUME", volume, None, false),
        ("REMOVE_VOLUME", "../sandboxes", None, false),
        ("DESTROY_SANDBOX", id.as_str(), None, true),
    ] {
        let result = control.result(&control.push(kind, resource, payload)).await;
        assert_eq!(result.status == JobStatus::Completed, completed, "{kind}: {result:?}");
        assert!(directory.is_dir(), "{kind}");
    }
    for _ in 0..2 {
        let result = control.result(&control.push("REMOVE_VOLUME", volume, None)).await;
        assert_eq!(result.status, JobStatus::Completed, "{result:?}");
        assert!(!directory.exists());
    }
    stop.cancel();
    task.await.unwrap();
}

#[tokio::test]
async fn a_job_delivered_five_times_runs_once() {
    let bench = Bench::new().await;
    let control = Arc::new(Control { repeats: 5.into(), ..Control::default() });
    let (_, stop, task) = bench.serve(control.clone()).await;
    let id = SandboxId::random();
    let job = control.push("CREATE_SANDBOX", id.as_str(), Some(create_payload(&id)));
    control.result(&job).await;
    // Delivered again after it was done.
    control.push_with_id(&job, "CREATE_SANDBOX", id.as_str(), Some(create_payload(&id)));
    let last = control.push("STOP_SANDBOX", id.as_str(), None);
    control.result(&last).await;
    assert_eq!(
        (bench.engine.calls("create"), bench.engine.calls("start"), control.reports_of(&job)),
        (1, 1, 1)
    );
    stop.cancel();
    task.await.unwrap();
}

#[tokio::test]
async fn jobs_of_a_lost_poll_are_found() {
    let bench = Bench::new().await;
    let control = Arc::new(Control { lose_polls: 2.into(), ..Control::default() });
    let ids: Vec<SandboxId> = (0..5).map(|_| SandboxId::random()).collect();
    let jobs: Vec<String> =
        ids.iter().map(|id| control.push("CREATE_SANDBOX", id.as_str(), Some(create_payload(id)))).collect();
    let (_, stop, task) = bench.serve(control.clone()).await;
    for job in &jobs {
        assert_eq!(control.result(job).await.status, JobStatus::Completed);
        assert_eq!(control.reports_of(job), 1);
    }
    stop.cancel();
    task.await.unwrap();
}

#[tokio::test]
async fn a_lost_answer_to_a_report_is_repeated_and_a_refusal_is_final() {
    let bench = Bench::new().await;
    let control = Arc::new(Control { lose_reports: 3.into(), ..Control::default() });
    let (_, stop, task) = bench.serve(control.clone()).await;
    let job = control.push("STOP_SANDBOX", SandboxId::random().as_str(), None);
    eventually("four reports", || control.reports_of(&job) == 4).await;
    let mut swept = Vec::new();
    for refusals in [[503, 429, 409], [503, 429, 404]] {
        control.refuse_reports.lock().unwrap().extend(refusals);
        swept.push(control.push("STOP_SANDBOX", SandboxId::random().as_str(), None));
        eventually("the refusals to be used up", || control.refuse_reports.lock().unwrap().is_empty()).await;
    }
    stop.cancel();
    task.await.unwrap();
    assert_eq!(control.reports_of(&job), 4);
    assert!(swept.iter().all(|job| control.reports_of(job) == 0));
    assert_eq!(std::fs::read_dir(bench.dir.path().join("data/outbox")).unwrap().count(), 0);
}

#[tokio::test]
async fn nonsense_fails_alone() {
    let bench = Bench::new().await;
    let control = Arc::new(Control::default());
    {
        let mut jobs = control.jobs.lock().unwrap();
        jobs.push_back(json!(7));
        jobs.push_back(json!({"type": "STOP_SANDBOX"}));
        jobs.push_back(json!({"id": "odd-1", "type": 5}));
        jobs.push_back(json!({"id": "odd-2", "type": "STOP_SANDBOX", "status": "IN_PROGRESS", "resourceId": "../etc", "payload": "{}"}));
        let payload = "{\"id\": \"x\", \"env\": 5, \"secret\": \"hush\"}";
        jobs.push_back(json!({"id": "odd-3", "type": "CREATE_SANDBOX", "status": "IN_PROGRESS", "resourceId": null, "payload": payload}));
        jobs.push_back(json!({"id": "good", "type": "STOP_SANDBOX", "status": "IN_PROGRESS", "resourceId": SandboxId::random(), "traceContext": {"a": 1}}));
    }
    let (_, stop, task) = bench.serve(control.clone()).await;
    for id in ["odd-1", "odd-2", "odd-3"] {
        let result = control.result(id).await;
        assert_eq!(result.status, JobStatus::Failed, "{id}");
        let text = result.error_message.unwrap();
        assert!(!text.is_empty() && !text.contains("hush"), "{text}");
    }
    assert_eq!(control.result("good").await.status, JobStatus::Completed);
    stop.cancel();
    task.await.unwrap();
}

#[test]
fn results_survive_a_kill() {
    let dir = tempfile::tempdir().unwrap();
    let update = StatusUpdate {
        status: JobStatus::Completed,
        error_message: None,
        result_metadata: Some("{}".to_owned()),
    };
    // The first life: the control plane is away, and the process is gone without a word.
    let first = tokio::runtime::Runtime::new().unwrap();
    let away = Arc::new(Control::default());
    away.refuse_reports.lock().unwrap().extend(std::iter::repeat_n(503, 10_000));
    let outbox = Outbox::open(dir.path()).unwrap();
    first.block_on(async {
        let control: Arc<dyn ControlPlane> = away.clone();
        for n in 0..20 {
            outbox.submit(&control, format!("job-{n}"), update.clone(), None);
        }
        let kept = || {
            std::fs::read_dir(dir.path())
                .unwrap()
                .flatten()
                .filter(|e| e.path().extension().is_some_and(|e| e == "json"))
                .count()
        };
        eventually("twenty files", || kept() == 20).await;
    });
    first.shutdown_background();
    drop(outbox);
    // A write that the kill cut short must not harm the others.
    std::fs::write(dir.path().join("cut.json"), "{\"job\":").unwrap();
    std::fs::write(dir.path().join("cut.tmp"), "").unwrap();
    let second = tokio::runtime::Runtime::new().unwrap();
    second.block_on(async {
        let control = Arc::new(Control::default());
        let outbox = Outbox::open(dir.path()).unwrap();
        assert!(outbox.holds("job-3") && outbox.len() == 20);
        assert!(!dir.path().join("cut.tmp").exists(), "what a kill cut short is not kept for ever");
        outbox.resume(&(control.clone() as Arc<dyn ControlPlane>));
        eventually("twenty reports", || control.reports.lock().unwrap().len() == 20).await;
        outbox.close(Duration::from_secs(60)).await;
        assert!(outbox.is_empty());
    });
}

/// A listing of claimed jobs that was made before a result was acknowledged may arrive after it.
#[tokio::test]
async fn a_job_whose_result_an_earlier_run_kept_does_not_run_again() {
    let bench = Bench::new().await;
    let control = Arc::new(Control::default());
    let kept = bench.dir.path().join("outbox");
    let update = json!({"job": "kept", "update": {"status": "COMPLETED"}});
    std::fs::create_dir_all(&kept).unwrap();
    std::fs::write(kept.join("kept.json"), update.to_string()).unwrap();
    let outbox = Outbox::open(&kept).unwrap();
    let executor = Executor::new(bench.node.clone(), control.clone(), outbox.clone());
    outbox.resume(&(control.clone() as Arc<dyn ControlPlane>));
    eventually("the result to be acknowledged", || outbox.is_empty()).await;
    let claimed = |id| json!({"id": id, "type": "STOP_SANDBOX", "status": "IN_PROGRESS", "resourceId": SandboxId::random()});
    executor.accept(claimed("kept"));
    executor.accept(claimed("another"));
    assert_eq!(control.result("another").await.status, JobStatus::Completed);
    executor.drain(Duration::from_secs(60)).await;
    outbox.close(Duration::from_secs(60)).await;
    assert_eq!((control.reports_of("kept"), control.reports_of("another")), (1, 1));
}

#[tokio::test]
async fn a_job_that_was_running_at_a_kill_runs_again_and_its_sandbox_is_one() {
    let bench = Bench::new().await;
    let control = Arc::new(Control::default());
    let id = SandboxId::random();
    bench.node.create(serde_json::from_value(create_payload(&id)).unwrap()).await.unwrap();
    // Claimed in an earlier life, never answered.
    for n in 0..7 {
        let other = SandboxId::random();
        control.push_with_id(&format!("old-{n}"), "STOP_SANDBOX", other.as_str(), None);
    }
    control.push_with_id("old-create", "CREATE_SANDBOX", id.as_str(), Some(create_payload(&id)));
    let claimed: Vec<_> = control.jobs.lock().unwrap().drain(..).collect();
    for job in claimed {
        control.claimed.lock().unwrap().insert(job["id"].as_str().unwrap().to_owned(), job);
    }
    let Bench { engine, dir, .. } = bench;
    let again = Bench::over(engine, dir, |_| {}).await;
    let (_, stop, task) = again.serve(control.clone()).await;
    assert_eq!(control.result("old-create").await.status, JobStatus::Completed);
    for n in 0..7 {
        control.result(&format!("old-{n}")).await;
    }
    assert_eq!(again.engine.calls("create"), 1);
    stop.cancel();
    task.await.unwrap();
}

#[tokio::test]
async fn a_stop_waits_for_running_jobs() {
    let bench = Bench::new().await;
    bench.engine.delay("start", Duration::from_millis(300));
    let control = Arc::new(Control::default());
    let (_, stop, task) = bench.serve(control.clone()).await;
    let id = SandboxId::random();
    let job = control.push("CREATE_SANDBOX", id.as_str(), Some(create_payload(&id)));
    eventually("the start", || bench.engine.calls("start") == 1).await;
    stop.cancel();
    task.await.unwrap();
    assert_eq!(control.reports_of(&job), 1);
}

#[tokio::test]
async fn pain_35_health_is_reported_at_once_with_whole_numbers() {
    let bench = Bench::new().await;
    let control = Arc::new(Control::default());
    let (_, stop, task) = bench.serve(control.clone()).await;
    eventually("a healthcheck", || !control.health.lock().unwrap().is_empty()).await;
    let report = control.health.lock().unwrap()[0].clone();
    let metrics = report.metrics.clone().expect("this machine's figures can be read");
    assert!(metrics.cpu >= 1.0 && metrics.memory_gib > 0.0 && metrics.disk_gib > 0.0);
    let text = serde_json::to_value(&report).unwrap();
    assert!(
        text["metrics"]["currentSnapshotCount"].is_u64()
            && text["metrics"]["currentStartedSandboxes"].is_u64()
    );
    assert_eq!(text["serviceHealth"][0]["serviceName"], "docker");
    stop.cancel();
    task.await.unwrap();
}

/// Contract 14.4, row 2.
#[tokio::test(start_paused = true)]
async fn after_a_failed_poll_the_next_comes_at_once_and_only_then_with_growing_pauses() {
    let bench = Bench::new().await;
    let control = Arc::new(Control { refuse_polls: 10.into(), ..Control::default() });
    let outbox = Outbox::open(&bench.dir.path().join("outbox")).unwrap();
    let executor = Executor::new(bench.node.clone(), control.clone(), outbox);
    let stop = CancellationToken::new();
    let (time, grace) = (Duration::from_millis(300), Duration::from_secs(1));
    let polling = tokio::spawn(poll(control.clone(), executor, time, 10, grace, stop.clone()));
    let began = |count: usize| {
        let polls = control.polls.lock().unwrap();
        (polls.len() >= count).then(|| polls.clone())
    };
    eventually("ten failed polls and one more", || began(11).is_some()).await;
    *control.refuse_polls.lock().unwrap() = 2;
    eventually("two failed polls after one that did not fail", || began(13).is_some()).await;
    stop.cancel();
    polling.await.unwrap();
    let polls = began(13).unwrap();
    let pauses: Vec<Duration> = polls.windows(2).map(|pair| pair[1] - pair[0]).collect();
    // A timer's grain is a millisecond.
    let about = |pause: Duration, wanted: Duration| {
        pause >= wanted / 2 && pause <= wanted * 3 / 2 + Duration::from_millis(2)
    };
    assert!(about(pauses[0], Duration::ZERO), "at once: {pauses:?}");
    for (n, pause) in pauses[1..10].iter().enumerate() {
        let wanted = Duration::from_millis(50 << n).min(Duration::from_secs(5));
        assert!(about(*pause, wanted), "pause {n} of {pauses:?}");
    }
    assert!(
        about(pauses[11], Duration::ZERO),
        "a poll that ended well makes the next failure the first: {pauses:?}"
    );
}

/// Contract 14.4, row 3: a connection that died without a word ends five seconds after the poll's own time.
#[tokio::test]
async fn a_poll_on_a_dead_connection_ends_soon_after_its_time() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}/api", listener.local_addr().unwrap());
    let control = HttpControlPlane::new(&base, Secret::new("t")).unwrap();
    let before = tokio::time::Instant::now();
    let asked = tokio::spawn(async move { control.poll(Duration::from_secs(12), 1).await });
    let (mut silent, _) = listener.accept().await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        assert_ne!(silent.read_buf(&mut head).await.unwrap(), 0);
    }
    // From here on nothing but timers can happen.
    tokio::time::pause();
    let began = tokio::time::Instant::now();
    let error = asked.await.unwrap().unwrap_err();
    let (most, least) = (before.elapsed(), began.elapsed());
    assert!(matches!(error, ApiCallError::Transport(_)), "{error}");
    assert!(most > Duration::from_secs(12) && least < Duration::from_millis(17_100), "{least:?} to {most:?}");
}

/// Contract 14.4, row 4: what a burst of slow jobs asks for is done a few at a time, and creates do not wait for it.
#[tokio::test]
async fn a_burst_of_pulls_is_bounded_and_holds_no_create_up() {
    // Pulls that never end are not waited for.
    let bench = Bench::with(|c| c.drain_timeout = Duration::from_millis(50)).await;
    for _ in 0..20 {
        bench.engine.fail_next("pull", Fault::Hang);
    }
    let control = Arc::new(Control::default());
    let (_, stop, task) = bench.serve(control.clone()).await;
    for n in 0..20 {
        control.push(
            "PULL_SNAPSHOT",
            "snapshot",
            Some(json!({"snapshot": format!("slow:{n}"), "registry": null})),
        );
    }
    let id = SandboxId::random();
    let created = control.push("CREATE_SANDBOX", id.as_str(), Some(create_payload(&id)));
    assert_eq!(control.result(&created).await.status, JobStatus::Completed);
    eventually("the pulls that may run", || bench.engine.calls("pull") == 4).await;
    let stopped = control.push("STOP_SANDBOX", id.as_str(), None);
    assert_eq!(control.result(&stopped).await.status, JobStatus::Completed);
    assert_eq!(bench.engine.calls("pull"), 4);
    stop.cancel();
    task.await.unwrap();
}

/// Contract 14.4, row 6: what made the original panic is a job that failed, with a reason; and the node goes on.
#[tokio::test]
async fn a_build_that_is_to_be_pushed_nowhere_fails_alone() {
    let bench = Bench::new().await;
    let control = Arc::new(Control::default());
    let (_, stop, task) = bench.serve(control.clone()).await;
    let build = json!({"snapshot": "daytona-1:daytona", "dockerfile": format!("FROM {IMAGE}\n"), "organizationId": "o",
        "context": null, "pushToInternalRegistry": true, "registry": null});
    let failed = control.result(&control.push("BUILD_SNAPSHOT", "snapshot", Some(build))).await;
    assert_eq!(failed.status, JobStatus::Failed);
    let reason = failed.error_message.unwrap();
    assert!(reason.contains("registry") && !reason.contains("panicked"), "{reason}");
    let next = control.push("STOP_SANDBOX", SandboxId::random().as_str(), None);
    assert_eq!(control.result(&next).await.status, JobStatus::Completed);
    stop.cancel();
    task.await.unwrap();
}

/// Contract 14.4, row 13, and what follows from it: a create that took too long does not go on and start a sandbox that counts as failed.
#[tokio::test(start_paused = true)]
async fn a_create_that_took_too_long_ends_with_its_job() {
    let bench = Bench::new().await;
    bench.engine.delay("pull", Duration::from_secs(40 * 60));
    let control = Arc::new(Control::default());
    let outbox = Outbox::open(&bench.dir.path().join("outbox")).unwrap();
    let executor = Executor::new(bench.node.clone(), control.clone(), outbox);
    let id = SandboxId::random();
    let mut payload = create_payload(&id);
    payload["snapshot"] = json!("slow:1");
    let began = tokio::time::Instant::now();
    control.push_with_id("slow", "CREATE_SANDBOX", id.as_str(), Some(payload));
    let job = control.jobs.lock().unwrap().pop_front().unwrap();
    executor.accept(job);
    while control.reports_of("slow") == 0 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(
            began.elapsed() < Duration::from_secs(30 * 60),
            "the control plane would have given up first"
        );
    }
    let failed = control.result("slow").await;
    assert!(
        failed.status == JobStatus::Failed && failed.error_message.unwrap().contains("did not finish within")
    );
    tokio::time::sleep(Duration::from_secs(20 * 60)).await;
    assert_eq!((bench.engine.calls("create"), bench.engine.container_names().len()), (0, 0));
}

/// Contract 3.5: the time that a control plane gives a job goes on while its runner does not run.
#[tokio::test(start_paused = true)]
async fn a_job_of_an_earlier_life_has_only_what_is_left_of_its_time() {
    let bench = Bench::new().await;
    bench.engine.delay("pull", Duration::from_secs(40 * 60));
    let control = Arc::new(Control { calm: true.into(), ..Control::default() });
    let outbox = Outbox::open(&bench.dir.path().join("outbox")).unwrap();
    let executor = Executor::new(bench.node.clone(), control.clone(), outbox);
    let id = SandboxId::random();
    let mut payload = create_payload(&id);
    payload["snapshot"] = json!("slow:1");
    control.push_with_id("slow", "CREATE_SANDBOX", id.as_str(), Some(payload));
    let mut job = control.jobs.lock().unwrap().pop_front().unwrap();
    // Whatever time it is here.
    job["updatedAt"] = json!("2001-02-03T04:05:06.789Z");
    control.claimed.lock().unwrap().insert("slow".to_owned(), job);
    *control.clock.lock().unwrap() = Some("2001-02-03T04:30:06Z".parse().unwrap());
    let (began, stop) = (tokio::time::Instant::now(), CancellationToken::new());
    let time = Duration::from_secs(1);
    let polling = tokio::spawn(poll(control.clone(), executor, time, 10, time, stop.clone()));
    while control.reports_of("slow") == 0 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(began.elapsed() < Duration::from_secs(5 * 60), "25 of its 30 minutes were over");
    }
    assert_eq!(control.result("slow").await.status, JobStatus::Failed);
    assert!(began.elapsed() > Duration::from_secs(4 * 60), "{:?}", began.elapsed());
    stop.cancel();
    polling.await.unwrap();
}

/// Contract 14.4, row 11: what was started after its control plane had given the job up does not run on unseen, unless it is wanted again.
#[tokio::test]
async fn a_sandbox_that_was_started_too_late_is_stopped() {
    let (bench, control) = (Bench::new().await, Arc::new(Control::default()));
    let (_, stop, task) = bench.serve(control.clone()).await;
    let (wanted, failed) = (SandboxId::random(), SandboxId::random());
    for (id, state) in [(&wanted, "starting"), (&failed, "error")] {
        control.believes(id, state, "started");
        control.refuse_reports.lock().unwrap().push_back(409);
        control.push("CREATE_SANDBOX", id.as_str(), Some(create_payload(id)));
        eventually("the refusal", || control.refuse_reports.lock().unwrap().is_empty()).await;
    }
    let status = |id: &SandboxId| bench.engine.container(id.as_str()).map(|c| c.status);
    eventually("the late one to be stopped", || status(&failed) == Some(ContainerStatus::Exited)).await;
    assert_eq!(status(&wanted), Some(ContainerStatus::Running));
    stop.cancel();
    task.await.unwrap();
}
