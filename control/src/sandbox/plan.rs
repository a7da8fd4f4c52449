//! What to do next for a sandbox: a pure function of its record.
//!
//! It is asked after every change, with no job under way, and its answer is committed in the same transaction. Delete wins over everything, and what
//! was asked for in the middle of an operation is done after it.

use pinfold_proto::control::sandbox::{BackupState, DesiredState, SandboxState};
use pinfold_proto::runner::job::JobKind;

use crate::store::sandboxes::Record;

/// The next step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// Nothing: it is what it shall be, or needs a user's decision.
    Rest,
    /// Wait for the image.
    Image,
    /// Find a runner, then restore.
    Place,
    /// Back up first.
    Backup,
    /// Find another runner, then restore there.
    Move,
    /// Send this job, in this state.
    Send(JobKind, SandboxState),
    /// It is gone: remove the row.
    Vanish,
}

/// Which step is next.
pub(crate) fn next(r: &Record) -> Step {
    use SandboxState as S;
    match r.desired {
        DesiredState::Destroyed => match (r.state, &r.runner_id) {
            (
                S::Destroyed
                | S::Archived
                | S::PendingBuild
                | S::BuildingSnapshot
                | S::PullingSnapshot
                | S::BuildFailed,
                _,
            )
            | (_, None) => Step::Vanish,
            // The runner may be in the middle of anything; it copes.
            _ => Step::Send(JobKind::DestroySandbox, S::Destroying),
        },
        DesiredState::Started => match r.state {
            S::Started => in_place(r),
            S::Stopped => match in_place(r) {
                Step::Rest => Step::Send(JobKind::StartSandbox, S::Starting),
                first => first,
            },
            S::Starting | S::Stopping | S::Archiving => Step::Send(JobKind::StartSandbox, S::Starting),
            S::Creating | S::Unknown => Step::Send(JobKind::CreateSandbox, S::Creating),
            S::PendingBuild | S::BuildingSnapshot | S::PullingSnapshot => Step::Image,
            S::Archived => Step::Place,
            S::Restoring => Step::Send(JobKind::CreateSandbox, S::Restoring),
            S::Resizing => Step::Send(JobKind::ResizeSandbox, S::Resizing),
            S::Snapshotting => Step::Send(JobKind::SnapshotSandbox, S::Snapshotting),
            S::Error if r.task.recover.is_some() => Step::Send(JobKind::RecoverSandbox, S::Error),
            _ => Step::Rest,
        },
        DesiredState::Stopped => match r.state {
            S::Started | S::Starting | S::Stopping => Step::Send(JobKind::StopSandbox, S::Stopping),
            S::Stopped => match (in_place(r), r.backup.state) {
                (Step::Rest, BackupState::None) if r.task.moving => Step::Backup,
                (Step::Rest, BackupState::Completed) if r.task.moving => Step::Move,
                (step, _) => step,
            },
            S::Creating | S::Unknown => Step::Send(JobKind::CreateSandbox, S::Creating),
            S::PendingBuild | S::BuildingSnapshot | S::PullingSnapshot => Step::Image,
            S::Restoring => Step::Send(JobKind::CreateSandbox, S::Restoring),
            S::Resizing => Step::Send(JobKind::ResizeSandbox, S::Resizing),
            S::Snapshotting => Step::Send(JobKind::SnapshotSandbox, S::Snapshotting),
            S::Error if r.task.recover.is_some() => Step::Send(JobKind::RecoverSandbox, S::Error),
            _ => Step::Rest,
        },
        DesiredState::Archived => match r.state {
            S::Started | S::Starting | S::Stopping => Step::Send(JobKind::StopSandbox, S::Stopping),
            S::Stopped | S::Archiving if r.backup.state == BackupState::Completed => {
                Step::Send(JobKind::DestroySandbox, S::Archiving)
            }
            S::Stopped | S::Archiving => Step::Backup,
            _ => Step::Rest,
        },
    }
}

/// What can be done without a change of state.
fn in_place(r: &Record) -> Step {
    if r.task.resize.is_some() {
        Step::Send(JobKind::ResizeSandbox, SandboxState::Resizing)
    } else if r.task.snapshot.is_some() {
        Step::Send(JobKind::SnapshotSandbox, SandboxState::Snapshotting)
    } else if r.task.network && !r.task.network_held {
        Step::Send(JobKind::UpdateSandboxNetworkSettings, r.state)
    } else {
        Step::Rest
    }
}

/// The state that clients see: what was asked for shows before the runner acts (control-plane contract 7).
pub(crate) fn wire_state(state: SandboxState, desired: DesiredState) -> SandboxState {
    use SandboxState as S;
    match (state, desired) {
        (S::Destroyed, _) => S::Destroyed,
        (_, DesiredState::Destroyed) => S::Destroying,
        (S::Started, DesiredState::Stopped) => S::Stopping,
        (S::Stopped, DesiredState::Started) => S::Starting,
        (S::Stopped, DesiredState::Archived) => S::Archiving,
        (S::Archived, DesiredState::Started) => S::Restoring,
        (S::Unknown, DesiredState::Started) => S::Creating,
        (state, _) => state,
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn record(state: SandboxState, desired: DesiredState) -> Record {
        Record {
            id: "4ba13fa7-1073-45b9-9214-662369d64cde".to_owned(),
            name: "box".to_owned(),
            region: "us".to_owned(),
            runner_id: Some("runner".to_owned()),
            snapshot: Some("default".to_owned()),
            image: "image:1".to_owned(),
            entrypoint: None,
            build_ref: None,
            os_user: "daytona".to_owned(),
            env: Default::default(),
            late_env: false,
            labels: Default::default(),
            volumes: Vec::new(),
            public: false,
            network_block_all: false,
            network_allow_list: None,
            domain_allow_list: None,
            cpu: 1,
            gpu: 0,
            gpu_type: None,
            memory: 1,
            disk: 3,
            state,
            desired,
            error_reason: None,
            recoverable: false,
            job: None,
            task: Default::default(),
            backup_image: None,
            backup_at: None,
            backup: Default::default(),
            auto_stop: 15,
            auto_archive: 10_080,
            auto_delete: -1,
            destroy_at: None,
            auth_token: "token".to_owned(),
            signing_key: None,
            linked_sandbox_id: None,
            warm_pool_id: None,
            daemon_version: None,
            created_at: 0,
            updated_at: 0,
            last_activity_at: 0,
        }
    }

    #[test]
    fn delete_wins_in_every_state() {
        use SandboxState as S;
        for state in
            [S::Creating, S::Started, S::Stopping, S::Error, S::Resizing, S::Snapshotting, S::Restoring]
        {
            let step = next(&record(state, DesiredState::Destroyed));
            assert_eq!(step, Step::Send(JobKind::DestroySandbox, S::Destroying), "{state}");
        }
        for state in [S::Archived, S::PendingBuild, S::BuildFailed] {
            assert_eq!(next(&record(state, DesiredState::Destroyed)), Step::Vanish, "{state}");
        }
    }

    #[test]
    fn what_was_asked_meanwhile_is_done_next() {
        use SandboxState as S;
        let stop = Step::Send(JobKind::StopSandbox, S::Stopping);
        assert_eq!(next(&record(S::Started, DesiredState::Stopped)), stop);
        let mut r = record(S::Started, DesiredState::Started);
        assert_eq!(next(&r), Step::Rest);
        r.task.network = true;
        assert_eq!(next(&r), Step::Send(JobKind::UpdateSandboxNetworkSettings, S::Started));
    }

    #[test]
    fn archiving_is_a_backup_and_then_a_destroy() {
        use SandboxState as S;
        let mut r = record(S::Stopped, DesiredState::Archived);
        assert_eq!(next(&r), Step::Backup);
        r.backup.state = BackupState::Completed;
        assert_eq!(next(&r), Step::Send(JobKind::DestroySandbox, S::Archiving));
        assert_eq!(next(&record(S::Archived, DesiredState::Started)), Step::Place);
    }

    #[test]
    fn a_stopped_sandbox_leaves_a_drained_runner_by_its_backup() {
        let mut r = record(SandboxState::Stopped, DesiredState::Stopped);
        r.task.moving = true;
        assert_eq!(next(&r), Step::Backup);
        r.backup.state = BackupState::InProgress;
        assert_eq!(next(&r), Step::Rest);
        r.backup.state = BackupState::Completed;
        assert_eq!(next(&r), Step::Move);
    }
}
