//! The poll loop: one poll at a time, because overlapping polls are given the same jobs (runner contract 17.1).
//!
//! A poll that did not end with a whole answer may have claimed jobs that nobody heard of. So after one, the claimed jobs are listed at once and
//! again until that poll's time is over; besides, every 30 s. The executor ignores what it knows.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::{ControlPlane, Executor};

const RELIST: Duration = Duration::from_secs(30);
const SUSPICIOUS_RELIST: Duration = Duration::from_secs(1);
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// An empty answer that comes this soon is a left-over hint; it must not become a busy loop.
const SOON: Duration = Duration::from_millis(100);
/// Above this many jobs no more are claimed.
const ENOUGH: usize = 400;

/// Polls until `stop`. The poll under way then is given `grace` to end, because dropping it would swallow a job.
pub async fn poll(
    control: Arc<dyn ControlPlane>,
    executor: Executor,
    timeout: Duration,
    limit: u32,
    grace: Duration,
    stop: CancellationToken,
) {
    let suspicion = Arc::new(Suspicion::default());
    // An earlier run's last poll may go on claiming for nobody if that run was killed; the first listing finds what it left running.
    suspicion.raise(Instant::now() + timeout + Duration::from_secs(1));
    let lister =
        tokio::spawn(list_on_demand(control.clone(), executor.clone(), suspicion.clone(), stop.clone()));
    // A lost connection alone is made anew at once; only what fails again is left some time (runner contract 14.4).
    let mut pause = Duration::ZERO;
    while !stop.is_cancelled() {
        if executor.running() >= ENOUGH {
            tokio::time::sleep(SOON).await;
            continue;
        }
        let began = Instant::now();
        let poll = control.poll(timeout, limit);
        let mut poll = std::pin::pin!(poll);
        let answer = tokio::select! {
            answer = &mut poll => answer,
            () = stop.cancelled() => match tokio::time::timeout(grace, poll).await {
                Ok(answer) => answer,
                Err(_) => break,
            },
        };
        match answer {
            Ok(jobs) => {
                pause = Duration::ZERO;
                let empty = jobs.is_empty();
                // Jobs that arrive at a stop are still ours; what is not done by the end of the drain runs at the next start.
                jobs.into_iter().for_each(|job| executor.accept(job));
                if empty && began.elapsed() < SOON {
                    tokio::time::sleep(SOON).await;
                }
            }
            Err(error) => {
                if !error.is_told() {
                    tracing::warn!(%error, "a poll failed");
                }
                // The orphaned poll lives at the control plane until its own end, claiming for nobody.
                suspicion.raise(began + timeout + Duration::from_secs(1));
                tokio::select! {
                    () = tokio::time::sleep(pause.mul_f64(0.5 + rand::random::<f64>())) => {}
                    () = stop.cancelled() => {}
                }
                pause = (pause * 2).clamp(FIRST_PAUSE, LONGEST_PAUSE);
            }
        }
    }
    lister.abort();
}

/// Until when claimed jobs may exist that nobody heard of.
#[derive(Debug, Default)]
struct Suspicion {
    until: Mutex<Option<Instant>>,
    raised: Notify,
}

impl Suspicion {
    fn raise(&self, until: Instant) {
        *self.until.lock().unwrap_or_else(PoisonError::into_inner) = Some(until);
        self.raised.notify_one();
    }

    fn holds(&self) -> bool {
        self.until.lock().unwrap_or_else(PoisonError::into_inner).is_some_and(|until| Instant::now() < until)
    }
}

async fn list_on_demand(
    control: Arc<dyn ControlPlane>,
    executor: Executor,
    suspicion: Arc<Suspicion>,
    stop: CancellationToken,
) {
    loop {
        let listed = list(&*control, &executor).await;
        let wait = if suspicion.holds() || !listed { SUSPICIOUS_RELIST } else { RELIST };
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = suspicion.raised.notified() => {}
            () = stop.cancelled() => return,
        }
    }
}

/// Lists every page of claimed jobs and hands them to the executor. False when a page could not be read.
async fn list(control: &dyn ControlPlane, executor: &Executor) -> bool {
    let mut page = 1;
    loop {
        match control.in_progress(page).await {
            Ok(found) => {
                let empty = found.jobs.is_empty();
                found.jobs.into_iter().for_each(|job| executor.accept_claimed(job, found.at));
                if empty || u64::from(page) >= found.pages {
                    return true;
                }
                page += 1;
            }
            Err(error) => {
                tracing::debug!(%error, "could not list claimed jobs");
                return false;
            }
        }
    }
}
