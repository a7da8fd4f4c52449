//! `POST /git/restore`, with the meaning of git-restore(1).

use std::path::Path;

use axum::extract::State;
use git2::build::CheckoutBuilder;
use git2::{Commit, Repository};
use pinfold_http::{ApiError, ApiResult, JsonBody};
use pinfold_proto::toolbox::git::RestoreRequest;

use crate::branches::revision;
use crate::error::Failure;
use crate::guard;
use crate::repository::{Context, Task, inside, worktree};
use crate::required;
use crate::reset::unstage;

pub(crate) async fn restore(
    State(context): State<Context>,
    JsonBody(request): JsonBody<RestoreRequest>,
) -> ApiResult<()> {
    required(&[("path", &request.path)])?;
    if request.files.is_empty() {
        return Err(ApiError::invalid_body("files is required"));
    }
    context.run(move |task| run(task, &task.open(&request.path)?, &request)).await
}

fn run(task: &Task, repository: &Repository, request: &RestoreRequest) -> Result<(), Failure> {
    worktree(repository)?;
    let paths = request.files.iter().map(|file| inside(repository, file)).collect::<Result<Vec<_>, _>>()?;
    let files = request.worktree || !request.staged;
    let source = match (request.source.as_str(), request.staged) {
        ("", false) => None,
        ("", true) => Some(revision(repository, "HEAD")?),
        (name, _) => Some(revision(repository, name)?),
    };
    for (path, file) in paths.iter().zip(&request.files) {
        if !known(repository, source.as_ref(), path)? {
            return Err(Failure::invalid(format!("the path {file:?} did not match any files known to git")));
        }
    }
    if let Some(source) = source.as_ref().filter(|_| request.staged) {
        unstage(repository, source, &request.files)?;
    }
    if !files {
        return Ok(());
    }
    let mut options = CheckoutBuilder::new();
    options.force().disable_pathspec_match(true).update_index(request.staged);
    for path in paths.iter().filter(|path| !path.is_empty()) {
        options.path(path.as_str());
    }
    match source {
        // What is staged now is what the source has.
        Some(_) if request.staged => Ok(repository.checkout_index(None, Some(&mut options))?),
        Some(source) => guard::checkout(task, repository, &source.tree()?, &mut options),
        None => Ok(repository.checkout_index(None, Some(&mut options))?),
    }
}

/// Whether the path, or anything below it, is in the index or in the source.
fn known(repository: &Repository, source: Option<&Commit<'_>>, path: &str) -> Result<bool, Failure> {
    if path.is_empty() {
        return Ok(true);
    }
    let index = repository.index()?;
    let indexed = index.get_path(Path::new(path), 0).is_some()
        || index.find_prefix(format!("{path}/").as_str()).is_ok();
    Ok(indexed
        || source.map(Commit::tree).transpose()?.is_some_and(|tree| tree.get_path(Path::new(path)).is_ok()))
}
