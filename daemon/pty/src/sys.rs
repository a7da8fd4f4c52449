//! The only unsafe code of this crate: terminal ioctls, and what a child does between `fork` and `exec`.

#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::libc;
use nix::sys::stat::Mode;

use tokio::io::unix::AsyncFd;

use crate::Size;

nix::ioctl_write_ptr_bad!(set_window_size, libc::TIOCSWINSZ, libc::winsize);
nix::ioctl_write_ptr_bad!(set_lock, libc::TIOCSPTLCK, libc::c_int);
nix::ioctl_read_bad!(pts_number, libc::TIOCGPTN, libc::c_uint);

/// Opens both ends of a new pseudo-terminal, close-on-exec from the first moment (`openpty` would leave a window in which another thread's child
/// inherits them); the master is non-blocking.
pub(crate) fn open_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
    let master = open("/dev/ptmx", flags, Mode::empty())?;
    // SAFETY: the descriptor is a live pty master and the argument points to an int for the duration of the call.
    unsafe { set_lock(master.as_raw_fd(), &0) }?;
    let mut number: libc::c_uint = 0;
    // SAFETY: as above; the kernel writes one unsigned int.
    unsafe { pts_number(master.as_raw_fd(), &raw mut number) }?;
    let mut options = File::options();
    options.read(true).write(true).custom_flags(libc::O_NOCTTY | libc::O_CLOEXEC);
    let slave = options.open(format!("/dev/pts/{number}"))?;
    Ok((master, slave.into()))
}

/// Sets the window size; the kernel sends SIGWINCH to the foreground group if it changed.
pub(crate) fn set_size(terminal: BorrowedFd<'_>, size: Size) -> Result<(), Errno> {
    let size =
        libc::winsize { ws_row: size.rows, ws_col: size.cols, ws_xpixel: size.width, ws_ypixel: size.height };
    // SAFETY: the descriptor is borrowed for the call, and the argument is a complete winsize.
    unsafe { set_window_size(terminal.as_raw_fd(), &size) }.map(drop)
}

/// Makes the child lead a session of its own whose controlling terminal is its standard input.
pub(crate) fn take_controlling_terminal(command: &mut Command) {
    let in_child = || {
        nix::unistd::setsid()?;
        // SAFETY: descriptor 0 is the terminal: the standard streams are set before this closure runs. The ioctl takes an int.
        Errno::result(unsafe { libc::ioctl(0, libc::TIOCSCTTY, 0) })?;
        Ok(())
    };
    // SAFETY: the closure runs between fork and exec; it makes two system calls and neither allocates nor locks.
    unsafe { command.pre_exec(in_child) };
}

/// Registers a master end with the runtime. Must be called on one.
pub(crate) fn watch(master: OwnedFd) -> io::Result<AsyncFd<File>> {
    // SAFETY: a `File` owns its descriptor, always answers the same one, and closes it only when dropped.
    Ok(unsafe { AsyncFd::register(File::from(master)) }?)
}
