//! Downloads of one file and of many.

#![allow(clippy::unwrap_used)]

mod common;

use std::time::Duration;

use axum::body::Body;
use common::{Answer, Daemon, encode};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use serde_json::{Value, json};

#[tokio::test]
async fn a_file_comes_with_the_contracts_headers() {
    let daemon = Daemon::start().await;
    let every_byte: Vec<u8> = (0..=255).cycle().take(700_001).collect();
    let path = daemon.write("dir/na\"me €é.bin", &every_byte);
    let time = std::time::SystemTime::UNIX_EPOCH + Duration::from_millis(784_111_777_900);
    std::fs::File::open(&path).unwrap().set_modified(time).unwrap();
    let target = format!("/files/download?path={}&signature=x", encode("dir/na\"me €é.bin"));
    let answer = daemon.ask("GET", &target).await;
    assert_eq!((answer.status, answer.complete), (200, true));
    assert!(answer.body == every_byte);
    for (name, value) in [
        ("content-type", "application/octet-stream"),
        ("content-length", "700001"),
        ("last-modified", "Sun, 06 Nov 1994 08:49:37 GMT"),
        ("accept-ranges", "bytes"),
        ("content-description", "File Transfer"),
        ("content-transfer-encoding", "binary"),
        ("expires", "0"),
        ("cache-control", "must-revalidate"),
        ("pragma", "public"),
    ] {
        assert_eq!(answer.header(name), value);
    }
    let expected =
        b"attachment; filename=\"na\\\"me _\xe9.bin\"; filename*=utf-8''na%22me%20%E2%82%AC%C3%A9.bin";
    assert_eq!(answer.headers["content-disposition"].as_bytes(), expected);

    let since = daemon
        .ask_with("GET", &target, &[("if-modified-since", "Sun, 06 Nov 1994 08:49:37 GMT")], Body::empty())
        .await;
    assert_eq!((since.status, since.body.len()), (304, 0));
    let since = daemon
        .ask_with("GET", &target, &[("if-modified-since", "Sun, 06 Nov 1994 08:49:36 GMT")], Body::empty())
        .await;
    assert_eq!(since.status, 200);
}

#[tokio::test]
async fn ranges_are_honoured() {
    let daemon = Daemon::start().await;
    daemon.write("f", "0123456789");
    let ranged = async |range: &str| {
        daemon.ask_with("GET", "/files/download?path=f", &[("range", range)], Body::empty()).await
    };
    for (range, content, header) in [
        ("bytes=2-4", "234", "bytes 2-4/10"),
        ("bytes=-1", "9", "bytes 9-9/10"),
        ("bytes=7-", "789", "bytes 7-9/10"),
    ] {
        let answer = ranged(range).await;
        assert_eq!(
            (answer.status, answer.body.as_ref(), answer.header("content-range")),
            (206, content.as_bytes(), header)
        );
        assert_eq!(answer.header("content-length"), content.len().to_string());
    }
    let beyond = ranged("bytes=10-").await;
    assert_eq!(beyond.header("content-range"), "bytes */10");
    assert_eq!(beyond.json()["statusCode"], 416);
    assert_eq!(ranged("bytes=0-1,3-4").await.status, 200);
    daemon.write("empty", "");
    let empty = daemon.ask("GET", "/files/download?path=empty").await;
    assert_eq!((empty.status, empty.header("content-length"), empty.body.len()), (200, "0", 0));
}

#[tokio::test]
async fn what_is_no_file_is_refused_at_once() {
    let daemon = Daemon::start().await;
    std::fs::create_dir(daemon.path("dir")).unwrap();
    mknodat(CWD, daemon.path("fifo"), FileType::Fifo, Mode::from_bits_truncate(0o644), 0).unwrap();
    for (target, error) in [
        ("/files/download?path=none", (404, "FILE_NOT_FOUND")),
        ("/files/download?path=dir", (400, "INVALID_FILE_PATH")),
        ("/files/download?path=fifo", (400, "INVALID_FILE_PATH")),
        ("/files/download?path=/dev/zero", (400, "INVALID_FILE_PATH")),
        ("/files/download", (400, "BAD_REQUEST")),
    ] {
        assert_eq!(daemon.ask("GET", target).await.error(), (error.0, error.1.to_owned()), "{target}");
    }
}

/// Head and content of each part; checks the delimiters.
fn parts(answer: &Answer) -> Vec<(String, Vec<u8>)> {
    assert_eq!((answer.status, answer.complete), (200, true));
    let boundary =
        answer.header("content-type").strip_prefix("multipart/form-data; boundary=").unwrap().to_owned();
    assert!(boundary.bytes().all(|b| b.is_ascii_alphanumeric()));
    let delimiter = format!("--{boundary}");
    let mut rest = answer.body.as_ref();
    let mut parts = Vec::new();
    loop {
        rest = rest.strip_prefix(delimiter.as_bytes()).unwrap();
        if rest == b"--\r\n" {
            return parts;
        }
        rest = rest.strip_prefix(b"\r\n").unwrap();
        let end = memchr::memmem::find(rest, b"\r\n\r\n").unwrap();
        let head = rest[..end].iter().map(|b| char::from(*b)).collect();
        rest = &rest[end + 4..];
        let end = memchr::memmem::find(rest, format!("\r\n{delimiter}").as_bytes()).unwrap();
        parts.push((head, rest[..end].to_vec()));
        rest = &rest[end + 2..];
    }
}

async fn bulk(daemon: &Daemon, body: Value) -> Answer {
    daemon.ask_with("POST", "/files/bulk-download", &[], body.to_string()).await
}

#[tokio::test]
async fn many_files_keep_their_order_and_names() {
    let daemon = Daemon::start().await;
    let large: Vec<u8> = (0..2_000_000u32).flat_map(u32::to_le_bytes).collect();
    daemon.write("a.txt", "hello");
    daemon.write("large", &large);
    daemon.write("empty.json", "");
    daemon.write("DAYTONA", "--DAYTONA-FILE-BOUNDARY\r\n");
    let absolute = daemon.path("a.txt").display().to_string();
    let paths = ["a.txt", "./a.txt", "none \"x\"", "large", "", "empty.json", ".", "DAYTONA", &absolute];
    let answer = bulk(&daemon, json!({"paths": paths})).await;
    let parts = parts(&answer);
    let contents: Vec<&[u8]> = parts.iter().map(|(_, content)| content.as_slice()).collect();
    assert_eq!(contents[0], b"hello");
    assert!(contents[3] == large);
    assert_eq!(
        (contents[5], contents[7], contents[8]),
        (b"".as_slice(), b"--DAYTONA-FILE-BOUNDARY\r\n".as_slice(), b"hello".as_slice())
    );
    assert_eq!(
        parts[0].0,
        "Content-Disposition: form-data; name=\"file\"; filename=\"a.txt\"; filename*=utf-8''a.txt\r\n\
         Content-Length: 5\r\nContent-Type: text/plain; charset=utf-8"
    );
    assert!(parts[1].0.contains("filename=\"./a.txt\"; filename*=utf-8''.%2Fa.txt"));
    assert!(
        parts[3]
            .0
            .contains(&format!("Content-Length: {}\r\nContent-Type: application/octet-stream", large.len()))
    );
    assert!(parts[5].0.contains("Content-Length: 0\r\nContent-Type: application/json"));
    for (index, status, code) in
        [(2, 404, "FILE_NOT_FOUND"), (4, 400, "INVALID_FILE_PATH"), (6, 400, "INVALID_FILE_PATH")]
    {
        let (head, content) = &parts[index];
        assert!(head.starts_with("Content-Disposition: form-data; name=\"error\"; filename=\""), "{head}");
        assert!(head.ends_with("\r\nContent-Type: application/json; charset=utf-8"), "{head}");
        let error: Value = serde_json::from_slice(content).unwrap();
        assert_eq!((&error["statusCode"], &error["code"]), (&status.into(), &code.into()));
        assert_eq!((&error["source"], &error["path"]), (&"DAYTONA_DAEMON".into(), &paths[index].into()));
    }
    let again = bulk(&daemon, json!({"paths": paths})).await;
    assert_ne!(again.header("content-type"), answer.header("content-type"), "nobody can know the delimiter");
    assert!(parts[2].0.contains("filename=\"none \\\"x\\\"\"; filename*=utf-8''none%20%22x%22"));
}

#[tokio::test]
async fn requests_without_paths_are_refused() {
    let daemon = Daemon::start().await;
    for body in [json!({}), json!({"paths": []}), json!({"paths": null}), json!("x")] {
        assert_eq!(bulk(&daemon, body).await.error(), (400, "INVALID_REQUEST_BODY".into()));
    }
}

#[tokio::test]
async fn a_file_that_shrinks_does_not_look_complete() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let daemon = Daemon::start().await;
    let path = daemon.write("f", vec![1; 64 << 20]);
    let mut client = tokio::net::TcpStream::connect(daemon.address).await.unwrap();
    let body = json!({"paths": ["f"]}).to_string();
    let request = format!(
        "POST /files/bulk-download HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    client.write_all(request.as_bytes()).await.unwrap();
    let mut first = [0; 1000];
    client.read_exact(&mut first).await.unwrap();
    // More than any buffer between is still to come when the file ends.
    std::fs::File::options().write(true).open(&path).unwrap().set_len(0).unwrap();
    let mut rest = Vec::new();
    tokio::time::timeout(Duration::from_secs(60), client.read_to_end(&mut rest)).await.unwrap().unwrap();
    assert!(rest.len() < 64 << 20);
    assert!(memchr::memmem::rfind(&rest, b"--\r\n").is_none(), "no closing delimiter after a short part");
}
