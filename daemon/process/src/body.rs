//! Response bodies made of recorded output: read, decoded and escaped piece by piece, so that a hundred megabytes of output cost no memory.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::stream;
use http::header::CONTENT_TYPE;
use pinfold_proto::markers::{Splitter, Stream};
use pinfold_proto::utf8::Decoder;
use serde_json::Value;

use crate::text::escape;

/// Bytes read at a time.
const PIECE: usize = 1 << 16;
/// Bodies made of no more output than this are sent whole, with a length.
const SMALL: u64 = 1 << 20;

/// Recorded bytes.
#[derive(Debug, Clone)]
pub(crate) struct Source {
    store: Store,
    skip: u64,
}

#[derive(Debug, Clone)]
enum Store {
    Memory(Bytes),
    File(Arc<File>, u64),
}

impl Source {
    /// Bytes in memory.
    pub(crate) fn memory(bytes: impl Into<Bytes>) -> Self {
        Self { store: Store::Memory(bytes.into()), skip: 0 }
    }

    /// The first so many bytes of a file.
    pub(crate) fn file(file: Arc<File>, length: u64) -> Self {
        Self { store: Store::File(file, length), skip: 0 }
    }

    /// Leaves out the first `count` bytes; whose stream what follows belongs to is still known.
    pub(crate) fn skip(mut self, count: u64) -> Self {
        self.skip = count.min(self.len());
        self
    }

    /// All, what is skipped included.
    pub(crate) fn len(&self) -> u64 {
        match &self.store {
            Store::Memory(bytes) => bytes.len() as u64,
            Store::File(_, length) => *length,
        }
    }

    /// Reads at `offset`; 0 at the end.
    pub(crate) fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let left = usize::try_from(self.len().saturating_sub(offset)).unwrap_or(usize::MAX);
        let wanted = buffer.len().min(left);
        match &self.store {
            Store::Memory(bytes) => {
                let start = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
                buffer[..wanted].copy_from_slice(&bytes[start..start + wanted]);
                Ok(wanted)
            }
            Store::File(file, _) => file.read_at(&mut buffer[..wanted], offset),
        }
    }
}

/// Which of a recording's bytes count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pick {
    /// All, as they are.
    All,
    /// Without markers.
    Unmarked,
    /// One stream's.
    Only(Stream),
}

/// A part of a body.
#[derive(Debug, Clone)]
pub(crate) enum Part {
    /// As it is.
    Plain(Vec<u8>),
    /// Output as text.
    Text(Source, Pick),
    /// Output as the inside of a JSON string.
    Json(Source, Pick),
}

/// A JSON object: `plain` members, then members made of output.
pub(crate) fn object(plain: Value, texts: Vec<(&str, Source, Pick)>) -> Response {
    let mut head = plain.to_string().into_bytes();
    head.pop();
    let mut parts = vec![];
    for (name, source, pick) in texts {
        if head.last() != Some(&b'{') {
            head.push(b',');
        }
        head.extend_from_slice(format!("\"{name}\":\"").as_bytes());
        parts.push(Part::Plain(std::mem::replace(&mut head, vec![b'"'])));
        parts.push(Part::Json(source, pick));
    }
    head.push(b'}');
    parts.push(Part::Plain(head));
    respond("application/json; charset=utf-8", parts)
}

/// Plain text.
pub(crate) fn plain(source: Source, pick: Pick) -> Response {
    respond("text/plain; charset=utf-8", vec![Part::Text(source, pick)])
}

fn respond(content_type: &'static str, parts: Vec<Part>) -> Response {
    let size: u64 = parts.iter().map(|part| if let Part::Plain(_) = part { 0 } else { part.len() }).sum();
    let mut pieces = Pieces::new(parts);
    let body = if size <= SMALL {
        let mut whole = Vec::new();
        loop {
            match pieces.next() {
                Ok(Some(piece)) => whole.extend_from_slice(&piece),
                Ok(None) => break Body::from(whole),
                Err(error) => {
                    return pinfold_http::ApiError::internal(format_args!(
                        "could not read the output: {error}"
                    ))
                    .into_response();
                }
            }
        }
    } else {
        Body::from_stream(stream::unfold(pieces, async |mut pieces| {
            let next = pieces.next().transpose()?;
            // Between two pieces others get their turn: reading the page cache never waits.
            tokio::task::yield_now().await;
            Some((next.map(Bytes::from), pieces))
        }))
    };
    ([(CONTENT_TYPE, content_type)], body).into_response()
}

impl Part {
    fn len(&self) -> u64 {
        match self {
            Self::Plain(bytes) => bytes.len() as u64,
            Self::Text(source, _) | Self::Json(source, _) => source.len(),
        }
    }
}

/// The pieces of a body, made when they are wanted.
struct Pieces {
    parts: std::vec::IntoIter<Part>,
    current: Option<Reading>,
    buffer: Vec<u8>,
}

struct Reading {
    source: Source,
    pick: Pick,
    json: bool,
    offset: u64,
    splitter: Splitter,
    decoder: Decoder,
}

impl Pieces {
    fn new(parts: Vec<Part>) -> Self {
        Self { parts: parts.into_iter(), current: None, buffer: vec![0; PIECE] }
    }

    fn next(&mut self) -> io::Result<Option<Vec<u8>>> {
        loop {
            let Some(reading) = &mut self.current else {
                let (source, pick, json) = match self.parts.next() {
                    None => return Ok(None),
                    Some(Part::Plain(bytes)) => return Ok(Some(bytes)),
                    Some(Part::Text(source, pick)) => (source, pick, false),
                    Some(Part::Json(source, pick)) => (source, pick, true),
                };
                // Without markers there is nothing to learn from what is skipped.
                let offset = if pick == Pick::All { source.skip } else { 0 };
                self.current = Some(Reading {
                    source,
                    pick,
                    json,
                    offset,
                    splitter: Splitter::default(),
                    decoder: Decoder::default(),
                });
                continue;
            };
            let skipping =
                usize::try_from(reading.source.skip.saturating_sub(reading.offset)).unwrap_or(usize::MAX);
            let wanted = if skipping > 0 { skipping.min(PIECE) } else { PIECE };
            let length = reading.source.read_at(&mut self.buffer[..wanted], reading.offset)?;
            if skipping > 0 && length > 0 {
                reading.splitter.feed(&self.buffer[..length], |_, _| {});
                reading.offset += length as u64;
                continue;
            }
            let piece = reading.piece(&self.buffer[..length]);
            reading.offset += length as u64;
            if length == 0 {
                self.current = None;
            }
            if !piece.is_empty() {
                return Ok(Some(piece));
            }
        }
    }
}

impl Reading {
    /// The output that `bytes` become; no bytes means the end.
    fn piece(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut text = String::with_capacity(bytes.len() + 8);
        let pick = self.pick;
        let decoder = &mut self.decoder;
        let mut picked = |stream: Option<Stream>, payload: &[u8]| {
            if pick == Pick::Unmarked || stream.is_some_and(|s| pick == Pick::Only(s)) {
                decoder.decode_into(payload, &mut text);
            }
        };
        match (pick, bytes.is_empty()) {
            (Pick::All, _) => decoder.decode_into(bytes, &mut text),
            (_, false) => self.splitter.feed(bytes, picked),
            (_, true) => self.splitter.finish(&mut picked),
        }
        if bytes.is_empty() {
            text.push_str(&self.decoder.flush());
        }
        if !self.json {
            return text.into_bytes();
        }
        let mut escaped = Vec::with_capacity(text.len() + 8);
        escape(&text, &mut escaped);
        escaped
    }
}
