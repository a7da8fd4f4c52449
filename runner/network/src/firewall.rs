//! The firewall: applies policies, remembers which sandbox has which address, removes what is left over.

use std::collections::{HashMap, HashSet};
use std::net::Ipv4Addr;

use tokio::sync::Mutex;

use crate::{Cidr, Endpoint, NftError, Policy, nft, ruleset};

/// The bridge that sandboxes live on.
#[derive(Debug, Clone)]
pub struct Bridge {
    /// The bridge interface on the host.
    pub interface: String,
    /// Its network.
    pub subnet: Cidr,
    /// The host's address on it.
    pub gateway: Ipv4Addr,
    /// Whether sandboxes may reach each other; the daemons' ports stay closed even then.
    pub inter_sandbox: bool,
    /// Where our resolver listens on the gateway address, if it runs.
    pub resolver_port: Option<u16>,
}

/// Why a policy is not in force.
#[derive(Debug, thiserror::Error)]
pub enum FirewallError {
    /// The bridge's name could not be put into a rule.
    #[error("{0:?} is not the name of a network interface")]
    Interface(String),
    /// The identifier could not be put into a chain's name.
    #[error("{0:?} is not a sandbox id")]
    Sandbox(String),
    /// The closed bridge could not be set up.
    #[error("could not close the sandbox network: {0}")]
    Install(#[source] NftError),
    /// Packets between two ports of a bridge would bypass the rules.
    #[error("could not set {path}: {source}; load the kernel module br_netfilter")]
    BridgeFilter {
        /// The setting.
        path: &'static str,
        /// The system's word on it.
        source: std::io::Error,
    },
    /// One sandbox's policy could not be put in force.
    #[error("could not put the network policy of sandbox {sandbox} in force: {source}")]
    Apply {
        /// Which sandbox.
        sandbox: String,
        /// What nft said.
        source: NftError,
    },
}

/// Applies policies. One per runner: all changes go through it, one after another.
#[derive(Debug)]
pub struct Firewall {
    bridge: Bridge,
    applied: Mutex<HashMap<String, (Endpoint, Policy)>>,
}

impl Firewall {
    /// Closes the bridge. What earlier runs allowed stays allowed until it is changed or [`Firewall::retain`] drops it.
    pub async fn install(bridge: Bridge) -> Result<Self, FirewallError> {
        let valid = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if bridge.interface.is_empty() || bridge.interface.len() > 15 || !bridge.interface.chars().all(valid)
        {
            return Err(FirewallError::Interface(bridge.interface));
        }
        nft::apply(&ruleset::base(&bridge)).await.map_err(FirewallError::Install)?;
        if let Err(error) = nft::apply(&ruleset::isolation(&bridge)).await {
            tracing::debug!(%error, "this kernel cannot filter on the bridge itself; bridged packets go through the IP rules");
            bridged_packets_through_ip_rules().await?;
        }
        Ok(Self { bridge, applied: Mutex::new(HashMap::new()) })
    }

    /// The bridge this firewall guards.
    pub fn bridge(&self) -> &Bridge {
        &self.bridge
    }

    /// Puts `policy` in force for `sandbox` at `endpoint`, in one step. Returns when the kernel has it.
    pub async fn apply(
        &self,
        sandbox: &str,
        endpoint: Endpoint,
        policy: Policy,
    ) -> Result<(), FirewallError> {
        let key = key_of(sandbox)?;
        let failed = |source| FirewallError::Apply { sandbox: sandbox.to_owned(), source };
        let mut applied = self.applied.lock().await;
        if applied.get(sandbox) == Some(&(endpoint, policy.clone())) {
            return Ok(());
        }
        let mut script = String::new();
        if let Some((old, _)) = applied.get(sandbox).filter(|(old, _)| *old != endpoint) {
            script.push_str(&ruleset::removal(&key, old));
        }
        script.push_str(&ruleset::sandbox(&key, &endpoint, &policy));
        nft::apply(&script).await.map_err(failed)?;
        applied.insert(sandbox.to_owned(), (endpoint, policy));
        Ok(())
    }

    /// What is in force for `sandbox`.
    pub async fn applied(&self, sandbox: &str) -> Option<(Endpoint, Policy)> {
        self.applied.lock().await.get(sandbox).cloned()
    }

    /// Which sandbox has this address, and its policy.
    pub async fn owner_of(&self, ip: Ipv4Addr) -> Option<(String, Policy)> {
        let applied = self.applied.lock().await;
        applied
            .iter()
            .find(|(_, (endpoint, _))| endpoint.ip == ip)
            .map(|(id, (_, policy))| (id.clone(), policy.clone()))
    }

    /// Removes what `sandbox` had. Its address has no network afterwards.
    pub async fn remove(&self, sandbox: &str) -> Result<(), FirewallError> {
        let key = key_of(sandbox)?;
        let mut applied = self.applied.lock().await;
        let Some((endpoint, _)) = applied.get(sandbox).cloned() else { return Ok(()) };
        let failed = |source| FirewallError::Apply { sandbox: sandbox.to_owned(), source };
        nft::apply(&ruleset::removal(&key, &endpoint)).await.map_err(failed)?;
        applied.remove(sandbox);
        Ok(())
    }

    /// Removes what earlier runs left for sandboxes that are not in `keep`, and says how many that were.
    pub async fn retain(&self, keep: &HashSet<String>) -> Result<usize, FirewallError> {
        let keep: HashSet<String> =
            keep.iter().filter_map(|id| key_of(id).ok()).map(|key| format!("sb_{key}")).collect();
        let mut applied = self.applied.lock().await;
        let known = nft::known().await.map_err(FirewallError::Install)?;
        let stale: Vec<_> = known.iter().filter(|k| !keep.contains(&k.chain)).collect();
        let script: String = stale.iter().filter_map(|k| ruleset::stale_removal(k)).collect();
        nft::apply(&script).await.map_err(FirewallError::Install)?;
        applied.retain(|id, _| key_of(id).is_ok_and(|key| keep.contains(&format!("sb_{key}"))));
        Ok(stale.len())
    }

    /// Allows a sandbox's domain-listed address for `seconds`, after its name was looked up.
    pub async fn allow_resolved(
        &self,
        sandbox: &str,
        addresses: &[Ipv4Addr],
        seconds: u32,
    ) -> Result<(), FirewallError> {
        let key = key_of(sandbox)?;
        if addresses.is_empty() {
            return Ok(());
        }
        let failed = |source| FirewallError::Apply { sandbox: sandbox.to_owned(), source };
        let applied = self.applied.lock().await;
        if !applied.contains_key(sandbox) {
            return Ok(());
        }
        let mut script = String::new();
        for ip in addresses {
            // Deleting first renews the time that is left.
            script.push_str(&format!(
                "add element inet pinfold dom_{key} {{ {ip} timeout {seconds}s }}\ndelete element inet pinfold dom_{key} {{ {ip} }}\nadd element inet pinfold dom_{key} {{ {ip} timeout {seconds}s }}\n"
            ));
        }
        nft::apply(&script).await.map_err(failed)
    }

    /// Removes all rules. Nothing guards the bridge afterwards: only for a host that has no sandboxes any more.
    pub async fn uninstall(self) -> Result<(), FirewallError> {
        nft::apply(ruleset::teardown()).await.map_err(FirewallError::Install)
    }
}

/// Makes the kernel show bridged packets to the `inet` rules, which then judge sandbox to sandbox as any other way.
async fn bridged_packets_through_ip_rules() -> Result<(), FirewallError> {
    for path in
        ["/proc/sys/net/bridge/bridge-nf-call-iptables", "/proc/sys/net/bridge/bridge-nf-call-ip6tables"]
    {
        let set = tokio::fs::write(path, "1").await;
        set.map_err(|source| FirewallError::BridgeFilter { path, source })?;
    }
    Ok(())
}

/// The part of a chain's name that stands for a sandbox: its UUID's hexadecimal digits.
fn key_of(sandbox: &str) -> Result<String, FirewallError> {
    let key: String = sandbox.chars().filter(|c| *c != '-').collect();
    if key.len() == 32 && key.bytes().all(|b| b.is_ascii_hexdigit()) {
        Ok(key)
    } else {
        Err(FirewallError::Sandbox(sandbox.to_owned()))
    }
}
