//! `POST /git/push`.

use std::fs::File;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::path::Path;

use axum::extract::State;
use git2::{BranchType, ConfigLevel, ErrorCode, Repository};
use nix::sys::memfd::{MFdFlags, memfd_create};
use pinfold_http::{ApiResult, JsonBody};
use pinfold_proto::toolbox::git::PushRequest;

use crate::branches::{current, no_branch};
use crate::error::Failure;
use crate::library::FRUGAL;
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
        .run(move |task| {
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
            let _frugal = frugal(&repository)?;
            wire.push(&repository, remote, &format!("refs/heads/{branch}:refs/heads/{branch}"))?;
            // What the remote has now, also where its configuration maps no such branch.
            let pushed = repository.refname_to_id(&format!("refs/heads/{branch}"))?;
            repository.reference(&format!("refs/remotes/{name}/{branch}"), pushed, true, "update by push")?;
            if request.set_upstream {
                // The repository's own file, and never the one in memory.
                let mut config = repository.config()?.open_level(ConfigLevel::Local)?;
                config.set_str(&format!("branch.{branch}.remote"), name)?;
                config.set_str(&format!("branch.{branch}.merge"), &format!("refs/heads/{branch}"))?;
            }
            Ok(())
        })
        .await
}

/// [`FRUGAL`] settings for the pack that a push makes, whatever the home; the file, which is in memory, has to exist as long as they hold.
fn frugal(repository: &Repository) -> Result<File, Failure> {
    let file = memfd_create(c"git-config", MFdFlags::MFD_CLOEXEC).map_err(std::io::Error::from)?;
    let mut file = File::from(file);
    file.write_all(FRUGAL.as_bytes())?;
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    repository.config()?.add_file(Path::new(&path), ConfigLevel::ProgramData, true)?;
    Ok(file)
}

pub(crate) fn remote_name(name: &str) -> &str {
    if name.is_empty() { "origin" } else { name }
}

/// The remote of this name. A relative path starts at the repository's root, as git has it, not at the daemon's directory.
pub(crate) fn remote<'r>(repository: &'r Repository, name: &str) -> Result<git2::Remote<'r>, Failure> {
    let remote = repository.find_remote(name).map_err(|error| match error.code() {
        ErrorCode::NotFound => Failure::no_branch(format!("there is no remote named {name:?}")),
        _ => error.into(),
    })?;
    let relative =
        remote.url().ok().filter(|url| url.starts_with("./") || url.starts_with("../")).map(str::to_owned);
    match relative.and_then(|url| repository.workdir()?.join(url).canonicalize().ok()) {
        Some(path) => Ok(repository.remote_anonymous(&path.to_string_lossy())?),
        None => Ok(remote),
    }
}
