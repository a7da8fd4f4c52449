//! The toolbox proxy (runner contract 11.2): the suffix is passed on byte for byte, bodies stream, and the address comes from the index.
//!
//! A state in which no daemon can answer is told as such, with a code and when to try again, rather than as a failed connection.

use std::net::{IpAddr, SocketAddr};

use axum::body::Body;
use axum::extract::{ConnectInfo, Request, State};
use axum::response::{IntoResponse, Response};
use futures_util::StreamExt;
use http::header::{CONTENT_TYPE, UPGRADE};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use pinfold_http::{ApiError, ApiResult, Query};
use pinfold_proto::error::chain;
use pinfold_proto::id::SandboxId;
use pinfold_proto::well_known::RUNNER_AUTH_HEADER;
use pinfold_proxy::{ProxyError, Target};
use tokio_tungstenite::tungstenite::Message;

use super::Shared;
use crate::index::SandboxState;
use crate::node::Node;

static STRIPPED: [HeaderName; 1] = [HeaderName::from_static(RUNNER_AUTH_HEADER)];

/// Where a sandbox's daemon answers, or why it does not.
pub(crate) fn daemon_address(node: &Node, id: &SandboxId) -> ApiResult<SocketAddr> {
    let Some(known) = node.index.get(id) else {
        return Err(ApiError::not_found(format_args!("not found: sandbox {id} is not on this node"))
            .code("SANDBOX_NOT_FOUND"));
    };
    if let (Some(address), SandboxState::Started) = (known.address, known.state) {
        return Ok((address, node.config.toolbox_port).into());
    }
    let state = known.state.as_str();
    let passing = matches!(
        known.state,
        SandboxState::Creating
            | SandboxState::Starting
            | SandboxState::PullingSnapshot
            | SandboxState::Restoring
            | SandboxState::Resizing
    );
    if passing {
        // A daemon may answer before its start is reported.
        if let Some(address) = known.address {
            return Ok((address, node.config.toolbox_port).into());
        }
        let message = format!("sandbox {id} is {state}; try again shortly");
        return Err(ApiError::conflict(message).code("SANDBOX_NOT_READY").retry_after(1));
    }
    let reason = known.trouble().filter(|_| known.state == SandboxState::Error);
    let reason = reason.map(|reason| format!(": {reason}")).unwrap_or_default();
    let message = format!("bad request: sandbox {id} is {state}{reason}; check that it is started");
    Err(ApiError::bad_request(message).code("SANDBOX_NOT_RUNNING"))
}

/// What follows `/sandboxes/{id}/toolbox`, as it came.
fn suffix(path: &str) -> &str {
    let mut slashes = path.match_indices('/').map(|(at, _)| at);
    let rest = slashes.nth(3).map_or("", |at| &path[at..]);
    if rest.is_empty() { "/" } else { rest }
}

fn follows_command_log(path: &str, query: &Query, headers: &HeaderMap) -> bool {
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let is_log = matches!(parts.as_slice(), ["process", "session", _, "command", _, "logs"]);
    let upgrade = headers.get(UPGRADE).is_some_and(|v| v.as_bytes().eq_ignore_ascii_case(b"websocket"));
    is_log && query.flag("follow") && !upgrade
}

pub(super) async fn proxy(State(s): State<Shared>, request: Request) -> ApiResult<Response> {
    // Not by the router's extractor, which refuses suffixes that are no UTF-8 once decoded; file names need not be.
    let id = request.uri().path().split('/').nth(2).unwrap_or_default();
    let id = crate::node::sandbox_id(id)?;
    let address = daemon_address(&s.node, &id)?;
    let path = suffix(request.uri().path()).to_owned();
    let raw_query = request.uri().query().map(str::to_owned);
    let query = Query::parse(raw_query.as_deref().unwrap_or_default());
    if follows_command_log(&path, &query, request.headers()) {
        return follow_command_log(address, &path).await;
    }
    let target_path = match &raw_query {
        Some(query) => format!("{path}?{query}"),
        None => path,
    };
    let peer: Option<IpAddr> = request.extensions().get::<ConnectInfo<SocketAddr>>().map(|peer| peer.0.ip());
    let mut target = Target::new(address, &target_path);
    target.host = HeaderValue::try_from(address.to_string()).unwrap_or(HeaderValue::from_static("sandbox"));
    target.peer = peer;
    target.strip = &STRIPPED;
    match s.proxy.forward(request, target).await {
        Ok(response) => Ok(response),
        Err(error) => Err(explain(&s.node, &id, &error)),
    }
}

fn explain(node: &Node, id: &SandboxId, error: &ProxyError) -> ApiError {
    // The sandbox may have ended while the request was under way; that says more than a broken connection.
    if let Err(state) = daemon_address(node, id) {
        return state;
    }
    tracing::warn!(sandbox = %id, error = chain(&error), "a toolbox request failed");
    match error {
        ProxyError::Path(_) => ApiError::bad_request(format_args!("bad request: {error}")),
        ProxyError::ConnectTimeout(..) => {
            ApiError::new(StatusCode::GATEWAY_TIMEOUT, format_args!("sandbox {id}: {error}"))
        }
        _ => ApiError::new(StatusCode::BAD_GATEWAY, format_args!("sandbox {id}: {error}"))
            .code("SANDBOX_UNREACHABLE"),
    }
}

/// Old clients follow a command's log without a WebSocket; the daemon speaks one (runner contract 11.3).
async fn follow_command_log(address: SocketAddr, path: &str) -> ApiResult<Response> {
    let url = format!("ws://{address}{path}?follow=true");
    let dialled =
        tokio::time::timeout(std::time::Duration::from_secs(30), tokio_tungstenite::connect_async(url)).await;
    let failed = |reason: String| {
        ApiError::bad_request(format_args!("bad request: could not follow the command's log: {reason}"))
    };
    let (socket, _) =
        dialled.map_err(|_| failed("no answer".to_owned()))?.map_err(|e| failed(e.to_string()))?;
    // Dropped with the response when the client goes away, which closes the daemon's side too.
    let payloads = socket.take_while(|m| std::future::ready(matches!(m, Ok(m) if !m.is_close()))).filter_map(
        |message| async {
            match message {
                Ok(Message::Text(text)) => {
                    Some(Ok::<_, std::io::Error>(bytes::Bytes::copy_from_slice(text.as_bytes())))
                }
                Ok(Message::Binary(bytes)) => Some(Ok(bytes)),
                _ => None,
            }
        },
    );
    Ok(([(CONTENT_TYPE, "application/octet-stream")], Body::from_stream(payloads)).into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_suffix_keeps_its_encoding() {
        assert_eq!(suffix("/sandboxes/i/toolbox/files/a%2Fb%20c"), "/files/a%2Fb%20c");
        assert_eq!(suffix("/sandboxes/i/toolbox/files/"), "/files/");
        assert_eq!(suffix("/sandboxes/i/toolbox"), "/");
        assert_eq!(suffix("/sandboxes/i/toolbox//x"), "//x");
    }

    #[test]
    fn only_plain_followers_get_the_shim() {
        let plain = HeaderMap::new();
        let mut upgrading = HeaderMap::new();
        upgrading.insert(UPGRADE, HeaderValue::from_static("WebSocket"));
        let path = "/process/session/s/command/c/logs";
        let follow = Query::parse("follow=true&follow=true");
        assert!(follows_command_log(path, &follow, &plain));
        assert!(!follows_command_log(path, &follow, &upgrading));
        assert!(!follows_command_log(path, &Query::parse("follow=false"), &plain));
        assert!(!follows_command_log("/process/session/s/logs", &follow, &plain));
    }
}
