//! A process's bytes as text, piece by piece: characters split across pieces are put together again.

/// Holds back the start of a character until the rest comes.
#[derive(Debug, Default)]
pub struct Decoder {
    pending: Vec<u8>,
}

impl Decoder {
    /// The text that is complete with these bytes; what can never become text is U+FFFD.
    pub fn decode(&mut self, bytes: &[u8]) -> String {
        self.pending.extend_from_slice(bytes);
        let keep = incomplete(&self.pending);
        let rest = self.pending.split_off(self.pending.len() - keep);
        let text = String::from_utf8_lossy(&self.pending).into_owned();
        self.pending = rest;
        text
    }

    /// Whether the start of a character is held back.
    pub fn is_waiting(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Gives up on the rest of a character.
    pub fn flush(&mut self) -> String {
        String::from_utf8_lossy(&std::mem::take(&mut self.pending)).into_owned()
    }
}

/// How many bytes at the end are the start of a character that may still become one.
fn incomplete(bytes: &[u8]) -> usize {
    for back in 1..=bytes.len().min(3) {
        let start = &bytes[bytes.len() - back..];
        if start[0] & 0xC0 != 0x80 {
            return match std::str::from_utf8(start) {
                Err(error) if error.valid_up_to() == 0 && error.error_len().is_none() => back,
                _ => 0,
            };
        }
    }
    0
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn holds_back_only_what_can_become_a_character() {
        let mut decoder = Decoder::default();
        assert_eq!(decoder.decode(b"a\xE2\x82"), "a");
        assert!(decoder.is_waiting());
        assert_eq!(decoder.decode(b"\xACb"), "€b");
        assert_eq!(decoder.decode(b"\xFF\xE2\x41"), "\u{FFFD}\u{FFFD}A");
        assert_eq!((decoder.decode(b"\xF0\x9F"), decoder.flush()), (String::new(), "\u{FFFD}".to_owned()));
        assert!(!decoder.is_waiting());
    }

    proptest! {
        #[test]
        fn any_split_gives_the_same_text(text in "\\PC{0,40}", cuts in proptest::collection::vec(0usize..160, 0..6)) {
            let bytes = text.as_bytes();
            let mut cuts: Vec<usize> = cuts.into_iter().map(|c| c.min(bytes.len())).collect();
            cuts.sort_unstable();
            let mut decoder = Decoder::default();
            let mut all = String::new();
            let mut from = 0;
            for cut in cuts.into_iter().chain([bytes.len()]) {
                all += &decoder.decode(&bytes[from..cut]);
                from = cut;
            }
            prop_assert_eq!(all, text);
            prop_assert!(!decoder.is_waiting());
        }

        #[test]
        fn nothing_is_held_for_long(bytes in proptest::collection::vec(any::<u8>(), 0..50)) {
            let mut decoder = Decoder::default();
            decoder.decode(&bytes);
            prop_assert!(decoder.pending.len() <= 3);
        }
    }
}
