//! Moving `HEAD` and the files with it, without losing anything that is not committed.
//!
//! libgit2's safe checkout compares files with the old commit and so protects the working tree; a change that is only staged is
//! seen by nobody. This looks for it first.

use std::collections::BTreeSet;

use git2::build::CheckoutBuilder;
use git2::{Commit, Diff, DiffOptions, Repository, Tree};

use crate::error::Failure;
use crate::repository::Task;

/// Changes index and working tree from `HEAD` to `target`, keeping changes to files that both have alike.
pub(crate) fn switch(task: &Task, repository: &Repository, target: &Commit<'_>) -> Result<(), Failure> {
    let tree = target.tree()?;
    staged_changes_survive(repository, &tree)?;
    checkout(task, repository, &tree, CheckoutBuilder::new().safe())
}

/// Checks out a tree, giving up when nobody waits for it.
pub(crate) fn checkout(
    task: &Task,
    repository: &Repository,
    tree: &Tree<'_>,
    options: &mut CheckoutBuilder<'_>,
) -> Result<(), Failure> {
    task.check()?;
    let cancel = task.cancel.clone();
    options.notify_on(git2::CheckoutNotificationType::UPDATED);
    options.notify(move |_, _, _, _, _| !cancel.is_cancelled());
    repository
        .checkout_tree(tree.as_object(), Some(options))
        .map_err(|error| if task.cancel.is_cancelled() { Failure::cancelled() } else { error.into() })
}

fn staged_changes_survive(repository: &Repository, target: &Tree<'_>) -> Result<(), Failure> {
    let index = repository.index()?;
    if index.has_conflicts() {
        return Err(Failure::dirty("the index has unmerged files: resolve them first"));
    }
    let Some(head) = head_tree(repository)? else { return Ok(()) };
    let staged = paths(&repository.diff_tree_to_index(Some(&head), Some(&index), None)?);
    if staged.is_empty() {
        return Ok(());
    }
    let changing = paths(&repository.diff_tree_to_tree(Some(&head), Some(target), None)?);
    let unlike = paths(&repository.diff_tree_to_index(Some(target), Some(&index), None)?);
    match staged.iter().find(|path| changing.contains(*path) && unlike.contains(*path)) {
        Some(path) => Err(Failure::dirty(format!("the staged changes of {} would be lost", lossy(path)))),
        None => Ok(()),
    }
}

/// `HEAD`'s tree; `None` before the first commit.
pub(crate) fn head_tree(repository: &Repository) -> Result<Option<Tree<'_>>, Failure> {
    match repository.head() {
        Ok(head) => Ok(Some(head.peel_to_tree()?)),
        Err(error) if error.code() == git2::ErrorCode::UnbornBranch => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Every path of a difference.
pub(crate) fn paths(diff: &Diff<'_>) -> BTreeSet<Vec<u8>> {
    let files =
        diff.deltas().flat_map(|delta| [delta.old_file().path_bytes(), delta.new_file().path_bytes()]);
    files.flatten().map(<[u8]>::to_vec).collect()
}

/// Tracked files that differ from the index.
pub(crate) fn unstaged(repository: &Repository) -> Result<BTreeSet<Vec<u8>>, Failure> {
    let mut options = DiffOptions::new();
    options.include_untracked(false);
    Ok(paths(&repository.diff_index_to_workdir(None, Some(&mut options))?))
}

pub(crate) fn lossy(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}
