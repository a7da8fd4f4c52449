//! Pulls: one at a time for each reference, joined by everyone who wants it, and not ended by those who stop waiting.

use std::time::{Duration, Instant};

use pinfold_engine::{EngineError, Image};
use pinfold_proto::id::SandboxId;
use pinfold_proto::runner::payload::{PullSnapshot, Registry, SnapshotInfo};

use super::reference::{build_id, digest_of, internal, is_latest, normalise, split};
use super::{credentials, info};
use crate::error::{Class, OpError, OpResult};
use crate::index::SandboxState;
use crate::node::Node;

/// Bound of a whole transfer; control planes give up after two hours.
const TRANSFER: Duration = Duration::from_secs(115 * 60);

/// Bound of a pull of a newer image when there is an older one at hand. It goes on for those who come later.
const NEWER: Duration = Duration::from_secs(5 * 60);

/// Whether a local image is what its name means: the name cannot move, or the image was made here and no registry knows it. Whoever builds
/// `team/box:latest` must not get a stranger's image of that name.
fn is_settled(reference: &str, image: &Image) -> bool {
    !is_latest(reference) || image.digests.is_empty()
}

/// Whether an image may go when its snapshot does: a registry has it, or we made it. What an operator built or imported here is theirs.
fn is_replaceable(reference: &str, image: &Image) -> bool {
    let name = build_id(reference);
    !image.digests.is_empty() || name.starts_with("daytona-") || name.starts_with("backup-")
}

impl Node {
    /// The image in the local store, from the cache where possible.
    pub async fn local_image(&self, reference: &str) -> Result<Image, EngineError> {
        if let Some(image) = self.images.cached(reference) {
            return Ok(image);
        }
        let image = self.engine.image(reference).await?;
        self.images.remember(reference, &image);
        Ok(image)
    }

    /// The image for a sandbox, pulled if it is not there; the sandbox shows as pulling meanwhile.
    pub(crate) async fn ensure_image(
        &self,
        id: &SandboxId,
        reference: &str,
        registry: Option<&Registry>,
    ) -> OpResult<Image> {
        let reference = normalise(reference);
        let local = self.local_image(&reference).await.ok();
        if let Some(image) = &local
            && self.is_current(&reference, image, registry).await
        {
            return Ok(image.clone());
        }
        self.index.change(id, |s| s.state = SandboxState::PullingSnapshot);
        let limit = if local.is_some() { NEWER } else { self.config.pull_timeout };
        let pulled = tokio::time::timeout(limit, self.pull(&reference, registry)).await;
        let pulled = pulled.unwrap_or_else(|_| {
            let message = format!("the pull of {reference} did not finish within {limit:?}");
            Err(OpError::new(Class::Timeout, message))
        });
        self.index.change(id, |s| s.state = SandboxState::Creating);
        match (pulled, local) {
            (Ok(image), _) => Ok(image),
            // A node without a registry still runs what it has.
            (Err(error), Some(image)) => {
                tracing::warn!(reference, %error, "could not pull the newer image; using the local one");
                Ok(image)
            }
            (Err(error), None) => Err(error),
        }
    }

    /// Whether a local image is what its name means now.
    async fn is_current(&self, reference: &str, image: &Image, registry: Option<&Registry>) -> bool {
        is_settled(reference, image) || self.is_newest(reference, image, registry).await
    }

    /// Pushes what this name was just given to. A name that could not be pushed is taken back: what is here under it counts as published, and the next attempt would push
    /// nothing.
    pub(super) async fn push(
        &self,
        target: &str,
        registry: &Registry,
        limit: Duration,
    ) -> Result<(), EngineError> {
        let pushed = self.engine.push(target, credentials(Some(registry)).as_ref(), limit).await;
        if pushed.is_err() {
            let _ = self.engine.remove_image(target, true).await;
            self.images.invalidate();
        }
        pushed
    }

    /// Pulls a reference, joining a pull that is under way.
    pub(crate) async fn pull(&self, reference: &str, registry: Option<&Registry>) -> OpResult<Image> {
        let work = || {
            let (engine, auth) = (self.engine.clone(), credentials(registry));
            let (reference, platform) = (reference.to_owned(), self.platform());
            async move {
                let began = Instant::now();
                engine.pull(&reference, &platform, auth.as_ref(), TRANSFER).await?;
                let image = engine.image(&reference).await?;
                tracing::info!(reference, ms = began.elapsed().as_millis(), "pulled");
                Ok(image)
            }
        };
        let _under_way = self.counters.begin("pull");
        let pulled = self.images.pulls.join(reference, work).await;
        self.images.note_exchange(&pulled);
        let image = pulled?;
        self.images.remember(reference, &image);
        if is_latest(reference) {
            self.images.looks.settle(reference, &image.id);
        }
        Ok(image)
    }

    /// `PULL_SNAPSHOT` (runner contract 7.3).
    pub async fn pull_snapshot(&self, request: PullSnapshot) -> OpResult<SnapshotInfo> {
        let began = Instant::now();
        let key = request.destination_ref.clone().unwrap_or_else(|| request.snapshot.clone());
        self.images.clear_failure(&key);
        let result = self.pull_snapshot_inner(&request).await;
        if let Err(error) = &result {
            self.images.note_failure(&key, error);
        }
        self.counters.finished("pull", &request.snapshot, began, &result);
        result
    }

    async fn pull_snapshot_inner(&self, request: &PullSnapshot) -> OpResult<SnapshotInfo> {
        if request.snapshot.is_empty() {
            return Err(OpError::new(Class::BadRequest, "the request names no snapshot"));
        }
        let reference = normalise(&request.snapshot);
        let destination = request.destination_registry.as_ref().filter(|r| !r.url.is_empty());
        if destination.is_some_and(|r| r.project.is_none()) {
            return Err(OpError::new(Class::BadRequest, "the destination registry names no project"));
        }
        // A failed pull makes every snapshot of this reference unschedulable here (17.3), so what is local already is good.
        let target = request.destination_ref.as_deref().filter(|t| !t.is_empty());
        for name in target.into_iter().chain([reference.as_str()]) {
            self.reinstate(name).await;
        }
        if let Some(target) = target
            && let Ok(image) = self.local_image(target).await
        {
            return Ok(info(&request.snapshot, &image));
        }
        let image = match self.local_image(&reference).await {
            Ok(image) if self.is_current(&reference, &image, request.registry.as_ref()).await => image,
            _ => match self.pull(&reference, request.registry.as_ref()).await {
                Ok(image) => image,
                Err(error) => self.engine.image(&reference).await.map_err(|_| error)?,
            },
        };
        if let Some(tag) = request.new_tag.as_deref().filter(|t| !t.is_empty()) {
            self.engine.tag(&reference, tag).await?;
        }
        if let Some(registry) = destination {
            let target =
                target.map_or_else(|| internal(registry, &digest_of(&reference, &image)), str::to_owned);
            self.engine.tag(&reference, &target).await?;
            self.push(&target, registry, TRANSFER).await?;
        } else if let Some(target) = target {
            // Without a registry the name is local only.
            self.engine.tag(&reference, target).await?;
        }
        self.images.invalidate();
        Ok(info(&request.snapshot, &image))
    }

    /// Removes an image's name. One that is not there is a success; so is one still in use, when removal is not forced.
    pub async fn remove_snapshot(&self, reference: &str) -> OpResult<()> {
        let reference = normalise(reference);
        self.images.clear_failure(&reference);
        if self.engine.image(&reference).await.is_ok_and(|image| !is_replaceable(&reference, &image)) {
            tracing::info!(reference, "the image was made on this host and stays");
            return Ok(());
        }
        let force = self.config.force_snapshot_removal;
        let result = match self.retire(&reference).await {
            Ok(true) => Ok(()),
            Ok(false) => {
                tracing::info!(reference, "sandboxes need the image; it goes with the last of them");
                Ok(())
            }
            Err(error) if error.is_not_found() || (error.is_conflict() && !force) => Ok(()),
            // The engine refuses even a forced removal while a container runs from the image; the last sandbox's end frees it.
            Err(error) if error.is_conflict() => {
                tracing::info!(reference, %error, "the image is in use and stays until its last sandbox is gone");
                Ok(())
            }
            Err(error) => Err(error.into()),
        };
        self.images.invalidate();
        result
    }

    /// Whether exactly this reference is in the local store. `:latest` never is (runner contract 7.9).
    pub async fn snapshot_exists(&self, reference: &str) -> OpResult<bool> {
        let reference = normalise(reference);
        if is_latest(&reference) {
            return Ok(false);
        }
        match self.local_image(reference.trim_start_matches("docker.io/")).await {
            Ok(_) => Ok(true),
            Err(error) if error.is_not_found() => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// `GET /snapshots/info` (runner contract 4.16).
    pub async fn snapshot_info(&self, reference: &str) -> OpResult<SnapshotInfo> {
        if self.snapshot_exists(reference).await? {
            return Ok(info(reference, &self.local_image(&normalise(reference)).await?));
        }
        match self.images.failure(reference) {
            Some(error) => Err(OpError::new(Class::Unprocessable, error.message)),
            None => Err(OpError::new(
                Class::NotFound,
                format!("the snapshot {reference} is not in the local store"),
            )),
        }
    }

    /// `POST /snapshots/tag`.
    pub async fn tag_snapshot(&self, source: &str, target: &str) -> OpResult<()> {
        if !matches!(split(target), (name, Some(tag)) if !name.is_empty() && !tag.is_empty()) {
            return Err(OpError::new(Class::BadRequest, format!("the target {target:?} has no tag")));
        }
        self.engine.image(source).await?;
        self.engine.tag(source, target).await?;
        self.images.invalidate();
        Ok(())
    }
}
