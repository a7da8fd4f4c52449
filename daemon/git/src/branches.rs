//! Local branches: `/git/branches` and `/git/checkout`.

use axum::Json;
use axum::extract::State;
use git2::{BranchType, Commit, ErrorCode, Repository};
use http::StatusCode;
use pinfold_http::{ApiResult, JsonBody, Query};
use pinfold_proto::toolbox::git::{BranchList, BranchRequest, CheckoutRequest};

use crate::error::{Failure, Kind};
use crate::guard;
use crate::repository::Context;
use crate::required;
use crate::status::short;

pub(crate) async fn list(State(context): State<Context>, query: Query) -> ApiResult<Json<BranchList>> {
    let path = query.required("path")?.to_owned();
    context.run(move |task| names(&task.open(&path)?)).await.map(Json)
}

fn names(repository: &Repository) -> Result<BranchList, Failure> {
    let mut branches = Vec::new();
    for branch in repository.branches(Some(BranchType::Local))? {
        branches.push(String::from_utf8_lossy(branch?.0.name_bytes()?).into_owned());
    }
    branches.sort();
    Ok(BranchList { branches, current: current(repository)?.unwrap_or_default() })
}

/// The branch that `HEAD` names, whether or not it has a commit; `None` when detached.
pub(crate) fn current(repository: &Repository) -> Result<Option<String>, Failure> {
    let head = repository.find_reference("HEAD")?;
    let target = head.symbolic_target_bytes().map(|name| String::from_utf8_lossy(name).into_owned());
    Ok(target.map(|name| short(&name).to_owned()))
}

pub(crate) async fn create(
    State(context): State<Context>,
    JsonBody(request): JsonBody<BranchRequest>,
) -> ApiResult<StatusCode> {
    let BranchRequest { path, name } = request;
    required(&[("path", &path), ("name", &name)])?;
    context
        .run(move |task| {
            let repository = task.open(&path)?;
            if !git2::Branch::name_is_valid(&name)? {
                return Err(Failure::invalid(format!("{name:?} is not a valid branch name")));
            }
            match repository.head() {
                Ok(head) => {
                    repository.branch(&name, &head.peel_to_commit()?, false).map(drop).map_err(|error| {
                        match error.code() {
                            ErrorCode::Exists => Failure::new(
                                Kind::BranchExists,
                                format!("a branch named {name:?} already exists"),
                            ),
                            _ => error.into(),
                        }
                    })?
                }
                // Before the first commit there is nothing for a branch to point at; HEAD alone moves.
                Err(error) if error.code() == ErrorCode::UnbornBranch => {}
                Err(error) => return Err(error.into()),
            }
            Ok(repository.set_head(&format!("refs/heads/{name}"))?)
        })
        .await?;
    Ok(StatusCode::CREATED)
}

pub(crate) async fn delete(
    State(context): State<Context>,
    JsonBody(request): JsonBody<BranchRequest>,
) -> ApiResult<StatusCode> {
    let BranchRequest { path, name } = request;
    required(&[("path", &path), ("name", &name)])?;
    context
        .run(move |task| {
            let repository = task.open(&path)?;
            let mut branch =
                repository.find_branch(&name, BranchType::Local).map_err(|_| no_branch(&name))?;
            if branch.is_head() || branch.get().name().is_ok_and(|full| worktree_uses(&repository, full)) {
                return Err(Failure::new(Kind::Conflict, format!("the branch {name:?} is checked out")));
            }
            Ok(branch.delete()?)
        })
        .await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Whether another working tree of the repository has the branch checked out.
fn worktree_uses(repository: &Repository, branch: &str) -> bool {
    let names = repository.worktrees();
    let names = names.iter().flat_map(|names| names.iter()).flatten().flatten();
    let heads = names.filter_map(|name| {
        let head = repository.commondir().join("worktrees").join(name).join("HEAD");
        std::fs::read_to_string(head).ok()
    });
    heads.into_iter().any(|head| head.trim().strip_prefix("ref: ") == Some(branch))
}

pub(crate) fn no_branch(name: &str) -> Failure {
    Failure::no_branch(format!("there is no branch named {name:?}"))
}

pub(crate) async fn checkout(
    State(context): State<Context>,
    JsonBody(request): JsonBody<CheckoutRequest>,
) -> ApiResult<()> {
    let CheckoutRequest { path, branch: name } = request;
    required(&[("path", &path), ("branch", &name)])?;
    context
        .run(move |task| {
            let repository = task.open(&path)?;
            let full = format!("refs/heads/{name}");
            if let Ok(reference) = repository.find_reference(&full) {
                guard::switch(task, &repository, &reference.peel_to_commit()?)?;
                return Ok(repository.set_head(&full)?);
            }
            let commit = commit(&repository, &name)?;
            guard::switch(task, &repository, &commit)?;
            Ok(repository.set_head_detached(commit.id())?)
        })
        .await
}

/// The commit with this (shortened) hash, or the one of this tag.
pub(crate) fn commit<'r>(repository: &'r Repository, name: &str) -> Result<Commit<'r>, Failure> {
    let missing = |_| Failure::no_branch(format!("there is no branch, tag or commit named {name:?}"));
    if let Ok(tag) = repository.find_reference(&format!("refs/tags/{name}")) {
        return tag.peel_to_commit().map_err(missing);
    }
    if !(4..=64).contains(&name.len()) || !name.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(missing(git2::Error::from_str("")));
    }
    let object = repository.revparse_single(name).map_err(missing)?;
    object.peel_to_commit().map_err(missing)
}

/// The commit of any revision: `HEAD~2`, a branch, a tag, a hash.
pub(crate) fn revision<'r>(repository: &'r Repository, name: &str) -> Result<Commit<'r>, Failure> {
    let missing = |error: git2::Error| match error.code() {
        ErrorCode::InvalidSpec => Failure::invalid(format!("{name:?} is not a revision")),
        _ => Failure::no_branch(format!("there is no revision {name:?}")),
    };
    repository.revparse_single(name).and_then(|object| object.peel_to_commit()).map_err(missing)
}
