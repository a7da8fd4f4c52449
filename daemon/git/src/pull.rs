//! `POST /git/pull`: fetch, then move the current branch forward, or say why it cannot be.

use axum::extract::State;
use git2::{Oid, Repository};
use pinfold_http::{ApiResult, JsonBody};
use pinfold_proto::toolbox::git::PullRequest;

use crate::branches::current;
use crate::error::{Failure, Kind};
use crate::guard;
use crate::push::{remote, remote_name};
use crate::remote::{Address, Login, Wire};
use crate::repository::{Context, Task, worktree};
use crate::required;

pub(crate) async fn pull(
    State(context): State<Context>,
    JsonBody(mut request): JsonBody<PullRequest>,
) -> ApiResult<()> {
    required(&[("path", &request.path)])?;
    let login = Login::given(request.username.take(), request.password.take());
    context
        .run(move |task| {
            let repository = task.open(&request.path)?;
            worktree(&repository)?;
            let fetched = fetch(task, &repository, &request, login)?;
            forward(task, &repository, fetched)
        })
        .await
}

/// Fetches the branch and gives its commit.
fn fetch(
    task: &Task,
    repository: &Repository,
    request: &PullRequest,
    login: Option<Login>,
) -> Result<Oid, Failure> {
    let name = remote_name(&request.remote);
    let branch = match request.branch.as_str() {
        "" => upstream(repository, name)?,
        branch => branch.to_owned(),
    };
    let url = remote(repository, name)?.url()?.to_owned();
    let wire = Wire::new(task, &Address::of(&url, task)?, login, false);
    let heads = wire.heads(&mut remote(repository, name)?)?;
    if heads.names.is_empty() {
        return Err(Failure::new(Kind::RepositoryNotFound, "the remote repository is empty"));
    }
    let full = format!("refs/heads/{branch}");
    let missing = || Failure::no_branch(format!("the remote {name:?} has no branch named {branch:?}"));
    let id = heads.find(&full).ok_or_else(missing)?;
    let tracking = format!("refs/remotes/{name}/{branch}");
    if repository.refname_to_id(&tracking).is_ok_and(|known| known == id) {
        return Ok(id);
    }
    wire.fetch(repository, remote(repository, name)?, &[format!("+{full}:{tracking}")], 0)?;
    Ok(repository.refname_to_id(&tracking)?)
}

/// The branch of this remote that the current one follows: the configured one, else that of the same name.
fn upstream(repository: &Repository, remote: &str) -> Result<String, Failure> {
    let detached = || Failure::no_branch("HEAD is detached: name the branch to pull");
    let branch = current(repository)?.ok_or_else(detached)?;
    let config = repository.config()?.snapshot()?;
    let follows = config.get_str(&format!("branch.{branch}.remote")).is_ok_and(|name| name == remote);
    let merge = config.get_str(&format!("branch.{branch}.merge")).ok().filter(|_| follows);
    let merge = merge.and_then(|name| name.strip_prefix("refs/heads/")).map(str::to_owned);
    Ok(merge.unwrap_or(branch))
}

fn forward(task: &Task, repository: &Repository, fetched: Oid) -> Result<(), Failure> {
    let commit = repository.find_commit(fetched)?;
    match repository.head() {
        Ok(head) => {
            let own = head.peel_to_commit()?.id();
            if own == fetched || repository.graph_descendant_of(own, fetched)? {
                return Ok(());
            }
            if !repository.graph_descendant_of(fetched, own)? {
                let text = "the branches have diverged: the pull cannot be a fast-forward";
                return Err(Failure::new(Kind::MergeConflict, text));
            }
            guard::switch(task, repository, &commit)?;
            if repository.head_detached()? {
                return Ok(repository.set_head_detached(fetched)?);
            }
            let name = String::from_utf8_lossy(head.name_bytes()).into_owned();
            repository.reference_matching(&name, fetched, true, own, "pull: Fast-forward")?;
        }
        // A branch without commits starts with the remote's.
        Err(error) if error.code() == git2::ErrorCode::UnbornBranch => {
            guard::switch(task, repository, &commit)?;
            let branch = current(repository)?.unwrap_or_else(|| "HEAD".to_owned());
            repository.reference(&format!("refs/heads/{branch}"), fetched, false, "pull")?;
        }
        Err(error) => return Err(error.into()),
    }
    Ok(())
}
