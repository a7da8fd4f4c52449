//! Small files that must survive a crash: written beside, flushed, renamed.

use std::io::Write;
use std::path::Path;

/// Replaces `path` by `bytes`. After it returns, a crash shows either the old content or the new, whole.
pub(crate) async fn replace(path: &Path, bytes: Vec<u8>) -> std::io::Result<()> {
    let path = path.to_owned();
    run(move || {
        let temporary = path.with_extension("tmp");
        let mut file = std::fs::File::create(&temporary)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        drop(file);
        std::fs::rename(&temporary, &path)?;
        // The rename itself has to survive too.
        match path.parent() {
            Some(parent) => std::fs::File::open(parent)?.sync_all(),
            None => Ok(()),
        }
    })
    .await
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
