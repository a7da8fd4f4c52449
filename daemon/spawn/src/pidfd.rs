//! Waiting for processes that are not our children: the kernel reports their end through a pidfd.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

use nix::libc::{SYS_pidfd_open, syscall};
use nix::sys::signal::kill;
use nix::unistd::Pid;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

fn open(pid: Pid) -> io::Result<OwnedFd> {
    // SAFETY: pidfd_open takes two integers and returns a new descriptor or -1.
    let fd = unsafe { syscall(SYS_pidfd_open, pid.as_raw(), 0) };
    match RawFd::try_from(fd) {
        // SAFETY: the descriptor was just made and nobody else knows it.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Waits until the process has ended (a zombie has). Kernels without pidfds (before 5.3, some emulations) are asked every `interval`.
pub async fn ended(pid: Pid, interval: Duration) {
    let fd = match open(pid) {
        Ok(fd) => fd,
        Err(error) if error.raw_os_error() == Some(nix::libc::ESRCH) => return,
        Err(_) => return gone(pid, interval).await,
    };
    // SAFETY: an `OwnedFd` names the same open description for as long as it lives.
    let fd = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) };
    match fd {
        Ok(fd) => drop(fd.readable().await),
        Err(_) => gone(pid, interval).await,
    }
}

async fn gone(pid: Pid, interval: Duration) {
    while kill(pid, None).is_ok() && !crate::tree::is_zombie(pid) {
        tokio::time::sleep(interval).await;
    }
}
