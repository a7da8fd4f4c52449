//! The owner task of one sandbox.
//!
//! It alone changes the record. Every change ends in [`Actor::commit`]: one transaction with the record, the job that ended, the job that follows, and
//! what else came about. Only after the commit is anything published, acknowledged or sent. It sleeps until a command, a timer, an image or a runner
//! wakes it.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use pinfold_proto::control::sandbox::{BackupState, DesiredState, SandboxState};
use pinfold_proto::runner::job::{JobKind, JobStatus};
use tokio::sync::{mpsc, oneshot, watch};

use super::effects::{self, Outcome};
use super::plan::{self, Step, wire_state};
use super::wake::{Placing, image_changed, placed, sleep_until};
use super::{Command, Handle, MAILBOX, View, payload, timers, upkeep};
use crate::core::Core;
use crate::images::Images;
use crate::runners::Need;
use crate::store::images::{self as image_table, Image, ImageState};
use crate::store::jobs::{self as job_table, JobRow};
use crate::store::sandboxes::{self as table, Record};
use crate::store::{snapshots as snapshot_table, tokens};
use crate::time::{now, steady, steady_of, wall};
use crate::{events, wire};

/// Longest pause between two tries to destroy.
const DESTROY_RETRY_MAX: Duration = Duration::from_secs(60);

struct Actor {
    core: Arc<Core>,
    record: Arc<Record>,
    view: watch::Sender<View>,
    activity: Arc<AtomicI64>,
    commands: mpsc::Receiver<Command>,
    /// Who waits for the end of a kind of job.
    awaited: Vec<(JobKind, oneshot::Sender<Result<(), String>>)>,
    image: Option<watch::Receiver<Image>>,
    placing: Option<Placing>,
    /// Nothing is sent before this steady time, because destroying just failed.
    hold_until: Option<i64>,
    gone: bool,
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
        hold_until: None,
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
        if resumed && let Err(error) = self.advance().await {
            tracing::warn!(sandbox = self.record.id, %error, "could not resume a sandbox");
        }
        self.look_at_image().await;
        while !self.gone {
            let timer = timers::next(&self.record, self.activity.load(Ordering::Relaxed));
            let wake = timer.map(|(at, _)| at).into_iter().chain(self.hold_until).min();
            tokio::select! {
                command = self.commands.recv() => match command {
                    Some(command) => self.handle(command).await,
                    None => return,
                },
                () = sleep_until(wake) => self.alarm().await,
                () = image_changed(&mut self.image) => self.look_at_image().await,
                runner = placed(&mut self.placing) => self.place(runner).await,
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
                next.backup.kept.extend(effects::written(job).map(|image| (job.runner_id.clone(), image)));
            }
        }
        let failure = outcome.failure.clone();
        self.commit(next, Some(job), outcome).await?;
        if ours {
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
        let waits = next.job.is_some() && next.desired != DesiredState::Destroyed;
        if next == *self.record && (waits || plan::next(&next) == Step::Rest) {
            return Ok(());
        }
        self.commit(next, None, Outcome::default()).await
    }

    async fn alarm(&mut self) {
        self.hold_until = self.hold_until.filter(|at| *at > steady());
        let due = timers::next(&self.record, self.activity.load(Ordering::Relaxed))
            .filter(|(at, _)| *at <= steady());
        let mut next = Record::clone(&self.record);
        if let Some((_, timer)) = due {
            tracing::info!(sandbox = self.record.id, ?timer, "a timer fired");
            let _ = timers::apply(timer, &mut next);
        }
        if let Err(error) = self.commit(next, None, Outcome::default()).await {
            tracing::warn!(sandbox = self.record.id, %error, "could not store what a timer wants");
            self.hold_until = Some(steady() + 5_000);
        }
    }

    /// Commits `next`, with the job that ended and the step that follows, and publishes it.
    async fn commit(
        &mut self,
        mut next: Record,
        finished: Option<&JobRow>,
        outcome: Outcome,
    ) -> Result<(), sqlx::Error> {
        let core = self.core.clone();
        let mut tx = core.store.begin().await?;
        if let Some(job) = finished {
            job_table::update(&mut tx, job).await?;
        }
        if let Some(job) = next.job.clone()
            && next.desired == DesiredState::Destroyed
            && job.kind != JobKind::DestroySandbox
        {
            // Never stuck behind a slow job: take it back, or send the destroy right after it.
            let unclaimed = job_table::cancel(&mut tx, &job.id, "the sandbox was deleted before").await?;
            if unclaimed && job.kind == JobKind::CreateSandbox {
                next.runner_id = None;
            }
            next.job = None;
        }
        if next.desired == DesiredState::Destroyed
            && let Some(job) = next.backup.job.take()
        {
            job_table::cancel(&mut tx, &job, "the sandbox was deleted before").await?;
        }
        let step =
            if next.job.is_none() && self.hold_until.is_none() { plan::next(&next) } else { Step::Rest };
        let (mut sent, mut removed) = (Vec::new(), Vec::new());
        match &step {
            Step::Send(kind, state) => {
                if let Some(runner) = next.runner_id.clone() {
                    let job = upkeep::compose(&core, kind, *state, &mut next, &runner);
                    job_table::insert(&mut tx, &job).await?;
                    sent.push(runner);
                }
            }
            Step::Place if next.state == SandboxState::Archived => next.state = SandboxState::Restoring,
            Step::Backup => {
                if next.desired == DesiredState::Archived {
                    next.state = SandboxState::Archiving;
                }
                if next.backup.state != BackupState::InProgress {
                    next.backup.state = BackupState::Pending;
                }
            }
            _ => {}
        }
        let gone = step == Step::Vanish;
        for job in upkeep::jobs(&core, &mut next, gone) {
            job_table::insert(&mut tx, &job).await?;
            if job.kind == JobKind::RemoveSnapshot {
                image_table::delete(&mut tx, &job.runner_id, &job.resource_id).await?;
                removed.push((job.runner_id.clone(), job.resource_id));
            }
            sent.push(job.runner_id);
        }
        let at = now();
        if next.state != self.record.state || next.desired != self.record.desired {
            next.last_activity_at = at;
            next.updated_at = at;
        } else if next != *self.record {
            next.updated_at = at;
        }
        let image = outcome.image.as_ref().and_then(|(reference, size)| {
            Some(Images::local(self.record.runner_id.as_deref()?, reference, *size))
        });
        if let Some(image) = &image {
            image_table::put(&mut tx, image).await?;
        }
        let snapshot = outcome.snapshot.map(|(name, result)| {
            let pushed = result.reference.as_deref().is_some_and(|name| core.registries.holds(name));
            core.snapshots.made_from(&self.record, name, &result, pushed)
        });
        if let Some(snapshot) = &snapshot {
            snapshot_table::put(&mut tx, snapshot).await?;
        }
        if gone {
            table::delete(&mut tx, &next.id).await?;
            tokens::delete_sandbox(&mut tx, &next.id).await?;
        } else {
            table::put(&mut tx, &next).await?;
        }
        tx.commit().await?;

        if let Some(image) = image {
            core.images.note(image);
        }
        removed.iter().for_each(|(runner, reference)| core.images.forget(runner, reference));
        if let Some(snapshot) = snapshot {
            core.snapshots.note(&core, snapshot);
        }
        self.publish(next, gone);
        sent.iter().for_each(|runner| core.jobs.wake(runner));
        let homeless = self.record.state == SandboxState::Restoring && self.record.job.is_none() && !gone;
        if homeless || (step == Step::Move && self.placing.is_none()) {
            self.find_runner();
        }
        Ok(())
    }

    fn publish(&mut self, next: Record, gone: bool) {
        let old = std::mem::replace(&mut self.record, Arc::new(next));
        let new = self.record.clone();
        if new.last_activity_at != old.last_activity_at {
            self.activity.fetch_max(steady_of(new.last_activity_at), Ordering::Relaxed);
        }
        if gone {
            self.core.directory.remove(&new);
            self.core.tokens.forget_sandbox(&new.id);
            self.gone = true;
        } else {
            self.core.directory.renamed(&old, &new);
        }
        self.view.send_replace(View { record: new.clone(), gone });
        let was = wire_state(old.state, old.desired);
        let is = if gone { SandboxState::Destroyed } else { wire_state(new.state, new.desired) };
        let core = self.core.clone();
        let dto = || {
            let mut dto = wire::sandbox(&core, &new, new.last_activity_at, &core.base_url(None));
            dto.state = is;
            serde_json::to_value(dto).unwrap_or_default()
        };
        if was != is {
            core.events.emit("sandbox.state.updated", || {
                events::changed("sandbox", dto(), "State", was.as_str(), is.as_str())
            });
        }
        if old.desired != new.desired {
            core.events.emit("sandbox.desired-state.updated", || {
                events::changed("sandbox", dto(), "DesiredState", old.desired.as_str(), new.desired.as_str())
            });
        }
        if gone || new.state != old.state {
            core.sandbox_changed(&new, gone);
        }
    }

    /// For a record that waits for its image: asks for it, and goes on when it is there.
    async fn look_at_image(&mut self) {
        use SandboxState::{BuildingSnapshot, PendingBuild, PullingSnapshot};
        if self.gone
            || !matches!(self.record.state, PendingBuild | BuildingSnapshot | PullingSnapshot)
            || self.record.job.is_some()
        {
            self.image = None;
            return;
        }
        let Some(runner) = self.record.runner_id.clone() else {
            if self.placing.is_none() {
                self.find_runner();
            }
            return;
        };
        if self.image.is_none() {
            let recipe = self.core.recipe(&self.record);
            match self.core.images.ensure(&runner, &recipe, &self.core.org_id).await {
                Ok(image) => self.image = Some(image),
                Err(error) => {
                    tracing::warn!(sandbox = self.record.id, %error, "could not ask for an image");
                    self.hold_until = Some(steady() + 1_000);
                    return;
                }
            }
        }
        let Some(image) = self.image.as_mut().map(|image| image.borrow_and_update().clone()) else { return };
        let mut next = Record::clone(&self.record);
        match image.state {
            ImageState::Working if next.state == PendingBuild => next.state = BuildingSnapshot,
            ImageState::Working => return,
            ImageState::Ready => next.state = SandboxState::Creating,
            ImageState::Failed => {
                next.state = SandboxState::BuildFailed;
                next.error_reason = image.error;
            }
        }
        if image.state != ImageState::Working {
            self.image = None;
        }
        if let Err(error) = self.commit(next, None, Outcome::default()).await {
            tracing::warn!(sandbox = self.record.id, %error, "could not store the state of an image");
            self.hold_until = Some(steady() + 1_000);
        }
    }

    fn find_runner(&mut self) {
        let core = self.core.clone();
        let mut need = Need::of(&self.record);
        // A backup without a registry is only where it was made; a build can be made anywhere.
        if self.record.state == SandboxState::Restoring {
            need.only = core.images.only_at(payload::image(&self.record), &core.registries);
        }
        self.placing = Some(Box::pin(async move { core.runners.wait_for(&need).await.id }));
    }

    async fn place(&mut self, runner: String) {
        self.placing = None;
        let mut next = Record::clone(&self.record);
        if next.runner_id.is_none() {
            next.runner_id = Some(runner);
        } else if plan::next(&next) == Step::Move && next.job.is_none() {
            next.task.source = next.runner_id.replace(runner);
            next.state = SandboxState::Restoring;
        }
        if let Err(error) = self.commit(next, None, Outcome::default()).await {
            tracing::warn!(sandbox = self.record.id, %error, "could not store a placement");
            self.find_runner();
        }
        self.look_at_image().await;
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
