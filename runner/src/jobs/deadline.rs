//! How long a job may take: the control plane counts from its claim, and gives it up without a word.

use std::time::Duration;

use jiff::Timestamp;
use pinfold_proto::runner::job::{Job, JobKind};

/// The control plane gives a job this long (runner contract 3.5); ours ends a little before, with a reason.
pub(super) fn deadline(kind: &JobKind) -> Duration {
    let minutes = |m: u64| Duration::from_secs(m * 60 - 30);
    match kind {
        JobKind::CreateSandbox => minutes(30),
        JobKind::BuildSnapshot | JobKind::PullSnapshot | JobKind::CreateBackup | JobKind::SnapshotSandbox => {
            minutes(120)
        }
        JobKind::InspectSnapshotInRegistry => Duration::from_secs(28),
        _ => minutes(10),
    }
}

/// Less than this is no time to do anything in, and a clock may be wrong.
const SHORTEST: Duration = Duration::from_secs(5);

/// What is left of a job's time, `age` after it was claimed.
pub(super) fn remaining(kind: &JobKind, age: Duration) -> Duration {
    deadline(kind).saturating_sub(age).max(SHORTEST)
}

/// How long ago a job of a listing was claimed: both times are by the control plane's clock, so that ours does not matter. No time, if they do not say or it is in the future.
pub(super) fn age(job: &Job, listed_at: Option<Timestamp>) -> Duration {
    let claimed_at = job.updated_at.as_deref().and_then(|text| text.parse::<Timestamp>().ok());
    let age = listed_at.zip(claimed_at).map(|(now, then)| now.duration_since(then));
    age.and_then(|age| Duration::try_from(age).ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Contract 14.4, row 13: the control plane's own limits (3.5) are never met, so a job that takes too long ends with our reason.
    #[test]
    fn each_deadline_is_before_the_control_planes() {
        for (kind, minutes) in [
            (JobKind::CreateSandbox, 30.0),
            (JobKind::BuildSnapshot, 120.0),
            (JobKind::PullSnapshot, 120.0),
            (JobKind::CreateBackup, 120.0),
            (JobKind::SnapshotSandbox, 120.0),
            (JobKind::StartSandbox, 10.0),
            (JobKind::StopSandbox, 10.0),
            (JobKind::DestroySandbox, 10.0),
            (JobKind::ResizeSandbox, 10.0),
            (JobKind::RecoverSandbox, 10.0),
            (JobKind::UpdateSandboxNetworkSettings, 10.0),
            (JobKind::RemoveSnapshot, 10.0),
            (JobKind::InspectSnapshotInRegistry, 0.5),
        ] {
            let ours = deadline(&kind).as_secs_f64() / 60.0;
            assert!(ours < minutes && ours > minutes * 0.9, "{}: {ours} of {minutes} minutes", kind.as_str());
        }
    }

    /// Contract 3.5: the control plane counts from the claim, which may have been in an earlier life of this process.
    #[test]
    fn what_a_job_waited_is_a_part_of_its_time() {
        let claimed = "2025-01-02T03:04:05.901Z";
        let job = |updated: Option<&str>| -> Job {
            let value = serde_json::json!({"id": "j", "type": "CREATE_SANDBOX", "status": "IN_PROGRESS", "updatedAt": updated});
            serde_json::from_value(value).unwrap()
        };
        let left = |updated: Option<&str>, minutes_later: Option<i64>| {
            let at = claimed.parse::<Timestamp>().unwrap();
            let listed = minutes_later.map(|m| at + jiff::SignedDuration::from_mins(m));
            remaining(&JobKind::CreateSandbox, age(&job(updated), listed))
        };
        let whole = deadline(&JobKind::CreateSandbox);
        assert_eq!(left(Some(claimed), Some(20)), whole - Duration::from_secs(20 * 60));
        assert_eq!(left(Some(claimed), Some(45)), SHORTEST);
        // A time in the future, and times that nobody tells, cost nothing.
        for (updated, later) in
            [(Some(claimed), Some(-20)), (Some(claimed), None), (None, Some(20)), (Some("soon"), Some(20))]
        {
            assert_eq!(left(updated, later), whole, "{updated:?} {later:?}");
        }
    }
}
