//! Searching the files of a tree with several threads.
//!
//! One thread walks, some search, and results leave in the order of the walk. Work is handed over in pieces of about the same size, of one file or of
//! many, since handing over costs as much as searching a small file. Each piece's results wait in a slot of a queue that is as long as the read-ahead
//! may be. Every queue is bounded, and so are the bytes in them, so that neither a large tree nor many or long lines are held.
//!
//! Whoever has no more to do ends the others within a block of a file: a client that has left, and one that has the lines it wanted.

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use rustix::fs::FileType;

use crate::budget::Budget;
use crate::directory::Directory;
use crate::find::{Found, Place};
use crate::needle::Needle;
use crate::scan::{Line, Scanner};
use crate::stream::Feed;
use crate::walk::{Entry, walk};

/// Pieces that may be ahead of the one whose results are sent.
const AHEAD: usize = 256;
/// Lines of one piece that may wait for their turn.
const LINES: usize = 64;
/// More threads than this find nothing faster: the walk is the limit.
const MAX_THREADS: usize = 8;
/// Bytes that make a piece: some ten times what handing it over costs.
const PIECE: u64 = 1 << 20;
/// What opening a file costs, in bytes that could have been searched meanwhile.
const OPENING: u64 = 16 << 10;

/// Files to search, which follow each other in the walk.
#[derive(Debug, Default)]
struct Piece(Vec<(Arc<Directory>, Range<usize>)>);

impl Piece {
    /// Adds the entry after the last one.
    fn push(&mut self, directory: &Arc<Directory>, index: usize) {
        match self.0.last_mut() {
            Some((last, range)) if Arc::ptr_eq(last, directory) && range.end == index => range.end += 1,
            _ => self.0.push((directory.clone(), index..index + 1)),
        }
    }
}

/// A piece and where its lines go.
struct Job {
    number: u64,
    piece: Piece,
    lines: SyncSender<(Place, Line)>,
}

/// A piece that is being searched.
struct Slot {
    number: u64,
    lines: Receiver<(Place, Line)>,
}

/// What all threads of a search share.
struct Common<'n> {
    needle: &'n Needle,
    budget: Budget,
    /// What has been searched, for the size of the next pieces.
    files: AtomicU64,
    bytes: AtomicU64,
    over: AtomicBool,
    client: Feed,
}

impl Common<'_> {
    fn wanted(&self) -> bool {
        !self.over.load(Ordering::Relaxed) && !self.client.is_closed()
    }

    /// How many files make a piece: one until it is known how large they are.
    fn files(&self) -> u64 {
        let files = self.files.load(Ordering::Relaxed);
        let each = self.bytes.load(Ordering::Relaxed).checked_div(files);
        each.map_or(1, |each| (PIECE / (each + OPENING)).max(1))
    }
}

/// Sends every line below `root` in which `needle` is found.
pub(crate) fn search(root: &Path, needle: &Needle, found: &mut Found<'_>) -> io::Result<()> {
    let common = Common {
        needle,
        budget: Budget::default(),
        files: AtomicU64::new(0),
        bytes: AtomicU64::new(0),
        over: AtomicBool::new(false),
        client: found.client(),
    };
    // In a sandbox that is full of processes there is no room for threads either.
    together(root, &common, found).unwrap_or_else(|_| alone(root, &common, found))
}

/// Searches with threads; fails, before it sends anything, if there cannot be any.
fn together(root: &Path, common: &Common<'_>, found: &mut Found<'_>) -> io::Result<io::Result<()>> {
    let (jobs, queue) = sync_channel::<Job>(AHEAD);
    let (slots, ordered) = sync_channel::<Slot>(AHEAD);
    // Owned by the searchers, so that the walk ends when they do.
    let queue = Arc::new(Mutex::new(queue));
    let threads = thread::available_parallelism().map_or(1, usize::from).min(MAX_THREADS);
    thread::scope(|scope| {
        for n in 0..threads {
            let queue = queue.clone();
            match thread::Builder::new().spawn_scoped(scope, move || work(&queue, common)) {
                // One searcher is enough, if there cannot be more.
                Err(error) if n == 0 => return Err(error),
                _ => {}
            }
        }
        drop(queue);
        thread::Builder::new().spawn_scoped(scope, move || enumerate(root, common, slots, &jobs))?;
        let sent = send(ordered, common, found);
        common.over.store(true, Ordering::Relaxed);
        common.budget.close();
        Ok(sent)
    })
}

/// Searches on this thread alone.
fn alone(root: &Path, common: &Common<'_>, found: &mut Found<'_>) -> io::Result<()> {
    let wanted = || common.wanted();
    let mut scanner = Scanner::new(common.needle, &wanted);
    let mut path = PathBuf::new();
    let mut sent = Ok(true);
    let mut visit = |entry: Entry<'_>| {
        if entry.kind() != FileType::RegularFile {
            return Ok(());
        }
        let place = Place { directory: entry.directory.clone(), index: entry.index };
        let mut push = |line: Line| {
            sent = found.push(&place, line);
            if matches!(sent, Ok(true)) { Ok(()) } else { Err(io::ErrorKind::BrokenPipe.into()) }
        };
        entry.directory.put_path(entry.index, &mut path);
        scanner.scan(&path, &mut push).map(|_| ())
    };
    let _ = walk(root, &mut visit);
    sent.map(|_| ())
}

/// Queues every regular file, until nobody listens any more.
fn enumerate(root: &Path, common: &Common<'_>, slots: SyncSender<Slot>, jobs: &SyncSender<Job>) {
    let (mut number, mut files, mut piece) = (0, 0, Piece::default());
    let mut hand_over = |piece: Piece| {
        let (lines, results) = sync_channel(LINES);
        let (slot, job) = (Slot { number, lines: results }, Job { number, piece, lines });
        number += 1;
        // The slot first: no searcher ever works for a slot that is not in the queue yet.
        slots.send(slot).map_err(|_| io::ErrorKind::BrokenPipe)?;
        jobs.send(job).map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))
    };
    let mut visit = |entry: Entry<'_>| {
        if !common.wanted() {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        if entry.kind() != FileType::RegularFile {
            return Ok(());
        }
        piece.push(entry.directory, entry.index);
        files += 1;
        if files < common.files() {
            return Ok(());
        }
        files = 0;
        hand_over(std::mem::take(&mut piece))
    };
    if walk(root, &mut visit).is_ok() && !piece.0.is_empty() {
        // The only failure is that nobody listens any more.
        let _ = hand_over(piece);
    }
}

/// Sends the results of each slot in turn. Dropping the queue, when the client has left or has enough, ends the walk.
fn send(ordered: Receiver<Slot>, common: &Common<'_>, found: &mut Found<'_>) -> io::Result<()> {
    for slot in ordered {
        if common.client.is_closed() {
            break;
        }
        common.budget.turn(slot.number);
        for (place, line) in slot.lines {
            common.budget.give(line.content.len());
            if !found.push(&place, line)? {
                return Ok(());
            }
        }
    }
    // The walk may have ended because the client has left.
    if common.client.is_closed() { Err(io::ErrorKind::BrokenPipe.into()) } else { Ok(()) }
}

fn work(queue: &Mutex<Receiver<Job>>, common: &Common<'_>) {
    let wanted = || common.wanted();
    let mut scanner = Scanner::new(common.needle, &wanted);
    let mut path = PathBuf::new();
    loop {
        let job = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(Job { number, piece, lines }) = job else { return };
        let (mut files, mut bytes) = (0, 0);
        for (directory, range) in piece.0 {
            for index in range {
                directory.put_path(index, &mut path);
                let mut found = |line: Line| {
                    let place = Place { directory: directory.clone(), index };
                    let wanted =
                        common.budget.take(number, line.content.len()) && lines.send((place, line)).is_ok();
                    if wanted { Ok(()) } else { Err(io::ErrorKind::BrokenPipe.into()) }
                };
                match scanner.scan(&path, &mut found) {
                    Ok(searched) => bytes += searched,
                    // Nobody listens any more.
                    Err(_) => return,
                }
                files += 1;
            }
        }
        common.files.fetch_add(files, Ordering::Relaxed);
        common.bytes.fetch_add(bytes, Ordering::Relaxed);
    }
}
