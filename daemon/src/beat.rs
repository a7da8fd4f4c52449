//! A beat for what the daemon does every few seconds although nobody asks it anything.
//!
//! The runtime keeps its own timers in ever finer slots, and wakes a thread each time it moves one that is seconds away to a finer slot: up to three times
//! for each sleep. A timer of the kernel's wakes it once.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
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
    let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK)?;
    timer.set(Expiration::Interval(period.into()), TimerSetTimeFlags::empty())?;
    Ok(timer.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    #[tokio::test]
    async fn beats_come_one_period_apart_with_and_without_the_kernels_timer() {
        let period = Duration::from_millis(20);
        for kernels in [true, false] {
            // Before there is a beat: one that was missed since then would come at once.
            let begin = Instant::now();
            let beat = if kernels { Beat::every(period) } else { Beat { period, timer: None } };
            assert_eq!(beat.timer.is_some(), kernels);
            for _ in 0..5 {
                beat.next().await;
            }
            assert!(begin.elapsed() >= period * 5, "{:?}", begin.elapsed());
        }
    }
}
