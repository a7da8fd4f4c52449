//! When a sandbox is to be stopped, archived or destroyed by itself (control-plane contract 10).

use pinfold_http::ApiResult;
use pinfold_proto::control::sandbox::{DesiredState, SandboxState};

use crate::store::sandboxes::Record;
use crate::time::steady_of;

const MINUTE_MS: i64 = 60_000;

/// What happens by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Timer {
    Stop,
    Archive,
    Destroy,
}

/// The earliest timer and when it fires. Both times are steady ones: idle is idle, whatever the wall clock is set to.
pub(crate) fn next(r: &Record, last_activity: i64) -> Option<(i64, Timer)> {
    if r.desired == DesiredState::Destroyed || r.warm_pool_id.is_some() {
        return None;
    }
    let after = |minutes: i64| last_activity.saturating_add(minutes.saturating_mul(MINUTE_MS));
    let ttl = r.destroy_at.map(|at| (steady_of(at), Timer::Destroy));
    let idle = match (r.state, r.desired) {
        (SandboxState::Started, DesiredState::Started) if r.auto_stop > 0 && r.job.is_none() => {
            Some((after(r.auto_stop), Timer::Stop))
        }
        (SandboxState::Stopped, DesiredState::Stopped) if r.job.is_none() => {
            let delete = (r.auto_delete >= 0).then(|| (after(r.auto_delete), Timer::Destroy));
            let archive =
                (r.auto_archive > 0 && !r.ephemeral()).then(|| (after(r.auto_archive), Timer::Archive));
            delete.into_iter().chain(archive).min_by_key(|(at, _)| *at)
        }
        _ => None,
    };
    ttl.into_iter().chain(idle).min_by_key(|(at, _)| *at)
}

/// What a timer wants of the record.
pub(crate) fn apply(timer: Timer, r: &mut Record) -> ApiResult<()> {
    r.desired = match timer {
        Timer::Stop if r.ephemeral() => DesiredState::Destroyed,
        Timer::Stop => DesiredState::Stopped,
        Timer::Archive => DesiredState::Archived,
        Timer::Destroy => DesiredState::Destroyed,
    };
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::plan::tests::record;

    #[test]
    fn each_timer_fires_when_it_is_due() {
        let mut r = record(SandboxState::Started, DesiredState::Started);
        assert_eq!(next(&r, 1_000), Some((1_000 + 15 * MINUTE_MS, Timer::Stop)));
        r.destroy_at = Some(5);
        assert_eq!(next(&r, 1_000), Some((steady_of(5), Timer::Destroy)));
        r.destroy_at = None;
        r.auto_stop = 0;
        assert_eq!(next(&r, 1_000), None);
        let mut r = record(SandboxState::Stopped, DesiredState::Stopped);
        assert_eq!(next(&r, 0), Some((10_080 * MINUTE_MS, Timer::Archive)));
        r.auto_delete = 1;
        assert_eq!(next(&r, 0), Some((MINUTE_MS, Timer::Destroy)));
    }

    #[test]
    fn an_idle_ephemeral_sandbox_is_destroyed() {
        let mut r = record(SandboxState::Started, DesiredState::Started);
        r.auto_delete = 0;
        apply(Timer::Stop, &mut r).unwrap();
        assert_eq!(r.desired, DesiredState::Destroyed);
    }
}
