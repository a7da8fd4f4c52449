//! Reuse of connections, dead ones, and unreachable upstreams.
#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use common::{exchange, front, front_with, listen, read_head, soon};
use pinfold_proxy::Proxy;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpSocket, TcpStream};

const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

fn request(method: &str) -> String {
    let length = if method == "POST" { "Content-Length: 1\r\n\r\nx" } else { "\r\n" };
    format!("{method} /hop/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{length}")
}

#[tokio::test]
async fn connections_are_reused() {
    let (listener, upstream) = listen().await;
    let front = front(upstream).await;
    let accepted = Arc::new(AtomicUsize::new(0));
    let count = accepted.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            count.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(async move {
                loop {
                    read_head(&mut stream).await;
                    stream.write_all(OK).await.unwrap();
                }
            });
        }
    });
    for _ in 0..50 {
        assert!(exchange(front, &request("GET")).await.ends_with("ok"));
    }
    assert_eq!(accepted.load(Ordering::SeqCst), 1);
}

/// Answers the first request of the first connection; then takes the second request of it and dies. Later connections answer.
/// Returns how many requests were taken.
async fn dies_on_second(method: &'static str) -> (String, usize) {
    let (listener, upstream) = listen().await;
    let front = front(upstream).await;
    let taken = Arc::new(AtomicUsize::new(0));
    let count = taken.clone();
    tokio::spawn(async move {
        for connection in 0.. {
            let (mut stream, _) = listener.accept().await.unwrap();
            read_head(&mut stream).await;
            count.fetch_add(1, Ordering::SeqCst);
            stream.write_all(OK).await.unwrap();
            if connection == 0 {
                read_head(&mut stream).await;
                count.fetch_add(1, Ordering::SeqCst);
            }
        }
    });
    assert!(exchange(front, &request("GET")).await.ends_with("ok"));
    let answer = exchange(front, &request(method)).await;
    (answer, taken.load(Ordering::SeqCst))
}

#[tokio::test]
async fn a_dead_pooled_connection_is_replaced_for_idempotent_requests() {
    for method in ["GET", "HEAD", "DELETE"] {
        let (answer, taken) = dies_on_second(method).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{method}: {answer}");
        assert_eq!(taken, 3, "{method}");
    }
}

#[tokio::test]
async fn what_may_have_been_acted_on_is_never_sent_again() {
    for method in ["POST", "PATCH"] {
        let (answer, taken) = dies_on_second(method).await;
        assert!(answer.starts_with("HTTP/1.1 502"), "{method}: {answer}");
        assert_eq!(taken, 2, "{method}");
    }
}

#[tokio::test]
async fn a_fresh_connection_that_dies_is_not_tried_again() {
    let (listener, upstream) = listen().await;
    let front = front(upstream).await;
    let taken = Arc::new(AtomicUsize::new(0));
    let count = taken.clone();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            read_head(&mut stream).await;
            count.fetch_add(1, Ordering::SeqCst);
        }
    });
    assert!(exchange(front, &request("GET")).await.starts_with("HTTP/1.1 502"));
    assert_eq!(taken.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn an_upstream_that_restarts_is_found_again_even_by_a_post() {
    let (listener, upstream) = listen().await;
    let front = front(upstream).await;
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        read_head(&mut stream).await;
        stream.write_all(OK).await.unwrap();
        stream
    });
    assert!(exchange(front, &request("GET")).await.ends_with("ok"));
    // The old process ends: its connection closes while idle in the pool.
    drop(server.await.unwrap());
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_reuseaddr(true).unwrap();
    socket.bind(upstream).unwrap();
    let listener = socket.listen(8).unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        read_head(&mut stream).await;
        stream.write_all(OK).await.unwrap();
        std::future::pending::<()>().await;
    });
    assert!(exchange(front, &request("POST")).await.ends_with("ok"));
}

#[tokio::test]
async fn unreachable_and_silent_are_different_errors() {
    // Bound and not listening: whoever asks is refused, and nobody else can take the port.
    let bound = TcpSocket::new_v4().unwrap();
    bound.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let refused = bound.local_addr().unwrap();
    let answer = exchange(front(refused).await, &request("GET")).await;
    assert!(
        answer.starts_with("HTTP/1.1 502") && answer.contains("could not connect to 127.0.0.1:"),
        "{answer}"
    );

    // A full backlog drops further SYNs, so connecting takes until the deadline.
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let full = socket.listen(0).unwrap();
    let address = full.local_addr().unwrap();
    let mut waiting = Vec::new();
    while let Ok(Ok(stream)) =
        tokio::time::timeout(Duration::from_millis(300), TcpStream::connect(address)).await
    {
        waiting.push(stream);
        assert!(waiting.len() < 64, "the backlog never fills");
    }
    let front = front_with(Proxy::with_connect_timeout(Duration::from_millis(200)), address).await;
    let began = Instant::now();
    let answer = exchange(front, &request("GET")).await;
    assert!(answer.starts_with("HTTP/1.1 504") && answer.contains("took too long"), "{answer}");
    assert!(began.elapsed() < Duration::from_secs(30));
}

#[tokio::test]
async fn nonsense_is_a_bad_gateway() {
    let (listener, upstream) = listen().await;
    let front = front(upstream).await;
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(b"220 smtp ready\r\n").await.unwrap();
        soon("the end", std::future::pending::<()>()).await;
    });
    let answer = exchange(front, &request("GET")).await;
    assert!(answer.starts_with("HTTP/1.1 502"), "{answer}");
}
