//! Time as the store and the wire have it: milliseconds since 1970 inside, RFC 3339 with milliseconds and `Z` outside.
//!
//! What is waited for is measured on a steady clock, so that a step of the wall clock neither stops idle sandboxes nor loses runners. Steady times are for
//! this process alone; [`wall`] and [`steady_of`] convert where one is told or stored.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use jiff::Timestamp;

/// Below this the two clocks only round differently, in milliseconds.
const STEP: i64 = 250;

/// Now, in milliseconds since 1970.
pub(crate) fn now() -> i64 {
    Timestamp::now().as_millisecond()
}

/// Milliseconds on a clock that nobody sets. It begins as the wall clock's time and then only goes on.
pub(crate) fn steady() -> i64 {
    static START: OnceLock<(Instant, i64)> = OnceLock::new();
    let (at, wall) = START.get_or_init(|| (Instant::now(), now()));
    wall.saturating_add(i64::try_from(at.elapsed().as_millis()).unwrap_or(i64::MAX))
}

/// How far the wall clock was set since the start. It changes only with a step, so that one moment is always told as the same time.
fn offset() -> i64 {
    static OFFSET: AtomicI64 = AtomicI64::new(0);
    let (before, wall, after) = (steady(), now(), steady());
    let known = OFFSET.load(Ordering::Relaxed);
    let found = between(before, wall, after, known);
    if (found - known).abs() < STEP {
        return known;
    }
    OFFSET.store(found, Ordering::Relaxed);
    found
}

/// The offset that is nearest to the known one, of those that it can be when the wall clock was read between two steady times. We may have stood still
/// there, and that is no step.
fn between(before: i64, wall: i64, after: i64, known: i64) -> i64 {
    known.clamp(wall - after, wall - before)
}

/// The wall clock's time of a steady one.
pub(crate) fn wall(steady: i64) -> i64 {
    steady.saturating_add(offset())
}

/// [`wall`] for many times at once.
pub(crate) fn walls() -> impl Fn(i64) -> i64 {
    let offset = offset();
    move |steady| steady.saturating_add(offset)
}

/// The steady time of a wall clock's.
pub(crate) fn steady_of(wall: i64) -> i64 {
    wall.saturating_sub(offset())
}

/// A time for the wire.
pub(crate) fn iso(ms: i64) -> String {
    Timestamp::from_millisecond(ms).unwrap_or_default().strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string()
}

/// A time from the wire.
pub(crate) fn parse(text: &str) -> Option<i64> {
    text.parse::<Timestamp>().ok().map(|t| t.as_millisecond())
}

/// How long until a steady time; zero when it has passed.
pub(crate) fn until(at: i64) -> Duration {
    Duration::from_millis(u64::try_from(at.saturating_sub(steady())).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    #[test]
    fn times_keep_their_milliseconds() {
        assert_eq!(super::iso(1_767_323_045_670), "2026-01-02T03:04:05.670Z");
        assert_eq!(super::parse("2026-01-02T03:04:05.670Z"), Some(1_767_323_045_670));
        assert_eq!(super::parse("yesterday"), None);
    }

    #[test]
    fn a_moment_is_always_the_same_time() {
        let moment = super::steady();
        let first = super::wall(moment);
        for _ in 0..1000 {
            assert_eq!(super::wall(moment), first);
        }
        assert_eq!(super::steady_of(first), moment);
    }

    #[test]
    fn to_stand_still_between_two_clocks_is_no_step() {
        assert_eq!(super::between(1_000, 1_003, 9_000, 3), 3);
        assert_eq!(super::between(1_000, 8_990, 9_000, 3), 3);
        assert_eq!(super::between(1_000, 101_000, 1_001, 3), 99_999);
        assert_eq!(super::between(1_000, -99_000, 1_001, 3), -100_000);
    }
}
