//! The runner's own HTTP API (runner contract 4): the routes a push-mode control plane calls, the toolbox proxy, build logs, metrics.

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

/// All routes, with authentication and error bodies.
pub fn router(node: Arc<Node>, health: Arc<Health>) -> Router {
    let token = node.config.token.clone();
    let shared = Shared { node, health, proxy: pinfold_proxy::Proxy::new() };
    let guarded = Router::new()
        .route("/metrics", get(metrics))
        .route("/info", get(info))
        .route("/sandboxes", post(sandboxes::create))
        .route("/sandboxes/{id}", get(sandboxes::info))
        .route("/sandboxes/{id}/start", post(sandboxes::start))
        .route("/sandboxes/{id}/stop", post(sandboxes::stop))
        .route("/sandboxes/{id}/destroy", post(sandboxes::destroy))
        .route("/sandboxes/{id}/backup", post(sandboxes::backup))
        .route("/sandboxes/{id}/snapshot-from-sandbox", post(sandboxes::snapshot))
        .route("/sandboxes/{id}/resize", post(sandboxes::resize))
        .route("/sandboxes/{id}/recover", post(sandboxes::recover))
        .route("/sandboxes/{id}/is-recoverable", post(sandboxes::is_recoverable))
        .route("/sandboxes/{id}/network-settings", post(sandboxes::network_settings))
        .route("/sandboxes/{id}/toolbox", any(toolbox::proxy))
        .route("/sandboxes/{id}/toolbox/", any(toolbox::proxy))
        .route("/sandboxes/{id}/toolbox/{*path}", any(toolbox::proxy))
        .route("/snapshots/pull", post(snapshots::pull))
        .route("/snapshots/build", post(snapshots::build))
        .route("/snapshots/tag", post(snapshots::tag))
        .route("/snapshots/exists", get(snapshots::exists))
        .route("/snapshots/info", get(snapshots::info))
        .route("/snapshots/remove", post(snapshots::remove))
        .route("/snapshots/logs", get(snapshots::logs))
        .route("/snapshots/inspect", post(snapshots::inspect))
        .route_layer(axum::middleware::from_fn_with_state(token, auth::require));
    Router::new()
        .route("/", get(alive))
        .merge(guarded)
        .with_state(shared)
        .layer(axum::middleware::from_fn(crate::spans::serve))
        .layer(axum::middleware::from_fn_with_state(ErrorStyle::Runner, pinfold_http::render_errors))
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
