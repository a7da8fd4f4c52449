//! Time as the store and the wire have it: milliseconds since 1970 inside, RFC 3339 with milliseconds and `Z` outside.

use jiff::Timestamp;

/// Now, in milliseconds since 1970.
pub(crate) fn now() -> i64 {
    Timestamp::now().as_millisecond()
}

/// A time for the wire.
pub(crate) fn iso(ms: i64) -> String {
    Timestamp::from_millisecond(ms).unwrap_or_default().strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string()
}

/// A time from the wire.
pub(crate) fn parse(text: &str) -> Option<i64> {
    text.parse::<Timestamp>().ok().map(|t| t.as_millisecond())
}

/// How long until `at`; zero when it has passed.
pub(crate) fn until(at: i64) -> std::time::Duration {
    std::time::Duration::from_millis(u64::try_from(at.saturating_sub(now())).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    #[test]
    fn times_keep_their_milliseconds() {
        assert_eq!(super::iso(1_767_323_045_670), "2026-01-02T03:04:05.670Z");
        assert_eq!(super::parse("2026-01-02T03:04:05.670Z"), Some(1_767_323_045_670));
        assert_eq!(super::parse("yesterday"), None);
    }
}
