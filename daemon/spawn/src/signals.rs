//! The signals that children begin with: a login's, whatever this process was started with.
//!
//! `exec` keeps what is ignored. A daemon that was started with `nohup`, or in the background of a script, ignores SIGHUP, SIGINT or SIGQUIT, and so
//! would everything that it starts: Ctrl-C would reach no program. What is caught, `exec` resets to the default; so what is ignored here is caught.

use nix::libc::{SIGCHLD, SIGPIPE};
use tokio::signal::unix::{SignalKind, signal};

/// Catches what this process ignores, so that its children do not. Must be called on a runtime.
pub(crate) fn catch_ignored() {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    // The standard library takes care of SIGPIPE, the reaper of SIGCHLD.
    for number in ignored(&status).filter(|number| ![SIGPIPE, SIGCHLD].contains(number)) {
        // The handler stays when the stream is dropped.
        if let Err(error) = signal(SignalKind::from_raw(number)) {
            tracing::debug!(number, %error, "children go on ignoring a signal");
        }
    }
}

/// The standard signals in the `SigIgn` line of a process's status.
fn ignored(status: &str) -> impl Iterator<Item = i32> {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or(0);
    (1..32).filter(move |number| mask & (1 << (number - 1)) != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mask_is_read() {
        let status = "Name:\tx\nSigIgn:\t0000000000001003\nSigCgt:\tffffffffffffffff\n";
        assert_eq!(ignored(status).collect::<Vec<_>>(), [1, 2, 13]);
        assert_eq!(ignored("nothing").count(), 0);
    }
}
