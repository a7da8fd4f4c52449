//! What wakes an owner task, each for ever pending when there is nothing to wait for.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use tokio::sync::watch;

use crate::store::images::Image;
use crate::time::until;

/// A runner's id, once one is found.
pub(super) type Placing = Pin<Box<dyn Future<Output = String> + Send>>;

/// Whether a sandbox is busy, once it has said so.
pub(super) type Asking = Pin<Box<dyn Future<Output = bool> + Send>>;

/// Sleeps until a steady time, or for ever.
pub(super) async fn sleep_until(at: Option<i64>) {
    match at {
        // A year at most: tokio's timers do not reach further than some.
        Some(at) => tokio::time::sleep(until(at).min(Duration::from_secs(31_536_000))).await,
        None => std::future::pending().await,
    }
}

/// Waits for news of an image, or for ever.
pub(super) async fn image_changed(image: &mut Option<watch::Receiver<Image>>) {
    let changed = match image {
        Some(image) => image.changed().await.is_ok(),
        None => false,
    };
    if !changed {
        std::future::pending().await
    }
}

/// Waits for a runner, or for ever.
pub(super) async fn placed(placing: &mut Option<Placing>) -> String {
    of_some(placing).await
}

/// Waits for an answer, or for ever.
pub(super) async fn answered(asking: &mut Option<Asking>) -> bool {
    of_some(asking).await
}

async fn of_some<T>(future: &mut Option<Pin<Box<dyn Future<Output = T> + Send>>>) -> T {
    match future {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}
