//! `POST /git/add`.

use std::path::Path;

use axum::extract::State;
use git2::{IndexAddOption, Repository};
use pinfold_http::{ApiResult, JsonBody};
use pinfold_proto::toolbox::git::AddRequest;

use crate::error::Failure;
use crate::repository::{Context, Task, inside, worktree};
use crate::required;

pub(crate) async fn add(
    State(context): State<Context>,
    JsonBody(request): JsonBody<AddRequest>,
) -> ApiResult<()> {
    let AddRequest { path, files } = request;
    required(&[("path", &path)])?;
    context.run(move |task| stage(task, &task.open(&path)?, &files)).await
}

/// Stages all of `files` or none.
fn stage(task: &Task, repository: &Repository, files: &[String]) -> Result<(), Failure> {
    let root = worktree(repository)?.to_owned();
    let mut index = repository.index()?;
    for file in files {
        task.check()?;
        let path = inside(repository, file)?;
        let exists = !path.is_empty() && root.join(&path).symlink_metadata().is_ok();
        let everything = path.is_empty();
        let (specs, options) = if everything {
            (vec!["*".to_owned()], IndexAddOption::DEFAULT)
        } else if exists || tracked(&index, &path) {
            refuse_ignored(repository, &index, &path)?;
            (vec![path], IndexAddOption::DISABLE_PATHSPEC_MATCH)
        } else {
            (vec![path], IndexAddOption::DEFAULT)
        };
        let mut matched = everything || exists;
        // libgit2 calls back for each file that changes, and for none that is already staged.
        let cancel = task.cancel.clone();
        let mut each = |_: &Path, _: &[u8]| {
            matched = true;
            if cancel.is_cancelled() { -1 } else { 0 }
        };
        let result = index.add_all(&specs, options, Some(&mut each));
        task.check()?;
        result.map_err(|error| Failure::from(error).during(&format!("could not stage {file:?}")))?;
        if !matched && !tracked(&index, &specs[0]) {
            return Err(Failure::invalid(format!("the path {file:?} did not match any files")));
        }
    }
    Ok(index.write()?)
}

/// Whether the path, or anything below it, is in the index or was until now.
fn tracked(index: &git2::Index, path: &str) -> bool {
    let below = format!("{path}/");
    (0..=3).any(|stage| index.get_path(Path::new(path), stage).is_some())
        || index.find_prefix(below.as_str()).is_ok()
}

/// Staging an ignored file by name would do nothing, silently.
fn refuse_ignored(repository: &Repository, index: &git2::Index, path: &str) -> Result<(), Failure> {
    if !tracked(index, path) && repository.is_path_ignored(path)? {
        return Err(Failure::invalid(format!("the path {path:?} is ignored by a .gitignore file")));
    }
    Ok(())
}
