//! `POST /git/clone`: one branch of a remote, in a directory that the daemon has made and moves to its place afterwards.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use axum::extract::State;
use git2::build::CheckoutBuilder;
use git2::{BranchType, Repository};
use http::HeaderMap;
use percent_encoding::percent_decode;
use pinfold_http::{ApiError, ApiResult, JsonBody};
use pinfold_proto::toolbox::git::CloneRequest;

use crate::branches;
use crate::error::{Failure, Kind};
use crate::front::DIRECTORY;
use crate::guard;
use crate::remote::{Address, Cli, Heads, Login, Wire};
use crate::repository::{Context, Task};

pub(crate) async fn clone(
    State(context): State<Context>,
    headers: HeaderMap,
    JsonBody(mut request): JsonBody<CloneRequest>,
) -> ApiResult<()> {
    let directory = headers.get(DIRECTORY).map(|path| percent_decode(path.as_bytes()).collect::<Vec<u8>>());
    let directory = directory.ok_or_else(|| ApiError::bad_request("there is no directory to fill"))?;
    let login = Login::given(request.username.take(), request.password.take());
    context
        .run(move |task| {
            let address = Address::of(&request.url, task)?;
            let mut wire = Wire::new(task, &address, login.clone(), request.insecure_skip_tls);
            let legacy = task.sandbox.environment.get("DAYTONA_EXPERIMENTAL_USE_GIT_CLONE_CLI");
            if legacy.is_some_and(|value| value == "true") && Cli::installed(task) {
                wire.through_cli(login);
            }
            fill(task, &wire, &address, &request, Path::new(OsStr::from_bytes(&directory)))
        })
        .await
}

/// What is checked out first.
struct Start {
    /// The reference at the remote, in full.
    name: String,
    /// The branch, unless it is a tag.
    branch: Option<String>,
}

impl Start {
    fn choose(heads: &Heads, branch: &str) -> Result<Self, Failure> {
        if heads.names.is_empty() {
            return Err(Failure::new(Kind::RepositoryNotFound, "the remote repository is empty"));
        }
        let wanted = if branch.is_empty() {
            let first = || {
                heads.names.iter().map(|(name, _)| name.clone()).find(|name| name.starts_with("refs/heads/"))
            };
            // A detached or unborn HEAD names no branch: any is better than none.
            heads.default.clone().filter(|name| heads.find(name).is_some()).or_else(first)
        } else {
            let names = [format!("refs/heads/{branch}"), format!("refs/tags/{branch}")];
            names.into_iter().find(|name| heads.find(name).is_some())
        };
        let missing = || Failure::no_branch(format!("the remote has no branch named {branch:?}"));
        let name = wanted.ok_or_else(missing)?;
        let branch = name.strip_prefix("refs/heads/").map(str::to_owned);
        Ok(Self { name, branch })
    }
}

fn fill(
    task: &Task,
    wire: &Wire<'_>,
    address: &Address,
    request: &CloneRequest,
    directory: &Path,
) -> Result<(), Failure> {
    let mut options = git2::RepositoryInitOptions::new();
    let repository = Repository::init_opts(directory, options.external_template(false))?;
    let heads = wire.heads(&mut repository.remote_anonymous(address.url())?)?;
    let start = Start::choose(&heads, &request.branch)?;
    let refspec = match &start.branch {
        Some(branch) => format!("+refs/heads/{branch}:refs/remotes/origin/{branch}"),
        None => format!("+{0}:{0}", start.name),
    };
    let remote = repository.remote_with_fetch("origin", address.url(), &refspec)?;
    wire.fetch(&repository, remote, &[refspec], request.depth)?;
    match &start.branch {
        Some(branch) => {
            let commit =
                repository.find_reference(&format!("refs/remotes/origin/{branch}"))?.peel_to_commit()?;
            repository.branch(branch, &commit, true).map(drop).or_else(|error| {
                // The branch that HEAD names cannot be made while it is "current".
                let made = repository.reference(&format!("refs/heads/{branch}"), commit.id(), true, "clone");
                made.map(drop).map_err(|_| error)
            })?;
            repository.set_head(&format!("refs/heads/{branch}"))?;
            repository
                .find_branch(branch, BranchType::Local)?
                .set_upstream(Some(&format!("origin/{branch}")))?;
            if heads.default.as_ref() == Some(&start.name) {
                let target = format!("refs/remotes/origin/{branch}");
                repository.reference_symbolic("refs/remotes/origin/HEAD", &target, true, "clone")?;
            }
        }
        None => {
            let commit = repository.find_reference(&start.name)?.peel_to_commit()?;
            repository.set_head_detached(commit.id())?;
        }
    }
    if !request.commit_id.is_empty() {
        detach(wire, &repository, &request.commit_id)?;
    }
    if let Some(cli) = wire.cli() {
        return cli.checkout(&repository);
    }
    let tree = repository.head()?.peel_to_tree()?;
    guard::checkout(task, &repository, &tree, CheckoutBuilder::new().force())
}

/// Puts `HEAD` on a commit, fetching the other branches if it is on one of those.
fn detach(wire: &Wire<'_>, repository: &Repository, id: &str) -> Result<(), Failure> {
    let commit = match branches::commit(repository, id) {
        Ok(commit) => commit,
        Err(_) => {
            let remote = repository.find_remote("origin")?;
            wire.fetch(repository, remote, &["+refs/heads/*:refs/remotes/origin/*".to_owned()], 0)?;
            branches::commit(repository, id)?
        }
    };
    Ok(repository.set_head_detached(commit.id())?)
}
