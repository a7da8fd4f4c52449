//! The runner's HTTP API as its callers see it: tokens, error bodies, push-mode routes, the toolbox proxy.
#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

mod answers;
#[path = "../common/mod.rs"]
mod common;

use std::sync::Arc;

use common::{Bench, Control, TOKEN, create_payload, eventually};
use pinfold_engine::{EngineError, Fault};
use pinfold_proto::id::SandboxId;
use serde_json::{Value, json};

struct Api {
    bench: Bench,
    client: reqwest::Client,
    base: String,
}

impl Api {
    async fn new() -> Self {
        Self::over(Bench::new().await).await
    }

    async fn over(bench: Bench) -> Self {
        let (address, _stop, _task) = bench.serve(Arc::new(Control::default())).await;
        let client = pinfold_runner::jobs::http_client().unwrap();
        Self { bench, client, base: format!("http://{address}") }
    }

    async fn call(&self, method: &str, path: &str, body: Option<Value>) -> (u16, Value) {
        let (status, _, body) = self.ask(method, path, body).await;
        (status, body)
    }

    /// Status, `Retry-After` and body of an answer.
    async fn ask(&self, method: &str, path: &str, body: Option<Value>) -> (u16, Option<String>, Value) {
        let method = reqwest::Method::from_bytes(method.as_bytes()).unwrap();
        let mut request = self.client.request(method, format!("{}{path}", self.base)).bearer_auth(TOKEN);
        if let Some(body) = body {
            request = request.json(&body);
        }
        let response = request.send().await.unwrap();
        let status = response.status().as_u16();
        let after = response.headers().get("retry-after").map(|v| v.to_str().unwrap().to_owned());
        let text = response.text().await.unwrap();
        (status, after, serde_json::from_str(&text).unwrap_or(Value::String(text)))
    }

    async fn sandbox(&self) -> SandboxId {
        let id = SandboxId::random();
        let (status, body) = self.call("POST", "/sandboxes", Some(create_payload(&id))).await;
        assert_eq!((status, &body["daemonVersion"]), (201, &json!("9.9.9")), "{body}");
        id
    }
}

#[tokio::test]
async fn pain_21_every_refusal_has_a_code_and_a_message() {
    let api = Api::new().await;
    let open = api.client.get(format!("{}/", api.base)).send().await.unwrap();
    assert_eq!(open.json::<Value>().await.unwrap()["status"], "ok");
    let refused = api.client.get(format!("{}/info", api.base)).bearer_auth("x").send().await.unwrap();
    assert_eq!(refused.status(), 401);
    let body: Value = refused.json().await.unwrap();
    assert_eq!(
        (&body["code"], &body["path"], &body["method"]),
        (&json!("UNAUTHORIZED"), &json!("/info"), &json!("GET"))
    );
    assert!(body["message"].as_str().unwrap().starts_with("unauthorized: "));
    assert_eq!(api.client.get(format!("{}/nowhere", api.base)).send().await.unwrap().status(), 404);
    let (status, body) = api.call("GET", "/info", None).await;
    assert_eq!((status, &body["serviceHealth"][0]["serviceName"]), (200, &json!("docker")));
    let (status, body) = api.call("GET", &format!("/sandboxes/{}", SandboxId::random()), None).await;
    assert_eq!((status, &body["state"], &body["backupState"]), (200, &json!("destroyed"), &json!("NONE")));
    assert_eq!(
        api.call("POST", "/sandboxes", Some(json!({"id": null}))).await.1["code"],
        "INVALID_REQUEST_BODY"
    );
    assert_eq!(api.call("GET", "/snapshots/logs", None).await.0, 400);
    assert_eq!(
        api.call("GET", "/snapshots/logs?snapshotRef=daytona-1&follow=false&follow=false", None).await.0,
        404
    );
}

#[tokio::test]
async fn a_life_in_routes() {
    let api = Api::new().await;
    let id = api.sandbox().await;
    let (_, info) = api.call("GET", &format!("/sandboxes/{id}"), None).await;
    assert_eq!((&info["state"], &info["daemonVersion"]), (&json!("started"), &json!("9.9.9")));
    for (path, body, answer) in [
        ("network-settings", Some(json!({"networkBlockAll": true})), "Network settings updated"),
        ("resize", Some(json!({"cpu": 2})), "Sandbox resized"),
        ("stop", None, "Sandbox stopped"),
        ("stop", Some(json!("nonsense")), "Sandbox stopped"),
    ] {
        let (status, text) = api.call("POST", &format!("/sandboxes/{id}/{path}"), body).await;
        assert_eq!((status, text), (200, json!(answer)), "{path}");
    }
    let (status, started) = api.call("POST", &format!("/sandboxes/{id}/start?token=abc"), None).await;
    assert_eq!((status, &started["daemonVersion"]), (200, &json!("9.9.9")));
    let (_, recoverable) = api
        .call(
            "POST",
            &format!("/sandboxes/{id}/is-recoverable"),
            Some(json!({"errorReason": "No space left on device"})),
        )
        .await;
    assert_eq!(recoverable, json!({"recoverable": true}));
    let (status, text) = api
        .call("POST", &format!("/sandboxes/{id}/backup"), Some(json!({"snapshot": "b:1", "registry": null})))
        .await;
    assert_eq!((status, text), (201, json!("Backup started")));
    let state = || {
        let node = api.bench.node.clone();
        node.backups.last(&id)
    };
    eventually("the backup", || matches!(state(), pinfold_runner::images::BackupState::Completed(_))).await;
    let full =
        EngineError::Internal { what: "start".to_owned(), message: "No space left on device".to_owned() };
    api.call("POST", &format!("/sandboxes/{id}/stop"), None).await;
    api.bench.engine.fail_next("start", Fault::Error(full));
    let (status, body) = api.call("POST", &format!("/sandboxes/{id}/start"), None).await;
    let inner: Value = serde_json::from_str(body["message"].as_str().unwrap()).unwrap();
    assert_eq!((status, &inner["recoverable"]), (400, &json!(true)));
    assert_eq!(
        api.call("POST", &format!("/sandboxes/{id}/destroy"), None).await,
        (200, json!("Sandbox destroyed"))
    );
    let (_, metrics) = api.call("GET", "/metrics", None).await;
    assert!(
        metrics
            .as_str()
            .unwrap()
            .contains("container_operation_total{operation=\"create\",status=\"success\"} 1")
    );
}

#[tokio::test]
async fn the_toolbox_is_reached_byte_for_byte_and_without_our_token() {
    let api = Api::new().await;
    let id = api.sandbox().await;
    let url = format!("{}/sandboxes/{id}/toolbox/files/a%2Fb%20c%FF/?path=%2Fx&path=y", api.base);
    let request =
        api.client.post(url).bearer_auth(TOKEN).header("x-forwarded-host", "h.test").header("cookie", "c=1");
    let response = request.body("payload").send().await.unwrap();
    assert_eq!((response.status().as_u16(), response.text().await.unwrap().as_str()), (200, "payload"));
    let other = api.client.get(format!("{}/sandboxes/{id}/toolbox/files/", api.base));
    let other = other
        .header("x-daytona-authorization", format!("Bearer {TOKEN}"))
        .header("authorization", "Bearer app");
    assert_eq!(other.send().await.unwrap().status(), 200);
    let seen = api.bench.daemon.requests.lock().unwrap().clone();
    assert_eq!(seen[0].0, "POST /files/a%2Fb%20c%FF/?path=%2Fx&path=y");
    assert_eq!(
        (seen[0].1.get("x-forwarded-host").map(String::as_str), seen[0].1.get("cookie").map(String::as_str)),
        (Some("h.test"), Some("c=1"))
    );
    assert!(seen[0].1.contains_key("x-forwarded-for"));
    assert_eq!(seen[1].0, "GET /files/");
    assert_eq!(seen[1].1.get("authorization").map(String::as_str), Some("Bearer app"));
    assert!(!seen.iter().any(|(_, headers)| headers.values().any(|v| v.contains(TOKEN))), "{seen:?}");
    let inspected = api.bench.engine.calls("inspect");
    for _ in 0..20 {
        api.call("GET", &format!("/sandboxes/{id}/toolbox/version"), None).await;
    }
    assert_eq!(api.bench.engine.calls("inspect"), inspected);
}

#[tokio::test]
async fn pain_19_a_toolbox_that_cannot_answer_says_why() {
    let api = Api::new().await;
    let id = api.sandbox().await;
    let path = format!("/sandboxes/{id}/toolbox/version");
    let missing = format!("/sandboxes/{}/toolbox/version", SandboxId::random());
    assert_eq!(api.call("GET", &missing, None).await.1["code"], "SANDBOX_NOT_FOUND");
    api.bench.engine.exit(id.as_str(), 137, true);
    let node = api.bench.node.clone();
    eventually("the end", || node.index.get(&id).is_some_and(|s| s.address.is_none())).await;
    let (status, body) = api.call("GET", &path, None).await;
    assert_eq!((status, &body["code"]), (400, &json!("SANDBOX_NOT_RUNNING")));
    assert!(body["message"].as_str().unwrap().contains("out of memory"), "{body}");
}

#[tokio::test]
async fn pain_29_builds_are_followed_to_their_end_even_when_they_fail() {
    let api = Api::new().await;
    let failure = EngineError::Internal {
        what: "build daytona-x:daytona".to_owned(),
        message: "step 3 exited with 1".to_owned(),
    };
    api.bench.engine.delay("build", std::time::Duration::from_millis(100));
    api.bench.engine.fail_next("build", Fault::Error(failure));
    let request = json!({"snapshot": "daytona-x:daytona", "dockerfile": "FROM scratch", "organizationId": "o", "context": null, "pushToInternalRegistry": false});
    assert_eq!(
        api.call("POST", "/snapshots/build", Some(request.clone())).await,
        (202, json!("Snapshot build started"))
    );
    let (status, log) =
        api.call("GET", "/snapshots/logs?snapshotRef=daytona-x&follow=true&follow=true", None).await;
    assert_eq!(status, 200);
    let log = log.as_str().unwrap().to_owned();
    assert!(
        log.contains("Step 1/1") && log.contains("ERROR: ") && log.contains("step 3 exited with 1"),
        "{log}"
    );
    let (status, body) = api.call("GET", "/snapshots/info?snapshot=daytona-x:daytona", None).await;
    assert_eq!(status, 422, "{body}");
    api.call("POST", "/snapshots/build", Some(request)).await;
    let node = api.bench.node.clone();
    eventually("the second build", || {
        node.counters.prometheus().contains("operation=\"build\",status=\"success\"} 1")
    })
    .await;
    let (status, info) = api.call("GET", "/snapshots/info?snapshot=daytona-x:daytona", None).await;
    assert!(status == 200 && info["hash"].as_str().is_some_and(|h| h.len() == 64), "{info}");
}

#[tokio::test]
async fn the_api_speaks_tls_when_told_to() {
    let dir = tempfile::tempdir().unwrap();
    let (cert, key) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
    let made = std::process::Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-days",
            "2",
        ])
        .args([
            "-subj",
            "/CN=localhost",
            "-addext",
            "subjectAltName=IP:127.0.0.1",
            "-addext",
            "basicConstraints=critical,CA:FALSE",
        ])
        .arg("-keyout")
        .arg(&key)
        .arg("-out")
        .arg(&cert)
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let tls = (cert.clone(), key);
    let bench = Bench::with(|config| config.tls = Some(tls)).await;
    let (address, stop, task) = bench.serve(Arc::new(Control::default())).await;
    pinfold_runner::jobs::http_client().unwrap();
    let trusted = reqwest::Certificate::from_pem(&std::fs::read(&cert).unwrap()).unwrap();
    let client = reqwest::Client::builder().tls_certs_only([trusted]).build().unwrap();
    let answer = client.get(format!("https://{address}/")).send().await.unwrap();
    assert_eq!(answer.json::<Value>().await.unwrap()["status"], "ok");
    assert!(client.get(format!("http://{address}/")).send().await.is_err());
    drop(client);
    stop.cancel();
    task.await.unwrap();
}

/// The reference names every metric, and no other.
#[tokio::test]
async fn pain_37_every_metric_is_in_the_reference() {
    let api = Api::new().await;
    api.sandbox().await;
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    let text = loop {
        let (_, text) = api.call("GET", "/metrics", None).await;
        if text.as_str().unwrap().contains("pinfold_node_cpus ") {
            break text;
        }
        assert!(std::time::Instant::now() < deadline, "still waiting for the node's figures");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    };
    let text = text.as_str().unwrap();
    let exported: std::collections::BTreeSet<&str> =
        text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    let page = include_str!("../../../docs/observability.md");
    let documented: std::collections::BTreeSet<&str> = page
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once('`'))
        .filter(|(name, _)| {
            name.starts_with("container_") || name.starts_with("pinfold_") || name.starts_with("process_")
        })
        .map(|(name, _)| name)
        // There only when telemetry is on.
        .filter(|name| *name != "pinfold_telemetry_dropped_total")
        .collect();
    assert_eq!(exported, documented);
}
