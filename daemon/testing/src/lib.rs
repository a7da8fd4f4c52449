//! What the tests of the daemon's crates have in common: a process core, routes to call, and a server for WebSockets. A dev-dependency of theirs, and of
//! nothing else.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod routes;
mod server;

use std::sync::LazyLock;
use std::time::{Duration, Instant};

use pinfold_spawn::Spawner;
use tokio::runtime::{Builder, Runtime};

pub use routes::Routes;
pub use server::{Server, WebSocket};

/// Nothing in a test takes longer unless it hangs.
pub const DEADLINE: Duration = Duration::from_secs(15);

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

/// Waits until `condition` holds; `what` names it when it never does.
pub async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < DEADLINE, "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// The command lines of this machine's processes that have `words` in them. Not by `pgrep`: the reaper of this process owns every child.
pub fn commands_with(words: &str) -> Vec<String> {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let lines = processes.filter_map(|process| std::fs::read(process.path().join("cmdline")).ok());
    let lines = lines.map(|line| String::from_utf8_lossy(&line).replace('\0', " "));
    lines.filter(|line| line.contains(words)).collect()
}
