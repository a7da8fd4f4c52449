//! Pipes on the runtime.
//!
//! Reading and writing go straight to the kernel: a cached readiness may be older than a byte that is known to be there, and an exit status must never
//! overtake the output before it.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::unistd::{pipe2, read, write};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Bytes that a pipe holds unless told otherwise (pipe(7)).
pub(crate) const CAPACITY: usize = 1 << 16;

/// A pipe, neither end of which children inherit: read end, write end.
pub(crate) fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(pipe2(OFlag::O_CLOEXEC)?)
}

/// Makes reads and writes through this description fail rather than wait.
pub(crate) fn non_blocking(fd: &OwnedFd) -> io::Result<()> {
    let flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?);
    fcntl(fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(())
}

/// The reading end.
#[derive(Debug)]
pub(crate) struct Reader {
    fd: AsyncFd<OwnedFd>,
}

impl Reader {
    /// Takes over a read end. Must be called on a runtime.
    pub(crate) fn new(fd: OwnedFd) -> io::Result<Self> {
        non_blocking(&fd)?;
        Ok(Self { fd: register(fd, Interest::READABLE)? })
    }

    /// The next bytes; 0 when all writers are gone. Cancel-safe.
    pub(crate) async fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let mut ready = self.fd.readable().await?;
            match ready.try_io(|fd| read_now(fd.get_ref(), buffer)) {
                Ok(result) => return result,
                Err(_would_block) => {}
            }
        }
    }

    /// Whether it is empty and nobody can write to it any more.
    pub(crate) fn is_over(&self) -> bool {
        let mut poll = [PollFd::new(self.fd.get_ref().as_fd(), PollFlags::POLLIN)];
        let asked = nix::poll::poll(&mut poll, PollTimeout::ZERO);
        let found = poll[0].revents().unwrap_or(PollFlags::empty());
        asked.is_ok() && found.contains(PollFlags::POLLHUP) && !found.contains(PollFlags::POLLIN)
    }

    /// What is there at this moment, without waiting: `None` if nothing is.
    pub(crate) fn now(&self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        match read_now(self.fd.get_ref(), buffer) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            other => other.map(Some),
        }
    }
}

/// The next bytes; 0 at the end and after a failure, and never if there is no reader. Cancel-safe.
pub(crate) async fn read_some(reader: Option<&Reader>, buffer: &mut [u8]) -> usize {
    match reader {
        Some(reader) => reader.read(buffer).await.unwrap_or(0),
        None => std::future::pending().await,
    }
}

fn read_now(fd: &OwnedFd, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match read(fd, buffer) {
            Err(Errno::EINTR) => {}
            other => return Ok(other?),
        }
    }
}

/// The writing end.
#[derive(Debug)]
pub(crate) struct Writer {
    fd: AsyncFd<OwnedFd>,
}

impl Writer {
    /// Takes over a write end. Must be called on a runtime.
    pub(crate) fn new(fd: OwnedFd) -> io::Result<Self> {
        non_blocking(&fd)?;
        Ok(Self { fd: register(fd, Interest::WRITABLE)? })
    }

    /// Writes some of `bytes` once there is room. Cancel-safe.
    pub(crate) async fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            let mut ready = self.fd.writable().await?;
            match ready.try_io(|fd| Ok(write(fd.get_ref(), bytes)?)) {
                Ok(result) => return result,
                Err(_would_block) => {}
            }
        }
    }
}

#[allow(unsafe_code)]
fn register(fd: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` names the same open description for as long as it lives.
    Ok(unsafe { AsyncFd::register_with_interest(fd, interest) }?)
}
