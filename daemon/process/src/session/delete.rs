//! The end of a session (toolbox contract 8.7): nothing of it stays, in seconds at most.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use pinfold_spawn::pidfd;
use tokio::time::timeout;

use super::{Session, lock};
use crate::Processes;

/// However long the configured grace: a client waits about ten seconds for the answer.
const MAX_GRACE: Duration = Duration::from_secs(7);

impl Processes {
    /// Forgets the session and ends it. The work goes on if the caller goes away.
    pub(crate) fn remove_session(&self, id: &str) -> Option<tokio::task::JoinHandle<()>> {
        let session = lock(&self.sessions).remove(id)?;
        let (grace, check) = (self.settings.grace.min(MAX_GRACE), self.settings.check);
        Some(tokio::spawn(end(session, grace, check)))
    }

    /// Ends every session at once, the entrypoint among them.
    pub async fn shut_down(&self) {
        let ids: Vec<String> = lock(&self.sessions).keys().cloned().collect();
        join_all(ids.iter().filter_map(|id| self.remove_session(id))).await;
    }
}

async fn end(session: Arc<Session>, grace: Duration, check: Duration) {
    let members = signal(&session, Signal::SIGTERM).await;
    let _ = session.process.signal_group(Signal::SIGTERM);
    let all_gone = async {
        join_all(members.into_iter().map(|pid| pidfd::ended(pid, check))).await;
        session.process.wait().await;
    };
    let in_time = timeout(grace, all_gone).await.is_ok();
    tracing::debug!(session = session.id, in_time, "session ends");
    // Whatever stayed, or was started meanwhile.
    let dying = Arc::clone(&session);
    let killed = tokio::task::spawn_blocking(move || dying.process.kill_family(&dying.mark)).await;
    if let Err(error) = killed {
        tracing::error!(%error, session = session.id, "the rest of a session could not be killed");
    }
    session.process.wait().await;
    let directory = session.directory.clone();
    let _ = tokio::task::spawn_blocking(move || std::fs::remove_dir_all(directory)).await;
}

async fn signal(session: &Arc<Session>, signal: Signal) -> Vec<Pid> {
    let session = Arc::clone(session);
    let signalled = tokio::task::spawn_blocking(move || session.process.signal_family(&session.mark, signal));
    signalled.await.unwrap_or_default()
}
