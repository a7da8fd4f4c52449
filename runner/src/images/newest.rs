//! Whether a name that may move, `:latest` or one without a tag, still means the image at hand (runner contract 7.2, 14.5).
//!
//! The registry is asked for the name's digest, which is one small exchange where a pull of what is here already is several. Who asks at the same time
//! shares the answer, and it holds for half a minute, so that a burst of creates asks once. A registry that does not answer is not waited for,
//! and for half a minute not asked again: a node that is cut off from it runs what it has.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;

use pinfold_engine::Image;
use pinfold_proto::runner::payload::Registry;
use tokio::time::Instant;

use super::flights::Flights;
use super::{CACHED, credentials, lock};
use crate::error::{Class, OpError};
use crate::node::Node;

/// How long a registry is waited for.
const LOOK: Duration = Duration::from_secs(3);
/// How long its answer, or its silence, holds.
const HOLDS: Duration = Duration::from_secs(30);

/// What registries said of names that may move.
#[derive(Debug, Default)]
pub(super) struct Looks {
    /// The image that is used under a name, and since when nobody asked.
    settled: Mutex<HashMap<String, (Instant, String)>>,
    asking: Flights<String>,
}

impl Looks {
    /// Notes that the image of this id is the one to use under a name.
    pub(super) fn settle(&self, reference: &str, id: &str) {
        self.tidy();
        let mut settled = lock(&self.settled);
        if settled.len() < CACHED {
            settled.insert(reference.to_owned(), (Instant::now(), id.to_owned()));
        }
    }

    fn is_settled(&self, reference: &str, id: &str) -> bool {
        lock(&self.settled).get(reference).is_some_and(|(at, of)| of == id && at.elapsed() < HOLDS)
    }

    /// Forgets what no longer holds.
    pub(super) fn tidy(&self) {
        lock(&self.settled).retain(|_, (at, _)| at.elapsed() < HOLDS);
    }

    /// Names that are remembered, and those that are asked for.
    pub(super) fn len(&self) -> usize {
        lock(&self.settled).len() + self.asking.len()
    }
}

impl Node {
    /// Whether the local image is the one to use under a name that may move: the registry says so, or says nothing.
    pub(super) async fn is_newest(
        &self,
        reference: &str,
        image: &Image,
        registry: Option<&Registry>,
    ) -> bool {
        let looks = &self.images.looks;
        if looks.is_settled(reference, &image.id) {
            return true;
        }
        let ask = || {
            let (engine, auth, name) = (self.engine.clone(), credentials(registry), reference.to_owned());
            async move {
                let silent = |_| {
                    let message = format!("the registry of {name} did not answer within {LOOK:?}");
                    OpError::new(Class::Timeout, message)
                };
                let asked = tokio::time::timeout(LOOK, engine.registry_digest(&name, auth.as_ref())).await;
                Ok(asked.map_err(silent)??.digest)
            }
        };
        let answer = looks.asking.join(reference, ask).await;
        self.images.note_exchange(&answer);
        match answer {
            Ok(digest) => {
                let known = |of: &String| of.split_once('@').is_some_and(|(_, known)| known == digest);
                if !image.digests.iter().any(known) {
                    return false;
                }
            }
            // What it refuses to tell it may yet let be pulled, which has the last word.
            Err(error) if matches!(error.class, Class::Unauthorized | Class::NotFound) => return false,
            Err(error) => {
                tracing::warn!(reference, %error, "could not ask for a newer image; using the local one");
            }
        }
        looks.settle(reference, &image.id);
        true
    }
}
