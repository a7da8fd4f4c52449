//! The owner task of one sandbox.
//!
//! It alone changes the record. Every change ends in [`Actor::commit`] (`commit`); what it waits for before there is a container is in `placing`. It sleeps
//! until a command, a timer, an image or a runner wakes it.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use pinfold_proto::control::sandbox::{BackupState, DesiredState};
use pinfold_proto::runner::job::{JobKind, JobStatus};
use tokio::sync::{mpsc, oneshot, watch};

use super::effects::{self, Outcome};
use super::plan::{self, Step};
use super::timers::Timer;
use super::wake::{Asking, Placing, answered, image_changed, placed, sleep_until};
use super::{Command, Handle, MAILBOX, View, timers};
use crate::core::Core;
use crate::store::images::Image;
use crate::store::jobs::{self as job_table, JobRow};
use crate::store::sandboxes::{self as table, Record};
use crate::time::{steady, steady_of, wall};
use crate::wire;

/// Longest pause between two tries to destroy.
const DESTROY_RETRY_MAX: Duration = Duration::from_secs(60);
/// How long after a failed write what was left undone at our end is tried again.
const RESUME_PAUSE: Duration = Duration::from_secs(1);
/// When a network policy that its runner could not apply is sent again, in milliseconds.
const POLICY_PAUSE: i64 = 30_000;

pub(super) struct Actor {
    pub(super) core: Arc<Core>,
    pub(super) record: Arc<Record>,
    pub(super) view: watch::Sender<View>,
    pub(super) activity: Arc<AtomicI64>,
    pub(super) commands: mpsc::Receiver<Command>,
    /// Who waits for the end of a kind of job.
    pub(super) awaited: Vec<(JobKind, oneshot::Sender<Result<(), String>>)>,
    pub(super) image: Option<watch::Receiver<Image>>,
    pub(super) placing: Option<Placing>,
    /// Whether it is busy, asked when it would be stopped for idleness.
    asking: Option<Asking>,
    /// Nothing is sent before this steady time, because destroying just failed.
    pub(super) hold_until: Option<i64>,
    /// When, on the steady clock, the network policy is sent again that could not be applied.
    policy_at: Option<i64>,
    pub(super) gone: bool,
}

fn build(core: &Arc<Core>, record: Record) -> (Actor, Handle) {
    let (mailbox, commands) = mpsc::channel(MAILBOX);
    let record = Arc::new(record);
    let activity = Arc::new(AtomicI64::new(steady_of(record.last_activity_at).min(steady())));
    let view = watch::Sender::new(View { record: record.clone(), gone: false });
    let handle = Handle { mailbox, view: view.subscribe(), activity: activity.clone() };
    let actor = Actor {
        core: core.clone(),
        record,
        view,
        activity,
        commands,
        awaited: Vec::new(),
        image: None,
        placing: None,
        asking: None,
        hold_until: None,
        policy_at: None,
        gone: false,
    };
    (actor, handle)
}

/// Commits the row and its first job, then runs.
pub(super) async fn spawn_new(core: &Arc<Core>, record: Record) -> Result<Handle, sqlx::Error> {
    let (mut actor, handle) = build(core, record);
    let first = Record::clone(&actor.record);
    actor.commit(first, None, Outcome::default()).await?;
    core.directory.add(&actor.record, handle.clone());
    let dto = || wire::sandbox(core, &actor.record, actor.record.last_activity_at, &core.base_url(None));
    core.events.emit("sandbox.created", || serde_json::to_value(dto()).unwrap_or_default());
    core.tasks.spawn(actor.run(false));
    Ok(handle)
}

/// Runs the owner task of a row that was there before, and does first what was left undone.
pub(super) fn spawn_stored(core: &Arc<Core>, record: Record) {
    let (actor, handle) = build(core, record);
    core.directory.add(&actor.record, handle);
    core.tasks.spawn(actor.run(true));
}

impl Actor {
    async fn run(mut self, resumed: bool) {
        while resumed && let Err(error) = self.advance().await {
            tracing::warn!(sandbox = self.record.id, %error, "could not resume a sandbox; trying again");
            tokio::select! {
                () = tokio::time::sleep(RESUME_PAUSE) => {}
                () = self.core.stop.cancelled() => break,
            }
        }
        self.look_at_image().await;
        while !self.gone {
            let timer = self.timer().map(|(at, _)| at);
            let wake = timer.into_iter().chain(self.hold_until).chain(self.policy_at).min();
            tokio::select! {
                command = self.commands.recv() => match command {
                    Some(command) => self.handle(command).await,
                    None => return,
                },
                () = sleep_until(wake) => {
                    self.alarm().await;
                    // It may be the image that could not be asked for, or told of.
                    self.look_at_image().await;
                }
                () = image_changed(&mut self.image) => self.look_at_image().await,
                runner = placed(&mut self.placing) => self.place(runner).await,
                busy = answered(&mut self.asking) => self.looked(busy).await,
                () = self.core.stop.cancelled() => break,
            }
        }
        self.flush_activity().await;
    }

    async fn handle(&mut self, command: Command) {
        match command {
            Command::Change(change, reply) => {
                let mut next = Record::clone(&self.record);
                let result = match change(&mut next) {
                    Ok(()) => self
                        .commit(next, None, Outcome::default())
                        .await
                        .map(|()| self.record.clone())
                        .map_err(crate::api::store_failed),
                    Err(refused) => Err(refused),
                };
                // A caller that went away does not undo the change.
                let _ = reply.send(result);
                self.look_at_image().await;
            }
            Command::Finished(job, reply) => {
                let result = self.finish(&job).await;
                let _ = reply.send(result);
                self.look_at_image().await;
            }
            Command::Await(kind, reply) => {
                self.awaited.retain(|(_, waiting)| !waiting.is_closed());
                self.awaited.push((kind, reply));
            }
        }
    }

    async fn finish(&mut self, job: &JobRow) -> Result<(), sqlx::Error> {
        let mut next = Record::clone(&self.record);
        let ours = next.job.as_ref().is_some_and(|current| current.id == job.id);
        let mut outcome = Outcome::default();
        if ours {
            next.job = None;
            outcome = effects::apply(&mut next, job);
            if job.kind == JobKind::DestroySandbox && job.status == JobStatus::Failed {
                self.hold_until = Some(steady() + destroy_pause(next.task.destroy_failures));
            }
        }
        if job.kind == JobKind::CreateBackup {
            if next.backup.job.as_ref() == Some(&job.id) {
                outcome.image = effects::backed_up(&mut next, job);
            } else if job.status == JobStatus::Completed {
                // Too late to be of use.
                next.backup.kept.extend(effects::written(job));
            }
        }
        let failure = outcome.failure.clone();
        self.commit(next, Some(job), outcome).await?;
        let policy = ours && job.kind == JobKind::UpdateSandboxNetworkSettings;
        if policy && self.record.task.network_held {
            self.policy_at = Some(steady() + POLICY_PAUSE);
        }
        // Changed while the job was under way, the policy is not in force before another has ended.
        let in_force = !policy || !self.record.task.network || self.record.task.network_held;
        if ours && in_force {
            let (told, kept) =
                std::mem::take(&mut self.awaited).into_iter().partition(|(kind, _)| *kind == job.kind);
            self.awaited = kept;
            let told: Vec<(JobKind, oneshot::Sender<Result<(), String>>)> = told;
            for (_, reply) in told {
                let _ = reply.send(failure.clone().map_or(Ok(()), Err));
            }
        }
        Ok(())
    }

    /// Does what the plan says, without a change of anyone's.
    async fn advance(&mut self) -> Result<(), sqlx::Error> {
        let mut next = Record::clone(&self.record);
        if let Some(job) = &next.job
            && !job_table::get(self.core.store.read(), &job.id)
                .await?
                .is_some_and(|row| matches!(row.status, JobStatus::Pending | JobStatus::InProgress))
        {
            next.job = None;
        }
        if let Some(job) = &next.backup.job
            && !job_table::get(self.core.store.read(), job)
                .await?
                .is_some_and(|row| matches!(row.status, JobStatus::Pending | JobStatus::InProgress))
        {
            next.backup.job = None;
            next.backup.state = BackupState::Pending;
        }
        next.task.network_held = false;
        let waits = next.job.is_some() && next.desired != DesiredState::Destroyed;
        if next == *self.record && (waits || plan::next(&next) == Step::Rest) {
            return Ok(());
        }
        self.commit(next, None, Outcome::default()).await
    }

    /// The next timer. While it is asked whether it is busy, being idle is nothing to wake up for.
    fn timer(&self) -> Option<(i64, Timer)> {
        let next = timers::next(&self.record, self.activity.load(Ordering::Relaxed));
        next.filter(|(_, timer)| self.asking.is_none() || *timer != Timer::Stop)
    }

    fn due(&self) -> Option<Timer> {
        self.timer().filter(|(at, _)| *at <= steady()).map(|(_, timer)| timer)
    }

    async fn alarm(&mut self) {
        let due = self.due();
        if due == Some(Timer::Stop) && self.core.config.busy_is_active {
            let (core, record) = (self.core.clone(), self.record.clone());
            self.asking = Some(Box::pin(async move { core.is_busy(&record).await }));
            return;
        }
        let held = self.hold_until.take_if(|at| *at <= steady()).is_some();
        let policy = self.policy_at.is_some_and(|at| at <= steady());
        // Else it was used since we began to wait, and we wait on.
        if held || policy || due.is_some() {
            self.fire(due).await;
        }
    }

    /// It was asked whether it is busy. What happened meanwhile counts as well.
    async fn looked(&mut self, busy: bool) {
        self.asking = None;
        if busy && let Some(handle) = self.core.directory.find(&self.record.id) {
            self.core.touch(&handle);
        }
        let due = self.due();
        if due.is_some() {
            self.fire(due).await;
        }
    }

    async fn fire(&mut self, due: Option<Timer>) {
        let mut next = Record::clone(&self.record);
        if let Some(timer) = due {
            tracing::info!(sandbox = self.record.id, ?timer, "a timer fired");
            let _ = timers::apply(timer, &mut next);
        }
        if self.policy_at.take_if(|at| *at <= steady()).is_some() {
            next.task.network_held = false;
        }
        if let Err(error) = self.commit(next, None, Outcome::default()).await {
            tracing::warn!(sandbox = self.record.id, %error, "could not store what a timer wants");
            self.hold_until = Some(steady() + 5_000);
            self.policy_at = self.record.task.network_held.then(|| steady() + 5_000);
        }
    }

    async fn flush_activity(&mut self) {
        let at = wall(self.activity.load(Ordering::Relaxed));
        if !self.gone && at > self.record.last_activity_at {
            let flushed = async {
                let mut tx = self.core.store.begin().await?;
                table::touch(&mut tx, &self.record.id, at).await?;
                tx.commit().await
            };
            if let Err(error) = flushed.await {
                tracing::warn!(sandbox = self.record.id, %error, "could not store the last activity");
            }
        }
    }
}

/// 1 s, 2 s, 4 s … up to [`DESTROY_RETRY_MAX`], in milliseconds.
fn destroy_pause(failures: u32) -> i64 {
    let seconds = 1u64 << failures.saturating_sub(1).min(6);
    i64::try_from(seconds.min(DESTROY_RETRY_MAX.as_secs()) * 1000).unwrap_or(60_000)
}

impl Drop for Actor {
    fn drop(&mut self) {
        for (_, reply) in self.awaited.drain(..) {
            let _ = reply.send(Err("the sandbox is gone".to_owned()));
        }
    }
}
