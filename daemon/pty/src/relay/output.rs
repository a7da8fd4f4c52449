//! What a session's terminal has written: a bounded ring, and each client's position in it.
//!
//! Invariants: at most [`Limits::kept`] bytes are held; a client's bytes come in order and without gaps, or it is told that it was overrun;
//! the end is told after the last byte. The writer waits for a client that is behind, but only for [`Limits::patience`] after that client last
//! took something, so that a stuck client delays its session once and then is dropped.
//!
//! What was sent has not arrived: a client whose network went away swallows what the kernel took for it. So a client's bytes count as seen only when it
//! has confirmed them ([`Receipts`]), and whoever comes next begins at the first that nobody has.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use pinfold_spawn::Exit;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, timeout, timeout_at};

/// The most bytes given to a client at once: a pong never waits behind more.
pub(crate) const CHUNK: usize = 16 << 10;
/// A client that owes a receipt for so long may be dead.
const DOUBT: Duration = Duration::from_secs(1);

/// How much is kept, and for how long a slow client is waited for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub kept: usize,
    pub patience: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { kept: 256 << 10, patience: Duration::from_secs(5) }
    }
}

/// Where a new client starts to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum From {
    /// At the first byte that no client has confirmed; at the end while a client is attached that is surely alive.
    Unseen,
    /// At the oldest byte kept.
    Oldest,
    /// At this byte, counted from the session's start, or the nearest that is kept.
    Offset(u64),
}

#[derive(Debug, Default)]
struct State {
    ring: VecDeque<u8>,
    /// Count of all bytes ever written; the ring holds the last of them.
    end: u64,
    /// Up to where everything has been confirmed by some client.
    seen: u64,
    readers: HashMap<u64, Position>,
    next_reader: u64,
    ended: Option<Exit>,
}

#[derive(Debug)]
struct Position {
    start: u64,
    at: u64,
    overrun: bool,
    /// Since when it owes a receipt.
    owes: Option<Instant>,
}

impl Position {
    fn is_in_doubt(&self) -> bool {
        self.owes.is_some_and(|since| since.elapsed() >= DOUBT)
    }
}

impl State {
    fn start(&self) -> u64 {
        self.end - self.ring.len() as u64
    }

    /// The readers that would lose bytes if everything before `limit` went.
    fn behind(&mut self, limit: u64) -> impl Iterator<Item = &mut Position> {
        self.readers.values_mut().filter(move |r| !r.overrun && r.at < limit)
    }

    fn push(&mut self, bytes: &[u8], kept: usize) {
        let bytes_kept = &bytes[bytes.len().saturating_sub(kept)..];
        let excess = (self.ring.len() + bytes_kept.len()).saturating_sub(kept);
        self.ring.drain(..excess);
        self.ring.extend(bytes_kept);
        self.end += bytes.len() as u64;
    }

    fn copy(&self, from: u64, most: usize) -> Bytes {
        let skip = usize::try_from(from - self.start()).unwrap_or(usize::MAX).min(self.ring.len());
        let count = (self.ring.len() - skip).min(most);
        let (front, back) = self.ring.as_slices();
        let mut copy = Vec::with_capacity(count);
        let in_front = front.get(skip..).unwrap_or_default();
        copy.extend_from_slice(&in_front[..in_front.len().min(count)]);
        let in_back = back.get(skip.saturating_sub(front.len())..).unwrap_or_default();
        copy.extend_from_slice(&in_back[..count - copy.len()]);
        copy.into()
    }
}

/// The log of one session.
#[derive(Debug)]
pub(crate) struct OutputLog {
    limits: Limits,
    state: Mutex<State>,
    /// Something was written, a reader was overrun, or the session ended.
    changed: watch::Sender<()>,
    /// A reader took something or went away. Only the writer waits for it.
    taken: Notify,
}

impl OutputLog {
    pub(crate) fn new(limits: Limits) -> Arc<Self> {
        let (changed, _) = watch::channel(());
        Arc::new(Self { limits, state: Mutex::default(), changed, taken: Notify::new() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds what the terminal wrote; waits for clients that would lose something by it. To be called by one task only.
    pub(crate) async fn append(&self, bytes: &[u8]) {
        let mut deadline = Instant::now() + self.limits.patience;
        let mut slowest = None;
        loop {
            {
                let mut state = self.state();
                let limit = (state.end + bytes.len() as u64).saturating_sub(self.limits.kept as u64);
                let now_slowest = state.behind(limit).map(|r| r.at).min();
                let waited_for = now_slowest.is_some() && now_slowest == slowest;
                if now_slowest.is_none() || (waited_for && Instant::now() >= deadline) {
                    state.behind(limit).for_each(|r| r.overrun = true);
                    state.push(bytes, self.limits.kept);
                    break;
                }
                if !waited_for {
                    slowest = now_slowest;
                    deadline = Instant::now() + self.limits.patience;
                }
            }
            let _ = timeout_at(deadline, self.taken.notified()).await;
        }
        self.changed.send_replace(());
    }

    /// The session has ended and nothing more will be written.
    pub(crate) fn end(&self, exit: Exit) {
        self.state().ended.get_or_insert(exit);
        self.changed.send_replace(());
    }

    /// Waits until nobody has been attached and nothing was written for as long as `limit`, twice that at most. False if the session ends before.
    pub(crate) async fn abandoned(&self, limit: Duration) -> bool {
        let mut changed = self.changed.subscribe();
        let mut before = None;
        loop {
            let now = {
                let state = self.state();
                if state.ended.is_some() {
                    return false;
                }
                state.readers.is_empty().then_some((state.end, state.next_reader))
            };
            if now.is_some() && now == before {
                return true;
            }
            before = now;
            // Nobody keeps an ended session's log until the limit has passed.
            let ended = changed.wait_for(|()| self.state().ended.is_some());
            if timeout(limit, ended).await.is_ok() {
                return false;
            }
        }
    }

    /// A new client.
    pub(crate) fn reader(self: &Arc<Self>, from: From) -> Reader {
        let mut state = self.state();
        let at = match from {
            From::Unseen if state.readers.values().all(Position::is_in_doubt) => state.seen,
            From::Unseen => state.end,
            From::Oldest => 0,
            From::Offset(offset) => offset,
        };
        let at = at.clamp(state.start(), state.end);
        let id = state.next_reader;
        state.next_reader += 1;
        state.readers.insert(id, Position { start: at, at, overrun: false, owes: None });
        drop(state);
        Reader { log: Arc::clone(self), id, start: at, changed: self.changed.subscribe() }
    }
}

/// What a client gets next.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Output, at most [`CHUNK`] bytes.
    Output(Bytes),
    /// It was too slow: bytes it has not read are gone.
    Overrun,
    /// The session has ended, and this client has had everything.
    End(Exit),
}

/// One client's position.
#[derive(Debug)]
pub(crate) struct Reader {
    log: Arc<OutputLog>,
    id: u64,
    start: u64,
    changed: watch::Receiver<()>,
}

impl Reader {
    /// Where it started, counted in bytes from the session's start.
    pub(crate) fn start(&self) -> u64 {
        self.start
    }

    /// Where this client's receipts go.
    pub(crate) fn receipts(&self) -> Receipts {
        Receipts { log: Arc::clone(&self.log), id: self.id }
    }

    /// Up to where it was given output.
    pub(crate) fn given(&self) -> u64 {
        self.log.state().readers.get(&self.id).map_or(self.start, |position| position.at)
    }

    /// Waits for what comes next. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Next {
        loop {
            self.changed.mark_unchanged();
            if let Some(next) = self.poll() {
                return next;
            }
            if self.changed.changed().await.is_err() {
                // Cannot be: we hold the log, and the log the sender.
                return Next::Overrun;
            }
        }
    }

    /// Resolves when this client has been overrun.
    pub(crate) async fn overrun(&self) {
        let mut changed = self.changed.clone();
        let is_overrun = |_: &()| self.log.state().readers.get(&self.id).is_none_or(|r| r.overrun);
        let _ = changed.wait_for(is_overrun).await;
    }

    fn poll(&self) -> Option<Next> {
        let mut guard = self.log.state();
        let state = &mut *guard;
        let position = state.readers.get(&self.id)?;
        if position.overrun {
            return Some(Next::Overrun);
        }
        if position.at == state.end {
            return state.ended.map(Next::End);
        }
        let bytes = state.copy(position.at, CHUNK);
        let at = position.at + bytes.len() as u64;
        if let Some(position) = state.readers.get_mut(&self.id) {
            position.at = at;
            position.owes.get_or_insert_with(Instant::now);
        }
        drop(guard);
        self.log.taken.notify_one();
        Some(Next::Output(bytes))
    }
}

/// What one client confirms.
#[derive(Debug)]
pub(crate) struct Receipts {
    log: Arc<OutputLog>,
    id: u64,
}

impl Receipts {
    /// Everything before `at` has arrived.
    pub(crate) fn confirm(&self, at: u64) {
        let mut guard = self.log.state();
        let state = &mut *guard;
        let Some(position) = state.readers.get_mut(&self.id) else { return };
        let at = at.min(position.at);
        position.owes = (at < position.at).then(Instant::now);
        // Bytes that went before this client came are still another's to confirm.
        if position.start <= state.seen {
            state.seen = state.seen.max(at);
        }
    }

    /// Everything has arrived: the client took its leave in due form.
    pub(crate) fn confirm_all(&self) {
        self.confirm(u64::MAX);
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.log.state().readers.remove(&self.id);
        self.log.taken.notify_one();
    }
}

#[cfg(test)]
#[path = "output_tests.rs"]
mod tests;
