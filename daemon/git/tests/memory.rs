//! The engine's memory does not grow with the repository, and the daemon's not at all (`cargo test -p pinfold-git --test memory -- --ignored --nocapture`).
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use common::World;
use common::server::Remote;
use serde_json::json;

const BIG: usize = 24;
const BIG_SIZE: usize = 12 << 20;
const SMALL: usize = 20_000;

/// Highest anonymous memory while the guard lives, in MiB: how much more this process has, and how much an engine.
struct Peak {
    highest: Arc<(AtomicU64, AtomicU64)>,
    over: Arc<AtomicBool>,
    before: u64,
}

fn anonymous(process: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    line.map_or(0, |line| line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1024)
}

/// The largest of the engines that run.
fn engines() -> u64 {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let children = tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("children")).ok());
    let children: Vec<_> =
        children.flat_map(|list| list.split(' ').map(str::to_owned).collect::<Vec<_>>()).collect();
    let named = |pid: &&String| {
        std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name == "pinfold-git\n")
    };
    children.iter().filter(named).map(|pid| anonymous(pid)).max().unwrap_or(0)
}

impl Peak {
    fn start() -> Self {
        let peak = Self { highest: Arc::default(), over: Arc::default(), before: anonymous("self") };
        let (highest, over) = (Arc::clone(&peak.highest), Arc::clone(&peak.over));
        std::thread::spawn(move || {
            while !over.load(Ordering::Relaxed) {
                highest.0.fetch_max(anonymous("self"), Ordering::Relaxed);
                highest.1.fetch_max(engines(), Ordering::Relaxed);
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
        });
        peak
    }

    /// The engine's peak. This process, which also plays the server, may not have grown.
    fn end(self) -> u64 {
        self.over.store(true, Ordering::Relaxed);
        let grown = self.highest.0.load(Ordering::Relaxed).saturating_sub(self.before);
        let engine = self.highest.1.load(Ordering::Relaxed);
        assert!(grown < 16, "{grown} MiB more in this process");
        assert!(engine > 0, "no engine was seen");
        engine
    }
}

/// Bytes that do not compress.
fn noise(seed: u64, size: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut bytes = vec![0; size];
    for chunk in bytes.chunks_mut(8) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        chunk.copy_from_slice(&state.to_le_bytes()[..chunk.len()]);
    }
    bytes
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "writes a gigabyte and takes a minute"]
async fn a_large_repository_is_cloned_and_pushed_in_little_memory() {
    let world = World::new();
    let seed = world.path("seed");
    for number in 0..SMALL {
        world.write(&format!("seed/{}/{number}.txt", number % 200), &format!("file {number}\n").repeat(20));
    }
    for number in 0..BIG {
        let mut file = std::fs::File::create(seed.join(format!("{number}.bin"))).unwrap();
        file.write_all(&noise(number as u64 + 1, BIG_SIZE)).unwrap();
    }
    world.git("seed", &["init", "-q", "-b", "main"]).await;
    world.git("seed", &["config", "core.bigFileThreshold", "1m"]).await;
    world.git("seed", &["add", "."]).await;
    world.git("seed", &["commit", "-q", "-m", "much"]).await;
    world.bare("seed", "hub.git").await;
    world.git("hub.git", &["config", "core.bigFileThreshold", "1m"]).await;
    let server = Remote::new(&world.sandbox, None).serve().await;

    let (peak, start) = (Peak::start(), Instant::now());
    world.post("/git/clone", json!({"url": server.url("hub.git"), "path": "one"}), 200).await;
    let (took, clone) = (start.elapsed(), peak.end());
    println!("clone of {} MiB in {SMALL} files: {took:.1?}, {clone} MiB", (BIG * BIG_SIZE) >> 20);
    let start = Instant::now();
    world.git(".", &["clone", "-q", &server.url("hub.git"), "theirs"]).await;
    println!("git's own: {:.1?}", start.elapsed());

    let peak = Peak::start();
    let start = Instant::now();
    world.get("/git/status?path=one").await;
    println!("status: {:.1?}, {} MiB", start.elapsed(), peak.end());

    for number in 0..8 {
        std::fs::write(world.path(&format!("one/more{number}.bin")), noise(1000 + number, BIG_SIZE)).unwrap();
    }
    let (peak, start) = (Peak::start(), Instant::now());
    world.post("/git/add", json!({"path": "one", "files": ["."]}), 200).await;
    let commit = json!({"path": "one", "message": "more", "author": "a", "email": "e"});
    assert_eq!(world.call("POST", "/git/commit", commit).await.0, 200);
    let add = peak.end();
    println!("add and commit of {} MiB: {:.1?}, {add} MiB", (8 * BIG_SIZE) >> 20, start.elapsed());
    let (peak, start) = (Peak::start(), Instant::now());
    world.post("/git/push", json!({"path": "one"}), 200).await;
    let push = peak.end();
    println!("push of {} MiB: {:.1?}, {push} MiB", (8 * BIG_SIZE) >> 20, start.elapsed());
    // A few of the largest files at a time, not the repository.
    assert!(clone < 96 && add < 96 && push < 96, "clone {clone}, add {add}, push {push} MiB");
}
