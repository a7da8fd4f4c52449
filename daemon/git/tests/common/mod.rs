//! A sandbox, the routes over it, and git's own command line to compare with.
#![allow(dead_code, clippy::unwrap_used, reason = "each test binary uses a part; a test fails by panicking")]

pub(crate) mod server;

use std::ops::Deref;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};

use pinfold_spawn::Exit;
use tempfile::TempDir;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;

/// libgit2 takes the home directory once for the process.
pub(crate) static HOME: LazyLock<TempDir> = LazyLock::new(|| {
    let home = tempfile::tempdir().unwrap();
    std::fs::write(home.path().join(".gitconfig"), "[init]\n\tdefaultBranch = main\n").unwrap();
    home
});

/// Who commits, and by no settings but the home directory's.
const IDENTITY: [(&str, &str); 5] = [
    ("GIT_CONFIG_NOSYSTEM", "1"),
    ("GIT_AUTHOR_NAME", "Test"),
    ("GIT_AUTHOR_EMAIL", "test@example.org"),
    ("GIT_COMMITTER_NAME", "Test"),
    ("GIT_COMMITTER_EMAIL", "test@example.org"),
];

static ENGINES: AtomicU32 = AtomicU32::new(0);

/// The process of an operation.
pub(crate) fn engine() -> PathBuf {
    pinfold_testing::example("git_engine")
}

pub(crate) struct World(pinfold_testing::World);

impl Deref for World {
    type Target = pinfold_testing::World;

    fn deref(&self) -> &pinfold_testing::World {
        &self.0
    }
}

impl World {
    pub(crate) fn new() -> Self {
        Self::with(&[])
    }

    pub(crate) fn with(variables: &[(&str, &str)]) -> Self {
        Self::with_engine(variables, engine())
    }

    /// Operations run in this shell script instead of the engine.
    pub(crate) fn scripted(script: &str) -> Self {
        let file = HOME.path().join(format!("engine-{}", ENGINES.fetch_add(1, Ordering::Relaxed)));
        std::fs::write(&file, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
        Self::with_engine(&[], file)
    }

    fn with_engine(variables: &[(&str, &str)], engine: PathBuf) -> Self {
        let variables = [&IDENTITY, variables].concat();
        Self(pinfold_testing::World::new(Some(HOME.path()), &variables, |sandbox| {
            pinfold_git::router(sandbox, engine)
        }))
    }

    pub(crate) fn text(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    /// Runs git in a folder, and expects it to succeed.
    pub(crate) async fn git(&self, folder: impl AsRef<Path>, arguments: &[&str]) -> String {
        let (exit, output) = self.try_git(folder, arguments).await;
        assert_eq!(exit, Exit::Code(0), "git {arguments:?}: {output}");
        output
    }

    pub(crate) async fn try_git(&self, folder: impl AsRef<Path>, arguments: &[&str]) -> (Exit, String) {
        let mut command = Command::new("git");
        self.sandbox.environment.apply(&mut command, []);
        command.env("LC_ALL", "C").current_dir(self.path(folder.as_ref().to_str().unwrap())).args(arguments);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut process = self.sandbox.spawner.spawn(command).unwrap();
        let mut stdout = pipe::Receiver::from_owned_fd(process.stdout.take().unwrap()).unwrap();
        let mut stderr = pipe::Receiver::from_owned_fd(process.stderr.take().unwrap()).unwrap();
        let (mut output, mut complaints) = (Vec::new(), Vec::new());
        let (one, two) = tokio::join!(stdout.read_to_end(&mut output), stderr.read_to_end(&mut complaints));
        assert!(one.is_ok() && two.is_ok(), "git's output broke off");
        let exit = process.wait().await;
        if exit != Exit::Code(0) {
            output.extend(complaints);
        }
        (exit, String::from_utf8_lossy(&output).into_owned())
    }

    /// A repository with one commit of `a.txt` on `main`.
    pub(crate) async fn repository(&self, name: &str) {
        std::fs::create_dir_all(self.path(name)).unwrap();
        self.git(name, &["init", "-q", "-b", "main", "--template="]).await;
        self.write(&format!("{name}/a.txt"), "one\n");
        self.git(name, &["add", "."]).await;
        self.git(name, &["commit", "-q", "-m", "first"]).await;
    }

    /// A copy of a folder of files and folders.
    pub(crate) fn copy(&self, from: &str, to: &str) {
        std::fs::create_dir(self.path(to)).unwrap();
        for entry in std::fs::read_dir(self.path(from)).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            let (from, to) = (format!("{from}/{name}"), format!("{to}/{name}"));
            if self.path(&from).is_dir() {
                self.copy(&from, &to);
            } else {
                std::fs::copy(self.path(&from), self.path(&to)).unwrap();
            }
        }
    }

    /// A bare copy of a repository, to push to.
    pub(crate) async fn bare(&self, from: &str, name: &str) {
        self.git(".", &["clone", "-q", "--bare", from, name]).await;
        self.git(name, &["config", "http.receivepack", "true"]).await;
    }
}
