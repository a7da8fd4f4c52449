//! What happens when memory runs out.

use super::*;

/// Pains B17 and B18: a command that eats all memory dies and is told why; the daemon and its sandbox live, and somebody counts.
#[tokio::test(flavor = "multi_thread")]
async fn pain_17_what_eats_all_memory_does_not_take_the_daemon_with_it() {
    let real = Real::new().await;
    let id = SandboxId::random();
    let _cleanup = Cleanup(vec![id.clone()]);
    real.node.create(real.request(&id)).await.unwrap();
    let url = format!("{}/sandboxes/{id}/toolbox/process/execute", real.base);
    let body = serde_json::json!({"command": "busybox tail /dev/zero", "timeout": 300});
    let answer = real.client.post(url).bearer_auth(TOKEN).json(&body).send().await.unwrap();
    let answer: serde_json::Value = answer.json().await.unwrap();
    assert!(answer["signal"] == "SIGKILL" && answer["oomKilled"] == true, "{answer}");
    let (status, body) = real.get(&format!("/sandboxes/{id}/toolbox/version")).await;
    assert_eq!(status, 200, "the daemon still answers: {body}");
    assert_eq!(real.node.index.get(&id).unwrap().state, SandboxState::Started);
    let is_counted = || {
        let told = real.node.counters.prometheus();
        told.lines().any(|line| line.strip_prefix("pinfold_out_of_memory_total ").is_some_and(|n| n != "0"))
    };
    eventually("the count", is_counted).await;
    // That it once ran out of memory is not why it ends now.
    shell(&format!("docker stop -t 60 {id}"));
    eventually("the end", || {
        real.node.index.get(&id).is_some_and(|s| s.ending.is_some() && s.address.is_none())
    })
    .await;
    assert_eq!(real.node.index.get(&id).unwrap().state, SandboxState::Stopped);
    real.node.destroy(&id).await.unwrap();
    real.stop.cancel();
}

/// Pain B18: when the first process itself is the victim, the reason says so, and which limit it met.
#[tokio::test(flavor = "multi_thread")]
async fn pain_18_out_of_memory_is_a_reason_of_its_own() {
    let real = Real::with(|c| c.use_snapshot_entrypoint = true).await;
    let id = SandboxId::random();
    let _cleanup = Cleanup(vec![id.clone()]);
    let entrypoint =
        ["sh", "-c", "while ! test -e /tmp/end; do sleep 0.1; done; exec busybox tail /dev/zero"];
    let entrypoint = entrypoint.iter().map(|s| (*s).to_owned()).collect();
    real.node.create(CreateSandbox { entrypoint, ..real.request(&id) }).await.unwrap();
    shell(&format!("docker exec {id} sh -c 'echo > /tmp/end'"));
    // Its own: the engine may tell of the daemon's first, and of the reason last.
    let ended = |s: pinfold_runner::index::Sandbox| {
        s.state == SandboxState::Error && s.status == ContainerStatus::Exited
    };
    eventually("the end", || real.node.index.get(&id).is_some_and(ended)).await;
    let reason = real.node.index.get(&id).unwrap().ending.unwrap().reason();
    assert!(reason.contains("ran out of memory") && reason.contains("limit 1.0 GiB"), "{reason}");
    let (status, body) = real.get(&format!("/sandboxes/{id}/toolbox/version")).await;
    assert!(status == 400 && body.contains("ran out of memory"), "{body}");
    real.node.destroy(&id).await.unwrap();
    real.stop.cancel();
}

/// Pain B17: beside an image's own entrypoint the daemon is a process like any other, and whatever killed it, it comes back.
#[tokio::test(flavor = "multi_thread")]
async fn pain_17_a_daemon_that_dies_beside_its_sandbox_is_launched_again() {
    let real = Real::with(|c| c.use_snapshot_entrypoint = true).await;
    let id = SandboxId::random();
    let _cleanup = Cleanup(vec![id.clone()]);
    real.node.create(real.request(&id)).await.unwrap();
    let daemon = || {
        let listed = shell(&format!("docker top {id} -eo pid,args"));
        let line = listed.lines().find(|line| line.contains("/usr/local/bin/daytona"));
        line.and_then(|line| line.split_whitespace().next()).and_then(|pid| pid.parse::<u32>().ok())
    };
    let first = daemon().expect("the daemon is a process of the sandbox");
    shell(&format!("kill -9 {first}"));
    eventually("another daemon", || daemon().is_some_and(|pid| pid != first)).await;
    eventually("its launch to be over", || real.node.index.get(&id).is_some_and(|s| !s.busy)).await;
    let (status, body) = real.get(&format!("/sandboxes/{id}/toolbox/version")).await;
    assert_eq!(status, 200, "{body}");
    // One that cannot live is told of, in the place of an endless repetition.
    real.node.index.change(&id, |s| s.revived = 5);
    shell(&format!("kill -9 {}", daemon().unwrap()));
    let state = || real.node.index.get(&id).map(|s| s.state);
    eventually("the error", || state() == Some(SandboxState::Error)).await;
    let (status, body) = real.get(&format!("/sandboxes/{id}/toolbox/version")).await;
    assert!(status == 400 && body.contains("daemon died"), "{status} {body}");
    real.node.destroy(&id).await.unwrap();
    real.stop.cancel();
}
