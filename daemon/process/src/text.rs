//! Bytes of processes as text: UTF-8 with U+FFFD for what is none, carried over from piece to piece, and as the inside of a JSON string.

/// Decodes incrementally: a character split between two pieces comes out whole.
#[derive(Debug, Default)]
pub(crate) struct Decoder {
    /// The beginning of a character, at most three bytes.
    held: Vec<u8>,
}

impl Decoder {
    /// Appends the text of `piece` to `out`.
    pub(crate) fn feed(&mut self, piece: &[u8], out: &mut String) {
        if self.held.is_empty() {
            self.decode(piece, out);
        } else {
            let mut joined = std::mem::take(&mut self.held);
            joined.extend_from_slice(piece);
            self.decode(&joined, out);
        }
    }

    /// The bytes are over: half a character is none.
    pub(crate) fn finish(&mut self, out: &mut String) {
        if !std::mem::take(&mut self.held).is_empty() {
            out.push(char::REPLACEMENT_CHARACTER);
        }
    }

    fn decode(&mut self, mut bytes: &[u8], out: &mut String) {
        loop {
            let error = match std::str::from_utf8(bytes) {
                Ok(text) => return out.push_str(text),
                Err(error) => error,
            };
            let (valid, rest) = bytes.split_at(error.valid_up_to());
            out.push_str(&String::from_utf8_lossy(valid));
            match error.error_len() {
                Some(bad) => {
                    out.push(char::REPLACEMENT_CHARACTER);
                    bytes = &rest[bad..];
                }
                None => {
                    self.held = rest.to_vec();
                    return;
                }
            }
        }
    }
}

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
        fn pieces_decode_like_the_whole(bytes in proptest::collection::vec(prop_oneof![any::<u8>(), Just(0xF0), Just(0x9F), Just(0x98), Just(0x80)], 0..40), cut in 0_usize..40) {
            let cut = cut.min(bytes.len());
            let (mut decoder, mut text) = (Decoder::default(), String::new());
            decoder.feed(&bytes[..cut], &mut text);
            decoder.feed(&bytes[cut..], &mut text);
            decoder.finish(&mut text);
            prop_assert_eq!(text, String::from_utf8_lossy(&bytes).into_owned());
        }

        #[test]
        fn escaped_text_parses_back(text in ".{0,40}") {
            let mut json = b"\"".to_vec();
            escape(&text, &mut json);
            json.push(b'"');
            prop_assert_eq!(serde_json::from_slice::<String>(&json).unwrap(), text);
        }
    }
}
