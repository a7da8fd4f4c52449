//! WebSockets, and any other protocol behind an upgrade.
#![allow(clippy::unwrap_used)]

mod common;

use axum::Router;
use axum::extract::ws::{Message, WebSocketUpgrade};
use common::{expect, front, listen, read_head, send, serve, soon};
use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_tungstenite::tungstenite;

#[tokio::test]
async fn websockets_pass() {
    let echo = async |upgrade: WebSocketUpgrade| {
        upgrade.protocols(["chat"]).on_upgrade(async |mut socket| {
            while let Some(Ok(message)) = socket.recv().await {
                if let Message::Text(_) | Message::Binary(_) = message {
                    socket.send(message).await.unwrap();
                }
            }
        })
    };
    let front = front(serve(Router::new().fallback(echo)).await).await;
    let mut request =
        tungstenite::client::IntoClientRequest::into_client_request(format!("ws://{front}/hop/ws?a=1"))
            .unwrap();
    request.headers_mut().insert("sec-websocket-protocol", "chat".parse().unwrap());
    let (mut socket, response) =
        soon("the handshake", tokio_tungstenite::connect_async(request)).await.unwrap();
    assert_eq!(response.headers()["sec-websocket-protocol"], "chat");
    for size in [0, 1, 125, 126, 70_000, 1 << 20] {
        let payload = vec![7; size];
        socket.send(tungstenite::Message::binary(payload.clone())).await.unwrap();
        let back = soon("the echo", socket.next()).await.unwrap().unwrap();
        assert_eq!(back.into_data(), payload);
    }
    socket.close(None).await.unwrap();
    let mut closed = false;
    while let Some(message) = soon("the close", socket.next()).await {
        closed |= message.is_ok_and(|m| m.is_close());
    }
    assert!(closed);
}

#[tokio::test]
async fn a_refused_websocket_is_an_ordinary_answer() {
    let front =
        front(serve(Router::new().fallback(async || (http::StatusCode::CONFLICT, "taken"))).await).await;
    let error = tokio_tungstenite::connect_async(format!("ws://{front}/hop/")).await.unwrap_err();
    let tungstenite::Error::Http(response) = error else { panic!("{error}") };
    assert_eq!(response.status(), 409);
    assert_eq!(response.body().as_deref(), Some(b"taken".as_slice()));
}

#[tokio::test]
async fn any_protocol_passes_with_what_follows_the_heads_at_once() {
    let (listener, upstream) = listen().await;
    let front = front(upstream).await;
    let mut client = send(front, "POST /hop/attach HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: tcp\r\nContent-Length: 0\r\n\r\n").await;
    let (mut stream, _) = listener.accept().await.unwrap();
    let head = read_head(&mut stream).await.to_ascii_lowercase();
    assert!(head.contains("connection: upgrade\r\n") && head.contains("upgrade: tcp\r\n"), "{head}");
    stream
        .write_all(b"HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\nhello")
        .await
        .unwrap();
    let head = read_head(&mut client).await.to_ascii_lowercase();
    assert!(head.starts_with("http/1.1 101") && head.contains("upgrade: tcp\r\n"), "{head}");
    expect(&mut client, "hello").await;
    // A half-closed client still gets its answer.
    client.write_all(b"question").await.unwrap();
    client.shutdown().await.unwrap();
    let mut question = String::new();
    soon("the question", stream.read_to_string(&mut question)).await.unwrap();
    assert_eq!(question, "question");
    stream.write_all(b"answer").await.unwrap();
    drop(stream);
    let mut answer = String::new();
    soon("the answer", client.read_to_string(&mut answer)).await.unwrap();
    assert_eq!(answer, "answer");
}

#[tokio::test]
async fn a_switch_nobody_asked_for_is_refused() {
    let (listener, upstream) = listen().await;
    let front = front(upstream).await;
    let mut client = send(front, "GET /hop/ HTTP/1.1\r\nHost: x\r\n\r\n").await;
    let (mut stream, _) = listener.accept().await.unwrap();
    read_head(&mut stream).await;
    stream
        .write_all(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: odd\r\n\r\n")
        .await
        .unwrap();
    assert!(read_head(&mut client).await.starts_with("HTTP/1.1 502"));
}
