//! Text as the inside of a JSON string.

/// Appends `text` as it stands between the quotes of a JSON string.
pub(crate) fn escape(text: &str, out: &mut Vec<u8>) {
    let start = out.len();
    // Writing a string to memory cannot fail.
    if serde_json::to_writer(&mut *out, text).is_ok() {
        out.pop();
        out.remove(start);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn escaped_text_parses_back(text in ".{0,40}") {
            let mut json = b"\"".to_vec();
            escape(&text, &mut json);
            json.push(b'"');
            prop_assert_eq!(serde_json::from_slice::<String>(&json).unwrap(), text);
        }
    }
}
