//! A limit for a whole transfer, for those who want one: silence has limits anyway, but a slow remote may take hours.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::task::JoinHandle;

use crate::error::{Failure, Kind};
use crate::repository::Task;

/// Longest time of a clone, push, pull or fetch, such as `10m`; none when unset or malformed.
const VARIABLE: &str = "PINFOLD_GIT_TIMEOUT";

/// Cancels its task when the time is up, unless it is dropped before.
pub(super) struct Limit {
    time: Duration,
    passed: Arc<AtomicBool>,
    timer: JoinHandle<()>,
}

impl Limit {
    pub(super) fn start(task: &Task) -> Option<Self> {
        let text = task.sandbox.environment.get(VARIABLE)?;
        let time = match pinfold_settings::parse_duration(&text) {
            Ok(time) if !time.is_zero() => time,
            Ok(_) => return None,
            Err(error) => {
                tracing::warn!(variable = VARIABLE, %error, "the limit is ignored");
                return None;
            }
        };
        let passed = Arc::<AtomicBool>::default();
        let (flag, cancel) = (Arc::clone(&passed), task.cancel.clone());
        let timer = task.runtime.spawn(async move {
            tokio::time::sleep(time).await;
            flag.store(true, Ordering::Relaxed);
            cancel.cancel();
        });
        Some(Self { time, passed, timer })
    }

    /// What ended the transfer, if it was this.
    pub(super) fn failure(&self) -> Option<Failure> {
        let text = || format!("the operation took longer than its limit of {:?} ({VARIABLE})", self.time);
        self.passed.load(Ordering::Relaxed).then(|| Failure::new(Kind::Transport, text()))
    }
}

impl Drop for Limit {
    fn drop(&mut self) {
        self.timer.abort();
    }
}
