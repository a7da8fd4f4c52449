//! Whether the kernel killed something in this sandbox for want of memory: the counter of the daemon's own cgroup.

use std::sync::atomic::{AtomicU64, Ordering};

use pinfold_cgroup::Kernel;

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

/// 0 where the kernel does not count.
fn count() -> u64 {
    Kernel::default().own().and_then(|group| group.oom_kills()).unwrap_or(0)
}
