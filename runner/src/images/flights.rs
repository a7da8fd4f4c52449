//! Work that several callers may want at once: begun by the first, joined by the others, and not ended by those who stop waiting.
//!
//! An entry lives exactly as long as its work, also where nobody waits for it any more.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex};

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use tracing::Instrument;

use super::lock;
use crate::error::{Class, OpError, OpResult};

type Flight<T> = Shared<BoxFuture<'static, OpResult<T>>>;
type Table<T> = Arc<Mutex<HashMap<String, Flight<T>>>>;

/// What is under way, by its key.
#[derive(Debug)]
pub(super) struct Flights<T: Clone>(Table<T>);

impl<T: Clone> Default for Flights<T> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

/// Takes an entry out of the table when its work ends, in whatever way.
struct Landing<T: Clone>(Table<T>, String);

impl<T: Clone> Drop for Landing<T> {
    fn drop(&mut self) {
        lock(&self.0).remove(&self.1);
    }
}

impl<T: Clone + Send + Sync + 'static> Flights<T> {
    /// The result of what is under way for `key`, else of `work`.
    pub(super) async fn join<F>(&self, key: &str, work: impl FnOnce() -> F) -> OpResult<T>
    where
        F: Future<Output = OpResult<T>> + Send + 'static,
    {
        let flight = {
            // Held until the entry is there: its work cannot land before.
            let mut table = lock(&self.0);
            let begin = || {
                let (landing, work) = (Landing(self.0.clone(), key.to_owned()), work());
                let task = tokio::spawn(
                    async move {
                        let _landing = landing;
                        work.await
                    }
                    .in_current_span(),
                );
                let lost = |e| OpError::new(Class::Internal, format!("the work was lost: {e}"));
                async move { task.await.unwrap_or_else(|e| Err(lost(e))) }.boxed().shared()
            };
            table.entry(key.to_owned()).or_insert_with(begin).clone()
        };
        flight.await
    }

    /// How much is under way.
    pub(super) fn len(&self) -> usize {
        lock(&self.0).len()
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn what_nobody_waits_for_any_more_ends_and_is_forgotten() {
        let flights = Arc::new(Flights::<u32>::default());
        let (finish, finished) = oneshot::channel::<u32>();
        let work = async move { Ok(finished.await.unwrap_or_default()) };
        let (others, first) = (flights.clone(), flights.clone());
        let waiting = tokio::spawn(async move { first.join("a", || work).await });
        while flights.len() == 0 {
            tokio::task::yield_now().await;
        }
        let joined = tokio::spawn(async move { others.join("a", || async { Ok(1) }).await });
        tokio::task::yield_now().await;
        waiting.abort();
        finish.send(7).unwrap();
        assert_eq!(joined.await.unwrap().unwrap(), 7, "the second joined the first");
        assert_eq!(flights.len(), 0);
        // Nobody at all waits for this one, and it panics: neither keeps its entry.
        let abandoned = flights.join("b", || async { panic!("boom") });
        assert!(abandoned.now_or_never().is_none());
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
        while flights.len() > 0 && std::time::Instant::now() < deadline {
            tokio::task::yield_now().await;
        }
        assert_eq!(flights.len(), 0);
        assert_eq!(flights.join("b", || async { Ok(2) }).await.unwrap(), 2);
    }
}
