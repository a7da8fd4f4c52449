//! What changes with a sandbox, as transactions: its chain, its names' addresses, and its entry in the map by which packets find the chain.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::Ipv4Addr;

use crate::netlink::{Ask, Attributes, Batch, TABLE, attributes_of};
use crate::ports::Port;
use crate::{Cidr, Domain, Endpoint, Policy};

const LIST_ELEMENT: u16 = 1;
/// `NFT_SET_TIMEOUT`.
const TIMEOUT: u32 = 0x10;
/// Most addresses that one sandbox's names may have opened at once: a wildcard must not let it fill the kernel's memory.
const MOST_RESOLVED: u32 = 4096;
/// nft's number for addresses, so that it can show the set.
const IPV4_ADDRESS: u32 = 7;
const DROP: u32 = 0;
const ACCEPT: u32 = 1;
/// `NFT_JUMP`, which is -3.
const JUMP: u32 = u32::MAX - 2;
const VERDICT_REGISTER: u32 = 0;
const REGISTER: u32 = 1;
/// `NFT_META_NFPROTO`.
const FAMILY: u32 = 15;
const IPV4: u8 = 2;

fn chain_of(key: &str) -> String {
    format!("sb_{key}")
}

fn names_of(key: &str) -> String {
    format!("dom_{key}")
}

fn attributes() -> Attributes {
    Attributes::default()
}

fn value(kind: u16, bytes: &[u8]) -> Attributes {
    attributes().nested(kind, attributes().bytes(1, bytes))
}

fn expression(name: &str, data: Attributes) -> Attributes {
    attributes().text(1, name).nested(2, data)
}

fn verdict(code: u32) -> Attributes {
    let data = attributes().nested(2, attributes().number(1, code));
    expression("immediate", attributes().number(1, VERDICT_REGISTER).nested(2, data))
}

fn equals(bytes: &[u8]) -> Attributes {
    let compared = attributes().number(1, REGISTER).number(2, 0).nested(3, attributes().bytes(1, bytes));
    expression("cmp", compared)
}

/// Loads the destination address of an IPv4 packet; packets of other families end the rule.
fn destination() -> Vec<Attributes> {
    let family = expression("meta", attributes().number(1, REGISTER).number(2, FAMILY));
    let address = attributes().number(1, REGISTER).number(2, 1).number(3, 16).number(4, 4);
    vec![family, equals(&[IPV4]), expression("payload", address)]
}

fn to_network(network: &Cidr) -> Vec<Attributes> {
    let mut rule = destination();
    if network.mask() != u32::MAX {
        let masked = attributes().number(1, REGISTER).number(2, REGISTER).number(3, 4);
        let masked = masked.nested(4, attributes().bytes(1, &network.mask().to_be_bytes()));
        rule.push(expression("bitwise", masked.nested(5, attributes().bytes(1, &[0; 4]))));
    }
    rule.push(equals(&network.network().octets()));
    rule.push(verdict(ACCEPT));
    rule
}

fn to_resolved(set: &str) -> Vec<Attributes> {
    let mut rule = destination();
    rule.push(expression("lookup", attributes().text(1, set).number(2, REGISTER)));
    rule.push(verdict(ACCEPT));
    rule
}

/// Ether address and IP address, each padded to four bytes.
fn place(endpoint: &Endpoint) -> Vec<u8> {
    let mut key = endpoint.mac.to_vec();
    key.extend([0, 0]);
    key.extend(endpoint.ip.octets());
    key
}

/// Ether address and name of an interface, padded to eight and sixteen bytes.
fn origin(mac: [u8; 6], port: &Port) -> Vec<u8> {
    let mut key = mac.to_vec();
    key.extend([0, 0]);
    key.extend(port.name.bytes());
    key.resize(24, 0);
    key
}

/// `NFTA_RULE_USERDATA`.
const RULE_REMARK: u16 = 7;

/// A comment as `nft` shows it: its kind, its length, its text (libnftnl's `udata.h`).
fn remark_of(text: &str) -> Vec<u8> {
    let mut bytes = vec![0, u8::try_from(text.len() + 1).unwrap_or(u8::MAX)];
    bytes.extend(text.bytes());
    bytes.push(0);
    bytes
}

/// What the rule for resolved addresses says of the list that opens them, so that the next run knows whether it is still the same. Nothing without names.
pub(crate) fn mark_of(domains: &[Domain]) -> Option<String> {
    let mut hasher = DefaultHasher::new();
    domains.iter().for_each(|domain| domain.to_string().hash(&mut hasher));
    (!domains.is_empty()).then(|| format!("names {:016x}", hasher.finish()))
}

/// The key of the sandbox that a listed rule belongs to, and the mark on it.
pub(crate) fn marked(rule: &[u8]) -> Option<(String, String)> {
    let text = |bytes: &[u8]| Some(std::str::from_utf8(bytes).ok()?.trim_end_matches('\0').to_owned());
    let value = |wanted| attributes_of(rule.get(4..)?).find(|(kind, _)| *kind == wanted).map(|(_, v)| v);
    let key = text(value(2)?)?.strip_prefix("sb_")?.to_owned();
    Some((key, text(value(RULE_REMARK)?.get(2..)?)?))
}

struct Change(Batch);

impl Change {
    fn ask(&mut self, ask: Ask, attributes: Attributes) {
        self.0.ask(ask, attributes);
    }

    fn chain(&mut self, ask: Ask, key: &str) {
        self.ask(ask, attributes().text(1, TABLE).text(3, &chain_of(key)));
    }

    fn flush_chain(&mut self, key: &str) {
        self.ask(Ask::DelRule, attributes().text(1, TABLE).text(2, &chain_of(key)));
    }

    fn rule(&mut self, key: &str, expressions: Vec<Attributes>, remark: Option<&str>) {
        let list = expressions.into_iter().fold(attributes(), |list, e| list.nested(LIST_ELEMENT, e));
        let rule = attributes().text(1, TABLE).text(2, &chain_of(key)).nested(4, list);
        let rule = match remark {
            Some(remark) => rule.bytes(RULE_REMARK, &remark_of(remark)),
            None => rule,
        };
        self.ask(Ask::NewRule, rule);
    }

    fn names(&mut self, key: &str) {
        let set = attributes().text(1, TABLE).text(2, &names_of(key)).number(3, TIMEOUT);
        let set = set.number(4, IPV4_ADDRESS).number(5, 4).number(10, 1);
        self.ask(Ask::NewSet, set.nested(9, attributes().number(1, MOST_RESOLVED)));
    }

    fn element(&mut self, ask: Ask, set: &str, element: Attributes) {
        let list = attributes().nested(LIST_ELEMENT, element);
        self.ask(ask, attributes().text(1, TABLE).text(2, set).nested(3, list));
    }

    /// Adding first makes the deletion succeed, whatever was there.
    fn delete_element(&mut self, set: &str, element: &Attributes, bare: Attributes) {
        self.element(Ask::NewElement, set, element.clone());
        self.element(Ask::DelElement, set, bare);
    }
}

fn jump(key: &str, endpoint: &Endpoint) -> Attributes {
    let target = attributes().number(1, JUMP).text(2, &chain_of(key));
    value(1, &place(endpoint)).nested(2, attributes().nested(2, target))
}

/// The whole policy of one sandbox, replacing what it had; `moved_from` is where it was before, if that was elsewhere. What names have opened stays open with
/// `same_names` alone: another list may not have opened it.
pub(crate) fn sandbox(
    key: &str,
    endpoint: &Endpoint,
    policy: &Policy,
    moved_from: Option<&Endpoint>,
    names_for_all: bool,
    same_names: bool,
) -> Batch {
    let mut change = Change(Batch::new());
    change.chain(Ask::NewChain, key);
    change.names(key);
    if let Some(old) = moved_from {
        forget_place(&mut change, key, old);
    }
    change.flush_chain(key);
    let (place, address) = (value(1, &place(endpoint)), value(1, &endpoint.ip.octets()));
    if policy.limit_egress {
        change.element(Ask::NewElement, "limited", address);
    } else {
        change.delete_element("limited", &address, address.clone());
    }
    if policy.asks_resolver(names_for_all) {
        change.element(Ask::NewElement, "resolving", place);
    } else {
        change.delete_element("resolving", &place, place.clone());
    }
    if !same_names {
        change.ask(Ask::DelElement, attributes().text(1, TABLE).text(2, &names_of(key)));
    }
    if let Some(mark) = mark_of(&policy.domains) {
        change.rule(key, to_resolved(&names_of(key)), Some(&mark));
    }
    match &policy.networks {
        None => change.rule(key, vec![verdict(ACCEPT)], None),
        Some(networks) => {
            for network in networks {
                change.rule(key, to_network(network), None);
            }
            change.rule(key, vec![verdict(DROP)], None);
        }
    }
    change.element(Ask::NewElement, "sandboxes", jump(key, endpoint));
    change.0
}

fn forget_place(change: &mut Change, key: &str, endpoint: &Endpoint) {
    let (place, address) = (value(1, &place(endpoint)), value(1, &endpoint.ip.octets()));
    change.delete_element("sandboxes", &jump(key, endpoint), place.clone());
    change.delete_element("resolving", &place, place.clone());
    change.delete_element("limited", &address, address.clone());
}

/// Forgets a sandbox: its address is unknown again, and so without a network.
pub(crate) fn removal(key: &str, endpoint: &Endpoint) -> Batch {
    let mut change = Change(Batch::new());
    change.chain(Ask::NewChain, key);
    change.names(key);
    forget_place(&mut change, key, endpoint);
    change.flush_chain(key);
    change.chain(Ask::DelChain, key);
    change.ask(Ask::DelSet, attributes().text(1, TABLE).text(2, &names_of(key)));
    change.0
}

/// Lets a hardware address come from `port` alone; `old` is the port that was its own before.
pub(crate) fn pin(mac: [u8; 6], port: &Port, old: Option<&Port>) -> Batch {
    let mut change = Change(Batch::bridge());
    if let Some(old) = old {
        let origin = value(1, &origin(mac, old));
        change.delete_element("ports", &origin, origin.clone());
    }
    change.element(Ask::NewElement, "ports", value(1, &origin(mac, port)));
    change.element(Ask::NewElement, "pinned", value(1, &mac));
    change.0
}

/// Lets a hardware address come from anywhere again.
pub(crate) fn unpin(mac: [u8; 6], port: &Port) -> Batch {
    let mut change = Change(Batch::bridge());
    let (mac, origin) = (value(1, &mac), value(1, &origin(mac, port)));
    change.delete_element("pinned", &mac, mac.clone());
    change.delete_element("ports", &origin, origin.clone());
    change.0
}

/// Allows addresses for some seconds; those that are allowed already, for as long from now on.
pub(crate) fn resolved(key: &str, addresses: &[Ipv4Addr], seconds: u32) -> Batch {
    let mut change = Change(Batch::new());
    for ip in addresses {
        let address = value(1, &ip.octets());
        let timed = address.clone().long(4, u64::from(seconds) * 1000);
        // Deleting first renews the time that is left.
        change.delete_element(&names_of(key), &timed, address);
        change.element(Ask::NewElement, &names_of(key), timed);
    }
    change.0
}
