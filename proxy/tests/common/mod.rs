//! A proxy in front of an upstream, and a client that speaks raw HTTP/1.1 so that every byte is known.
#![allow(dead_code, missing_docs, unreachable_pub, clippy::unwrap_used)]

use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::extract::{ConnectInfo, Request};
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use pinfold_proxy::{Proxy, ProxyError, Target, Upstream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Fails, naming what was awaited, instead of hanging.
pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(Duration::from_secs(60), future).await {
        Ok(value) => value,
        Err(_) => panic!("waited in vain for {what}"),
    }
}

pub async fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// Serves `router` until the test ends.
pub async fn serve(router: Router) -> SocketAddr {
    let (listener, address) = listen().await;
    tokio::spawn(pinfold_http::serve(listener, router, std::future::pending(), Duration::ZERO));
    address
}

/// A server that forwards everything under `/hop` to `upstream`, as the preview route does.
pub async fn front(upstream: impl Into<Upstream>) -> SocketAddr {
    front_with(Proxy::new(), upstream).await
}

pub async fn front_with(proxy: Proxy, upstream: impl Into<Upstream>) -> SocketAddr {
    let upstream = upstream.into();
    let forward = move |ConnectInfo(peer): ConnectInfo<SocketAddr>, request: Request| async move {
        let raw = request.uri().path_and_query().unwrap().as_str().to_owned();
        let mut target = Target::new(upstream, raw.strip_prefix("/hop").unwrap());
        target.peer = Some(peer.ip());
        match proxy.forward(request, target).await {
            Ok(response) => response,
            Err(error) => answer(&error),
        }
    };
    serve(Router::new().fallback(forward)).await
}

fn answer(error: &ProxyError) -> Response {
    let status = match error {
        ProxyError::ConnectTimeout(..) => StatusCode::GATEWAY_TIMEOUT,
        _ => StatusCode::BAD_GATEWAY,
    };
    (status, pinfold_proto::error::chain(&error)).into_response()
}

/// Reads one head, up to and including the empty line.
pub async fn read_head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let byte = soon("a head", stream.read_u8()).await.unwrap_or_else(|e| {
            panic!("{e} after {:?}", String::from_utf8_lossy(&head));
        });
        head.push(byte);
    }
    String::from_utf8(head).unwrap()
}

/// Opens a connection and sends `text`.
pub async fn send(address: SocketAddr, text: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(text.as_bytes()).await.unwrap();
    stream
}

/// Sends a request that asks for the connection to be closed, and reads all of the answer.
pub async fn exchange(address: SocketAddr, text: &str) -> String {
    let mut stream = send(address, text).await;
    let mut answer = Vec::new();
    soon("the whole answer", stream.read_to_end(&mut answer)).await.unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

/// Reads exactly as much as `expected` is long and compares.
pub async fn expect(stream: &mut TcpStream, expected: &str) {
    let mut bytes = vec![0; expected.len()];
    soon(expected, stream.read_exact(&mut bytes)).await.unwrap();
    assert_eq!(String::from_utf8_lossy(&bytes), expected);
}
