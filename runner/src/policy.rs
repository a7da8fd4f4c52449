//! The seam to network policy: what the lifecycle asks for, and nothing of how it is done.
//!
//! Invariant: [`NetworkPolicy::apply`] returns before a sandbox's first packet, on every path that starts one, and its failure fails the
//! start. The address is chosen before the container exists, so nothing has to be learned from a running sandbox.

use std::collections::HashSet;

use async_trait::async_trait;
use pinfold_network::{Endpoint, Firewall, FirewallError, Policy};
use pinfold_proto::id::SandboxId;
use pinfold_proto::runner::payload::NetworkSettings;

use crate::error::{Class, OpError, OpResult};
use crate::takeover::{self, LegacyRules};

/// Puts policies in force.
#[async_trait]
pub trait NetworkPolicy: Send + Sync + 'static {
    /// Puts `policy` in force for the sandbox at `endpoint`; returns when the kernel has it.
    async fn apply(&self, sandbox: &SandboxId, endpoint: Endpoint, policy: Policy) -> OpResult<()>;

    /// Forgets a sandbox that is gone. Its address has no network afterwards.
    async fn remove(&self, sandbox: &SandboxId) -> OpResult<()>;

    /// Ties the hardware address of a sandbox that runs to the port of the bridge that leads to `process`, its first.
    async fn pin(&self, _sandbox: &SandboxId, _process: u32) -> OpResult<()> {
        Ok(())
    }

    /// Unties it, before a start gives it another port.
    async fn unpin(&self, _sandbox: &SandboxId) -> OpResult<()> {
        Ok(())
    }

    /// Whether it is tied to a port that is there, or needs none.
    async fn is_pinned(&self, _sandbox: &SandboxId) -> bool {
        true
    }

    /// Drops what earlier runs left for sandboxes that no longer exist.
    async fn retain(&self, keep: &HashSet<String>) -> OpResult<()>;

    /// Closes the bridge of a link network to everything but its own ports, before anything is attached to it.
    async fn guard_link(&self, bridge: &str) -> OpResult<()>;

    /// Forgets the bridge of a link network that is gone.
    async fn forget_link(&self, bridge: &str) -> OpResult<()>;

    /// Puts back what somebody else removed. True when there was something to put back.
    async fn restore(&self) -> OpResult<bool>;

    /// Returns when somebody else may have removed rules, so that [`NetworkPolicy::restore`] has to look.
    async fn disturbed(&self) {
        std::future::pending().await
    }

    /// The host's iptables rules, in which the original runner kept its policies.
    async fn legacy_rules(&self) -> OpResult<Vec<LegacyRules>> {
        Ok(Vec::new())
    }

    /// Changes them by a script for the program `restore`.
    async fn change_legacy_rules(&self, _restore: &str, _script: &str) -> OpResult<()> {
        Ok(())
    }

    /// Whether policies are in force at all.
    fn is_enforced(&self) -> bool {
        true
    }
}

fn failed(error: FirewallError) -> OpError {
    OpError::new(Class::Internal, error.to_string())
}

#[async_trait]
impl NetworkPolicy for Firewall {
    async fn apply(&self, sandbox: &SandboxId, endpoint: Endpoint, policy: Policy) -> OpResult<()> {
        self.apply(sandbox.as_str(), endpoint, policy).await.map_err(failed)
    }

    async fn remove(&self, sandbox: &SandboxId) -> OpResult<()> {
        self.remove(sandbox.as_str()).await.map_err(failed)
    }

    async fn pin(&self, sandbox: &SandboxId, process: u32) -> OpResult<()> {
        self.pin(sandbox.as_str(), process).await.map_err(failed)
    }

    async fn unpin(&self, sandbox: &SandboxId) -> OpResult<()> {
        self.unpin(sandbox.as_str()).await.map_err(failed)
    }

    async fn is_pinned(&self, sandbox: &SandboxId) -> bool {
        self.is_pinned(sandbox.as_str()).await
    }

    async fn retain(&self, keep: &HashSet<String>) -> OpResult<()> {
        self.retain(keep).await.map(drop).map_err(failed)
    }

    async fn guard_link(&self, bridge: &str) -> OpResult<()> {
        self.guard_link(bridge).await.map_err(failed)
    }

    async fn forget_link(&self, bridge: &str) -> OpResult<()> {
        self.forget_link(bridge).await.map_err(failed)
    }

    async fn restore(&self) -> OpResult<bool> {
        self.restore().await.map_err(failed)
    }

    async fn disturbed(&self) {
        self.disturbed().await;
    }

    async fn legacy_rules(&self) -> OpResult<Vec<LegacyRules>> {
        takeover::legacy_rules().await
    }

    async fn change_legacy_rules(&self, restore: &str, script: &str) -> OpResult<()> {
        takeover::restore(restore, script).await.map_err(|reason| OpError::new(Class::Internal, reason))
    }
}

/// No rules at all, for an operator who asked for that with `PINFOLD_NETWORK_POLICY=off`. A sandbox that asks for a closed network is
/// refused rather than left open.
#[derive(Debug, Clone, Copy, Default)]
pub struct Unenforced;

#[async_trait]
impl NetworkPolicy for Unenforced {
    async fn apply(&self, _sandbox: &SandboxId, _endpoint: Endpoint, policy: Policy) -> OpResult<()> {
        if policy.is_closed() {
            let message = "this runner enforces no network policy (PINFOLD_NETWORK_POLICY=off), so it cannot restrict a sandbox";
            return Err(OpError::new(Class::BadRequest, message));
        }
        Ok(())
    }

    async fn remove(&self, _sandbox: &SandboxId) -> OpResult<()> {
        Ok(())
    }

    async fn retain(&self, _keep: &HashSet<String>) -> OpResult<()> {
        Ok(())
    }

    async fn guard_link(&self, _bridge: &str) -> OpResult<()> {
        Ok(())
    }

    async fn forget_link(&self, _bridge: &str) -> OpResult<()> {
        Ok(())
    }

    async fn restore(&self) -> OpResult<bool> {
        Ok(false)
    }

    fn is_enforced(&self) -> bool {
        false
    }
}

/// The policy that settings ask for. Text that is not a policy is a bad request, never an open network.
pub fn parse(settings: &NetworkSettings) -> OpResult<Policy> {
    let parsed = Policy::parse(
        settings.network_block_all,
        settings.network_allow_list.as_deref(),
        settings.domain_allow_list.as_deref(),
        settings.network_limit_egress.unwrap_or(false),
    );
    parsed.map_err(|e| OpError::new(Class::BadRequest, e.to_string()))
}

/// The same for a sandbox that is on the operator's network, too (`CONTAINER_NETWORK`). It leaves past its policy there, so what would only look closed is refused.
pub fn parse_beside(settings: &NetworkSettings, operators: Option<&str>) -> OpResult<Policy> {
    let policy = parse(settings)?;
    let Some(network) = operators.filter(|_| policy.is_closed()) else { return Ok(policy) };
    let message = format!(
        "this runner attaches its sandboxes to the network {network}, too (CONTAINER_NETWORK), where they leave past their policies, so it cannot restrict a sandbox"
    );
    Err(OpError::new(Class::BadRequest, message))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fails closed: where nothing is enforced, a sandbox that asks for walls is refused.
    #[tokio::test]
    async fn without_rules_a_closed_network_is_refused() {
        let (id, endpoint) = (SandboxId::random(), Endpoint::new(std::net::Ipv4Addr::LOCALHOST));
        let settings =
            |closed| NetworkSettings { network_block_all: Some(closed), ..NetworkSettings::default() };
        let apply = |closed| async move { Unenforced.apply(&id, endpoint, parse(&settings(closed))?).await };
        assert_eq!(apply.clone()(true).await.unwrap_err().class, Class::BadRequest);
        apply(false).await.unwrap();
    }
}
