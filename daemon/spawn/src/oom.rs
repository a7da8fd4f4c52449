//! Who dies first when memory runs out: what the sandbox runs, not the daemon that everybody reaches it through.
//!
//! `oom_score_adj` is inherited, so a daemon that protects itself has to give its children back the score they would have had; one that may not gives
//! them a worse one. That is written right after the child starts: a hook before `exec` would cost the quick `posix_spawn` path, and raising the daemon's
//! own score meanwhile would make it the victim. What a program has forked by then has the daemon's score, and is looked for.

use std::fmt::Display;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::unistd::Pid;
use pinfold_cgroup::Kernel;

use crate::tree;

/// This process, in `/proc`.
const OWN: &str = "self";
/// Not -1000: that would exempt the daemon, and a leak of its own could take the whole sandbox down.
const PROTECTED: i32 = -999;
/// By how much a child is likelier to be chosen: as if it used a third of the memory more.
const WORSE: i32 = 300;
const WORST: i32 = 1000;

/// Makes this process a late victim, where that is permitted (`CAP_SYS_RESOURCE`). Says whether it is one now.
pub fn protect() -> bool {
    let _ = fs::write(file(OWN), PROTECTED.to_string());
    score_of(OWN) == Some(PROTECTED)
}

fn file(process: impl Display) -> String {
    format!("/proc/{process}/oom_score_adj")
}

fn score_of(process: impl Display) -> Option<i32> {
    fs::read_to_string(file(process)).ok()?.trim().parse().ok()
}

/// What children are set to: the ordinary score if this process could lower its own, else one that is worse than its own, which is always permitted.
pub(crate) fn childrens_score() -> Option<i32> {
    score_of(OWN).map(|own| if own < 0 { 0 } else { (own + WORSE).min(WORST) })
}

/// Gives a child its score, and whatever it has forked with another. It may be gone already.
pub(crate) fn set(pid: Pid, score: i32) {
    if fs::write(file(pid), score.to_string()).is_err() {
        return;
    }
    // Asked after the write: what is forked from here on inherits the new score.
    for child in tree::children(pid) {
        if score_of(child).is_some_and(|own| own != score) {
            set(child, score);
        }
    }
}

/// The kernel's count of what it killed in this sandbox for want of memory: `memory.events` of its cgroup (v2), or `memory.oom_control` (v1).
///
/// Kept open, so that asking costs one read and works when no descriptor is left. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Kills {
    file: Option<Arc<File>>,
    reported: Arc<AtomicU64>,
}

impl Kills {
    /// Opens the count of this process's cgroup. Where the kernel keeps none it stays 0.
    pub(crate) fn open() -> Self {
        let directory = Kernel::default().own().and_then(|group| group.memory_directory().map(Into::into));
        let directory: Option<std::path::PathBuf> = directory.ok();
        let open = |name| File::open(directory.as_ref()?.join(name)).ok();
        let file = open("memory.events").or_else(|| open("memory.oom_control")).map(Arc::new);
        let kills = Self { file, reported: Arc::default() };
        kills.reported.store(kills.count(), Ordering::Relaxed);
        kills
    }

    /// How many there were. Take it before something starts, to ask [`Kills::since`] at its end.
    pub fn count(&self) -> u64 {
        let mut text = [0; 512];
        let length = self.file.as_ref().and_then(|file| file.read_at(&mut text, 0).ok()).unwrap_or(0);
        parse(&text[..length]).unwrap_or(0)
    }

    /// Whether there were any since the count was `before`. What was not known yet goes to the log, with the limit that was met.
    pub fn since(&self, before: u64) -> bool {
        let now = self.count();
        if self.reported.fetch_max(now, Ordering::Relaxed) < now {
            let limit_bytes = Self::limit();
            tracing::warn!(
                total = now,
                limit_bytes,
                "the kernel killed a process of this sandbox for want of memory"
            );
        }
        now > before
    }

    /// The most memory that this sandbox may have, in bytes, if that is limited.
    pub fn limit() -> Option<u64> {
        Kernel::default().own().and_then(|group| group.memory_limit()).ok().flatten().map(|limit| limit.value)
    }

    /// Looks whether there were new ones, for the log's sake: call it when something died as the kernel's victims do.
    pub(crate) fn look(&self) {
        self.since(u64::MAX);
    }
}

/// The line `oom_kill <n>`.
fn parse(text: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(text).ok()?;
    text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::process::{Command, Stdio};
    use std::thread;
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn reads_either_versions_file() {
        assert_eq!(parse(b"low 0\nhigh 1\nmax 12\noom 3\noom_kill 2\noom_group_kill 9\n"), Some(2));
        assert_eq!(parse(b"oom_kill_disable 0\nunder_oom 0\noom_kill 7\n"), Some(7));
        assert_eq!(parse(b"oom_kill_disable 0\nunder_oom 0\n"), None);
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "a test that has no reaper")]
    fn what_was_forked_before_gets_the_score_too() {
        // Each `cat` ends with the test's end of the pipe.
        let mut shell = Command::new("sh")
            .args(["-c", "exec 3<&0; cat <&3 & (cat <&3; :) & echo; wait"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        shell.stdout.take().unwrap().read_exact(&mut [0]).unwrap();
        let root = Pid::from_raw(shell.id().cast_signed());
        let family = || [vec![root], tree::descendants(root)].concat();
        let deadline = Instant::now() + Duration::from_secs(60);
        while family().len() < 4 {
            assert!(Instant::now() < deadline, "a shell, two children and a grandchild: {:?}", family());
            thread::sleep(Duration::from_millis(5));
        }
        let worse = (score_of(OWN).unwrap() + 7).min(WORST);
        set(root, worse);
        for pid in family() {
            assert_eq!(score_of(pid), Some(worse), "{pid}");
        }
        // It ends with its input. Where all tests are one process, another one's reaper may have it already.
        let _ = shell.wait();
    }

    #[test]
    fn only_later_kills_count() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), "oom_kill 2\n").unwrap();
        let kills = Kills { file: Some(Arc::new(file.reopen().unwrap())), reported: Arc::default() };
        let before = kills.count();
        assert!(!kills.since(before), "nothing was killed since");
        fs::write(file.path(), "oom_kill 3\n").unwrap();
        // Two commands that were hit at once both learn of it.
        assert!(kills.since(before) && kills.since(before));
        assert!(!kills.since(kills.count()));
    }
}
