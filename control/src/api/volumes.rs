//! `/volumes` (control-plane contract 15).

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::routing::get;
use axum::{Json, Router};
use http::StatusCode;
use pinfold_http::{ApiError, ApiResult, OptionalJsonBody};
use pinfold_proto::control::sandbox::DesiredState;
use pinfold_proto::control::volume::{CreateVolume, Volume};

use super::auth::User;
use super::store_failed;
use crate::core::Core;
use crate::volumes::dto;

pub(super) fn routes() -> Router<Arc<Core>> {
    Router::new()
        .route("/volumes", get(list).post(create))
        .route("/volumes/{id}", get(one).delete(remove))
        .route("/volumes/by-name/{name}", get(by_name))
}

async fn list(State(core): State<Arc<Core>>, user: User) -> ApiResult<Json<Vec<Volume>>> {
    user.may("read:volumes")?;
    Ok(Json(core.volumes.list().iter().map(|volume| dto(volume, &core.org_id)).collect()))
}

async fn create(
    State(core): State<Arc<Core>>,
    user: User,
    OptionalJsonBody(body): OptionalJsonBody<CreateVolume>,
) -> ApiResult<Json<Volume>> {
    user.may("write:volumes")?;
    if body.name.as_ref().is_some_and(|name| name.len() > 255 || name.chars().any(char::is_control)) {
        return Err(ApiError::bad_request("a volume's name has at most 255 bytes and no control characters"));
    }
    Ok(Json(dto(&core.volumes.create(&core, body.name).await?, &core.org_id)))
}

fn missing(what: &str) -> ApiError {
    ApiError::not_found(format_args!("no volume {what}"))
}

async fn one(State(core): State<Arc<Core>>, user: User, Path(id): Path<String>) -> ApiResult<Json<Volume>> {
    user.may("read:volumes")?;
    let volume = core.volumes.find(&id).filter(|volume| volume.id == id).ok_or_else(|| missing(&id))?;
    Ok(Json(dto(&volume, &core.org_id)))
}

async fn by_name(
    State(core): State<Arc<Core>>,
    user: User,
    Path(name): Path<String>,
) -> ApiResult<Json<Volume>> {
    user.may("read:volumes")?;
    let volume =
        core.volumes.list().into_iter().find(|volume| volume.name == name).ok_or_else(|| missing(&name))?;
    Ok(Json(dto(&volume, &core.org_id)))
}

async fn remove(State(core): State<Arc<Core>>, user: User, Path(id): Path<String>) -> ApiResult<StatusCode> {
    user.may("delete:volumes")?;
    let volume = core.volumes.find(&id).filter(|volume| volume.id == id).ok_or_else(|| missing(&id))?;
    let users = core.directory.all().into_iter().map(|handle| handle.record());
    let mut users = users.filter(|r| {
        r.desired != DesiredState::Destroyed && r.volumes.iter().any(|mount| mount.volume_id == volume.id)
    });
    if let Some(user) = users.next() {
        return Err(ApiError::conflict(format_args!(
            "the volume {} is in use by the sandbox {}",
            volume.name, user.name
        )));
    }
    core.volumes.delete(&core, &volume.id).await.map_err(store_failed)?;
    Ok(StatusCode::OK)
}
