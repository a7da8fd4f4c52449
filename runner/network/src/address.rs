//! Which address a sandbox gets. It is chosen before the container exists, so that its policy can be in force before it starts.

use std::collections::HashSet;
use std::fmt;
use std::net::Ipv4Addr;
use std::sync::{Mutex, PoisonError};

use crate::Cidr;

/// A sandbox's place on the bridge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// Its IPv4 address.
    pub ip: Ipv4Addr,
    /// Its hardware address.
    pub mac: [u8; 6],
}

impl Endpoint {
    /// The endpoint with this address and the hardware address that goes with it.
    pub fn new(ip: Ipv4Addr) -> Self {
        Self { ip, mac: mac_for(ip) }
    }

    /// The hardware address as engines and nft write it.
    pub fn mac_text(&self) -> String {
        let [a, b, c, d, e, f] = self.mac;
        format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.ip, self.mac_text())
    }
}

/// The hardware address we give to an IPv4 address: locally administered, and unique as long as the address is.
pub fn mac_for(ip: Ipv4Addr) -> [u8; 6] {
    let [a, b, c, d] = ip.octets();
    [0x02, 0x42, a, b, c, d]
}

/// Every address of the network is taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no address is left in the sandbox network {0}")]
pub struct PoolExhausted(String);

/// The addresses of one bridge. An address that was given back is the last to be given out again.
#[derive(Debug)]
pub struct AddressPool {
    subnet: Cidr,
    /// Those that no sandbox ever gets.
    kept: usize,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    taken: HashSet<Ipv4Addr>,
    next: u32,
}

impl AddressPool {
    /// All addresses of `subnet` but the first, the last and the `gateway`.
    pub fn new(subnet: Cidr, gateway: Ipv4Addr) -> Self {
        let taken = HashSet::from([subnet.network(), subnet.broadcast(), gateway]);
        Self {
            subnet,
            kept: taken.len(),
            state: Mutex::new(State { taken, next: subnet.network().to_bits() }),
        }
    }

    /// Takes a free address.
    pub fn take(&self) -> Result<Endpoint, PoolExhausted> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (first, last) = (self.subnet.network().to_bits(), self.subnet.broadcast().to_bits());
        for _ in first..=last {
            let candidate = Ipv4Addr::from_bits(state.next);
            state.next = if state.next == last { first } else { state.next + 1 };
            if state.taken.insert(candidate) {
                return Ok(Endpoint::new(candidate));
            }
        }
        Err(PoolExhausted(self.subnet.to_string()))
    }

    /// Notes that an existing container has this address. Addresses of other networks are ignored.
    pub fn mark_taken(&self, ip: Ipv4Addr) {
        if self.subnet.contains(ip) {
            self.state.lock().unwrap_or_else(PoisonError::into_inner).taken.insert(ip);
        }
    }

    /// How many addresses are given out.
    pub fn len(&self) -> usize {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).taken.len().saturating_sub(self.kept)
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Gives an address back, once its container is gone.
    pub fn release(&self, ip: Ipv4Addr) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).taken.remove(&ip);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gives_each_address_once_and_reuses_late() {
        let pool = AddressPool::new("10.9.0.0/29".parse().unwrap(), Ipv4Addr::new(10, 9, 0, 1));
        pool.mark_taken(Ipv4Addr::new(10, 9, 0, 3));
        pool.mark_taken(Ipv4Addr::new(10, 8, 0, 3));
        let first = pool.take().unwrap();
        assert_eq!(first.mac_text(), "02:42:0a:09:00:02");
        assert_eq!(pool.len(), 2);
        pool.release(first.ip);
        assert_eq!(pool.len(), 1);
        let rest: Vec<u8> = (0..4).map(|_| pool.take().unwrap().ip.octets()[3]).collect();
        assert_eq!(rest, [4, 5, 6, 2]);
        assert!(pool.take().is_err());
    }
}
