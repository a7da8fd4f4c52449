//! Links to ports of a sandbox, and what an external proxy asks (control-plane contract 17).

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::routing::{get, post};
use axum::{Json, Router};
use http::{HeaderMap, StatusCode};
use pinfold_http::{ApiError, ApiResult, Query};
use pinfold_proto::control::sandbox::{PortPreviewUrl, SignedPortPreviewUrl, Url};

use super::auth::User;
use super::{Caller, store_failed};
use crate::core::Core;
use crate::store::tokens::Kind;
use crate::token;

pub(super) fn routes() -> Router<Arc<Core>> {
    Router::new()
        .route("/sandbox/{id}/ports/{port}/preview-url", get(preview_url))
        .route("/sandbox/{id}/ports/{port}/signed-preview-url", get(signed_url))
        .route("/sandbox/{id}/ports/{port}/signed-preview-url/{token}/expire", post(expire))
        .route("/sandbox/{id}/toolbox-proxy-url", get(toolbox_url))
        .route("/sandbox/{id}/signing-key", get(signing_key))
        .route("/sandbox/{id}/signing-key/rotate", post(rotate_signing_key))
        .route("/preview/{id}/signing-key", get(signing_key))
        .route("/preview/{id}/public", get(is_public))
        .route("/preview/{id}/validate/{token}", get(validate))
        .route("/preview/{id}/access", get(access))
        .route("/preview/{id}/preview-warning", get(warned))
        .route("/preview/{token}/{port}/sandbox-id", get(sandbox_of))
}

fn port(text: &str) -> ApiResult<u16> {
    let parsed = text.parse::<u16>().ok().filter(|port| *port > 0);
    parsed.ok_or_else(|| ApiError::bad_request(format_args!("{text:?} is not a port number")))
}

fn url(core: &Core, headers: &HeaderMap, port: u16, label: &str) -> String {
    let (scheme, ours) = core.preview_parts(headers);
    format!("{scheme}://{port}-{label}.{}{ours}", core.config.proxy_domain)
}

async fn preview_url(
    State(core): State<Arc<Core>>,
    _user: User,
    headers: HeaderMap,
    Path((id, wanted)): Path<(String, String)>,
) -> ApiResult<Json<PortPreviewUrl>> {
    let port = port(&wanted)?;
    let record = core.directory.get(&id)?.record();
    let url = url(&core, &headers, port, &record.id);
    Ok(Json(PortPreviewUrl { sandbox_id: record.id.clone(), url, token: record.auth_token.clone() }))
}

async fn signed_url(
    State(core): State<Arc<Core>>,
    _user: User,
    headers: HeaderMap,
    Path((id, wanted)): Path<(String, String)>,
    query: Query,
) -> ApiResult<Json<SignedPortPreviewUrl>> {
    let port = port(&wanted)?;
    let seconds = query.parsed::<i64>("expiresInSeconds")?.unwrap_or(60);
    if !(1..=86_400).contains(&seconds) {
        return Err(ApiError::bad_request("expiresInSeconds must be from 1 to 86400"));
    }
    let record = core.directory.get(&id)?.record();
    let secret = token::dns_label(16);
    core.tokens
        .issue(&secret, Kind::Preview, &record.id, Some(port), seconds * 1000)
        .await
        .map_err(store_failed)?;
    let url = url(&core, &headers, port, &secret);
    Ok(Json(SignedPortPreviewUrl { sandbox_id: record.id.clone(), port, token: secret, url }))
}

async fn expire(
    State(core): State<Arc<Core>>,
    _user: User,
    Path((id, _port, secret)): Path<(String, String, String)>,
) -> ApiResult<StatusCode> {
    let record = core.directory.get(&id)?.record();
    if core.tokens.find(&secret, Kind::Preview).is_some_and(|token| token.sandbox_id == record.id) {
        core.tokens.revoke(&secret).await.map_err(store_failed)?;
    }
    Ok(StatusCode::CREATED)
}

async fn toolbox_url(
    State(core): State<Arc<Core>>,
    _user: User,
    headers: HeaderMap,
    Path(id): Path<String>,
) -> ApiResult<Json<Url>> {
    core.directory.get(&id)?;
    Ok(Json(Url { url: format!("{}/toolbox", core.base_url(Some(&headers))) }))
}

async fn signing_key(
    State(core): State<Arc<Core>>,
    _user: User,
    Path(id): Path<String>,
) -> ApiResult<Json<String>> {
    let handle = core.directory.get(&id)?;
    let record = handle
        .change(|r| {
            r.signing_key.get_or_insert_with(|| token::alphanumeric(43));
            Ok(())
        })
        .await?;
    Ok(Json(record.signing_key.clone().unwrap_or_default()))
}

async fn rotate_signing_key(
    State(core): State<Arc<Core>>,
    user: User,
    Path(id): Path<String>,
) -> ApiResult<Json<String>> {
    user.may("write:sandboxes")?;
    let handle = core.directory.get(&id)?;
    let record = handle
        .change(|r| {
            r.signing_key = Some(token::alphanumeric(43));
            Ok(())
        })
        .await?;
    Ok(Json(record.signing_key.clone().unwrap_or_default()))
}

fn known(yes: bool) -> ApiResult<Json<bool>> {
    if yes { Ok(Json(true)) } else { Err(ApiError::not_found("no such sandbox, or not for this credential")) }
}

async fn is_public(
    State(core): State<Arc<Core>>,
    _user: User,
    Path(id): Path<String>,
) -> ApiResult<Json<bool>> {
    known(core.directory.find(&id).is_some_and(|handle| handle.record().public))
}

async fn validate(
    State(core): State<Arc<Core>>,
    _user: User,
    Path((id, secret)): Path<(String, String)>,
) -> ApiResult<Json<bool>> {
    let same = |expected: &str| pinfold_proto::id::Secret::new(expected).matches(&secret);
    known(core.directory.find(&id).is_some_and(|handle| same(&handle.record().auth_token)))
}

async fn warned(State(core): State<Arc<Core>>, _user: User, Path(id): Path<String>) -> ApiResult<Json<bool>> {
    core.directory.get(&id)?;
    Ok(Json(core.config.preview_warning))
}

async fn access(
    State(core): State<Arc<Core>>,
    headers: HeaderMap,
    Path(id): Path<String>,
) -> ApiResult<Json<bool>> {
    let user = super::bearer(&headers).and_then(|key| Caller::of(&core, key));
    known(matches!(user, Some(Caller::User(_))) && core.directory.find(&id).is_some())
}

async fn sandbox_of(
    State(core): State<Arc<Core>>,
    _user: User,
    Path((secret, wanted)): Path<(String, String)>,
) -> ApiResult<Json<String>> {
    let port = port(&wanted)?;
    let token = core.tokens.find(&secret, Kind::Preview).filter(|token| token.port == Some(port));
    token.map(|token| Json(token.sandbox_id)).ok_or_else(|| ApiError::not_found("no such signed link"))
}
