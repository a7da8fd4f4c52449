//! Linked sandboxes (runner contract 9.6): an owner and its followers share a network on which they find each other by name.
//!
//! The network's presence is the only record of a link. It is internal, and its bridge is guarded before anybody is attached: with a way out of its
//! own a sandbox could leave past the policy that holds on the sandbox network, and reach the host or its neighbour's toolbox.

use pinfold_engine::{Attachment, NetworkSpec};
use pinfold_proto::id::SandboxId;
use pinfold_proto::runner::payload::CreateSandbox;

use crate::error::{Class, OpError, OpResult};
use crate::node::{Node, sandbox_id};

/// The label by which a link network names its owner.
const OWNER: &str = "daytona.link_network_owner";

/// How the names of link networks begin.
const LINK: &str = "daytona-link-";

fn network_name(owner: &SandboxId) -> String {
    format!("{LINK}{owner}")
}

/// A name under which another sandbox finds this one; the id needs no alias.
fn alias(name: Option<&str>, id: &SandboxId) -> Vec<String> {
    name.filter(|n| !n.is_empty() && *n != id.as_str()).map(str::to_owned).into_iter().collect()
}

/// The place of a sandbox whose only network is its owner's.
pub(super) fn link_attachment(id: &SandboxId, owner: &SandboxId, name: Option<&str>) -> Attachment {
    Attachment { network: network_name(owner), aliases: alias(name, id), ..Attachment::default() }
}

impl Node {
    /// Makes the owner's network ready before a follower is created. Returns the owner.
    pub(super) async fn prepare_link(&self, request: &CreateSandbox) -> OpResult<Option<SandboxId>> {
        let Some(owner) = request.linked_sandbox_id.as_deref().filter(|o| !o.is_empty()) else {
            return Ok(None);
        };
        let owner = sandbox_id(owner)?;
        let found = match self.engine.inspect(owner.as_str()).await {
            Err(error) if error.is_not_found() => {
                return Err(OpError::new(
                    Class::BadRequest,
                    format!("the linked sandbox {owner} is not on this runner"),
                ));
            }
            found => found?,
        };
        let name = network_name(&owner);
        let labels = [(OWNER.to_owned(), owner.to_string())].into();
        let spec =
            NetworkSpec { name: name.clone(), icc: true, internal: true, labels, ..NetworkSpec::default() };
        let network = match self.engine.network(&name).await {
            Err(error) if error.is_not_found() => {
                match self.engine.create_network(&spec).await {
                    Err(error) if !error.is_conflict() => return Err(error.into()),
                    _ => {}
                }
                self.engine.network(&name).await?
            }
            found => found?,
        };
        self.policy.guard_link(&network.bridge).await?;
        if !found.networks.contains_key(&name) {
            let aliases = alias(found.labels.get("daytona.sandbox_name").map(String::as_str), &owner);
            self.attach(&owner, &name, aliases).await?;
        }
        Ok(Some(owner))
    }

    /// The place of a container whose only network is a link's: that of a linked Android device.
    pub(super) async fn link_of(&self, container: &str) -> OpResult<Vec<Attachment>> {
        let found = self.engine.inspect(container).await?;
        let links = found.networks.into_keys().filter(|name| name.starts_with(LINK));
        let name = found.labels.get("daytona.sandbox_name").cloned();
        let aliases: Vec<String> = name.into_iter().collect();
        let place = |network| Attachment { network, aliases: aliases.clone(), ..Attachment::default() };
        Ok(links.map(place).collect())
    }

    /// Attaches a created follower to its owner's network.
    pub(super) async fn join_link(
        &self,
        id: &SandboxId,
        owner: &SandboxId,
        name: Option<&str>,
    ) -> OpResult<()> {
        self.attach(id, &network_name(owner), alias(name, id)).await
    }

    async fn attach(&self, id: &SandboxId, network: &str, aliases: Vec<String>) -> OpResult<()> {
        let attachment = Attachment { network: network.to_owned(), aliases, ..Attachment::default() };
        match self.engine.connect(id.as_str(), &attachment).await {
            Err(error) if error.to_string().contains("already exists") || error.is_conflict() => Ok(()),
            other => Ok(other?),
        }
    }

    /// Removes the network that a destroyed sandbox owned, if it owned one.
    pub(super) async fn drop_link(&self, owner: &SandboxId) {
        let name = network_name(owner);
        let Ok(network) = self.engine.network(&name).await else { return };
        for container in network.containers {
            if let Err(error) = self.engine.disconnect(&container, &name).await {
                tracing::debug!(network = name, container, %error, "could not detach a linked sandbox");
            }
        }
        if let Err(error) = self.engine.remove_network(&name).await {
            return tracing::warn!(network = name, %error, "could not remove a link network");
        }
        if let Err(error) = self.policy.forget_link(&network.bridge).await {
            tracing::warn!(network = name, %error, "could not forget a link network's bridge");
        }
    }

    /// Guards the link networks of earlier runs, and removes those whose owner is gone.
    pub(crate) async fn repair_links(&self) -> OpResult<()> {
        for network in self.engine.networks(OWNER).await? {
            self.policy.guard_link(&network.bridge).await?;
            let owner = network.labels.get(OWNER).and_then(|owner| owner.parse::<SandboxId>().ok());
            if let Some(owner) = owner.filter(|owner| self.index.get(owner).is_none()) {
                tracing::warn!(network = network.name, "the owner of a link network is gone; removing it");
                self.drop_link(&owner).await;
            }
        }
        Ok(())
    }
}
