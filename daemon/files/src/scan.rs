//! Finding the lines of one file that contain what is looked for.
//!
//! A file is read once, in large blocks that end at line ends; a line longer than [`MAX_LINE`] is searched in pieces, so that memory does
//! not depend on the file.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, OFlags};

use crate::needle::{Finder, Needle};

/// Bytes read at once.
const BLOCK: usize = 256 << 10;
/// The longest line that is searched as one.
const MAX_LINE: usize = 16 << 20;
/// A zero byte among this many first bytes means that the file is no text.
const SNIFF: usize = 512;

/// A line that contains what is looked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Line {
    /// From 1.
    pub(crate) number: u64,
    /// Without its end.
    pub(crate) content: String,
}

/// Takes what is found, until it fails.
type Take<'t> = dyn FnMut(Line) -> io::Result<()> + 't;

/// Searches files; its buffer is used again for each.
pub(crate) struct Scanner<'n> {
    buffer: Vec<u8>,
    finder: Finder<'n>,
    wanted: &'n dyn Fn() -> bool,
}

impl<'n> Scanner<'n> {
    /// `wanted` is asked again and again whether anybody still wants results.
    pub(crate) fn new(needle: &'n Needle, wanted: &'n dyn Fn() -> bool) -> Self {
        Self { buffer: vec![0; BLOCK], finder: needle.finder(), wanted }
    }

    /// Calls `found` for each line of the regular file at `path` that has what is looked for. Anything else than text has no lines.
    ///
    /// Returns how many bytes were read. Fails when results are not wanted any more, and only then.
    pub(crate) fn scan(&mut self, path: &Path, found: &mut Take<'_>) -> io::Result<u64> {
        // Whoever may not be read is passed over. No waiting for FIFOs: what the walk saw as a file may have become one.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let open = || rustix::fs::openat(CWD, path, flags, Mode::empty());
        let Ok(file) = rustix::io::retry_on_intr(open) else { return Ok(0) };
        match rustix::fs::fstat(&file) {
            Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile => {
                self.search(file.into(), u64::try_from(stat.st_size).unwrap_or(0), found)
            }
            _ => Ok(0),
        }
    }

    fn search(&mut self, mut file: File, size: u64, found: &mut Take<'_>) -> io::Result<u64> {
        let (mut held, mut line, mut read) = (0, 1, 0);
        loop {
            if !(self.wanted)() {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            let (filled, over) = fill(&mut file, &mut self.buffer, held, size.saturating_sub(read));
            if read == 0 && memchr::memchr(0, &self.buffer[..filled.min(SNIFF)]).is_some() {
                return Ok(filled as u64);
            }
            read += (filled - held) as u64;
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
            line = self.block(whole, line, over, found)?;
            if over {
                break;
            }
            self.buffer.copy_within(whole..filled, 0);
            held = filled - whole;
        }
        // What one long line needed is not kept for the files after it.
        self.buffer.truncate(BLOCK);
        self.buffer.shrink_to_fit();
        Ok(read)
    }

    /// Searches the first `whole` bytes, in steps that end soon. Returns the number of the line after them, unless nothing comes after them.
    fn block(&mut self, whole: usize, mut line: u64, last: bool, found: &mut Take<'_>) -> io::Result<u64> {
        let mut begin = 0;
        while begin < whole {
            let end = begin + self.finder.step(&self.buffer[begin..whole]);
            let more = end < whole || !last;
            line = lines(&self.buffer[begin..end], line, more, &mut self.finder, found)?;
            begin = end;
            if begin < whole && !(self.wanted)() {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
        }
        Ok(line)
    }
}

impl fmt::Debug for Scanner<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scanner").field("finder", &self.finder).finish_non_exhaustive()
    }
}

/// Fills the buffer behind what it holds already, and says whether the file is over. It has `left` bytes, or so it was said; none, if it is made as it
/// is read. A read error is an end, as for files that shrink.
fn fill(file: &mut File, buffer: &mut [u8], held: usize, left: u64) -> (usize, bool) {
    let mut filled = held;
    while filled < buffer.len() {
        match file.read(&mut buffer[filled..]) {
            Ok(0) => return (filled, true),
            Ok(n) => filled += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return (filled, true),
        }
        // Asking for an end that is known costs as much as opening the next file.
        if left > 0 && (filled - held) as u64 >= left {
            return (filled, true);
        }
    }
    (filled, false)
}

/// Searches whole lines, the first of which has `number`. Returns the number of the line after them, if there are `more`.
pub(crate) fn lines(
    block: &[u8],
    mut number: u64,
    more: bool,
    finder: &mut Finder<'_>,
    found: &mut Take<'_>,
) -> io::Result<u64> {
    let mut position = 0;
    while position < block.len()
        && let Some(hit) = finder.find(&block[position..])
    {
        let hit = position + hit;
        let start = memchr::memrchr(b'\n', &block[position..hit]).map_or(position, |i| position + i + 1);
        if start == block.len() {
            // An expression that matches nothing may match behind the last line's end, where there is no line.
            break;
        }
        let end = memchr::memchr(b'\n', &block[hit..]).map_or(block.len(), |i| hit + i);
        number += newlines(&block[position..start]);
        let line = &block[start..end];
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        // It may have been found in or across a line end, which belongs to no line.
        if finder.find(line).is_some() {
            found(Line { number, content: String::from_utf8_lossy(line).into_owned() })?;
        }
        if end == block.len() {
            return Ok(number);
        }
        position = end + 1;
        number += 1;
    }
    // Counting is as much work as searching was.
    Ok(if more { number + newlines(&block[position..]) } else { number })
}

fn newlines(bytes: &[u8]) -> u64 {
    memchr::memchr_iter(b'\n', bytes).count() as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use regex_automata::nfa::thompson::pikevm::PikeVM;
    use regex_automata::util::syntax;

    fn scan_for(content: &[u8], needle: &Needle) -> Vec<(u64, String)> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("f");
        std::fs::write(&path, content).unwrap();
        let mut lines = Vec::new();
        let mut keep = |line: Line| {
            lines.push((line.number, line.content));
            Ok(())
        };
        Scanner::new(needle, &|| true).scan(&path, &mut keep).unwrap();
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
        assert_eq!(scan(b"a\rb\n", "\r"), [(1, "a\rb".into())]);
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
        let mut scanner = Scanner::new(&needle, &|| true);
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("f");
        std::fs::write(&path, &content).unwrap();
        scanner.scan(&path, &mut |_| panic!("there is no b")).unwrap();
        assert_eq!(scanner.buffer.capacity(), BLOCK);
    }

    #[test]
    fn nothing_is_searched_for_nobody() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("f");
        std::fs::write(&path, "a\n".repeat(BLOCK)).unwrap();
        for needle in [Needle::text("b", false), Needle::expression("[b]", false).unwrap()] {
            let asked = std::cell::Cell::new(0);
            let wanted = || asked.replace(asked.get() + 1) < 1;
            let scanned = Scanner::new(&needle, &wanted).scan(&path, &mut |_| panic!("there is no b"));
            assert!(scanned.is_err() && asked.get() == 2, "asked {} times", asked.get());
        }
    }

    proptest! {
        #[test]
        fn agrees_with_splitting(content in "[ab\\n]{0,60}", text in "[ab]{1,3}") {
            let mut expected: Vec<_> = content.split('\n').enumerate().filter(|(_, l)| l.contains(&text)).map(|(i, l)| (i as u64 + 1, l.to_owned())).collect();
            expected.retain(|(_, l)| !l.is_empty());
            prop_assert_eq!(scan(content.as_bytes(), &text), expected);
        }

        /// A line is found exactly if the expression matches in it alone, whatever it could match across lines.
        #[test]
        fn expressions_agree_with_splitting(
            content in "([abc]|\\r?\\n){0,60}",
            pattern in prop::sample::select(vec![
                "a[^x]*b", "a\\s*b", "^b", "c$", "^$", "b*", "(?:a|bc)+$", "^a.c", "\\s", "[^a]c", "\\Ab", "a\\z", "\\n", "(?s)a.b", "\\bc",
                "a\\nb|c", "\\B", "[\\n]?a", "(?-u)[^b]a", "(?:\\r|a)$",
            ]),
        ) {
            let needle = Needle::expression(pattern, false).unwrap();
            // As it was written, by another engine, in each line alone.
            let syntax = syntax::Config::new().utf8(false).multi_line(true).crlf(true);
            let alone = PikeVM::builder().syntax(syntax).build(pattern).unwrap();
            let mut lines: Vec<&str> = content.split('\n').collect();
            if lines.last() == Some(&"") {
                lines.pop();
            }
            let bare = lines.into_iter().map(|line| line.strip_suffix('\r').unwrap_or(line)).enumerate();
            let expected: Vec<_> =
                bare.filter(|(_, l)| alone.is_match(&mut alone.create_cache(), *l)).map(|(i, l)| (i as u64 + 1, l.to_owned())).collect();
            prop_assert_eq!(scan_for(content.as_bytes(), &needle), expected);
        }
    }
}
