//! The PTY routes: REST, and the two that become WebSockets.

use std::path::Path as FilePath;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use http::HeaderMap;
use pinfold_http::socket::Upgrade;
use pinfold_http::{ApiError, ApiResult, JsonBody, Query, ws};
use pinfold_proto::toolbox::pty::{
    CreateRequest, Created, DEFAULT_COLS, DEFAULT_ROWS, MAX_SIDE, ResizeRequest, SessionInfo, SessionList,
};
use pinfold_spawn::Sandbox;
use pinfold_spawn::tree::Scope;
use serde_json::json;

use super::attach;
use super::registry::{CreateError, Registry, Settings};
use super::shell::Plan;
use crate::Size;
use crate::relay::output::From;

/// The routes under `/process/pty` (toolbox contract 10).
pub fn router(sandbox: Sandbox, settings: Settings) -> Router {
    Router::new()
        .route("/process/pty", get(list).post(create))
        .route("/process/pty/create-connect", get(create_connect))
        .route("/process/pty/{id}", get(info).delete(kill))
        .route("/process/pty/{id}/connect", get(connect))
        .route("/process/pty/{id}/resize", post(resize))
        .with_state(Registry::new(sandbox, settings))
}

async fn list(State(registry): State<Registry>) -> Json<SessionList> {
    let mut sessions: Vec<SessionInfo> = registry.list().iter().map(|s| s.info()).collect();
    sessions.sort_by(|a, b| (&a.created_at, &a.id).cmp(&(&b.created_at, &b.id)));
    Json(SessionList { sessions })
}

async fn create(
    State(registry): State<Registry>,
    JsonBody(request): JsonBody<CreateRequest>,
) -> ApiResult<Response> {
    let plan = plan(registry.sandbox(), request)?;
    let session = registry.create(plan).await.map_err(refuse)?;
    Ok((StatusCode::CREATED, Json(Created { session_id: session.id().to_owned() })).into_response())
}

async fn info(State(registry): State<Registry>, Path(id): Path<String>) -> ApiResult<Json<SessionInfo>> {
    registry.get(&id).map(|s| Json(s.info())).ok_or_else(|| unknown(&id))
}

/// `keepDetached` as for sessions.
async fn kill(State(registry): State<Registry>, Path(id): Path<String>, query: Query) -> ApiResult<Response> {
    let keep_detached = query.parsed("keepDetached")?.unwrap_or(registry.keeps_detached());
    let session = registry.remove(&id).ok_or_else(|| unknown(&id))?;
    session.kill(if keep_detached { Scope::Attached } else { Scope::Everything }).await;
    Ok(Json(json!({ "message": format!("PTY session {id} killed") })).into_response())
}

async fn resize(
    State(registry): State<Registry>,
    Path(id): Path<String>,
    JsonBody(request): JsonBody<ResizeRequest>,
) -> ApiResult<Json<SessionInfo>> {
    if request.cols == 0 || request.rows == 0 {
        return Err(ApiError::bad_request("cols and rows must be positive"));
    }
    let size = size(request.cols, request.rows)?;
    let gone = || ApiError::gone(format_args!("the PTY session {id:?} does not exist or has ended"));
    let session = registry.get(&id).ok_or_else(gone)?;
    match session.resize(size) {
        Some(Ok(())) => Ok(Json(session.info())),
        Some(Err(error)) => {
            Err(ApiError::internal(format_args!("could not resize the PTY session {id:?}: {error}")))
        }
        None if session.ended() => Err(gone()),
        None => Err(ApiError::internal(format_args!("the PTY session {id:?} is not running yet"))),
    }
}

async fn connect(
    State(registry): State<Registry>,
    Path(id): Path<String>,
    query: Query,
    headers: HeaderMap,
    upgrade: Upgrade,
) -> ApiResult<Response> {
    let upgrade = attach::negotiate(upgrade, &headers)?;
    let from = match (query.flag("replay"), query.parsed("offset")?) {
        (_, Some(offset)) => From::Offset(offset),
        (true, None) => From::Oldest,
        (false, None) => From::Unseen,
    };
    // Unknown sessions are told of on the socket: that is what clients of this route wait for.
    Ok(upgrade.on_upgrade(move |client| async move {
        let Some(session) = registry.get(&id) else {
            return client.refuse(format!("the PTY session {id:?} does not exist or has ended")).await;
        };
        // The position is taken before the shell starts, so that nothing can be missed.
        let reader = session.log.reader(from);
        if let Err(error) = registry.start(&session).await {
            return client.refuse(error.to_string()).await;
        }
        client.serve(session, reader, from != From::Unseen).await;
    }))
}

async fn create_connect(
    State(registry): State<Registry>,
    query: Query,
    headers: HeaderMap,
    upgrade: Upgrade,
) -> ApiResult<Response> {
    let upgrade = attach::negotiate(upgrade, &headers)?;
    let request = CreateRequest {
        id: query.required("id")?.to_owned(),
        cwd: query.get("cwd").unwrap_or_default().to_owned(),
        envs: attach::offered_envs(&ws::offered(&headers))?,
        cols: query.parsed("cols")?.unwrap_or_default(),
        rows: query.parsed("rows")?.unwrap_or_default(),
        lazy_start: false,
    };
    let session = registry.create(plan(registry.sandbox(), request)?).await.map_err(refuse)?;
    let reader = session.log.reader(From::Oldest);
    Ok(upgrade.on_upgrade(move |client| client.serve(session, reader, false)))
}

fn plan(sandbox: &Sandbox, request: CreateRequest) -> ApiResult<Plan> {
    if request.id.is_empty() {
        return Err(ApiError::bad_request("the PTY session id is required"));
    }
    let bad_name = |name: &&String| name.is_empty() || name.contains(['=', '\0']);
    if let Some(name) = request.envs.keys().find(bad_name) {
        return Err(ApiError::bad_request(format_args!("{name:?} is not a variable name")));
    }
    if let Some(name) = request.envs.iter().find(|(_, value)| value.contains('\0')).map(|(name, _)| name) {
        return Err(ApiError::bad_request(format_args!("the value of {name} holds a NUL byte")));
    }
    let or = |given: u16, default: u16| if given == 0 { default } else { given };
    Ok(Plan {
        size: size(or(request.cols, DEFAULT_COLS), or(request.rows, DEFAULT_ROWS))?,
        cwd: sandbox.resolve(FilePath::new(&request.cwd)).components().collect(),
        id: request.id,
        envs: request.envs,
        lazy_start: request.lazy_start,
    })
}

fn size(cols: u16, rows: u16) -> ApiResult<Size> {
    if cols > MAX_SIDE || rows > MAX_SIDE {
        return Err(ApiError::bad_request(format_args!("cols and rows must be at most {MAX_SIDE}")));
    }
    Ok(Size::new(cols, rows))
}

fn unknown(id: &str) -> ApiError {
    ApiError::not_found(format_args!("the PTY session {id:?} does not exist")).code("PROCESS_NOT_FOUND")
}

fn refuse(error: CreateError) -> ApiError {
    match error {
        CreateError::Exists(_) => ApiError::conflict(error),
        CreateError::Full(max) => ApiError::too_many(max, "PTY sessions", "PINFOLD_MAX_PTYS"),
        CreateError::Start { ref source, .. } if source.is_no_room() => ApiError::exhausted(error),
        CreateError::Start { .. } => ApiError::internal(error),
    }
}
