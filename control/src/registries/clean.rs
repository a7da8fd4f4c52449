//! Images in our own registry that nobody needs any more: noted in the transaction that ended their last use, and removed there by one task.
//!
//! What a snapshot or a sandbox names stays, whatever was noted; it is looked at again when something goes. A registry that is away is asked again later.

use std::sync::Arc;
use std::time::Duration;

use super::remote::RemoteError;
use crate::core::Core;
use crate::store::{Conn, Result, leftovers};
use crate::time::now;

/// Pause after a registry did not do what it was asked.
const RETRY: Duration = Duration::from_secs(60);

/// Notes that an image is needed no more, if it is in our own registry.
pub(crate) async fn leave(core: &Core, conn: &mut Conn, reference: &str) -> Result<()> {
    if core.registries.holds(reference) { leftovers::put(conn, reference, now()).await } else { Ok(()) }
}

/// Removes what was noted, until the control plane stops.
pub(crate) async fn clean(core: Arc<Core>) {
    if core.remote.is_none() {
        return;
    }
    loop {
        let done = tokio::select! {
            done = look(&core) => done,
            () = core.stop.cancelled() => return,
        };
        if let Err(error) = &done {
            tracing::warn!(%error, "could not remove images from our registry");
        }
        let again = async {
            if done.is_err() { tokio::time::sleep(RETRY).await } else { std::future::pending().await }
        };
        tokio::select! {
            () = core.leftovers.notified() => {}
            () = again => {}
            () = core.stop.cancelled() => return,
        }
    }
}

/// Why a look at what is left over came to nothing.
#[derive(Debug, thiserror::Error)]
enum CleanError {
    #[error(transparent)]
    Store(#[from] sqlx::Error),
    #[error(transparent)]
    Remote(#[from] RemoteError),
}

async fn look(core: &Core) -> std::result::Result<(), CleanError> {
    let Some(remote) = &core.remote else { return Ok(()) };
    for reference in leftovers::all(&core.store).await? {
        if needed(core, &reference) {
            continue;
        }
        match remote.remove(&reference).await {
            Ok(()) => tracing::info!(reference, "removed an image from our registry"),
            // Said once for each image: nothing that we can do will remove it.
            Err(error @ RemoteError::Unsupported(_)) => tracing::warn!(reference, %error, "an image stays"),
            Err(error) => return Err(error.into()),
        }
        leftovers::delete(&core.store, &reference).await?;
    }
    Ok(())
}

fn needed(core: &Core, reference: &str) -> bool {
    let names = |image: Option<&str>| image == Some(reference);
    core.snapshots.list().iter().any(|s| s.reference == reference)
        || !core
            .directory
            .scan(|r, _| {
                let writing = r.backup.job.is_some().then_some(r.backup.reference.as_deref()).flatten();
                let named =
                    [Some(r.image.as_str()), r.backup_image.as_deref(), r.backup.base.as_deref(), writing];
                named.into_iter().any(names).then_some(())
            })
            .is_empty()
}
