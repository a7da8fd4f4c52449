//! The REST API below `/api`, by groups of routes. Handlers check, ask the owner of the thing, and answer with what was committed.

mod account;
mod auth;
mod builds;
mod call;
mod create;
mod info;
mod jobs;
mod lifecycle;
mod list;
mod pools;
mod preview;
mod refused;
mod registries;
mod runners;
mod settings;
mod snapshots;
mod ssh;
mod volumes;

use std::fmt::Display;
use std::sync::Arc;

use axum::Router;
use http::HeaderMap;
use pinfold_http::ApiError;
use pinfold_proto::control::sandbox::Sandbox;

pub(crate) use auth::{Caller, bearer};
pub(crate) use create::compose_warm;
pub(crate) use jobs::end as end_job;

use crate::core::Core;
use crate::sandbox::Handle;
use crate::store::sandboxes::Record;
use crate::wire;

/// Everything below `/api`.
pub(crate) fn router(core: &Arc<Core>) -> Router {
    let api = Router::new()
        .merge(info::routes())
        .merge(create::routes())
        .merge(list::routes())
        .merge(lifecycle::routes())
        .merge(settings::routes())
        .merge(preview::routes())
        .merge(builds::routes())
        .merge(ssh::routes())
        .merge(snapshots::routes())
        .merge(volumes::routes())
        .merge(registries::routes())
        .merge(pools::routes())
        .merge(account::routes())
        .merge(runners::routes())
        .merge(jobs::routes())
        .fallback(refused::no_route)
        .method_not_allowed_fallback(refused::no_method);
    Router::new().nest("/api", api).with_state(core.clone())
}

/// A change could not be stored: nothing has happened, and the caller may try again.
pub(crate) fn store_failed(error: impl Display) -> ApiError {
    ApiError::unavailable(format_args!("the change could not be stored: {error}")).code("STORE_UNAVAILABLE")
}

/// A sandbox as it is now.
fn sandbox_now(core: &Core, handle: &Handle, headers: &HeaderMap) -> Sandbox {
    dto(core, handle, &handle.record(), headers)
}

fn dto(core: &Core, handle: &Handle, record: &Record, headers: &HeaderMap) -> Sandbox {
    wire::sandbox(core, record, handle.last_activity(), &core.base_url(Some(headers)))
}

/// Something that this control plane does not do: 501 and one clear sentence.
fn not_supported(what: &str) -> ApiError {
    ApiError::new(
        http::StatusCode::NOT_IMPLEMENTED,
        format_args!("{what} is not supported by this installation"),
    )
}

/// Something that containers cannot do: 422, as the contract has it.
fn not_for_containers(what: &str) -> ApiError {
    ApiError::new(
        http::StatusCode::UNPROCESSABLE_ENTITY,
        format_args!("{what} is not supported for container sandboxes"),
    )
}
