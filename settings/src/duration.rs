//! Durations as operators write them: `300ms`, `30s`, `1m30s`, `168h` (Go's syntax, which the contract uses).

use std::time::Duration;

/// Why a text is not a duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a duration; write for example 250ms, 30s, 1m30s or 168h")]
pub struct ParseDurationError(String);

const UNITS: [(&str, f64); 6] =
    [("ns", 1e-9), ("us", 1e-6), ("µs", 1e-6), ("ms", 1e-3), ("m", 60.0), ("h", 3600.0)];

/// Parses a non-negative duration. A bare `0` is allowed; any other number needs a unit.
pub fn parse_duration(text: &str) -> Result<Duration, ParseDurationError> {
    let bad = || ParseDurationError(text.to_owned());
    let mut rest = text.trim();
    if rest == "0" {
        return Ok(Duration::ZERO);
    }
    if rest.is_empty() {
        return Err(bad());
    }
    let mut seconds = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(bad)?;
        let value: f64 = rest[..digits].parse().map_err(|_| bad())?;
        rest = &rest[digits..];
        let end = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        let unit = &rest[..end];
        let factor = match unit {
            "s" => 1.0,
            _ => UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(bad)?.1,
        };
        seconds += value * factor;
        rest = &rest[end..];
    }
    Duration::try_from_secs_f64(seconds).map_err(|_| bad())
}

/// Writes a duration in the syntax that [`parse_duration`] reads.
pub fn format_duration(duration: Duration) -> String {
    let ms = duration.as_millis();
    if ms == 0 {
        "0".to_owned()
    } else if !ms.is_multiple_of(1000) {
        format!("{ms}ms")
    } else {
        let s = ms / 1000;
        let parts = [(s / 3600, "h"), (s / 60 % 60, "m"), (s % 60, "s")];
        parts.iter().filter(|(n, _)| *n > 0).map(|(n, unit)| format!("{n}{unit}")).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_each_unit_and_sums() {
        let cases = [
            ("300ms", 300),
            ("30s", 30_000),
            ("1m30s", 90_000),
            ("168h", 604_800_000),
            ("1.5s", 1500),
            ("0", 0),
        ];
        for (text, ms) in cases {
            assert_eq!(parse_duration(text).unwrap(), Duration::from_millis(ms), "{text}");
        }
    }

    #[test]
    fn refuses_what_is_not_a_duration() {
        for text in ["", "5", "s", "-1s", "1x", "1s2", "NaNs", "1..2s"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn writes_what_it_reads() {
        for text in ["300ms", "30s", "1m30s", "168h", "0", "1h1s"] {
            assert_eq!(format_duration(parse_duration(text).unwrap()), text);
        }
    }
}
