//! Network policy: what a sandbox may reach, in force before its first packet.
//!
//! All rules live in nftables tables of our own (`inet pinfold` and `bridge pinfold`), whose hooks run before the engine's. Docker's chains are neither used nor depended on:
//! it reorders them at every restart. The sandboxes' bridge is closed by default: a packet from it passes only if the pair of its source MAC and IP address is a known
//! sandbox's and that sandbox's chain accepts it. So a policy that is missing, an unknown address or a spoofed one means no network, and the end of the runner, the engine or the
//! control plane opens nothing. Once a sandbox runs, its MAC is pinned to its port of the bridge, so that the pair cannot be forged either. Each change is one transaction.
//!
//! This crate knows addresses and policies; it does not know the engine's API, and it never asks a control plane.

mod address;
mod changes;
mod firewall;
mod netlink;
mod nft;
mod policy;
mod ports;
mod resolver;
mod ruleset;

pub use address::{AddressPool, Endpoint, PoolExhausted, mac_for};
pub use firewall::{Bridge, Firewall, FirewallError};
pub use nft::NftError;
pub use policy::{Cidr, Domain, InvalidPolicy, Policy};
pub use resolver::{Resolver, ResolverError, upstreams_of};
