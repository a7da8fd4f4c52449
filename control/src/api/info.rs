//! What anyone may know: health and configuration.

use std::sync::Arc;

use axum::extract::State;
use axum::routing::get;
use axum::{Json, Router};
use http::HeaderMap;
use pinfold_http::{ApiError, ApiResult};
use serde_json::{Value, json};

use crate::core::Core;

/// The version of the contract that we speak; clients compare it with their own.
pub(crate) const API_VERSION: &str = "0.190.0";

pub(super) fn routes() -> Router<Arc<Core>> {
    Router::new()
        .route("/health", get(|| async { Json(json!({ "status": "ok" })) }))
        .route("/health/ready", get(ready))
        .route("/config", get(config))
}

async fn ready(State(core): State<Arc<Core>>) -> ApiResult<Json<Value>> {
    core.store
        .ping()
        .await
        .map_err(|e| ApiError::unavailable(format_args!("the database does not answer: {e}")))?;
    Ok(Json(json!({ "status": "ok" })))
}

async fn config(State(core): State<Arc<Core>>, headers: HeaderMap) -> Json<Value> {
    let base = core.base_url(Some(&headers));
    let (scheme, port) = core.preview_parts(&headers);
    let mut config = json!({
        "version": API_VERSION,
        "oidc": { "issuer": "", "clientId": "", "audience": "", "provider": "" },
        "linkedAccountsEnabled": false,
        "announcements": {},
        "proxyTemplateUrl": format!("{scheme}://{{{{PORT}}}}-{{{{sandboxId}}}}.{}{port}", core.config.proxy_domain),
        "proxyToolboxUrl": format!("{base}/toolbox"),
        "defaultSnapshot": core.config.default_snapshot.name,
        "dashboardUrl": "",
        "maxAutoArchiveInterval": super::settings::MAX_AUTO_ARCHIVE,
        "maintananceMode": false,
        "environment": "standalone",
    });
    if let (Value::Object(members), Some(command)) =
        (&mut config, super::ssh::command(&core, &headers, "{{TOKEN}}"))
    {
        members.insert("sshGatewayCommand".to_owned(), command.into());
    }
    Json(config)
}
