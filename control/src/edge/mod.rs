//! The edge: everything that passes through to a sandbox, and the one entrance that tells it from the API.
//!
//! One listener serves the API, the toolbox by path (`/toolbox/<id>/…`) and previews by host name (`<port>-<id>.<domain>`). Whether a request may pass is
//! decided from memory, so a new token or a revoked one counts at once.

mod admission;
mod busy;
pub(crate) mod environment;
mod forward;
pub(crate) mod logs;
mod preview;
pub(crate) mod runner;
mod signed_file;
mod toolbox;
mod warning;

use std::convert::Infallible;
use std::sync::Arc;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request};
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use pinfold_http::ApiError;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use crate::core::Core;
use crate::storage;

/// Bodies up to this size, in bytes, are read before the request is looked at.
const READ_AHEAD: usize = 64 << 10;

/// Everything on the listener.
pub(crate) fn entrance(core: &Arc<Core>) -> Router {
    let paths = Router::new()
        .merge(crate::api::router(core))
        .merge(toolbox::router(core))
        .merge(crate::socket::router(core))
        .merge(crate::storage::router(core).layer(DefaultBodyLimit::disable()));
    let core = core.clone();
    let dispatch = move |request: Request| {
        let (core, paths) = (core.clone(), paths.clone());
        async move { dispatch(core, paths, request).await }
    };
    Router::new().fallback(dispatch).layer(axum::middleware::from_fn_with_state(
        pinfold_http::ErrorStyle::Control,
        pinfold_http::render_errors,
    ))
}

async fn dispatch(core: Arc<Core>, paths: Router, mut request: Request) -> Response {
    if let Some(target) = preview::target(&core, request.headers(), request.uri()) {
        return preview::serve(&core, target, request).await.into_response();
    }
    if storage::is_signed(request.headers()) {
        request = storage::by_path(request);
    }
    let origin = request.headers().get(header::ORIGIN).cloned();
    let mut response = if origin.is_some() && is_preflight(&request) {
        StatusCode::NO_CONTENT.into_response()
    } else {
        if let Some(uri) = tidied(request.uri()) {
            *request.uri_mut() = uri;
        }
        log_client(&request);
        match with_body_read(request).await {
            Ok(request) if is_change(&request) => change(paths, request).await,
            Ok(request) => taken(paths.oneshot(request).await),
            Err(error) => error.into_response(),
        }
    };
    let headers = response.headers_mut();
    headers.insert("x-daytona-api-version", HeaderValue::from_static("0.190.0"));
    if let Some(origin) = origin {
        allow_origin(headers, origin);
    }
    response
}

/// Tells a handler that nobody waits for its answer any more.
#[derive(Debug, Clone)]
pub(crate) struct ClientGone(CancellationToken);

impl ClientGone {
    /// Resolves when the client is gone.
    pub(crate) async fn told(&self) {
        self.0.cancelled().await;
    }
}

fn is_change(request: &Request) -> bool {
    is_api(request.uri().path()) && ![Method::GET, Method::HEAD].contains(request.method())
}

/// Handles a request that changes something in a task of its own. A client that goes away in the middle must not leave a change behind that is committed and
/// that nobody here knows of; handlers that would rather end look at [`ClientGone`].
async fn change(paths: Router, mut request: Request) -> Response {
    let gone = CancellationToken::new();
    request.extensions_mut().insert(ClientGone(gone.clone()));
    let _tells = gone.drop_guard();
    match tokio::spawn(paths.oneshot(request)).await {
        Ok(response) => taken(response),
        Err(ended) => ApiError::internal(format_args!("the request was not handled to its end: {ended}"))
            .into_response(),
    }
}

fn taken(response: Result<Response, Infallible>) -> Response {
    match response {
        Ok(response) => response,
        Err(never) => match never {},
    }
}

fn is_api(path: &str) -> bool {
    path.starts_with("/api/") && !path.starts_with("/api/toolbox/")
}

/// Reads a small body of an API request before anyone can refuse it. A connection with a body that nobody read has to be closed after the answer, and a client
/// that keeps it for its next request then finds it dead.
async fn with_body_read(request: Request) -> Result<Request, ApiError> {
    let length = request.headers().get(header::CONTENT_LENGTH);
    let length = length.and_then(|value| value.to_str().ok()?.parse::<usize>().ok()).unwrap_or(0);
    if !is_api(request.uri().path()) || !(1..=READ_AHEAD).contains(&length) {
        return Ok(request);
    }
    let (parts, body) = request.into_parts();
    // Half a request must not count as a whole one.
    let bytes = axum::body::to_bytes(body, READ_AHEAD).await.map_err(ApiError::invalid_body)?;
    Ok(Request::from_parts(parts, bytes.into()))
}

pub(super) fn is_preflight(request: &Request) -> bool {
    request.method() == Method::OPTIONS && request.headers().contains_key("access-control-request-method")
}

/// Browsers may call from anywhere: what lets them in is a key, never a cookie.
pub(super) fn allow_origin(headers: &mut HeaderMap, origin: HeaderValue) {
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    headers.append(header::VARY, HeaderValue::from_static("origin"));
    let any = HeaderValue::from_static("GET, POST, PUT, PATCH, DELETE, HEAD, OPTIONS");
    headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, any);
    let names = "authorization, content-type, x-daytona-source, x-daytona-sdk-version, x-daytona-organization-id, \
                 x-daytona-preview-token, x-daytona-skip-last-activity-update, traceparent, tracestate, baggage";
    headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static(names));
    headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
}

/// The API's path without doubled slashes, which clients make of base addresses that end in one.
fn tidied(uri: &Uri) -> Option<Uri> {
    let path = uri.path();
    let start = path.trim_start_matches('/');
    if !path.contains("//") || !(start.starts_with("api/") || start.starts_with("toolbox/")) {
        return None;
    }
    let mut tidy = String::with_capacity(path.len());
    let api = start.starts_with("api/") && !start.starts_with("api/toolbox/");
    if api {
        for part in path.split('/').filter(|part| !part.is_empty()) {
            tidy.push('/');
            tidy.push_str(part);
        }
    } else {
        // What follows belongs to the sandbox and is not ours to change.
        tidy.push('/');
        tidy.push_str(start);
    }
    if let Some(query) = uri.query() {
        tidy.push('?');
        tidy.push_str(query);
    }
    tidy.parse().ok()
}

fn log_client(request: &Request) {
    let header =
        |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or("-");
    let (source, version) = (header("x-daytona-source"), header("x-daytona-sdk-version"));
    tracing::debug!(method = %request.method(), path = request.uri().path(), source, version, "request");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubled_slashes_are_tidied_in_the_api_only() {
        let tidy = |uri: &str| tidied(&uri.parse().unwrap()).map(|uri| uri.to_string());
        assert_eq!(tidy("/api//sandbox?a=//b").as_deref(), Some("/api/sandbox?a=//b"));
        assert_eq!(tidy("//api/sandbox").as_deref(), Some("/api/sandbox"));
        assert_eq!(tidy("/api/sandbox"), None);
        assert_eq!(tidy("/toolbox/id//files").as_deref(), Some("/toolbox/id//files"));
    }
}
