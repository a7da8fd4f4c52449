//! What an owner task waits for before its sandbox can be made: a runner, and the image there.

use pinfold_proto::control::sandbox::SandboxState;

use super::actor::Actor;
use super::effects::Outcome;
use super::payload;
use super::plan::{self, Step};
use crate::images::Recipe;
use crate::runners::Need;
use crate::store::images::ImageState;
use crate::store::sandboxes::Record;
use crate::time::steady;

impl Actor {
    /// For a record that waits for its image: asks for it, and goes on when it is there.
    pub(super) async fn look_at_image(&mut self) {
        use SandboxState::{BuildingSnapshot, PendingBuild, PullingSnapshot};
        if self.gone
            || !matches!(self.record.state, PendingBuild | BuildingSnapshot | PullingSnapshot)
            || self.record.job.is_some()
        {
            self.image = None;
            return;
        }
        let Some(runner) = self.record.runner_id.clone() else {
            if self.placing.is_none() {
                self.find_runner();
            }
            return;
        };
        if self.image.is_none() {
            let recipe = self.core.recipe(&self.record);
            match self.core.images.ensure(&runner, &recipe, &self.core.org_id).await {
                Ok(image) => self.image = Some(image),
                Err(error) => {
                    tracing::warn!(sandbox = self.record.id, %error, "could not ask for an image");
                    self.hold_until = Some(steady() + 1_000);
                    return;
                }
            }
        }
        let Some(image) = self.image.as_mut().map(|image| image.borrow_and_update().clone()) else { return };
        let mut next = Record::clone(&self.record);
        match image.state {
            ImageState::Working if next.state == PendingBuild => {
                let pulled = matches!(self.core.recipe(&next), Recipe::Pull(_));
                next.state = if pulled { PullingSnapshot } else { BuildingSnapshot };
            }
            ImageState::Working => return,
            ImageState::Ready => next.state = SandboxState::Creating,
            ImageState::Failed => {
                next.state = SandboxState::BuildFailed;
                next.error_reason = image.error;
            }
        }
        if let Err(error) = self.commit(next, None, Outcome::default()).await {
            tracing::warn!(sandbox = self.record.id, %error, "could not store the state of an image");
            self.hold_until = Some(steady() + 1_000);
        } else if image.state != ImageState::Working {
            self.image = None;
        }
    }

    pub(super) fn find_runner(&mut self) {
        let core = self.core.clone();
        let mut need = Need::of(&self.record);
        // A backup without a registry is only where it was made; a build can be made anywhere.
        if self.record.state == SandboxState::Restoring {
            need.only = core.images.only_at(payload::image(&self.record), &core.registries);
        }
        self.placing = Some(Box::pin(async move { core.runners.wait_for(&need).await.id }));
    }

    pub(super) async fn place(&mut self, runner: String) {
        self.placing = None;
        let mut next = Record::clone(&self.record);
        if next.runner_id.is_none() {
            next.runner_id = Some(runner);
        } else if plan::next(&next) == Step::Move && next.job.is_none() {
            next.task.source = next.runner_id.replace(runner);
            next.state = SandboxState::Restoring;
        }
        if let Err(error) = self.commit(next, None, Outcome::default()).await {
            tracing::warn!(sandbox = self.record.id, %error, "could not store a placement");
            self.find_runner();
        }
        self.look_at_image().await;
    }
}
