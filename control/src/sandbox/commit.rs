//! The owner task's commit: one transaction with the record, the job that ended, the step that follows and what else came about. Only after it is
//! anything published, acknowledged or sent.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use pinfold_proto::control::sandbox::{BackupState, DesiredState, SandboxState};
use pinfold_proto::runner::job::JobKind;

use super::actor::Actor;
use super::effects::Outcome;
use super::plan::{self, Step, wire_state};
use super::{View, upkeep};
use crate::images::Images;
use crate::store::images as image_table;
use crate::store::jobs::{self as job_table, JobRow};
use crate::store::sandboxes::{self as table, Record};
use crate::store::{snapshots as snapshot_table, tokens};
use crate::time::{now, steady_of, wall};
use crate::{events, registries, wire};

impl Actor {
    /// Commits `next`, with the job that ended and the step that follows, and publishes it.
    pub(super) async fn commit(
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
            let unclaimed = job_table::supersede(&mut tx, &job.id).await?;
            if unclaimed && job.kind == JobKind::CreateSandbox {
                next.runner_id = None;
            }
            next.job = None;
        }
        if next.desired == DesiredState::Destroyed
            && let Some(job) = next.backup.job.take()
        {
            job_table::supersede(&mut tx, &job).await?;
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
        let (jobs, left) = upkeep::jobs(&core, &mut next, gone);
        for reference in &left {
            registries::leave(&core, &mut tx, reference).await?;
        }
        for job in jobs {
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
        } else {
            if next != *self.record {
                next.updated_at = at;
            }
            // The row must not go back to what was known when the record was last changed.
            let used = wall(self.activity.load(Ordering::Relaxed));
            next.last_activity_at = next.last_activity_at.max(used);
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
        if !left.is_empty() {
            core.leftovers.notify_one();
        }
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
        if was != is && matches!(is, SandboxState::Error | SandboxState::BuildFailed) {
            // Of a change clients take the state alone, and fail with the reason that they had before. From this event they take the whole sandbox.
            core.events.emit("sandbox.created", dto);
        }
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
}
