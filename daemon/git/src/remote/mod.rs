//! Talking to remotes: which engine carries an address, and what its failures mean.

mod address;
mod cli;
pub(crate) mod http;
mod login;
mod stream;
mod tls;

use std::sync::{Arc, Mutex, PoisonError};

use git2::{AutotagOption, Direction, FetchOptions, Oid, PushOptions, Remote, RemoteCallbacks, Repository};

use crate::error::{Failure, Kind};
use crate::repository::Task;

pub(crate) use address::{Address, without_logins};
pub(crate) use cli::Cli;
pub(crate) use login::Login;

/// Most that is kept of what the remote prints, for error texts.
const PRINTED: usize = 2048;

/// One operation's connection to a remote.
pub(crate) struct Wire<'t> {
    task: &'t Task,
    login: Option<Login>,
    session: Arc<http::Session>,
    cli: Option<Cli<'t>>,
    local: bool,
    printed: Mutex<String>,
}

/// What a remote has.
pub(crate) struct Heads {
    /// The branch its `HEAD` names, in full.
    pub(crate) default: Option<String>,
    /// Its references.
    pub(crate) names: Vec<(String, Oid)>,
}

impl Heads {
    pub(crate) fn find(&self, name: &str) -> Option<Oid> {
        self.names.iter().find(|(known, _)| known == name).map(|(_, id)| *id)
    }
}

impl<'t> Wire<'t> {
    /// Nothing is sent yet. `login` is used by the HTTP transports, and wins over one in the URL or the store.
    pub(crate) fn new(task: &'t Task, address: &Address, login: Option<Login>, insecure: bool) -> Self {
        let session = Arc::new(http::Session::new(task, login.clone(), insecure));
        let cli = Cli::wanted(address, task).then(|| Cli::new(task, login.clone(), insecure));
        Self { task, login, session, cli, local: address.is_local(), printed: Mutex::default() }
    }

    /// Carries this operation through the git binary.
    pub(crate) fn through_cli(&mut self, login: Option<Login>) {
        let insecure = self.session.insecure;
        self.cli.get_or_insert_with(|| Cli::new(self.task, login, insecure));
    }

    pub(crate) fn cli(&self) -> Option<&Cli<'t>> {
        self.cli.as_ref()
    }

    /// Asks the remote what it has.
    pub(crate) fn heads(&self, remote: &mut Remote<'_>) -> Result<Heads, Failure> {
        if let Some(cli) = &self.cli {
            return self.hidden(cli.heads(&String::from_utf8_lossy(remote.url_bytes())));
        }
        let _session = self.session.enter();
        let connection = remote
            .connect_auth(Direction::Fetch, Some(self.callbacks()), None)
            .map_err(|error| self.explain(error))?;
        let default =
            connection.default_branch().ok().map(|name| String::from_utf8_lossy(&name).into_owned());
        let list = connection.list().map_err(|error| self.explain(error))?;
        Ok(Heads { default, names: list.iter().map(|head| (head.name().to_owned(), head.oid())).collect() })
    }

    /// Fetches `refspecs`, or what is configured when there are none, with the tags that belong to them.
    pub(crate) fn fetch(
        &self,
        repository: &Repository,
        mut remote: Remote<'_>,
        refspecs: &[String],
        depth: u32,
    ) -> Result<(), Failure> {
        self.task.check()?;
        if let Some(cli) = &self.cli {
            let name = remote.name_bytes().unwrap_or_else(|| remote.url_bytes());
            return self.hidden(cli.fetch(repository, &String::from_utf8_lossy(name), refspecs, depth));
        }
        let mut options = FetchOptions::new();
        options.remote_callbacks(self.callbacks()).download_tags(AutotagOption::Auto);
        // Reading the files is as quick as any shallow copy; git ignores the depth of a local clone as well.
        if depth > 0 && !self.local {
            options.depth(i32::try_from(depth).unwrap_or(i32::MAX));
        }
        let _session = self.session.enter();
        remote.fetch(refspecs, Some(&mut options), None).map_err(|error| self.explain(error))
    }

    /// Pushes one reference.
    pub(crate) fn push(
        &self,
        repository: &Repository,
        mut remote: Remote<'_>,
        refspec: &str,
    ) -> Result<(), Failure> {
        self.task.check()?;
        if let Some(cli) = &self.cli {
            let name = remote.name_bytes().unwrap_or_else(|| remote.url_bytes());
            return self.hidden(cli.push(repository, &String::from_utf8_lossy(name), refspec));
        }
        let refused = Mutex::new(None);
        let mut callbacks = self.callbacks();
        callbacks.push_update_reference(|_, status| {
            if let Some(status) = status {
                *refused.lock().unwrap_or_else(PoisonError::into_inner) = Some(status.to_owned());
            }
            Ok(())
        });
        let mut options = PushOptions::new();
        options.remote_callbacks(callbacks);
        let _session = self.session.enter();
        remote.push(&[refspec], Some(&mut options)).map_err(|error| self.explain(error))?;
        drop(options);
        match refused.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some(status) => self.hidden(Err(self.with_printed(rejected(&status)))),
            None => Ok(()),
        }
    }

    fn callbacks(&self) -> RemoteCallbacks<'_> {
        let mut callbacks = RemoteCallbacks::new();
        callbacks.transfer_progress(|_| !self.task.cancel.is_cancelled());
        callbacks.sideband_progress(|text| {
            let mut printed = self.printed.lock().unwrap_or_else(PoisonError::into_inner);
            printed.push_str(&String::from_utf8_lossy(text));
            if printed.len() > PRINTED {
                let from = printed.len() - PRINTED / 2;
                let tail: String =
                    printed.char_indices().filter(|(at, _)| *at >= from).map(|(_, c)| c).collect();
                *printed = tail;
            }
            !self.task.cancel.is_cancelled()
        });
        callbacks
    }

    /// What a failed transfer means: what the HTTP transport found, or libgit2's own word.
    fn explain(&self, error: git2::Error) -> Failure {
        let found = self.session.failure();
        if self.task.cancel.is_cancelled() {
            return self.hide(Failure::cancelled());
        }
        let text = error.message().to_ascii_lowercase();
        let failure = found.unwrap_or_else(|| {
            let system = error.class() == git2::ErrorClass::Os;
            let mut failure = Failure::from(error);
            if [
                "not exported",
                "does not exist",
                "repository not found",
                "not a repository",
                "failed to resolve path",
                "unsupported url",
            ]
            .iter()
            .any(|sign| text.contains(sign))
            {
                failure.kind = Kind::RepositoryNotFound;
            } else if text.contains("checked out") || text.contains("non-bare") {
                failure.kind = Kind::RemoteRejected;
            } else if failure.kind == Kind::BranchNotFound && self.local {
                failure.kind = Kind::RepositoryNotFound;
            } else if system && !self.local {
                // A socket's error.
                failure.kind = Kind::Transport;
            }
            failure
        });
        self.hide(self.with_printed(failure))
    }

    fn with_printed(&self, mut failure: Failure) -> Failure {
        let printed = self.printed.lock().unwrap_or_else(PoisonError::into_inner);
        let lines = printed.split(['\n', '\r']).map(str::trim).filter(|line| !line.is_empty());
        for line in lines {
            failure.message.push_str("\nremote: ");
            failure.message.push_str(line);
        }
        failure
    }

    fn hidden<T>(&self, result: Result<T, Failure>) -> Result<T, Failure> {
        result.map_err(|failure| self.hide(failure))
    }

    /// Takes the request's credentials out of the text; those of URLs go when it becomes an answer.
    fn hide(&self, mut failure: Failure) -> Failure {
        if let Some(login) = &self.login {
            failure.message = login.hide(&failure.message);
        }
        failure
    }
}

/// What a remote means by refusing a reference.
pub(crate) fn rejected(status: &str) -> Failure {
    let text = status.to_ascii_lowercase();
    let stale =
        ["non-fast-forward", "fetch first", "stale info", "needs force", "failed to lock", "already exists"];
    let kind =
        if stale.iter().any(|sign| text.contains(sign)) { Kind::PushRejected } else { Kind::RemoteRejected };
    Failure::new(kind, format!("the remote rejected the push: {status}"))
}
