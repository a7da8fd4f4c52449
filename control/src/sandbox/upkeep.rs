//! Jobs for the runner: a sandbox's own, and those beside it: its backup, the images that backups leave, and the container that a move leaves. Of the
//! images, those in our own registry are no runner's.

use pinfold_proto::control::sandbox::{BackupState, DesiredState, SandboxState};
use pinfold_proto::runner::job::JobKind;

use super::payload;
use crate::core::Core;
use crate::store::jobs::JobRow;
use crate::store::sandboxes::{IN_REGISTRY, JobRef, Record};
use crate::time::now;
use crate::token;

/// The sandbox's own next job, in the state that comes with it.
pub(super) fn compose(
    core: &Core,
    kind: &JobKind,
    state: SandboxState,
    next: &mut Record,
    runner: &str,
) -> JobRow {
    match kind {
        // A new credential with each start: old preview links and daemon tokens end here.
        JobKind::StartSandbox => next.auth_token = token::dns_label(32),
        // A restore is a start, and a move is none.
        JobKind::CreateSandbox if state == SandboxState::Restoring && !next.task.moving => {
            next.auth_token = token::dns_label(32);
        }
        JobKind::ResizeSandbox | JobKind::SnapshotSandbox if next.state != state => {
            next.task.back = Some(next.state);
        }
        _ => {}
    }
    next.state = state;
    let registries = &core.registries;
    let registry = match kind {
        JobKind::CreateSandbox => registries.of_image(payload::image(next)),
        JobKind::SnapshotSandbox => registries.own(),
        _ => None,
    };
    let payload = payload::compose(kind, next, &core.org_id, registry);
    let job = JobRow::pending(runner, kind.clone(), "SANDBOX", &next.id, payload);
    next.job = Some(JobRef { id: job.id.clone(), kind: kind.clone() });
    job
}

/// What is to be sent with the commit of `r`, which is changed to know of it, and the images in our own registry that it needs no more.
pub(super) fn jobs(core: &Core, r: &mut Record, gone: bool) -> (Vec<JobRow>, Vec<String>) {
    let mut jobs: Vec<JobRow> = backup(core, r).into_iter().collect();
    // Moved, or deleted on the way: what the old runner has goes.
    let moved = !r.task.moving || r.desired == DesiredState::Destroyed;
    if moved && let Some(source) = r.task.source.take() {
        jobs.push(JobRow::pending(&source, JobKind::DestroySandbox, "SANDBOX", &r.id, None));
    }
    // While it is being destroyed, its container may still need what it was restored from.
    let going = r.desired == DesiredState::Destroyed && !gone;
    let current = r.backup_image.clone();
    let superseded = if going { Vec::new() } else { r.backup.superseded(current.as_deref(), gone) };
    let mut left = Vec::new();
    for (runner, reference) in superseded {
        if runner == IN_REGISTRY {
            left.push(reference);
        } else if core.runners.get(&runner).is_some() {
            jobs.push(JobRow::pending(&runner, JobKind::RemoveSnapshot, "SNAPSHOT", &reference, None));
        }
    }
    (jobs, left)
}

fn backup(core: &Core, r: &mut Record) -> Option<JobRow> {
    use SandboxState::{Archiving, Started, Stopped};
    let possible = matches!(r.state, Started | Stopped | Archiving) && r.desired != DesiredState::Destroyed;
    if r.backup.state != BackupState::Pending || r.backup.job.is_some() || !possible {
        return None;
    }
    let runner = r.runner_id.clone()?;
    let reference = core.registries.backup_reference(&r.id, now());
    let registry = core.registries.own();
    let place = if registry.is_some() { IN_REGISTRY } else { &runner };
    r.backup.kept.push((place.to_owned(), reference.clone()));
    r.backup.reference = Some(reference);
    r.backup.state = BackupState::InProgress;
    let payload = payload::compose(&JobKind::CreateBackup, r, &core.org_id, registry);
    let job = JobRow::pending(&runner, JobKind::CreateBackup, "SANDBOX", &r.id, payload);
    r.backup.job = Some(job.id.clone());
    Some(job)
}
