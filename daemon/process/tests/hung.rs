//! A working directory on a file system that hangs harms nobody but who asked for it.

#![allow(clippy::unwrap_used)]

mod common;

use std::cell::Cell;
use std::time::Duration;

use common::{Daemon, until};
use pinfold_testing::Hung;
use serde_json::json;

const LONGER_THAN_ANYBODY_WAITS: Duration = Duration::from_secs(60);

/// On one thread, as in a sandbox with one processor: what hangs on it hangs everything. Time stands still while a thread is blocked, so that nobody's
/// patience ends before the others have had their turn.
#[tokio::test(start_paused = true)]
async fn a_directory_that_hangs_is_told_and_stops_nobody() {
    let hung = Hung::mount();
    let daemon = Daemon::new();
    let execute = |body| daemon.ask("POST", "/process/execute", body);
    let others_are_done = Cell::new(false);
    let lost = async {
        let (status, body) = execute(json!({ "command": "true", "cwd": hung.path() })).await;
        assert!(others_are_done.get(), "they waited for it: {body}");
        assert_eq!((status, &body["exitCode"]), (200, &json!(-1)), "{body}");
        let text = body["result"].as_str().unwrap().to_owned();
        assert!(text.contains(hung.path().to_str().unwrap()) && text.contains("hangs"), "{text}");
        text
    };
    let others = async {
        // Each ends with a signal to the reaper, which waits for all who are starting something.
        for n in 0..3 {
            let (status, body) = execute(json!({ "command": format!("echo {n}") })).await;
            assert_eq!((status, &body["result"]), (200, &json!(format!("{n}\n"))), "{body}");
        }
        others_are_done.set(true);
        tokio::time::advance(LONGER_THAN_ANYBODY_WAITS).await;
    };
    let (first, ()) = tokio::join!(lost, others);
    // What is known to hang is not asked again.
    let again = execute(json!({ "command": "true", "cwd": hung.path() })).await.1;
    assert_eq!(again["result"], first);
    // It may come back.
    let path = hung.path().to_owned();
    drop(hung);
    std::fs::create_dir_all(&path).unwrap();
    until("the directory to be looked at again", async || {
        execute(json!({ "command": "pwd", "cwd": path })).await.1["exitCode"] == 0
    })
    .await;
    std::fs::remove_dir(&path).unwrap();
}
