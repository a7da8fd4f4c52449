//! The preview proxy (toolbox contract 15): any port of the sandbox through the toolbox's own.

use std::net::SocketAddr;

use axum::Router;
use axum::extract::{ConnectInfo, Path, Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use http::header::LOCATION;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use pinfold_http::{ApiError, ApiResult};
use pinfold_proxy::{Proxy, ProxyError, Target, Upstream};

use crate::port;

/// Counts how often a request came through here: the toolbox's own port is a port of the sandbox too, and a request must not go round for ever.
const HOPS: HeaderName = HeaderName::from_static("x-pinfold-preview-hops");
const MAX_HOPS: u8 = 8;

pub(crate) fn router() -> Router {
    Router::new()
        .route("/proxy/{port}", any(add_slash))
        .route("/proxy/{port}/", any(forward))
        .route("/proxy/{port}/{*path}", any(forward))
        .with_state(Proxy::new())
}

async fn add_slash(request: Request) -> Response {
    let query = request.uri().query().map(|q| format!("?{q}")).unwrap_or_default();
    let get = request.method() == Method::GET;
    let status = if get { StatusCode::MOVED_PERMANENTLY } else { StatusCode::TEMPORARY_REDIRECT };
    (status, [(LOCATION, format!("{}/{query}", request.uri().path()))]).into_response()
}

async fn forward(
    State(proxy): State<Proxy>,
    Path(parameters): Path<Vec<(String, String)>>,
    request: Request,
) -> ApiResult<Response> {
    let text = parameters.first().map(|(_, value)| value.as_str()).unwrap_or_default();
    let port = text.parse::<u16>().ok().filter(|p| *p > 0);
    let port = port.ok_or_else(|| ApiError::bad_request(format_args!("{text:?} is not a port")))?;
    let hops = request.headers().get(HOPS).and_then(|h| h.to_str().ok()?.parse().ok()).unwrap_or(0_u8);
    if hops >= MAX_HOPS {
        return Err(ApiError::new(
            StatusCode::LOOP_DETECTED,
            "the request has gone through this proxy too often",
        ));
    }
    // Behind `/proxy/<port>`, byte for byte: decoding and encoding again would change it.
    let uri = request.uri().clone();
    let whole = uri.path_and_query().map_or("/", |p| p.as_str());
    let rest = whole.splitn(4, '/').nth(3).unwrap_or_default();
    let mut set = HeaderMap::new();
    set.insert(HOPS, HeaderValue::from(u16::from(hops) + 1));
    let host = HeaderValue::try_from(format!("localhost:{port}")).map_err(ApiError::internal)?;
    let peer = request.extensions().get::<ConnectInfo<SocketAddr>>().map(|info| info.0.ip().to_canonical());
    // A server that listens on one address of the container only is found there.
    let upstream = port::address_of(port).map_or(Upstream::Localhost(port), Upstream::Address);
    let target = Target { upstream, host, path_and_query: rest, peer, strip: &[], set };
    proxy.forward(request, target).await.map_err(|error| refused(port, &error))
}

fn refused(port: u16, error: &ProxyError) -> ApiError {
    let status = match error {
        ProxyError::ConnectTimeout(..) => StatusCode::GATEWAY_TIMEOUT,
        ProxyError::RequestBody(_) | ProxyError::Path(_) => StatusCode::BAD_REQUEST,
        ProxyError::Connect(..) | ProxyError::Upstream(..) | ProxyError::UnaskedUpgrade(_) => {
            StatusCode::BAD_GATEWAY
        }
    };
    ApiError::new(status, format_args!("port {port}: {}", pinfold_proto::error::chain(&error)))
}
