//! A beat for what the daemon does every few seconds although nobody asks it anything.
//!
//! The runtime keeps its own timers in ever finer slots, and wakes a thread each time it moves one that is seconds away to a finer slot: up to three times
//! for each sleep. A timer of the kernel's wakes it once.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

use nix::libc;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Comes again and again.
#[derive(Debug)]
pub(crate) struct Beat {
    period: Duration,
    /// Nothing if the kernel has none to give: then the runtime's own have to do.
    timer: Option<AsyncFd<OwnedFd>>,
}

impl Beat {
    /// The first comes after one period.
    pub(crate) fn every(period: Duration) -> Self {
        let timer = timer(period).and_then(|fd| {
            // SAFETY: an `OwnedFd` names the same open description for as long as it lives.
            Ok(unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }?)
        });
        let failed = |error: &io::Error| tracing::debug!(%error, "no timer of the kernel's");
        Self { period, timer: timer.inspect_err(failed).ok() }
    }

    /// Waits for the next one. Those that were missed are one.
    pub(crate) async fn next(&self) {
        let Some(timer) = &self.timer else { return tokio::time::sleep(self.period).await };
        loop {
            let Ok(mut ready) = timer.readable().await else { return tokio::time::sleep(self.period).await };
            let mut count = [0; 8];
            let read = |fd: &AsyncFd<OwnedFd>| Ok(nix::unistd::read(fd.get_ref(), &mut count)?);
            if ready.try_io(read).is_ok() {
                return;
            }
        }
    }
}

fn timer(period: Duration) -> io::Result<OwnedFd> {
    let flags = libc::TFD_CLOEXEC | libc::TFD_NONBLOCK;
    // SAFETY: timerfd_create takes two integers and returns a new descriptor or -1.
    let fd = unsafe { libc::timerfd_create(libc::CLOCK_MONOTONIC, flags) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor was just made and nobody else knows it.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    let seconds = period.as_secs().try_into().unwrap_or(libc::time_t::MAX);
    let period = libc::timespec { tv_sec: seconds, tv_nsec: period.subsec_nanos().into() };
    let beat = libc::itimerspec { it_interval: period, it_value: period };
    // SAFETY: the descriptor is a timer's, the new value is initialised, and the old one is not wanted.
    let set = unsafe { libc::timerfd_settime(fd.as_raw_fd(), 0, &raw const beat, std::ptr::null_mut()) };
    if set < 0 { Err(io::Error::last_os_error()) } else { Ok(fd) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    #[tokio::test]
    async fn beats_come_one_period_apart_with_and_without_the_kernels_timer() {
        let period = Duration::from_millis(20);
        let beat = Beat::every(period);
        assert!(beat.timer.is_some());
        for beat in [beat, Beat { period, timer: None }] {
            let begin = Instant::now();
            for _ in 0..5 {
                beat.next().await;
            }
            assert!(begin.elapsed() >= period * 9 / 2, "{:?}", begin.elapsed());
        }
    }
}
