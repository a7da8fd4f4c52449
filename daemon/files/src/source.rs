//! Reading files into response bodies: regular files only, in chunks, with one chunk read ahead of the client.

use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::OFlags;
use rustix::io::Errno;

use crate::buffers::Buffers;
use crate::stream::Feed;

/// Bytes read at once.
const CHUNK: usize = 256 << 10;
/// Chunks that may wait for the client, besides the one it gets and the one that is read.
pub(crate) const QUEUE: usize = 1;

/// Opens a regular file for reading. A FIFO or device is refused without waiting for its other end.
pub(crate) fn open_regular(path: &Path) -> io::Result<(File, Metadata)> {
    let flags = (OFlags::NONBLOCK | OFlags::NOCTTY).bits().cast_signed();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    let metadata = file.metadata()?;
    if metadata.is_dir() {
        return Err(Errno::ISDIR.into());
    }
    if !metadata.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    Ok((file, metadata))
}

/// Why a file was not sent whole.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SendError {
    /// The client left.
    #[error("the client is gone")]
    Gone,
    /// The file ended early: it was truncated since it was opened.
    #[error("the file became shorter")]
    Short,
    /// Reading failed.
    #[error("reading")]
    Read(#[from] io::Error),
}

/// Sends the next `length` bytes of `file`, never more: a file that grows is as long as it was when its size was announced.
pub(crate) async fn send(mut file: File, mut length: u64, sink: &Feed) -> Result<(), SendError> {
    let buffers = Buffers::default();
    while length > 0 {
        let buffer = buffers.clone();
        let wanted = usize::try_from(length).unwrap_or(usize::MAX).min(CHUNK);
        let read = tokio::task::spawn_blocking(move || {
            let chunk = buffer.fill(&mut file, wanted)?;
            Ok::<_, io::Error>((file, chunk))
        });
        let (back, chunk) = read.await.map_err(io::Error::other)??;
        file = back;
        if chunk.len() < wanted {
            return Err(SendError::Short);
        }
        length -= chunk.len() as u64;
        sink.send(Ok(chunk)).await.map_err(|_| SendError::Gone)?;
    }
    Ok(())
}
