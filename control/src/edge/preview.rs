//! Previews by host name: `<port>-<sandbox id or signed token>.<domain>`.

use std::sync::Arc;

use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, StatusCode, Uri, header};
use pinfold_http::{ApiError, ApiResult};
use pinfold_proto::well_known::TOOLBOX_PORT;

use super::admission::{self, Admitted, COOKIE_SECONDS, admit, without_key};
use super::forward::{proxy_error, set_cookie, to_sandbox};
use super::{allow_origin, is_preflight, warning};
use crate::core::Core;
use crate::store::tokens::Kind;

/// A caller that wants the application's own answers about other origins.
const NO_CORS: &str = "x-daytona-disable-cors";

/// What a preview's host name says.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Target {
    port: u16,
    /// A sandbox's id, or a signed token.
    label: String,
}

/// The preview that a request is for, if its host is one below our domain.
pub(super) fn target(core: &Core, headers: &HeaderMap, uri: &Uri) -> Option<Target> {
    let host = headers.get(header::HOST).and_then(|value| value.to_str().ok()).or_else(|| uri.host())?;
    parse(host, &core.config.proxy_domain)
}

fn parse(host: &str, domain: &str) -> Option<Target> {
    let host = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    let label = host.strip_suffix(domain)?.strip_suffix('.')?;
    if label.contains('.') {
        return None;
    }
    let (port, label) = label.split_once('-')?;
    let port = port.parse::<u16>().ok().filter(|port| *port > 0)?;
    Some(Target { port, label: label.to_owned() })
}

/// Passes a preview request on.
pub(super) async fn serve(core: &Arc<Core>, target: Target, request: Request) -> ApiResult<Response> {
    let Target { port, label } = target;
    let unauthorized = || {
        let message = "this preview is not public: an API key, the sandbox's preview token or a signed link is required";
        proxy_error(ApiError::new(StatusCode::UNAUTHORIZED, message))
    };
    let signed = core.tokens.find(&label, Kind::Preview).filter(|token| token.port == Some(port));
    let id = signed.as_ref().map_or(label.as_str(), |token| token.sandbox_id.as_str());
    // By id only: a name would let a stranger guess.
    let handle =
        core.directory.find(id).filter(|handle| handle.record().id == id).ok_or_else(unauthorized)?;
    let record = handle.record();
    let admitted = match signed {
        Some(_) => Some(Admitted::Header),
        None => admit(core, &record, port, request.headers(), request.uri()),
    };
    let off = request.headers().get(NO_CORS).is_some_and(|value| value == "true");
    let origin = request.headers().get(header::ORIGIN).filter(|_| !off).cloned();
    if let (None, Some(origin), true) = (admitted, &origin, is_preflight(&request)) {
        // A browser asks without credentials before it sends them.
        let mut response = StatusCode::NO_CONTENT.into_response();
        allow_origin(response.headers_mut(), origin.clone());
        return Ok(response);
    }
    let admitted = admitted.ok_or_else(unauthorized)?;
    let warned = core.config.preview_warning && port != TOOLBOX_PORT;
    if let Some(page) = warned.then(|| warning::interpose(&request)).flatten() {
        return Ok(page);
    }
    let rest = without_key(request.uri());
    let path = if port == TOOLBOX_PORT { rest } else { format!("/proxy/{port}{rest}") };
    let mut response = to_sandbox(core, &handle, request, &path).await?;
    if admitted == Admitted::Query {
        let value = admission::cookie_value(&record, port);
        set_cookie(&mut response, &admission::cookie_name(&record.id), &value, COOKIE_SECONDS);
    }
    // What the application itself says counts.
    if let Some(origin) = origin
        && !response.headers().contains_key(header::ACCESS_CONTROL_ALLOW_ORIGIN)
    {
        allow_origin(response.headers_mut(), origin);
    }
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_read() {
        let id = "0b3f0c7e-2a44-4a3b-9d55-0d4c7f1f6a10";
        let found = parse(&format!("3000-{id}.proxy.localhost:3000"), "proxy.localhost").unwrap();
        assert_eq!((found.port, found.label.as_str()), (3000, id));
        assert!(parse("22222-abc.PROXY.localhost", "proxy.localhost").is_some());
        for other in [
            "localhost:3000",
            "proxy.localhost",
            "0-a.proxy.localhost",
            "70000-a.proxy.localhost",
            "a.b.proxy.localhost",
            "3000-a.proxy.localhost.evil",
        ] {
            assert_eq!(parse(other, "proxy.localhost"), None, "{other}");
        }
    }
}
