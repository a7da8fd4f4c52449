//! Passing a request on to a sandbox, and noting that the sandbox is in use for as long as the exchange lasts.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{ConnectInfo, Request};
use axum::response::Response;
use http::{HeaderName, HeaderValue, StatusCode, header};
use http_body::{Body as _, Frame, SizeHint};
use pinfold_http::{ApiError, ApiResult};
use pinfold_proto::control::sandbox::SandboxState;
use pinfold_proto::error::{SOURCE_PROXY, chain};
use pinfold_proxy::{ProxyError, Target, Tunnel};

use super::admission::{TOKEN_HEADER, has_our_key};
use super::runner::{AUTH_HEADER, Upstream};
use crate::core::Core;
use crate::sandbox::Handle;

/// How often a long exchange counts as activity.
const ACTIVITY_EVERY: Duration = Duration::from_secs(50);
const SKIP_ACTIVITY: &str = "x-daytona-skip-last-activity-update";

/// An error that the proxy itself answers with.
pub(super) fn proxy_error(error: ApiError) -> ApiError {
    error.with("source", SOURCE_PROXY)
}

/// Passes `request` on to the sandbox's runner at `path_and_query` below `/sandboxes/<id>/toolbox`.
pub(super) async fn to_sandbox(
    core: &Arc<Core>,
    handle: &Handle,
    request: Request,
    path_and_query: &str,
) -> ApiResult<Response> {
    let record = handle.record();
    if record.state != SandboxState::Started {
        let state = crate::sandbox::plan::wire_state(record.state, record.desired);
        let message = format!("the sandbox {} is {state}; start it first", record.id);
        return Err(proxy_error(ApiError::bad_request(message).code("SANDBOX_NOT_STARTED")));
    }
    let no_runner = || proxy_error(ApiError::unavailable("the sandbox has no runner"));
    let runner = core.runner_of(&record).ok_or_else(no_runner)?;
    let upstream = Upstream::of(&runner).await.map_err(proxy_error)?;
    let counts = request.headers().get(SKIP_ACTIVITY).is_none_or(|value| value != "true");
    if counts {
        core.touch(handle);
    }
    let path = format!("{}/sandboxes/{}/toolbox{path_and_query}", upstream.prefix, record.id);
    let mut target = Target::new(upstream.address, &path);
    target.host = upstream.host.clone();
    target.set = upstream.headers();
    target.peer = request.extensions().get::<ConnectInfo<SocketAddr>>().map(|peer| peer.0.ip());
    if let Some(host) = request.headers().get(header::HOST) {
        target.set.insert(HeaderName::from_static("x-forwarded-host"), host.clone());
    }
    let mut strip = vec![AUTH_HEADER, HeaderName::from_static(TOKEN_HEADER)];
    strip.extend(has_our_key(core, request.headers()).then_some(header::AUTHORIZATION));
    target.strip = &strip;
    let mut forwarding = std::pin::pin!(core.proxy.forward(request, target));
    let response = loop {
        tokio::select! {
            response = &mut forwarding => break response,
            // A long upload or command counts, too.
            () = tokio::time::sleep(ACTIVITY_EVERY), if counts => core.touch(handle),
        }
    };
    let response = response.map_err(|error| unreachable(&runner.name, &error))?;
    if let (Some(tunnel), true) = (response.extensions().get::<Tunnel>().cloned(), counts) {
        core.tasks.spawn(touch_while_open(core.clone(), handle.clone(), tunnel));
        return Ok(response);
    }
    Ok(if counts {
        response.map(|body| Body::new(Counted::new(body, core.clone(), handle.clone())))
    } else {
        response
    })
}

/// A terminal that somebody looks at is in use, even when nothing moves.
async fn touch_while_open(core: Arc<Core>, handle: Handle, tunnel: Tunnel) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(ACTIVITY_EVERY) => {}
            () = core.stop.cancelled() => return,
        }
        if !tunnel.is_open() {
            return;
        }
        core.touch(&handle);
    }
}

fn unreachable(runner: &str, error: &ProxyError) -> ApiError {
    tracing::warn!(runner, error = chain(error), "could not pass a request on");
    let message = format!("the runner {runner} could not be reached: {error}");
    let status = match error {
        ProxyError::ConnectTimeout(..) => StatusCode::GATEWAY_TIMEOUT,
        ProxyError::RequestBody(_) | ProxyError::Path(_) => StatusCode::BAD_REQUEST,
        _ => StatusCode::BAD_GATEWAY,
    };
    proxy_error(ApiError::new(status, message))
}

/// A body whose life counts as activity.
struct Counted {
    body: Body,
    ticker: Option<tokio::task::JoinHandle<()>>,
}

impl Counted {
    fn new(body: Body, core: Arc<Core>, handle: Handle) -> Self {
        // What is over at once needs no task.
        let ticker = (!body.is_end_stream() && body.size_hint().exact().is_none()).then(|| {
            tokio::spawn(async move {
                loop {
                    tokio::time::sleep(ACTIVITY_EVERY).await;
                    core.touch(&handle);
                }
            })
        });
        Self { body, ticker }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        if let Some(ticker) = &self.ticker {
            ticker.abort();
        }
    }
}

impl http_body::Body for Counted {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A `Set-Cookie` for the preview host alone.
pub(super) fn set_cookie(response: &mut Response, name: &str, value: &str, seconds: i64) {
    let cookie = format!("{name}={value}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Lax");
    if let Ok(value) = HeaderValue::try_from(cookie) {
        response.headers_mut().append(header::SET_COOKIE, value);
    }
}
