//! A runner without an engine: it registers by healthcheck, polls for jobs and answers them at once, and serves a toolbox that echoes.
//!
//! What a sandbox is asked to do wrong is written into its environment: `SIM_FAIL` fails its create with that text, `SIM_DELAY_MS` delays it,
//! `SIM_HANG` never answers. An image whose name contains `missing` cannot be pulled, a Dockerfile with `RUN false` cannot be built. Each job that is executed
//! is a line of the file that the variable `SIM_JOURNAL` names.

use std::collections::{BTreeMap, HashSet};
use std::io::Write;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::Body;
use axum::extract::ws::{Message, WebSocketUpgrade};
use axum::extract::{FromRequestParts, Path, Query, Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};
use axum::{Json, Router};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use pinfold_proxy::{Proxy, Target};
use serde_json::{Value, json};

/// The pause after a call that failed.
const AGAIN: Duration = Duration::from_millis(100);

/// What the runner has done, for tests to look at.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// Sandboxes and whether each runs.
    pub(crate) sandboxes: BTreeMap<String, bool>,
    /// Images that were pulled or built.
    pub(crate) images: Vec<String>,
    /// Ids of the jobs that were executed or are.
    pub(crate) jobs: HashSet<String>,
}

/// The runner.
#[derive(Debug, Clone)]
pub(crate) struct SimulatedRunner {
    api: SocketAddr,
    token: String,
    address: SocketAddr,
    proxy: Proxy,
    /// What it has done.
    pub(crate) seen: Arc<Mutex<Seen>>,
}

impl SimulatedRunner {
    /// Starts a runner that belongs to the control plane at `api`.
    pub(crate) async fn start(api: SocketAddr, token: &str) -> std::io::Result<Self> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let runner =
            Self { api, token: token.to_owned(), address, proxy: Proxy::new(), seen: Arc::default() };
        let router = Router::new()
            .route("/snapshots/exists", get(exists))
            .route("/snapshots/logs", get(logs))
            .route("/sandboxes/{id}/toolbox/{*path}", any(toolbox))
            .with_state(runner.clone());
        tokio::spawn(async move { axum_serve(listener, router).await });
        Ok(runner)
    }

    /// Reports health once; the runner is ready afterwards.
    pub(crate) async fn healthcheck(&self) -> StatusCode {
        let url = format!("http://{}", self.address);
        let body = json!({
            "appVersion": "0.1.0", "domain": "127.0.0.1", "apiUrl": url, "proxyUrl": url,
            "serviceHealth": [{ "serviceName": "docker", "healthy": true }],
            "metrics": {
                "currentCpuLoadAverage": 0.1, "currentCpuUsagePercentage": 5.0, "currentMemoryUsagePercentage": 10.0,
                "currentDiskUsagePercentage": 10.0, "currentAllocatedCpu": 0, "currentAllocatedMemoryGiB": 0,
                "currentAllocatedDiskGiB": 0, "currentSnapshotCount": 1, "currentStartedSandboxes": 0, "cpu": 8,
                "memoryGiB": 16, "diskGiB": 100
            }
        });
        self.call("POST", "/api/runners/healthcheck", Some(body)).await.0
    }

    /// Reports health and works until the task is dropped.
    pub(crate) async fn run(self) {
        let beating = self.clone();
        let beat = async move {
            loop {
                beating.healthcheck().await;
                tokio::time::sleep(Duration::from_secs(10)).await;
            }
        };
        let work = async move {
            loop {
                let (status, answer) = self.call("GET", "/api/jobs/poll?timeout=20&limit=10", None).await;
                self.take(&answer["jobs"]);
                let mut heard = status == StatusCode::OK;
                while !heard {
                    // The poll that failed may have claimed jobs that we did not hear of.
                    tokio::time::sleep(AGAIN).await;
                    let (status, page) =
                        self.call("GET", "/api/jobs?status=IN_PROGRESS&limit=200", None).await;
                    self.take(&page["items"]);
                    heard = status == StatusCode::OK;
                }
            }
        };
        tokio::join!(beat, work);
    }

    /// Begins the jobs that are new.
    fn take(&self, jobs: &Value) {
        for job in jobs.as_array().into_iter().flatten() {
            let id = job["id"].as_str().unwrap_or_default().to_owned();
            if self.seen.lock().is_ok_and(|mut seen| seen.jobs.insert(id)) {
                let (runner, job) = (self.clone(), job.clone());
                tokio::spawn(async move { runner.work(job).await });
            }
        }
    }

    /// Calls the control plane as the runner.
    pub(crate) async fn call(&self, method: &str, path: &str, body: Option<Value>) -> (StatusCode, Value) {
        let body = body.map(|body| body.to_string()).unwrap_or_default();
        let mut request = Request::new(Body::from(body));
        *request.method_mut() = method.parse().unwrap_or_default();
        let bearer = HeaderValue::try_from(format!("Bearer {}", self.token));
        request.headers_mut().extend(bearer.map(|value| (header::AUTHORIZATION, value)));
        request.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let Ok(response) = self.proxy.forward(request, Target::new(self.api, path)).await else {
            return (StatusCode::BAD_GATEWAY, Value::Null);
        };
        let status = response.status();
        let bytes = axum::body::to_bytes(response.into_body(), 1 << 26).await.unwrap_or_default();
        (status, serde_json::from_slice(&bytes).unwrap_or_default())
    }

    async fn work(&self, job: Value) {
        let text = |key: &str| job[key].as_str().unwrap_or_default().to_owned();
        let (id, kind, resource) = (text("id"), text("type"), text("resourceId"));
        let payload: Value = serde_json::from_str(&text("payload")).unwrap_or_default();
        if let Some(journal) = std::env::var_os("SIM_JOURNAL") {
            let written = std::fs::File::options().create(true).append(true).open(journal);
            let written =
                written.and_then(|mut file| file.write_all(format!("{kind} {resource}\n").as_bytes()));
            if let Err(error) = written {
                tracing::warn!(%error, "could not write the journal");
            }
        }
        let env = |name: &str| payload["env"][name].as_str().map(str::to_owned);
        if env("SIM_HANG").is_some() {
            return;
        }
        if let Some(ms) = env("SIM_DELAY_MS").and_then(|ms| ms.parse().ok()) {
            tokio::time::sleep(Duration::from_millis(ms)).await;
        }
        let result = match env("SIM_FAIL") {
            Some(reason) if kind == "CREATE_SANDBOX" => Err(reason),
            _ => self.execute(&kind, &resource, &payload),
        };
        let update = match result {
            Ok(Value::Null) => json!({ "status": "COMPLETED" }),
            Ok(result) => json!({ "status": "COMPLETED", "resultMetadata": result.to_string() }),
            Err(reason) => json!({ "status": "FAILED", "errorMessage": reason }),
        };
        // However long the control plane is away: nobody else tells of it.
        loop {
            let (status, _) =
                self.call("POST", &format!("/api/jobs/{id}/status"), Some(update.clone())).await;
            if status.is_success() || status.is_client_error() {
                return;
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    fn execute(&self, kind: &str, resource: &str, payload: &Value) -> Result<Value, String> {
        let mut seen = self.seen.lock().map_err(|error| error.to_string())?;
        let started = json!({ "daemonVersion": "0.190.0" });
        match kind {
            "CREATE_SANDBOX" => {
                seen.sandboxes.insert(resource.to_owned(), true);
                Ok(started)
            }
            "START_SANDBOX" => {
                seen.sandboxes.insert(resource.to_owned(), true);
                Ok(started)
            }
            "STOP_SANDBOX" => {
                seen.sandboxes.insert(resource.to_owned(), false);
                Ok(Value::Null)
            }
            "DESTROY_SANDBOX" => {
                seen.sandboxes.remove(resource);
                Ok(Value::Null)
            }
            "PULL_SNAPSHOT" | "BUILD_SNAPSHOT" => {
                let dockerfile = payload["dockerfile"].as_str().unwrap_or_default();
                if resource.contains("missing") || dockerfile.contains("RUN false") {
                    return Err(format!("could not make {resource}: exit status 1"));
                }
                seen.images.push(resource.to_owned());
                Ok(
                    json!({ "name": resource, "sizeGB": 0.5, "entrypoint": ["/entry"], "hash": "ab".repeat(32) }),
                )
            }
            "REMOVE_SNAPSHOT" => {
                seen.images.retain(|image| image != resource);
                Ok(Value::Null)
            }
            "SNAPSHOT_SANDBOX" => {
                let name = payload["name"].as_str().unwrap_or_default();
                let reference = format!("daytona-{name}:daytona");
                seen.images.push(reference.clone());
                Ok(json!({ "ref": reference, "hash": "cd".repeat(32), "sizeGB": 0.25 }))
            }
            "PAUSE_SANDBOX" | "FORK_SANDBOX" => Err(format!("{kind} is not supported for containers")),
            _ => Ok(Value::Null),
        }
    }

    fn admits(&self, headers: &HeaderMap) -> bool {
        let expected = format!("Bearer {}", self.token);
        headers.get("x-daytona-authorization").and_then(|v| v.to_str().ok()) == Some(&expected)
    }
}

async fn axum_serve(listener: tokio::net::TcpListener, router: Router) {
    let never = std::future::pending::<()>();
    if let Err(error) = pinfold_http::serve(listener, router, never, Duration::ZERO).await {
        tracing::warn!(%error, "the simulated runner ended");
    }
}

type Params = Query<BTreeMap<String, String>>;

async fn exists(State(runner): State<SimulatedRunner>, Query(query): Params) -> Json<Value> {
    let wanted = query.get("snapshot").cloned().unwrap_or_default();
    let known = runner.seen.lock().is_ok_and(|seen| seen.images.contains(&wanted));
    Json(json!({ "exists": known }))
}

async fn logs(Query(query): Params) -> Response {
    let reference = query.get("snapshotRef").cloned().unwrap_or_default();
    if !reference.starts_with("daytona-") {
        return StatusCode::NOT_FOUND.into_response();
    }
    format!("#1 [1/1] FROM base\n#1 DONE\nbuilt {reference}\n").into_response()
}

async fn toolbox(
    State(runner): State<SimulatedRunner>,
    Path((id, path)): Path<(String, String)>,
    request: Request,
) -> Response {
    if !runner.admits(request.headers()) {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    if runner.seen.lock().is_ok_and(|seen| !seen.sandboxes.contains_key(&id)) {
        return StatusCode::NOT_FOUND.into_response();
    }
    let (mut parts, body) = request.into_parts();
    if let Ok(ws) = WebSocketUpgrade::from_request_parts(&mut parts, &()).await {
        return ws.on_upgrade(|mut socket| async move {
            while let Some(Ok(Message::Text(text))) = socket.recv().await {
                if socket.send(Message::Text(text)).await.is_err() {
                    return;
                }
            }
        });
    }
    let body = axum::body::to_bytes(body, 1 << 20).await.unwrap_or_default();
    match path.as_str() {
        "user-home-dir" | "work-dir" => Json(json!({ "dir": "/home/daytona" })).into_response(),
        "process/execute" => {
            let asked: Value = serde_json::from_slice(&body).unwrap_or_default();
            Json(json!({ "exitCode": 0, "result": asked["command"] })).into_response()
        }
        _ => {
            let headers: BTreeMap<String, String> = parts
                .headers
                .iter()
                .map(|(name, value)| {
                    (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned())
                })
                .collect();
            let query = parts.uri.query().unwrap_or_default();
            let body = String::from_utf8_lossy(&body);
            let raw = parts.uri.path();
            Json(json!({ "method": parts.method.as_str(), "path": raw, "query": query, "headers": headers, "body": body }))
                .into_response()
        }
    }
}
