//! Allow lists, durations and ids as a control plane sends them: parsed or refused; a network that is allowed holds its own ends and nothing before
//! or behind them.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pinfold_network::{Cidr, Policy};

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (networks, domains) = text.split_once('|').unwrap_or((text, ""));
    if let Ok(policy) = Policy::parse(None, Some(networks), Some(domains), false) {
        for domain in &policy.domains {
            domain.allows(domains);
        }
        let blocked =
            Policy::parse(Some(true), Some(networks), Some(domains), false).expect("it was parsed before");
        assert!(blocked.is_closed() && blocked.domains.is_empty());
    }
    if let Ok(network) = networks.parse::<Cidr>() {
        let (first, last) = (network.network(), network.broadcast());
        assert!(network.contains(first) && network.contains(last));
        assert!(first.to_bits().checked_sub(1).is_none_or(|before| !network.contains(before.into())));
        assert!(last.to_bits().checked_add(1).is_none_or(|behind| !network.contains(behind.into())));
    }
    let _ = pinfold_settings::parse_duration(text);
    let _ = text.parse::<pinfold_settings::Networks>();
    let _ = text.parse::<pinfold_proto::id::SandboxId>();
});
