//! A process's bytes as text, piece by piece: characters split across pieces are put together again.

/// Holds back the start of a character until the rest comes.
#[derive(Debug, Default)]
pub struct Decoder {
    /// At most three bytes.
    held: Vec<u8>,
}

impl Decoder {
    /// The text that is complete with these bytes; what can never become text is U+FFFD.
    pub fn decode(&mut self, bytes: &[u8]) -> String {
        let mut text = String::with_capacity(self.held.len() + bytes.len());
        self.decode_into(bytes, &mut text);
        text
    }

    /// Appends what [`Decoder::decode`] gives to `text`.
    pub fn decode_into(&mut self, bytes: &[u8], text: &mut String) {
        let joined;
        let bytes = if self.held.is_empty() {
            bytes
        } else {
            joined = [&std::mem::take(&mut self.held), bytes].concat();
            &joined
        };
        let mut chunks = bytes.utf8_chunks().peekable();
        while let Some(chunk) = chunks.next() {
            text.push_str(chunk.valid());
            let bad = chunk.invalid();
            let may_go_on = || std::str::from_utf8(bad).is_err_and(|error| error.error_len().is_none());
            if chunks.peek().is_none() && may_go_on() {
                self.held = bad.to_vec();
            } else if !bad.is_empty() {
                text.push(char::REPLACEMENT_CHARACTER);
            }
        }
    }

    /// Whether the start of a character is held back.
    pub fn is_waiting(&self) -> bool {
        !self.held.is_empty()
    }

    /// Gives up on the rest of a character.
    pub fn flush(&mut self) -> String {
        String::from_utf8_lossy(&std::mem::take(&mut self.held)).into_owned()
    }
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
        fn pieces_decode_like_the_whole(
            bytes in proptest::collection::vec(prop_oneof![any::<u8>(), Just(0xF0), Just(0x9F), Just(0x98), Just(0x80)], 0..40),
            cut in 0_usize..40,
        ) {
            let cut = cut.min(bytes.len());
            let mut decoder = Decoder::default();
            let text = decoder.decode(&bytes[..cut]) + &decoder.decode(&bytes[cut..]);
            prop_assert!(decoder.held.len() <= 3);
            prop_assert_eq!(text + &decoder.flush(), String::from_utf8_lossy(&bytes).into_owned());
        }
    }
}
