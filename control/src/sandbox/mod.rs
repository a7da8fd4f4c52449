//! Sandboxes: one owner task each, and the directory in which the rest of the program finds them.
//!
//! Readers look at [`Handle::view`], which always holds what was last committed. Whoever wants a change sends it to the owner task, which applies
//! changes one at a time and commits each before anyone sees it. Waiters subscribe to the view before they act, so that no event is missed.

mod actor;
mod commit;
mod effects;
pub(crate) mod payload;
mod placing;
pub(crate) mod plan;
mod timers;
mod upkeep;
mod wake;

pub(crate) use effects::{renewed, written};

use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use pinfold_http::{ApiError, ApiResult};
use pinfold_proto::control::sandbox::{DesiredState, SandboxState};
use pinfold_proto::runner::job::JobKind;
use tokio::sync::{Notify, mpsc, oneshot, watch};

use crate::core::Core;
use crate::store::jobs::JobRow;
use crate::store::sandboxes::Record;
use crate::time::{steady, wall, walls};

/// Changes that wait for an owner task. A full mailbox is answered with 503.
const MAILBOX: usize = 64;

/// A change of a record: refuses, or edits.
pub(crate) type Change = Box<dyn FnOnce(&mut Record) -> ApiResult<()> + Send>;

/// What an owner task is asked.
pub(crate) enum Command {
    /// Change the record, then do what follows from it.
    Change(Change, oneshot::Sender<ApiResult<Arc<Record>>>),
    /// A job has ended.
    Finished(Box<JobRow>, oneshot::Sender<Result<(), sqlx::Error>>),
    /// Tell how the next job of this kind ends.
    Await(JobKind, oneshot::Sender<Result<(), String>>),
}

/// What was last committed of a sandbox.
#[derive(Debug, Clone)]
pub(crate) struct View {
    /// The record.
    pub(crate) record: Arc<Record>,
    /// Whether it is gone.
    pub(crate) gone: bool,
}

/// A sandbox, for everyone but its owner task.
#[derive(Debug, Clone)]
pub(crate) struct Handle {
    mailbox: mpsc::Sender<Command>,
    view: watch::Receiver<View>,
    /// When it was last used, on the steady clock.
    activity: Arc<AtomicI64>,
}

impl Handle {
    /// What was last committed.
    pub(crate) fn record(&self) -> Arc<Record> {
        self.view.borrow().record.clone()
    }

    /// A view to wait on; subscribe before acting.
    pub(crate) fn watch(&self) -> watch::Receiver<View> {
        self.view.clone()
    }

    /// When it was last used, on the wall clock.
    pub(crate) fn last_activity(&self) -> i64 {
        wall(self.activity.load(Ordering::Relaxed))
    }

    /// It is in use.
    pub(crate) fn touch(&self) {
        self.activity.store(steady(), Ordering::Relaxed);
    }

    /// Applies a change and returns the record as committed.
    pub(crate) async fn change(
        &self,
        change: impl FnOnce(&mut Record) -> ApiResult<()> + Send + 'static,
    ) -> ApiResult<Arc<Record>> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Change(Box::new(change), reply))?;
        answer.await.map_err(|_| gone(&self.record().id))?
    }

    /// Hands the end of a job over; returns when its effect is committed.
    pub(crate) async fn finished(&self, job: JobRow) -> Result<(), FinishError> {
        let (reply, answer) = oneshot::channel();
        self.mailbox.send(Command::Finished(Box::new(job), reply)).await.map_err(|_| FinishError::Gone)?;
        Ok(answer.await.map_err(|_| FinishError::Gone)??)
    }

    /// How the next job of this kind ends; ask before the change that makes it.
    pub(crate) fn outcome_of(&self, kind: JobKind) -> ApiResult<oneshot::Receiver<Result<(), String>>> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Await(kind, reply))?;
        Ok(answer)
    }

    fn send(&self, command: Command) -> ApiResult<()> {
        self.mailbox.try_send(command).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => {
                ApiError::unavailable("too many changes of this sandbox wait already").retry_after(1)
            }
            mpsc::error::TrySendError::Closed(_) => gone(&self.record().id),
        })
    }
}

/// Why the end of a job was not taken in.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FinishError {
    /// The sandbox does not exist any more.
    #[error("the sandbox is gone")]
    Gone,
    /// It could not be stored; the runner shall try again.
    #[error(transparent)]
    Store(#[from] sqlx::Error),
}

fn gone(id: &str) -> ApiError {
    ApiError::not_found(format_args!("no sandbox {id}"))
}

/// How long a create or start keeps its caller waiting for the end.
pub(crate) const START_LIMIT: Duration = Duration::from_secs(30);

/// Waits until `done` holds of the view, the sandbox is gone, or `limit` has passed. Returns the last view in every case.
pub(crate) async fn settle(
    mut view: watch::Receiver<View>,
    limit: Duration,
    done: impl Fn(&Record) -> bool,
) -> View {
    let waiting = view.wait_for(|view| view.gone || done(&view.record));
    let settled =
        tokio::time::timeout(limit, waiting).await.ok().and_then(Result::ok).map(|view| view.clone());
    settled.unwrap_or_else(|| view.borrow().clone())
}

/// Whether a start has come to an end: done, failed, or no longer wanted.
pub(crate) fn start_ended(r: &Record) -> bool {
    matches!(r.state, SandboxState::Started | SandboxState::Error | SandboxState::BuildFailed)
        || r.desired != DesiredState::Started
}

#[derive(Debug, Default)]
struct Maps {
    by_id: HashMap<String, Handle>,
    /// Names of sandboxes that nobody has asked to delete.
    names: HashMap<String, String>,
}

/// Where sandboxes are found.
#[derive(Debug, Default)]
pub(crate) struct Directory {
    maps: RwLock<Maps>,
    /// A reservation has become a sandbox, or nothing.
    decided: Notify,
}

impl Directory {
    /// The sandbox with this id or name.
    pub(crate) fn find(&self, id_or_name: &str) -> Option<Handle> {
        let maps = self.maps.read().unwrap_or_else(PoisonError::into_inner);
        maps.by_id.get(id_or_name).or_else(|| maps.by_id.get(maps.names.get(id_or_name)?)).cloned()
    }

    /// [`Directory::find`], or 404.
    pub(crate) fn get(&self, id_or_name: &str) -> ApiResult<Handle> {
        self.find(id_or_name).ok_or_else(|| gone(id_or_name))
    }

    /// [`Directory::find`] for who knows of the sandbox from its first job: a runner may have done that before the row's commit is known of here.
    pub(crate) async fn arrived(&self, id: &str) -> Option<Handle> {
        loop {
            let mut decided = std::pin::pin!(self.decided.notified());
            decided.as_mut().enable();
            if let Some(handle) = self.find(id) {
                return Some(handle);
            }
            let reserved = {
                let maps = self.maps.read().unwrap_or_else(PoisonError::into_inner);
                maps.names.values().any(|reserved| reserved == id)
            };
            if !reserved {
                // Unless it was added between the two looks.
                return self.find(id);
            }
            decided.await;
        }
    }

    /// All sandboxes.
    pub(crate) fn all(&self) -> Vec<Handle> {
        self.maps.read().unwrap_or_else(PoisonError::into_inner).by_id.values().cloned().collect()
    }

    /// What `pick` makes of each sandbox, without copying the others.
    pub(crate) fn scan<T>(&self, mut pick: impl FnMut(&Arc<Record>, i64) -> Option<T>) -> Vec<T> {
        let wall = walls();
        let maps = self.maps.read().unwrap_or_else(PoisonError::into_inner);
        let handles = maps.by_id.values();
        handles
            .filter_map(|handle| {
                let active = wall(handle.activity.load(Ordering::Relaxed));
                pick(&handle.view.borrow().record, active)
            })
            .collect()
    }

    /// Takes a name, or 409. It is free again when the reservation is dropped without [`Reservation::keep`].
    pub(crate) fn reserve(self: &Arc<Self>, name: &str, id: &str) -> ApiResult<Reservation> {
        let mut maps = self.maps.write().unwrap_or_else(PoisonError::into_inner);
        if maps.names.contains_key(name) {
            return Err(ApiError::conflict(format_args!("a sandbox named {name:?} exists already")));
        }
        maps.names.insert(name.to_owned(), id.to_owned());
        Ok(Reservation { directory: self.clone(), name: name.to_owned(), kept: false })
    }

    fn add(&self, record: &Record, handle: Handle) {
        let mut maps = self.maps.write().unwrap_or_else(PoisonError::into_inner);
        if record.desired != DesiredState::Destroyed {
            maps.names.insert(record.name.clone(), record.id.clone());
        }
        maps.by_id.insert(record.id.clone(), handle);
        drop(maps);
        self.decided.notify_waiters();
    }

    /// Makes the names fit a committed change.
    fn renamed(&self, old: &Record, new: &Record) {
        if old.name == new.name && old.desired == new.desired {
            return;
        }
        let mut maps = self.maps.write().unwrap_or_else(PoisonError::into_inner);
        if maps.names.get(&old.name) == Some(&old.id) {
            maps.names.remove(&old.name);
        }
        if new.desired != DesiredState::Destroyed {
            maps.names.insert(new.name.clone(), new.id.clone());
        }
    }

    fn remove(&self, record: &Record) {
        let mut maps = self.maps.write().unwrap_or_else(PoisonError::into_inner);
        if maps.names.get(&record.name) == Some(&record.id) {
            maps.names.remove(&record.name);
        }
        maps.by_id.remove(&record.id);
    }
}

/// A name that is taken for a sandbox about to be.
#[derive(Debug)]
pub(crate) struct Reservation {
    directory: Arc<Directory>,
    name: String,
    kept: bool,
}

impl Reservation {
    /// The sandbox exists; from now on its owner task manages the name.
    pub(crate) fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if !self.kept {
            self.directory.maps.write().unwrap_or_else(PoisonError::into_inner).names.remove(&self.name);
            self.directory.decided.notify_waiters();
        }
    }
}

/// Stores a new sandbox with its first job and starts its owner task.
pub(crate) async fn create(core: &Arc<Core>, record: Record, name: Reservation) -> ApiResult<Handle> {
    let handle = actor::spawn_new(core, record).await.map_err(crate::api::store_failed)?;
    name.keep();
    Ok(handle)
}

/// Starts the owner task of a stored sandbox.
pub(crate) fn resume(core: &Arc<Core>, record: Record) {
    actor::spawn_stored(core, record);
}

#[cfg(test)]
mod tests {
    use std::pin::{Pin, pin};

    use super::*;

    async fn waits<T>(what: Pin<&mut impl Future<Output = T>>) -> bool {
        tokio::select! {
            biased;
            _ = what => false,
            () = std::future::ready(()) => true,
        }
    }

    #[tokio::test]
    async fn a_first_job_that_ends_at_once_finds_its_sandbox() {
        let directory = Arc::new(Directory::default());
        let record = Arc::new(plan::tests::record(SandboxState::Creating, DesiredState::Started));
        assert!(directory.arrived(&record.id).await.is_none(), "nobody makes it");
        let name = directory.reserve(&record.name, &record.id).unwrap();
        let mut early = pin!(directory.arrived(&record.id));
        assert!(waits(early.as_mut()).await, "its row is being committed");
        let (mailbox, _commands) = mpsc::channel(1);
        let (_view, view) = watch::channel(View { record: record.clone(), gone: false });
        directory.add(&record, Handle { mailbox, view, activity: Arc::default() });
        name.keep();
        assert_eq!(early.await.unwrap().record().id, record.id);
        let name = directory.reserve("other", "id").unwrap();
        let mut never = pin!(directory.arrived("id"));
        assert!(waits(never.as_mut()).await);
        drop(name);
        assert!(never.await.is_none(), "it could not be stored");
    }
}
