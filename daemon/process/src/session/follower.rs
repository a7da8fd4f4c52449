//! A log's chunks inside the daemon: for whoever passes the entrypoint's output on.

use std::collections::VecDeque;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use pinfold_proto::markers::{Splitter, Stream};
use tokio::sync::watch;

use super::command::Command;
use super::log::Progress;
use super::{ENTRYPOINT, ENTRYPOINT_COMMAND};
use crate::Processes;

/// Bytes read at a time.
const PIECE: usize = 16 << 10;

/// Reads a log from its beginning and follows it.
#[derive(Debug)]
pub struct Follower {
    file: Arc<std::fs::File>,
    progress: watch::Receiver<Progress>,
    offset: u64,
    splitter: Splitter,
    ready: VecDeque<(Stream, Vec<u8>)>,
    /// What `progress` comes from.
    _command: Arc<Command>,
}

impl Processes {
    /// The entrypoint's output, if there is an entrypoint.
    pub fn follow_entrypoint(&self) -> Option<Follower> {
        let command = self.session(ENTRYPOINT).ok()?.command(ENTRYPOINT_COMMAND).ok()?;
        let file = command.log.file().ok()?;
        let progress = command.log.progress();
        let (splitter, ready) = (Splitter::default(), VecDeque::new());
        Some(Follower { file, progress, offset: 0, splitter, ready, _command: command })
    }
}

impl Follower {
    /// The next chunk; nothing once the command is over and its log was read. Cancel-safe.
    pub async fn next(&mut self) -> Option<(Stream, Vec<u8>)> {
        loop {
            if let Some(chunk) = self.ready.pop_front() {
                return Some(chunk);
            }
            let Progress { length, over } = *self.progress.borrow_and_update();
            if self.offset < length {
                let mut piece = vec![0; PIECE.min(usize::try_from(length - self.offset).unwrap_or(PIECE))];
                let read = self.file.read_at(&mut piece, self.offset).ok().filter(|n| *n > 0)?;
                self.offset += read as u64;
                let ready = &mut self.ready;
                self.splitter.feed(&piece[..read], |stream, bytes| match (stream, ready.back_mut()) {
                    (Some(stream), Some((last, text))) if *last == stream => text.extend_from_slice(bytes),
                    (Some(stream), _) => ready.push_back((stream, bytes.to_vec())),
                    (None, _) => {}
                });
            } else if over {
                return None;
            } else {
                self.progress.changed().await.ok()?;
            }
        }
    }
}
