//! The rules as text. Pure functions, so that what is installed can be read and tested without a kernel.
//!
//! Every name that reaches the text is made of hexadecimal digits or comes from a parsed type: nothing a user writes is pasted in.

use std::fmt::Write;

use crate::Bridge;

/// Packets of limited sandboxes carry this mark for the operator's traffic shaping (runner contract 9.2).
pub(crate) const EGRESS_MARK: u32 = 999;

/// Ports of the daemon that no other sandbox may ever reach, linked or not.
const DAEMON_PORTS: &str = "{ 2280, 22220, 22222, 33333 }";

/// The chains whose rules are the same for all sandboxes.
pub(crate) const CHAINS: [&str; 7] =
    ["forward", "input", "marking", "resolving_dns", "outbound", "to_host", "linked"];
/// Those of the bridge's own table.
pub(crate) const BRIDGE_CHAINS: [&str; 2] = ["origins", "forward"];

/// The tables, the hooks and the closed bridge. Applying it again keeps the sandboxes' chains and swaps everything else at once.
pub(crate) fn base(bridge: &Bridge) -> String {
    let name = &bridge.interface;
    let mut s = String::from(
        "table inet pinfold {\n\
         map sandboxes { type ether_addr . ipv4_addr : verdict; }\n\
         set resolving { type ether_addr . ipv4_addr; }\n\
         set limited { type ipv4_addr; }\n\
         set link_bridges { type ifname; }\n\
         set link_pairs { type ifname . ifname; }\n\
         chain forward { type filter hook forward priority -10; policy accept; }\n\
         chain input { type filter hook input priority -10; policy accept; }\n\
         chain marking { type filter hook prerouting priority mangle; policy accept; }\n\
         chain resolving_dns { type nat hook prerouting priority dstnat; policy accept; }\n\
         chain outbound {\n}\n\
         chain to_host {\n}\n\
         chain linked {\n}\n\
         }\n",
    );
    for chain in CHAINS {
        let _ = writeln!(s, "flush chain inet pinfold {chain}");
    }
    let mut rule = |chain: &str, text: &str| {
        let _ = writeln!(s, "add rule inet pinfold {chain} {text}");
    };
    // A link network leads from one of its ports to another, and nowhere else: not to the host, not to the internet past a policy.
    rule("forward", "iifname @link_bridges jump linked");
    rule("forward", "oifname @link_bridges drop");
    rule("linked", "meta nfproto ipv6 drop");
    rule("linked", &format!("ct direction original tcp dport {DAEMON_PORTS} drop"));
    rule("linked", "iifname . oifname @link_pairs accept");
    rule("linked", "drop");
    rule("input", "iifname @link_bridges jump to_host");
    rule("forward", &format!("iifname \"{name}\" jump outbound"));
    rule("forward", &format!("oifname \"{name}\" ct state established,related accept"));
    rule("forward", &format!("oifname \"{name}\" drop"));
    // Answers to connections that were opened towards the sandbox. What it opened itself is judged packet by packet, so that a stricter policy cuts it at once.
    rule("outbound", "ct direction reply ct state established,related accept");
    rule("outbound", "meta nfproto ipv6 drop");
    // A port that the engine publishes on the host is the host's service, whichever bridge is behind it.
    rule("outbound", "ct status dnat drop");
    if bridge.inter_sandbox {
        rule("outbound", &format!("oifname \"{name}\" tcp dport {DAEMON_PORTS} drop"));
    } else {
        rule("outbound", &format!("oifname \"{name}\" drop"));
    }
    rule("outbound", "oifname \"docker0\" drop");
    rule("outbound", "oifname \"br-*\" drop");
    // Link-local addresses are where clouds keep their metadata and credentials.
    rule("outbound", "ip daddr 169.254.0.0/16 drop");
    rule("outbound", "ether saddr . ip saddr vmap @sandboxes");
    rule("outbound", "drop");
    rule("input", &format!("iifname \"{name}\" jump to_host"));
    rule("to_host", "ct direction reply ct state established,related accept");
    if let Some(port) = bridge.resolver_port {
        let gateway = bridge.gateway;
        rule(
            "to_host",
            &format!(
                "ether saddr . ip saddr @resolving ip daddr {gateway} meta l4proto {{ tcp, udp }} th dport {port} accept"
            ),
        );
        rule(
            "resolving_dns",
            &format!(
                "iifname \"{name}\" ether saddr . ip saddr @resolving meta l4proto {{ tcp, udp }} th dport 53 dnat ip to {gateway}:{port}"
            ),
        );
    }
    rule("to_host", "drop");
    rule("marking", &format!("iifname \"{name}\" ip saddr @limited meta mark set {EGRESS_MARK}"));
    s
}

/// Frames from port to port of the bridge, of every protocol. Kernels without `CONFIG_NFT_BRIDGE_META` refuse it.
pub(crate) fn isolation(bridge: &Bridge) -> String {
    between_ports(bridge, &[format!("meta ibrname \"{}\" drop", bridge.interface)])
}

/// For such kernels: IP packets from port to port go through the IP rules, and what is left is ARP, by which one sandbox could tell another that it is
/// the gateway. It names addresses of the sandbox network, on whichever bridge it is seen.
pub(crate) fn arp_isolation(bridge: &Bridge) -> String {
    let subnet = &bridge.subnet;
    between_ports(bridge, &["saddr", "daddr"].map(|end| format!("arp {end} ip {subnet} drop")))
}

fn between_ports(bridge: &Bridge, rules: &[String]) -> String {
    // A hardware address that is pinned comes from its own port alone: whoever can forge frames cannot be the neighbour.
    let mut s = String::from(
        "table bridge pinfold {\n\
         set pinned { type ether_addr; }\n\
         set ports { type ether_addr . ifname; }\n\
         chain origins { type filter hook prerouting priority -300; policy accept; }\n\
         chain forward { type filter hook forward priority -10; policy accept; }\n\
         }\n\
         flush chain bridge pinfold origins\n\
         add rule bridge pinfold origins ether saddr @pinned ether saddr . iifname != @ports drop\n\
         flush chain bridge pinfold forward\n",
    );
    for rule in rules.iter().filter(|_| !bridge.inter_sandbox) {
        let _ = writeln!(s, "add rule bridge pinfold forward {rule}");
    }
    s
}

/// Puts the bridge of a link network under guard.
pub(crate) fn link(bridge: &str) -> String {
    format!(
        "add element inet pinfold link_bridges {{ \"{bridge}\" }}\n\
         add element inet pinfold link_pairs {{ \"{bridge}\" . \"{bridge}\" }}\n"
    )
}

/// Forgets the bridge of a link network that is gone.
pub(crate) fn unlink(bridge: &str) -> String {
    format!(
        "{}delete element inet pinfold link_bridges {{ \"{bridge}\" }}\n\
         delete element inet pinfold link_pairs {{ \"{bridge}\" . \"{bridge}\" }}\n",
        link(bridge)
    )
}

/// Removes every trace, for `pinfold` that ends for good.
pub(crate) fn teardown() -> &'static str {
    "add table inet pinfold\ndelete table inet pinfold\nadd table bridge pinfold\ndelete table bridge pinfold\n"
}
