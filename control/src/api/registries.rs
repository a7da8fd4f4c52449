//! `/docker-registry`: registries that images are pulled from with a name and a password. A password is written, never read.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::routing::get;
use axum::{Json, Router};
use http::StatusCode;
use pinfold_http::{ApiError, ApiResult, JsonBody, OptionalJsonBody};
use serde::Deserialize;
use serde_json::{Value, json};

use super::auth::User;
use super::{not_supported, store_failed};
use crate::core::Core;
use crate::registries::address;
use crate::store::registries::Registry;
use crate::time::{iso, now};

/// Longest value of a member, in bytes.
const MAX: usize = 4096;

pub(super) fn routes() -> Router<Arc<Core>> {
    Router::new()
        .route("/docker-registry", get(list).post(create))
        .route("/docker-registry/registry-push-access", get(no_push))
        .route("/docker-registry/{id}", get(one).patch(update).delete(remove))
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Body {
    name: Option<String>,
    url: Option<String>,
    username: Option<String>,
    password: Option<String>,
    project: Option<String>,
}

fn dto(r: &Registry) -> Value {
    json!({
        "id": r.id, "name": r.name, "url": r.url, "username": r.username, "project": r.project, "registryType": r.kind,
        "createdAt": iso(r.created_at), "updatedAt": iso(r.updated_at),
    })
}

fn missing(id: &str) -> ApiError {
    ApiError::not_found(format_args!("no registry {id}"))
}

/// Puts what the body has into the registry, and checks the whole.
fn take(core: &Core, registry: &mut Registry, body: Body) -> ApiResult<()> {
    let members = [
        (&mut registry.name, body.name),
        (&mut registry.url, body.url),
        (&mut registry.username, body.username),
        (&mut registry.password, body.password),
        (&mut registry.project, body.project),
    ];
    for (member, given) in members {
        if let Some(given) = given {
            *member = given.trim().to_owned();
        }
    }
    let Registry { id, name, url, username, password, project, .. } = &*registry;
    for (what, value) in [("name", name), ("url", url), ("username", username), ("password", password)] {
        if value.is_empty() {
            return Err(ApiError::bad_request(format_args!("a registry needs a {what}")));
        }
    }
    if [name, url, username, password, project].iter().any(|value| value.len() > MAX) {
        return Err(ApiError::bad_request(format_args!("a value has at most {MAX} bytes")));
    }
    if address(url).is_empty() || url.contains(char::is_whitespace) {
        return Err(ApiError::bad_request(format_args!("{url:?} is not the address of a registry")));
    }
    if core.registries.all.list().iter().any(|other| other.name == *name && other.id != *id) {
        return Err(ApiError::conflict(format_args!("a registry named {name:?} exists already")));
    }
    Ok(())
}

async fn list(State(core): State<Arc<Core>>, _user: User) -> Json<Vec<Value>> {
    Json(core.registries.all.list().iter().map(dto).collect())
}

async fn one(State(core): State<Arc<Core>>, _user: User, Path(id): Path<String>) -> ApiResult<Json<Value>> {
    Ok(Json(dto(&core.registries.all.get(&id).ok_or_else(|| missing(&id))?)))
}

async fn create(
    State(core): State<Arc<Core>>,
    user: User,
    JsonBody(body): JsonBody<Body>,
) -> ApiResult<(StatusCode, Json<Value>)> {
    user.may("write:registries")?;
    let at = now();
    let mut registry = Registry {
        id: uuid::Uuid::new_v4().to_string(),
        name: String::new(),
        url: String::new(),
        username: String::new(),
        password: String::new(),
        project: String::new(),
        kind: "organization".to_owned(),
        created_at: at,
        updated_at: at,
    };
    take(&core, &mut registry, body)?;
    let shown = dto(&registry);
    core.registries.all.insert(registry).await.map_err(store_failed)?;
    Ok((StatusCode::CREATED, Json(shown)))
}

async fn update(
    State(core): State<Arc<Core>>,
    user: User,
    Path(id): Path<String>,
    OptionalJsonBody(body): OptionalJsonBody<Body>,
) -> ApiResult<Json<Value>> {
    user.may("write:registries")?;
    let mut registry = core.registries.all.get(&id).ok_or_else(|| missing(&id))?;
    take(&core, &mut registry, body)?;
    registry.updated_at = now();
    let shown = dto(&registry);
    let changed = core.registries.all.change(&id, |known| *known = registry).await.map_err(store_failed)?;
    changed.map(|_| Json(shown)).ok_or_else(|| missing(&id))
}

async fn remove(State(core): State<Arc<Core>>, user: User, Path(id): Path<String>) -> ApiResult<StatusCode> {
    user.may("delete:registries")?;
    core.registries.all.get(&id).ok_or_else(|| missing(&id))?;
    core.registries.all.remove(&id).await.map_err(store_failed)?;
    Ok(StatusCode::NO_CONTENT)
}

async fn no_push(_user: User) -> ApiError {
    not_supported("pushing images to a built-in registry")
}
