//! The end of a session (toolbox contract 8.7): nothing of it stays, in seconds at most, unless the client or the operator wants detached processes
//! to live on.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::future::join_all;
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use pinfold_spawn::pidfd;
use pinfold_spawn::tree::Scope;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::{Session, lock};
use crate::Processes;

/// However long the configured grace: a client waits about ten seconds for the answer.
const MAX_GRACE: Duration = Duration::from_secs(7);
/// A process that was killed is gone as soon as it has a processor, unless the kernel holds it.
const DEATH: Duration = Duration::from_secs(2);

impl Processes {
    /// Forgets the session, ends what `scope` means of it and removes its files. The work goes on if the caller goes away.
    pub(crate) fn remove_session(&self, id: &str, scope: Scope) -> Option<JoinHandle<()>> {
        let mut sessions = lock(&self.sessions);
        let session = sessions.remove(id)?;
        let commands = lock(&session.commands);
        session.deleted.store(true, Ordering::Relaxed);
        // Out of the way at once: a new session of this id has the same directory, and its files must stay.
        let trash = session.directory.with_file_name(format!(".deleted-{}", uuid::Uuid::new_v4()));
        let moved = std::fs::rename(&session.directory, &trash).is_ok();
        drop(commands);
        drop(sessions);
        let (grace, check) = (self.settings.grace, self.settings.check);
        Some(tokio::spawn(async move {
            end(&session, scope, grace, check).await;
            // What is spared may go on writing: to nowhere, and not into files that nobody can see.
            lock(&session.commands).iter().for_each(|command| command.log.discard());
            if moved {
                let _ = tokio::fs::remove_dir_all(trash).await;
            }
        }))
    }

    /// Ends every session at once, the entrypoint among them. Their files stay, for whoever wants to know what happened.
    pub async fn shut_down(&self) {
        let sessions: Vec<Arc<Session>> = lock(&self.sessions).drain().map(|(_, session)| session).collect();
        let (grace, check) = (self.settings.grace, self.settings.check);
        join_all(sessions.iter().map(|session| end(session, Scope::Everything, grace, check))).await;
    }
}

async fn end(session: &Arc<Session>, scope: Scope, grace: Duration, check: Duration) {
    session.deleted.store(true, Ordering::Relaxed);
    let members = signal(session, scope, Signal::SIGTERM).await;
    if scope == Scope::Everything {
        // Who ignores hang-ups may still be in the group.
        let _ = session.process.signal_group(Signal::SIGTERM);
    }
    let all_gone = async {
        join_all(members.into_iter().map(|pid| pidfd::ended(pid, check))).await;
        session.process.wait().await;
    };
    let in_time = timeout(grace.min(MAX_GRACE), all_gone).await.is_ok();
    tracing::debug!(session = session.id, in_time, "session ends");
    if scope == Scope::Everything && !in_time {
        // Who is in the group and has nothing else to be known by, now that the shell is gone.
        let _ = session.process.signal_group(Signal::SIGKILL);
    }
    // Whatever stayed, or was started meanwhile.
    let dying = Arc::clone(session);
    let killed = tokio::task::spawn_blocking(move || dying.process.kill_family(&dying.mark, scope)).await;
    match killed {
        Ok(killed) => {
            let dead = join_all(killed.into_iter().map(|pid| pidfd::ended(pid, check)));
            let in_time = timeout(DEATH, dead).await.is_ok();
            tracing::debug!(session = session.id, in_time, "the rest of a session was killed");
        }
        Err(error) => {
            tracing::error!(%error, session = session.id, "the rest of a session could not be killed");
        }
    }
    session.process.wait().await;
}

async fn signal(session: &Arc<Session>, scope: Scope, signal: Signal) -> Vec<Pid> {
    let session = Arc::clone(session);
    let signalled =
        tokio::task::spawn_blocking(move || session.process.signal_family(&session.mark, scope, signal));
    signalled.await.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use pinfold_http::ApiResult;

    use super::super::command::Manner;
    use super::*;
    use crate::Settings;

    #[tokio::test(flavor = "multi_thread")]
    async fn a_command_that_comes_with_the_delete_leaves_no_directory() {
        let home = tempfile::tempdir().unwrap();
        let sandbox = pinfold_testing::sandbox(home.path(), home.path(), &[]);
        let processes = Processes::new(sandbox, Settings::default()).with_shell("/bin/sh");
        let session = processes.insert_session("s", home.path()).unwrap();
        // What a delete does, slowly, while a command comes.
        let held = lock(&session.commands);
        let (told, thread) = std::sync::mpsc::channel();
        let comer = std::thread::spawn({
            let session = Arc::clone(&session);
            move || -> ApiResult<()> {
                told.send(nix::unistd::gettid()).unwrap();
                session
                    .submit("c".to_owned(), "true".to_owned(), Manner::default(), &Settings::default())
                    .map(drop)
            }
        });
        let stat = format!("/proc/self/task/{}/stat", thread.recv().unwrap());
        pinfold_testing::wait_for("the command to wait for the delete", || {
            std::fs::read_to_string(&stat).unwrap().contains(") S ").then_some(())
        });
        assert!(!session.directory.exists(), "made while the delete was under way");
        session.deleted.store(true, Ordering::Relaxed);
        drop(held);
        let refused = comer.join().unwrap().unwrap_err();
        assert_eq!(refused.status(), http::StatusCode::GONE);
        assert!(!session.directory.exists(), "made after the delete");
        processes.remove_session("s", Scope::Everything).unwrap().await.unwrap();
    }
}
