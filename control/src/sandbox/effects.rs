//! What the end of a job means for a sandbox's record: pure, and independent of what the user wants by now — the plan looks at that afterwards.

use pinfold_proto::control::sandbox::{BackupState, DesiredState, SandboxState};
use pinfold_proto::runner::job::{JobKind, JobStatus};
use pinfold_proto::runner::payload::{CreateBackup, SandboxSnapshot, Started};
use pinfold_proto::runner::recovery::Recoverable;

use super::payload;
use crate::store::jobs::JobRow;
use crate::store::sandboxes::{IN_REGISTRY, Record, Task};
use crate::time::now;

/// What else has to be stored with the record.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Outcome {
    /// A snapshot of this name came about.
    pub(crate) snapshot: Option<(String, SandboxSnapshot)>,
    /// An image came about at the runner.
    pub(crate) image: Option<(String, f64)>,
    /// Why an operation that leaves the sandbox as it was did not work.
    pub(crate) failure: Option<String>,
}

/// Applies the end of `job`, which is the record's own.
pub(crate) fn apply(r: &mut Record, job: &JobRow) -> Outcome {
    let done = job.status == JobStatus::Completed;
    let (reason, recoverable) = reason(job);
    let mut outcome = Outcome { failure: (!done).then(|| reason.clone()), ..Outcome::default() };
    let fail = |r: &mut Record| {
        r.state = SandboxState::Error;
        r.error_reason = Some(reason.clone());
        r.recoverable = recoverable;
    };
    match (&job.kind, done) {
        (JobKind::CreateSandbox | JobKind::StartSandbox, true) => {
            started(r, job);
        }
        (JobKind::CreateSandbox, false) if r.state == SandboxState::Restoring && r.task.moving => {
            // The old runner still has it.
            r.runner_id = r.task.source.take();
            r.state = SandboxState::Stopped;
            r.task.moving = false;
            r.error_reason = Some(format!("could not move to another runner: {reason}"));
        }
        (JobKind::CreateSandbox, false) if r.state == SandboxState::Restoring => {
            // The archive still has it: nothing is lost, and the start can be tried again. Clients that wait for the start end on this state alone.
            fail(r);
            r.recoverable = true;
            r.runner_id = None;
        }
        (JobKind::StopSandbox, true) => {
            r.state = SandboxState::Stopped;
            r.task.force = None;
            renewed(r);
            r.clear_error();
        }
        (JobKind::DestroySandbox, true) => {
            let archived = r.state == SandboxState::Archiving && r.backup_image.is_some();
            r.state = if archived { SandboxState::Archived } else { SandboxState::Destroyed };
            r.runner_id = None;
            r.backup.base = None;
            r.daemon_version = None;
        }
        (JobKind::DestroySandbox, false) => {
            // Tried again later; the plan sees the same state.
            r.task.destroy_failures += 1;
            r.error_reason = Some(reason.clone());
        }
        (JobKind::ResizeSandbox, _) => resized(r, done),
        (JobKind::SnapshotSandbox, _) => outcome = snapshotted(r, job, done, outcome),
        (JobKind::UpdateSandboxNetworkSettings, _) => {
            // What was changed since it was sent is still to be sent.
            let current = job.payload == payload::compose(&job.kind, r, "", None);
            r.task.network &= !(done && current);
            r.task.network_held = r.task.network && current;
        }
        (JobKind::RecoverSandbox, true) => {
            r.state = SandboxState::Stopped;
            r.desired =
                if r.task.recover == Some(true) { DesiredState::Stopped } else { DesiredState::Started };
            r.task.recover = None;
            renewed(r);
            r.clear_error();
        }
        (JobKind::RecoverSandbox, false) => {
            r.task.recover = None;
            fail(r);
        }
        (_, false) => {
            r.task = Task { network: r.task.network, ..Task::default() };
            fail(r);
        }
        (_, true) => {}
    }
    outcome
}

/// What was backed up is not what there is any more.
pub(crate) fn renewed(r: &mut Record) {
    r.backup_image = None;
    r.backup.reset();
}

/// The image that a backup's job was to write, and in whose store: a runner's, or [`IN_REGISTRY`].
pub(crate) fn written(job: &JobRow) -> Option<(String, String)> {
    let asked: CreateBackup = serde_json::from_str(job.payload.as_deref()?).ok()?;
    let place = if asked.registry.is_some() { IN_REGISTRY } else { &job.runner_id };
    Some((place.to_owned(), asked.snapshot))
}

/// Applies the end of the backup's own job. Returns the image that came about in the runner's own store.
pub(crate) fn backed_up(r: &mut Record, job: &JobRow) -> Option<(String, f64)> {
    r.backup.job = None;
    if job.status == JobStatus::Completed {
        r.backup.state = BackupState::Completed;
        r.backup.error = None;
        r.backup_image = r.backup.reference.clone();
        r.backup_at = Some(now());
        let local = written(job).filter(|(place, _)| place != IN_REGISTRY);
        return local.map(|(_, image)| (image, 0.0));
    }
    let (why, _) = reason(job);
    r.backup.state = BackupState::Error;
    r.backup.error = Some(why.clone());
    if r.state == SandboxState::Archiving {
        r.state = SandboxState::Stopped;
        if r.desired == DesiredState::Archived {
            r.desired = DesiredState::Stopped;
        }
        r.error_reason = Some(format!("could not archive: {why}"));
    } else if std::mem::take(&mut r.task.moving) {
        r.error_reason = Some(format!("could not leave the runner that is drained: {why}"));
    }
    None
}

fn started(r: &mut Record, job: &JobRow) {
    let result: Started =
        job.result_metadata.as_deref().and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
    if r.state == SandboxState::Restoring {
        r.backup.base.clone_from(&r.backup_image);
        // The new container was made with it.
        r.late_env = false;
    }
    // Moved, it is as it was: stopped.
    let moved = std::mem::take(&mut r.task.moving) && r.state == SandboxState::Restoring;
    r.state = if moved { SandboxState::Stopped } else { SandboxState::Started };
    if !result.daemon_version.is_empty() {
        r.daemon_version = Some(result.daemon_version);
    }
    if !moved {
        renewed(r);
    }
    // Tried once more, now that it runs.
    r.task.network_held = false;
    r.clear_error();
}

fn resized(r: &mut Record, done: bool) {
    if let (true, Some(to)) = (done, r.task.resize) {
        r.cpu = to.cpu.unwrap_or(r.cpu);
        r.memory = to.memory.unwrap_or(r.memory);
        r.disk = to.disk.unwrap_or(r.disk);
    }
    r.task.resize = None;
    r.state = r.task.back.take().unwrap_or(SandboxState::Stopped);
}

fn snapshotted(r: &mut Record, job: &JobRow, done: bool, mut outcome: Outcome) -> Outcome {
    let result: SandboxSnapshot =
        job.result_metadata.as_deref().and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
    let reference = result.reference.clone().unwrap_or_else(|| format!("daytona-{}:daytona", result.hash));
    if done {
        outcome.image = Some((reference.clone(), result.size_gb));
        r.clear_error();
    }
    if let Some(why) = &outcome.failure {
        // Clients wait for the sandbox alone, and it goes on as it was: this is where they can look.
        r.error_reason = Some(format!("could not make a snapshot: {why}"));
    }
    r.state = r.task.back.take().unwrap_or(SandboxState::Stopped);
    if let (Some(name), true) = (r.task.snapshot.take(), done) {
        outcome.snapshot = Some((name, SandboxSnapshot { reference: Some(reference), ..result }));
    }
    outcome
}

/// The reason of a failed job: a JSON object says whether it can be recovered from, anything else is the reason itself.
fn reason(job: &JobRow) -> (String, bool) {
    let text = job.error_message.as_deref().map(str::trim).filter(|text| !text.is_empty());
    let Some(text) = text else {
        return (format!("{} failed without a reason (job {})", job.kind.as_str(), job.id), false);
    };
    match serde_json::from_str::<Recoverable>(text) {
        Ok(parsed) => (parsed.error_reason, parsed.recoverable),
        Err(_) => (text.to_owned(), false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::plan::tests::record;
    use crate::sandbox::plan::{self, Step};

    fn job(kind: JobKind, status: JobStatus) -> JobRow {
        JobRow { status, ..JobRow::pending("runner", kind, "SANDBOX", "id", None) }
    }

    #[test]
    fn a_finished_create_starts_even_without_a_result() {
        let mut r = record(SandboxState::Creating, DesiredState::Started);
        apply(&mut r, &job(JobKind::CreateSandbox, JobStatus::Completed));
        assert_eq!(r.state, SandboxState::Started);
    }

    #[test]
    fn a_failure_always_has_a_reason() {
        let mut r = record(SandboxState::Creating, DesiredState::Started);
        apply(&mut r, &job(JobKind::CreateSandbox, JobStatus::Failed));
        assert_eq!(r.state, SandboxState::Error);
        assert!(r.error_reason.unwrap().contains("CREATE_SANDBOX"));
        let mut r = record(SandboxState::Starting, DesiredState::Started);
        let text = r#"{"errorReason":"no space left on device","recoverable":true}"#.to_owned();
        apply(&mut r, &JobRow { error_message: Some(text), ..job(JobKind::StartSandbox, JobStatus::Failed) });
        assert_eq!((r.error_reason.as_deref(), r.recoverable), (Some("no space left on device"), true));
    }

    #[test]
    fn a_failed_resize_changes_nothing() {
        let mut r = record(SandboxState::Resizing, DesiredState::Started);
        r.task.resize = Some(crate::store::sandboxes::Resize { cpu: Some(4), memory: None, disk: None });
        r.task.back = Some(SandboxState::Started);
        let outcome = apply(&mut r, &job(JobKind::ResizeSandbox, JobStatus::Failed));
        assert_eq!((r.state, r.cpu, r.task.resize), (SandboxState::Started, 1, None));
        assert!(outcome.failure.is_some());
    }

    #[test]
    fn a_policy_is_in_force_when_the_job_that_carries_it_has_ended() {
        let sent = |r: &Record, status| {
            let kind = JobKind::UpdateSandboxNetworkSettings;
            JobRow { payload: payload::compose(&kind, r, "", None), ..job(kind, status) }
        };
        let mut r = record(SandboxState::Started, DesiredState::Started);
        r.network_allow_list = Some("10.0.0.0/8".to_owned());
        r.task.network = true;
        let again = plan::next(&r);
        for status in [JobStatus::Completed, JobStatus::Failed] {
            let first = sent(&r, status);
            r.network_block_all = !r.network_block_all;
            apply(&mut r, &first);
            assert_eq!((r.task.network, plan::next(&r)), (true, again.clone()), "changed meanwhile");
        }
        let second = sent(&r, JobStatus::Failed);
        apply(&mut r, &second);
        assert_eq!((r.task.network, plan::next(&r)), (true, Step::Rest), "not at once");
        r.state = SandboxState::Starting;
        apply(&mut r, &job(JobKind::StartSandbox, JobStatus::Completed));
        assert_eq!(plan::next(&r), again);
        let third = sent(&r, JobStatus::Completed);
        apply(&mut r, &third);
        assert!(!r.task.network && !r.task.network_held);
    }

    #[test]
    fn a_failed_snapshot_is_told_until_one_is_made() {
        let snapshotting = |r: &mut Record| {
            r.state = SandboxState::Snapshotting;
            r.task.back = Some(SandboxState::Started);
            r.task.snapshot = Some("kept".to_owned());
        };
        let mut r = record(SandboxState::Started, DesiredState::Started);
        snapshotting(&mut r);
        let why = Some("no space left on device".to_owned());
        let failed = JobRow { error_message: why, ..job(JobKind::SnapshotSandbox, JobStatus::Failed) };
        assert_eq!(apply(&mut r, &failed).snapshot, None);
        assert_eq!(r.state, SandboxState::Started);
        assert_eq!(r.error_reason.as_deref(), Some("could not make a snapshot: no space left on device"));
        snapshotting(&mut r);
        assert!(apply(&mut r, &job(JobKind::SnapshotSandbox, JobStatus::Completed)).snapshot.is_some());
        assert_eq!((r.state, r.error_reason), (SandboxState::Started, None));
    }

    #[test]
    fn a_backup_is_of_what_there_is_now() {
        let mut r = record(SandboxState::Archiving, DesiredState::Archived);
        r.backup.job = Some("j".to_owned());
        r.backup.reference = Some("backup-1".to_owned());
        backed_up(&mut r, &job(JobKind::CreateBackup, JobStatus::Completed));
        assert_eq!((r.backup.state, r.backup_image.as_deref()), (BackupState::Completed, Some("backup-1")));
        apply(&mut r, &job(JobKind::DestroySandbox, JobStatus::Completed));
        assert_eq!((r.state, r.runner_id.as_deref()), (SandboxState::Archived, None));
        r.state = SandboxState::Restoring;
        apply(&mut r, &job(JobKind::CreateSandbox, JobStatus::Completed));
        assert_eq!(
            (r.state, r.backup.state, r.backup_image.as_deref()),
            (SandboxState::Started, BackupState::None, None)
        );
        assert_eq!(r.backup.base.as_deref(), Some("backup-1"));
    }

    #[test]
    fn what_was_recovered_is_not_what_was_backed_up() {
        let mut r = record(SandboxState::Error, DesiredState::Started);
        (r.backup.state, r.backup_image) = (BackupState::Completed, Some("backup-1".to_owned()));
        r.task.recover = Some(true);
        apply(&mut r, &job(JobKind::RecoverSandbox, JobStatus::Completed));
        assert_eq!(
            (r.state, r.backup.state, &r.backup_image),
            (SandboxState::Stopped, BackupState::None, &None)
        );
        r.desired = DesiredState::Archived;
        assert_eq!(plan::next(&r), Step::Backup);
    }

    #[test]
    fn a_failed_backup_ends_the_archiving() {
        let mut r = record(SandboxState::Archiving, DesiredState::Archived);
        backed_up(&mut r, &job(JobKind::CreateBackup, JobStatus::Failed));
        assert_eq!(
            (r.state, r.desired, r.backup.state),
            (SandboxState::Stopped, DesiredState::Stopped, BackupState::Error)
        );
        assert!(r.error_reason.unwrap().contains("could not archive"));
    }

    #[test]
    fn a_failed_move_leaves_it_where_it_was() {
        let mut r = record(SandboxState::Restoring, DesiredState::Stopped);
        (r.task.moving, r.task.source, r.runner_id) = (true, Some("old".to_owned()), Some("new".to_owned()));
        apply(&mut r, &job(JobKind::CreateSandbox, JobStatus::Failed));
        assert_eq!(
            (r.state, r.runner_id.as_deref(), r.task.moving),
            (SandboxState::Stopped, Some("old"), false)
        );
    }

    #[test]
    fn a_failed_restore_leaves_the_archive() {
        let mut r = record(SandboxState::Restoring, DesiredState::Started);
        r.backup_image = Some("backup".to_owned());
        apply(&mut r, &job(JobKind::CreateSandbox, JobStatus::Failed));
        assert_eq!((r.state, r.recoverable, &r.runner_id), (SandboxState::Error, true, &None));
        assert!(r.in_archive() && r.error_reason.is_some());
        assert_eq!(plan::next(&r), Step::Rest);
        r.desired = DesiredState::Destroyed;
        assert_eq!(plan::next(&r), Step::Vanish);
    }
}
