//! Writing a stream of chunks to a [`Target`] without blocking the runtime: while one batch is written, the next one is gathered.
//!
//! Chunks are copied rather than kept. The connection reads into one buffer for as long as nobody holds a part of it; with parts held it takes a
//! fresh one for each read, and the kernel then clears and maps every page of it, which costs more than all copying.

use std::io::{self, IoSlice, Write};
use std::path::PathBuf;

use axum::body::Bytes;
use tokio::task::JoinHandle;

use crate::folder;
use crate::target::Target;

/// Bytes gathered before they are written. Nearly every write is a multiple of this, so that the page cache can take large, aligned pages
/// (a write of 64 KiB costs the kernel half as much again for the same content).
const BATCH: usize = 1 << 20;

/// Pieces gathered at most: they may be tiny.
const PIECES: usize = 64;

/// A file being received.
#[derive(Debug)]
pub(crate) struct Sink {
    target: State,
    /// Whether the caller's thread may block: then it writes, and nothing is copied.
    blocks: bool,
    /// What a caller that may block has brought since the last write.
    held: Vec<Bytes>,
    gathered: Vec<u8>,
    /// The memory of the batch before, for the next one.
    spare: Vec<u8>,
    total: u64,
}

#[derive(Debug)]
enum State {
    Idle(Target),
    Writing(JoinHandle<io::Result<(Target, Vec<u8>)>>),
    Failed,
}

/// A failure and the step it happened in.
#[derive(Debug, thiserror::Error)]
#[error("{step}")]
pub(crate) struct WriteError {
    pub(crate) step: &'static str,
    pub(crate) source: io::Error,
}

impl Sink {
    /// Opens `path`, with the directories that are missing above it, which get `directory_mode`. `blocks` says that the caller may block.
    pub(crate) async fn create(path: PathBuf, directory_mode: u32, blocks: bool) -> Result<Self, WriteError> {
        let opening = move || {
            if let Some(parent) = path.parent() {
                folder::create_all(parent, directory_mode)
                    .map_err(|source| WriteError { step: "mkdir", source })?;
            }
            Target::open(&path).map_err(|source| WriteError { step: "create", source })
        };
        let target = aside(blocks, "create", opening).await?;
        Ok(Self {
            target: State::Idle(target),
            blocks,
            held: Vec::new(),
            gathered: Vec::new(),
            spare: Vec::new(),
            total: 0,
        })
    }

    /// Takes the next bytes.
    pub(crate) async fn push(&mut self, chunk: Bytes) -> Result<(), WriteError> {
        self.total += chunk.len() as u64;
        if self.blocks {
            return self.hold(chunk).await;
        }
        self.gathered.extend_from_slice(&chunk);
        // Before waiting: the connection reads on meanwhile, into the same buffer if this was its last part.
        drop(chunk);
        if self.gathered.len() < BATCH {
            return Ok(());
        }
        let target = self.idle().await?;
        self.write(target);
        Ok(())
    }

    /// As [`Sink::push`], on a thread that may block.
    async fn hold(&mut self, chunk: Bytes) -> Result<(), WriteError> {
        if chunk.is_empty() {
            return Ok(());
        }
        self.held.push(chunk);
        let size: usize = self.held.iter().map(Bytes::len).sum();
        if size < BATCH && self.held.len() < PIECES {
            return Ok(());
        }
        let whole = if size < BATCH { size } else { size - size % BATCH };
        let mut target = self.idle().await?;
        write_all(&mut target, &mut self.held, whole)
            .map_err(|source| WriteError { step: "write", source })?;
        self.target = State::Idle(target);
        Ok(())
    }

    /// Writes what is left and makes the content appear. Returns the size.
    pub(crate) async fn finish(mut self) -> Result<u64, WriteError> {
        let mut target = self.idle().await?;
        let (rest, mut held) = (std::mem::take(&mut self.gathered), std::mem::take(&mut self.held));
        let finishing = move || {
            let written =
                target.write_all(&rest).and_then(|()| write_all(&mut target, &mut held, usize::MAX));
            written.map_err(|source| WriteError { step: "write", source })?;
            target.finish().map_err(|source| WriteError { step: "close", source })
        };
        aside(self.blocks, "close", finishing).await?;
        Ok(self.total)
    }

    fn write(&mut self, mut target: Target) {
        self.spare.extend_from_slice(&self.gathered[BATCH..]);
        let mut batch = std::mem::replace(&mut self.gathered, std::mem::take(&mut self.spare));
        batch.truncate(BATCH);
        self.target = State::Writing(tokio::task::spawn_blocking(move || {
            target.write_all(&batch)?;
            batch.clear();
            Ok((target, batch))
        }));
    }

    /// The target, once the batch before is written.
    async fn idle(&mut self) -> Result<Target, WriteError> {
        let failed = |source| WriteError { step: "write", source };
        match std::mem::replace(&mut self.target, State::Failed) {
            State::Idle(target) => Ok(target),
            State::Writing(task) => {
                let written = task.await.map_err(|e| failed(io::Error::other(e)))?;
                let (target, memory) = written.map_err(failed)?;
                self.spare = memory;
                Ok(target)
            }
            State::Failed => Err(failed(io::Error::other("an earlier write failed"))),
        }
    }
}

/// Does file I/O here, if the thread may block, else where that is allowed.
async fn aside<T: Send + 'static>(
    blocks: bool,
    step: &'static str,
    work: impl FnOnce() -> Result<T, WriteError> + Send + 'static,
) -> Result<T, WriteError> {
    if blocks {
        return work();
    }
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|e| WriteError { step, source: io::Error::other(e) })?
}

/// Writes the first `length` bytes, or all there are, and keeps the rest.
fn write_all(target: &mut Target, pieces: &mut Vec<Bytes>, mut length: usize) -> io::Result<()> {
    while length > 0 && !pieces.is_empty() {
        let mut left = length;
        let slices: Vec<IoSlice<'_>> = pieces
            .iter()
            .map_while(|piece| {
                let slice = &piece[..piece.len().min(left)];
                left -= slice.len();
                (!slice.is_empty()).then(|| IoSlice::new(slice))
            })
            .collect();
        let mut written = match target.write_vectored(&slices) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => written,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        length -= written;
        pieces.retain_mut(|piece| {
            let gone = piece.split_to(piece.len().min(written));
            written -= gone.len();
            !piece.is_empty()
        });
    }
    Ok(())
}
