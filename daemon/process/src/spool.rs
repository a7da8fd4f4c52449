//! A command's output while it runs: in memory while it is short, in an unnamed temporary file beyond that, and cut at a cap.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::PathBuf;
use std::sync::Arc;

use nix::libc::O_TMPFILE;
use nix::sys::memfd::{MFdFlags, memfd_create};

use crate::body::Source;

/// Output up to this size stays in memory.
const IN_MEMORY: usize = 1 << 20;

/// An unnamed file that goes when it is closed: in `$TMPDIR`, or in memory where that cannot be written.
pub(crate) fn unnamed() -> io::Result<File> {
    let directory = std::env::var_os("TMPDIR")
        .filter(|d| !d.is_empty())
        .map_or_else(|| PathBuf::from("/tmp"), PathBuf::from);
    let named = OpenOptions::new().read(true).write(true).mode(0o600).custom_flags(O_TMPFILE).open(directory);
    named.or_else(|_| in_memory("output"))
}

/// A file that exists in memory only. Children do not inherit it.
pub(crate) fn in_memory(name: &str) -> io::Result<File> {
    Ok(File::from(memfd_create(name, MFdFlags::MFD_CLOEXEC)?))
}

/// Output being collected.
#[derive(Debug)]
pub(crate) struct Spool {
    memory: Vec<u8>,
    file: Option<File>,
    length: u64,
    max: u64,
    truncated: bool,
}

impl Spool {
    pub(crate) fn new(max: u64) -> Self {
        Self { memory: Vec::new(), file: None, length: 0, max, truncated: false }
    }

    /// Keeps `bytes` as far as the cap allows; what cannot be written down is counted as cut off.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        let room = usize::try_from(self.max - self.length).unwrap_or(usize::MAX);
        let kept = &bytes[..bytes.len().min(room)];
        self.truncated |= kept.len() < bytes.len();
        if self.file.is_none() && self.memory.len() + kept.len() > IN_MEMORY {
            match unnamed().and_then(|file| file.write_all_at(&self.memory, 0).map(|()| file)) {
                Ok(file) => {
                    self.file = Some(file);
                    self.memory = Vec::new();
                }
                Err(error) => return self.give_up(&error),
            }
        }
        if self.truncated && kept.is_empty() {
            return;
        }
        match &self.file {
            None => self.memory.extend_from_slice(kept),
            // Where it belongs, and not where a write that failed in the middle has left off.
            Some(file) => {
                if let Err(error) = file.write_all_at(kept, self.length) {
                    return self.give_up(&error);
                }
            }
        }
        self.length += kept.len() as u64;
    }

    /// Adds a word of our own after the output was cut.
    pub(crate) fn append_past_cap(&mut self, bytes: &[u8]) {
        let kept = match &self.file {
            None => {
                self.memory.extend_from_slice(bytes);
                true
            }
            Some(file) => file.write_all_at(bytes, self.length).is_ok(),
        };
        self.length += if kept { bytes.len() as u64 } else { 0 };
    }

    fn give_up(&mut self, error: &io::Error) {
        tracing::warn!(%error, kept = self.length, "the output of a command could not be kept");
        self.truncated = true;
        self.max = self.length;
    }

    pub(crate) fn truncated(&self) -> bool {
        self.truncated
    }

    /// The last `count` bytes, or fewer.
    pub(crate) fn tail(self, count: usize) -> Vec<u8> {
        let source = self.source();
        let start = source.len().saturating_sub(count as u64);
        let mut tail = vec![0; count];
        let read = source.read_at(&mut tail, start).unwrap_or(0);
        tail.truncate(read);
        tail
    }

    pub(crate) fn source(self) -> Source {
        match self.file {
            None => Source::memory(self.memory),
            Some(file) => Source::file(Arc::new(file), self.length),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(source: &Source) -> Vec<u8> {
        let mut all = vec![0; usize::try_from(source.len()).unwrap()];
        let mut at = 0;
        while at < all.len() {
            at += source.read_at(&mut all[at..], at as u64).unwrap();
        }
        all
    }

    #[test]
    fn keeps_everything_in_order_past_the_threshold() {
        let mut spool = Spool::new(1 << 30);
        let mut expected = Vec::new();
        for n in 0..100_u32 {
            let piece = vec![n.to_le_bytes()[0]; 33_333];
            spool.push(&piece);
            expected.extend_from_slice(&piece);
        }
        assert!(spool.file.is_some() && !spool.truncated());
        assert!(bytes(&spool.source()) == expected);
    }

    #[test]
    fn cuts_at_the_cap_and_says_so() {
        let mut spool = Spool::new(10);
        spool.push(b"0123456789");
        assert!(!spool.truncated());
        spool.push(b"x");
        assert!(spool.truncated());
        assert_eq!(spool.tail(4), b"6789");
    }
}
