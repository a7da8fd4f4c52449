//! The runner's own HTTP API (runner contract 4): the routes a push-mode control plane calls, the toolbox proxy, build logs, metrics.

mod access;
mod auth;
mod sandboxes;
mod snapshots;
pub(crate) mod toolbox;

use std::sync::Arc;

use axum::routing::{any, get, post};
use axum::{Json, Router};
use http::header::CONTENT_TYPE;
use pinfold_http::ErrorStyle;
use serde_json::{Value, json};

use crate::health::Health;
use crate::node::Node;

/// What handlers share.
#[derive(Debug, Clone)]
pub struct Shared {
    /// The node.
    pub node: Arc<Node>,
    /// Its health.
    pub health: Arc<Health>,
    /// The proxy to daemons, with its pool.
    pub proxy: pinfold_proxy::Proxy,
}

macro_rules! routes {
    ($($method:ident $path:literal => $handler:path;)*) => {
        /// Every route that wants the token, with its method; `any` stands for all of them.
        pub const ROUTES: &[(&str, &str)] = &[$((stringify!($method), $path)),*];

        fn guarded() -> Router<Shared> {
            Router::new()$(.route($path, $method($handler)))*
        }
    };
}

routes! {
    get "/metrics" => metrics;
    get "/info" => info;
    post "/sandboxes" => sandboxes::create;
    get "/sandboxes/{id}" => sandboxes::info;
    post "/sandboxes/{id}/start" => sandboxes::start;
    post "/sandboxes/{id}/stop" => sandboxes::stop;
    post "/sandboxes/{id}/destroy" => sandboxes::destroy;
    post "/sandboxes/{id}/backup" => sandboxes::backup;
    post "/sandboxes/{id}/snapshot-from-sandbox" => sandboxes::snapshot;
    post "/sandboxes/{id}/resize" => sandboxes::resize;
    post "/sandboxes/{id}/recover" => sandboxes::recover;
    post "/sandboxes/{id}/is-recoverable" => sandboxes::is_recoverable;
    post "/sandboxes/{id}/network-settings" => sandboxes::network_settings;
    any "/sandboxes/{id}/toolbox" => toolbox::proxy;
    any "/sandboxes/{id}/toolbox/" => toolbox::proxy;
    any "/sandboxes/{id}/toolbox/{*path}" => toolbox::proxy;
    post "/snapshots/pull" => snapshots::pull;
    post "/snapshots/build" => snapshots::build;
    post "/snapshots/tag" => snapshots::tag;
    get "/snapshots/exists" => snapshots::exists;
    get "/snapshots/info" => snapshots::info;
    post "/snapshots/remove" => snapshots::remove;
    get "/snapshots/logs" => snapshots::logs;
    post "/snapshots/inspect" => snapshots::inspect;
}

/// All routes, with authentication and error bodies.
pub fn router(node: Arc<Node>, health: Arc<Health>) -> Router {
    let (token, log_requests) = (node.config.token.clone(), node.config.log_requests);
    // A developer reads the description in a browser, which has no token (runner contract 1.1).
    let open = node.config.environment == "development";
    let shared = Shared { node, health, proxy: pinfold_proxy::Proxy::new() };
    let describe = Router::new().route("/api/doc.json", get(description));
    let (open, described) = if open { (describe, Router::new()) } else { (Router::new(), describe) };
    let guarded = guarded().merge(described);
    let guarded = guarded.route_layer(axum::middleware::from_fn_with_state(token, auth::require));
    let router = Router::new()
        .route("/", get(alive))
        .merge(open)
        .merge(guarded)
        .with_state(shared)
        .layer(axum::middleware::from_fn(crate::spans::serve))
        .layer(axum::middleware::from_fn_with_state(ErrorStyle::Runner, pinfold_http::render_errors));
    if log_requests { router.layer(axum::middleware::from_fn(access::log)) } else { router }
}

/// What is described in `openapi.json`; a test compares it with [`ROUTES`].
async fn description() -> ([(http::HeaderName, &'static str); 1], &'static str) {
    ([(CONTENT_TYPE, "application/json")], include_str!("openapi.json"))
}

async fn alive() -> Json<Value> {
    Json(json!({ "status": "ok", "version": env!("CARGO_PKG_VERSION") }))
}

async fn metrics(
    axum::extract::State(shared): axum::extract::State<Shared>,
) -> ([(http::HeaderName, &'static str); 1], String) {
    let text = shared.node.counters.prometheus()
        + &shared.health.prometheus()
        + &crate::telemetry::prometheus()
        + &crate::observe::process::prometheus();
    ([(CONTENT_TYPE, "text/plain; version=0.0.4")], text)
}

async fn info(axum::extract::State(shared): axum::extract::State<Shared>) -> Json<Value> {
    // Callers allow 3 s for this, so nothing is measured here.
    let mut answer =
        json!({ "serviceHealth": shared.health.services(), "appVersion": env!("CARGO_PKG_VERSION") });
    if let Ok(metrics) = shared.health.metrics() {
        answer["metrics"] = serde_json::to_value(metrics).unwrap_or_default();
    }
    Json(answer)
}
