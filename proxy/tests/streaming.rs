//! Bodies flow as they come, and an end on one side is an end on the other.
#![allow(clippy::unwrap_used)]

mod common;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::Request;
use common::{expect, front, listen, read_head, send, serve, soon};
use futures_util::{Stream, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;

/// The receiver as a stream.
fn stream_of<T>(receiver: mpsc::Receiver<T>) -> impl Stream<Item = T> {
    futures_util::stream::unfold(receiver, async |mut r| r.recv().await.map(|v| (v, r)))
}

#[tokio::test]
async fn events_arrive_one_by_one() {
    let (sender, receiver) = mpsc::channel::<Result<Bytes, std::io::Error>>(1);
    let receiver = std::sync::Arc::new(std::sync::Mutex::new(Some(receiver)));
    let events = async move || {
        let receiver = receiver.lock().unwrap().take().unwrap();
        ([("content-type", "text/event-stream")], Body::from_stream(stream_of(receiver)))
    };
    let front = front(serve(Router::new().fallback(events)).await).await;
    let mut client = send(front, "GET /hop/events HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert!(read_head(&mut client).await.contains("text/event-stream"));
    for n in 0..5 {
        // The next event is only sent once this one has been seen, so nothing can be waiting in a buffer.
        sender.send(Ok(Bytes::from(format!("data: {n}\n\n")))).await.unwrap();
        expect(&mut client, &format!("9\r\ndata: {n}\n\n\r\n")).await;
    }
    drop(sender);
    expect(&mut client, "0\r\n\r\n").await;
}

#[tokio::test]
async fn both_directions_flow_at_once() {
    let echo = async |request: Request| Body::from_stream(request.into_body().into_data_stream());
    let front = front(serve(Router::new().fallback(echo)).await).await;
    let mut client =
        send(front, "POST /hop/ HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    client.write_all(b"4\r\nping\r\n").await.unwrap();
    assert!(read_head(&mut client).await.starts_with("HTTP/1.1 200"));
    expect(&mut client, "4\r\nping\r\n").await;
    client.write_all(b"4\r\npong\r\n").await.unwrap();
    expect(&mut client, "4\r\npong\r\n").await;
    client.write_all(b"0\r\n\r\n").await.unwrap();
    expect(&mut client, "0\r\n\r\n").await;
}

#[tokio::test]
async fn a_client_that_leaves_closes_the_upstream() {
    let (listener, upstream) = listen().await;
    let front = front(upstream).await;
    for answer in
        ["", "HTTP/1.1 200 OK\r\n\r\nfirst", "HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\nfirst"]
    {
        let mut client = send(front, "GET /hop/slow HTTP/1.1\r\nHost: x\r\n\r\n").await;
        let (mut stream, _) = soon("a connection", listener.accept()).await.unwrap();
        read_head(&mut stream).await;
        stream.write_all(answer.as_bytes()).await.unwrap();
        if !answer.is_empty() {
            read_head(&mut client).await;
        }
        drop(client);
        // A server notices by writing or by reading; reading sees the end.
        let mut rest = Vec::new();
        let ended = soon("the end of the upstream connection", stream.read_to_end(&mut rest)).await;
        assert!(rest.is_empty(), "{ended:?} {rest:?}");
    }
}

#[tokio::test]
async fn an_abandoned_upload_closes_the_upstream_before_the_body_ends() {
    let (listener, upstream) = listen().await;
    let front = front(upstream).await;
    let client =
        send(front, "POST /hop/ HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n")
            .await;
    let (mut stream, _) = soon("a connection", listener.accept()).await.unwrap();
    read_head(&mut stream).await;
    expect(&mut stream, "4\r\nhalf\r\n").await;
    drop(client);
    let mut rest = Vec::new();
    let _ = soon("the end of the upload", stream.read_to_end(&mut rest)).await;
    assert!(!rest.ends_with(b"0\r\n\r\n"), "a cut upload must not look complete: {rest:?}");
}

/// A body that is small enough to be read at once, and cannot be: whatever the upstream sees of it is no whole request (runner contract 14.6, row 2).
#[tokio::test]
async fn a_small_body_that_cannot_be_read_is_never_a_whole_or_an_empty_one() {
    let (listener, upstream) = listen().await;
    let front = front(upstream).await;
    for (framing, start) in [
        ("Content-Length: 10", "half"),
        ("Content-Length: 10", ""),
        ("Transfer-Encoding: chunked", "4\r\nhalf\r\n"),
        ("Transfer-Encoding: chunked", "4\r\nhalf\r\nnonsense\r\n"),
    ] {
        let head = format!("POST /hop/ HTTP/1.1\r\nHost: x\r\n{framing}\r\n\r\n");
        let mut client = send(front, &format!("{head}{start}")).await;
        let (mut stream, _) = soon("a connection", listener.accept()).await.unwrap();
        let forwarded = read_head(&mut stream).await;
        let announced = forwarded.to_ascii_lowercase().contains(&framing.to_ascii_lowercase());
        assert!(announced, "not an empty body: {forwarded}");
        client.shutdown().await.unwrap();
        drop(client);
        let mut rest = Vec::new();
        let _ = soon("the end of the request", stream.read_to_end(&mut rest)).await;
        let whole = if framing.ends_with("10") { rest.len() >= 10 } else { rest.ends_with(b"0\r\n\r\n") };
        assert!(!whole, "{framing}: {rest:?}");
    }
}

#[tokio::test]
async fn a_response_that_is_cut_does_not_look_complete() {
    let (listener, upstream) = listen().await;
    let front = front(upstream).await;
    let mut client = send(front, "GET /hop/ HTTP/1.1\r\nHost: x\r\n\r\n").await;
    let (mut stream, _) = listener.accept().await.unwrap();
    read_head(&mut stream).await;
    stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n").await.unwrap();
    read_head(&mut client).await;
    expect(&mut client, "4\r\nhalf\r\n").await;
    drop(stream);
    let mut rest = Vec::new();
    let _ = soon("the end of the response", client.read_to_end(&mut rest)).await;
    assert!(!rest.ends_with(b"0\r\n\r\n"), "{rest:?}");
}

#[tokio::test]
async fn an_answer_that_comes_before_the_body_is_read_is_passed_on() {
    let (listener, upstream) = listen().await;
    let front = front(upstream).await;
    let mut client =
        send(front, "POST /hop/ HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\nstart").await;
    let (mut stream, _) = listener.accept().await.unwrap();
    read_head(&mut stream).await;
    stream.write_all(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\n\r\nbig").await.unwrap();
    assert!(read_head(&mut client).await.starts_with("HTTP/1.1 413"));
    expect(&mut client, "big").await;
}

#[tokio::test]
async fn a_slow_reader_slows_the_sender() {
    const CHUNK: usize = 64 << 10;
    let (sender, mut produced) = mpsc::channel::<()>(4096);
    let endless = async move || {
        let chunks = futures_util::stream::repeat_with(move || {
            let _ = sender.try_send(());
            Ok::<_, std::io::Error>(Bytes::from_static(&[0; CHUNK]))
        });
        Body::from_stream(chunks.take(4096))
    };
    let front = front(serve(Router::new().fallback(endless)).await).await;
    let mut client = send(front, "GET /hop/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
    read_head(&mut client).await;
    // Nobody reads on: production must stop long before the 256 MiB are through. Silence for a second is what "stopped" means here.
    let mut chunks = 0;
    while tokio::time::timeout(std::time::Duration::from_secs(1), produced.recv())
        .await
        .is_ok_and(|c| c.is_some())
    {
        chunks += 1;
    }
    assert!(chunks * CHUNK < 64 << 20, "{chunks} chunks are somewhere between sender and reader");
    let mut rest = 0;
    let mut buffer = vec![0; CHUNK];
    while let n @ 1.. = soon("more", client.read(&mut buffer)).await.unwrap() {
        rest += n;
    }
    assert!(rest >= 4096 * CHUNK, "{rest}");
}
