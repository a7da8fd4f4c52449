//! `POST /git/push`.

use axum::extract::State;
use git2::{BranchType, ErrorCode, Repository};
use pinfold_http::{ApiResult, JsonBody};
use pinfold_proto::toolbox::git::PushRequest;

use crate::branches::{current, no_branch};
use crate::error::Failure;
use crate::remote::{Address, Login, Wire};
use crate::repository::Context;
use crate::required;

pub(crate) async fn push(
    State(context): State<Context>,
    JsonBody(mut request): JsonBody<PushRequest>,
) -> ApiResult<()> {
    required(&[("path", &request.path)])?;
    let login = Login::given(request.username.take(), request.password.take());
    context
        .write(&request.path.clone(), move |task| {
            let repository = task.open(&request.path)?;
            let branch = if request.branch.is_empty() {
                let detached = || Failure::no_branch("HEAD is detached: there is no current branch to push");
                current(&repository)?.ok_or_else(detached)?
            } else {
                request.branch
            };
            if repository.find_branch(&branch, BranchType::Local).is_err() {
                return Err(no_branch(&branch));
            }
            let name = remote_name(&request.remote);
            let remote = remote(&repository, name)?;
            let url = remote.pushurl()?.map_or_else(|| remote.url(), Ok)?.to_owned();
            let wire = Wire::new(task, &Address::of(&url, task)?, login, false);
            wire.push(&repository, remote, &format!("refs/heads/{branch}:refs/heads/{branch}"))?;
            // What the remote has now, also where its configuration maps no such branch.
            let pushed = repository.refname_to_id(&format!("refs/heads/{branch}"))?;
            repository.reference(&format!("refs/remotes/{name}/{branch}"), pushed, true, "update by push")?;
            if request.set_upstream {
                let mut config = repository.config()?;
                config.set_str(&format!("branch.{branch}.remote"), name)?;
                config.set_str(&format!("branch.{branch}.merge"), &format!("refs/heads/{branch}"))?;
            }
            Ok(())
        })
        .await
}

pub(crate) fn remote_name(name: &str) -> &str {
    if name.is_empty() { "origin" } else { name }
}

pub(crate) fn remote<'r>(repository: &'r Repository, name: &str) -> Result<git2::Remote<'r>, Failure> {
    repository.find_remote(name).map_err(|error| match error.code() {
        ErrorCode::NotFound => Failure::no_branch(format!("there is no remote named {name:?}")),
        _ => error.into(),
    })
}
