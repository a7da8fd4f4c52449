//! Small files that must survive a crash: written beside, flushed, renamed.

use std::io::Write;
use std::path::Path;

/// Replaces `path` by `bytes`. After it returns, a crash shows either the old content or the new, whole. A failure leaves the old.
pub(crate) async fn replace(path: &Path, bytes: Vec<u8>) -> std::io::Result<()> {
    let path = path.to_owned();
    run(move || {
        let temporary = path.with_extension("tmp");
        let written = write(&temporary, &bytes).and_then(|()| std::fs::rename(&temporary, &path));
        if written.is_err() {
            // Half of a file is in nobody's way but a full disk's. Its removal cannot make the failure worse.
            let _ = std::fs::remove_file(&temporary);
        }
        written?;
        // The rename itself has to survive too.
        match path.parent() {
            Some(parent) => std::fs::File::open(parent)?.sync_all(),
            None => Ok(()),
        }
    })
    .await
}

fn write(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut file = std::fs::File::create(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Whether `path` is what a [`replace`] that was killed left beside its file.
pub(crate) fn is_unfinished(path: &Path) -> bool {
    path.extension().is_some_and(|e| e == "tmp")
}

/// Removes `path`; one that is not there is a success.
pub(crate) async fn remove(path: &Path) -> std::io::Result<()> {
    let path = path.to_owned();
    run(move || match std::fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    })
    .await
}

async fn run<T: Send + 'static>(
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> std::io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(std::io::Error::other)?
}
