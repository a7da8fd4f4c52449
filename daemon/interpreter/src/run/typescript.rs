//! How TypeScript is run: by what the sandbox has, fastest first, and over the network only if there is nothing else.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use pinfold_spawn::{Exit, Sandbox};
use tokio::time::timeout;

use super::language::{Prepared, in_memory};

/// Types are only taken away, and modules are CommonJS.
const TS_NODE: [&str; 5] = [
    "--transpile-only",
    "--ignoreDiagnostics",
    "5107",
    "-O",
    r#"{"module":"CommonJS","moduleResolution":"node"}"#,
];
/// Asking node what it can do takes a few dozen milliseconds.
const PROBE: Duration = Duration::from_secs(10);

/// What will run a TypeScript program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Runner {
    /// `tsx`, installed.
    Tsx(PathBuf),
    /// `ts-node`, installed.
    TsNode(PathBuf),
    /// node itself, with this flag.
    Node(&'static str),
    /// `npx ts-node`, which may have to download it.
    Npx,
}

impl Runner {
    /// Looks in the work directory's `node_modules`, then in `path`, then at node.
    pub(super) async fn find(sandbox: &Sandbox, path: &str) -> Self {
        let local = sandbox.work_dir.join("node_modules/.bin");
        let find = |name: &str| {
            std::iter::once(local.clone())
                .chain(std::env::split_paths(path))
                .map(|directory| directory.join(name))
                .find(|file| is_executable(file))
        };
        if let Some(tsx) = find("tsx") {
            return Self::Tsx(tsx);
        }
        if let Some(ts_node) = find("ts-node") {
            return Self::TsNode(ts_node);
        }
        // The first also knows enums and namespaces, but only node 22 and 24 have it; a node that does not know a flag refuses to start.
        for flag in ["--experimental-transform-types", "--experimental-strip-types"] {
            if node_takes(sandbox, flag).await {
                return Self::Node(flag);
            }
        }
        Self::Npx
    }

    /// What to start for `program`; its arguments are to be added.
    pub(super) fn prepare(self, temporary: &Path, program: &str) -> io::Result<Prepared> {
        if let Self::Node(flag) = self {
            let mut command = Command::new("node");
            command
                .args([flag, "--no-warnings", "--input-type=commonjs-typescript", "-"])
                .stdin(in_memory(program)?);
            return Ok(Prepared::new(command));
        }
        // A directory that only we can enter, with a name that nobody can guess.
        let directory = tempfile::Builder::new().prefix("code-").tempdir_in(temporary)?;
        let file = directory.path().join("main.ts");
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&file)?
            .write_all(program.as_bytes())?;
        let mut command = match &self {
            Self::Tsx(tsx) => Command::new(tsx),
            Self::TsNode(ts_node) => {
                let mut command = Command::new(ts_node);
                command.args(TS_NODE);
                command
            }
            Self::Node(_) | Self::Npx => {
                let mut command = Command::new("npx");
                command.args(["--yes", "ts-node"]).args(TS_NODE);
                command
            }
        };
        command.arg(&file).stdin(Stdio::null());
        let variables = vec![("npm_config_loglevel", "error")];
        Ok(Prepared { variables, _directory: Some(directory), ..Prepared::new(command) })
    }
}

fn is_executable(file: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(file).is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
}

async fn node_takes(sandbox: &Sandbox, flag: &str) -> bool {
    let mut command = Command::new("node");
    // The kind of input came with the same releases, and is asked for as well.
    command.args([flag, "--input-type=commonjs-typescript", "-e", "0"]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    sandbox.environment.apply(&mut command, []);
    match sandbox.spawner.spawn(command) {
        Ok(process) => matches!(timeout(PROBE, process.wait()).await, Ok(Exit::Code(0))),
        Err(_) => false,
    }
}
