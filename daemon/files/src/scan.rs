//! Finding the lines of one file that contain a text.
//!
//! A file is read once, in large blocks that end at line ends; a line longer than [`MAX_LINE`] is searched in pieces, so that memory does
//! not depend on the file.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::OFlags;

use crate::needle::Needle;

/// Bytes read at once.
const BLOCK: usize = 256 << 10;
/// The longest line that is searched as one.
const MAX_LINE: usize = 16 << 20;
/// A zero byte among this many first bytes means that the file is no text.
const SNIFF: usize = 512;

/// A line that contains the text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Line {
    /// From 1.
    pub(crate) number: u64,
    /// Without its end.
    pub(crate) content: String,
}

/// Searches files; its buffer is used again for each.
#[derive(Debug)]
pub(crate) struct Scanner<'n> {
    buffer: Vec<u8>,
    needle: &'n Needle,
}

impl<'n> Scanner<'n> {
    pub(crate) fn new(needle: &'n Needle) -> Self {
        Self { buffer: vec![0; BLOCK], needle }
    }

    /// Calls `found` for each line of the regular file at `path` that contains the text, until it fails. Anything else than text has no lines.
    pub(crate) fn scan(
        &mut self,
        path: &Path,
        found: &mut dyn FnMut(Line) -> io::Result<()>,
    ) -> io::Result<()> {
        // Whoever may not be read is passed over. No waiting for FIFOs: what the walk saw as a file may have become one.
        let flags = (OFlags::NONBLOCK | OFlags::NOCTTY).bits().cast_signed();
        let Ok(file) = OpenOptions::new().read(true).custom_flags(flags).open(path) else { return Ok(()) };
        if !file.metadata().is_ok_and(|m| m.is_file()) {
            return Ok(());
        }
        self.search(file, found)
    }

    fn search(&mut self, mut file: File, found: &mut dyn FnMut(Line) -> io::Result<()>) -> io::Result<()> {
        let (mut held, mut line, mut first) = (0, 1, true);
        loop {
            let (filled, over) = fill(&mut file, &mut self.buffer, held);
            if std::mem::take(&mut first) && memchr::memchr(0, &self.buffer[..filled.min(SNIFF)]).is_some() {
                return Ok(());
            }
            let whole = match memchr::memrchr(b'\n', &self.buffer[..filled]) {
                _ if over => filled,
                Some(newline) => newline + 1,
                None if self.buffer.len() < MAX_LINE => {
                    held = filled;
                    self.buffer.resize(self.buffer.len() * 2, 0);
                    continue;
                }
                None => filled,
            };
            line = lines(&self.buffer[..whole], line, self.needle, found)?;
            if over {
                break;
            }
            self.buffer.copy_within(whole..filled, 0);
            held = filled - whole;
        }
        // What one long line needed is not kept for the files after it.
        self.buffer.truncate(BLOCK);
        self.buffer.shrink_to_fit();
        Ok(())
    }
}

/// Fills the buffer behind what it holds already. A read error is an end, as for files that shrink.
fn fill(file: &mut File, buffer: &mut [u8], held: usize) -> (usize, bool) {
    let mut filled = held;
    while filled < buffer.len() {
        match file.read(&mut buffer[filled..]) {
            Ok(0) => return (filled, true),
            Ok(n) => filled += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return (filled, true),
        }
    }
    (filled, false)
}

/// Searches whole lines, the first of which has `number`. Returns the number of the line after them.
fn lines(
    block: &[u8],
    mut number: u64,
    text: &Needle,
    found: &mut dyn FnMut(Line) -> io::Result<()>,
) -> io::Result<u64> {
    let mut position = 0;
    while let Some(hit) = text.find(&block[position..]) {
        let hit = position + hit;
        let start = memchr::memrchr(b'\n', &block[position..hit]).map_or(position, |i| position + i + 1);
        let end = memchr::memchr(b'\n', &block[hit..]).map_or(block.len(), |i| hit + i);
        number += newlines(&block[position..start]);
        let line = &block[start..end];
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        // The text may have been found across a line end, which belongs to no line.
        if text.find(line).is_some() {
            found(Line { number, content: String::from_utf8_lossy(line).into_owned() })?;
        }
        if end == block.len() {
            return Ok(number);
        }
        position = end + 1;
        number += 1;
    }
    Ok(number + newlines(&block[position..]))
}

fn newlines(bytes: &[u8]) -> u64 {
    memchr::memchr_iter(b'\n', bytes).count() as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn scan_for(content: &[u8], needle: &Needle) -> Vec<(u64, String)> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("f");
        std::fs::write(&path, content).unwrap();
        let mut lines = Vec::new();
        let mut keep = |line: Line| {
            lines.push((line.number, line.content));
            Ok(())
        };
        Scanner::new(needle).scan(&path, &mut keep).unwrap();
        lines
    }

    fn scan(content: &[u8], text: &str) -> Vec<(u64, String)> {
        scan_for(content, &Needle::text(text, false))
    }

    #[test]
    fn lines_have_numbers_and_no_ends() {
        assert_eq!(
            scan(b"x\na x x\r\n\nno\nx", "x"),
            [(1, "x".into()), (2, "a x x".into()), (5, "x".into())]
        );
        assert_eq!(scan(b"a\nb", "a\nb"), []);
        assert_eq!(scan(b"", "x"), []);
        assert_eq!(scan(b"\xff x", "x"), [(1, "\u{fffd} x".into())]);
    }

    #[test]
    fn binary_files_have_no_lines() {
        assert_eq!(scan(b"x\0", "x"), []);
        let late = [&[b'x'; SNIFF][..], b"\0x"].concat();
        assert_eq!(scan(&late, "x").len(), 1);
    }

    #[test]
    fn long_lines_and_block_ends_lose_nothing() {
        let mut content = vec![b'a'; 3 * BLOCK];
        content.extend_from_slice(b"needle\n");
        for n in 0..200_000 {
            content.extend_from_slice(format!("{n}\n").as_bytes());
        }
        content.extend_from_slice(b"needle");
        let found = scan(&content, "needle");
        assert_eq!(found.iter().map(|l| l.0).collect::<Vec<_>>(), [1, 200_002]);
        assert_eq!(found[0].1.len(), 3 * BLOCK + 6);
    }

    #[test]
    fn a_line_without_end_needs_bounded_memory() {
        let content = vec![b'a'; 3 * MAX_LINE];
        let needle = Needle::text("b", false);
        let mut scanner = Scanner::new(&needle);
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("f");
        std::fs::write(&path, &content).unwrap();
        scanner.scan(&path, &mut |_| panic!("there is no b")).unwrap();
        assert_eq!(scanner.buffer.capacity(), BLOCK);
    }

    proptest! {
        #[test]
        fn agrees_with_splitting(content in "[ab\\n]{0,60}", text in "[ab]{1,3}") {
            let mut expected: Vec<_> = content.split('\n').enumerate().filter(|(_, l)| l.contains(&text)).map(|(i, l)| (i as u64 + 1, l.to_owned())).collect();
            expected.retain(|(_, l)| !l.is_empty());
            prop_assert_eq!(scan(content.as_bytes(), &text), expected);
        }
    }
}
