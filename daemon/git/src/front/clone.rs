//! `POST /git/clone`: a directory to fill for the engine, and its fate afterwards. Both are the daemon's, because they have to outlive an engine that is killed.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use axum::extract::{Request, State};
use git2::Repository;
use http::HeaderValue;
use percent_encoding::{NON_ALPHANUMERIC, percent_encode};
use pinfold_http::{ApiError, ApiResult, json};
use pinfold_proto::toolbox::git::CloneRequest;
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;

use super::child::Child;
use super::{Asked, Front};
use crate::error::{Failure, Kind};
use crate::required;

/// The header that tells the engine where the clone grows, percent-encoded.
pub(crate) const DIRECTORY: &str = "pinfold-directory";

pub(super) async fn clone(State(front): State<Front>, request: Request) -> ApiResult<()> {
    let asked = Asked::read(request).await?;
    let CloneRequest { url, path, .. } = json::first_value(&asked.body).map_err(ApiError::invalid_body)?;
    required(&[("url", &url), ("path", &path)])?;
    let gone = CancellationToken::new();
    let _on_drop = gone.clone().drop_guard();
    // Goes on when the client has left, or nobody would clean up.
    let work = tokio::spawn(async move {
        let turn = front.turn(&path).await;
        let path = front.sandbox.resolve(&path);
        let place = spawn_blocking(move || Place::find(&path)).await.map_err(broke_off)??;
        let answer = fill(&front, asked, place.directory(), &gone).await;
        let complete = answer.is_ok();
        // An incomplete clone is removed on the same thread, when the closure drops it.
        let settled = spawn_blocking(move || if complete { place.keep() } else { Ok(()) });
        settled.await.map_err(broke_off)??;
        drop(turn);
        answer
    });
    work.await.map_err(broke_off)?
}

fn broke_off(error: tokio::task::JoinError) -> ApiError {
    ApiError::internal(format_args!("the clone broke off: {error}"))
}

/// Has `directory` filled, unless the client is `gone`. When this returns nobody writes to it any more.
async fn fill(front: &Front, mut asked: Asked, directory: &Path, gone: &CancellationToken) -> ApiResult<()> {
    let encoded = percent_encode(directory.as_os_str().as_bytes(), NON_ALPHANUMERIC).to_string();
    asked.directory = HeaderValue::from_str(&encoded).ok();
    let mut child = Child::start(front, None, front.limit()).await?;
    let answer = tokio::select! {
        biased;
        () = gone.cancelled() => Err(Failure::cancelled().into()),
        answer = child.ask(asked) => answer.map(drop),
    };
    child.gone().await;
    answer
}

/// Where the clone grows until it is complete.
enum Place {
    /// Beside its path, which does not exist yet: one rename makes it appear.
    Beside { growing: tempfile::TempDir, path: PathBuf },
    /// In a directory that exists and is empty, and may be a mount point or somebody's working directory.
    Inside { path: PathBuf, complete: bool },
}

impl Place {
    fn find(path: &Path) -> Result<Self, Failure> {
        let taken = |what| Failure::new(Kind::Conflict, format!("{} {what}", path.display()));
        match std::fs::read_dir(path) {
            Ok(mut entries) => match entries.next() {
                None => Ok(Self::Inside { path: path.to_owned(), complete: false }),
                Some(_) if Repository::open(path).is_ok() => Err(taken("already is a git repository")),
                Some(_) => Err(taken("exists and is not empty")),
            },
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let parent = path.parent().ok_or_else(|| taken("has no parent"))?;
                let step =
                    |error| Failure::from(error).during(&format!("could not make {}", parent.display()));
                std::fs::create_dir_all(parent).map_err(step)?;
                let mut builder = tempfile::Builder::new();
                // Not the private mode of temporary directories: it becomes the clone's.
                builder
                    .prefix(".pinfold-clone-")
                    .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o777));
                Ok(Self::Beside { growing: builder.tempdir_in(parent).map_err(step)?, path: path.to_owned() })
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotADirectory => {
                Err(taken("is not a directory"))
            }
            Err(error) => Err(Failure::from(error).during(&format!("could not look at {}", path.display()))),
        }
    }

    fn directory(&self) -> &Path {
        match self {
            Self::Beside { growing, .. } => growing.path(),
            Self::Inside { path, .. } => path,
        }
    }

    /// Makes the clone appear.
    fn keep(mut self) -> Result<(), Failure> {
        match &mut self {
            Self::Inside { complete, .. } => *complete = true,
            Self::Beside { growing, path } => {
                std::fs::rename(growing.path(), &*path).map_err(|error| {
                    Failure::from(error).during(&format!("could not move the clone to {}", path.display()))
                })?;
                growing.disable_cleanup(true);
            }
        }
        Ok(())
    }
}

impl Drop for Place {
    /// An incomplete clone leaves an empty directory empty. One that grows beside is a `TempDir`, which removes itself.
    fn drop(&mut self) {
        let Self::Inside { path, complete: false } = self else { return };
        for entry in std::fs::read_dir(&*path).into_iter().flatten().flatten() {
            let path = entry.path();
            let removed = if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                std::fs::remove_dir_all(&path)
            } else {
                std::fs::remove_file(&path)
            };
            if let Err(error) = removed {
                tracing::warn!(path = %path.display(), %error, "part of a failed clone remains");
            }
        }
    }
}
