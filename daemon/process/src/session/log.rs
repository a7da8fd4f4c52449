//! A command's log: tagged chunks of its output (toolbox contract 8.4), on disk at the contract's path or in memory where that cannot be written.
//!
//! One writer appends; any number of readers learn of each append and of the end through a watch, and read by offset. A log is *over* when its command
//! is: what a background process writes later is still appended, for those who ask again, but nobody follows it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use pinfold_proto::markers::{self, Stream};
use tokio::sync::watch;

use crate::body::Source;
use crate::spool::in_memory;

/// How far a log is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Progress {
    /// Bytes that may be read.
    pub(crate) length: u64,
    /// Whether the command has ended and all its output is there.
    pub(crate) over: bool,
}

#[derive(Debug)]
enum Place {
    Disk(PathBuf),
    Memory(Arc<File>),
}

/// The reading side.
#[derive(Debug)]
pub(crate) struct Log {
    place: Place,
    progress: watch::Sender<Progress>,
    /// Whether nobody can ask for it any more.
    discarded: AtomicBool,
}

/// The writing side.
#[derive(Debug)]
pub(crate) struct LogWriter {
    log: Arc<Log>,
    /// Absent once the log is discarded.
    file: Option<Arc<File>>,
    tagger: markers::Writer,
    tagged: Vec<u8>,
    length: u64,
    max: u64,
    full: bool,
}

impl Log {
    /// An empty log in `directory`, which is created.
    pub(crate) fn create(directory: &Path, max: u64) -> io::Result<(Arc<Self>, LogWriter)> {
        let path = directory.join("output.log");
        let (place, file) = match open(directory, &path) {
            Ok(file) => (Place::Disk(path), Arc::new(file)),
            Err(error) => {
                tracing::warn!(?path, %error, "a command's log is kept in memory");
                let file = Arc::new(in_memory("output.log")?);
                (Place::Memory(Arc::clone(&file)), file)
            }
        };
        let (progress, _) = watch::channel(Progress { length: 0, over: false });
        let log = Arc::new(Self { place, progress, discarded: AtomicBool::new(false) });
        let writer = LogWriter {
            log: Arc::clone(&log),
            file: Some(file),
            tagger: markers::Writer::default(),
            tagged: Vec::new(),
            length: 0,
            max,
            full: false,
        };
        Ok((log, writer))
    }

    /// Everything so far.
    pub(crate) fn source(&self) -> io::Result<Source> {
        let length = self.progress.borrow().length;
        Ok(Source::file(self.file()?, length))
    }

    /// For reading by offset.
    pub(crate) fn file(&self) -> io::Result<Arc<File>> {
        match &self.place {
            Place::Disk(path) => Ok(Arc::new(File::open(path)?)),
            Place::Memory(file) => Ok(Arc::clone(file)),
        }
    }

    /// Nothing is appended from now on.
    pub(crate) fn discard(&self) {
        self.discarded.store(true, Ordering::Relaxed);
    }

    /// Tells of appends and of the end.
    pub(crate) fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.subscribe()
    }

    /// Records the exit code beside the log, for people who look at the files.
    pub(crate) fn note_exit(&self, code: i32) {
        if let Place::Disk(path) = &self.place {
            let _ = fs::write(path.with_file_name("exit_code"), format!("{code}\n"));
        }
    }
}

fn open(directory: &Path, path: &Path) -> io::Result<File> {
    fs::create_dir_all(directory)?;
    OpenOptions::new().read(true).write(true).create(true).truncate(true).mode(0o600).open(path)
}

impl LogWriter {
    /// Appends `payload`, up to the cap; then one notice, then nothing.
    pub(crate) fn append(&mut self, stream: Stream, payload: &[u8]) {
        if self.log.discarded.load(Ordering::Relaxed) {
            self.file = None;
        }
        let Some(file) = self.file.as_deref().filter(|_| !self.full && !payload.is_empty()) else { return };
        let room = usize::try_from(self.max.saturating_sub(self.length)).unwrap_or(usize::MAX);
        self.tagger.chunk(stream, &payload[..payload.len().min(room)], &mut self.tagged);
        if payload.len() > room {
            self.full = true;
            let notice = format!("\n[output truncated: this log keeps {} bytes]\n", self.max);
            self.tagger.chunk(Stream::Stderr, notice.as_bytes(), &mut self.tagged);
        }
        match (&mut &*file).write_all(&self.tagged) {
            Ok(()) => self.length += self.tagged.len() as u64,
            Err(error) => {
                tracing::warn!(%error, "a command's log ends early");
                self.full = true;
            }
        }
        self.tagged.clear();
        let length = self.length;
        self.log.progress.send_modify(|progress| progress.length = length);
    }

    /// The command has ended and everything it wrote has been appended.
    pub(crate) fn over(&self) {
        self.log.progress.send_modify(|progress| progress.over = true);
    }
}

impl Drop for LogWriter {
    fn drop(&mut self) {
        self.over();
    }
}
