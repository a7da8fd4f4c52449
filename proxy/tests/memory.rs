//! Alone in its process, so that the peak of resident memory is this stream's.
#![allow(clippy::unwrap_used)]

mod common;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::Request;
use common::{front, read_head, send, serve, soon};
use futures_util::StreamExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const SIZE: usize = 200 << 20;
const CHUNK: usize = 256 << 10;

fn peak_kib() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|l| l.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[tokio::test]
async fn large_bodies_need_little_memory() {
    let swap = async |request: Request| {
        let mut received = 0;
        let mut body = request.into_body().into_data_stream();
        while let Some(chunk) = body.next().await {
            received += chunk.unwrap().len();
        }
        let chunks =
            futures_util::stream::repeat_with(|| Ok::<_, std::io::Error>(Bytes::from_static(&[1; CHUNK])));
        ([("x-received", received.to_string())], Body::from_stream(chunks.take(SIZE / CHUNK)))
    };
    let front = front(serve(Router::new().fallback(swap)).await).await;
    let before = peak_kib();
    let head =
        format!("POST /hop/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {SIZE}\r\n\r\n");
    let mut client = send(front, &head).await;
    let chunk = vec![2; CHUNK];
    for _ in 0..SIZE / CHUNK {
        soon("room to write", client.write_all(&chunk)).await.unwrap();
    }
    assert!(read_head(&mut client).await.contains(&format!("x-received: {SIZE}\r\n")));
    let mut received = 0;
    let mut buffer = vec![0; CHUNK];
    while let n @ 1.. = soon("more", client.read(&mut buffer)).await.unwrap() {
        received += n;
    }
    assert!(received >= SIZE);
    let grown = peak_kib() - before;
    assert!(grown < 24 << 10, "{grown} KiB more for two bodies of {} KiB", SIZE >> 10);
}
