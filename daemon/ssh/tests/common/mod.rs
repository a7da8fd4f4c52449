//! A server in a process of its own, and OpenSSH's client to talk to it.
//!
//! The server cannot share the tests' process: its reaper would collect the clients that tests start and wait for.

// The clients are the tests' own children, not the daemon's.
#![allow(dead_code, unreachable_pub, missing_docs, clippy::disallowed_methods)]

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use tempfile::TempDir;

/// Nothing here takes longer unless it hangs.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// A running server.
pub struct Server {
    process: Child,
    pub port: u16,
    /// Its home is `home` in here, its work directory `work`; the rest is the client's.
    pub directory: TempDir,
    example: &'static str,
    arguments: &'static [&'static str],
}

impl Server {
    pub fn start() -> Self {
        Self::start_as("ssh_serve", &[])
    }

    /// Starts this example, with these arguments after the address and the work directory.
    pub fn start_as(example: &'static str, arguments: &'static [&'static str]) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        for name in ["home", "work"] {
            fs::create_dir(directory.path().join(name)).expect("a directory");
        }
        let key = directory.path().join("key");
        let made =
            Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&key).status();
        assert!(made.expect("ssh-keygen (openssh-client) is needed").success());
        let (process, port) = launch(example, arguments, directory.path());
        Self { process, port, directory, example, arguments }
    }

    /// Ends the server and starts another in the same home.
    pub fn restart(&mut self) {
        self.stop();
        (self.process, self.port) = launch(self.example, self.arguments, self.directory.path());
    }

    fn stop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }

    pub fn work(&self) -> PathBuf {
        self.directory.path().join("work")
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Options that every client takes; `flag` is how it names a port.
    pub fn client(&self, program: &str, flag: &str) -> Command {
        let mut command = Command::new("timeout");
        command.arg(DEADLINE.as_secs().to_string()).arg(program).arg(flag).arg(self.port.to_string());
        command.arg("-i").arg(self.path("key"));
        for option in [
            "IdentitiesOnly=yes",
            "BatchMode=yes",
            "StrictHostKeyChecking=no",
            "UserKnownHostsFile=/dev/null",
            "LogLevel=ERROR",
            "User=daytona",
        ] {
            command.arg("-o").arg(option);
        }
        command.env_remove("SSH_AUTH_SOCK").stdin(Stdio::null());
        command
    }

    pub fn ssh(&self) -> Command {
        self.client("ssh", "-p")
    }

    /// Runs a command line in the sandbox.
    pub fn run(&self, line: &str) -> Output {
        self.ssh().arg("127.0.0.1").arg(line).output().expect("ssh runs")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

fn launch(example: &str, arguments: &[&str], directory: &Path) -> (Child, u16) {
    let mut process = Command::new(pinfold_testing::example(example))
        .arg("127.0.0.1:0")
        .arg(directory.join("work"))
        .args(arguments)
        .env("HOME", directory.join("home"))
        .env("MARK", "from the sandbox")
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the server starts");
    let mut line = String::new();
    BufReader::new(process.stderr.as_mut().expect("piped"))
        .read_line(&mut line)
        .expect("the server's first line");
    let port = line
        .trim()
        .rsplit(':')
        .next()
        .and_then(|p| p.parse().ok())
        .unwrap_or_else(|| panic!("no port in {line:?}"));
    // Whatever it says later must not fill the pipe: there is nothing unless RUST_LOG is set.
    (process, port)
}

/// Runs `command` with this input.
pub fn with_input(mut command: Command, input: &[u8]) -> Output {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the client runs");
    let mut stdin = child.stdin.take().expect("piped");
    std::thread::scope(|scope| {
        // A client that ends early leaves a broken pipe.
        scope.spawn(move || drop(stdin.write_all(input)));
        child.wait_with_output().expect("the client ends")
    })
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Bytes that do not compress and do not repeat.
pub fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}
