//! SSH access tokens (control-plane contract 18).

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::routing::{get, post};
use axum::{Json, Router};
use http::HeaderMap;
use pinfold_http::{ApiError, ApiResult, Query};
use pinfold_proto::control::sandbox::{Sandbox, SshAccess, SshAccessValidation};

use super::auth::User;
use super::{not_supported, sandbox_now, store_failed};
use crate::core::Core;
use crate::store::tokens::Kind;
use crate::time::iso;
use crate::token;

pub(super) fn routes() -> Router<Arc<Core>> {
    Router::new()
        .route("/sandbox/{id}/ssh-access", post(create).delete(revoke))
        .route("/sandbox/ssh-access/validate", get(validate))
}

/// What to type, or nothing when there is no gateway. A plain argument list: clients split it and run it.
pub(super) fn command(core: &Core, headers: &HeaderMap, token: &str) -> Option<String> {
    let port = core.ssh_listening.get().map(std::net::SocketAddr::port)?;
    let host = core.public_host(headers);
    Some(if port == 22 { format!("ssh {token}@{host}") } else { format!("ssh -p {port} {token}@{host}") })
}

async fn create(
    State(core): State<Arc<Core>>,
    user: User,
    headers: HeaderMap,
    Path(id): Path<String>,
    query: Query,
) -> ApiResult<Json<SshAccess>> {
    user.may("write:sandboxes")?;
    let minutes = query.parsed::<f64>("expiresInMinutes")?.unwrap_or(60.0);
    if !(minutes > 0.0 && minutes <= 525_600.0) {
        return Err(ApiError::bad_request("expiresInMinutes must be more than 0 and at most 525600"));
    }
    let record = core.directory.get(&id)?.record();
    let secret = token::alphanumeric(32);
    let Some(ssh_command) = command(&core, &headers, &secret) else {
        return Err(not_supported("SSH access (the SSH gateway is switched off)"));
    };
    #[expect(clippy::cast_possible_truncation, reason = "bounded above")]
    let lifetime = (minutes * 60_000.0) as i64;
    let token =
        core.tokens.issue(&secret, Kind::Ssh, &record.id, None, lifetime).await.map_err(store_failed)?;
    Ok(Json(SshAccess {
        id: token.id,
        sandbox_id: token.sandbox_id,
        token: secret,
        expires_at: iso(token.expires_at),
        created_at: iso(token.created_at),
        updated_at: iso(token.created_at),
        ssh_command,
    }))
}

async fn revoke(
    State(core): State<Arc<Core>>,
    user: User,
    headers: HeaderMap,
    Path(id): Path<String>,
    query: Query,
) -> ApiResult<Json<Sandbox>> {
    user.may("write:sandboxes")?;
    let handle = core.directory.get(&id)?;
    let sandbox = handle.record().id.clone();
    match query.get("token").filter(|token| !token.is_empty()) {
        Some(secret) => {
            if core.tokens.find(secret, Kind::Ssh).is_some_and(|token| token.sandbox_id == sandbox) {
                core.tokens.revoke(secret).await.map_err(store_failed)?;
            }
        }
        // The newest Python SDK means one token and sends none.
        None => core.tokens.revoke_all(&sandbox, Kind::Ssh).await.map_err(store_failed)?,
    }
    Ok(Json(sandbox_now(&core, &handle, &headers)))
}

async fn validate(State(core): State<Arc<Core>>, _user: User, query: Query) -> Json<SshAccessValidation> {
    let token = query.get("token").and_then(|secret| core.tokens.find(secret, Kind::Ssh));
    let sandbox_id = token.map(|token| token.sandbox_id).unwrap_or_default();
    Json(SshAccessValidation { valid: !sandbox_id.is_empty(), sandbox_id })
}
