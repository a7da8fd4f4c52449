//! Alone in its process, so that every thread counted is this search's.

#![allow(clippy::unwrap_used)]

mod common;

use std::time::Duration;

use common::Daemon;

#[tokio::test]
async fn a_client_that_leaves_ends_the_search() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let daemon = Daemon::start().await;
    for n in 0..64 {
        daemon.write(&format!("{n}"), "needle and some more text to fill the line\n".repeat(20_000));
    }
    let threads = || std::fs::read_dir("/proc/self/task").unwrap().count();
    let before = threads();
    let mut client = tokio::net::TcpStream::connect(daemon.address).await.unwrap();
    client.write_all(b"GET /files/find?path=.&pattern=needle HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    client.read_exact(&mut [0; 1000]).await.unwrap();
    drop(client);
    // The blocking thread that answered stays in its pool for a while; the searchers and the walker do not.
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    while threads() > before + 2 {
        assert!(tokio::time::Instant::now() < deadline, "waited in vain for the searchers to end");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
