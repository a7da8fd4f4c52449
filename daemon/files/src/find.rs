//! `GET /files/find`: which lines below a path contain a text.
//!
//! One thread walks, some search, and results leave in the order of the walk: each file's results wait in a slot of a queue that is as long as
//! the read-ahead may be. Every queue is bounded, and so are the bytes in them, so that neither a large tree nor many or long lines are held.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use axum::extract::State;
use axum::response::Response;
use pinfold_http::{ApiResult, Query};
use pinfold_proto::toolbox::files::Match;
use pinfold_spawn::Sandbox;
use serde::Serialize;

use crate::budget::Budget;
use crate::limit::Limit;
use crate::needle::Needle;
use crate::path;
use crate::scan::{Line, Scanner};
use crate::stream::{JsonList, json_list};
use crate::walk::{Entry, walk};

/// Files that may be ahead of the one whose results are sent.
const AHEAD: usize = 512;
/// Lines of one file that may wait for their turn.
const LINES: usize = 64;
/// More threads than this find nothing faster: the walk is the limit.
const MAX_THREADS: usize = 8;

/// Every matching line, in the order of the walk. Two parameters are ours: `ignoreCase=true` takes ASCII letters in any case, and `limit` is how many
/// lines are wanted; the one after the last then says that there are more.
pub(crate) async fn find(State(sandbox): State<Sandbox>, query: Query) -> ApiResult<Response> {
    let given = PathBuf::from(query.required("path")?);
    let pattern = query.required("pattern")?;
    let any_case = query.flag("ignoreCase");
    let needle = Needle::text(pattern, any_case);
    let limit = Limit::of(&query)?;
    let root = sandbox.resolve(&given);
    let search = move |list: &mut JsonList| {
        let mut found = Found { given: &path::clean(&given), list, limit };
        run(&root, &needle, &mut found)
    };
    Ok(json_list("[", "]", search))
}

/// Takes what is found, in order.
struct Found<'f> {
    given: &'f Path,
    list: &'f mut JsonList,
    limit: Limit,
}

impl Found<'_> {
    /// Sends one line. False when no more are wanted.
    fn push(&mut self, file: &str, line: Line) -> io::Result<bool> {
        if !self.limit.take() {
            self.list.push(&Cut { file: "", line: 0, content: "", truncated: true })?;
            return Ok(false);
        }
        self.list.push(&Match { file: file.to_owned(), line: line.number, content: line.content })?;
        Ok(true)
    }
}

/// In place of a line: there are more than were wanted.
#[derive(Debug, Serialize)]
struct Cut {
    file: &'static str,
    line: u64,
    content: &'static str,
    truncated: bool,
}

/// A file to search and where its lines go.
struct Job {
    number: u64,
    path: PathBuf,
    lines: SyncSender<Line>,
}

/// A file that is being searched.
struct Slot {
    number: u64,
    below: PathBuf,
    lines: Receiver<Line>,
}

fn run(root: &Path, needle: &Needle, found: &mut Found<'_>) -> io::Result<()> {
    // In a sandbox that is full of processes there is no room for threads either.
    together(root, needle, found).unwrap_or_else(|_| alone(root, needle, found))
}

/// Searches with threads; fails, before it sends anything, if there cannot be any.
fn together(root: &Path, needle: &Needle, found: &mut Found<'_>) -> io::Result<io::Result<()>> {
    let budget = Budget::default();
    let (jobs, queue) = sync_channel::<Job>(AHEAD);
    let (slots, ordered) = sync_channel::<Slot>(AHEAD);
    // Owned by the searchers, so that the walk ends when they do.
    let queue = Arc::new(Mutex::new(queue));
    let threads = thread::available_parallelism().map_or(1, usize::from).min(MAX_THREADS);
    thread::scope(|scope| {
        let budget = &budget;
        for n in 0..threads {
            let queue = queue.clone();
            match thread::Builder::new().spawn_scoped(scope, move || search(&queue, needle, budget)) {
                // One searcher is enough, if there cannot be more.
                Err(error) if n == 0 => return Err(error),
                _ => {}
            }
        }
        drop(queue);
        thread::Builder::new().spawn_scoped(scope, move || enumerate(root, &slots, &jobs))?;
        let sent = send(ordered, budget, found);
        budget.close();
        Ok(sent)
    })
}

/// Searches on this thread alone.
fn alone(root: &Path, needle: &Needle, found: &mut Found<'_>) -> io::Result<()> {
    let mut scanner = Scanner::new(needle);
    let mut sent = Ok(true);
    let mut visit = |entry: Entry| {
        if !entry.kind.is_file() {
            return Ok(());
        }
        let file = report(found.given, &entry.below);
        let mut push = |line: Line| {
            sent = found.push(&file, line);
            if matches!(sent, Ok(true)) { Ok(()) } else { Err(io::ErrorKind::BrokenPipe.into()) }
        };
        scanner.scan(&entry.path, &mut push)
    };
    let _ = walk(root, &mut visit);
    sent.map(|_| ())
}

/// Queues every regular file, until nobody listens any more.
fn enumerate(root: &Path, slots: &SyncSender<Slot>, jobs: &SyncSender<Job>) {
    let mut number = 0;
    let mut visit = |entry: Entry| {
        if !entry.kind.is_file() {
            return Ok(());
        }
        let (lines, results) = sync_channel(LINES);
        let slot = Slot { number, below: entry.below, lines: results };
        let job = Job { number, path: entry.path, lines };
        number += 1;
        // The slot first: no searcher ever works for a slot that is not in the queue yet.
        slots.send(slot).map_err(|_| io::ErrorKind::BrokenPipe)?;
        Ok(jobs.send(job).map_err(|_| io::ErrorKind::BrokenPipe)?)
    };
    let _ = walk(root, &mut visit);
}

/// Sends the results of each slot in turn. Dropping the queue, when the client has left or has enough, ends the walk and the searches.
fn send(ordered: Receiver<Slot>, budget: &Budget, found: &mut Found<'_>) -> io::Result<()> {
    for slot in ordered {
        if found.list.abandoned() {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        budget.turn(slot.number);
        let mut file = None;
        for line in slot.lines {
            budget.give(line.content.len());
            let file = file.get_or_insert_with(|| report(found.given, &slot.below)).clone();
            if !found.push(&file, line)? {
                return Ok(());
            }
        }
    }
    Ok(())
}

fn search(queue: &Mutex<Receiver<Job>>, needle: &Needle, budget: &Budget) {
    let mut scanner = Scanner::new(needle);
    loop {
        let job = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(job) = job else { return };
        let mut found = |line: Line| {
            let wanted = budget.take(job.number, line.content.len()) && job.lines.send(line).is_ok();
            if wanted { Ok(()) } else { Err(io::ErrorKind::BrokenPipe.into()) }
        };
        // The only failure is that nobody listens any more; the queue tells that too.
        let _ = scanner.scan(&job.path, &mut found);
    }
}

/// The root as it was asked for, joined with what is below it.
pub(crate) fn report(given: &Path, below: &Path) -> String {
    if below.as_os_str().is_empty() {
        path::text(given)
    } else {
        path::text(&path::clean(&given.join(below)))
    }
}
