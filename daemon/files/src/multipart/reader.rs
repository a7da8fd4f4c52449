//! The streaming reader.

use std::error::Error as StdError;

use axum::body::Bytes;
use futures_util::{Stream, StreamExt};
use http::HeaderMap;
use http::header::CONTENT_TYPE;
use memchr::memmem;

use super::disposition::parameter;

/// The largest block of headers of one part.
const MAX_HEADERS: usize = 32 << 10;
/// The longest boundary (RFC 2046 allows 70).
const MAX_BOUNDARY: usize = 256;

/// Why no more parts can be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MultipartError {
    /// The body ended before the closing delimiter.
    #[error("the multipart body ended before its closing delimiter")]
    Truncated,
    /// The headers of a part do not end.
    #[error("the headers of a part are longer than {MAX_HEADERS} bytes")]
    Headers,
    /// The connection failed.
    #[error("the request body could not be read: {0}")]
    Body(#[source] Box<dyn StdError + Send + Sync>),
}

/// The boundary, if the request says that it is multipart.
pub(crate) fn boundary_of(headers: &HeaderMap) -> Option<Vec<u8>> {
    let value = headers.get(CONTENT_TYPE)?.as_bytes();
    let kind = value.split(|b| *b == b';').next()?.trim_ascii();
    if !kind.get(..10)?.eq_ignore_ascii_case(b"multipart/") {
        return None;
    }
    parameter(value, "boundary").filter(|b| (1..=MAX_BOUNDARY).contains(&b.len()))
}

/// What is known of a part before its content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Part {
    /// Name of the form field.
    pub(crate) name: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Before the first delimiter.
    Preamble,
    /// Within a part.
    Content,
    /// After a delimiter, before the next part's headers.
    Between,
    /// After the closing delimiter.
    Over,
}

/// A multipart body. Ask for a part, then for its content until there is none.
#[derive(Debug)]
pub(crate) struct Multipart<S> {
    body: S,
    delimiter: memmem::Finder<'static>,
    buffer: Bytes,
    state: State,
}

impl<S, E> Multipart<S>
where
    S: Stream<Item = Result<Bytes, E>> + Unpin,
    E: Into<Box<dyn StdError + Send + Sync>>,
{
    pub(crate) fn new(body: S, boundary: &[u8]) -> Self {
        let delimiter = memmem::Finder::new(&[b"\r\n--", boundary].concat()).into_owned();
        // The first delimiter has no line before it; this is that line's end.
        Self { body, delimiter, buffer: Bytes::from_static(b"\r\n"), state: State::Preamble }
    }

    /// The next part; what is left of the one before is skipped.
    pub(crate) async fn part(&mut self) -> Result<Option<Part>, MultipartError> {
        if self.state == State::Preamble {
            while self.content().await?.is_some() {}
        }
        while self.state == State::Content {
            self.content().await?;
        }
        if self.state == State::Over || !self.another().await? {
            self.state = State::Over;
            return Ok(None);
        }
        let name = self.headers().await?;
        self.state = State::Content;
        Ok(Some(Part { name }))
    }

    /// More of the part's content; `None` at its end.
    pub(crate) async fn content(&mut self) -> Result<Option<Bytes>, MultipartError> {
        if !matches!(self.state, State::Content | State::Preamble) {
            return Ok(None);
        }
        loop {
            if let Some(start) = self.delimiter.find(&self.buffer) {
                let end = start + self.delimiter.needle().len();
                // What comes after tells a delimiter from a longer line that begins like one.
                match self.buffer[end..] {
                    [] | [b'-'] => {}
                    [b'\r' | b' ' | b'\t', ..] | [b'-', b'-', ..] => {
                        let content = self.buffer.split_to(start);
                        let _ = self.buffer.split_to(end - start);
                        self.state = State::Between;
                        return Ok(Some(content).filter(|c| !c.is_empty()));
                    }
                    _ => return Ok(Some(self.buffer.split_to(end))),
                }
                if start > 0 {
                    return Ok(Some(self.buffer.split_to(start)));
                }
            } else if let safe @ 1.. = self.without_delimiter() {
                return Ok(Some(self.buffer.split_to(safe)));
            }
            self.more().await?;
        }
    }

    /// Reads what follows the closing delimiter, or whatever else is left, so that the client has sent all before it is answered.
    pub(crate) async fn drain(&mut self) {
        self.buffer = Bytes::new();
        while let Some(Ok(_)) = self.body.next().await {}
    }

    /// How many bytes cannot be the beginning of a delimiter.
    fn without_delimiter(&self) -> usize {
        let needle = self.delimiter.needle();
        let from = self.buffer.len().saturating_sub(needle.len() - 1);
        let starts = memchr::memchr_iter(b'\r', &self.buffer[from..]).map(|i| from + i);
        let begins = |start: &usize| needle.starts_with(&self.buffer[*start..]);
        starts.into_iter().find(begins).unwrap_or(self.buffer.len())
    }

    /// Whether a part follows the delimiter just passed; skips the rest of its line.
    async fn another(&mut self) -> Result<bool, MultipartError> {
        loop {
            if self.buffer.starts_with(b"--") {
                return Ok(false);
            }
            if let Some(end) = memmem::find(&self.buffer, b"\r\n") {
                // Kept: if the part has no headers, this line end and the next are the block that ends them.
                let _ = self.buffer.split_to(end);
                return Ok(true);
            }
            self.within_limit()?;
            self.more().await?;
        }
    }

    async fn headers(&mut self) -> Result<String, MultipartError> {
        loop {
            if let Some(end) = memmem::find(&self.buffer, b"\r\n\r\n") {
                let block = self.buffer.split_to(end + 4);
                return Ok(field_name(&block));
            }
            self.within_limit()?;
            self.more().await?;
        }
    }

    fn within_limit(&self) -> Result<(), MultipartError> {
        if self.buffer.len() > MAX_HEADERS { Err(MultipartError::Headers) } else { Ok(()) }
    }

    async fn more(&mut self) -> Result<(), MultipartError> {
        let chunk = match self.body.next().await {
            Some(chunk) => chunk.map_err(|error| MultipartError::Body(error.into()))?,
            None => return Err(MultipartError::Truncated),
        };
        self.buffer =
            if self.buffer.is_empty() { chunk } else { [&self.buffer[..], &chunk[..]].concat().into() };
        Ok(())
    }
}

fn field_name(block: &[u8]) -> String {
    for line in block.split(|b| *b == b'\n') {
        let Some(colon) = memchr::memchr(b':', line) else { continue };
        if line[..colon].trim_ascii().eq_ignore_ascii_case(b"content-disposition") {
            let name = parameter(line[colon + 1..].trim_ascii(), "name").unwrap_or_default();
            return String::from_utf8_lossy(&name).into_owned();
        }
    }
    String::new()
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::{FutureExt, stream};
    use proptest::prelude::*;

    type Read = Result<Vec<(String, Vec<u8>)>, String>;

    fn read(body: &[u8], boundary: &str, cuts: &[usize]) -> Read {
        let mut chunks = Vec::new();
        let mut rest = body;
        for cut in cuts {
            let (chunk, after) = rest.split_at((*cut).min(rest.len()));
            chunks.push(Ok::<_, std::io::Error>(Bytes::copy_from_slice(chunk)));
            rest = after;
        }
        chunks.push(Ok(Bytes::copy_from_slice(rest)));
        let reading = async {
            let mut multipart = Multipart::new(stream::iter(chunks), boundary.as_bytes());
            let mut parts = Vec::new();
            while let Some(part) = multipart.part().await.map_err(|e| e.to_string())? {
                let mut content = Vec::new();
                while let Some(chunk) = multipart.content().await.map_err(|e| e.to_string())? {
                    content.extend_from_slice(&chunk);
                }
                parts.push((part.name, content));
            }
            Ok(parts)
        };
        reading.now_or_never().expect("the stream is always ready")
    }

    #[test]
    fn odd_bodies_are_understood() {
        let one = |name: &str, content: &str| Ok(vec![(name.to_owned(), content.as_bytes().to_vec())]);
        let cases: [(&str, Read); 9] = [
            ("--b\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\nx\r\n--b--\r\n", one("a", "x")),
            ("--b\r\nContent-Disposition: form-data; name=a\r\n\r\n\r\n--b--", one("a", "")),
            (
                "preamble\r\n--b \t\r\ncontent-disposition:form-data;name=\"a\"\r\nX: y\r\n\r\nx\r\n--b--epilogue",
                one("a", "x"),
            ),
            ("--b\r\n\r\nno headers\r\n--b--", one("", "no headers")),
            (
                "--b\r\nContent-Disposition: form-data; name=a\r\n\r\n\r\n--bb\r\n--\r\n-b\r\n--b--",
                one("a", "\r\n--bb\r\n--\r\n-b"),
            ),
            ("--b--", Ok(vec![])),
            (
                "--b\r\nContent-Disposition: form-data; name=a\r\n\r\nx",
                Err(MultipartError::Truncated.to_string()),
            ),
            ("--b\r\nContent-Dispo", Err(MultipartError::Truncated.to_string())),
            ("", Err(MultipartError::Truncated.to_string())),
        ];
        for (body, expected) in cases {
            assert_eq!(read(body.as_bytes(), "b", &[]), expected, "{body:?}");
            let ones = vec![1; body.len()];
            assert_eq!(read(body.as_bytes(), "b", &ones), expected, "{body:?} byte by byte");
        }
    }

    #[test]
    fn endless_headers_are_refused() {
        let body = [b"--b\r\n".as_slice(), &vec![b'x'; MAX_HEADERS + 1]].concat();
        assert_eq!(read(&body, "b", &[]), Err(MultipartError::Headers.to_string()));
    }

    #[test]
    fn the_boundary_comes_from_the_content_type() {
        let of = |value: &str| boundary_of(&[(CONTENT_TYPE, value.parse().unwrap())].into_iter().collect());
        assert_eq!(of("Multipart/Form-Data; charset=utf-8; boundary=\"a b\"").unwrap(), b"a b");
        assert_eq!(of("multipart/form-data; boundary=----x").unwrap(), b"----x");
        assert_eq!(of("multipart/form-data"), None);
        assert_eq!(of("multipart/form-data; boundary="), None);
        assert_eq!(of("application/json; boundary=x"), None);
    }

    proptest! {
        #[test]
        fn parts_survive_any_cutting(
            parts in prop::collection::vec(("[a-z\\[\\].0-9]{0,12}", prop::collection::vec(prop_oneof![Just(b'\r'), Just(b'\n'), Just(b'-'), Just(b'b'), any::<u8>()], 0..200)), 0..5),
            cuts in prop::collection::vec(0usize..40, 0..40),
        ) {
            let boundary = "b-7f3c\u{b}-b";
            let mut body = Vec::new();
            for (name, content) in &parts {
                body.extend_from_slice(format!("--{boundary}\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n").as_bytes());
                body.extend_from_slice(content);
                body.extend_from_slice(b"\r\n");
            }
            body.extend_from_slice(format!("--{boundary}--\r\n").as_bytes());
            prop_assert_eq!(read(&body, boundary, &cuts).unwrap(), parts);
        }

        #[test]
        fn anything_ends(body in prop::collection::vec(prop_oneof![Just(b'\r'), Just(b'\n'), Just(b'-'), Just(b'b'), Just(b' ')], 0..200), cuts in prop::collection::vec(0usize..9, 0..40)) {
            let whole = read(&body, "b", &[]);
            prop_assert_eq!(read(&body, "b", &cuts), whole);
        }
    }
}
