//! Buffers that are used again: fresh ones would cost a page fault for each 4 KiB that is moved.

use std::io::{self, Read};
use std::sync::{Arc, Mutex, PoisonError};

use axum::body::Bytes;

/// Buffers that come back when what was read into them is dropped.
#[derive(Debug, Clone, Default)]
pub(crate) struct Buffers(Arc<Mutex<Vec<Vec<u8>>>>);

impl Buffers {
    /// Reads `wanted` bytes, fewer only at the end.
    pub(crate) fn fill(&self, source: &mut impl Read, wanted: usize) -> io::Result<Bytes> {
        let mut lent = self.lend(wanted);
        while lent.filled < wanted {
            match source.read(&mut lent.data[lent.filled..wanted]) {
                Ok(0) => break,
                Ok(read) => lent.filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Bytes::from_owner(lent))
    }

    fn lend(&self, size: usize) -> Lent {
        let spare = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let data = spare.filter(|data| data.len() >= size).unwrap_or_else(|| vec![0; size]);
        Lent { data, filled: 0, home: self.clone() }
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
