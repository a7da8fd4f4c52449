//! Reading files into response bodies: regular files only, in chunks, with one chunk read ahead of the client.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use axum::body::Bytes;
use rustix::fs::OFlags;
use rustix::io::Errno;

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

/// Buffers that come back when the connection has written them: fresh ones would cost a page fault for each 4 KiB sent.
#[derive(Debug, Clone, Default)]
struct Buffers(Arc<Mutex<Vec<Vec<u8>>>>);

impl Buffers {
    /// Reads up to `wanted` bytes.
    fn fill(&self, file: &mut File, wanted: usize) -> io::Result<Bytes> {
        let spare = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut data = spare.unwrap_or_else(|| vec![0; wanted]);
        let mut filled = 0;
        let end = wanted.min(data.len());
        while filled < end {
            match file.read(&mut data[filled..end]) {
                Ok(0) => break,
                Ok(n) => filled += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Bytes::from_owner(Lent { data, filled, home: self.clone() }))
    }
}

struct Lent {
    data: Vec<u8>,
    filled: usize,
    home: Buffers,
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.data[..self.filled]
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let data = std::mem::take(&mut self.data);
        self.home.0.lock().unwrap_or_else(PoisonError::into_inner).push(data);
    }
}
