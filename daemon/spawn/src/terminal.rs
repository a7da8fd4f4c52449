//! Letting go of the controlling terminal.
//!
//! A container that has a terminal gives it to PID 1. Children in process groups of their own would be its background jobs: an interactive shell
//! among them (`bash -ic`) stops at once, waiting to be brought to the foreground, which nobody does.

#![allow(unsafe_code)]

use std::fs::File;
use std::os::fd::AsRawFd;

use nix::libc::TIOCNOTTY;

nix::ioctl_none_bad!(
    /// Gives up the controlling terminal.
    give_up,
    TIOCNOTTY
);

/// Gives up the controlling terminal if this is PID 1; it still may be standard output. Says whether there was one.
///
/// Only then: the kernel hangs up a session whose leader does this, which PID 1 does not mind and any other process dies of.
pub fn leave() -> bool {
    if std::process::id() != 1 {
        return false;
    }
    let Ok(terminal) = File::open("/dev/tty") else { return false };
    // SAFETY: the request takes no argument and the descriptor is open.
    unsafe { give_up(terminal.as_raw_fd()) }.is_ok()
}
