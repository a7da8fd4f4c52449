//! Logs over WebSockets, with a server and clients for real.

#![allow(clippy::unwrap_used)]

mod common;

use std::time::{Duration, Instant};

use common::{Daemon, until};
use futures_util::{SinkExt, StreamExt};
use pinfold_proto::markers::{STDERR, STDOUT, Splitter, Stream};
use pinfold_testing::{Server, WebSocket};
use serde_json::json;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Bytes, Message};

/// What a client has got in the end.
#[derive(Debug, Default)]
struct Got {
    frames: Vec<Bytes>,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    raw: Vec<u8>,
    close: Option<u16>,
}

impl Got {
    fn take(&mut self, stream: Option<Stream>, bytes: &[u8]) {
        match stream {
            Some(Stream::Stdout) => self.stdout.extend_from_slice(bytes),
            Some(Stream::Stderr) => self.stderr.extend_from_slice(bytes),
            None => {}
        }
    }
}

/// A socket, and the sub-protocol that was chosen.
async fn connect(
    server: &Server,
    path: &str,
    headers: &[(&'static str, &str)],
) -> (WebSocket, Option<String>) {
    server.websocket_with(path, headers).await.unwrap()
}

async fn collect(mut socket: WebSocket) -> Got {
    let mut got = Got::default();
    let mut splitter = Splitter::default();
    while let Some(message) = tokio::time::timeout(Duration::from_secs(60), socket.next()).await.unwrap() {
        match message.unwrap() {
            Message::Binary(frame) => {
                assert!(frame.len() <= 32 << 10 && !frame.is_empty());
                got.raw.extend_from_slice(&frame);
                splitter.feed(&frame, |stream, bytes| got.take(stream, bytes));
                got.frames.push(frame.clone());
            }
            Message::Close(frame) => {
                let frame = frame.unwrap();
                assert_eq!(frame.reason, "");
                got.close = Some(frame.code.into());
            }
            _ => {}
        }
    }
    splitter.finish(|stream, bytes| got.take(stream, bytes));
    got
}

const SPLIT: &[(&str, &str)] = &[("x-daytona-sdk-version", "0.226.1")];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logs_over_websockets() {
    let daemon = Daemon::new();
    let server = Server::of(daemon.routes.clone()).await;
    daemon.ask("POST", "/process/session", json!({ "sessionId": "s" })).await;
    let start = async |command: &str| {
        let body = json!({ "command": command, "runAsync": true });
        let (status, body) = daemon.ask("POST", "/process/session/s/exec", body).await;
        assert_eq!(status, 202, "{body}");
        format!("/process/session/s/command/{}/logs", body["cmdId"].as_str().unwrap())
    };

    // Live, both streams, closed the moment the command ends.
    let logs = start("echo one; echo two >&2; read x; echo three").await;
    let (socket, _) = connect(&server, &format!("{logs}?follow=true"), SPLIT).await;
    let following = tokio::spawn(collect(socket));
    // The log has what is fed to a command too, when it is fed, and each stream when it is read: after both lines only once both are there.
    until("both lines", async || {
        let log = daemon.ask("GET", &logs, None).await.1;
        (&log["stdout"], &log["stderr"]) == (&json!("one\n"), &json!("two\n"))
    })
    .await;
    let input = logs.replace("/logs", "/input");
    assert_eq!(daemon.ask("POST", &input, json!({ "data": "go" })).await.0, 204);
    let began = Instant::now();
    let got = following.await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
    assert_eq!((got.stderr, got.close), (b"two\n".to_vec(), Some(u16::from(CloseCode::Normal))));
    assert_eq!(got.stdout, b"one\ngo\nthree\n");

    // Again, afterwards, without following; from an offset; without markers; with a sub-protocol.
    let got = collect(connect(&server, &logs, SPLIT).await.0).await;
    assert_eq!((got.stdout.as_slice(), got.close), (&b"one\ngo\nthree\n"[..], Some(1000)));
    let tail =
        collect(connect(&server, &format!("{logs}?offset={}", got.raw.len() - 4), SPLIT).await.0).await;
    assert_eq!(tail.raw, b"ree\n");
    // Over HTTP too, and the stream of what follows is known.
    let (_, all) = daemon.ask("GET", &logs, None).await;
    assert_eq!((&all["stdout"], &all["nextOffset"]), (&json!("one\ngo\nthree\n"), &json!(got.raw.len())));
    let (_, tail) = daemon.ask("GET", &format!("{logs}?offset={}", got.raw.len() - 4), None).await;
    assert_eq!(
        (&tail["stdout"], &tail["stderr"], &tail["output"]),
        (&json!("ree\n"), &json!(""), &json!("ree\n"))
    );
    let (_, none) = daemon.ask("GET", &format!("{logs}?offset=100000"), None).await;
    assert_eq!(none["output"], "");
    let combined = collect(connect(&server, &format!("{logs}?follow=true"), &[]).await.0).await;
    assert!(!combined.raw.windows(3).any(|w| w == STDOUT || w == STDERR) && combined.raw.len() == 17);
    let offer = [("sec-websocket-protocol", "X-Daytona-SDK-Version~0.218.0, other")];
    let (socket, protocol) = connect(&server, &logs, &offer).await;
    assert_eq!(protocol.as_deref(), Some("X-Daytona-SDK-Version~0.218.0"));
    assert_eq!(collect(socket).await.stdout, b"one\ngo\nthree\n");

    everything_arrives(&server, &start).await;
    slow_readers_and_pings(&server, &start).await;

    // Deleting the session while somebody follows closes normally.
    let logs = start("echo up; sleep 1000").await;
    let (socket, _) = connect(&server, &format!("{logs}?follow=true"), SPLIT).await;
    let following = tokio::spawn(collect(socket));
    until("the command's first output", async || daemon.ask("GET", &logs, None).await.1["stdout"] == "up\n")
        .await;
    assert_eq!(daemon.ask("DELETE", "/process/session/s", None).await.0, 204);
    let got = following.await.unwrap();
    assert_eq!((got.stdout, got.close), (b"up\n".to_vec(), Some(1000)));
}

/// Random bytes, marker bytes among them, come through unchanged, and no frame ends like a marker.
async fn everything_arrives(server: &Server, start: &impl AsyncFn(&str) -> String) {
    let logs = start(
        "head -c 3000000 /dev/urandom > all; tr '\\000-\\177' '\\001' < all | head -c 300000 >> all; cat all; head -c 100 all >&2; printf '\\1' >&2",
    )
    .await;
    let got = collect(connect(server, &format!("{logs}?follow=true"), SPLIT).await.0).await;
    let expected = start("cat all; rm all").await;
    let again = collect(connect(server, &format!("{expected}?follow=true"), SPLIT).await.0).await;
    assert_eq!(got.stdout.len(), 3_300_000);
    // The last byte of all may be the first of a marker.
    assert!(got.stdout == again.stdout && got.stderr == [&again.stdout[..100], &[1]].concat());
    // Only the very last frame may: nothing comes after it.
    let ends_like_marker = |f: &Bytes| f.ends_with(&STDOUT) || f.ends_with(&STDERR);
    assert!(!got.frames[..got.frames.len() - 1].iter().any(ends_like_marker));
}

/// A client that does not read stalls nobody, and its pings are answered once it does.
async fn slow_readers_and_pings(server: &Server, start: &impl AsyncFn(&str) -> String) {
    let logs = start("head -c 100000000 /dev/zero | tr '\\0' x").await;
    let (mut slow, _) = connect(server, &format!("{logs}?follow=true"), SPLIT).await;
    // It could not come to its end if it had to wait for the other, from which nothing is read until then.
    let quick = collect(connect(server, &format!("{logs}?follow=true"), SPLIT).await.0).await;
    assert_eq!((quick.stdout.len(), quick.close), (100_000_000, Some(1000)));
    slow.send(Message::Ping(Bytes::from_static(b"?"))).await.unwrap();
    let (mut before, mut total) = (0, 0);
    let mut pong = false;
    while let Some(Ok(message)) = slow.next().await {
        match message {
            Message::Pong(_) => pong = true,
            Message::Binary(frame) => {
                before += if pong { 0 } else { frame.len() };
                total += frame.len();
            }
            _ => {}
        }
    }
    assert!(pong && total == 100_000_003, "{pong} {total}");
    assert!(before < 50_000_000, "the pong came after {before} bytes");
}
