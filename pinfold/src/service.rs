//! What `run` and `up` share as long-running services: signals, systemd's notifications and watchdog.

use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::exit::Failure;

/// Exit status after SIGINT or SIGTERM, as the runner contract (0.1) has it.
pub(crate) const SIGNALLED: u8 = 143;

/// A token that is cancelled by the first SIGINT or SIGTERM; the second one ends the process at once.
pub(crate) fn stop_on_signals() -> Result<CancellationToken, Failure> {
    let failed = |error| Failure::runtime(format!("could not watch for signals: {error}"));
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let stop = CancellationToken::new();
    let cancelled = stop.clone();
    tokio::spawn(async move {
        let signal = next(&mut interrupt, &mut terminate).await;
        tracing::info!(signal, "ending; once more ends at once");
        notify(&[NotifyState::Stopping]);
        cancelled.cancel();
        next(&mut interrupt, &mut terminate).await;
        std::process::exit(i32::from(SIGNALLED));
    });
    Ok(stop)
}

async fn next(interrupt: &mut Signal, terminate: &mut Signal) -> &'static str {
    tokio::select! {
        _ = interrupt.recv() => "SIGINT",
        _ = terminate.recv() => "SIGTERM",
    }
}

/// Tells systemd that the service is ready, and beats its watchdog from this runtime until it hangs: a timer thread would go on beating.
pub(crate) fn ready(status: &str) {
    notify(&[NotifyState::Ready, NotifyState::Status(status)]);
    let Some(interval) = sd_notify::watchdog_enabled() else { return };
    tokio::spawn(async move {
        let mut ticks = tokio::time::interval((interval / 3).max(Duration::from_millis(100)));
        loop {
            ticks.tick().await;
            notify(&[NotifyState::Watchdog]);
        }
    });
}

/// Whether standard output is the journal (systemd.exec(5), `JOURNAL_STREAM`): it keeps what it is told, and more people than root read it.
pub(crate) fn speaks_to_journal() -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else { return false };
    std::fs::metadata("/proc/self/fd/1").is_ok_and(|out| stream == format!("{}:{}", out.dev(), out.ino()))
}

fn notify(states: &[NotifyState<'_>]) {
    // Without systemd there is no socket, and nothing to tell.
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "systemd could not be told");
    }
}
