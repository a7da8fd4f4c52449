//! The figures this crate promises. Ignored by default: they say something only on a machine that is otherwise idle.

use std::time::{Duration, Instant};

use crate::common::sandbox;
use crate::server::{Server, Socket};

fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|l| l.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[tokio::test]
#[ignore = "a measurement: run it alone, with --nocapture"]
async fn an_echo_takes_less_than_a_millisecond() {
    let server = Server::start(pinfold_pty::router(sandbox(), pinfold_pty::Settings::default())).await;
    let mut socket = Socket::open(&server, "/process/pty/create-connect?id=echo", "").await.unwrap();
    socket.control().await;
    socket.hush().await;
    socket.type_in("stty raw -echo; echo go; exec cat\n").await;
    socket.until("go\n").await;
    let mut times = Vec::new();
    for i in 0..1000 {
        let sent = Instant::now();
        let key = char::from(b'a' + u8::try_from(i % 26).unwrap());
        socket.type_in(&key.to_string()).await;
        socket.until(&key.to_string()).await;
        times.push(sent.elapsed());
    }
    times.sort();
    println!("echo: p50 {:?}, p99 {:?}", times[500], times[990]);
    assert!(times[500] <= Duration::from_millis(1), "p50 {:?}", times[500]);
    server.call("DELETE", "/process/pty/echo", "").await;
}

#[tokio::test]
#[ignore = "a measurement: run it alone, with --nocapture"]
async fn two_hundred_idle_sessions_take_less_than_20_mib() {
    let server = Server::start(pinfold_pty::router(sandbox(), pinfold_pty::Settings::default())).await;
    let mut warm = Socket::open(&server, "/process/pty/create-connect?id=warm", "").await.unwrap();
    warm.control().await;
    let before = resident_kib();
    for i in 0..200 {
        // One client after the other: what is measured is sessions, not clients of this very process.
        let mut socket =
            Socket::open(&server, &format!("/process/pty/create-connect?id=idle{i}"), "").await.unwrap();
        socket.control().await;
        // Its prompt: the shell is up and waits.
        socket.frame("a prompt").await;
    }
    let taken = resident_kib() - before;
    let threads = std::fs::read_dir("/proc/self/task").unwrap().count();
    println!("200 idle sessions: {taken} KiB, {threads} threads");
    assert!(taken < 20 << 10, "{taken} KiB");
    assert!(threads < 16, "no thread for each terminal: {threads}");
    for i in 0..200 {
        server.call("DELETE", &format!("/process/pty/idle{i}"), "").await;
    }
    server.call("DELETE", "/process/pty/warm", "").await;
}
