//! The runner's side of the control plane's API (runner contract 2.2). Every call has a deadline.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use jiff::fmt::rfc2822::DateTimeParser;
use pinfold_proto::error::chain;
use pinfold_proto::id::Secret;
use pinfold_proto::runner::health::Healthcheck;
use pinfold_proto::runner::job::{JobPage, PollResponse, StatusUpdate};
use reqwest::header::DATE;
use reqwest::{Client, Method, RequestBuilder, Response};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::gate::Gate;

const CALL: Duration = Duration::from_secs(10);
/// Jobs on one page of a listing; the API's maximum.
const PAGE: u32 = 200;

/// Why a call to the control plane failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ApiCallError {
    /// It answered with an error.
    #[error("the control plane answered {status}: {message}")]
    Status {
        /// The HTTP status.
        status: u16,
        /// Its words.
        message: String,
    },
    /// It could not be reached, or its answer was cut off.
    #[error("the control plane could not be reached: {0}")]
    Transport(String),
    /// It refused this runner's token, and is not asked as often as before.
    #[error("the control plane refused this runner's token and was not asked again yet")]
    HeldBack,
}

impl ApiCallError {
    /// The HTTP status, if there was an answer.
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Status { status, .. } => Some(*status),
            Self::Transport(_) | Self::HeldBack => None,
        }
    }

    /// Whether the log says already what this is about: a token that is refused.
    pub fn is_told(&self) -> bool {
        matches!(self, Self::HeldBack | Self::Status { status: 401, .. })
    }
}

/// A sandbox as the control plane knows it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RemoteSandbox {
    /// Its id.
    #[serde(deserialize_with = "pinfold_proto::null::as_default")]
    pub id: String,
    /// Where it stands.
    #[serde(deserialize_with = "pinfold_proto::null::as_default")]
    pub state: String,
    /// Where it should stand.
    #[serde(deserialize_with = "pinfold_proto::null::as_default")]
    pub desired_state: String,
}

/// A page of claimed jobs.
#[derive(Debug, Clone, PartialEq)]
pub struct Listing {
    /// Its jobs.
    pub jobs: Vec<Value>,
    /// Number of pages.
    pub pages: u64,
    /// When it was made, by the control plane's clock, if it says so.
    pub at: Option<Timestamp>,
}

/// What a runner asks of a control plane. Tests play one in memory.
#[async_trait]
pub trait ControlPlane: Send + Sync + 'static {
    /// Claims pending jobs, waiting up to `timeout` for one.
    async fn poll(&self, timeout: Duration, limit: u32) -> Result<Vec<Value>, ApiCallError>;
    /// A page of this runner's claimed jobs, from 1.
    async fn in_progress(&self, page: u32) -> Result<Listing, ApiCallError>;
    /// Reports a job's result.
    async fn report(&self, job: &str, update: &StatusUpdate) -> Result<(), ApiCallError>;
    /// Reports this node's health.
    async fn healthcheck(&self, body: &Healthcheck) -> Result<(), ApiCallError>;
    /// This runner's sandboxes: all of them, or those believed to be settled as started or stopped.
    async fn sandboxes(&self, settled: bool) -> Result<Vec<RemoteSandbox>, ApiCallError>;
    /// Corrects a sandbox's state.
    async fn push_state(
        &self,
        sandbox: &str,
        state: &str,
        reason: Option<&str>,
        recoverable: bool,
    ) -> Result<(), ApiCallError>;
}

/// An HTTP client over rustls with ring.
pub fn http_client() -> Result<Client, ApiCallError> {
    // A second installation is refused, which is fine: somebody installed one.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = Client::builder().connect_timeout(Duration::from_secs(5)).tcp_nodelay(true).build();
    client.map_err(|e| ApiCallError::Transport(e.to_string()))
}

/// A control plane over HTTP.
#[derive(Debug, Clone)]
pub struct HttpControlPlane {
    client: Client,
    base: String,
    token: Secret,
    gate: Arc<Gate>,
}

impl HttpControlPlane {
    /// The control plane at `base`, which includes its `/api`.
    pub fn new(base: &str, token: Secret) -> Result<Self, ApiCallError> {
        let base = base.trim_end_matches('/').to_owned();
        Ok(Self { client: http_client()?, base, token, gate: Arc::default() })
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.client.request(method, format!("{}{path}", self.base));
        request.bearer_auth(self.token.expose()).header("x-daytona-source", "runner").timeout(CALL)
    }

    async fn answer(&self, request: RequestBuilder, about: About) -> Result<Response, ApiCallError> {
        self.gate.enter()?;
        let (client, request) = request.build_split();
        let request = request.map_err(|e| transport(&e))?;
        let response = crate::spans::call(&client, request).await.map_err(|e| transport(&e))?;
        let status = response.status().as_u16();
        match status {
            401 => self.gate.refused(status),
            403 if about == About::Runner => self.gate.refused(status),
            // A poll that was too long for it was one of ours.
            200..=299 | 408 => self.gate.accepted(),
            _ => {}
        }
        if response.status().is_success() {
            return Ok(response);
        }
        // An error body is for people; it is cut, and its loss does not matter.
        let message = response.text().await.unwrap_or_default().chars().take(500).collect();
        Err(ApiCallError::Status { status, message })
    }

    async fn decoded<T: DeserializeOwned>(&self, request: RequestBuilder) -> Result<T, ApiCallError> {
        self.answer(request, About::Runner).await?.json().await.map_err(|e| transport(&e))
    }
}

/// What a call is about: one that is forbidden says something about the token only where it is the runner itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum About {
    Runner,
    Resource,
}

fn transport(error: &reqwest::Error) -> ApiCallError {
    ApiCallError::Transport(chain(error))
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct StateBody<'a> {
    state: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    error_reason: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    recoverable: Option<bool>,
}

#[async_trait]
impl ControlPlane for HttpControlPlane {
    async fn poll(&self, timeout: Duration, limit: u32) -> Result<Vec<Value>, ApiCallError> {
        let path = format!("/jobs/poll?timeout={}&limit={limit}", timeout.as_secs().max(1));
        // A connection that died silently must not outlast the poll by much.
        let request = self.request(Method::GET, &path).timeout(timeout + Duration::from_secs(5));
        match self.decoded::<PollResponse>(request).await {
            Err(ApiCallError::Status { status: 408, .. }) => Ok(Vec::new()),
            other => other.map(|response| response.jobs),
        }
    }

    async fn in_progress(&self, page: u32) -> Result<Listing, ApiCallError> {
        let path = format!("/jobs?status=IN_PROGRESS&limit={PAGE}&page={page}");
        let response = self.answer(self.request(Method::GET, &path), About::Runner).await?;
        let date = response.headers().get(DATE).and_then(|value| value.to_str().ok());
        let at = date.and_then(|text| DateTimeParser::new().parse_timestamp(text).ok());
        let page: JobPage = response.json().await.map_err(|e| transport(&e))?;
        Ok(Listing { jobs: page.items, pages: page.total_pages, at })
    }

    async fn report(&self, job: &str, update: &StatusUpdate) -> Result<(), ApiCallError> {
        let request = self.request(Method::POST, &format!("/jobs/{job}/status")).json(update);
        self.answer(request, About::Resource).await.map(drop)
    }

    async fn healthcheck(&self, body: &Healthcheck) -> Result<(), ApiCallError> {
        let request = self.request(Method::POST, "/runners/healthcheck").json(body);
        self.answer(request, About::Runner).await.map(drop)
    }

    async fn sandboxes(&self, settled: bool) -> Result<Vec<RemoteSandbox>, ApiCallError> {
        let query = if settled { "?states=started,stopped&skipReconcilingSandboxes=true" } else { "" };
        let listed: Vec<Value> =
            self.decoded(self.request(Method::GET, &format!("/sandbox/for-runner{query}"))).await?;
        Ok(listed.into_iter().filter_map(|value| serde_json::from_value(value).ok()).collect())
    }

    async fn push_state(
        &self,
        sandbox: &str,
        state: &str,
        reason: Option<&str>,
        recoverable: bool,
    ) -> Result<(), ApiCallError> {
        let body = StateBody { state, error_reason: reason, recoverable: reason.map(|_| recoverable) };
        let request = self.request(Method::PUT, &format!("/sandbox/{sandbox}/state")).json(&body);
        self.answer(request, About::Resource).await.map(drop)
    }
}
