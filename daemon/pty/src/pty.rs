//! Opening a pseudo-terminal, starting a process on it, and non-blocking I/O on its master end.
//!
//! Invariants: a process started here leads its own session and owns the terminal; the daemon keeps no descriptor of the slave end, so the master
//! reads end-of-file once the last process on the terminal is gone; nothing here blocks a thread.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::{Command, Stdio};
use std::sync::Arc;

use nix::errno::Errno;
use nix::sys::termios::{InputFlags, SetArg, tcgetattr, tcsetattr};
use pinfold_spawn::{Process, Sandbox, SpawnError, is_no_room};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::sys;

/// The size of a terminal's window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// Columns, in characters.
    pub cols: u16,
    /// Rows, in characters.
    pub rows: u16,
    /// Width in pixels, 0 if unknown.
    pub width: u16,
    /// Height in pixels, 0 if unknown.
    pub height: u16,
}

impl Size {
    /// A size in characters.
    pub const fn new(cols: u16, rows: u16) -> Self {
        Self { cols, rows, width: 0, height: 0 }
    }
}

impl Default for Size {
    fn default() -> Self {
        Self::new(80, 24)
    }
}

/// Why there is no terminal, or no process on it.
#[derive(Debug, thiserror::Error)]
pub enum PtyError {
    /// No pseudo-terminal could be had: `/dev/pts` is full or missing, or no descriptors are left.
    #[error("could not open a pseudo-terminal: {0}")]
    Open(#[source] io::Error),
    /// The process did not start.
    #[error(transparent)]
    Spawn(#[from] SpawnError),
}

/// A new pseudo-terminal with nobody on it yet.
#[derive(Debug)]
pub struct Pty {
    master: OwnedFd,
    slave: OwnedFd,
}

impl PtyError {
    /// Whether there was no room for another terminal or process: it may be tried again.
    pub fn is_no_room(&self) -> bool {
        match self {
            Self::Open(source) => is_no_room(source) || source.raw_os_error() == Some(nix::libc::ENOSPC),
            Self::Spawn(source) => matches!(source, SpawnError::NoRoom { .. }),
        }
    }
}

impl Pty {
    /// Opens a pseudo-terminal of this size, in UTF-8 mode.
    pub fn open(size: Size) -> Result<Self, PtyError> {
        let (master, slave) = sys::open_pair().map_err(PtyError::Open)?;
        sys::set_size(master.as_fd(), size).map_err(|e| PtyError::Open(e.into()))?;
        // Erase then takes a whole character away, not its last byte.
        if let Ok(mut modes) = tcgetattr(&slave) {
            modes.input_flags |= InputFlags::IUTF8;
            let _ = tcsetattr(&slave, SetArg::TCSANOW, &modes);
        }
        Ok(Self { master, slave })
    }

    /// The terminal itself, for setting its modes before anything runs on it.
    pub fn terminal(&self) -> BorrowedFd<'_> {
        self.slave.as_fd()
    }

    /// Starts `command` with the terminal as standard input, output, error and controlling terminal.
    ///
    /// `command` must not have a process group set: the process will lead a session. Must be called on a runtime.
    pub fn start(self, sandbox: &Sandbox, mut command: Command) -> Result<(Process, PtyMaster), PtyError> {
        let master = PtyMaster::new(self.master).map_err(PtyError::Open)?;
        let end = || self.slave.try_clone().map(Stdio::from).map_err(PtyError::Open);
        command.stdin(end()?).stdout(end()?).stderr(end()?);
        sys::take_controlling_terminal(&mut command);
        // The spawner drops the command, and with it our descriptors of the slave end.
        let process = sandbox.spawner.spawn(command)?;
        Ok((process, master))
    }

    /// Opens a terminal of this size and starts `command` on it.
    pub fn spawn(sandbox: &Sandbox, command: Command, size: Size) -> Result<(Process, PtyMaster), PtyError> {
        Self::open(size)?.start(sandbox, command)
    }
}

/// The master end of a terminal. Cheap to clone; the terminal hangs up when the last clone is dropped.
#[derive(Debug, Clone)]
pub struct PtyMaster {
    fd: Arc<AsyncFd<std::fs::File>>,
}

impl PtyMaster {
    fn new(master: OwnedFd) -> io::Result<Self> {
        sys::watch(master).map(|fd| Self { fd: Arc::new(fd) })
    }

    /// Waits until there is output, or the end of it. Lets a reader take a buffer only when it has something to put in.
    pub async fn readable(&self) -> io::Result<()> {
        self.fd.readable().await.map(|mut guard| guard.retain_ready())
    }

    /// Reads what programs wrote. 0 means that no process has the terminal open any more. Cancel-safe.
    pub async fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.fd.async_io(Interest::READABLE, |mut file| file.read(buffer)).await;
        ended_is_zero(read)
    }

    /// Reads without waiting: `WouldBlock` if there is nothing yet, 0 as in [`PtyMaster::read`].
    pub fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        ended_is_zero(self.fd.try_io(Interest::READABLE, |mut file| file.read(buffer)))
    }

    /// Reads what the kernel has, whether or not the runtime has heard of it: `WouldBlock` if there is nothing, 0 as in [`PtyMaster::read`]. What a process
    /// that has ended wrote is found this way at once, and by waiting only when the kernel's own thread for terminals has had its turn.
    pub fn read_now(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut file = self.fd.get_ref();
        ended_is_zero(file.read(buffer))
    }

    /// Types `bytes`, or the first part of them; waits while the terminal's input queue is full. Cancel-safe.
    pub async fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        self.fd.async_io(Interest::WRITABLE, |mut file| file.write(bytes)).await
    }

    /// Types all of `bytes`. If cancelled, a part may have been typed.
    pub async fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match self.write(bytes).await? {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                n => bytes = &bytes[n..],
            }
        }
        Ok(())
    }

    /// Changes the window size; programs in the foreground get SIGWINCH.
    pub fn resize(&self, size: Size) -> io::Result<()> {
        sys::set_size(self.fd.get_ref().as_fd(), size).map_err(io::Error::from)
    }
}

/// Linux answers EIO on a master whose slave end is closed everywhere, which is this device's end-of-file.
fn ended_is_zero(read: io::Result<usize>) -> io::Result<usize> {
    match read {
        Err(error) if error.raw_os_error() == Some(Errno::EIO as i32) => Ok(0),
        other => other,
    }
}
