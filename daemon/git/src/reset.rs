//! `POST /git/reset`, with the meaning of git-reset(1)'s five modes.

use axum::extract::State;
use git2::build::CheckoutBuilder;
use git2::{Commit, Repository, ResetType};
use pinfold_http::{ApiResult, JsonBody};
use pinfold_proto::toolbox::git::ResetRequest;

use crate::branches::revision;
use crate::error::Failure;
use crate::guard::{self, lossy, paths, unstaged};
use crate::repository::{Context, Task, inside, worktree};
use crate::required;

pub(crate) async fn reset(
    State(context): State<Context>,
    JsonBody(request): JsonBody<ResetRequest>,
) -> ApiResult<()> {
    required(&[("path", &request.path)])?;
    context.run(move |task| run(task, &task.open(&request.path)?, &request)).await
}

fn run(task: &Task, repository: &Repository, request: &ResetRequest) -> Result<(), Failure> {
    let mode = if request.mode.is_empty() { "mixed" } else { request.mode.as_str() };
    if !["soft", "mixed", "hard", "merge", "keep"].contains(&mode) {
        return Err(Failure::invalid(format!(
            "{mode:?} is no reset mode: soft, mixed, hard, merge and keep are"
        )));
    }
    let name = if request.target.is_empty() { "HEAD" } else { request.target.as_str() };
    let target = revision(repository, name)?;
    if !request.files.is_empty() {
        if mode != "mixed" {
            return Err(Failure::invalid("only a mixed reset can be limited to files"));
        }
        worktree(repository)?;
        return unstage(repository, &target, &request.files);
    }
    match mode {
        "soft" => Ok(repository.reset(target.as_object(), ResetType::Soft, None)?),
        "mixed" => Ok(repository.reset(target.as_object(), ResetType::Mixed, None)?),
        "hard" => {
            let mut options = CheckoutBuilder::new();
            options.force();
            Ok(repository.reset(target.as_object(), ResetType::Hard, Some(&mut options))?)
        }
        "merge" => merge(task, repository, &target),
        _ => keep(task, repository, &target),
    }
}

/// Makes the index's entries of `files` those of `target`.
pub(crate) fn unstage(repository: &Repository, target: &Commit<'_>, files: &[String]) -> Result<(), Failure> {
    let specs = files.iter().map(|file| inside(repository, file)).collect::<Result<Vec<_>, _>>()?;
    let specs: Vec<_> = specs.iter().map(|spec| if spec.is_empty() { "*" } else { spec.as_str() }).collect();
    Ok(repository.reset_default(Some(target.as_object()), specs)?)
}

/// Takes back what is staged, keeps what is only in the working tree, refuses where a file has both.
fn merge(task: &Task, repository: &Repository, target: &Commit<'_>) -> Result<(), Failure> {
    let tree = target.tree()?;
    let index = repository.index()?;
    let mut moving = paths(&repository.diff_tree_to_index(Some(&tree), Some(&index), None)?);
    let mut unmerged = std::collections::BTreeSet::new();
    for conflict in index.conflicts()? {
        let conflict = conflict?;
        let entries = [conflict.ancestor, conflict.our, conflict.their];
        unmerged.extend(entries.into_iter().flatten().map(|entry| entry.path));
    }
    let unstaged = unstaged(repository)?;
    if let Some(path) = unstaged.iter().find(|path| moving.contains(*path) && !unmerged.contains(*path)) {
        return Err(Failure::dirty(format!("{} has changes that are not staged", lossy(path))));
    }
    moving.append(&mut unmerged);
    put(task, repository, target, &moving)
}

/// Moves to `target`, keeps local changes, refuses where `target` changes the same file.
fn keep(task: &Task, repository: &Repository, target: &Commit<'_>) -> Result<(), Failure> {
    let head = guard::head_tree(repository)?;
    let index = repository.index()?;
    if index.has_conflicts() {
        return Err(Failure::dirty("the index has unmerged files: resolve them first"));
    }
    let moving = paths(&repository.diff_tree_to_tree(head.as_ref(), Some(&target.tree()?), None)?);
    let mut local = unstaged(repository)?;
    local.append(&mut paths(&repository.diff_tree_to_index(head.as_ref(), Some(&index), None)?));
    if let Some(path) = local.intersection(&moving).next() {
        return Err(Failure::dirty(format!("{} has local changes", lossy(path))));
    }
    put(task, repository, target, &moving)
}

/// Brings the files of `moving` to `target`, then `HEAD` and the whole index.
fn put(
    task: &Task,
    repository: &Repository,
    target: &Commit<'_>,
    moving: &std::collections::BTreeSet<Vec<u8>>,
) -> Result<(), Failure> {
    if !moving.is_empty() {
        let mut options = CheckoutBuilder::new();
        options.force().disable_pathspec_match(true);
        for path in moving {
            options.path(path.as_slice());
        }
        guard::checkout(task, repository, &target.tree()?, &mut options)?;
    }
    Ok(repository.reset(target.as_object(), ResetType::Mixed, None)?)
}
