//! What the tests of the daemon's crates have in common: a process core, routes to call, a server for WebSockets, and a
//! sandbox to do it all in. A dev-dependency, theirs and the runner's.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod fuse;
mod hung;
mod routes;
mod server;
mod world;

use std::hash::{BuildHasher, RandomState};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pinfold_spawn::Spawner;
use tokio::runtime::{Builder, Runtime};

pub use fuse::Fuse;
pub use hung::Hung;
pub use routes::Routes;
pub use server::{Server, WebSocket};
pub use world::{World, sandbox};

/// Nothing in a test takes longer unless it hangs, on a machine that is busy with other things as well.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// The process core of this test process: there can be only one reaper, so it lives on a runtime that outlives every test.
pub fn spawner() -> Spawner {
    static REAPER: LazyLock<(Runtime, Spawner)> = LazyLock::new(|| {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let entered = runtime.enter();
        let spawner = Spawner::start().unwrap();
        drop(entered);
        (runtime, spawner)
    });
    REAPER.1.clone()
}

/// A TCP port that nobody uses, below those that the kernel gives to connections: it is still free when a server is started on it.
pub fn free_port() -> u16 {
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap();
    let first: u64 = range.split_whitespace().next().unwrap().parse().unwrap();
    let port =
        |attempt: u64| u16::try_from(first - 1 - RandomState::new().hash_one(attempt) % 12_000).unwrap();
    (0..).map(port).find(|port| TcpListener::bind(("0.0.0.0", *port)).is_ok()).unwrap()
}

/// How often a condition is looked at.
const LOOK: Duration = Duration::from_millis(5);

/// Waits until `condition` holds; `what` names it when it never does.
pub async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    until(what, async || condition()).await;
}

/// The same for a condition that has to be asked for.
pub async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let start = Instant::now();
    while !condition().await {
        assert!(start.elapsed() < DEADLINE, "waited in vain for {what}");
        tokio::time::sleep(LOOK).await;
    }
}

/// The same without a runtime: waits until there is something to return.
pub fn wait_for<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(start.elapsed() < DEADLINE, "waited in vain for {what}");
        std::thread::sleep(LOOK);
    }
}

/// The program of one of the crate's examples: `target/<profile>/deps/<test>` → `target/<profile>/examples/<name>`.
pub fn example(name: &str) -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let program = test.parent().and_then(Path::parent).unwrap().join("examples").join(name);
    assert!(
        program.exists(),
        "examples are built by `cargo test` as a whole, and by `cargo build --examples`"
    );
    program
}

/// The command lines of this machine's processes that have `words` in them. Not by `pgrep`: the reaper of this process owns every child.
pub fn commands_with(words: &str) -> Vec<String> {
    processes_with(words).into_iter().map(|(_, line)| line).collect()
}

/// Kills the processes whose command lines have `words` in them: what a test lets live on purpose may not stay behind.
pub fn kill_commands(words: &str) {
    for (pid, _) in processes_with(words) {
        kill(pid, Signal::SIGKILL).unwrap();
    }
}

fn processes_with(words: &str) -> Vec<(Pid, String)> {
    let line = |pid: i32| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        line.contains(words).then_some((Pid::from_raw(pid), line))
    };
    let names = std::fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.file_name());
    names.filter_map(|name| line(name.to_str()?.parse().ok()?)).collect()
}
