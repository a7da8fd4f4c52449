//! Measures what the proxy adds to a request over loopback: `cargo run --release -p pinfold-proxy --example latency`.
#![allow(clippy::print_stdout, clippy::unwrap_used, missing_docs)]

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::Request;
use pinfold_proxy::{Proxy, Target};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

async fn serve(router: Router) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(pinfold_http::serve(listener, router, std::future::pending(), Duration::ZERO));
    address
}

async fn median(address: SocketAddr) -> (Duration, Duration) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let mut buffer = [0; 4096];
    let mut times = Vec::new();
    for _ in 0..20_000 {
        let began = Instant::now();
        stream.write_all(b"GET /x HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        let mut read = 0;
        while !buffer[..read].ends_with(b"pong") {
            read += stream.read(&mut buffer[read..]).await.unwrap();
        }
        times.push(began.elapsed());
    }
    times.sort();
    (times[times.len() / 2], times[times.len() * 99 / 100])
}

#[tokio::main]
async fn main() {
    let upstream = serve(Router::new().fallback(async || "pong")).await;
    let proxy = Proxy::new();
    let front = serve(Router::new().fallback(async move |request: Request| {
        let path = request.uri().path().to_owned();
        proxy.forward(request, Target::new(upstream, &path)).await.unwrap()
    }))
    .await;
    for round in 0..3 {
        let (direct, direct99) = median(upstream).await;
        let (proxied, proxied99) = median(front).await;
        println!(
            "round {round}: direct p50 {direct:?} p99 {direct99:?}; through the proxy p50 {proxied:?} p99 {proxied99:?}; added p50 {:?}",
            proxied - direct
        );
    }
}
