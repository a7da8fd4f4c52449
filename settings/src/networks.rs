//! Lists of addresses and networks, such as `172.20.0.1,10.0.0.0/8,fd00::/8`.

use std::net::IpAddr;
use std::str::FromStr;

/// Addresses and networks of either family.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Networks(Vec<(IpAddr, u8)>);

/// Not a list of addresses and networks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an IP address or network")]
pub struct ParseNetworksError(String);

impl FromStr for Networks {
    type Err = ParseNetworksError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
        parts.map(parse).collect::<Result<_, _>>().map(Self)
    }
}

fn parse(text: &str) -> Result<(IpAddr, u8), ParseNetworksError> {
    let invalid = || ParseNetworksError(text.to_owned());
    let (address, length) = text.split_once('/').map_or((text, None), |(a, l)| (a, Some(l)));
    let address: IpAddr = address.parse().map_err(|_| invalid())?;
    let most = if address.is_ipv4() { 32 } else { 128 };
    let length = length.map_or(Ok(most), |length| length.parse().map_err(|_| invalid()))?;
    if length > most { Err(invalid()) } else { Ok((address, length)) }
}

impl Networks {
    /// Whether `address` is one of them or in one of them. An IPv4 address in IPv6 clothes (`::ffff:10.0.0.1`) is the IPv4 address.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.0.iter().any(|(network, length)| match (network.to_canonical(), address.to_canonical()) {
            (IpAddr::V4(network), IpAddr::V4(address)) => {
                let shift = 32 - u32::from((*length).min(32));
                network.to_bits().checked_shr(shift) == address.to_bits().checked_shr(shift)
            }
            (IpAddr::V6(network), IpAddr::V6(address)) => {
                let shift = 128 - u32::from(*length);
                network.to_bits().checked_shr(shift) == address.to_bits().checked_shr(shift)
            }
            _ => false,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holds_what_it_says() {
        let networks: Networks = "172.20.0.1, 10.0.0.0/8,fd00::/8,".parse().unwrap();
        for (address, inside) in [
            ("172.20.0.1", true),
            ("::ffff:172.20.0.1", true),
            ("172.20.0.2", false),
            ("10.255.0.1", true),
            ("11.0.0.1", false),
            ("fd12::1", true),
            ("fe80::1", false),
        ] {
            assert_eq!(networks.contains(address.parse().unwrap()), inside, "{address}");
        }
        assert!("0.0.0.0/0".parse::<Networks>().unwrap().contains("1.2.3.4".parse().unwrap()));
        assert!(!Networks::default().contains("127.0.0.1".parse().unwrap()));
    }

    #[test]
    fn nonsense_is_refused() {
        for bad in ["localhost", "10.0.0.0/33", "10.0.0.0/", "10.0.0.0/-1", "fd00::/129"] {
            assert!(bad.parse::<Networks>().is_err(), "{bad}");
        }
    }
}
