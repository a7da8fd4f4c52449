//! What the next hop sees, and what comes back.
#![allow(clippy::unwrap_used)]

mod common;

use std::net::Ipv4Addr;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::Request;
use common::{exchange, front, listen, read_head, send, serve, soon};
use http::HeaderMap;
use http_body_util::BodyExt;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpSocket};

const EMPTY: &[u8] = b"HTTP/1.1 204 No Content\r\n\r\n";

#[tokio::test]
async fn paths_and_queries_pass_byte_for_byte() {
    let (listener, upstream) = listen().await;
    let front = front(upstream).await;
    let targets = [
        ("/a(b)/%40x%2Fy%5B0%5D%5b?q=%20+&r=a|b", "/a(b)/%40x%2Fy%5B0%5D%5b?q=%20+&r=a|b"),
        ("/a|b/\"c\"/{d}/^e/[f]/~g/'h'", "/a|b/\"c\"/{d}/^e/[f]/~g/'h'"),
        ("//double//slash/../up/./here", "//double//slash/../up/./here"),
        ("/%e4%F6/caf\u{e9}?\u{fc}", "/%e4%F6/caf\u{e9}?\u{fc}"),
        ("/q?", "/q?"),
        ("/q?a?b=c/d", "/q?a?b=c/d"),
        ("", "/"),
        ("?only=query", "/?only=query"),
    ];
    for (sent, expected) in targets {
        let _client =
            send(front, &format!("GET /hop{sent} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")).await;
        let (mut stream, _) = soon("a connection", listener.accept()).await.unwrap();
        let head = read_head(&mut stream).await;
        assert_eq!(head.lines().next().unwrap(), format!("GET {expected} HTTP/1.1"));
        stream.write_all(EMPTY).await.unwrap();
    }
}

#[tokio::test]
async fn the_head_is_that_of_the_next_hop() {
    let (listener, upstream) = listen().await;
    let front = front(upstream).await;
    let request = "PURGE /hop/x HTTP/1.1\r\nHost: outside\r\nConnection: close, X-Mine\r\nX-Mine: 1\r\nAuthorization: Bearer t\r\n\
                   Cookie: a=b\r\nX-Forwarded-Host: outside\r\nX-Forwarded-For: 9.9.9.9\r\nTE: trailers\r\nAccept-Encoding: br\r\n\r\n";
    let client = tokio::spawn(exchange(front, request));
    let (mut stream, _) = listener.accept().await.unwrap();
    let mut lines: Vec<String> =
        read_head(&mut stream).await.trim_end().lines().map(str::to_ascii_lowercase).collect();
    lines[1..].sort();
    let expected = [
        "purge /x http/1.1".to_owned(),
        "accept-encoding: br".to_owned(),
        "authorization: bearer t".to_owned(),
        "cookie: a=b".to_owned(),
        format!("host: {upstream}"),
        "te: trailers".to_owned(),
        "x-forwarded-for: 9.9.9.9, 127.0.0.1".to_owned(),
        "x-forwarded-host: outside".to_owned(),
    ];
    assert_eq!(lines, expected);
    let answer = b"HTTP/1.1 302 Found\r\nLocation: /elsewhere\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\nKeep-Alive: timeout=5\r\n\
                   Connection: X-Hop\r\nX-Hop: 1\r\nContent-Length: 2\r\n\r\nhi";
    stream.write_all(answer).await.unwrap();
    let answer = soon("the answer", client).await.unwrap().to_ascii_lowercase();
    for wanted in [
        "302 found\r\n",
        "location: /elsewhere\r\n",
        "set-cookie: a=1\r\n",
        "set-cookie: b=2\r\n",
        "\r\n\r\nhi",
    ] {
        assert!(answer.contains(wanted), "{wanted} in {answer}");
    }
    assert!(!answer.contains("x-hop") && !answer.contains("keep-alive"), "{answer}");
}

#[tokio::test]
async fn bodies_keep_their_framing() {
    let echo = async |request: Request| {
        let headers = request.headers().clone();
        let body = request.into_body().collect().await.unwrap().to_bytes();
        let framing =
            |name: &str| headers.get(name).map_or("-".to_owned(), |v| v.to_str().unwrap().to_owned());
        format!(
            "{}/{}/{}",
            framing("content-length"),
            framing("transfer-encoding"),
            String::from_utf8_lossy(&body)
        )
    };
    let front = front(serve(Router::new().fallback(echo)).await).await;
    let cases = [
        ("POST /hop/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 3\r\n\r\nabc", "3/-/abc"),
        ("POST /hop/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 0\r\n\r\n", "0/-/"),
        (
            "PUT /hop/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n",
            "-/chunked/abcde",
        ),
        (
            "GET /hop/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
            "-/chunked/abc",
        ),
        ("DELETE /hop/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 2\r\n\r\nhi", "2/-/hi"),
        ("GET /hop/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", "-/-/"),
        (
            "POST /hop/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\nx",
            "1/-/x",
        ),
    ];
    for (request, expected) in cases {
        let answer = exchange(front, request).await;
        assert_eq!(answer.rsplit("\r\n\r\n").next().unwrap(), expected, "{request}");
    }
}

#[tokio::test]
async fn trailers_pass_both_ways() {
    let upstream = async |request: Request| {
        let trailers = request.into_body().collect().await.unwrap().trailers().cloned().unwrap_or_default();
        let mut back = HeaderMap::new();
        back.insert("x-sum", trailers.get("x-sum").cloned().unwrap_or_else(|| "none".parse().unwrap()));
        let data = futures_util::stream::iter([Ok::<_, std::io::Error>(Bytes::from("data"))]);
        let body = Body::from_stream(data).with_trailers(async { Some(Ok(back)) });
        ([("trailer", "x-sum")], Body::new(body))
    };
    let front = front(serve(Router::new().fallback(upstream)).await).await;
    let request = "POST /hop/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTE: trailers\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n\
                   1\r\na\r\n0\r\nX-Sum: 42\r\n\r\n";
    let answer = exchange(front, request).await;
    assert!(answer.contains("\r\n4\r\ndata\r\n0\r\n"), "{answer}");
    assert!(answer.ends_with("x-sum: 42\r\n\r\n"), "{answer}");
}

#[tokio::test]
async fn a_head_request_keeps_the_length_without_a_body() {
    let (listener, upstream) = listen().await;
    let front = front(upstream).await;
    let client = tokio::spawn(exchange(front, "HEAD /hop/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"));
    let (mut stream, _) = listener.accept().await.unwrap();
    read_head(&mut stream).await;
    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1234\r\n\r\n").await.unwrap();
    let answer = soon("the answer", client).await.unwrap();
    assert!(
        answer.to_ascii_lowercase().contains("content-length: 1234\r\n") && answer.ends_with("\r\n\r\n"),
        "{answer}"
    );
}

#[tokio::test]
async fn localhost_means_both_families() {
    // The same port of IPv4 is bound without listening: it refuses, and no other test can take it.
    let bound = TcpSocket::new_v4().unwrap();
    let (v6, port) = loop {
        let v6 = TcpListener::bind("[::1]:0").await.unwrap();
        let port = v6.local_addr().unwrap().port();
        if bound.bind((Ipv4Addr::LOCALHOST, port).into()).is_ok() {
            break (v6, port);
        }
    };
    let front = front(pinfold_proxy::Upstream::Localhost(port)).await;
    let client = tokio::spawn(exchange(front, "GET /hop/x HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"));
    let (mut stream, _) = soon("a connection over IPv6", v6.accept()).await.unwrap();
    assert!(read_head(&mut stream).await.contains(&format!("Host: localhost:{port}\r\n")));
    stream.write_all(EMPTY).await.unwrap();
    assert!(soon("the answer", client).await.unwrap().starts_with("HTTP/1.1 204"));
}
