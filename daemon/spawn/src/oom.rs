//! Who dies first when memory runs out: what the sandbox runs, not the daemon that everybody reaches it through.
//!
//! `oom_score_adj` is inherited, so a daemon that protects itself has to give its children back the score they would have had; one that may not gives
//! them a worse one. That is written right after the child starts: a hook before `exec` would cost the quick `posix_spawn` path, and raising the daemon's
//! own score meanwhile would make it the victim. A program that forks in its first fraction of a millisecond may pass the daemon's score on to that
//! one child.

use std::fs;

use nix::unistd::Pid;

const OWN: &str = "/proc/self/oom_score_adj";
/// Not -1000: that would exempt the daemon, and a leak of its own could take the whole sandbox down.
const PROTECTED: i32 = -999;
/// By how much a child is likelier to be chosen: as if it used a third of the memory more.
const WORSE: i32 = 300;
const WORST: i32 = 1000;

/// Makes this process a late victim, where that is permitted (`CAP_SYS_RESOURCE`). Says whether it is one now.
pub fn protect() -> bool {
    let _ = fs::write(OWN, PROTECTED.to_string());
    score() == Some(PROTECTED)
}

fn score() -> Option<i32> {
    fs::read_to_string(OWN).ok()?.trim().parse().ok()
}

/// What children are set to: the ordinary score if this process could lower its own, else one that is worse than its own, which is always permitted.
pub(crate) fn childrens_score() -> Option<i32> {
    score().map(|own| if own < 0 { 0 } else { (own + WORSE).min(WORST) })
}

/// Gives a child its score. It may be gone already.
pub(crate) fn set(pid: Pid, score: i32) {
    let _ = fs::write(format!("/proc/{pid}/oom_score_adj"), score.to_string());
}
