//! The files routes of the toolbox (contract section 5).
//!
//! Paths are absolute or relative to the work directory and are opened as they come: nothing is expanded and nothing is fenced in, since a sandbox's
//! owner may touch whatever the daemon's user may. What must stay true:
//!
//! * Memory does not grow with files: contents, listings and search results stream.
//! * Special files never block a request: they are opened without waiting, and only regular files are read or written.
//! * A file that is overwritten is whole at every moment, wherever a rename can make it so (see [`target`]).
//! * The runtime's threads do no file I/O; it happens on blocking threads, in steps that end.

mod body;
mod budget;
mod buffers;
mod bulk_download;
mod bulk_upload;
mod content_type;
mod copy;
mod delete;
mod directory;
mod download;
mod error;
mod expression;
mod find;
mod folder;
#[doc(hidden)]
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod glob;
mod info;
mod limit;
mod list;
mod mode;
mod multipart;
mod needle;
mod parallel;
mod path;
mod permissions;
mod range;
mod relocate;
mod replace;
mod scan;
mod search;
mod sink;
mod source;
mod stream;
mod target;
mod upload;
mod walk;

use axum::extract::DefaultBodyLimit;
use axum::routing::{get, post};
use axum::{Extension, Router};
use pinfold_http::{ApiError, ApiResult};
use pinfold_spawn::Sandbox;

/// The routes under `/files`.
pub fn router(sandbox: Sandbox) -> Router {
    let uploads = Router::new()
        .route("/files/bulk-upload", post(bulk_upload::upload))
        .route("/files/upload", post(upload::form))
        .route("/files/upload-v2", post(upload::any))
        .layer(DefaultBodyLimit::disable())
        .layer(Extension(body::Threads::default()));
    Router::new()
        .route("/files", get(list::list).delete(delete::delete))
        .route("/files/", get(list::list).delete(delete::delete))
        .route("/files/info", get(list::info))
        .route("/files/folder", post(folder::create))
        .route("/files/move", post(relocate::relocate))
        .route("/files/permissions", post(permissions::set))
        .route("/files/find", get(find::find))
        .route("/files/search", get(search::search))
        .route("/files/replace", post(replace::replace))
        .route("/files/download", get(download::download))
        .route("/files/bulk-download", post(bulk_download::download))
        .merge(uploads)
        .with_state(sandbox)
}

/// Runs file I/O where it may block.
async fn blocking<T, F>(work: F) -> ApiResult<T>
where
    F: FnOnce() -> ApiResult<T> + Send + 'static,
    T: Send + 'static,
{
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(ApiError::internal(format_args!("a file operation failed: {error}"))),
    }
}
