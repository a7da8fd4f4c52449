//! The firewall: applies policies, remembers which sandbox has which address, removes what is left over.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::Ipv4Addr;
use std::sync::Arc;

use tokio::sync::Mutex;

use crate::netlink::{Attributes, BRIDGE, Batch, INET, Kernel, TABLE, Watch};
use crate::nft::Known;
use crate::ports::{self, Port};
use crate::{Cidr, Endpoint, NftError, Policy, changes, nft, ruleset};

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
    /// Whether sandboxes without limits ask our resolver too, because the host's name servers listen where only the host reaches them.
    pub names_for_all: bool,
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
    /// The port of the bridge that leads to a sandbox could not be told.
    #[error("could not find the port of sandbox {sandbox}: {source}")]
    Port {
        /// Which sandbox.
        sandbox: String,
        /// What the kernel said.
        source: std::io::Error,
    },
}

/// What is in the kernel, as far as this process put or found it there.
#[derive(Debug)]
struct Installed {
    kernel: Kernel,
    applied: HashMap<String, (Endpoint, Policy)>,
    /// Sandboxes of earlier runs, by the part of their chain's name that stands for them.
    inherited: HashMap<String, Endpoint>,
    /// By which list of names each of them, by that part, has opened addresses; of this run and of earlier ones.
    names: HashMap<String, String>,
    /// Hardware addresses that come from one port alone.
    pins: HashMap<[u8; 6], Port>,
    /// Bridges of link networks.
    links: BTreeSet<String>,
    /// How many rules each fixed chain has.
    fixed: Vec<usize>,
    /// Whether the rules hold only as long as the kernel shows them bridged packets.
    shown: bool,
}

impl Installed {
    fn place_of(&self, sandbox: &str, key: &str) -> Option<Endpoint> {
        let applied = self.applied.get(sandbox).map(|(endpoint, _)| *endpoint);
        applied.or_else(|| self.inherited.get(key).copied())
    }

    fn commit(&self, sandbox: &str, batch: Batch) -> Result<(), FirewallError> {
        let failed = |e| FirewallError::Apply { sandbox: sandbox.to_owned(), source: NftError::Kernel(e) };
        self.kernel.commit(batch).map_err(failed)
    }

    /// Removes what the kernel has for a sandbox.
    fn forget(&mut self, sandbox: &str, key: &str, endpoint: &Endpoint) -> Result<(), FirewallError> {
        self.commit(sandbox, changes::removal(key, endpoint))?;
        self.names.remove(key);
        self.unpin(sandbox, endpoint.mac)
    }

    fn unpin(&mut self, sandbox: &str, mac: [u8; 6]) -> Result<(), FirewallError> {
        let Some(port) = self.pins.get(&mac) else { return Ok(()) };
        self.commit(sandbox, changes::unpin(mac, port))?;
        self.pins.remove(&mac);
        Ok(())
    }

    /// Takes over what an earlier run pinned. A port that is gone is nobody's: its sandbox has another by now, or none.
    async fn take_pins(&mut self) -> Result<(), NftError> {
        for (mac, name) in nft::pinned().await? {
            match Port::named(&name) {
                Some(port) => drop(self.pins.insert(mac, port)),
                None => {
                    let gone = changes::unpin(mac, &Port { name, index: 0 });
                    self.kernel.commit(gone).map_err(NftError::Kernel)?;
                }
            }
        }
        Ok(())
    }
}

/// Applies policies. One per runner: all changes go through it, one after another. A change that has begun is finished and remembered even when
/// its caller is gone.
#[derive(Debug)]
pub struct Firewall {
    bridge: Bridge,
    installed: Arc<Mutex<Installed>>,
    watch: Watch,
}

impl Firewall {
    /// Closes the bridge. What earlier runs allowed stays allowed until it is changed or [`Firewall::retain`] drops it.
    pub async fn install(bridge: Bridge) -> Result<Self, FirewallError> {
        if !is_interface(&bridge.interface) {
            return Err(FirewallError::Interface(bridge.interface));
        }
        let kernel = Kernel::open().map_err(|e| FirewallError::Install(NftError::Kernel(e)))?;
        let watch = Watch::open(&kernel).map_err(|e| FirewallError::Install(NftError::Kernel(e)))?;
        let (fixed, shown) = install_fixed(&bridge, &kernel).await?;
        let known = nft::known().await.map_err(FirewallError::Install)?;
        let inherited = known.iter().filter_map(Known::place).collect();
        let mut names = HashMap::new();
        let ours = Attributes::default().text(1, TABLE);
        let listed = kernel.each_rule(INET, ours, |rule| names.extend(changes::marked(rule)));
        listed.map_err(|e| FirewallError::Install(NftError::Kernel(e)))?;
        let (applied, pins, links) = (HashMap::new(), HashMap::new(), BTreeSet::new());
        let mut installed = Installed { kernel, applied, inherited, names, pins, links, fixed, shown };
        installed.take_pins().await.map_err(FirewallError::Install)?;
        Ok(Self { bridge, installed: Arc::new(Mutex::new(installed)), watch })
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
        let sandbox = sandbox.to_owned();
        let names_for_all = self.bridge.names_for_all;
        self.change(move |installed| {
            if installed.applied.get(&sandbox) == Some(&(endpoint, policy.clone())) {
                return Ok(());
            }
            let moved_from = installed.place_of(&sandbox, &key).filter(|old| *old != endpoint);
            let mark = changes::mark_of(&policy.domains);
            let same_names = installed.names.get(&key) == mark.as_ref();
            let moved = moved_from.as_ref();
            let batch = changes::sandbox(&key, &endpoint, &policy, moved, names_for_all, same_names);
            installed.commit(&sandbox, batch)?;
            installed.names.remove(&key);
            installed.names.extend(mark.map(|mark| (key.clone(), mark)));
            installed.inherited.remove(&key);
            if let Some(old) = moved_from {
                installed.unpin(&sandbox, old.mac)?;
            }
            installed.applied.insert(sandbox, (endpoint, policy));
            Ok(())
        })
        .await
    }

    /// Lets the hardware address of `sandbox`, which runs, come from its own port of the bridge alone, so that nobody who can forge frames passes for it. Its port is the one
    /// that leads to the network of `process`; one that has none on this bridge is left as it is. A new port takes the place of the old one.
    pub async fn pin(&self, sandbox: &str, process: u32) -> Result<(), FirewallError> {
        let (bridge, sandbox) = (self.bridge.interface.clone(), sandbox.to_owned());
        self.change(move |installed| {
            let Some((Endpoint { mac, .. }, _)) = installed.applied.get(&sandbox) else { return Ok(()) };
            let (mac, failed) = (*mac, |source| FirewallError::Port { sandbox: sandbox.clone(), source });
            let Some(port) = ports::leading_to(&bridge, process).map_err(failed)? else { return Ok(()) };
            if installed.pins.iter().any(|(other, theirs)| *other != mac && *theirs == port) {
                return Err(failed(std::io::Error::other(format!("{} is another sandbox's", port.name))));
            }
            installed.commit(&sandbox, changes::pin(mac, &port, installed.pins.get(&mac)))?;
            installed.pins.insert(mac, port);
            Ok(())
        })
        .await
    }

    /// Lets the hardware address of `sandbox` come from any port, because it is about to get another one.
    pub async fn unpin(&self, sandbox: &str) -> Result<(), FirewallError> {
        let sandbox = sandbox.to_owned();
        self.change(move |installed| match installed.applied.get(&sandbox) {
            Some((Endpoint { mac, .. }, _)) => installed.unpin(&sandbox, *mac),
            None => Ok(()),
        })
        .await
    }

    /// Whether the hardware address of `sandbox` comes from one port alone, and that port is there; one without a policy here needs none.
    pub async fn is_pinned(&self, sandbox: &str) -> bool {
        let installed = self.installed.lock().await;
        let Some((endpoint, _)) = installed.applied.get(sandbox) else { return true };
        installed.pins.get(&endpoint.mac).is_some_and(Port::exists)
    }

    /// Runs a change off the runtime, with nobody beside it.
    async fn change<T: Send + 'static>(
        &self,
        change: impl FnOnce(&mut Installed) -> Result<T, FirewallError> + Send + 'static,
    ) -> Result<T, FirewallError> {
        let mut installed = Arc::clone(&self.installed).lock_owned().await;
        match tokio::task::spawn_blocking(move || change(&mut installed)).await {
            Ok(result) => result,
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }

    /// What is in force for `sandbox`.
    pub async fn applied(&self, sandbox: &str) -> Option<(Endpoint, Policy)> {
        self.installed.lock().await.applied.get(sandbox).cloned()
    }

    /// Which sandbox has this address, and its policy.
    pub async fn owner_of(&self, ip: Ipv4Addr) -> Option<(String, Policy)> {
        let installed = self.installed.lock().await;
        let found = installed.applied.iter().find(|(_, (endpoint, _))| endpoint.ip == ip);
        found.map(|(id, (_, policy))| (id.clone(), policy.clone()))
    }

    /// Removes what `sandbox` had, in this run or an earlier one. Its address has no network afterwards.
    pub async fn remove(&self, sandbox: &str) -> Result<(), FirewallError> {
        let key = key_of(sandbox)?;
        let sandbox = sandbox.to_owned();
        self.change(move |installed| {
            let Some(endpoint) = installed.place_of(&sandbox, &key) else { return Ok(()) };
            installed.forget(&sandbox, &key, &endpoint)?;
            installed.inherited.remove(&key);
            installed.applied.remove(&sandbox);
            Ok(())
        })
        .await
    }

    /// Removes what earlier runs left for sandboxes that are not in `keep`, and says how many that were.
    pub async fn retain(&self, keep: &HashSet<String>) -> Result<usize, FirewallError> {
        let keep: HashSet<String> = keep.iter().filter_map(|id| key_of(id).ok()).collect();
        self.change(move |installed| {
            let inherited = installed.inherited.keys().cloned();
            let applied = installed.applied.keys().filter_map(|id| key_of(id).ok());
            let stale: Vec<String> = inherited.chain(applied).filter(|key| !keep.contains(key)).collect();
            for key in &stale {
                let applied = installed.applied.iter().find(|(id, _)| key_of(id).is_ok_and(|k| k == *key));
                let applied = applied.map(|(id, (endpoint, _))| (id.clone(), *endpoint));
                if let Some(endpoint) = installed.inherited.remove(key) {
                    installed.forget(key, key, &endpoint)?;
                }
                if let Some((sandbox, endpoint)) = applied {
                    installed.forget(key, key, &endpoint)?;
                    installed.applied.remove(&sandbox);
                }
            }
            Ok(stale.len())
        })
        .await
    }

    /// Guards the bridge of a link network: its ports reach each other but for the daemons' own ports, and nothing else at all. Call it before
    /// anything is attached.
    pub async fn guard_link(&self, bridge: &str) -> Result<(), FirewallError> {
        if !is_interface(bridge) {
            return Err(FirewallError::Interface(bridge.to_owned()));
        }
        let mut installed = self.installed.lock().await;
        // The rules are of IP packets, whatever this kernel can filter on the bridge itself.
        bridged_packets_through_ip_rules().await?;
        installed.shown = true;
        nft::apply(&ruleset::link(bridge)).await.map_err(FirewallError::Install)?;
        installed.links.insert(bridge.to_owned());
        Ok(())
    }

    /// Forgets the bridge of a link network that is gone.
    pub async fn forget_link(&self, bridge: &str) -> Result<(), FirewallError> {
        if !is_interface(bridge) {
            return Err(FirewallError::Interface(bridge.to_owned()));
        }
        let mut installed = self.installed.lock().await;
        nft::apply(&ruleset::unlink(bridge)).await.map_err(FirewallError::Install)?;
        installed.links.remove(bridge);
        Ok(())
    }

    /// Returns when somebody else has changed rules of this host: [`Firewall::restore`] then tells whether they were ours. Only where the kernel cannot tell it
    /// never does.
    pub async fn disturbed(&self) {
        if let Err(error) = self.watch.changed().await {
            tracing::error!(%error, "the kernel does not tell of changes of network rules any more");
            std::future::pending::<()>().await;
        }
    }

    /// Puts everything back when somebody else removed it (`nft flush ruleset` does). True when there was something to put back.
    pub async fn restore(&self) -> Result<bool, FirewallError> {
        let mut installed = self.installed.lock().await;
        let hidden = installed.shown && !bridged_packets_are_shown().await;
        if !hidden && count_fixed(&installed.kernel)? == installed.fixed {
            return Ok(false);
        }
        tracing::error!("the network rules were changed by someone else; putting them back");
        let (fixed, _) = install_fixed(&self.bridge, &installed.kernel).await?;
        if installed.shown {
            bridged_packets_through_ip_rules().await?;
        }
        for bridge in &installed.links {
            nft::apply(&ruleset::link(bridge)).await.map_err(FirewallError::Install)?;
        }
        for (sandbox, (endpoint, policy)) in &installed.applied {
            let names_for_all = self.bridge.names_for_all;
            let batch = changes::sandbox(&key_of(sandbox)?, endpoint, policy, None, names_for_all, true);
            installed.commit(sandbox, batch)?;
        }
        for (mac, port) in &installed.pins {
            let pinned = installed.kernel.commit(changes::pin(*mac, port, None));
            pinned.map_err(|e| FirewallError::Install(NftError::Kernel(e)))?;
        }
        // Not before all is back: what fails half-way is tried again.
        installed.fixed = fixed;
        Ok(true)
    }

    /// Allows a sandbox's domain-listed address for `seconds`, after its name was looked up under `policy`. False, and nothing is allowed, when another
    /// list of names is in force by now.
    pub async fn allow_resolved(
        &self,
        sandbox: &str,
        policy: &Policy,
        addresses: &[Ipv4Addr],
        seconds: u32,
    ) -> Result<bool, FirewallError> {
        let key = key_of(sandbox)?;
        let (sandbox, addresses, domains) = (sandbox.to_owned(), addresses.to_vec(), policy.domains.clone());
        self.change(move |installed| {
            if installed.applied.get(&sandbox).is_none_or(|(_, now)| now.domains != domains) {
                return Ok(false);
            }
            if !addresses.is_empty() {
                installed.commit(&sandbox, changes::resolved(&key, &addresses, seconds))?;
            }
            Ok(true)
        })
        .await
    }

    /// Removes all rules. Nothing guards the bridge afterwards: only for a host that has no sandboxes any more.
    pub async fn uninstall(self) -> Result<(), FirewallError> {
        nft::apply(ruleset::teardown()).await.map_err(FirewallError::Install)
    }
}

/// The rules that are the same for all sandboxes, how many they are, and whether they need bridged packets to be shown to them.
async fn install_fixed(bridge: &Bridge, kernel: &Kernel) -> Result<(Vec<usize>, bool), FirewallError> {
    nft::apply(&ruleset::base(bridge)).await.map_err(FirewallError::Install)?;
    // What sandboxes send each other never leaves the bridge, and policies are of IP packets.
    let mut shown = bridge.inter_sandbox;
    if shown {
        bridged_packets_through_ip_rules().await?;
    }
    if let Err(error) = nft::apply(&ruleset::isolation(bridge)).await {
        tracing::debug!(%error, "this kernel cannot filter on the bridge itself; bridged packets go through the IP rules");
        bridged_packets_through_ip_rules().await?;
        shown = true;
        nft::apply(&ruleset::arp_isolation(bridge)).await.map_err(FirewallError::Install)?;
    }
    Ok((count_fixed(kernel)?, shown))
}

fn count_fixed(kernel: &Kernel) -> Result<Vec<usize>, FirewallError> {
    let chains = ruleset::CHAINS.iter().map(|chain| (INET, chain));
    let chains = chains.chain(ruleset::BRIDGE_CHAINS.iter().map(|chain| (BRIDGE, chain)));
    let counted: std::io::Result<_> = chains.map(|(family, chain)| kernel.rules(family, chain)).collect();
    counted.map_err(|e| FirewallError::Install(NftError::Kernel(e)))
}

fn is_interface(name: &str) -> bool {
    let valid = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    !name.is_empty() && name.len() <= 15 && name.chars().all(valid)
}

/// Whether the kernel shows bridged packets to IPv4's and IPv6's rules.
const BRIDGED_PACKETS: [&str; 2] =
    ["/proc/sys/net/bridge/bridge-nf-call-iptables", "/proc/sys/net/bridge/bridge-nf-call-ip6tables"];

/// False when somebody has switched one of them off; without the bridge module there is nothing to show.
async fn bridged_packets_are_shown() -> bool {
    for path in BRIDGED_PACKETS {
        if tokio::fs::read_to_string(path).await.is_ok_and(|value| value.trim() == "0") {
            return false;
        }
    }
    true
}

/// Makes the kernel show bridged packets to the `inet` rules, which then judge sandbox to sandbox as any other way.
async fn bridged_packets_through_ip_rules() -> Result<(), FirewallError> {
    for path in BRIDGED_PACKETS {
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
