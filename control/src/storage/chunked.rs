//! `aws-chunked`: the framing in which some S3 clients send bodies: `<hex size>;chunk-signature=…\r\n<bytes>\r\n … 0\r\n<trailers>`.

/// Longest line between two chunks.
const MAX_LINE: usize = 4096;

/// A body in this framing is not well formed.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the aws-chunked body is malformed")]
pub(super) struct Malformed;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    Size,
    Data(u64),
    DataEnd,
    Trailer,
}

/// Takes the framing off, piece by piece.
#[derive(Debug)]
pub(super) struct Decoder {
    at: At,
    line: Vec<u8>,
}

impl Default for Decoder {
    fn default() -> Self {
        Self { at: At::Size, line: Vec::new() }
    }
}

impl Decoder {
    /// The content in the next piece of the body.
    pub(super) fn push(&mut self, mut input: &[u8]) -> Result<Vec<u8>, Malformed> {
        let mut out = Vec::with_capacity(input.len());
        while let Some((&first, rest)) = input.split_first() {
            match self.at {
                At::Data(left) => {
                    let take = input.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                    out.extend_from_slice(&input[..take]);
                    input = &input[take..];
                    let left = left - take as u64;
                    self.at = if left == 0 { At::DataEnd } else { At::Data(left) };
                }
                At::Trailer => return Ok(out),
                At::Size | At::DataEnd => {
                    input = rest;
                    if first != b'\n' {
                        if self.line.len() >= MAX_LINE {
                            return Err(Malformed);
                        }
                        self.line.push(first);
                        continue;
                    }
                    let line = std::mem::take(&mut self.line);
                    self.at = self.after(&line)?;
                }
            }
        }
        Ok(out)
    }

    fn after(&self, line: &[u8]) -> Result<At, Malformed> {
        let line = line.strip_suffix(b"\r").ok_or(Malformed)?;
        if self.at == At::DataEnd {
            return if line.is_empty() { Ok(At::Size) } else { Err(Malformed) };
        }
        let digits = line.split(|b| *b == b';').next().unwrap_or_default();
        let digits = std::str::from_utf8(digits).map_err(|_| Malformed)?;
        if digits.is_empty() || digits.len() > 15 || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(Malformed);
        }
        match u64::from_str_radix(digits, 16).map_err(|_| Malformed)? {
            0 => Ok(At::Trailer),
            size => Ok(At::Data(size)),
        }
    }

    /// Whether the last chunk was seen.
    pub(super) fn complete(&self) -> bool {
        self.at == At::Trailer
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BODY: &[u8] = b"5;chunk-signature=ab\r\nhello\r\n6\r\n world\r\n0;chunk-signature=cd\r\nx-amz-checksum-crc32:abc\r\n\r\n";

    #[test]
    fn takes_the_framing_off_wherever_it_is_cut() {
        for cut in 0..BODY.len() {
            let mut decoder = Decoder::default();
            let mut content = decoder.push(&BODY[..cut]).unwrap();
            content.extend(decoder.push(&BODY[cut..]).unwrap());
            assert_eq!(content, b"hello world", "cut at {cut}");
            assert!(decoder.complete());
        }
    }

    #[test]
    fn refuses_what_is_not_framed() {
        for bad in [&b"hello\r\n"[..], b"5\nhello", b"5\r\nhelloX\r\n", b"ffffffffffffffffff\r\n"] {
            assert_eq!(Decoder::default().push(bad), Err(Malformed), "{bad:?}");
        }
        assert!(!Decoder::default().complete());
    }

    proptest! {
        #[test]
        fn never_panics(pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..64), 0..8)) {
            let mut decoder = Decoder::default();
            for piece in pieces {
                if decoder.push(&piece).is_err() {
                    break;
                }
            }
        }
    }
}
