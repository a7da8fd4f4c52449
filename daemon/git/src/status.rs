//! `GET /git/status`: what `git status --porcelain=v2 --branch -uall` says, as JSON.

use axum::Json;
use axum::extract::State as Extract;
use git2::{Repository, Status as Flags, StatusEntry, StatusOptions};
use pinfold_http::{ApiResult, Query};
use pinfold_proto::toolbox::git::{FileStatus, State, Status};

use crate::error::Failure;
use crate::repository::{Context, worktree};

pub(crate) async fn status(Extract(context): Extract<Context>, query: Query) -> ApiResult<Json<Status>> {
    let path = query.required("path")?.to_owned();
    context.run(move |task| read(&task.open(&path)?)).await.map(Json)
}

pub(crate) fn read(repository: &Repository) -> Result<Status, Failure> {
    worktree(repository)?;
    let head =
        repository.head().map_err(|error| Failure::from(error).during("the repository has no commits"))?;
    let detached = repository.head_detached()?;
    let (mut ahead, mut behind, mut upstream) = (0, 0, String::new());
    let name = String::from_utf8_lossy(head.name_bytes()).into_owned();
    if !detached && let Some(full) = upstream_of(repository, &name)? {
        // The upstream's own branch may be gone, or not fetched yet.
        if let (Some(local), Ok(remote)) = (head.target(), repository.refname_to_id(&full)) {
            (ahead, behind) = repository.graph_ahead_behind(local, remote)?;
        }
        upstream = short(&full).to_owned();
    }
    Ok(Status {
        current_branch: if detached { "HEAD".to_owned() } else { short(&name).to_owned() },
        file_status: files(repository)?,
        branch_published: !upstream.is_empty(),
        ahead,
        behind,
        detached,
        upstream,
    })
}

/// The tracking reference of the configured upstream. A clone of one branch has no mapping for others, whose tracking
/// references are then where pulls and pushes put them.
fn upstream_of(repository: &Repository, branch: &str) -> Result<Option<String>, Failure> {
    if let Ok(full) = repository.branch_upstream_name(branch) {
        return Ok(Some(String::from_utf8_lossy(&full).into_owned()));
    }
    let config = repository.config()?.snapshot()?;
    let key = |what| format!("branch.{}.{what}", short(branch));
    let (Ok(remote), Ok(merge)) = (config.get_str(&key("remote")), config.get_str(&key("merge"))) else {
        return Ok(None);
    };
    Ok(Some(if remote == "." { merge.to_owned() } else { format!("refs/remotes/{remote}/{}", short(merge)) }))
}

/// A reference's name without the folder of its kind.
pub(crate) fn short(name: &str) -> &str {
    ["refs/heads/", "refs/remotes/", "refs/tags/"]
        .iter()
        .find_map(|kind| name.strip_prefix(kind))
        .unwrap_or(name)
}

fn files(repository: &Repository) -> Result<Vec<FileStatus>, Failure> {
    let mut options = StatusOptions::new();
    options.include_untracked(true).recurse_untracked_dirs(true).renames_head_to_index(true);
    // Like git: unreadable directories are no reason to say nothing.
    options.include_unreadable(false).sort_case_sensitively(true);
    let statuses = repository.statuses(Some(&mut options))?;
    let (mut changed, mut unmerged, mut untracked) = (Vec::new(), Vec::new(), Vec::new());
    for entry in statuses.iter() {
        let flags = entry.status();
        if flags.contains(Flags::CONFLICTED) {
            unmerged.push(file(name(&entry), State::Unmerged, State::Unmerged));
            continue;
        }
        let staging = staging(flags);
        let worktree = worktree_state(flags);
        if staging != State::Unmodified || worktree != State::Unmodified {
            let mut file = file(name(&entry), staging, worktree);
            file.extra = former(&entry).unwrap_or_default();
            changed.push(file);
        }
        // A file taken out of the index that is still there is both deleted and untracked.
        if flags.contains(Flags::WT_NEW) {
            untracked.push(file(name(&entry), State::Untracked, State::Untracked));
        }
    }
    changed.sort_by(|a, b| a.name.cmp(&b.name));
    changed.append(&mut unmerged);
    changed.append(&mut untracked);
    Ok(changed)
}

fn file(name: String, staging: State, worktree: State) -> FileStatus {
    FileStatus { name, extra: String::new(), staging, worktree }
}

fn staging(flags: Flags) -> State {
    // Type changes have no name in the contract.
    for (flag, state) in [
        (Flags::INDEX_RENAMED, State::Renamed),
        (Flags::INDEX_NEW, State::Added),
        (Flags::INDEX_DELETED, State::Deleted),
        (Flags::INDEX_MODIFIED | Flags::INDEX_TYPECHANGE, State::Modified),
    ] {
        if flags.intersects(flag) {
            return state;
        }
    }
    State::Unmodified
}

fn worktree_state(flags: Flags) -> State {
    for (flag, state) in [
        (Flags::WT_RENAMED, State::Renamed),
        (Flags::WT_DELETED, State::Deleted),
        (Flags::WT_MODIFIED | Flags::WT_TYPECHANGE, State::Modified),
    ] {
        if flags.intersects(flag) {
            return state;
        }
    }
    State::Unmodified
}

/// The file's name now: in the index if it was renamed there.
fn name(entry: &StatusEntry<'_>) -> String {
    let index = entry.head_to_index();
    let renamed = index.as_ref().filter(|delta| delta.status() == git2::Delta::Renamed);
    let path = renamed.and_then(|delta| delta.new_file().path_bytes());
    String::from_utf8_lossy(path.unwrap_or_else(|| entry.path_bytes())).into_owned()
}

fn former(entry: &StatusEntry<'_>) -> Option<String> {
    let delta = entry.head_to_index().filter(|delta| delta.status() == git2::Delta::Renamed)?;
    delta.old_file().path_bytes().map(|path| String::from_utf8_lossy(path).into_owned())
}
