//! Holds calls back while the control plane refuses this runner's token.
//!
//! Refusals are counted against the caller's address (runner contract 2.2), and every loop of ours would go on asking. So one gate stands before all
//! calls: shut by a refusal, it lets one through now and then, ever more rarely, and the first that is taken opens it. Who is held back is told so at
//! once, because a stop must not wait for it.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::ApiCallError;

/// Between the first two attempts; a refusal may pass.
const FIRST_PAUSE: Duration = Duration::from_secs(2);
/// Before it is spread, by a third in either direction.
const LONGEST_PAUSE: Duration = Duration::from_secs(45);

#[derive(Debug, Clone, Copy)]
struct Shut {
    until: Instant,
    pause: Duration,
    /// Whether one was let through since.
    attempted: bool,
}

/// The gate, open at first.
#[derive(Debug, Default)]
pub(super) struct Gate(Mutex<Option<Shut>>);

impl Gate {
    fn shut(&self) -> MutexGuard<'_, Option<Shut>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks to make a call. What is let through a shut gate has a pause to itself.
    pub(super) fn enter(&self) -> Result<(), ApiCallError> {
        let mut shut = self.shut();
        let Some(known) = shut.as_mut() else { return Ok(()) };
        if Instant::now() < known.until {
            return Err(ApiCallError::HeldBack);
        }
        (known.until, known.attempted) = (Instant::now() + spread(known.pause), true);
        Ok(())
    }

    /// The token was refused. Answers to calls that were under way together count as one.
    pub(super) fn refused(&self, status: u16) {
        let (mut shut, now) = (self.shut(), Instant::now());
        let pause = match *shut {
            None => {
                tracing::error!(
                    status,
                    "the control plane refuses this runner's token; asking ever more rarely, about once a minute at last"
                );
                FIRST_PAUSE
            }
            Some(known) if known.attempted => (known.pause * 2).min(LONGEST_PAUSE),
            Some(_) => return,
        };
        *shut = Some(Shut { until: now + spread(pause), pause, attempted: false });
    }

    /// A call was taken.
    pub(super) fn accepted(&self) {
        if self.shut().take().is_some() {
            tracing::info!("the control plane takes this runner's token again");
        }
    }
}

fn spread(pause: Duration) -> Duration {
    pause.mul_f64((2.0 + 2.0 * rand::random::<f64>()) / 3.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tries for `time`, all refused, and returns when there was one.
    async fn attempts(gate: &Gate, time: Duration) -> Vec<Duration> {
        let (began, mut seen) = (Instant::now(), Vec::new());
        while began.elapsed() < time {
            if gate.enter().is_ok() {
                seen.push(began.elapsed());
                gate.refused(401);
            }
            tokio::time::advance(Duration::from_millis(100)).await;
        }
        seen
    }

    #[tokio::test(start_paused = true)]
    async fn refusals_make_calls_rare_and_the_first_success_ends_that() {
        let gate = Gate::default();
        let seen = attempts(&gate, Duration::from_secs(3600)).await;
        let pauses: Vec<Duration> = seen.windows(2).map(|pair| pair[1] - pair[0]).collect();
        for (n, pause) in pauses.iter().enumerate() {
            let wanted = (FIRST_PAUSE * 2_u32.pow(u32::try_from(n.min(8)).unwrap())).min(LONGEST_PAUSE);
            let slack = Duration::from_millis(200);
            assert!(*pause + slack >= wanted * 2 / 3 && *pause <= wanted * 4 / 3 + slack, "{n}: {pauses:?}");
        }
        assert!(seen.len() > 60 && seen.len() < 130, "{}", seen.len());
        // One call is let through alone, and what was under way with a refused one is no further refusal.
        tokio::time::advance(LONGEST_PAUSE * 2).await;
        assert!(gate.enter().is_ok() && gate.enter().is_err());
        gate.accepted();
        assert!(gate.enter().is_ok() && gate.enter().is_ok());
        (0..5).for_each(|_| gate.refused(401));
        tokio::time::advance(FIRST_PAUSE * 2).await;
        assert!(gate.enter().is_ok());
    }
}
