//! The image's git binary, for what libgit2 cannot carry: ssh, and transfers for which its owner wants git itself.
//!
//! Only transfers go this way; everything else stays with libgit2. The login is in a memory file that git's credential helper reads through
//! `/proc/<daemon>/fd`: in no argument, no environment, no file.

use std::fs::File;
use std::io::{Seek, Write};
use std::os::fd::AsRawFd;
use std::process::{Command, Stdio};

use git2::{Oid, Repository};
use nix::sys::memfd::{MFdFlags, memfd_create};
use pinfold_spawn::Exit;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;

use super::{Address, Heads, Login, rejected};
use crate::error::{Failure, Kind};
use crate::repository::Task;

/// Most that is read of what git prints: a list of references may be long, its complaints are not.
const OUTPUT: u64 = 64 << 20;
const COMPLAINTS: usize = 4 << 10;

/// Transfers through the git binary.
pub(crate) struct Cli<'t> {
    task: &'t Task,
    login: Option<Login>,
    insecure: bool,
}

impl<'t> Cli<'t> {
    /// Whether an address goes this way.
    pub(crate) fn wanted(address: &Address, task: &Task) -> bool {
        let asked = |name| task.sandbox.environment.get(name).is_some_and(|value| value == "true");
        address.is_ssh() || (asked("DAYTONA_EXPERIMENTAL_USE_GIT_CLI") && Self::installed(task))
    }

    /// Whether the image has git.
    pub(crate) fn installed(task: &Task) -> bool {
        let path = task.sandbox.environment.get("PATH").unwrap_or_default();
        std::env::split_paths(&path).any(|folder| folder.join("git").is_file())
    }

    pub(crate) fn new(task: &'t Task, login: Option<Login>, insecure: bool) -> Self {
        Self { task, login, insecure }
    }

    pub(crate) fn heads(&self, url: &str) -> Result<Heads, Failure> {
        let output = self.run(None, &["ls-remote", "--symref", "--", url])?;
        let mut heads = Heads { default: None, names: Vec::new() };
        for line in output.lines() {
            let Some((left, name)) = line.split_once('\t') else { continue };
            if let Some(target) = left.strip_prefix("ref: ") {
                if name == "HEAD" {
                    heads.default = Some(target.to_owned());
                }
            } else if let Ok(id) = Oid::from_str(left) {
                heads.names.push((name.to_owned(), id));
            }
        }
        Ok(heads)
    }

    pub(crate) fn fetch(
        &self,
        repository: &Repository,
        remote: &str,
        refspecs: &[String],
        depth: u32,
    ) -> Result<(), Failure> {
        let depth = format!("--depth={depth}");
        let mut arguments = vec!["fetch", "--no-write-fetch-head", "--no-recurse-submodules"];
        if depth != "--depth=0" {
            arguments.push(&depth);
        }
        arguments.extend(["--", remote]);
        arguments.extend(refspecs.iter().map(String::as_str));
        self.run(Some(repository), &arguments).map(drop)
    }

    pub(crate) fn push(&self, repository: &Repository, remote: &str, refspec: &str) -> Result<(), Failure> {
        self.run(Some(repository), &["push", "--porcelain", "--", remote, refspec]).map(drop)
    }

    /// Fills the working tree with git's own filters, such as LFS's.
    pub(crate) fn checkout(&self, repository: &Repository) -> Result<(), Failure> {
        self.run(Some(repository), &["reset", "--hard", "--quiet"]).map(drop)
    }

    fn run(&self, repository: Option<&Repository>, arguments: &[&str]) -> Result<String, Failure> {
        let mut command = Command::new("git");
        self.task.sandbox.environment.apply(&mut command, []);
        let directory =
            repository.map_or(&*self.task.sandbox.work_dir, |r| r.workdir().unwrap_or_else(|| r.path()));
        command.current_dir(directory);
        command
            .env("GIT_TERMINAL_PROMPT", "0")
            .env("LC_ALL", "C")
            .env("GIT_ASKPASS", "")
            .env("SSH_ASKPASS", "");
        // Nobody can answer ssh's questions.
        if self.task.sandbox.environment.get("GIT_SSH_COMMAND").is_none() {
            command.env("GIT_SSH_COMMAND", "ssh -oBatchMode=yes");
        }
        command.args(["-c", "safe.directory=*", "-c", "core.hooksPath=/dev/null"]);
        let secret = self.login.as_ref().map(secret).transpose()?;
        if let Some(file) = &secret {
            let path = format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd());
            let helper = format!("credential.helper=!f() {{ test \"$1\" = get && cat {path}; }}; f");
            command.args(["-c", "credential.helper=", "-c", &helper]);
        }
        if self.insecure {
            command.args(["-c", "http.sslVerify=false"]);
        }
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let (exit, output, complaints) = self.supervise(command)?;
        if exit == Exit::Code(0) {
            return Ok(output);
        }
        Err(classify(&output, &complaints))
    }

    /// Runs to the end, or kills the whole tree when nobody waits for it.
    fn supervise(&self, command: Command) -> Result<(Exit, String, String), Failure> {
        let missing = |error: pinfold_spawn::SpawnError| {
            Failure::new(Kind::Transport, format!("this remote needs git and ssh in the image: {error}"))
        };
        let _runtime = self.task.runtime.enter();
        let mut process = self.task.sandbox.spawner.spawn(command).map_err(missing)?;
        let pipe = |fd: Option<std::os::fd::OwnedFd>| -> Result<pipe::Receiver, Failure> {
            let fd = fd.ok_or_else(|| Failure::new(Kind::Internal, "git was started without a pipe"))?;
            Ok(pipe::Receiver::from_owned_fd(fd)?)
        };
        let (stdout, stderr) = (pipe(process.stdout.take())?, pipe(process.stderr.take())?);
        self.task.runtime.block_on(async {
            let (mut output, mut complaints) = (Vec::new(), Vec::new());
            let work = async {
                let mut stdout = stdout.take(OUTPUT);
                let (read, heard) =
                    tokio::join!(stdout.read_to_end(&mut output), tail(stderr, &mut complaints));
                read.and(heard)?;
                Ok::<_, std::io::Error>(process.wait().await)
            };
            let exit = tokio::select! {
                biased;
                () = self.task.cancel.cancelled() => {
                    process.kill_tree();
                    return Err(Failure::cancelled());
                }
                exit = work => exit?,
            };
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            Ok((exit, text(&output), text(&complaints)))
        })
    }
}

/// Reads to the end and keeps the last part.
async fn tail(mut from: pipe::Receiver, kept: &mut Vec<u8>) -> std::io::Result<()> {
    let mut buffer = vec![0; COMPLAINTS];
    loop {
        let length = from.read(&mut buffer).await?;
        if length == 0 {
            return Ok(());
        }
        kept.extend_from_slice(&buffer[..length]);
        kept.drain(..kept.len().saturating_sub(COMPLAINTS));
    }
}

/// The login as a credential helper prints it, in memory that only this user's processes can open.
fn secret(login: &Login) -> Result<File, Failure> {
    let lines = login.helper_lines().ok_or_else(|| Failure::invalid("the credentials hold a line break"))?;
    let file = memfd_create(c"git-login", MFdFlags::MFD_CLOEXEC).map_err(std::io::Error::from)?;
    let mut file = File::from(file);
    file.write_all(lines.as_bytes())?;
    file.rewind()?;
    Ok(file)
}

/// What git's complaints mean (toolbox contract 12.4).
fn classify(output: &str, complaints: &str) -> Failure {
    let text = complaints.to_ascii_lowercase();
    let says = |signs: &[&str]| signs.iter().any(|sign| text.contains(sign));
    if let Some(line) = output.lines().find(|line| line.starts_with("!\t")) {
        let mut failure = rejected(line.split('\t').nth(2).unwrap_or_default());
        failure.message = format!("{}\n{}", failure.message, complaints.trim());
        return failure;
    }
    let kind = if says(&[
        "authentication failed",
        "could not read username",
        "could not read password",
        "permission denied (publickey",
    ]) {
        Kind::Auth
    } else if says(&["error: 403", "permission denied to", "permission to "]) {
        Kind::Forbidden
    } else if says(&[
        "repository not found",
        "not found",
        "does not appear to be a git repository",
        "does not exist",
    ]) {
        Kind::RepositoryNotFound
    } else if says(&["couldn't find remote ref", "src refspec", "not our ref"]) {
        Kind::BranchNotFound
    } else if says(&[
        "could not resolve",
        "could not connect",
        "connection",
        "timed out",
        "certificate",
        "unable to access",
        "host key",
        "ssh:",
        "hung up",
        "cannot run ssh",
    ]) {
        Kind::Transport
    } else {
        Kind::Internal
    };
    Failure::new(kind, format!("git failed: {}", complaints.trim()))
}
