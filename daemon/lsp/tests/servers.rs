//! The routes over a server that notes what it is told and misbehaves on request.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use common::{World, bare, names, server, with};
use serde_json::{Value, json};

/// Speaks the protocol, and notes each message in `log`. Its symbols are the lines of the open document, with the document's version as kind.
const SERVER: &str = r#"#!/usr/bin/env python3
import json, os, subprocess, sys, time
log = open("log", "a", buffering=1)
log.write("start %d\n" % os.getpid())
texts = {}
child = subprocess.Popen(["sleep", "1000"])
log.write("child %d\n" % child.pid)
def send(message):
    body = json.dumps(message).encode()
    sys.stdout.buffer.write(b"Content-Length: %d\r\n\r\n" % len(body) + body)
    sys.stdout.buffer.flush()
while True:
    length = 0
    while (line := sys.stdin.buffer.readline().strip()):
        if line.lower().startswith(b"content-length:"):
            length = int(line.split(b":")[1])
    if not length:
        break
    message = json.loads(sys.stdin.buffer.read(length))
    method, params = message.get("method"), message.get("params") or {}
    log.write("%s %s\n" % (method, (params.get("textDocument") or {}).get("uri", "")))
    document = params.get("textDocument") or {}
    result = None
    if method == "initialize":
        result = {"capabilities": {"documentSymbolProvider": True}}
        send({"jsonrpc": "2.0", "id": 7, "method": "workspace/configuration", "params": {"items": [{}, {}]}})
    elif method is None:
        log.write("reply %s\n" % json.dumps(message.get("result")))
    elif method == "textDocument/didOpen":
        assert document["uri"] not in texts
        texts[document["uri"]] = document["text"]
    elif method == "textDocument/didClose":
        del texts[document["uri"]]
    elif method == "textDocument/documentSymbol":
        text = texts[document["uri"]]
        if "crash" in text:
            os._exit(3)
        if "garble" in text:
            sys.stdout.write("no protocol\r\n\r\n"); sys.stdout.flush(); continue
        if "refuse" in text:
            send({"jsonrpc": "2.0", "id": message["id"], "error": {"code": -32603, "message": "will not"}}); continue
        where = {"start": {"line": 0, "character": 0}, "end": {"line": 0, "character": 1}}
        result = [{"name": line, "kind": 5, "location": {"uri": document["uri"], "range": where}} for line in text.split()]
    elif method == "textDocument/completion":
        result = [{"label": "%d:%d" % (params["position"]["line"], params["position"]["character"]), "documentation": "d"}]
    elif method == "exit":
        break
    if "id" in message and method:
        send({"jsonrpc": "2.0", "id": message["id"], "result": result})
"#;

fn world() -> World {
    let world = bare();
    world.write("bin/pylsp", SERVER);
    std::fs::set_permissions(world.path("bin/pylsp"), std::fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", world.path("bin").display(), std::env::var("PATH").unwrap());
    let set = [("PATH".to_owned(), path)].into();
    world.sandbox.environment.update(&set, &[], None).unwrap();
    world.write("app/a.py", "alpha beta");
    world
}

fn log(world: &World) -> String {
    std::fs::read_to_string(world.path("log")).unwrap_or_default()
}

fn pids(world: &World, what: &str) -> Vec<i32> {
    log(world).lines().filter_map(|line| line.strip_prefix(what)?.trim().parse().ok()).collect()
}

fn is_alive(pid: i32) -> bool {
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), None).is_ok()
}

const SYMBOLS: &str = "/lsp/document-symbols?languageId=python&pathToProject=app&uri=file://app/a.py";

#[tokio::test]
async fn a_server_is_started_once_and_stopped_with_all_its_children() {
    let world = world();
    let before = world.fails("GET", SYMBOLS, Value::Null, 400, "LSP_SERVER_NOT_INITIALIZED").await;
    assert!(before.contains("python"), "{before}");
    world.fails("POST", "/lsp/stop", server("python"), 400, "LSP_SERVER_NOT_INITIALIZED").await;
    let starts = (0..8).map(|_| world.post("/lsp/start", server("python"), 200));
    futures_util::future::join_all(starts).await;
    let absolute = json!({"languageId": "python", "pathToProject": world.path("app/../app")});
    world.post("/lsp/start", absolute, 200).await;
    assert_eq!(pids(&world, "start").len(), 1);
    assert_eq!(names(&world.get(SYMBOLS).await), ["alpha", "beta"]);
    assert!(log(&world).contains("reply [null, null]"));
    let (server_pid, child) = (pids(&world, "start")[0], pids(&world, "child")[0]);
    assert!(is_alive(server_pid) && is_alive(child));
    world.post("/lsp/stop", server("python"), 200).await;
    assert!(log(&world).contains("shutdown \nexit \n"), "{}", log(&world));
    let deadline = Instant::now() + Duration::from_secs(60);
    while is_alive(server_pid) || is_alive(child) {
        assert!(Instant::now() < deadline, "the server's processes live on");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    world.fails("GET", SYMBOLS, Value::Null, 400, "LSP_SERVER_NOT_INITIALIZED").await;
    world.post("/lsp/start", server("python"), 200).await;
    assert_eq!(pids(&world, "start").len(), 2);
}

#[tokio::test]
async fn no_more_servers_than_allowed() {
    let world = world();
    let project = |name: usize| json!({"languageId": "python", "pathToProject": format!("project-{name}")});
    for name in 0..common::MOST {
        world.post("/lsp/start", project(name), 200).await;
    }
    let refused = world.fails("POST", "/lsp/start", project(9), 429, "TOO_MANY_REQUESTS").await;
    assert!(refused.contains("PINFOLD_MAX_LANGUAGE_SERVERS"), "{refused}");
    world.post("/lsp/start", project(0), 200).await;
    world.post("/lsp/stop", project(0), 200).await;
    world.post("/lsp/start", project(9), 200).await;
}

#[tokio::test]
async fn documents_open_again_and_follow_their_files() {
    let world = world();
    world.post("/lsp/start", server("python"), 200).await;
    let document = with("python", json!({"uri": "file://app/a.py"}));
    world.post("/lsp/did-open", document.clone(), 200).await;
    world.post("/lsp/did-open", document.clone(), 200).await;
    world.write("app/a.py", "gamma delta epsilon");
    assert_eq!(names(&world.get(SYMBOLS).await), ["gamma", "delta", "epsilon"]);
    world.post("/lsp/did-close", document.clone(), 200).await;
    world.post("/lsp/did-close", document, 200).await;
    // A document that nobody opened is open as long as it is asked about.
    assert_eq!(names(&world.get(SYMBOLS).await).len(), 3);
    let uri = format!("file://{}", world.path("app/a.py").display());
    let expected = [
        "didOpen",
        "didClose",
        "didOpen",
        "didClose",
        "didOpen",
        "documentSymbol",
        "didClose",
        "didOpen",
        "documentSymbol",
        "didClose",
    ];
    let told = || {
        let log = log(&world);
        let lines = log.lines().filter_map(|line| line.strip_prefix("textDocument/")?.strip_suffix(&uri));
        lines.map(|line| line.trim().to_owned()).collect::<Vec<_>>()
    };
    let deadline = Instant::now() + Duration::from_secs(60);
    while told() != expected {
        assert!(Instant::now() < deadline, "the server was told {:?}", told());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let missing = with("python", json!({"uri": "file://app/none.py"}));
    world.fails("POST", "/lsp/did-open", missing, 400, "BAD_REQUEST").await;
}

#[tokio::test]
async fn completions_take_position_zero() {
    let world = world();
    world.post("/lsp/start", server("python"), 200).await;
    let position = json!({"line": 0, "character": 0});
    let body = with(
        "python",
        json!({"uri": "file://app/a.py", "position": position, "context": {"triggerKind": 1}}),
    );
    let (status, answer) = world.call("POST", "/lsp/completions", body).await;
    assert_eq!(status, 200, "{answer}");
    assert_eq!(
        answer,
        json!({"isIncomplete": false, "items": [{"label": "0:0", "documentation": {"kind": "plaintext", "value": "d"}}]})
    );
}

#[tokio::test]
async fn workspace_symbols_come_from_documents_when_the_server_has_none() {
    let world = world();
    world.write("app/sub/b.py", "BetaTwo zeta");
    world.write("app/node_modules/c.py", "beta");
    world.write("app/notes.txt", "beta");
    world.post("/lsp/start", server("python"), 200).await;
    let search =
        |query: &str| format!("/lsp/workspacesymbols?languageId=python&pathToProject=app&query={query}");
    assert_eq!(names(&world.get(&search("bet")).await), ["beta", "BetaTwo"]);
    world.post("/lsp/did-open", with("python", json!({"uri": "app/a.py"})), 200).await;
    assert_eq!(names(&world.get(&search("BET")).await), ["beta"]);
    assert_eq!(world.get(&search("nothing")).await, json!([]));
    world.fails("GET", &search(""), Value::Null, 400, "BAD_REQUEST").await;
}

#[tokio::test]
async fn a_server_that_crashes_or_garbles_is_replaced_with_its_documents() {
    let world = world();
    world.write("app/bad.py", "crash");
    world.post("/lsp/start", server("python"), 200).await;
    world.post("/lsp/did-open", with("python", json!({"uri": "file://app/a.py"})), 200).await;
    let bad = "/lsp/document-symbols?languageId=python&pathToProject=app&uri=file://app/bad.py";
    for (text, message) in [("crash", "has ended"), ("garble", "has ended"), ("refuse", "will not")] {
        world.write("app/bad.py", text);
        let error = world.fails("GET", bad, Value::Null, 400, "BAD_REQUEST").await;
        assert!(error.contains(message), "{error}");
        assert_eq!(names(&world.get(SYMBOLS).await), ["alpha", "beta"]);
    }
    assert_eq!(pids(&world, "start").len(), 3);
    // The document was open before and is open in each new server, so nothing more is opened for the question.
    let uri = format!("textDocument/didOpen file://{}", world.path("app/a.py").display());
    assert_eq!(log(&world).matches(&uri).count(), 3);
}

#[tokio::test]
async fn what_cannot_be_started_says_why() {
    let world = bare();
    world
        .sandbox
        .environment
        .update(&[("PATH".to_owned(), "/nonexistent".to_owned())].into(), &[], None)
        .unwrap();
    let error = world.fails("POST", "/lsp/start", server("python"), 500, "INTERNAL_SERVER_ERROR").await;
    assert!(error.contains("pylsp"), "{error}");
    world.fails("POST", "/lsp/start", server("cobol"), 400, "BAD_REQUEST").await;
    world.fails("POST", "/lsp/start", json!({"languageId": "python"}), 400, "INVALID_REQUEST_BODY").await;
    world
        .fails(
            "POST",
            "/lsp/start",
            json!({"languageId": "python", "pathToProject": ""}),
            400,
            "INVALID_REQUEST_BODY",
        )
        .await;
    world.fails("GET", "/lsp/document-symbols?languageId=python", Value::Null, 400, "BAD_REQUEST").await;
}
