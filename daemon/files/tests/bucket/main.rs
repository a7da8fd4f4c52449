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
