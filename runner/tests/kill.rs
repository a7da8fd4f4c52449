//! The runner is killed after every step of every job, in both protocol generations, and lives again: each job is answered, and after a destroy
//! nothing is left over.
//!
//! A step is a call that changes the engine. The engine stops answering after so many of them, the process's runtime is torn down as a kill does,
//! and another life begins on the same engine, the same rules and the same files.
#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

mod common;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use common::{Bench, Control, IMAGE, TOKEN, create_payload, eventually, image};
use pinfold_engine::{ContainerStatus, Engine, Simulated};
use pinfold_proto::id::SandboxId;
use pinfold_proto::runner::job::JobStatus;
use serde_json::{Value, json};
use tokio::runtime::Runtime;

/// More steps than any job has.
const MOST_STEPS: u64 = 30;

/// What a job needs before it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Before {
    Nothing,
    Owner,
    Running,
    Stopped,
}

struct Case {
    kind: &'static str,
    /// The same as a request of the other generation: the path after the sandbox's.
    route: Option<&'static str>,
    before: Before,
    payload: Value,
    /// An image that is there in the end.
    image: Option<&'static str>,
}

fn registry() -> Value {
    json!({"url": "reg.test:5000", "project": "p", "username": "u", "password": "s"})
}

fn cases() -> Vec<Case> {
    let case = |kind, route, before, payload| Case { kind, route, before, payload, image: None };
    let pull = json!({"snapshot": "team/x:1", "registry": registry(), "destinationRegistry": registry(),
        "destinationRef": "reg.test:5000/p/daytona-1:daytona"});
    let build = json!({"snapshot": "daytona-2:daytona", "dockerfile": "FROM x\n", "organizationId": "o", "context": [],
        "pushToInternalRegistry": true, "registry": registry()});
    vec![
        case("CREATE_SANDBOX", Some(""), Before::Nothing, json!({})),
        case("CREATE_SANDBOX", Some(""), Before::Owner, json!({})),
        case("START_SANDBOX", Some("/start"), Before::Stopped, json!({"authToken": "t"})),
        case("STOP_SANDBOX", Some("/stop"), Before::Running, json!({})),
        case("STOP_SANDBOX", Some("/stop"), Before::Running, json!({"force": true})),
        case("DESTROY_SANDBOX", Some("/destroy"), Before::Running, Value::Null),
        case("RESIZE_SANDBOX", Some("/resize"), Before::Running, json!({"cpu": 2, "memory": 2})),
        case("RESIZE_SANDBOX", Some("/resize"), Before::Stopped, json!({"disk": 5})),
        case(
            "RECOVER_SANDBOX",
            Some("/recover"),
            Before::Stopped,
            json!({"userId": "u", "osUser": "u", "cpuQuota": 1, "memoryQuota": 1, "storageQuota": 3, "errorReason": "write: no space left on device"}),
        ),
        case(
            "UPDATE_SANDBOX_NETWORK_SETTINGS",
            Some("/network-settings"),
            Before::Running,
            json!({"networkBlockAll": true}),
        ),
        case(
            "SNAPSHOT_SANDBOX",
            Some("/snapshot-from-sandbox"),
            Before::Running,
            json!({"name": "s", "registry": registry()}),
        ),
        case(
            "CREATE_BACKUP",
            None,
            Before::Running,
            json!({"snapshot": "reg.test:5000/p/backup-x:1", "registry": registry()}),
        ),
        Case {
            image: Some("reg.test:5000/p/daytona-1:daytona"),
            ..case("PULL_SNAPSHOT", None, Before::Nothing, pull)
        },
        Case {
            image: Some("reg.test:5000/p/daytona-2:daytona"),
            ..case("BUILD_SNAPSHOT", None, Before::Nothing, build)
        },
        case("REMOVE_SNAPSHOT", None, Before::Nothing, Value::Null),
    ]
}

/// Two workers, as a small host has.
fn life() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

impl Case {
    fn resource(&self, id: &SandboxId) -> String {
        match self.kind {
            "PULL_SNAPSHOT" | "BUILD_SNAPSHOT" => "snapshot".to_owned(),
            "REMOVE_SNAPSHOT" => "daytona-old:1".to_owned(),
            _ => id.to_string(),
        }
    }

    fn payload(&self, id: &SandboxId, owner: &SandboxId) -> Option<Value> {
        if self.kind != "CREATE_SANDBOX" {
            return Some(self.payload.clone()).filter(|p| !p.is_null());
        }
        let mut payload = create_payload(id);
        if self.before == Before::Owner {
            payload["linkedSandboxId"] = json!(owner);
        }
        Some(payload)
    }

    async fn prepare(&self, bench: &Bench, id: &SandboxId, owner: &SandboxId) {
        let create = |id: &SandboxId| serde_json::from_value(create_payload(id)).unwrap();
        match self.before {
            Before::Nothing => {}
            Before::Owner => drop(bench.node.create(create(owner)).await.unwrap()),
            Before::Running | Before::Stopped => drop(bench.node.create(create(id)).await.unwrap()),
        }
        if self.before == Before::Stopped {
            bench.node.stop(id, Default::default()).await.unwrap();
            let layer = bench.engine.container(id.as_str()).unwrap().upper_dir.unwrap();
            std::fs::write(layer.join("work"), "precious").unwrap();
        }
    }

    /// Asks by HTTP, as a push-mode control plane does, and says whether it worked.
    async fn ask(&self, address: std::net::SocketAddr, id: &SandboxId, owner: &SandboxId) -> bool {
        let path = match (self.kind, self.route.unwrap()) {
            ("CREATE_SANDBOX", _) => "/sandboxes".to_owned(),
            (_, route) => format!("/sandboxes/{id}{route}"),
        };
        let client = pinfold_runner::jobs::http_client().unwrap();
        let body = self.payload(id, owner).unwrap_or(json!({}));
        let answer =
            client.post(format!("http://{address}{path}")).bearer_auth(TOKEN).json(&body).send().await;
        answer.is_ok_and(|a| a.status().is_success())
    }
}

/// Kills after `step` steps of the job. False when the job has no more than that.
fn kill_after(case: &Case, step: u64, pushed: bool) -> bool {
    let what = format!("{} killed after {step} steps, pushed: {pushed}", case.kind);
    let (engine, dir) = (Arc::new(Simulated::default()), tempfile::tempdir().unwrap());
    engine.add_image(IMAGE, image());
    engine.add_image("daytona-old:1", image());
    engine.keep_layers_in(dir.path().join("layers"));
    let (id, owner) = (SandboxId::random(), SandboxId::random());
    let control = Arc::new(Control::default());

    let first = life();
    let (bench, job) = first.block_on(async {
        let bench = Bench::over(engine.clone(), dir, |_| {}).await;
        case.prepare(&bench, &id, &owner).await;
        let (address, _, _) = bench.serve(control.clone()).await;
        engine.halt_after(step);
        if pushed {
            let asked = case.ask(address, &id, &owner);
            let mut asked = std::pin::pin!(asked);
            let halted = eventually("a halt", || engine.has_halted());
            tokio::select! {
                worked = &mut asked => assert!(worked || engine.has_halted(), "{what}"),
                () = halted => {}
            }
            return (bench, String::new());
        }
        let job = control.push(case.kind, &case.resource(&id), case.payload(&id, &owner));
        eventually(&what, || engine.has_halted() || control.reports_of(&job) > 0).await;
        (bench, job)
    });
    let killed = engine.has_halted();
    first.shutdown_timeout(Duration::from_secs(60));
    engine.resume();

    let second = life();
    let (policy, dir) = (bench.policy.clone(), bench.dir);
    drop(bench.node);
    let dir = second.block_on(async {
        let bench = Bench::under(engine.clone(), dir, policy.clone(), |_| {}).await;
        let (address, stop, task) = bench.serve(control.clone()).await;
        if pushed {
            assert!(case.ask(address, &id, &owner).await, "{what}");
        } else {
            let result = control.result(&job).await;
            assert_eq!(result.status, JobStatus::Completed, "{what}: {result:?}");
        }
        if let Some(found) = engine.container(id.as_str()) {
            assert_ne!(found.status, ContainerStatus::Paused, "{what}: left frozen");
            if case.before == Before::Stopped {
                let kept = std::fs::read_to_string(found.upper_dir.unwrap().join("work"));
                assert_eq!(kept.unwrap(), "precious", "{what}");
            }
        }
        if let Some(expected) = case.image {
            assert!(engine.image(expected).await.is_ok(), "{what}: {:?}", engine.image_names());
        }
        for id in [&id, &owner] {
            let destroyed = control.push("DESTROY_SANDBOX", id.as_str(), None);
            assert_eq!(control.result(&destroyed).await.status, JobStatus::Completed, "{what}");
        }
        stop.cancel();
        task.await.unwrap();
        bench.dir
    });
    second.shutdown_timeout(Duration::from_secs(60));
    nothing_is_left(&engine, &policy, dir.path(), &what);
    assert!(control.claimed.lock().unwrap().is_empty(), "{what}: a job was not answered");
    killed
}

fn nothing_is_left(engine: &Simulated, policy: &common::RecordingPolicy, dir: &Path, what: &str) {
    assert_eq!(engine.container_names(), [""; 0], "{what}");
    assert_eq!(engine.network_names(), ["runner-bridge"], "{what}");
    assert!(policy.applied.lock().unwrap().is_empty() && policy.links.lock().unwrap().is_empty(), "{what}");
    let temporary = |name: &String| name.starts_with("daytona-from-sandbox-");
    assert!(!engine.image_names().iter().any(temporary), "{what}: {:?}", engine.image_names());
    for folder in ["sandboxes", "outbox", "volume-mounts"] {
        let left = std::fs::read_dir(dir.join("data").join(folder));
        let left: Vec<_> = left.into_iter().flatten().flatten().map(|e| e.file_name()).collect();
        assert!(left.is_empty(), "{what}: {folder} holds {left:?}");
    }
}

fn at_every_step(pushed: bool) {
    for case in cases().iter().filter(|case| !pushed || case.route.is_some()) {
        let steps = (0..MOST_STEPS).take_while(|step| kill_after(case, *step, pushed)).count();
        // What changes nothing in the engine cannot be cut in two there.
        let quiet = matches!(case.kind, "UPDATE_SANDBOX_NETWORK_SETTINGS");
        assert!(steps > 0 || quiet, "{} was never killed", case.kind);
    }
}

#[test]
fn a_kill_at_every_step_of_every_job_loses_and_leaves_nothing() {
    at_every_step(false);
}

#[test]
fn a_kill_at_every_step_of_every_pushed_request_loses_and_leaves_nothing() {
    at_every_step(true);
}
