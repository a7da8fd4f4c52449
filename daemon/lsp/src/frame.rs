//! The base protocol's framing: headers with a `Content-Length`, an empty line, that many bytes of JSON.

use bytes::{Buf, Bytes, BytesMut};
use serde_json::Value;
use tokio_util::codec::Decoder;

/// More than the headers of any server.
const HEADERS: usize = 8 << 10;
/// More than any useful message: a completion list of a huge library is a few MiB.
const MESSAGE: usize = 64 << 20;

/// Why a server's output is no sequence of messages.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FrameError {
    #[error("the server's output ended or broke: {0}")]
    Io(#[from] std::io::Error),
    #[error("the server's output is not a protocol message: {0}")]
    Malformed(&'static str),
    #[error("the server's message is not JSON: {0}")]
    Json(#[from] serde_json::Error),
}

/// Splits a stream into messages.
#[derive(Debug, Default)]
pub(crate) struct Frames {
    /// Length of the message whose headers are read.
    length: Option<usize>,
}

impl Decoder for Frames {
    type Item = Value;
    type Error = FrameError;

    fn decode(&mut self, source: &mut BytesMut) -> Result<Option<Value>, FrameError> {
        let length = match self.length {
            Some(length) => length,
            None => {
                let Some(end) = source.windows(4).position(|bytes| bytes == b"\r\n\r\n") else {
                    return if source.len() > HEADERS {
                        Err(FrameError::Malformed("its headers do not end"))
                    } else {
                        Ok(None)
                    };
                };
                let length = length(&source[..end])?;
                source.advance(end + 4);
                *self.length.insert(length)
            }
        };
        if source.len() < length {
            source.reserve(length - source.len());
            return Ok(None);
        }
        self.length = None;
        Ok(Some(serde_json::from_slice(&source.split_to(length))?))
    }
}

fn length(headers: &[u8]) -> Result<usize, FrameError> {
    let text = std::str::from_utf8(headers).map_err(|_| FrameError::Malformed("its headers are not text"))?;
    let fields = text.split("\r\n").filter_map(|line| line.split_once(':'));
    let mut lengths = fields.filter(|(name, _)| name.trim().eq_ignore_ascii_case("content-length"));
    let value = lengths.next().and_then(|(_, value)| value.trim().parse().ok());
    match value {
        Some(length) if length <= MESSAGE => Ok(length),
        Some(_) => Err(FrameError::Malformed("it is too long")),
        None => Err(FrameError::Malformed("it has no length")),
    }
}

/// A message as it is sent.
pub(crate) fn frame(message: &Value) -> Bytes {
    let body = message.to_string();
    format!("Content-Length: {}\r\n\r\n{body}", body.len()).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn decode_all(decoder: &mut Frames, chunks: &[&[u8]]) -> Result<Vec<Value>, FrameError> {
        let (mut buffer, mut messages) = (BytesMut::new(), Vec::new());
        for chunk in chunks {
            buffer.extend_from_slice(chunk);
            while let Some(message) = decoder.decode(&mut buffer)? {
                messages.push(message);
            }
        }
        Ok(messages)
    }

    proptest! {
        #[test]
        fn messages_survive_any_cutting(
            texts in prop::collection::vec(".{0,40}", 1..6),
            extra in prop::sample::select(vec!["", "Content-Type: application/vscode-jsonrpc; charset=utf-8\r\n", "x: y\r\n"]),
            cut in 1usize..50,
        ) {
            let messages: Vec<_> = texts.iter().map(|text| json!({"method": text})).collect();
            let mut stream = Vec::new();
            for message in &messages {
                stream.extend_from_slice(extra.as_bytes());
                stream.extend_from_slice(&frame(message));
            }
            let chunks: Vec<_> = stream.chunks(cut).collect();
            prop_assert_eq!(decode_all(&mut Frames::default(), &chunks).expect("sound"), messages);
        }

        #[test]
        fn garbage_is_refused_without_panic_or_hoarding(bytes in prop::collection::vec(any::<u8>(), 0..20_000)) {
            let mut decoder = Frames::default();
            let mut buffer = BytesMut::from(&bytes[..]);
            while let Ok(Some(_)) = decoder.decode(&mut buffer) {}
            prop_assert!(buffer.capacity() < MESSAGE);
        }

        #[test]
        fn headers_are_read_whatever_they_hold(headers in "[ -~]{0,30}", length in any::<i64>()) {
            let text = format!("{headers}\r\nCONTENT-length:  {length} \r\n\r\n{{}}");
            let _ = decode_all(&mut Frames::default(), &[text.as_bytes()]);
        }
    }

    #[test]
    fn a_length_beyond_the_limit_is_refused_before_it_is_awaited() {
        let text = format!("Content-Length: {}\r\n\r\n", MESSAGE + 1);
        assert!(decode_all(&mut Frames::default(), &[text.as_bytes()]).is_err());
        assert!(decode_all(&mut Frames::default(), &[&[b'x'; HEADERS + 1]]).is_err());
    }
}
