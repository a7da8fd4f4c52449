//! One instance for a data directory: a lock that the kernel gives back however a process ends.

use std::fs::{File, OpenOptions, TryLockError};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// The file that is locked; its content means nothing.
const FILE: &str = "lock";

/// Why the lock cannot be had.
#[derive(Debug)]
pub(crate) enum LockError {
    /// Another process has it.
    Held,
    /// The file cannot be opened or locked.
    File(std::io::Error),
}

/// Takes the lock of a data directory; it is held until the file is dropped.
pub(crate) fn take(data_dir: &Path) -> Result<File, LockError> {
    let path = data_dir.join(FILE);
    let file =
        OpenOptions::new().create(true).append(true).mode(0o600).open(path).map_err(LockError::File)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(LockError::Held),
        Err(TryLockError::Error(error)) => Err(LockError::File(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let first = take(dir.path()).unwrap();
        assert!(matches!(take(dir.path()), Err(LockError::Held)));
        drop(first);
        assert!(take(dir.path()).is_ok());
        assert!(matches!(take(&dir.path().join("missing")), Err(LockError::File(_))));
    }
}
