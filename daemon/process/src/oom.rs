//! Whether the kernel killed something in this sandbox for want of memory: its counter, from cgroup v2 or v1.

use std::sync::atomic::{AtomicU64, Ordering};

const V2: &str = "/sys/fs/cgroup/memory.events";
const V1: &str = "/sys/fs/cgroup/memory/memory.oom_control";

/// The kills seen so far.
#[derive(Debug)]
pub(crate) struct OomKills {
    seen: AtomicU64,
}

impl OomKills {
    pub(crate) fn watch() -> Self {
        Self { seen: AtomicU64::new(count()) }
    }

    /// Whether there were more since the last look.
    pub(crate) fn any_new(&self) -> bool {
        let now = count();
        self.seen.swap(now, Ordering::Relaxed) < now
    }
}

fn count() -> u64 {
    [V2, V1].iter().find_map(|path| parse(&std::fs::read_to_string(path).ok()?)).unwrap_or(0)
}

fn parse(text: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix("oom_kill ")).and_then(|n| n.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_both_versions_counters() {
        assert_eq!(parse("low 0\nhigh 0\nmax 3\noom 1\noom_kill 7\noom_group_kill 0\n"), Some(7));
        assert_eq!(parse("oom_kill_disable 0\nunder_oom 0\noom_kill 2\n"), Some(2));
        assert_eq!(parse("oom_kill_disable 0\nunder_oom 0\n"), None);
    }
}
