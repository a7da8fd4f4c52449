//! `POST /process/execute` over real shells.

#![allow(clippy::unwrap_used)]

mod common;

use std::time::{Duration, Instant};

use common::{Daemon, until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pinfold_spawn::{pidfd, tree};
use serde_json::{Value, json};

async fn run(daemon: &Daemon, command: &str) -> Value {
    let (status, body) = daemon.ask("POST", "/process/execute", json!({ "command": command })).await;
    assert_eq!(status, 200, "{command}: {body}");
    body
}

fn running(needle: &str) -> bool {
    tree::all().iter().any(|e| {
        let line = std::fs::read(format!("/proc/{}/cmdline", e.pid)).unwrap_or_default();
        e.state != 'Z' && String::from_utf8_lossy(&line).replace('\0', " ").contains(needle)
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn executes_as_the_contract_says() {
    let daemon = Daemon::new();
    results(&daemon).await;
    scripts(&daemon).await;
    requests(&daemon).await;
    let meanwhile = async {
        background(&daemon).await;
        volume(&daemon).await;
        job_control(&daemon).await;
    };
    tokio::join!(timeouts(&daemon), meanwhile);
}

async fn results(daemon: &Daemon) {
    let body = run(daemon, "echo a; echo b >&2; echo c").await;
    assert_eq!((&body["exitCode"], &body["result"]), (&json!(0), &json!("a\nb\nc\n")));
    assert!(body["pid"].as_i64().unwrap() > 1 && body["durationMs"].is_u64());
    for code in [0, 1, 42, 255] {
        assert_eq!(run(daemon, &format!("exit {code}")).await["exitCode"], code);
    }
    let body = run(daemon, "kill -9 $$").await;
    assert_eq!((&body["exitCode"], &body["signal"]), (&json!(-1), &json!("SIGKILL")));
    // Output that is no UTF-8, and a character split over two writes.
    let body = run(daemon, r"printf 'x\377y'; printf '\303'; sleep 0.05; printf '\251\n'").await;
    assert_eq!(body["result"], "x\u{fffd}yé\n");
    let separate =
        json!({ "command": "echo a; echo b >&2; printf '\\1\\1\\1\\1'; exit 3", "separateOutput": true });
    let (_, body) = daemon.ask("POST", "/process/execute", separate).await;
    assert_eq!((&body["stdout"], &body["stderr"]), (&json!("a\n\u{1}\u{1}\u{1}\u{1}"), &json!("b\n")));
    assert_eq!(body["exitCode"], 3);
}

async fn scripts(daemon: &Daemon) {
    assert_eq!(run(daemon, "cat <<'X'\n$a `b`\nX\necho done").await["result"], "$a `b`\ndone\n");
    // Programs that read standard input find it empty rather than the rest of the script.
    assert_eq!(run(daemon, "cat\nread x || echo none\necho end").await["result"], "none\nend\n");
    let body = run(daemon, "echo before\n)\n").await;
    assert_ne!(body["exitCode"], 0);
    let long = format!("x='{}'\necho ${{#x}}; exit 7", "y".repeat(500_000));
    let body = run(daemon, &long).await;
    assert_eq!((&body["result"], &body["exitCode"]), (&json!("500000\n"), &json!(7)));
    assert_eq!(run(daemon, "-nosuch; echo $?").await["result"].as_str().unwrap().lines().last(), Some("127"));
}

async fn requests(daemon: &Daemon) {
    let body = json!({ "command": "pwd; echo $V$HOME", "cwd": "/tmp", "envs": { "V": "v" } });
    let (_, answer) = daemon.ask("POST", "/process/execute", body).await;
    assert_eq!(answer["result"], format!("/tmp\nv{}\n", daemon.home.path().display()));
    let (status, answer) =
        daemon.ask("POST", "/process/execute", json!({ "command": "pwd", "cwd": "missing" })).await;
    assert_eq!((status, &answer["exitCode"]), (200, &json!(-1)));
    assert!(answer["result"].as_str().unwrap().contains("work/missing"), "{answer}");
    let (status, tree) = daemon.ask("GET", "/process/tree", None).await;
    let own = tree.as_array().unwrap().iter().find(|p| p["pid"] == std::process::id()).unwrap();
    assert!(
        status == 200
            && own["parent"].as_i64().unwrap() > 0
            && own["name"].as_str().unwrap().starts_with("exec"),
        "{own}"
    );
    for bad in [
        json!({ "command": "  \n" }),
        json!({}),
        json!({ "command": "true", "envs": { "1A": "" } }),
        json!({ "command": "true", "timeout": -1 }),
        json!({ "command": "true", "timeout": 1.5 }),
        json!({ "command": "a\u{0}b" }),
    ] {
        let (status, answer) = daemon.ask("POST", "/process/execute", bad.clone()).await;
        assert_eq!((status, &answer["source"]), (400, &json!("DAYTONA_DAEMON")), "{bad} {answer}");
    }
    assert_eq!(daemon.ask("POST", "/process/execute", None).await.0, 400);
    let (_, answer) =
        daemon.ask("POST", "/process/execute", json!({ "command": "echo ok", "timeout": 0 })).await;
    assert_eq!(answer["result"], "ok\n");
}

async fn timeouts(daemon: &Daemon) {
    let command = "echo partial; (setsid sleep 7101 &); setsid sh -c 'sleep 7102 & wait' & sleep 7103";
    let began = Instant::now();
    // Far more time than the first word takes.
    let (status, body) =
        daemon.ask("POST", "/process/execute", json!({ "command": command, "timeout": 5 })).await;
    let took = began.elapsed();
    assert_eq!((status, &body["code"]), (408, &json!("PROCESS_EXECUTION_TIMEOUT")), "{body}");
    assert!(body["message"].as_str().unwrap().contains("timeout") && body["output"] == "partial\n", "{body}");
    assert!(took >= Duration::from_secs(5) && took < Duration::from_secs(45), "{took:?}");
    until("the end of everything the command started", async || !running("sleep 710")).await;
}

async fn background(daemon: &Daemon) {
    let began = Instant::now();
    let body = run(daemon, "sleep 7201 & echo $!").await;
    let quiet = pid(&body);
    assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
    assert!(running("sleep 7201"), "a background child outlives the request");
    // A chatty one is waited for at most two seconds, and does not die of a closed pipe.
    let began = Instant::now();
    let body = run(daemon, "(while :; do echo x; sleep 0.01; done) & echo $!").await;
    let chatty = pid(&body);
    assert!(began.elapsed() < Duration::from_secs(45));
    tokio::time::sleep(Duration::from_millis(100)).await;
    for pid in [quiet, chatty] {
        kill(pid, Signal::SIGKILL).unwrap();
        pidfd::ended(pid, Duration::from_millis(5)).await;
    }
}

/// The number among the lines: a background process may have written before `echo $!` did.
fn pid(body: &Value) -> Pid {
    Pid::from_raw(body["result"].as_str().unwrap().lines().find_map(|line| line.parse().ok()).unwrap())
}

async fn volume(daemon: &Daemon) {
    let body = run(daemon, "head -c 100000000 /dev/zero | tr '\\0' x").await;
    assert_eq!(body["result"].as_str().unwrap().len(), 100_000_000);
    let capped = json!({ "command": "seq 1 100000; exit 4", "maxOutput": 1000 });
    let (_, body) = daemon.ask("POST", "/process/execute", capped).await;
    assert_eq!((&body["truncated"], &body["exitCode"]), (&json!(true), &json!(4)));
    assert!(body["result"].as_str().unwrap().contains("[output truncated: only the first 1000 bytes"));
}

async fn job_control(daemon: &Daemon) {
    for command in
        ["bash -ic 'echo hi'", "set -m; sleep 0.01 & wait; echo hi", "nohup echo hi", "setsid -w echo hi"]
    {
        let body = json!({ "command": command, "timeout": 10 });
        let (status, answer) = daemon.ask("POST", "/process/execute", body).await;
        assert_eq!((status, &answer["exitCode"]), (200, &json!(0)), "{command} {answer}");
        assert!(answer["result"].as_str().unwrap().contains("hi\n"), "{command} {answer}");
    }
}
