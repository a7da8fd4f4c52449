//! What a sandbox may reach, parsed from the contract's comma-separated lists (runner contract 9.4).

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

/// A policy text that cannot be used. Nothing is changed when one turns up.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPolicy {
    /// Not an IPv4 network.
    #[error("{0:?} in the network allow list is not an IPv4 network such as 203.0.113.0/24")]
    Cidr(String),
    /// Not a host name.
    #[error("{0:?} in the domain allow list is not a host name such as example.com or *.example.com")]
    Domain(String),
}

/// An IPv4 network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cidr {
    network: Ipv4Addr,
    prefix: u8,
}

impl Cidr {
    /// The network with this address and prefix length; host bits are cleared.
    pub fn new(address: Ipv4Addr, prefix: u8) -> Option<Self> {
        (prefix <= 32)
            .then(|| Self { network: Ipv4Addr::from_bits(address.to_bits() & mask(prefix)), prefix })
    }

    /// Whether `address` belongs to the network.
    pub fn contains(&self, address: Ipv4Addr) -> bool {
        address.to_bits() & mask(self.prefix) == self.network.to_bits()
    }

    /// The first address, which names the network.
    pub fn network(&self) -> Ipv4Addr {
        self.network
    }

    /// The bits that make the network, set.
    pub(crate) fn mask(&self) -> u32 {
        mask(self.prefix)
    }

    /// The last address, which is the broadcast address.
    pub fn broadcast(&self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.network.to_bits() | !mask(self.prefix))
    }
}

const fn mask(prefix: u8) -> u32 {
    if prefix == 0 { 0 } else { u32::MAX << (32 - prefix) }
}

impl FromStr for Cidr {
    type Err = InvalidPolicy;

    fn from_str(text: &str) -> Result<Self, InvalidPolicy> {
        let invalid = || InvalidPolicy::Cidr(text.to_owned());
        let (address, prefix) = text.split_once('/').ok_or_else(invalid)?;
        let digits = !prefix.is_empty() && prefix.bytes().all(|b| b.is_ascii_digit());
        let prefix = prefix.parse().ok().filter(|_| digits).ok_or_else(invalid)?;
        Self::new(address.parse().map_err(|_| invalid())?, prefix).ok_or_else(invalid)
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.prefix)
    }
}

/// A host name, or all names below one (`*.example.com`, which does not include `example.com` itself).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Domain {
    name: String,
    wildcard: bool,
}

impl Domain {
    /// Whether this entry allows `name` (any case, with or without the final dot).
    pub fn allows(&self, name: &str) -> bool {
        let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
        if self.wildcard {
            name.strip_suffix(&self.name)
                .and_then(|rest| rest.strip_suffix('.'))
                .is_some_and(|label| !label.is_empty())
        } else {
            name == self.name
        }
    }
}

impl FromStr for Domain {
    type Err = InvalidPolicy;

    fn from_str(text: &str) -> Result<Self, InvalidPolicy> {
        let lower = text.to_ascii_lowercase();
        let (name, wildcard) = match lower.strip_prefix("*.") {
            Some(rest) => (rest, true),
            None => (lower.as_str(), false),
        };
        let label = |l: &str| {
            let inner = l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
            (1..=63).contains(&l.len()) && inner && !l.starts_with('-') && !l.ends_with('-')
        };
        if name.len() <= 253 && name.split('.').all(label) {
            Ok(Self { name: name.to_owned(), wildcard })
        } else {
            Err(InvalidPolicy::Domain(text.to_owned()))
        }
    }
}

impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", if self.wildcard { "*." } else { "" }, self.name)
    }
}

/// What a sandbox may reach. The default is the open internet: never the host, other sandboxes, or link-local addresses.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policy {
    /// Only these networks and [`Policy::domains`]; `Some` and both empty means nothing at all.
    pub networks: Option<Vec<Cidr>>,
    /// Host names whose addresses may be reached, once they have been looked up.
    pub domains: Vec<Domain>,
    /// Mark outgoing packets for traffic shaping that is configured elsewhere.
    pub limit_egress: bool,
}

impl Policy {
    /// Whether nothing is limited, so that any name may be looked up.
    pub(crate) fn is_open(&self) -> bool {
        self.networks.is_none() && self.domains.is_empty()
    }

    /// Whether the sandbox's queries go to our resolver; `names_for_all` as in [`crate::Bridge`].
    pub(crate) fn asks_resolver(&self, names_for_all: bool) -> bool {
        !self.domains.is_empty() || (names_for_all && self.is_open())
    }

    /// Nothing may be reached.
    pub fn block_all() -> Self {
        Self { networks: Some(Vec::new()), ..Self::default() }
    }

    /// The whole desired policy from the contract's settings: block-all wins over lists in a stored policy; a list, of either kind, closes everything else; blank lists are none.
    pub fn parse(
        block_all: Option<bool>,
        networks: Option<&str>,
        domains: Option<&str>,
        limit_egress: bool,
    ) -> Result<Self, InvalidPolicy> {
        let networks = entries(networks).map(str::parse).collect::<Result<Vec<Cidr>, _>>()?;
        let domains = entries(domains).map(str::parse).collect::<Result<Vec<Domain>, _>>()?;
        if block_all == Some(true) {
            return Ok(Self { limit_egress, ..Self::block_all() });
        }
        let closed = !networks.is_empty() || !domains.is_empty();
        Ok(Self { networks: closed.then_some(networks), domains, limit_egress })
    }

    /// Whether anything not listed is refused.
    pub fn is_closed(&self) -> bool {
        self.networks.is_some()
    }

    /// Whether a listed name may open `address`: who owns a name must not choose a machine of the operator's own network by it (DNS rebinding).
    /// One that the networks list is open anyway.
    pub(crate) fn may_resolve_to(&self, address: Ipv4Addr) -> bool {
        let listed = self.networks.iter().flatten().any(|network| network.contains(address));
        listed || is_of_the_internet(address)
    }
}

/// Whether an address is one of the public internet (IANA's special-purpose registry, RFC 6890), or of documentation, which nobody has.
fn is_of_the_internet(address: Ipv4Addr) -> bool {
    let [a, b, ..] = address.octets();
    let special = address.is_private()
        || address.is_loopback()
        || address.is_link_local()
        || address.is_multicast()
        || matches!((a, b), (0 | 240.., _) | (100, 64..=127) | (192, 0) | (198, 18 | 19));
    // 192.0.0.0/24 is special; the rest of 192.0.0.0/16 is not.
    !special || (a, b) == (192, 0) && address.octets()[2] != 0
}

fn entries(list: Option<&str>) -> impl Iterator<Item = &str> {
    list.unwrap_or_default().split(',').map(str::trim).filter(|e| !e.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_clear_host_bits_and_need_a_prefix() {
        assert_eq!("10.1.2.3/8".parse::<Cidr>().unwrap().to_string(), "10.0.0.0/8");
        assert_eq!("0.0.0.0/0".parse::<Cidr>().unwrap().to_string(), "0.0.0.0/0");
        for bad in
            ["", "10.0.0.1", "10.0.0.1/33", "10.0.0.1/-1", "10.0.0.1/+8", "::1/64", "10.0.0.0/8 }", "a/8"]
        {
            assert!(bad.parse::<Cidr>().is_err(), "{bad}");
        }
    }

    #[test]
    fn wildcards_match_below_only() {
        let wild: Domain = "*.Example.com".parse().unwrap();
        assert!(wild.allows("a.example.com") && wild.allows("a.b.EXAMPLE.com."));
        assert!(
            !wild.allows("example.com") && !wild.allows("badexample.com") && !wild.allows(".example.com")
        );
        let exact: Domain = "example.com".parse().unwrap();
        assert!(exact.allows("Example.Com.") && !exact.allows("a.example.com"));
        for bad in ["", "*", "*.", "a..b", "-a.com", "a b.com", "*.*.com", "a;b", "\"x"] {
            assert!(bad.parse::<Domain>().is_err(), "{bad}");
        }
    }

    #[test]
    fn names_open_nothing_of_the_operators_own() {
        let open = |policy: &Policy, text: &str| policy.may_resolve_to(text.parse().unwrap());
        let listed = Policy::parse(None, Some("10.1.0.0/16"), Some("example.com"), false).unwrap();
        for public in ["1.1.1.1", "93.184.216.34", "192.0.2.7", "198.51.100.7", "100.128.0.1", "239.0.0.0"] {
            assert_eq!(open(&listed, public), !public.starts_with("239"), "{public}");
        }
        for own in [
            "0.0.0.0",
            "10.0.0.1",
            "100.64.0.1",
            "127.0.0.1",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.8",
            "192.168.1.1",
            "198.18.0.1",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
        ] {
            assert!(!open(&listed, own), "{own}");
        }
        assert!(open(&listed, "10.1.2.3"), "what is listed by address is open anyway");
    }

    #[test]
    fn any_list_closes_the_rest() {
        assert!(!Policy::parse(None, None, Some(" "), false).unwrap().is_closed());
        assert!(Policy::parse(Some(false), Some("10.0.0.0/8, "), None, false).unwrap().is_closed());
        let only_domains = Policy::parse(None, None, Some("example.com"), true).unwrap();
        assert_eq!((only_domains.networks.as_deref(), only_domains.limit_egress), (Some(&[][..]), true));
        let blocked = Policy::parse(Some(true), Some("10.0.0.0/8"), None, false).unwrap();
        assert_eq!(blocked, Policy::block_all());
        assert!(Policy::parse(Some(true), Some("nonsense"), None, false).is_err());
    }
}
