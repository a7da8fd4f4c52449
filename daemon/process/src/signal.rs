//! Signals by name or number.

use nix::sys::signal::Signal;
use pinfold_http::{ApiError, ApiResult};

/// `TERM`, `sigterm` or `15`.
pub(crate) fn parse(text: &str) -> ApiResult<Signal> {
    let upper = text.trim().to_ascii_uppercase();
    let by_number = upper.parse::<i32>().ok().and_then(|number| Signal::try_from(number).ok());
    let by_name =
        || if upper.starts_with("SIG") { upper.parse() } else { format!("SIG{upper}").parse() }.ok();
    by_number
        .or_else(by_name)
        .ok_or_else(|| ApiError::bad_request(format_args!("bad request: {text:?} is not a signal")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers() {
        for text in ["TERM", "sigterm", "SIGTERM", " 15 "] {
            assert_eq!(parse(text).unwrap(), Signal::SIGTERM, "{text}");
        }
        for text in ["", "SIG", "0", "99", "TERMINATE"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
