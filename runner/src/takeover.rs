//! Taking over a host that ran the original runner (runner contract 1.8, 9): its sandboxes come under our policy, on our network, and its iptables
//! chains go.
//!
//! What a chain says becomes the sandbox's recorded policy, so nothing that was closed opens. The order is: our policy in force, our network
//! attached, the old network detached, the record written, and only then the old chain removed; so a kill at any point leaves work for the next start
//! and no sandbox without rules. A sandbox that cannot be taken over, or not even looked at, keeps its chain; it is tried again at each full listing, and before it is
//! started or changed. A sandbox of ours whose record is lost is closed. What has a sandbox's kind of name and not the sandbox's id in its environment is somebody else's, and never gets into the index.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use pinfold_engine::{Attachment, Container};
use pinfold_network::Endpoint;
use pinfold_proto::id::SandboxId;
use pinfold_proto::runner::payload::NetworkSettings;
use tokio::io::AsyncWriteExt;

use crate::daemon::InstalledDaemon;
use crate::error::{Class, OpError, OpResult};
use crate::node::Node;
use crate::policy;
use crate::records::Record;

/// How the original's chains are named; the first twelve digits of the container's id follow.
const CHAIN: &str = "DAYTONA-SB-";
/// The mark that its egress limiter sets, as iptables writes it.
const MARK: &str = "0x3e7";
/// The network of engines that nobody chose another for.
const DEFAULT_BRIDGE: &str = "bridge";
/// The programs that the original may have used; a host has one or both.
const PROGRAMS: [(&str, &str); 2] =
    [("iptables-save", "iptables-restore"), ("iptables-legacy-save", "iptables-legacy-restore")];

/// What the original's rules say of one sandbox.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Legacy {
    closed: bool,
    networks: Vec<String>,
    limited: bool,
}

impl Legacy {
    fn settings(&self) -> NetworkSettings {
        NetworkSettings {
            network_block_all: Some(self.closed && self.networks.is_empty()),
            network_allow_list: (!self.networks.is_empty()).then(|| self.networks.join(",")),
            network_limit_egress: Some(self.limited),
            ..NetworkSettings::default()
        }
    }
}

/// The original's rules, by the end of their chain's name.
fn parse(saved: &str) -> BTreeMap<String, Legacy> {
    let mut found = BTreeMap::<String, Legacy>::new();
    for line in saved.lines() {
        if let Some(name) = line.strip_prefix(':').and_then(|l| l.split(' ').next()?.strip_prefix(CHAIN)) {
            found.entry(name.to_owned()).or_default();
        }
        let words: Vec<&str> = line.split_whitespace().collect();
        let ["-A", chain, rest @ ..] = words.as_slice() else { continue };
        let Some(name) = chain.strip_prefix(CHAIN) else { continue };
        let legacy = found.entry(name.to_owned()).or_default();
        let after = |flag| rest.iter().position(|w| *w == flag).and_then(|at| rest.get(at + 1)).copied();
        match after("-j") {
            Some("DROP") => legacy.closed = true,
            Some("RETURN") => legacy.networks.push(after("-d").unwrap_or("0.0.0.0/0").to_owned()),
            Some("MARK") => legacy.limited |= rest.iter().any(|w| w.starts_with(MARK)),
            _ => {}
        }
    }
    // A list without an end to it closes nothing.
    for legacy in found.values_mut().filter(|l| !l.closed) {
        legacy.networks.clear();
    }
    found
}

fn parse_all(rules: &[LegacyRules]) -> BTreeMap<String, Legacy> {
    rules.iter().flat_map(|rules| parse(&rules.saved)).collect()
}

/// The end of a container's chain's name.
fn chain_of(container: &str) -> String {
    container.get(..12).unwrap_or(container).to_owned()
}

/// What removes those chains, and the accepts of link networks, in one transaction for each table. `gone` says which chains may go.
fn removal(saved: &str, gone: impl Fn(&str) -> bool, links: &BTreeSet<String>) -> String {
    let mut script = String::new();
    let (mut table, mut chains, mut rules) = (String::new(), Vec::new(), Vec::new());
    for line in saved.lines() {
        if let Some(name) = line.strip_prefix('*') {
            (table, chains, rules) = (name.to_owned(), Vec::new(), Vec::new());
        } else if let Some(chain) = line.strip_prefix(':').and_then(|l| l.split(' ').next()) {
            if chain.strip_prefix(CHAIN).is_some_and(&gone) {
                chains.push(chain.to_owned());
            }
        } else if let Some(rule) = line.strip_prefix("-A ") {
            let words: Vec<&str> = rule.split_whitespace().collect();
            let after =
                |flag| words.iter().position(|w| *w == flag).and_then(|at| words.get(at + 1)).copied();
            let target = after("-j").unwrap_or_default();
            let jumps = target.strip_prefix(CHAIN).is_some_and(&gone);
            let accepts = words.first() == Some(&"DOCKER-USER") && target == "ACCEPT";
            let of_link = [after("-i"), after("-s")].into_iter().flatten().any(|w| links.contains(w));
            if jumps || accepts && of_link {
                rules.push(rule.to_owned());
            }
        } else if line == "COMMIT" && !(chains.is_empty() && rules.is_empty()) {
            script.push_str(&format!("*{table}\n"));
            rules.iter().for_each(|rule| script.push_str(&format!("-D {rule}\n")));
            chains.iter().for_each(|chain| script.push_str(&format!("-F {chain}\n-X {chain}\n")));
            script.push_str("COMMIT\n");
        }
    }
    script
}

/// The host's rules as one program shows them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LegacyRules {
    /// What it shows.
    pub saved: String,
    /// The program that changes them.
    pub restore: &'static str,
}

/// The host's rules. A program that is there and does not show them is an error: what it hides may be what closes a sandbox.
pub(crate) async fn legacy_rules() -> OpResult<Vec<LegacyRules>> {
    let mut found = Vec::<LegacyRules>::new();
    for (program, restore) in PROGRAMS {
        let failed = |reason: &dyn std::fmt::Display| {
            OpError::new(Class::Internal, format!("{program} does not show the host's rules: {reason}"))
        };
        let output = match tokio::process::Command::new(program).kill_on_drop(true).output().await {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            output => output.map_err(|error| failed(&error))?,
        };
        if !output.status.success() {
            return Err(failed(&String::from_utf8_lossy(&output.stderr).trim()));
        }
        let saved = String::from_utf8_lossy(&output.stdout).into_owned();
        if found.iter().all(|known| known.saved != saved) {
            found.push(LegacyRules { saved, restore });
        }
    }
    Ok(found)
}

/// Applies `script` with a program of [`LegacyRules::restore`].
pub(crate) async fn restore(program: &str, script: &str) -> Result<(), String> {
    let mut command = tokio::process::Command::new(program);
    command.args(["--noflush", "--wait", "5"]).stdin(std::process::Stdio::piped()).kill_on_drop(true);
    let mut child = command.stderr(std::process::Stdio::piped()).spawn().map_err(|e| e.to_string())?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(script.as_bytes()).await.map_err(|e| e.to_string())?;
    }
    let output = child.wait_with_output().await.map_err(|e| e.to_string())?;
    if output.status.success() {
        Ok(())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).trim().to_owned())
    }
}

impl Node {
    /// Takes over what the original runner left. Without sandboxes and chains of its it costs one look at the rules.
    pub(crate) async fn take_over(&self) -> OpResult<()> {
        // Under no policy of ours the old rules are better than none.
        if !self.policy.is_enforced() {
            return Ok(());
        }
        let _turn = self.takeover_turn.lock().await;
        let rules = match self.policy.legacy_rules().await {
            Ok(rules) => rules,
            Err(error) => {
                tracing::error!(%error, "could not look for rules of the original runner; they stay, and so do its sandboxes");
                return Ok(());
            }
        };
        let legacy = parse_all(&rules);
        let mut taken = BTreeSet::new();
        for (id, known) in self.index.all() {
            match self.take_over_sandbox(&id, &legacy).await {
                Ok(_) => drop(taken.insert(chain_of(&known.container_id))),
                Err(error) => {
                    tracing::error!(sandbox = %id, %error, "could not take a sandbox of the original runner over; it keeps its old rules");
                }
            }
        }
        // The index has not all of them: one that could not be inspected just now is there all the same.
        let listed = self.engine.list().await?;
        let present: BTreeSet<String> = listed.iter().map(|container| chain_of(&container.id)).collect();
        let links = self.engine.networks("daytona.link_network_owner").await?;
        let links = links.into_iter().flat_map(|n| [Some(n.bridge), n.subnet]).flatten().collect();
        self.drop_legacy(&rules, |chain| taken.contains(chain) || !present.contains(chain), &links).await;
        Ok(())
    }

    /// Takes a sandbox over that could not be taken over with the others. One that has a record costs nothing.
    pub(crate) async fn take_over_late(&self, id: &SandboxId) -> OpResult<()> {
        if !self.policy.is_enforced() || self.has_record(id) {
            return Ok(());
        }
        let _turn = self.takeover_turn.lock().await;
        let rules = self.policy.legacy_rules().await?;
        if let Some(chain) = self.take_over_sandbox(id, &parse_all(&rules)).await? {
            self.drop_legacy(&rules, |gone| gone == chain, &BTreeSet::new()).await;
        }
        Ok(())
    }

    async fn drop_legacy(
        &self,
        rules: &[LegacyRules],
        gone: impl Fn(&str) -> bool,
        links: &BTreeSet<String>,
    ) {
        for LegacyRules { saved, restore } in rules {
            let script = removal(saved, &gone, links);
            if script.is_empty() {
                continue;
            }
            match self.policy.change_legacy_rules(restore, &script).await {
                Ok(()) => tracing::info!("removed rules of the original runner"),
                Err(error) => tracing::error!(%error, "could not remove rules of the original runner"),
            }
        }
    }

    fn has_record(&self, id: &SandboxId) -> bool {
        self.records.get(id).is_some() || self.records.is_unreadable(id)
    }

    /// The end of its chain's name, if it has been taken over just now. What has a record, or is not there, needs nothing.
    async fn take_over_sandbox(
        &self,
        id: &SandboxId,
        legacy: &BTreeMap<String, Legacy>,
    ) -> OpResult<Option<String>> {
        if self.has_record(id) {
            return Ok(None);
        }
        let Some(found) = self.find(id).await? else { return Ok(None) };
        let chain = chain_of(&found.id);
        let legacy = match legacy.get(&chain) {
            Some(legacy) => legacy.clone(),
            // The original left open networks without a chain. One of ours had a record, and nobody knows what it said.
            None if InstalledDaemon::is_ours(&found.mount_sources) => {
                tracing::error!(sandbox = %id, "the record of this sandbox is lost; it gets no network until its policy is set again");
                Legacy { closed: true, ..Legacy::default() }
            }
            None => Legacy::default(),
        };
        let settings = legacy.settings();
        policy::parse_beside(&settings, self.operators_network_of(&found))?;
        let address = match self.place_of(&found) {
            Place::Ours(address) => {
                self.policy.apply(id, Endpoint::new(address), policy::parse(&settings)?).await?;
                Some(address)
            }
            Place::LinkOnly => None,
            Place::Elsewhere(networks) => Some(self.move_here(id, &networks, &settings).await?),
        };
        let network = settings;
        self.records.put(id, Record { network, address, ..Record::default() }).await?;
        self.index.change_known(id, |s| s.address = address.filter(|_| s.address.is_some()).or(s.address));
        tracing::info!(sandbox = %id, ?address, "took a sandbox of the original runner over");
        Ok(Some(chain))
    }

    fn place_of(&self, found: &Container) -> Place {
        let ours = &self.network.name;
        if let Some(address) = found.networks.get(ours).copied().flatten() {
            let mac = found.macs.get(ours).map(|mac| mac.to_ascii_lowercase()).unwrap_or_default();
            // Engines before 28 make the hardware address of the other, as we do.
            if mac.is_empty() || mac == Endpoint::new(address).mac_text() {
                return Place::Ours(address);
            }
        }
        let shared = [DEFAULT_BRIDGE, "runner-bridge", "runner-shared"];
        let elsewhere: Vec<String> =
            found.networks.keys().filter(|n| shared.contains(&n.as_str())).cloned().collect();
        // An android sandbox that is linked has its owner's network alone.
        if elsewhere.is_empty() && found.networks.keys().any(|n| n.starts_with("daytona-link-")) {
            return Place::LinkOnly;
        }
        Place::Elsewhere(elsewhere)
    }

    /// Attaches a sandbox to our network, under its policy, and detaches it from the shared ones it was on.
    async fn move_here(
        &self,
        id: &SandboxId,
        from: &[String],
        settings: &NetworkSettings,
    ) -> OpResult<Ipv4Addr> {
        let endpoint = self.addresses.take().map_err(|e| OpError::new(Class::Unavailable, e.to_string()))?;
        let attachment = Attachment {
            network: self.network.name.clone(),
            address: Some(endpoint.ip),
            mac: Some(endpoint.mac_text()),
            ..Attachment::default()
        };
        let moved = async {
            self.policy.apply(id, endpoint, policy::parse(settings)?).await?;
            // One that is on it with another hardware address has to leave it first.
            for network in from.iter().filter(|n| **n == self.network.name) {
                self.engine.disconnect(id.as_str(), network).await?;
            }
            self.engine.connect(id.as_str(), &attachment).await?;
            for network in from.iter().filter(|n| **n != self.network.name) {
                self.engine.disconnect(id.as_str(), network).await?;
            }
            Ok::<_, OpError>(())
        };
        if let Err(error) = moved.await {
            let _ = self.policy.remove(id).await;
            self.addresses.release(endpoint.ip);
            return Err(error);
        }
        Ok(endpoint.ip)
    }
}

/// Where a sandbox without a record is.
enum Place {
    /// On our network, as we would have put it there.
    Ours(Ipv4Addr),
    /// On its owner's network alone.
    LinkOnly,
    /// On these shared networks.
    Elsewhere(Vec<String>),
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAVED: &str = "\
*mangle
:PREROUTING ACCEPT [0:0]
:DAYTONA-SB-aaaaaaaaaaaa - [0:0]
-A PREROUTING -s 172.17.0.2/32 -j DAYTONA-SB-aaaaaaaaaaaa
-A DAYTONA-SB-aaaaaaaaaaaa -j MARK --set-xmark 0x3e7/0xffffffff
COMMIT
*filter
:DOCKER-USER - [0:0]
:DAYTONA-SB-aaaaaaaaaaaa - [0:0]
:DAYTONA-SB-bbbbbbbbbbbb - [0:0]
:DAYTONA-SB-cccccccccccc - [0:0]
-A DOCKER-USER -s 172.17.0.3/32 -j DAYTONA-SB-bbbbbbbbbbbb
-A DOCKER-USER -s 172.17.0.2/32 -j DAYTONA-SB-aaaaaaaaaaaa
-A DOCKER-USER -i br-0123456789ab -o br-0123456789ab -j ACCEPT
-A DOCKER-USER -s 172.19.0.0/16 -d 172.19.0.0/16 -i br-0123456789ab -j ACCEPT
-A DOCKER-USER -i eth7 -j ACCEPT
-A DOCKER-USER -j RETURN
-A DAYTONA-SB-aaaaaaaaaaaa -d 10.0.0.0/8 -j RETURN
-A DAYTONA-SB-aaaaaaaaaaaa -d 203.0.113.0/24 -j RETURN
-A DAYTONA-SB-aaaaaaaaaaaa -j DROP
-A DAYTONA-SB-bbbbbbbbbbbb -j DROP
COMMIT
";

    #[test]
    fn the_originals_chains_are_read_as_policies() {
        let found = parse(SAVED);
        let list = found["aaaaaaaaaaaa"].settings();
        assert_eq!(list.network_allow_list.as_deref(), Some("10.0.0.0/8,203.0.113.0/24"));
        assert_eq!((list.network_block_all, list.network_limit_egress), (Some(false), Some(true)));
        let closed = found["bbbbbbbbbbbb"].settings();
        assert_eq!((closed.network_block_all, closed.network_allow_list), (Some(true), None));
        // A chain that was flushed closes nothing.
        assert_eq!(found["cccccccccccc"], Legacy::default());
    }

    #[test]
    fn only_their_rules_are_removed_and_of_those_only_what_was_taken_over() {
        let links = ["br-0123456789ab".to_owned(), "172.19.0.0/16".to_owned()].into();
        let script = removal(SAVED, |chain| chain != "bbbbbbbbbbbb", &links);
        assert_eq!(
            script,
            "*mangle\n\
             -D PREROUTING -s 172.17.0.2/32 -j DAYTONA-SB-aaaaaaaaaaaa\n\
             -F DAYTONA-SB-aaaaaaaaaaaa\n-X DAYTONA-SB-aaaaaaaaaaaa\nCOMMIT\n\
             *filter\n\
             -D DOCKER-USER -s 172.17.0.2/32 -j DAYTONA-SB-aaaaaaaaaaaa\n\
             -D DOCKER-USER -i br-0123456789ab -o br-0123456789ab -j ACCEPT\n\
             -D DOCKER-USER -s 172.19.0.0/16 -d 172.19.0.0/16 -i br-0123456789ab -j ACCEPT\n\
             -F DAYTONA-SB-aaaaaaaaaaaa\n-X DAYTONA-SB-aaaaaaaaaaaa\n\
             -F DAYTONA-SB-cccccccccccc\n-X DAYTONA-SB-cccccccccccc\nCOMMIT\n"
        );
        assert_eq!(removal("*filter\n:INPUT ACCEPT [0:0]\nCOMMIT\n", |_| true, &links), "");
    }
}
