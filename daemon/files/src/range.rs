//! Byte ranges (RFC 9110 section 14) and dates of a download.

use std::time::{Duration, SystemTime};

use http::HeaderMap;
use http::header::{HeaderName, IF_MODIFIED_SINCE, IF_RANGE, IF_UNMODIFIED_SINCE, RANGE};

/// What part of a file a client wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// All of it, or several ranges at once, which are answered with all of it.
    Whole,
    /// From the first to the last byte, both included.
    Range(u64, u64),
    /// Nothing that exists.
    Unsatisfiable,
}

/// The range that `headers` ask for, of a file with `size` bytes that was last changed at `modified`.
pub(crate) fn wanted(headers: &HeaderMap, size: u64, modified: SystemTime) -> Wanted {
    let Some(range) = headers.get(RANGE).and_then(|v| v.to_str().ok()) else { return Wanted::Whole };
    // A client that continues a download only wants the rest if it still has the beginning of the same file.
    if headers.contains_key(IF_RANGE) && date(headers, &IF_RANGE) != Some(seconds(modified)) {
        return Wanted::Whole;
    }
    parse(range, size)
}

fn parse(range: &str, size: u64) -> Wanted {
    let Some((unit, ranges)) = range.split_once('=') else { return Wanted::Whole };
    if !unit.trim().eq_ignore_ascii_case("bytes") || ranges.contains(',') || size == 0 {
        return Wanted::Whole;
    }
    let Some((first, last)) = ranges.trim().split_once('-') else { return Wanted::Whole };
    let number = |text: &str| {
        text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse::<u64>().unwrap_or(u64::MAX))
    };
    match (first.trim(), last.trim()) {
        ("", "") => Wanted::Whole,
        ("", suffix) => match number(suffix) {
            Some(0) => Wanted::Unsatisfiable,
            Some(length) => Wanted::Range(size.saturating_sub(length), size - 1),
            None => Wanted::Whole,
        },
        (first, last) => {
            let last = if last.is_empty() { Some(u64::MAX) } else { number(last) };
            match (number(first), last) {
                (Some(first), Some(last)) if first > last => Wanted::Whole,
                (Some(first), Some(_)) if first >= size => Wanted::Unsatisfiable,
                (Some(first), Some(last)) => Wanted::Range(first, last.min(size - 1)),
                _ => Wanted::Whole,
            }
        }
    }
}

/// Whether the client's copy is as new as the file.
pub(crate) fn not_modified(headers: &HeaderMap, modified: SystemTime) -> bool {
    date(headers, &IF_MODIFIED_SINCE).is_some_and(|since| seconds(modified) <= since)
}

/// Whether the file changed although the client only wants it unchanged.
pub(crate) fn precondition_failed(headers: &HeaderMap, modified: SystemTime) -> bool {
    date(headers, &IF_UNMODIFIED_SINCE).is_some_and(|since| seconds(modified) > since)
}

fn date(headers: &HeaderMap, name: &HeaderName) -> Option<Duration> {
    let text = headers.get(name)?.to_str().ok()?;
    httpdate::parse_http_date(text).ok().map(seconds)
}

/// HTTP dates have no fractions.
fn seconds(time: SystemTime) -> Duration {
    Duration::from_secs(time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ranges() {
        let cases = [
            ("bytes=0-0", Wanted::Range(0, 0)),
            ("bytes=2-", Wanted::Range(2, 9)),
            ("Bytes = 2-5", Wanted::Range(2, 5)),
            ("bytes=2-99", Wanted::Range(2, 9)),
            ("bytes=-3", Wanted::Range(7, 9)),
            ("bytes=-99", Wanted::Range(0, 9)),
            ("bytes=9-18446744073709551616", Wanted::Range(9, 9)),
            ("bytes=10-", Wanted::Unsatisfiable),
            ("bytes=-0", Wanted::Unsatisfiable),
            ("bytes=5-4", Wanted::Whole),
            ("bytes=0-1,3-4", Wanted::Whole),
            ("bytes=+1-2", Wanted::Whole),
            ("lines=1-2", Wanted::Whole),
            ("bytes=-", Wanted::Whole),
        ];
        for (range, expected) in cases {
            assert_eq!(parse(range, 10), expected, "{range}");
        }
        assert_eq!(parse("bytes=0-", 0), Wanted::Whole);
    }

    #[test]
    fn dates_compare_in_seconds() {
        let modified = SystemTime::UNIX_EPOCH + Duration::from_millis(784_111_777_900);
        let with = |name: HeaderName, date: &str| HeaderMap::from_iter([(name, date.parse().unwrap())]);
        assert!(not_modified(&with(IF_MODIFIED_SINCE, "Sun, 06 Nov 1994 08:49:37 GMT"), modified));
        assert!(!not_modified(&with(IF_MODIFIED_SINCE, "Sun, 06 Nov 1994 08:49:36 GMT"), modified));
        assert!(!not_modified(&with(IF_MODIFIED_SINCE, "yesterday"), modified));
        assert!(precondition_failed(&with(IF_UNMODIFIED_SINCE, "Sun, 06 Nov 1994 08:49:36 GMT"), modified));
        let mut headers = with(IF_RANGE, "Sun, 06 Nov 1994 08:49:37 GMT");
        headers.insert(RANGE, "bytes=1-".parse().unwrap());
        assert_eq!(wanted(&headers, 3, modified), Wanted::Range(1, 2));
        headers.insert(IF_RANGE, "\"etag\"".parse().unwrap());
        assert_eq!(wanted(&headers, 3, modified), Wanted::Whole);
    }

    proptest! {
        #[test]
        fn a_range_lies_within_the_file(range in "(bytes=)?[0-9, -]{0,12}", size in 0u64..50) {
            if let Wanted::Range(first, last) = parse(&range, size) {
                prop_assert!(first <= last && last < size);
            }
        }
    }
}
