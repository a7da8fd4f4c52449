//! The end of a session (toolbox contract 8.7): nothing of it stays, in seconds at most.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::future::join_all;
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use pinfold_spawn::pidfd;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::{Session, lock};
use crate::Processes;

/// However long the configured grace: a client waits about ten seconds for the answer.
const MAX_GRACE: Duration = Duration::from_secs(7);

impl Processes {
    /// Forgets the session, ends it and removes its files. The work goes on if the caller goes away.
    pub(crate) fn remove_session(&self, id: &str) -> Option<JoinHandle<()>> {
        let mut sessions = lock(&self.sessions);
        let session = sessions.remove(id)?;
        session.deleted.store(true, Ordering::Relaxed);
        // Out of the way at once: a new session of this id has the same directory, and its files must stay.
        let trash = session.directory.with_file_name(format!(".deleted-{}", uuid::Uuid::new_v4()));
        let moved = std::fs::rename(&session.directory, &trash).is_ok();
        drop(sessions);
        let (grace, check) = (self.settings.grace, self.settings.check);
        Some(tokio::spawn(async move {
            end(session, grace, check).await;
            if moved {
                let _ = tokio::fs::remove_dir_all(trash).await;
            }
        }))
    }

    /// Ends every session at once, the entrypoint among them. Their files stay, for whoever wants to know what happened.
    pub async fn shut_down(&self) {
        let sessions: Vec<Arc<Session>> = lock(&self.sessions).drain().map(|(_, session)| session).collect();
        join_all(sessions.into_iter().map(|session| end(session, self.settings.grace, self.settings.check)))
            .await;
    }
}

async fn end(session: Arc<Session>, grace: Duration, check: Duration) {
    session.deleted.store(true, Ordering::Relaxed);
    let members = signal(&session, Signal::SIGTERM).await;
    let _ = session.process.signal_group(Signal::SIGTERM);
    let all_gone = async {
        join_all(members.into_iter().map(|pid| pidfd::ended(pid, check))).await;
        session.process.wait().await;
    };
    let in_time = timeout(grace.min(MAX_GRACE), all_gone).await.is_ok();
    tracing::debug!(session = session.id, in_time, "session ends");
    // Whatever stayed, or was started meanwhile.
    let dying = Arc::clone(&session);
    let killed = tokio::task::spawn_blocking(move || dying.process.kill_family(&dying.mark)).await;
    if let Err(error) = killed {
        tracing::error!(%error, session = session.id, "the rest of a session could not be killed");
    }
    session.process.wait().await;
}

async fn signal(session: &Arc<Session>, signal: Signal) -> Vec<Pid> {
    let session = Arc::clone(session);
    let signalled = tokio::task::spawn_blocking(move || session.process.signal_family(&session.mark, signal));
    signalled.await.unwrap_or_default()
}
