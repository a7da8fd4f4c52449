//! Octal mode texts.

use pinfold_http::{ApiError, ApiResult};

/// The twelve bits of an octal mode such as `755`, `0755` or `4755`.
pub(crate) fn parse(text: &str) -> ApiResult<u32> {
    let digits = text.strip_prefix("0o").unwrap_or(text);
    match u32::from_str_radix(digits, 8) {
        Ok(mode) if mode <= 0o7777 && !digits.starts_with('+') => Ok(mode),
        _ => Err(ApiError::bad_request(format_args!(
            "invalid mode {text:?}: expected up to four octal digits"
        ))),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn modes_are_octal_and_have_twelve_bits() {
        for (text, mode) in [("755", 0o755), ("0755", 0o755), ("04755", 0o4755), ("0", 0), ("0o640", 0o640)] {
            assert_eq!(super::parse(text).unwrap(), mode);
        }
        for text in ["", "8", "10000", "-1", "+7", "rwx", "0x1"] {
            assert!(super::parse(text).is_err(), "{text}");
        }
    }
}
