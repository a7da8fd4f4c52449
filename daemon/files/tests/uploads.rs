//! Uploads: many files, one file, and what becomes of the files that are there already.

#![allow(clippy::unwrap_used)]

mod common;

use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::body::{Body, Bytes};
use common::{Answer, Daemon, encode};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use serde_json::json;

const BOUNDARY: &str = "7f3c-Boundary";

fn form(parts: &[(&str, Option<&str>, &[u8])]) -> Vec<u8> {
    let mut body = Vec::new();
    for (name, file, content) in parts {
        let file = file
            .map(|f| format!("; filename=\"{f}\"\r\nContent-Type: application/octet-stream"))
            .unwrap_or_default();
        body.extend_from_slice(
            format!("--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"{name}\"{file}\r\n\r\n")
                .as_bytes(),
        );
        body.extend_from_slice(content);
        body.extend_from_slice(b"\r\n");
    }
    body.extend_from_slice(format!("--{BOUNDARY}--\r\n").as_bytes());
    body
}

async fn post(daemon: &Daemon, target: &str, body: impl Into<Body>) -> Answer {
    let kind = format!("multipart/form-data; boundary={BOUNDARY}");
    daemon.ask_with("POST", target, &[("content-type", &kind)], body).await
}

async fn bulk(daemon: &Daemon, parts: &[(&str, Option<&str>, &[u8])]) -> Answer {
    post(daemon, "/files/bulk-upload", form(parts)).await
}

#[tokio::test]
async fn both_field_orders_work() {
    let daemon = Daemon::start().await;
    let large: Vec<u8> = (0..3_000_000u32).flat_map(u32::to_be_bytes).collect();
    let absolute = daemon.path("abs").display().to_string();
    // All paths first, as Python sends them.
    let answer = bulk(
        &daemon,
        &[
            ("files[0].path", None, b" new/dir/a \n"),
            ("files[x-1].path", None, absolute.as_bytes()),
            ("ignored", None, b"x"),
            ("files[0].file", Some("b"), &large),
            ("files[x-1].file", Some("b"), b""),
        ],
    )
    .await;
    assert_eq!(answer.status, 200, "{:?}", answer.body);
    assert_eq!(
        answer.json(),
        json!({"files": [{"path": "new/dir/a", "bytes": large.len()}, {"path": absolute, "bytes": 0}]})
    );
    assert!(daemon.read("new/dir/a") == large);
    assert_eq!(daemon.read("abs"), b"");
    let mode = |path: &str| std::fs::metadata(daemon.path(path)).unwrap().mode() & 0o7777;
    assert_eq!((mode("new"), mode("new/dir/a")), (0o755, 0o644));
    // Alternating, as Node sends them.
    let answer = bulk(
        &daemon,
        &[
            ("files[0].path", None, b"1"),
            ("files[0].file", Some("x"), b"one\r\n--"),
            ("files[1].path", None, "zwei ü".as_bytes()),
            ("files[1].file", Some("x"), b"two"),
        ],
    )
    .await;
    assert_eq!(answer.status, 200);
    assert_eq!((daemon.read("1"), daemon.read("zwei ü")), (b"one\r\n--".to_vec(), b"two".to_vec()));
}

#[tokio::test]
async fn the_good_files_survive_the_bad() {
    let daemon = Daemon::start().await;
    std::fs::create_dir(daemon.path("dir")).unwrap();
    daemon.write("plain", "");
    mknodat(CWD, daemon.path("fifo"), FileType::Fifo, Mode::from_bits_truncate(0o644), 0).unwrap();
    let large = vec![1; 2 << 20];
    let answer = bulk(
        &daemon,
        &[
            ("files[0].path", None, b"dir"),
            ("files[0].file", Some("x"), &large),
            ("files[1].path", None, b"plain/below"),
            ("files[1].file", Some("x"), b"x"),
            ("files[2].path", None, b"   "),
            ("files[2].file", Some("x"), b"x"),
            ("files[3].file", Some("x"), b"x"),
            ("files[4].path", None, b"fifo"),
            ("files[4].file", Some("x"), b"x"),
            ("files[5].path", None, b"good"),
            ("files[5].file", Some("x"), b"content"),
        ],
    )
    .await;
    assert_eq!(answer.error(), (400, "BAD_REQUEST".into()));
    let body = answer.json();
    assert_eq!(body["files"], json!([{"path": "good", "bytes": 7}]));
    let errors: Vec<&str> = body["errors"].as_array().unwrap().iter().map(|e| e.as_str().unwrap()).collect();
    let expected = [
        "dir: create: is a directory",
        "plain/below: mkdir: not a directory",
        "files[2].path: empty path",
        "files[3].file: no path was given for it",
        "fifo: create: not a regular file",
    ];
    assert_eq!(errors, expected);
    assert_eq!(daemon.read("good"), b"content");
}

#[tokio::test]
async fn broken_requests_are_answered() {
    let daemon = Daemon::start().await;
    let whole = form(&[
        ("files[0].path", None, b"a"),
        ("files[0].file", Some("x"), b"content"),
        ("files[1].path", None, b"b"),
        ("files[1].file", Some("x"), b"other"),
    ]);
    let cut = whole.len() - BOUNDARY.len() - 8;
    let answer = post(&daemon, "/files/bulk-upload", whole[..cut].to_vec()).await;
    assert_eq!(answer.status, 400);
    assert_eq!(answer.json()["files"], json!([{"path": "a", "bytes": 7}]));
    assert!(!daemon.path("b").exists(), "half a file is not there");
    let left = std::fs::read_dir(daemon.directory.path()).unwrap().count();
    assert_eq!(left, 1, "no temporary file stays");
    for kind in ["application/json", "multipart/form-data", "text/plain; boundary=x"] {
        let answer = daemon
            .ask_with("POST", "/files/bulk-upload", &[("content-type", kind)], vec![b'x'; 1 << 20])
            .await;
        assert_eq!((answer.status, answer.json()["errors"].as_array().unwrap().len()), (400, 1));
        assert_eq!(answer.json()["files"], json!([]));
    }
    assert_eq!(bulk(&daemon, &[]).await.json(), json!({"files": []}));
}

#[tokio::test]
async fn chunked_bodies_of_unknown_length_stream() {
    let daemon = Daemon::start().await;
    let whole = form(&[("files[0].path", None, b"a"), ("files[0].file", Some("x"), b"one--two\r\nthree")]);
    let bytes = whole.into_iter().map(|b| Ok::<_, std::io::Error>(Bytes::from(vec![b])));
    let answer = post(
        &daemon,
        "/files/bulk-upload",
        Body::from_stream(futures_util::stream::iter(bytes.collect::<Vec<_>>())),
    )
    .await;
    assert_eq!(answer.status, 200);
    assert_eq!(daemon.read("a"), b"one--two\r\nthree");
}

/// A large body is read from the socket if its length is known, and through the connection if it is not.
#[tokio::test]
async fn large_bodies_arrive_either_way() {
    let daemon = Daemon::start().await;
    let content: Vec<u8> =
        (0..1_500_000u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    let whole = form(&[
        ("files[0].path", None, b"a"),
        ("files[0].file", Some("x"), &content),
        ("files[1].path", None, b"b"),
        ("files[1].file", Some("x"), b"small"),
    ]);
    let answer = post(&daemon, "/files/bulk-upload", whole.clone()).await;
    assert_eq!((answer.status, answer.header("connection")), (200, "close"), "{:?}", answer.body);
    assert!(daemon.read("a") == content && daemon.read("b") == b"small");

    let pieces: Vec<_> =
        whole.chunks(70_001).map(|p| Ok::<_, std::io::Error>(Bytes::copy_from_slice(p))).collect();
    std::fs::remove_file(daemon.path("a")).unwrap();
    let body = Body::from_stream(futures_util::stream::iter(pieces));
    let answer = post(&daemon, "/files/bulk-upload", body).await;
    assert_eq!((answer.status, answer.headers.contains_key("connection")), (200, false));
    assert!(daemon.read("a") == content);
}

/// With fewer threads for blocking work than slow clients, others are served nevertheless.
#[test]
fn slow_clients_do_not_take_every_thread() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(20).build();
    runtime.unwrap().block_on(slow_clients(40));
}

async fn slow_clients(count: usize) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    const SIZE: usize = 2 << 20;
    let daemon = Daemon::start().await;
    let mut slow = Vec::new();
    for n in 0..count {
        let mut client = tokio::net::TcpStream::connect(daemon.address).await.unwrap();
        let head = format!(
            "POST /files/upload-v2?path=slow{n} HTTP/1.1\r\nHost: x\r\nContent-Length: {SIZE}\r\n\r\n"
        );
        client.write_all(head.as_bytes()).await.unwrap();
        client.write_all(&vec![7; SIZE / 2]).await.unwrap();
        slow.push(client);
    }
    let temporary = || std::fs::read_dir(daemon.directory.path()).unwrap().count();
    wait("every upload to begin", || temporary() == slow.len()).await;
    let answer = daemon.ask_with("POST", "/files/upload-v2?path=quick", &[], vec![8; SIZE]).await;
    assert_eq!((answer.status, daemon.read("quick").len()), (200, SIZE));
    for (n, mut client) in slow.into_iter().enumerate() {
        client.write_all(&vec![9; SIZE / 2]).await.unwrap();
        let mut answer = [0; 12];
        client.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"HTTP/1.1 200");
        let content = daemon.read(&format!("slow{n}"));
        assert_eq!(content.len(), SIZE);
        assert!(content[..SIZE / 2].iter().all(|b| *b == 7) && content[SIZE / 2..].iter().all(|b| *b == 9));
    }
}

#[tokio::test]
async fn overwriting_keeps_what_a_file_is() {
    let daemon = Daemon::start().await;
    let path = daemon.write("f", "old");
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o4710)).unwrap();
    let before = std::fs::metadata(&path).unwrap();
    symlink("f", daemon.path("link")).unwrap();
    symlink("dir/new", daemon.path("dangling")).unwrap();
    std::fs::create_dir(daemon.path("dir")).unwrap();
    daemon.write("one", "old");
    std::fs::hard_link(daemon.path("one"), daemon.path("two")).unwrap();
    let mut reader = std::fs::File::open(&path).unwrap();
    let answer = bulk(
        &daemon,
        &[
            ("files[0].path", None, b"link"),
            ("files[0].file", Some("x"), b"new"),
            ("files[1].path", None, b"dangling"),
            ("files[1].file", Some("x"), b"made"),
            ("files[2].path", None, b"one"),
            ("files[2].file", Some("x"), b"both"),
        ],
    )
    .await;
    assert_eq!(answer.status, 200, "{:?}", answer.body);
    let after = std::fs::metadata(&path).unwrap();
    assert_eq!((after.mode(), after.uid(), after.gid()), (before.mode(), before.uid(), before.gid()));
    assert!(daemon.path("link").is_symlink() && daemon.path("dangling").is_symlink());
    assert_eq!(
        (daemon.read("f"), daemon.read("dir/new"), daemon.read("two")),
        (b"new".to_vec(), b"made".to_vec(), b"both".to_vec())
    );
    let mut seen = String::new();
    std::io::Read::read_to_string(&mut reader, &mut seen).unwrap();
    assert_eq!(seen, "old", "whoever reads the old file reads all of it");
}

#[tokio::test]
async fn a_reader_never_sees_half_a_file() {
    let daemon = Daemon::start().await;
    daemon.write("f", vec![b'a'; 4 << 20]);
    let content = |n: usize| vec![[b'a', b'b'][n % 2]; 4 << 20];
    let path = daemon.path("f");
    let (stop, stopped) = std::sync::mpsc::sync_channel::<()>(0);
    let reads = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&reads);
    let reader = std::thread::spawn(move || {
        while stopped.try_recv().is_err_and(|e| e == std::sync::mpsc::TryRecvError::Empty) {
            let seen = std::fs::read(&path).unwrap();
            assert_eq!(seen.len(), 4 << 20);
            assert!(seen.iter().all(|b| *b == seen[0]));
            count.fetch_add(1, Ordering::Relaxed);
        }
    });
    for n in 1..8 {
        let content = content(n);
        let before = reads.load(Ordering::Relaxed);
        assert_eq!(
            bulk(&daemon, &[("files[0].path", None, b"f"), ("files[0].file", Some("x"), &content)])
                .await
                .status,
            200
        );
        wait("the reader, however late it is", || {
            reads.load(Ordering::Relaxed) > before || reader.is_finished()
        })
        .await;
    }
    drop(stop);
    reader.join().unwrap();
}

#[tokio::test]
async fn an_abandoned_upload_leaves_nothing() {
    use tokio::io::AsyncWriteExt;
    let daemon = Daemon::start().await;
    daemon.write("f", "old");
    let body = form(&[("files[0].path", None, b"f"), ("files[0].file", Some("x"), &vec![1; 4 << 20])]);
    let mut client = tokio::net::TcpStream::connect(daemon.address).await.unwrap();
    let head = format!(
        "POST /files/bulk-upload HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary={BOUNDARY}\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    client.write_all(head.as_bytes()).await.unwrap();
    client.write_all(&body[..body.len() / 2]).await.unwrap();
    let names = || {
        std::fs::read_dir(daemon.directory.path())
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect::<Vec<_>>()
    };
    wait("the temporary file", || names().len() == 2).await;
    drop(client);
    wait("the temporary file to go", || names() == ["f"]).await;
    assert_eq!(daemon.read("f"), b"old");
}

/// Waits until `condition` holds.
async fn wait(what: &str, condition: impl Fn() -> bool) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    while !condition() {
        assert!(tokio::time::Instant::now() < deadline, "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn single_uploads() {
    let daemon = Daemon::start().await;
    let file = form(&[("other", None, b"x"), ("file", Some("x"), b"content")]);
    let answer = post(&daemon, "/files/upload?path=old/f", file.clone()).await;
    assert_eq!((answer.status, answer.body.len()), (200, 0));
    assert_eq!(daemon.read("old/f"), b"content");
    assert_eq!(std::fs::metadata(daemon.path("old")).unwrap().mode() & 0o7777, 0o750);

    let expected = |name: &str, path: &str| json!({"name": name, "path": daemon.path(path), "type": "file"});
    let answer = post(&daemon, "/files/upload-v2?path=./v2/../v2/f&expires=1", file).await;
    assert_eq!((answer.status, answer.json()), (200, expected("f", "v2/f")));
    assert_eq!(daemon.read("v2/f"), b"content");
    let raw: Vec<u8> = (0..=255).cycle().take(3_000_000).collect();
    let answer = daemon
        .ask_with(
            "POST",
            &format!("/files/upload-v2?path={}", encode("r w")),
            &[("content-type", "text/plain")],
            raw.clone(),
        )
        .await;
    assert_eq!((answer.status, answer.json()), (200, expected("r w", "r w")));
    assert!(daemon.read("r w") == raw);
    let answer = daemon.ask("POST", "/files/upload-v2?path=r%20w").await;
    assert_eq!((answer.status, daemon.read("r w").len()), (200, 0));

    let large = form(&[("file", Some("x"), &vec![1; 1 << 20])]);
    std::fs::create_dir(daemon.path("dir")).unwrap();
    for (target, body, code) in [
        ("/files/upload", large.clone(), "BAD_REQUEST"),
        ("/files/upload?path=x", form(&[("data", Some("x"), b"x")]), "BAD_REQUEST"),
        ("/files/upload?path=dir", large.clone(), "INVALID_FILE_PATH"),
        ("/files/upload-v2", large.clone(), "BAD_REQUEST"),
        ("/files/upload-v2?path=dir", large.clone(), "INVALID_FILE_PATH"),
        ("/files/upload-v2?path=x", large[..1000].to_vec(), "INVALID_REQUEST_BODY"),
    ] {
        assert_eq!(post(&daemon, target, body).await.error(), (400, code.to_owned()), "{target}");
    }
    assert!(!daemon.path("x").exists());
    assert_eq!(daemon.ask_with("POST", "/files/upload?path=x", &[], "raw").await.status, 400);
}
