//! The routes on a volume: what a bucket does not do must not keep files from being written.

#![allow(clippy::unwrap_used)]

#[path = "../common/mod.rs"]
mod common;
mod mounted;

use common::{Daemon, encode};
use mounted::{Bucket, LOST};
use serde_json::json;

#[tokio::test]
async fn objects_are_overwritten() {
    let (daemon, bucket) = (Daemon::start().await, Bucket::mount());
    let object = bucket.path("object");
    let upload = format!("/files/upload-v2?path={}", encode(&object));
    for content in [&b"first, and longer"[..], b"second", b"", b"a third"] {
        let answer = daemon.ask_with("POST", &upload, &[], content).await;
        assert_eq!((answer.status, &*std::fs::read(&object).unwrap()), (200, content), "{:?}", answer.body);
    }
    let request = json!({ "files": [object], "pattern": "third", "newValue": "fourth" }).to_string();
    let header = [("content-type", "application/json")];
    let answer = daemon.ask_with("POST", "/files/replace", &header, request).await.json();
    assert_eq!((&answer[0]["success"], &*std::fs::read(&object).unwrap()), (&json!(true), &b"a fourth"[..]));
    // What does not arrive is told.
    let lost = format!("/files/upload-v2?path={}", encode(bucket.path(LOST)));
    assert_eq!(daemon.ask_with("POST", &lost, &[], "x").await.status, 400);
}

#[tokio::test]
async fn files_are_moved_to_within_and_from_a_bucket() {
    let (daemon, bucket) = (Daemon::start().await, Bucket::mount());
    let there = |name: &str| bucket.path(name).to_str().unwrap().to_owned();
    let relocate = async |source: &str, destination: &str| {
        let target = format!("/files/move?source={}&destination={}", encode(source), encode(destination));
        daemon.ask("POST", &target).await
    };
    daemon.write("tree/sub/file", vec![7; 1 << 20]);
    std::fs::hard_link(daemon.path("tree/sub/file"), daemon.path("tree/again")).unwrap();
    let (first, second) = (there("first"), there("second"));
    for (source, destination) in [("tree", &*first), (&*first, &*second), (&*second, "back")] {
        let answer = relocate(source, destination).await;
        assert_eq!((answer.status, answer.body.len()), (200, 0), "{source}: {:?}", answer.body);
        let moved = daemon.path(destination);
        for name in ["sub/file", "again"] {
            assert!(std::fs::read(moved.join(name)).unwrap() == [7; 1 << 20], "{destination}/{name}");
        }
        assert!(!daemon.path(source).exists(), "{source} has gone");
    }
    // What is there stays, and what did not arrive leaves its source.
    daemon.write("file", "new");
    std::fs::write(there("taken"), "old").unwrap();
    assert_eq!(relocate("file", &there("taken")).await.error(), (409, "CONFLICT".into()));
    assert_eq!(std::fs::read(there("taken")).unwrap(), b"old");
    daemon.write(&format!("back/sub/{LOST}"), "x");
    for (source, destination) in [("file", LOST), ("back", "third")] {
        assert_eq!(relocate(source, &there(destination)).await.error(), (400, "BAD_REQUEST".into()));
        assert!(daemon.path(source).exists() && !bucket.path(destination).exists(), "{source}");
    }
    assert_eq!(daemon.read(&format!("back/sub/{LOST}")), b"x");
}
