//! What the control plane and the operator are told: honest states with reasons, and as soon as they are known.

use super::*;

#[tokio::test]
async fn crashes_and_disappearances_are_reported_with_reasons() {
    let bench = Bench::new().await;
    let control = std::sync::Arc::new(Control::default());
    let (_, stop, task) = bench.serve(control.clone()).await;
    let (crashed, oom, quiet) = (SandboxId::random(), SandboxId::random(), SandboxId::random());
    for id in [&crashed, &oom, &quiet] {
        bench.node.create(request(id)).await.unwrap();
        control.believes(id, "started", "started");
    }
    bench.engine.exit(quiet.as_str(), 0, false);
    bench.engine.exit(crashed.as_str(), 3, false);
    bench.engine.exit(oom.as_str(), 137, true);
    let pushed =
        |id: &SandboxId| control.pushed.lock().unwrap().iter().find(|(s, _, _)| s == id.as_str()).cloned();
    eventually("three state reports", || [&crashed, &oom, &quiet].iter().all(|id| pushed(id).is_some()))
        .await;
    let (_, state, reason) = pushed(&crashed).unwrap();
    assert!(
        state == "error"
            && reason.as_deref().is_some_and(|r| r.contains("code 3") && r.contains("last output")),
        "{reason:?}"
    );
    assert!(pushed(&oom).unwrap().2.unwrap().contains("out of memory"));
    assert_eq!((pushed(&quiet).unwrap().1.as_str(), pushed(&quiet).unwrap().2), ("stopped", None));
    let pushed = control.pushed.lock().unwrap().clone();
    assert!(
        pushed.iter().all(|(_, state, _)| ["stopped", "error", "destroyed"].contains(&state.as_str())),
        "{pushed:?}"
    );
    stop.cancel();
    task.await.unwrap();
}

#[tokio::test]
async fn sandboxes_deleted_in_error_are_removed_without_being_asked() {
    let bench = Bench::new().await;
    let (left, kept) = (SandboxId::random(), SandboxId::random());
    for id in [&left, &kept] {
        bench.node.create(request(id)).await.unwrap();
    }
    let control = std::sync::Arc::new(Control::default());
    for (id, desired) in [(&left, "destroyed"), (&kept, "started")] {
        control.believes(id, "error", desired);
    }
    let (_, stop, task) = bench.serve(control).await;
    eventually("the sweep", || bench.engine.container(left.as_str()).is_none()).await;
    assert!(bench.engine.container(kept.as_str()).is_some());
    stop.cancel();
    task.await.unwrap();
}

/// Pain B22: what is unhealthy has a reason, and what is only missing is named without taking the node out of service.
#[tokio::test]
async fn pain_22_every_service_is_named_and_the_unhealthy_one_has_a_reason() {
    let bench = Bench::with(|c| c.cpu_interval = Duration::from_millis(20)).await;
    let control = Arc::new(Control::default());
    let away = EngineError::Unreachable { what: "ping".to_owned(), message: "no socket".to_owned() };
    let (_, stop, task) = bench.serve(control.clone()).await;
    let last = |healthy: bool| {
        let reports = control.health.lock().unwrap();
        let report = reports.last().filter(|r| r.service_health[0].healthy == healthy)?;
        Some(report.service_health.clone())
    };
    eventually("a healthy report", || last(true).is_some()).await;
    let services = last(true).unwrap();
    let names: Vec<&str> = services.iter().map(|s| s.service_name.as_str()).collect();
    let all = ["docker", "container-runtime", "network-policy", "volumes", "disk", "disk-quota", "registry"];
    assert_eq!(names, all);
    assert!(services.iter().all(|s| s.healthy), "{services:?}");
    let quota = services[5].error_reason.as_deref().unwrap_or_default();
    assert!(quota.contains("overlay2 on extfs"), "an engine without quotas says so: {services:?}");
    for _ in 0..500 {
        bench.engine.fail_next("ping", Fault::Error(away.clone()));
    }
    eventually("the engine's end to be reported", || last(false).is_some()).await;
    let reason = last(false).unwrap()[0].error_reason.clone().unwrap();
    assert!(reason.contains("no socket"), "{reason}");
    stop.cancel();
    task.await.unwrap();
}

/// 14.7, row 4: a registry that cannot be reached is named, for as long as that lasts, and takes nothing out of service.
#[tokio::test]
async fn a_registry_that_cannot_be_reached_is_named() {
    let bench = Bench::new().await;
    let health = pinfold_runner::health::Health::new(bench.node.clone());
    let told = || {
        let services = health.services();
        let entry = services.iter().find(|s| s.service_name == "registry").unwrap();
        assert!(entry.healthy);
        entry.error_reason.clone()
    };
    let pull = |snapshot: &str| {
        bench.node.pull_snapshot(PullSnapshot { snapshot: snapshot.to_owned(), ..PullSnapshot::default() })
    };
    assert_eq!(told(), None);
    bench.engine.fail_next("pull", Fault::Error(broken()));
    pull("reg.test/a:1").await.unwrap_err();
    assert!(told().is_some_and(|reason| reason.contains("boom")), "{:?}", told());
    let refusal = EngineError::NotFound { what: "pull".to_owned(), message: "manifest unknown".to_owned() };
    bench.engine.fail_next("pull", Fault::Error(refusal));
    pull("reg.test/b:1").await.unwrap_err();
    assert_eq!(told(), None, "it answers");
}

/// A runner that serves, and sandboxes that its control plane believes to be in `state`.
async fn believed(count: usize, state: &str) -> (Bench, Arc<Control>, Vec<SandboxId>) {
    let (bench, control) = (Bench::new().await, Arc::new(Control::default()));
    let ids: Vec<SandboxId> = (0..count).map(|_| SandboxId::random()).collect();
    for id in &ids {
        bench.node.create(request(id)).await.unwrap();
        control.believes(id, state, state);
    }
    (bench, control, ids)
}

impl Control {
    fn told(&self, id: &SandboxId) -> Option<(String, Option<String>)> {
        let pushed = self.pushed.lock().unwrap();
        pushed
            .iter()
            .rev()
            .find(|(s, ..)| s == id.as_str())
            .map(|(_, state, reason)| (state.clone(), reason.clone()))
    }
}

/// Long before the next round, which comes every ten seconds.
const AT_ONCE: Duration = Duration::from_secs(8);

#[tokio::test]
async fn a_container_that_someone_removes_is_reported_at_once_and_nothing_of_it_is_kept() {
    let (bench, control, ids) = believed(2, "started").await;
    bench.node.stop(&ids[1], StopSandbox::default()).await.unwrap();
    let (_, stop, task) = bench.serve(control.clone()).await;
    eventually("the stop to be reported", || control.told(&ids[1]).is_some_and(|(s, _)| s == "stopped"))
        .await;
    let began = std::time::Instant::now();
    for id in &ids {
        bench.engine.remove(id.as_str(), true).await.unwrap();
    }
    eventually("two reports", || ids.iter().all(|id| control.told(id).is_some_and(|(s, _)| s == "error")))
        .await;
    assert!(began.elapsed() < AT_ONCE, "{:?}", began.elapsed());
    assert!(control.told(&ids[0]).unwrap().1.unwrap().contains("no longer exists"));
    assert!(bench.policy.applied.lock().unwrap().is_empty() && bench.node.records.ids().is_empty());
    stop.cancel();
    task.await.unwrap();
}

/// An engine that hides a container for a moment costs no sandbox: without its word, one look is not enough.
#[tokio::test]
async fn a_container_that_only_seems_to_be_gone_is_not_given_up() {
    let (bench, control, ids) = believed(2, "started").await;
    // The second one is on its way to this runner, which never saw it.
    control.remote.lock().unwrap()[1].state = "stopped".to_owned();
    let (_, stop, task) = bench.serve(control.clone()).await;
    for id in &ids {
        bench.engine.vanish(id.as_str());
        bench.node.index.remove(id);
    }
    let crashed = SandboxId::random();
    bench.node.create(request(&crashed)).await.unwrap();
    control.believes(&crashed, "started", "started");
    bench.engine.exit(crashed.as_str(), 3, false);
    eventually("a round of reports", || control.told(&crashed).is_some()).await;
    assert!(ids.iter().all(|id| control.told(id).is_none()), "{:?}", control.pushed.lock().unwrap());
    stop.cancel();
    task.await.unwrap();
}

#[tokio::test]
async fn a_container_that_someone_starts_is_reported_at_once_and_has_its_policy() {
    let (bench, control, ids) = believed(1, "stopped").await;
    let id = &ids[0];
    bench
        .node
        .set_network(id, NetworkSettings { network_block_all: Some(true), ..Default::default() })
        .await
        .unwrap();
    bench.node.stop(id, StopSandbox::default()).await.unwrap();
    let (_, stop, task) = bench.serve(control.clone()).await;
    assert!(bench.policy.applied.lock().unwrap()[id.as_str()].1.is_closed(), "in force while it is stopped");
    // As when somebody flushed the host's rules.
    bench.policy.applied.lock().unwrap().clear();
    let began = std::time::Instant::now();
    bench.engine.start(id.as_str()).await.unwrap();
    eventually("the report", || control.told(id).is_some()).await;
    assert!(began.elapsed() < AT_ONCE, "{:?}", began.elapsed());
    assert_eq!(control.told(id).unwrap(), ("started".to_owned(), None));
    assert!(bench.policy.applied.lock().unwrap()[id.as_str()].1.is_closed());
    stop.cancel();
    task.await.unwrap();
}

/// Pain D53: sandboxes keep the daemon they were started with, and which that is can be seen, also after the runner's next start.
#[tokio::test]
async fn pain_53_the_versions_of_daemons_are_seen() {
    let bench = Bench::new().await;
    let ids: Vec<SandboxId> = (0..3).map(|_| SandboxId::random()).collect();
    for id in &ids {
        bench.node.create(request(id)).await.unwrap();
    }
    bench.node.stop(&ids[2], StopSandbox::default()).await.unwrap();
    let Bench { engine, dir, .. } = bench;
    let again = Bench::over(engine, dir, |_| {}).await;
    let (address, stop, task) = again.serve(Arc::new(Control::default())).await;
    let version = |id: &SandboxId| again.node.index.get(id).and_then(|s| s.daemon_version);
    eventually("the daemons to be asked", || ids[..2].iter().all(|id| version(id).is_some())).await;
    let client = pinfold_runner::jobs::http_client().unwrap();
    let asked =
        client.get(format!("http://{address}/metrics")).bearer_auth(common::TOKEN).send().await.unwrap();
    let text = asked.text().await.unwrap();
    assert!(text.contains("\npinfold_daemons{version=\"9.9.9\"} 2\n"), "{text}");
    stop.cancel();
    task.await.unwrap();
}
