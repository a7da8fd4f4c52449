//! The healthcheck: what it says, when it is sent, and what it never waits for.

use pinfold_proto::runner::health::{Healthcheck, ServiceHealth};
use pinfold_runner::health::Health;
use tokio_util::sync::CancellationToken;

use super::*;

/// The reports of a node, as its control plane gets them. Its time stands still but for timers.
async fn reporting(bench: &Bench, control: &Arc<Control>) -> (Arc<Health>, CancellationToken) {
    let (health, stop) = (Health::new(bench.node.clone()), CancellationToken::new());
    tokio::spawn(health.clone().run(control.clone(), "node-7.test".to_owned(), stop.clone()));
    (health, stop)
}

/// Seconds between the first reports.
async fn pauses(control: &Control, reports: usize) -> Vec<u64> {
    eventually("the reports", || control.health_at.lock().unwrap().len() >= reports).await;
    control.health_at.lock().unwrap().windows(2).map(|pair| (pair[1] - pair[0]).as_secs()).collect()
}

fn entry(report: &Healthcheck, name: &str) -> ServiceHealth {
    report.service_health.iter().find(|s| s.service_name == name).unwrap().clone()
}

/// Contract 2.3 and 2.4: each figure is what its name says.
#[tokio::test]
async fn every_figure_is_what_its_name_says() {
    let (engine, dir) = (Arc::new(pinfold_engine::Simulated::default()), tempfile::tempdir().unwrap());
    engine.add_image(IMAGE, common::image());
    engine.keep_layers_in(dir.path().join("layers"));
    let bench = Bench::over(engine, dir, |c| {
        (c.gpus, c.port) = (vec!["NVIDIA H100".to_owned(); 2], 8181);
        c.ssh_gateway = None;
    })
    .await;
    let ids: Vec<SandboxId> = (0..3).map(|_| SandboxId::random()).collect();
    for id in &ids {
        let wanted = CreateSandbox { cpu_quota: 2, memory_quota: 3, storage_quota: 5, ..request(id) };
        bench.node.create(wanted).await.unwrap();
    }
    bench.node.stop(&ids[0], StopSandbox::default()).await.unwrap();
    let load = || {
        let text = std::fs::read_to_string("/proc/loadavg").unwrap();
        text.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap()
    };
    let before = load();
    let report = Health::new(bench.node.clone()).report("node-7.test");
    let after = load();
    let url = Some("http://node-7.test:8181".to_owned());
    assert_eq!(
        (report.domain, report.api_url, report.proxy_url),
        (Some("node-7.test".to_owned()), url.clone(), url)
    );
    assert_eq!(report.app_version, env!("CARGO_PKG_VERSION"));
    let figures = report.metrics.unwrap();
    // What is stopped needs its disk, and nothing else.
    assert_eq!((figures.current_allocated_cpu, figures.current_allocated_memory_gib), (4.0, 6.0));
    assert_eq!((figures.current_allocated_disk_gib, figures.current_started_sandboxes), (15.0, 2));
    assert_eq!((figures.gpu, figures.gpu_type.as_deref()), (Some(2), Some("NVIDIA H100")));
    assert_eq!(figures.current_snapshot_count, 1);
    let told = figures.current_cpu_load_average * figures.cpu;
    let (least, most) = (before.min(after) - 0.01, before.max(after) + 0.01);
    assert!((least..=most).contains(&told), "{told}, and the kernel says {before} and {after}");
    for percentage in [figures.current_memory_usage_percentage, figures.current_disk_usage_percentage] {
        assert!(percentage > 0.0 && percentage <= 100.0, "{percentage}");
    }
    let disk = nix::sys::statvfs::statvfs("/").unwrap();
    let gib = disk.blocks() as f64 * disk.fragment_size() as f64 / f64::from(1 << 30);
    assert!((figures.disk_gib - gib).abs() < 0.1, "{} of {gib}", figures.disk_gib);
}

/// 17.4: a GPU that is gone is told, and no figure of an idle node has a minus sign.
#[tokio::test]
async fn an_empty_node_says_zero() {
    let bench = Bench::new().await;
    let report = Health::new(bench.node.clone()).report("n");
    let text = serde_json::to_string(&report).unwrap();
    assert!(text.contains("\"gpu\":0") && !text.contains("-0"), "{text}");
}

/// 14.5, row 4, and pain E35: neither the engine nor a control plane that is silent keeps a report back.
#[tokio::test(start_paused = true)]
async fn a_report_waits_for_no_figure_and_no_answer() {
    let (bench, control) =
        (Bench::new().await, Arc::new(Control { hang_health: 1.into(), ..Control::default() }));
    for call in ["ping", "info", "list"] {
        for _ in 0..10 {
            bench.engine.fail_next(call, Fault::Hang);
        }
    }
    let began = tokio::time::Instant::now();
    let (health, stop) = reporting(&bench, &control).await;
    tokio::spawn(health.sample(stop.clone()));
    eventually("the first report", || !control.health_at.lock().unwrap().is_empty()).await;
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    // The first is not answered, which is believed after its time; the next follows at once.
    assert_eq!(pauses(&control, 2).await, [12]);
    assert_eq!(control.health.lock().unwrap().len(), 1);
    stop.cancel();
}

/// 14.5, row 6.
#[tokio::test(start_paused = true)]
async fn a_report_comes_every_ten_seconds_and_sooner_when_one_failed() {
    let (bench, control) =
        (Bench::new().await, Arc::new(Control { refuse_health: 2.into(), ..Control::default() }));
    let (_, stop) = reporting(&bench, &control).await;
    assert_eq!(pauses(&control, 5).await[..4], [2, 2, 10, 10]);
    stop.cancel();
}

/// Issue 4, part 1: a change that matters to a scheduler is told at once.
#[tokio::test(start_paused = true)]
async fn a_node_that_fills_tells_so_before_its_next_report() {
    let (bench, control) = (Bench::new().await, Arc::new(Control::default()));
    let (_, stop) = reporting(&bench, &control).await;
    eventually("the first report", || !control.health.lock().unwrap().is_empty()).await;
    let id = SandboxId::random();
    // Its daemon is on another host's time: it is known to run.
    bench.node.index.change(&id, |s| s.status = ContainerStatus::Running);
    assert!(pauses(&control, 2).await[0] <= 2);
    assert_eq!(control.health.lock().unwrap()[1].metrics.as_ref().unwrap().current_started_sandboxes, 1);
    stop.cancel();
}

#[tokio::test]
async fn images_that_come_are_counted_in_time() {
    let bench = Bench::with(|c| {
        (c.cpu_interval, c.healthcheck_interval) = (Duration::from_millis(10), Duration::from_millis(20))
    })
    .await;
    let control = Arc::new(Control::default());
    let (health, stop) = reporting(&bench, &control).await;
    tokio::spawn(health.sample(stop.clone()));
    bench.engine.add_image("another:1", common::image());
    let counted = || {
        let reports = control.health.lock().unwrap();
        reports.last().and_then(|r| r.metrics.as_ref()).is_some_and(|m| m.current_snapshot_count == 2)
    };
    eventually("the second image", counted).await;
    stop.cancel();
}

/// Contract 2.3 and 14.7: what is out of order has its reason, and only what no sandbox can start without is unhealthy.
#[tokio::test(start_paused = true)]
async fn rules_that_are_lost_and_limits_that_are_off_are_named() {
    let bench = Bench::with(|c| c.limits_disabled = true).await;
    let (health, stop) = (Health::new(bench.node.clone()), CancellationToken::new());
    let report = health.report("n");
    let (rules, quota) = (entry(&report, "network-policy"), entry(&report, "disk-quota"));
    assert!(rules.healthy && rules.error_reason.unwrap().contains("PINFOLD_NETWORK_POLICY=off"));
    assert!(quota.healthy && quota.error_reason.unwrap().contains("RESOURCE_LIMITS_DISABLED"));
    tokio::spawn(health.clone().keep_policy(stop.clone()));
    *bench.policy.lost.lock().unwrap() = Some("nft says no".to_owned());
    let rules = || entry(&health.report("n"), "network-policy");
    eventually("the loss", || !rules().healthy).await;
    assert_eq!(rules().error_reason.as_deref(), Some("nft says no"));
    *bench.policy.lost.lock().unwrap() = None;
    eventually("its end", || rules().healthy).await;
    stop.cancel();
}
