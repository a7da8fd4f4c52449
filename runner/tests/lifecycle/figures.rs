//! What the runner costs: `make bench ARGS="overhead fleet"` runs these by name.

use super::*;

/// What the runner itself costs, with an engine that takes no time.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement"]
async fn overhead() {
    let bench = Bench::new().await;
    bench.node.create(request(&SandboxId::random())).await.unwrap();
    let mut all = Vec::new();
    for _ in 0..200 {
        let began = std::time::Instant::now();
        bench.node.create(request(&SandboxId::random())).await.unwrap();
        all.push(began.elapsed());
    }
    all.sort();
    println!("create, one after another: median {:?}, p95 {:?}", all[100], all[190]);
    assert!(all[100] < Duration::from_millis(15), "{:?}", all[100]);
    let began = std::time::Instant::now();
    let creates = (0..200).map(|_| {
        let (node, wanted) = (bench.node.clone(), request(&SandboxId::random()));
        tokio::spawn(async move { node.create(wanted).await })
    });
    for created in futures_util::future::join_all(creates).await {
        created.unwrap().unwrap();
    }
    println!("200 creates side by side: {:?}", began.elapsed());
    let control = std::sync::Arc::new(Control::default());
    let (_, stop, task) = bench.serve(control.clone()).await;
    let began = std::time::Instant::now();
    let ids: Vec<SandboxId> = (0..200).map(|_| SandboxId::random()).collect();
    let jobs: Vec<String> =
        ids.iter().map(|id| control.push("CREATE_SANDBOX", id.as_str(), Some(create_payload(id)))).collect();
    for job in &jobs {
        control.result(job).await;
    }
    println!("200 CREATE_SANDBOX jobs until their results: {:?}", began.elapsed());
    stop.cancel();
    task.await.unwrap();
}

/// What 500 sandboxes cost at rest, the simulated engine included: prints the figures.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement of half a minute"]
async fn five_hundred_sandboxes_at_rest() {
    let resident = || {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find(|l| l.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
    };
    // Clock ticks of this process; there are a hundred a second.
    let ticks = || {
        let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
        let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
    };
    let bench = Bench::with(|c| c.poll_timeout = Duration::from_secs(12)).await;
    let control = Arc::new(Control { calm: true.into(), ..Control::default() });
    for _ in 0..500 {
        bench.node.create(request(&SandboxId::random())).await.unwrap();
    }
    let (_, stop, task) = bench.serve(control).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let (before, seconds) = (ticks(), 20_u64);
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    let percent = (ticks() - before) as f64 / seconds as f64;
    println!("500 sandboxes at rest: {percent:.2} % of a core, {} MiB resident", resident());
    assert!(percent < 2.0, "{percent} % of a core");
    assert!(resident() < 64, "{} MiB", resident());
    stop.cancel();
    task.await.unwrap();
}
