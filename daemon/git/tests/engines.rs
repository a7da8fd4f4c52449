//! What becomes of an operation whose process misbehaves: shell scripts stand for the engine.

mod common;

use std::time::Duration;

use common::World;
use pinfold_testing::eventually;
use serde_json::json;

fn is_gone(pid: &str) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).map_or(true, |stat| stat.contains(") Z "))
}

#[tokio::test]
async fn a_crash_is_an_error_that_names_it_and_leaves_no_part_of_a_clone() {
    let world = World::scripted("kill -SEGV $$");
    let text = world.fails("GET", "/git/status?path=x", json!(null), 500, "INTERNAL_SERVER_ERROR").await;
    assert!(text.contains("SIGSEGV"), "{text}");
    let clone = json!({"url": "https://localhost/x", "path": "x"});
    world.fails("POST", "/git/clone", clone.clone(), 500, "INTERNAL_SERVER_ERROR").await;
    assert_eq!(std::fs::read_dir(world.path(".")).unwrap().count(), 0);
    std::fs::create_dir(world.path("x")).unwrap();
    world.fails("POST", "/git/clone", clone, 500, "INTERNAL_SERVER_ERROR").await;
    assert_eq!(std::fs::read_dir(world.path("x")).unwrap().count(), 0);
    let quiet = World::scripted("exit 7");
    let text = quiet.fails("POST", "/git/init", json!({"path": "x"}), 500, "INTERNAL_SERVER_ERROR").await;
    assert!(text.contains("ended with 7"), "{text}");
}

/// An engine that is deep in C hears nothing: it is killed, with what it has started, and the next has its turn.
#[tokio::test]
async fn an_engine_that_does_not_end_is_killed_when_its_client_goes_away() {
    let world = World::scripted(
        "trap '' TERM HUP; echo $$ >> pids; sleep 4401 & echo $! >> pids; wait"
            .replace("pids", "$1/pids")
            .as_str(),
    );
    let call = world.call("POST", "/git/add", json!({"path": "x", "files": ["."]}));
    let told = || std::fs::read_to_string(world.path("pids")).unwrap_or_default();
    tokio::select! {
        answer = call => panic!("{answer:?}"),
        () = eventually("the script and its child", || told().lines().count() == 2) => {}
    }
    let pids = told();
    let pids: Vec<&str> = pids.lines().collect();
    // Another writer waits until it is gone.
    let next = world.call("POST", "/git/add", json!({"path": "x", "files": ["."]}));
    assert!(tokio::time::timeout(Duration::from_millis(300), next).await.is_err());
    let came = told().lines().count() > 2;
    // Who is alive now was so before.
    assert!(!came || pids.iter().all(|pid| is_gone(pid)), "the second came before its turn");
    eventually("both to be killed", || pids.iter().all(|pid| is_gone(pid))).await;
}

#[tokio::test]
async fn credentials_are_in_no_argument_and_no_environment() {
    let world = World::scripted("tr '\\0' '\\n' </proc/$$/cmdline >$1/seen; env >>$1/seen");
    // Names that no random name of a folder can hold.
    let body = json!({"path": "x", "username": "ann@work", "password": "the-s3cret"});
    world.call("POST", "/git/push", body).await;
    let seen = world.text("seen");
    assert!(seen.contains("PATH=") && !seen.contains("the-s3cret") && !seen.contains("ann@work"), "{seen}");
}
