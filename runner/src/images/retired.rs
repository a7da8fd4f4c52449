//! Images that go when no sandbox of this node needs them any more: those whose removal was asked for, and backups that a registry has. Even a
//! stopped sandbox needs its image's name, for a resize or a backup, so the name goes with the last of them. The list is a file: a restart forgets none.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use pinfold_engine::EngineError;

use super::lock;
use crate::error::OpResult;
use crate::files;
use crate::node::Node;

/// The list.
#[derive(Debug)]
pub(super) struct Retired {
    path: PathBuf,
    names: Mutex<BTreeSet<String>>,
    /// Held from the look at who needs an image until it is removed: who wants it again meanwhile waits, and finds what is left.
    removing: tokio::sync::Mutex<()>,
}

impl Retired {
    /// Reads the list. One that cannot be read is empty: an image too many is no harm.
    pub(super) fn open(path: &Path) -> Self {
        let names = std::fs::read(path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
        Self {
            path: path.to_owned(),
            names: Mutex::new(names.unwrap_or_default()),
            removing: Default::default(),
        }
    }

    fn names(&self) -> BTreeSet<String> {
        lock(&self.names).clone()
    }

    fn contains(&self, name: &str) -> bool {
        lock(&self.names).contains(name)
    }

    /// Adds or takes a name, on disk when this returns.
    async fn set(&self, name: &str, retired: bool) {
        let names = {
            let mut names = lock(&self.names);
            let changed = if retired { names.insert(name.to_owned()) } else { names.remove(name) };
            if !changed {
                return;
            }
            names.clone()
        };
        let bytes = serde_json::to_vec(&names).unwrap_or_default();
        if let Err(error) = files::replace(&self.path, bytes).await {
            tracing::warn!(name, %error, "could not note which images to remove later");
        }
    }
}

impl Node {
    /// Whether a container, running or not, was made from this image.
    async fn is_needed(&self, reference: &str) -> Result<bool, EngineError> {
        // Under its last name an image is needed by those too that were made from it under another.
        let image = self.engine.image(reference).await.unwrap_or_default();
        let last = (image.tags.len() <= 1 && !image.id.is_empty()).then_some(image.id);
        let listed = self.engine.list().await?;
        Ok(listed.iter().any(|c| c.image == reference || last.as_ref() == Some(&c.image_id)))
    }

    /// Removes a name at once if nobody needs it, else once nobody does. False when it stays for now.
    pub(super) async fn retire(&self, reference: &str) -> Result<bool, EngineError> {
        let _removing = self.images.retired.removing.lock().await;
        let needed = self.is_needed(reference).await?;
        self.images.retired.set(reference, needed).await;
        if !needed {
            self.engine.remove_image(reference, self.config.force_snapshot_removal).await?;
        }
        Ok(!needed)
    }

    /// Notes that an image goes with the sandbox that was just made from it.
    pub(crate) async fn leave_with_sandbox(&self, reference: &str) {
        self.images.retired.set(reference, true).await;
    }

    /// Somebody wants the image again.
    pub(crate) async fn reinstate(&self, reference: &str) {
        let _removing = self.images.retired.removing.lock().await;
        self.images.retired.set(reference, false).await;
    }

    /// Removes the images whose last sandbox is gone.
    pub(crate) async fn remove_retired(&self) -> OpResult<()> {
        for name in self.images.retired.names() {
            let _removing = self.images.retired.removing.lock().await;
            if !self.images.retired.contains(&name) || self.is_needed(&name).await? {
                continue;
            }
            match self.engine.remove_image(&name, self.config.force_snapshot_removal).await {
                Err(error) if !error.is_not_found() => {
                    tracing::warn!(name, %error, "could not remove an image that nobody needs any more");
                    continue;
                }
                _ => tracing::info!(name, "removed an image after its last sandbox"),
            }
            self.images.retired.set(&name, false).await;
            self.images.invalidate();
        }
        Ok(())
    }
}
