//! `aws-chunked`: the framing in which some S3 clients send bodies: `<hex size>;chunk-signature=…\r\n<bytes>\r\n … 0\r\n<trailers>`.
//!
//! Content is passed on before its chunk's signature was seen to be right, so what is made of it is to be thrown away on an error. Trailers carry
//! checksums, which nothing here uses.

use sha2::{Digest, Sha256};

use super::signature::Seal;

/// Longest line between two chunks.
const MAX_LINE: usize = 4096;

/// Why a body is not taken.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum ChunkError {
    /// It is not in this framing.
    #[error("the aws-chunked body is malformed")]
    Malformed,
    /// A chunk is not the one that was signed.
    #[error("a chunk of the body is not the one that was signed")]
    Signature,
}

use ChunkError::Malformed;

/// What a signed chunk is checked by.
#[derive(Debug)]
struct Chain {
    seal: Seal,
    hasher: Sha256,
    presented: String,
}

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
    chain: Option<Chain>,
}

impl Decoder {
    /// A decoder of chunks that are signed, or of chunks that are not.
    pub(super) fn new(seal: Option<Seal>) -> Self {
        let chain = seal.map(|seal| Chain { seal, hasher: Sha256::new(), presented: String::new() });
        Self { at: At::Size, line: Vec::new(), chain }
    }

    /// The content in the next piece of the body.
    pub(super) fn push(&mut self, mut input: &[u8]) -> Result<Vec<u8>, ChunkError> {
        let mut out = Vec::with_capacity(input.len());
        while let Some((&first, rest)) = input.split_first() {
            match self.at {
                At::Data(left) => {
                    let take = input.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                    out.extend_from_slice(&input[..take]);
                    if let Some(chain) = &mut self.chain {
                        chain.hasher.update(&input[..take]);
                    }
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

    /// Checks the chunk that has ended.
    fn seal(&mut self) -> Result<(), ChunkError> {
        let Some(chain) = &mut self.chain else { return Ok(()) };
        let hash = chain.hasher.finalize_reset();
        if chain.seal.admits(&hash, &chain.presented) { Ok(()) } else { Err(ChunkError::Signature) }
    }

    fn after(&mut self, line: &[u8]) -> Result<At, ChunkError> {
        let line = line.strip_suffix(b"\r").ok_or(Malformed)?;
        if self.at == At::DataEnd {
            self.seal()?;
            return if line.is_empty() { Ok(At::Size) } else { Err(Malformed) };
        }
        let line = std::str::from_utf8(line).map_err(|_| Malformed)?;
        let (digits, extension) = line.split_once(';').unwrap_or((line, ""));
        if let Some(chain) = &mut self.chain {
            let signature = extension.strip_prefix("chunk-signature=").ok_or(ChunkError::Signature)?;
            signature.clone_into(&mut chain.presented);
        }
        if digits.is_empty() || digits.len() > 15 || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(Malformed);
        }
        match u64::from_str_radix(digits, 16).map_err(|_| Malformed)? {
            0 => {
                self.seal()?;
                Ok(At::Trailer)
            }
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
            let mut decoder = Decoder::new(None);
            let mut content = decoder.push(&BODY[..cut]).unwrap();
            content.extend(decoder.push(&BODY[cut..]).unwrap());
            assert_eq!(content, b"hello world", "cut at {cut}");
            assert!(decoder.complete());
        }
    }

    #[test]
    fn refuses_what_is_not_framed() {
        for bad in [&b"hello\r\n"[..], b"5\nhello", b"5\r\nhelloX\r\n", b"ffffffffffffffffff\r\n"] {
            assert_eq!(Decoder::new(None).push(bad), Err(Malformed), "{bad:?}");
        }
        assert!(!Decoder::new(None).complete());
    }

    proptest! {
        #[test]
        fn never_panics(pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..64), 0..8)) {
            let mut decoder = Decoder::new(None);
            for piece in pieces {
                if decoder.push(&piece).is_err() {
                    break;
                }
            }
        }
    }
}
