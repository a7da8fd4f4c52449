//! Each state and each mistake has its answer, by which callers know what to do.

use std::net::Ipv4Addr;

use futures_util::SinkExt;
use pinfold_runner::index::SandboxState;
use tokio::io::AsyncReadExt;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};

use super::*;

/// A node whose sandboxes' daemons are behind `port`, and a sandbox that counts as started there.
async fn with_daemon_at(port: u16) -> (Api, SandboxId) {
    let api = Api::over(Bench::with(|c| c.toolbox_port = port).await).await;
    let id = SandboxId::random();
    api.bench.node.index.change(&id, |s| {
        (s.state, s.address) = (SandboxState::Started, Some(Ipv4Addr::LOCALHOST));
        s.container_id = "c".to_owned();
    });
    (api, id)
}

/// Issue 4, part 7: a known state is told as such, with a code and whether to come again; 502 is a failed connection alone.
#[tokio::test]
async fn each_state_has_its_answer_at_the_toolbox() {
    let api = Api::new().await;
    let id = api.sandbox().await;
    let path = format!("/sandboxes/{id}/toolbox/version");
    let address = api.bench.node.index.get(&id).unwrap().address;
    let not_ready = (409, Some("1".to_owned()), "SANDBOX_NOT_READY");
    let not_running = (400, None, "SANDBOX_NOT_RUNNING");
    use SandboxState as S;
    for state in [S::Creating, S::Starting, S::PullingSnapshot, S::Restoring, S::Resizing] {
        api.bench.node.index.change(&id, |s| (s.state, s.address) = (state, None));
        let (status, after, body) = api.ask("GET", &path, None).await;
        assert_eq!((status, after, body["code"].as_str().unwrap()), not_ready, "{state:?}");
        api.bench.node.index.change(&id, |s| s.address = address);
        assert_eq!(
            api.call("GET", &path, None).await.0,
            200,
            "{state:?}: a daemon may answer before its start is told"
        );
    }
    for state in [S::Stopping, S::Stopped, S::Destroying, S::Error, S::Unknown] {
        api.bench.node.index.change(&id, |s| s.state = state);
        let (status, after, body) = api.ask("GET", &path, None).await;
        assert_eq!((status, after, body["code"].as_str().unwrap()), not_running, "{state:?}");
        assert!(body["message"].as_str().unwrap().contains(state.as_str()), "{body}");
    }
    let (unreachable, id) = with_daemon_at(1).await;
    let (status, body) = unreachable.call("GET", &format!("/sandboxes/{id}/toolbox/version"), None).await;
    assert_eq!((status, &body["code"]), (502, &json!("SANDBOX_UNREACHABLE")));
}

/// A sandbox that ends while it is asked something is told as ended, not as a broken connection.
#[tokio::test]
async fn a_sandbox_that_ends_during_a_request_is_told_as_ended() {
    let daemon = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (api, id) = with_daemon_at(daemon.local_addr().unwrap().port()).await;
    let ends = async {
        let (mut stream, _) = daemon.accept().await.unwrap();
        assert_ne!(stream.read(&mut [0; 1024]).await.unwrap(), 0);
        api.bench.node.index.change(&id, |s| (s.state, s.address) = (SandboxState::Stopped, None));
    };
    let path = format!("/sandboxes/{id}/toolbox/process/execute");
    let (answer, ()) = tokio::join!(api.call("POST", &path, Some(json!({}))), ends);
    assert_eq!((answer.0, &answer.1["code"]), (400, &json!("SANDBOX_NOT_RUNNING")), "{answer:?}");
}

/// Contract 11.3: a log that is followed without a WebSocket is a plain stream, and the sandbox sees nothing of who asked.
#[tokio::test]
async fn a_commands_log_is_followed_without_our_token() {
    let daemon = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (api, id) = with_daemon_at(daemon.local_addr().unwrap().port()).await;
    let serves = async move {
        let (stream, _) = daemon.accept().await.unwrap();
        let mut head = String::new();
        #[expect(clippy::result_large_err, reason = "the library's own signature")]
        let noted = |request: &Request, response: Response| -> Result<Response, ErrorResponse> {
            head = format!("{} {:?}", request.uri(), request.headers());
            Ok(response)
        };
        let mut socket = tokio_tungstenite::accept_hdr_async(stream, noted).await.unwrap();
        socket.send(Message::text("one\n")).await.unwrap();
        socket.send(Message::binary("two\n".as_bytes().to_vec())).await.unwrap();
        socket.close(None).await.unwrap();
        head
    };
    let path = format!("/sandboxes/{id}/toolbox/process/session/s/command/c/logs?follow=true&follow=true");
    let ((status, body), head) = tokio::join!(api.call("GET", &path, None), serves);
    assert_eq!((status, body), (200, json!("one\ntwo\n")));
    assert!(head.starts_with("/process/session/s/command/c/logs?follow=true "), "{head}");
    assert!(!head.contains(TOKEN) && !head.to_ascii_lowercase().contains("authorization"), "{head}");
    // Nobody listens any more.
    let (status, body) = api.call("GET", &path, None).await;
    assert!(status == 400 && body["message"].as_str().unwrap().contains("could not follow"), "{body}");
}

/// Contract 4.1 and 4.4 to 4.20: what is wrong with a request is told before anything is done.
#[tokio::test]
async fn each_mistake_has_its_status_and_code() {
    let api =
        Api::over(Bench::with(|c| c.backup_timeout = std::time::Duration::from_millis(200)).await).await;
    let id = api.sandbox().await;
    let mut small = create_payload(&SandboxId::random());
    small["memoryQuota"] = json!(0);
    let unknown = format!("/sandboxes/{}/backup", SandboxId::random());
    let build = |snapshot: &str, dockerfile: &str| json!({"snapshot": snapshot, "dockerfile": dockerfile, "organizationId": "o"});
    let recovery = |quota: u32| json!({"userId": "u", "osUser": "u", "cpuQuota": 1, "memoryQuota": 1, "storageQuota": quota, "errorReason": "of no kind"});
    for (path, body, status, code) in [
        ("/sandboxes".to_owned(), small, 400, "INVALID_REQUEST_BODY"),
        (unknown, json!({"snapshot": "b:1", "registry": null}), 404, "NOT_FOUND"),
        (format!("/sandboxes/{id}/backup"), json!({"snapshot": ""}), 400, "INVALID_REQUEST_BODY"),
        (format!("/sandboxes/{id}/is-recoverable"), json!({"errorReason": ""}), 400, "INVALID_REQUEST_BODY"),
        (format!("/sandboxes/{id}/recover"), recovery(0), 400, "INVALID_REQUEST_BODY"),
        (format!("/sandboxes/{id}/recover"), recovery(1), 400, "BAD_REQUEST"),
        (format!("/sandboxes/{id}/network-settings"), json!({"networkAllowList": "x"}), 400, "BAD_REQUEST"),
        (format!("/sandboxes/{id}/snapshot-from-sandbox"), json!({"name": ""}), 400, "INVALID_REQUEST_BODY"),
        ("/snapshots/build".to_owned(), build("daytona-x", "FROM a"), 400, "BAD_REQUEST"),
        ("/snapshots/build".to_owned(), build("daytona-x:", "FROM a"), 400, "BAD_REQUEST"),
        ("/snapshots/build".to_owned(), build("daytona-x:1", ""), 400, "INVALID_REQUEST_BODY"),
        ("/snapshots/pull".to_owned(), json!({"snapshot": null}), 400, "INVALID_REQUEST_BODY"),
        ("/snapshots/tag".to_owned(), json!({"sourceImage": "no:1", "targetImage": "a:1"}), 404, "NOT_FOUND"),
        ("/snapshots/tag".to_owned(), json!({"sourceImage": "no:1", "targetImage": "a"}), 400, "BAD_REQUEST"),
        (format!("/sandboxes/{}/start", SandboxId::random()), json!({}), 404, "NOT_FOUND"),
    ] {
        let (got, answer) = api.call("POST", &path, Some(body)).await;
        assert_eq!((got, &answer["code"]), (status, &json!(code)), "{path}: {answer}");
    }
    // What the engine says has the same classes, and what takes too long or was taken over has its own.
    let user = EngineError::Internal {
        what: "start".to_owned(),
        message: "unable to find user bob: no match".to_owned(),
    };
    let conflict = EngineError::Conflict { what: "start".to_owned(), message: "no".to_owned() };
    for (fault, status, code) in [(user, 400, "BAD_REQUEST"), (conflict, 409, "CONFLICT")] {
        api.call("POST", &format!("/sandboxes/{id}/stop"), None).await;
        api.bench.engine.fail_next("start", Fault::Error(fault));
        let (got, answer) = api.call("POST", &format!("/sandboxes/{id}/start"), None).await;
        assert_eq!((got, &answer["code"]), (status, &json!(code)), "{answer}");
    }
    let (start, stop) = (format!("/sandboxes/{id}/start"), format!("/sandboxes/{id}/stop"));
    let begun = api.bench.engine.calls("start");
    api.bench.engine.fail_next("start", Fault::Hang);
    let takes_over = async {
        eventually("the start", || api.bench.engine.calls("start") > begun).await;
        api.call("POST", &stop, Some(json!({"force": true}))).await
    };
    let ((status, after, _), stopped) = tokio::join!(api.ask("POST", &start, None), takes_over);
    assert_eq!((status, after.as_deref(), stopped.0), (503, Some("1"), 200));
    api.bench.engine.fail_next("commit", Fault::Hang);
    let snapshot = json!({"name": "s", "registry": {"url": "reg.test"}});
    let (status, answer) =
        api.call("POST", &format!("/sandboxes/{id}/snapshot-from-sandbox"), Some(snapshot)).await;
    assert_eq!((status, &answer["code"]), (408, &json!("REQUEST_TIMEOUT")), "{answer}");
}

/// Contract 4.5 and 4.16: what failed in the background is read afterwards, until it is asked for again.
#[tokio::test]
async fn what_failed_in_the_background_is_told_until_it_is_tried_again() {
    let api = Api::new().await;
    let id = api.sandbox().await;
    let full =
        || EngineError::Internal { what: "e".to_owned(), message: "No space left on device".to_owned() };
    api.bench.engine.fail_next("commit", Fault::Error(full()));
    api.call("POST", &format!("/sandboxes/{id}/backup"), Some(json!({"snapshot": "b:1", "registry": null})))
        .await;
    let failed =
        || matches!(api.bench.node.backups.last(&id), pinfold_runner::images::BackupState::Failed(..));
    eventually("the backup's end", failed).await;
    let (_, info) = api.call("GET", &format!("/sandboxes/{id}"), None).await;
    assert_eq!((&info["backupState"], &info["recoverable"]), (&json!("FAILED"), &json!(true)), "{info}");
    assert!(info["backupError"].as_str().unwrap().contains("No space left"), "{info}");
    api.bench.engine.exit(id.as_str(), 3, false);
    eventually("the crash", || api.bench.node.index.get(&id).is_some_and(|s| s.state == SandboxState::Error))
        .await;
    let (status, info) = api.call("GET", &format!("/sandboxes/{id}"), None).await;
    assert_eq!((status, &info["state"]), (200, &json!("error")));
    assert!(info["errorReason"].as_str().is_some_and(|r| r.contains("code 3")), "{info}");
    let build = json!({"snapshot": "daytona-y:1", "dockerfile": "FROM a", "organizationId": "o"});
    for (call, path, body, name) in [
        ("build", "/snapshots/build", build, "daytona-y:1"),
        ("pull", "/snapshots/pull", json!({"snapshot": "away:1"}), "away:1"),
    ] {
        api.bench.engine.fail_next(call, Fault::Error(full()));
        api.call("POST", path, Some(body.clone())).await;
        let info = format!("/snapshots/info?snapshot={name}");
        eventually("its failure", || api.bench.node.images.failure(name).is_some()).await;
        let (status, answer) = api.call("GET", &info, None).await;
        assert!(
            status == 400 && answer["message"].as_str().unwrap().contains("No space left"),
            "{status} {answer}"
        );
        let begun = api.bench.engine.calls(call);
        api.bench.engine.fail_next(call, Fault::Hang);
        api.call("POST", path, Some(body)).await;
        eventually("the next attempt", || api.bench.engine.calls(call) > begun).await;
        assert_eq!(api.call("GET", &info, None).await.0, 404, "{name} is under way");
    }
}
