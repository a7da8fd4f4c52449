//! The runner behind a sandbox, as an HTTP upstream.

use std::net::SocketAddr;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::response::Response;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use pinfold_http::{ApiError, ApiResult};
use pinfold_proto::error::chain;
use pinfold_proto::well_known::RUNNER_AUTH_HEADER;
use pinfold_proxy::Target;

use crate::core::Core;
use crate::images::Images;
use crate::store::runners::Runner;
use crate::store::sandboxes::Record;

/// How long a question to a runner may take that a create waits for.
const ASK: Duration = Duration::from_secs(2);
/// Longest answer of a daemon that is read, in bytes.
const MAX_ANSWER: usize = 4 << 20;

/// Where a runner is reached, and what opens it.
#[derive(Debug, Clone)]
pub(crate) struct Upstream {
    pub(crate) address: SocketAddr,
    pub(crate) host: HeaderValue,
    pub(crate) authorization: HeaderValue,
    /// The path of the runner's base address, usually empty.
    pub(crate) prefix: String,
}

/// Header that authenticates us to a runner.
pub(crate) const AUTH_HEADER: HeaderName = HeaderName::from_static(RUNNER_AUTH_HEADER);

fn bad_gateway(message: impl std::fmt::Display) -> ApiError {
    ApiError::new(StatusCode::BAD_GATEWAY, message).code("RUNNER_UNREACHABLE")
}

impl Upstream {
    /// The upstream for sandbox traffic.
    pub(crate) async fn of(runner: &Runner) -> ApiResult<Self> {
        let health = runner.health.as_ref();
        let url = health.and_then(|h| h.proxy_url.clone().or_else(|| h.api_url.clone()));
        Self::parse(runner, url.as_deref()).await
    }

    /// The upstream for the runner's own API.
    pub(crate) async fn api_of(runner: &Runner) -> ApiResult<Self> {
        let health = runner.health.as_ref();
        let url = health.and_then(|h| h.api_url.clone().or_else(|| h.proxy_url.clone()));
        Self::parse(runner, url.as_deref()).await
    }

    async fn parse(runner: &Runner, url: Option<&str>) -> ApiResult<Self> {
        let name = &runner.name;
        let url = url
            .ok_or_else(|| bad_gateway(format_args!("the runner {name} has not said where it is reached")))?;
        let rest = url.strip_prefix("http://").ok_or_else(|| {
            bad_gateway(format_args!("the runner {name} is reached at {url}, and only http:// is supported"))
        })?;
        let (authority, prefix) =
            rest.split_once('/').map_or((rest, ""), |(authority, path)| (authority, path));
        let with_port = if authority.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok()) {
            authority.to_owned()
        } else {
            format!("{authority}:80")
        };
        let address = match with_port.parse::<SocketAddr>() {
            Ok(address) => address,
            Err(_) => tokio::net::lookup_host(&with_port)
                .await
                .ok()
                .and_then(|mut found| found.next())
                .ok_or_else(|| {
                    bad_gateway(format_args!("the runner {name} is reached at {url}, which has no address"))
                })?,
        };
        let header = |text: String| HeaderValue::try_from(text).map_err(bad_gateway);
        let prefix = prefix.trim_matches('/');
        Ok(Self {
            address,
            host: header(authority.to_owned())?,
            authorization: header(format!("Bearer {}", runner.token))?,
            prefix: if prefix.is_empty() { String::new() } else { format!("/{prefix}") },
        })
    }

    /// The header that opens the runner.
    pub(crate) fn headers(&self) -> HeaderMap {
        HeaderMap::from_iter([(AUTH_HEADER, self.authorization.clone())])
    }

    /// Asks the runner's API.
    pub(crate) async fn get(&self, core: &Core, path_and_query: &str) -> ApiResult<Response> {
        self.ask(core, Request::new(Body::empty()), path_and_query).await
    }

    async fn ask(&self, core: &Core, request: Request, path_and_query: &str) -> ApiResult<Response> {
        let path = format!("{}{path_and_query}", self.prefix);
        let mut target = Target::new(self.address, &path);
        target.host = self.host.clone();
        target.set = self.headers();
        core.proxy.forward(request, target).await.map_err(|error| bad_gateway(chain(&error)))
    }
}

impl Core {
    /// The runner that a sandbox is at.
    pub(crate) fn runner_of(&self, r: &Record) -> Option<Runner> {
        r.runner_id.as_deref().and_then(|id| self.runners.get(id))
    }

    /// Asks a sandbox's daemon, for ourselves; `path` is the daemon's own. An error, and an answer that is one, is said in words.
    pub(crate) async fn ask_daemon(
        &self,
        r: &Record,
        request: Request,
        path: &str,
        limit: Duration,
    ) -> Result<Bytes, String> {
        let asking = async {
            let failed = |error: ApiError| error.message().to_owned();
            let runner = self.runner_of(r).ok_or_else(|| "it has no runner".to_owned())?;
            let upstream = Upstream::of(&runner).await.map_err(failed)?;
            let path = format!("/sandboxes/{}/toolbox{path}", r.id);
            let answer = upstream.ask(self, request, &path).await.map_err(failed)?;
            let status = answer.status();
            let body = axum::body::to_bytes(answer.into_body(), MAX_ANSWER).await;
            if !status.is_success() {
                let body = body.unwrap_or_default();
                return Err(format!("its daemon answered {status}: {}", String::from_utf8_lossy(&body)));
            }
            body.map_err(|error| format!("its daemon's answer broke off: {}", chain(&error)))
        };
        let late = |_| Err(format!("its daemon did not answer within {} s", limit.as_secs()));
        tokio::time::timeout(limit, asking).await.unwrap_or_else(late)
    }

    /// Whether a runner has an image that we know nothing of: asks it. No answer counts as no.
    pub(crate) async fn has_image(&self, runner: &str, reference: &str) -> bool {
        let Some(runner) = self.runners.get(runner) else { return false };
        let asking = async {
            let query = percent_encoding::utf8_percent_encode(reference, percent_encoding::NON_ALPHANUMERIC);
            let upstream = Upstream::api_of(&runner).await.ok()?;
            let answer = upstream.get(self, &format!("/snapshots/exists?snapshot={query}")).await.ok()?;
            if !answer.status().is_success() {
                return None;
            }
            let body = axum::body::to_bytes(answer.into_body(), 64 * 1024).await.ok()?;
            serde_json::from_slice::<serde_json::Value>(&body).ok()?.get("exists")?.as_bool()
        };
        let there = tokio::time::timeout(ASK, asking).await.ok().flatten().unwrap_or(false);
        if there {
            self.images.note(Images::local(&runner.id, reference, 0.0));
        }
        there
    }
}
