//! `CONTAINER_RUNTIME`, on the simulated engine. `make test-vm` runs sandboxes under crun; of runtimes with walls of their own none can be had there.

use super::*;

async fn under(runtime: &str) -> Bench {
    Bench::with(|c| {
        c.runtime = Some(runtime.to_owned());
        c.cpu_interval = Duration::from_millis(20);
    })
    .await
}

/// The contract's sections 5.10 and 14.1, item 15: another runtime is no reason to give anything up, and only the operator's word makes a container privileged.
#[tokio::test]
async fn each_runtime_gets_the_same_walls() {
    for runtime in ["runsc", "kata", "sysbox-runc", "crun"] {
        let bench = under(runtime).await;
        let (first, second) = (SandboxId::random(), SandboxId::random());
        bench.node.create(request(&first)).await.unwrap();
        let spec = bench.engine.spec(first.as_str()).unwrap();
        assert_eq!(spec.runtime.as_deref(), Some(runtime));
        assert!(!spec.privileged && spec.devices.is_empty(), "{spec:?}");
        assert_eq!(spec.cap_drop, ["ALL"]);
        assert!(
            spec.limits.pids.is_some() && spec.limits.memory == Some(1 << 30) && spec.limits.cpu == Some(1)
        );
        assert!(bench.policy.applied.lock().unwrap().contains_key(first.as_str()), "policy before its start");
        // What a backup of it becomes is no different.
        let backup = CreateBackup { snapshot: "pf/backup:1".to_owned(), registry: None };
        bench.node.backup(&first, backup).await.unwrap();
        let restored = CreateSandbox { snapshot: "pf/backup:1".to_owned(), ..request(&second) };
        bench.node.create(restored).await.unwrap();
        assert_eq!(bench.engine.spec(second.as_str()).unwrap().runtime.as_deref(), Some(runtime));
    }
    let bench = Bench::with(|c| {
        c.runtime = Some("sysbox-runc".to_owned());
        c.privileged = true;
    })
    .await;
    let id = SandboxId::random();
    bench.node.create(request(&id)).await.unwrap();
    assert!(bench.engine.spec(id.as_str()).unwrap().privileged, "the operator's word");
}

#[tokio::test]
async fn a_runtime_that_the_engine_does_not_know_takes_the_node_out_of_service() {
    for (runtime, healthy) in [("runsc", false), ("runc", true), ("io.containerd.runsc.v1", true)] {
        let (bench, control) = (under(runtime).await, Arc::new(Control::default()));
        let (_, stop, task) = bench.serve(control.clone()).await;
        eventually("a report", || !control.health.lock().unwrap().is_empty()).await;
        let services = control.health.lock().unwrap().last().unwrap().service_health.clone();
        let entry = services.iter().find(|s| s.service_name == "container-runtime").unwrap();
        assert_eq!(entry.healthy, healthy, "{entry:?}");
        let reason = entry.error_reason.clone().unwrap_or_default();
        assert_eq!(reason.contains(r#"no "runsc", it has runc"#), !healthy, "{reason}");
        stop.cancel();
        task.await.unwrap();
    }
}

/// How many processes a sandbox may have is the operator's choice, and part of each container.
#[tokio::test]
async fn pain_39_processes_are_capped_where_the_operator_says() {
    let bench = Bench::with(|c| {
        c.pids_limit = 77;
        c.limits_disabled = true;
    })
    .await;
    let id = SandboxId::random();
    bench.node.create(request(&id)).await.unwrap();
    let limits = bench.engine.spec(id.as_str()).unwrap().limits;
    assert_eq!((limits.pids, limits.cpu, limits.memory), (Some(77), None, None));
}
