//! The in-band markers of a command's log: three bytes before each chunk say which stream it belongs to (toolbox contract 8.4).
//!
//! There is no escaping. Readers look for three equal marker bytes from left to right, so a payload that holds them, or that ends with the bytes a
//! following marker begins with, would be misread. [`Writer`] never produces such a log: it cuts a run after two bytes and puts a marker of the
//! other stream between, an empty chunk, which every reader takes for what it is. [`Splitter`] reads a log back incrementally, correctly
//! across the boundaries of the pieces it is given.

/// Precedes standard output.
pub const STDOUT: [u8; 3] = [1, 1, 1];
/// Precedes standard error.
pub const STDERR: [u8; 3] = [2, 2, 2];

/// Which stream a chunk belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

impl Stream {
    /// The stream's marker.
    pub const fn marker(self) -> [u8; 3] {
        match self {
            Self::Stdout => STDOUT,
            Self::Stderr => STDERR,
        }
    }

    const fn other(self) -> Self {
        match self {
            Self::Stdout => Self::Stderr,
            Self::Stderr => Self::Stdout,
        }
    }

    const fn of(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Self::Stdout),
            2 => Some(Self::Stderr),
            _ => None,
        }
    }
}

/// Tags chunks. Appending what it returns to what it returned before makes a log that reads back to exactly the same bytes of each stream.
#[derive(Debug, Clone, Default)]
pub struct Writer {
    stream: Option<Stream>,
    /// The marker byte that the payload ends with, and how often, since the last marker.
    run: Option<(u8, u8)>,
}

impl Writer {
    /// The log's bytes for `payload` on `stream`; none for an empty payload. They never end with a marker.
    pub fn chunk(&mut self, stream: Stream, payload: &[u8], log: &mut Vec<u8>) {
        if payload.is_empty() {
            return;
        }
        log.reserve(payload.len() + 6);
        if self.stream != Some(stream) {
            self.mark(stream, log);
        }
        for &byte in payload {
            let Some(looks_like) = Stream::of(byte) else {
                self.run = None;
                log.push(byte);
                continue;
            };
            let length = match self.run {
                Some((last, length)) if last == byte => length,
                _ => 0,
            };
            if length == 2 {
                // The other stream's marker cannot be taken for part of this run, nor this run for part of it.
                if looks_like == stream {
                    self.mark(stream.other(), log);
                }
                self.mark(stream, log);
                self.run = Some((byte, 1));
            } else {
                self.run = Some((byte, length + 1));
            }
            log.push(byte);
        }
    }

    fn mark(&mut self, stream: Stream, log: &mut Vec<u8>) {
        // A payload that ends with this marker's own byte would lend it to the marker.
        if self.run.is_some_and(|(byte, _)| Stream::of(byte) == Some(stream)) {
            log.extend_from_slice(&stream.other().marker());
        }
        log.extend_from_slice(&stream.marker());
        self.stream = Some(stream);
        self.run = None;
    }
}

/// Takes a log apart. State is kept between pieces, so a marker may be split anywhere.
#[derive(Debug, Clone, Default)]
pub struct Splitter {
    stream: Option<Stream>,
    /// A possible beginning of a marker: this byte, so many times (at most 2).
    held: Option<(u8, usize)>,
}

impl Splitter {
    /// Reads `piece` and hands out payload; `None` for bytes before the first marker.
    pub fn feed<'a>(&mut self, piece: &'a [u8], mut out: impl FnMut(Option<Stream>, &'a [u8])) {
        const HELD: [[u8; 2]; 2] = [[1, 1], [2, 2]];
        let mut start = 0;
        let mut at = 0;
        while at < piece.len() {
            let byte = piece[at];
            if let Some((held, count)) = self.held {
                if byte == held && count == 2 {
                    self.stream = Stream::of(byte);
                    self.held = None;
                    at += 1;
                    start = at;
                    continue;
                }
                if byte == held {
                    self.held = Some((held, count + 1));
                    at += 1;
                    start = at;
                    continue;
                }
                // It was payload after all.
                out(self.stream, &HELD[usize::from(held) - 1][..count]);
                self.held = None;
                start = at;
            }
            if Stream::of(byte).is_some() {
                if start < at {
                    out(self.stream, &piece[start..at]);
                }
                self.held = Some((byte, 1));
                at += 1;
                start = at;
            } else {
                at += 1;
            }
        }
        if start < piece.len() && self.held.is_none() {
            out(self.stream, &piece[start..]);
        }
    }

    /// The log is over: what looked like the beginning of a marker was payload.
    pub fn finish(&mut self, mut out: impl FnMut(Option<Stream>, &[u8])) {
        if let Some((byte, count)) = self.held.take() {
            out(self.stream, &[byte; 2][..count]);
        }
    }
}

/// How much of `piece` may be sent as one frame: at most `max` bytes, and not so that it ends like a marker, which some clients misread
/// (toolbox contract 8.5). Zero if nothing of it can be sent yet.
pub fn frame_length(piece: &[u8], max: usize) -> usize {
    let mut end = piece.len().min(max);
    while end >= 3 && (piece[end - 3..end] == STDOUT || piece[end - 3..end] == STDERR) {
        end -= 1;
    }
    // Two bytes that could become a marker with the third are fine; one whole marker and nothing else is not.
    end
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What a client does: the leftmost three equal marker bytes are a marker.
    fn naive(log: &[u8]) -> (Vec<u8>, Vec<u8>, Vec<u8>) {
        let (mut out, mut err, mut before) = (Vec::new(), Vec::new(), Vec::new());
        let (mut at, mut stream) = (0, None);
        while at < log.len() {
            let marker = log.get(at..at + 3);
            if marker == Some(&STDOUT) || marker == Some(&STDERR) {
                stream = Stream::of(log[at]);
                at += 3;
                continue;
            }
            match stream {
                Some(Stream::Stdout) => out.push(log[at]),
                Some(Stream::Stderr) => err.push(log[at]),
                None => before.push(log[at]),
            }
            at += 1;
        }
        (out, err, before)
    }

    fn split(pieces: &[&[u8]]) -> (Vec<u8>, Vec<u8>, Vec<u8>) {
        let (mut out, mut err, mut before) = (Vec::new(), Vec::new(), Vec::new());
        let mut splitter = Splitter::default();
        let mut put = |stream, bytes: &[u8]| match stream {
            Some(Stream::Stdout) => out.extend_from_slice(bytes),
            Some(Stream::Stderr) => err.extend_from_slice(bytes),
            None => before.extend_from_slice(bytes),
        };
        for piece in pieces {
            splitter.feed(piece, &mut put);
        }
        splitter.finish(&mut put);
        (out, err, before)
    }

    #[test]
    fn ordinary_output_gets_one_marker_a_change() {
        let (mut writer, mut log) = (Writer::default(), Vec::new());
        for (stream, text) in [(Stream::Stdout, "a\n"), (Stream::Stdout, "b\n"), (Stream::Stderr, "c\n")] {
            writer.chunk(stream, text.as_bytes(), &mut log);
        }
        assert_eq!(log, b"\x01\x01\x01a\nb\n\x02\x02\x02c\n");
    }

    #[test]
    fn the_contracts_example_reads_back() {
        let log = b"\x01\x01\x01a\n\x01\x01\x01b\n\x02\x02\x02c\n";
        assert_eq!(split(&[log]), (b"a\nb\n".to_vec(), b"c\n".to_vec(), vec![]));
        assert_eq!(split(&[b"lost", log]).2, b"lost");
    }

    #[test]
    fn frames_do_not_end_like_a_marker() {
        assert_eq!(frame_length(b"\x01\x01\x01abc", 4), 4);
        assert_eq!(frame_length(b"ab\x02\x02\x02c", 5), 4);
        assert_eq!(frame_length(b"\x01\x01\x01", 9), 2);
        assert_eq!(frame_length(b"a\x01\x01\x01\x01\x01b", 6), 3);
    }

    fn chunks() -> impl Strategy<Value = Vec<(bool, Vec<u8>)>> {
        proptest::collection::vec((any::<bool>(), proptest::collection::vec(0_u8..4, 0..12)), 0..12)
    }

    proptest! {
        #[test]
        fn any_bytes_read_back_unchanged(chunks in chunks(), cuts in proptest::collection::vec(0_usize..200, 0..6)) {
            let (mut writer, mut log) = (Writer::default(), Vec::new());
            let (mut out, mut err) = (Vec::new(), Vec::new());
            for (is_err, payload) in &chunks {
                let stream = if *is_err { Stream::Stderr } else { Stream::Stdout };
                writer.chunk(stream, payload, &mut log);
                if *is_err { err.extend_from_slice(payload) } else { out.extend_from_slice(payload) }
            }
            let expected = (out, err, vec![]);
            prop_assert_eq!(&naive(&log), &expected);
            let mut cuts: Vec<usize> = cuts.into_iter().map(|c| c.min(log.len())).chain([0, log.len()]).collect();
            cuts.sort_unstable();
            let pieces: Vec<&[u8]> = cuts.windows(2).map(|w| &log[w[0]..w[1]]).collect();
            prop_assert_eq!(&split(&pieces), &expected);
        }

        #[test]
        fn any_log_splits_like_a_client_does(log in proptest::collection::vec(0_u8..4, 0..60), cut in 0_usize..60) {
            let cut = cut.min(log.len());
            prop_assert_eq!(split(&[&log[..cut], &log[cut..]]), naive(&log));
        }
    }
}
