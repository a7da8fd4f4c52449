//! Writing a stream of chunks to a [`Target`] without blocking the runtime: while one batch is written, the next one is gathered.

use std::io::{self, Write};
use std::path::PathBuf;

use axum::body::Bytes;
use tokio::task::JoinHandle;

use crate::folder;
use crate::target::Target;

/// Bytes gathered before they are written. At most twice as many are held.
const BATCH: usize = 512 << 10;

/// A file being received.
#[derive(Debug)]
pub(crate) struct Sink {
    target: State,
    gathered: Vec<Bytes>,
    size: usize,
    total: u64,
}

#[derive(Debug)]
enum State {
    Idle(Target),
    Writing(JoinHandle<io::Result<Target>>),
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
        Ok(Self { target: State::Idle(target), gathered: Vec::new(), size: 0, total: 0 })
    }

    /// Takes the next bytes.
    pub(crate) async fn push(&mut self, chunk: Bytes) -> Result<(), WriteError> {
        self.size += chunk.len();
        self.total += chunk.len() as u64;
        self.gathered.push(chunk);
        if self.size < BATCH {
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
            write_all(&mut target, &rest).map_err(|source| WriteError { step: "write", source })?;
            target.finish().map_err(|source| WriteError { step: "close", source })
        });
        finished.await.map_err(|e| WriteError { step: "close", source: io::Error::other(e) })??;
        Ok(self.total)
    }

    fn write(&mut self, mut target: Target) {
        let batch = std::mem::take(&mut self.gathered);
        self.size = 0;
        self.target = State::Writing(tokio::task::spawn_blocking(move || {
            write_all(&mut target, &batch)?;
            Ok(target)
        }));
    }

    /// The target, once the batch before is written.
    async fn idle(&mut self) -> Result<Target, WriteError> {
        let failed = |source| WriteError { step: "write", source };
        match std::mem::replace(&mut self.target, State::Failed) {
            State::Idle(target) => Ok(target),
            State::Writing(task) => task.await.map_err(|e| failed(io::Error::other(e)))?.map_err(failed),
            State::Failed => Err(failed(io::Error::other("an earlier write failed"))),
        }
    }
}

fn write_all(target: &mut Target, batch: &[Bytes]) -> io::Result<()> {
    batch.iter().try_for_each(|chunk| target.write_all(chunk))
}
