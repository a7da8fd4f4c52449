//! Writing a stream of chunks to a [`Target`] without blocking the runtime: while one batch is written, the next one is gathered.
//!
//! Chunks are copied rather than kept. The connection reads into one buffer for as long as nobody holds a part of it; with parts held it takes a
//! fresh one for each read, and the kernel then clears and maps every page of it, which costs more than all copying.

use std::io::{self, Write};
use std::path::PathBuf;

use axum::body::Bytes;
use tokio::task::JoinHandle;

use crate::folder;
use crate::target::Target;

/// Bytes gathered before they are written. Two batches are held, each larger than this by one chunk at most.
const BATCH: usize = 512 << 10;

/// A file being received.
#[derive(Debug)]
pub(crate) struct Sink {
    target: State,
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
    /// Opens `path`, with the directories that are missing above it, which get `directory_mode`.
    pub(crate) async fn create(path: PathBuf, directory_mode: u32) -> Result<Self, WriteError> {
        let opened = tokio::task::spawn_blocking(move || {
            if let Some(parent) = path.parent() {
                folder::create_all(parent, directory_mode)
                    .map_err(|source| WriteError { step: "mkdir", source })?;
            }
            Target::open(&path).map_err(|source| WriteError { step: "create", source })
        });
        let target =
            opened.await.map_err(|e| WriteError { step: "create", source: io::Error::other(e) })??;
        Ok(Self { target: State::Idle(target), gathered: Vec::new(), spare: Vec::new(), total: 0 })
    }

    /// Takes the next bytes.
    pub(crate) async fn push(&mut self, chunk: Bytes) -> Result<(), WriteError> {
        self.total += chunk.len() as u64;
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

    /// Writes what is left and makes the content appear. Returns the size.
    pub(crate) async fn finish(mut self) -> Result<u64, WriteError> {
        let mut target = self.idle().await?;
        let rest = std::mem::take(&mut self.gathered);
        let finished = tokio::task::spawn_blocking(move || {
            target.write_all(&rest).map_err(|source| WriteError { step: "write", source })?;
            target.finish().map_err(|source| WriteError { step: "close", source })
        });
        finished.await.map_err(|e| WriteError { step: "close", source: io::Error::other(e) })??;
        Ok(self.total)
    }

    fn write(&mut self, mut target: Target) {
        let mut batch = std::mem::replace(&mut self.gathered, std::mem::take(&mut self.spare));
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
