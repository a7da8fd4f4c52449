//! Processor use as a percentage of the limit, from the difference of two readings.
//!
//! A sampler needs two readings. So that no report has to wait for a whole window, the second is due soon after the
//! first; [`CpuSampler::due`] says when to come again.

use std::time::{Duration, Instant};

use crate::{Amount, Machine, Missing, Percent};

/// How soon the second reading follows the first. Kernel counters advance in steps of up to 10 ms.
const PRIME: Duration = Duration::from_millis(250);

/// Processor time used up to an instant.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CpuReading {
    /// When.
    pub at: Instant,
    /// Processor time used, from an arbitrary origin.
    pub used: Duration,
    /// The limit it counts against, in cores.
    pub limit: Amount,
}

impl CpuReading {
    /// Reads the machine now.
    pub fn take(machine: &Machine) -> Result<Self, Missing> {
        let (limit, used) = machine.cpu()?;
        Ok(Self { at: Instant::now(), used, limit })
    }

    /// The percentage of the limit used since `earlier`. Nothing when no time has passed or the counter was reset.
    pub fn since(&self, earlier: &Self) -> Option<Percent> {
        let elapsed = self.at.checked_duration_since(earlier.at)?;
        let used = self.used.checked_sub(earlier.used)?;
        Percent::of(used.as_secs_f64(), elapsed.as_secs_f64() * self.limit.get())
    }
}

/// Turns readings into percentages, one for each window.
#[derive(Debug)]
pub struct CpuSampler {
    machine: Machine,
    window: Duration,
    last: Option<CpuReading>,
    windows: u64,
}

impl CpuSampler {
    /// A sampler for windows of this length.
    pub fn new(machine: Machine, window: Duration) -> Self {
        Self { machine, window, last: None, windows: 0 }
    }

    /// How long to wait before the next [`CpuSampler::sample`].
    pub fn due(&self) -> Duration {
        match (&self.last, self.windows) {
            (None, _) => Duration::ZERO,
            (Some(_), 0) => PRIME.min(self.window),
            (Some(_), _) => self.window,
        }
    }

    /// Reads, and gives the percentage of the limit used since the reading before. `Ok(None)` for the first reading,
    /// and for one after the counters were reset.
    pub fn sample(&mut self) -> Result<Option<Percent>, Missing> {
        let now = CpuReading::take(&self.machine)?;
        let percent = self.last.as_ref().and_then(|earlier| now.since(earlier));
        self.last = Some(now);
        if percent.is_some() {
            self.windows = self.windows.saturating_add(1);
        }
        Ok(percent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(at: Instant, used: u64, cores: f64) -> CpuReading {
        CpuReading { at, used: Duration::from_millis(used), limit: Amount::new(cores).expect("cores") }
    }

    #[test]
    fn half_a_core_of_two_is_a_quarter() {
        let start = Instant::now();
        let first = reading(start, 1000, 2.0);
        let second = reading(start + Duration::from_secs(2), 2000, 2.0);
        assert_eq!(second.since(&first).map(Percent::get), Some(25.0));
    }

    #[test]
    fn a_reset_counter_and_a_standing_clock_give_nothing() {
        let start = Instant::now();
        let first = reading(start, 1000, 1.0);
        assert_eq!(reading(start + Duration::from_secs(1), 10, 1.0).since(&first), None);
        assert_eq!(reading(start, 1000, 1.0).since(&first), None);
    }
}
