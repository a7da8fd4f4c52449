//! `/warm-pools` (control-plane contract 16.7).

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::routing::{get, patch};
use axum::{Json, Router};
use http::StatusCode;
use pinfold_http::{ApiError, ApiResult, JsonBody};
use serde::Deserialize;
use serde_json::Value;

use super::auth::User;
use super::store_failed;
use crate::core::Core;
use crate::pools::{self, dto};
use crate::time::now;

/// Largest pool.
const MAX_POOL: i64 = 1000;

pub(super) fn routes() -> Router<Arc<Core>> {
    Router::new()
        .route("/warm-pools", get(list).post(create))
        .route("/warm-pools/{id}", patch(resize).delete(remove))
}

#[derive(Deserialize)]
struct Body {
    #[serde(default)]
    snapshot: Option<String>,
    pool: i64,
}

fn size(pool: i64) -> ApiResult<u32> {
    let valid = u32::try_from(pool).ok().filter(|_| (1..=MAX_POOL).contains(&pool));
    valid.ok_or_else(|| {
        ApiError::bad_request(format_args!("pool must be a whole number from 1 to {MAX_POOL}"))
    })
}

async fn list(State(core): State<Arc<Core>>, _user: User) -> Json<Vec<Value>> {
    Json(core.pools.all.list().iter().map(|pool| dto(&core, pool)).collect())
}

async fn create(
    State(core): State<Arc<Core>>,
    user: User,
    JsonBody(body): JsonBody<Body>,
) -> ApiResult<(StatusCode, Json<Value>)> {
    user.may("write:sandboxes")?;
    let snapshot = body.snapshot.filter(|name| !name.is_empty());
    let snapshot = snapshot.unwrap_or_else(|| core.config.default_snapshot.name.clone());
    let pool = pools::create(&core, &snapshot, size(body.pool)?).await?;
    Ok((StatusCode::CREATED, Json(dto(&core, &pool))))
}

fn missing(id: &str) -> ApiError {
    ApiError::not_found(format_args!("no warm pool {id}"))
}

async fn resize(
    State(core): State<Arc<Core>>,
    user: User,
    Path(id): Path<String>,
    JsonBody(body): JsonBody<Body>,
) -> ApiResult<Json<Value>> {
    user.may("write:sandboxes")?;
    core.pools.all.get(&id).ok_or_else(|| missing(&id))?;
    let size = size(body.pool)?;
    let changed = core.pools.all.change(&id, |pool| {
        pool.pool = size;
        pool.updated_at = now();
    });
    let pool = changed.await.map_err(store_failed)?.ok_or_else(|| missing(&id))?;
    core.pools.wake();
    Ok(Json(dto(&core, &pool)))
}

async fn remove(State(core): State<Arc<Core>>, user: User, Path(id): Path<String>) -> ApiResult<StatusCode> {
    user.may("delete:sandboxes")?;
    core.pools.all.get(&id).ok_or_else(|| missing(&id))?;
    core.pools.all.remove(&id).await.map_err(store_failed)?;
    core.pools.wake();
    Ok(StatusCode::NO_CONTENT)
}
