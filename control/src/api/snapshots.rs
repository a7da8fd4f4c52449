//! `/snapshots` (control-plane contract 13).

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::routing::{get, post};
use axum::{Json, Router};
use http::StatusCode;
use pinfold_http::{ApiError, ApiResult, JsonBody, Query};
use pinfold_proto::control::snapshot::{CreateSnapshot, PaginatedSnapshots, Snapshot as Dto, SnapshotState};

use super::auth::User;
use super::list::page_of;
use super::store_failed;
use crate::core::Core;
use crate::images::{self, Recipe};
use crate::snapshots::{bring, dto};
use crate::store::builds::Build;
use crate::store::snapshots::Snapshot;
use crate::time::now;

pub(super) fn routes() -> Router<Arc<Core>> {
    Router::new()
        .route("/snapshots", get(list).post(create))
        .route("/snapshots/{id}", get(one).delete(remove))
        .route("/snapshots/{id}/activate", post(activate))
        .route("/snapshots/{id}/deactivate", post(deactivate))
}

async fn list(
    State(core): State<Arc<Core>>,
    _user: User,
    query: Query,
) -> ApiResult<Json<PaginatedSnapshots>> {
    let (page, limit) = page_of(&query)?;
    let name = query.get("name").map(str::to_lowercase).unwrap_or_default();
    let source = query.get("sourceSandboxId").filter(|id| !id.is_empty());
    let mut all = core.snapshots.list();
    all.retain(|s| s.name.to_lowercase().contains(&name));
    all.retain(|s| source.is_none_or(|source| s.source_sandbox_id.as_deref() == Some(source)));
    let descending = query.get("order").is_some_and(|order| order.eq_ignore_ascii_case("desc"));
    match query.get("sort").filter(|sort| !sort.is_empty()) {
        None => {}
        Some("name") => all.sort_by(|a, b| a.name.cmp(&b.name)),
        Some("state") => all.sort_by_key(|s| s.state.as_str()),
        Some("createdAt") => all.sort_by_key(|s| s.created_at),
        Some("lastUsedAt") => all.sort_by_key(|s| s.last_used_at),
        Some(other) => return Err(ApiError::bad_request(format_args!("cannot sort by {other:?}"))),
    }
    if descending && query.get("sort").is_some_and(|sort| !sort.is_empty()) {
        all.reverse();
    }
    let total = all.len();
    let shown = all.iter().skip((page - 1).saturating_mul(limit)).take(limit);
    let items = shown.map(|snapshot| dto(snapshot, &core)).collect();
    Ok(Json(PaginatedSnapshots { items, total, page, total_pages: total.div_ceil(limit) }))
}

fn find(core: &Core, id_or_name: &str) -> ApiResult<Snapshot> {
    core.snapshots.find(id_or_name).ok_or_else(|| missing(id_or_name))
}

fn missing(id_or_name: &str) -> ApiError {
    ApiError::not_found(format_args!("no snapshot {id_or_name}"))
}

async fn one(State(core): State<Arc<Core>>, _user: User, Path(id): Path<String>) -> ApiResult<Json<Dto>> {
    Ok(Json(dto(&find(&core, &id)?, &core)))
}

/// A snapshot's name looks like an image's.
pub(super) fn check_name(name: &str) -> ApiResult<()> {
    let valid = |c: char| c.is_ascii_alphanumeric() || "._-/:".contains(c);
    if (1..=255).contains(&name.len()) && name.chars().all(valid) {
        return Ok(());
    }
    Err(ApiError::bad_request(
        "a snapshot's name has letters, digits and . _ - / : only, and at most 255 of them",
    ))
}

/// A reference names its version: a tag other than `latest`, or a whole digest.
fn check_image(image: &str) -> ApiResult<()> {
    let refuse = |why: &str| Err(ApiError::bad_request(format_args!("the image {image:?} {why}")));
    let valid = |c: char| c.is_ascii_alphanumeric() || "._-/:@".contains(c);
    if image.is_empty() || image.len() > 512 || !image.chars().all(valid) {
        return refuse("is not an image reference");
    }
    if let Some((_, digest)) = image.split_once('@') {
        let hex = digest.strip_prefix("sha256:").unwrap_or_default();
        let whole = hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_hexdigit());
        return if whole { Ok(()) } else { refuse("has no whole sha256 digest") };
    }
    let (path, last) = image.rsplit_once('/').map_or(("", image), |(path, last)| (path, last));
    let Some((name, tag)) = last.split_once(':').filter(|(name, tag)| !name.is_empty() && !tag.is_empty())
    else {
        return refuse("has neither a tag nor a digest");
    };
    if tag == "latest" {
        return refuse("has the tag latest, which names no version");
    }
    if path.split('/').skip(1).chain([name]).any(|part| part.chars().any(|c| c.is_ascii_uppercase())) {
        return refuse("is not in lower case");
    }
    Ok(())
}

fn taken(name: &str) -> ApiError {
    ApiError::conflict(format_args!("a snapshot named {name:?} exists already"))
}

async fn create(
    State(core): State<Arc<Core>>,
    user: User,
    JsonBody(body): JsonBody<CreateSnapshot>,
) -> ApiResult<Json<Dto>> {
    user.may("write:snapshots")?;
    let name = body.name.unwrap_or_default();
    check_name(&name)?;
    if body.sandbox_class.as_deref().is_some_and(|class| class != "container") {
        return Err(super::not_for_containers("a virtual machine"));
    }
    if body.region_id.as_ref().is_some_and(|region| !region.is_empty() && *region != core.config.region) {
        return Err(ApiError::not_found(format_args!("no region {:?}", body.region_id.unwrap_or_default())));
    }
    if core.snapshots.find(&name).is_some() {
        return Err(taken(&name));
    }
    let size = |what: &str, value: Option<i64>, default: u32, least: u32| match value {
        None => Ok(default),
        Some(value) => u32::try_from(value)
            .ok()
            .filter(|v| (least..=65_536).contains(v))
            .ok_or_else(|| ApiError::bad_request(format_args!("{what} must be a whole number ≥ {least}"))),
    };
    let at = now();
    let mut snapshot = Snapshot {
        id: uuid::Uuid::new_v4().to_string(),
        name,
        image_name: None,
        reference: String::new(),
        build_ref: None,
        general: false,
        state: SnapshotState::Pending,
        error_reason: None,
        entrypoint: body.entrypoint.filter(|entrypoint| !entrypoint.is_empty()),
        image_entrypoint: None,
        size_gib: None,
        cpu: size("cpu", body.cpu, 1, 1)?,
        gpu: size("gpu", body.gpu, 0, 0)?,
        gpu_type: super::create::gpu_types(&body.gpu_type)?.into_iter().next(),
        memory: size("memory", body.memory, 1, 1)?,
        disk: size("disk", body.disk, 3, 1)?,
        runner_id: None,
        source_sandbox_id: None,
        created_at: at,
        updated_at: at,
        last_used_at: None,
    };
    match (body.image_name.filter(|image| !image.is_empty()), body.build_info) {
        (Some(image), None) => {
            check_image(&image)?;
            snapshot.reference = image.clone();
            snapshot.image_name = Some(image);
        }
        (None, Some(build)) if !build.dockerfile_content.trim().is_empty() => {
            let recipe = Recipe::of(&build.dockerfile_content, &build.context_hashes);
            let kept = Build {
                reference: images::build_reference(&build.dockerfile_content, &build.context_hashes),
                dockerfile: build.dockerfile_content,
                context_hashes: build.context_hashes,
                created_at: at,
                last_used_at: at,
            };
            core.images.remember(&kept).await.map_err(store_failed)?;
            let idle = || vec!["sleep".to_owned(), "infinity".to_owned()];
            let entrypoint = || images::dockerfile_entrypoint(&kept.dockerfile).unwrap_or_else(idle);
            snapshot.entrypoint = Some(snapshot.entrypoint.unwrap_or_else(entrypoint));
            let published = core.registries.in_own(recipe.reference());
            let published = published.filter(|_| matches!(recipe, Recipe::Build(_)));
            snapshot.reference = published.unwrap_or_else(|| recipe.reference().to_owned());
            snapshot.build_ref = Some(kept.reference);
        }
        _ => {
            return Err(ApiError::bad_request("give either imageName or buildInfo with a dockerfileContent"));
        }
    }
    if !core.snapshots.insert(&core, snapshot.clone()).await.map_err(store_failed)? {
        return Err(taken(&snapshot.name));
    }
    core.tasks.spawn(bring(core.clone(), snapshot.id.clone()));
    Ok(Json(dto(&snapshot, &core)))
}

async fn remove(State(core): State<Arc<Core>>, user: User, Path(id): Path<String>) -> ApiResult<StatusCode> {
    user.may("delete:snapshots")?;
    let snapshot = find(&core, &id)?;
    if snapshot.general {
        return Err(ApiError::new(StatusCode::FORBIDDEN, "the default snapshot cannot be deleted"));
    }
    core.snapshots.delete(&core, &snapshot.id).await.map_err(store_failed)?;
    let used = core.snapshots.list().iter().any(|other| other.reference == snapshot.reference)
        || core.directory.all().iter().any(|handle| handle.record().image == snapshot.reference);
    if !used {
        core.images.remove(&snapshot.reference).await.map_err(store_failed)?;
    }
    Ok(StatusCode::OK)
}

async fn activate(State(core): State<Arc<Core>>, user: User, Path(id): Path<String>) -> ApiResult<Json<Dto>> {
    user.may("write:snapshots")?;
    let snapshot = find(&core, &id)?;
    match snapshot.state {
        SnapshotState::Active => return Ok(Json(dto(&snapshot, &core))),
        SnapshotState::Inactive | SnapshotState::Error | SnapshotState::BuildFailed => {}
        state => {
            return Err(ApiError::bad_request(format_args!(
                "the snapshot is {state} and becomes active by itself"
            )));
        }
    }
    let wait = |s: &mut Snapshot| {
        s.state = SnapshotState::Pending;
        s.error_reason = None;
        s.updated_at = now();
    };
    let changed = core.snapshots.change(&core, &snapshot.id, wait).await.map_err(store_failed)?;
    let snapshot = changed.ok_or_else(|| missing(&id))?;
    core.tasks.spawn(bring(core.clone(), snapshot.id.clone()));
    Ok(Json(dto(&snapshot, &core)))
}

async fn deactivate(
    State(core): State<Arc<Core>>,
    user: User,
    Path(id): Path<String>,
) -> ApiResult<StatusCode> {
    user.may("write:snapshots")?;
    let snapshot = find(&core, &id)?;
    let changed = core.snapshots.change(&core, &snapshot.id, Snapshot::rest).await.map_err(store_failed)?;
    changed.map(|_| StatusCode::NO_CONTENT).ok_or_else(|| missing(&id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_name_their_version() {
        let digest = format!("a/b@sha256:{}", "0".repeat(64));
        for good in ["python:3.12", "ghcr.io/a/b:1", "localhost:5000/a:1", digest.as_str()] {
            assert!(check_image(good).is_ok(), "{good}");
        }
        for bad in ["", "python", "python:latest", "a b:1", "a@sha256:0", "localhost:5000/a", "Python:3"] {
            assert!(check_image(bad).is_err(), "{bad}");
        }
    }
}
