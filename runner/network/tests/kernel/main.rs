//! The rules in a real kernel: a bridge with two "sandboxes" in network namespaces, and an "internet" behind the host.
//!
//! Needs root, nftables and iproute2; everything it makes has names of its own and is removed at the end.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test that cannot go on should stop")]

mod hostile;
mod names;
mod world;

use std::net::Ipv4Addr;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pinfold_network::{Bridge, Endpoint, Firewall, Policy};

use world::*;

#[tokio::test]
#[ignore = "needs root and nftables: make test-network"]
async fn policy_holds_in_the_kernel() {
    let _world = World::new();
    let [a, b] = [uuid::Uuid::new_v4().to_string(), uuid::Uuid::new_v4().to_string()];
    let internet = |ns| reaches(ns, INTERNET, 80);
    let no_internet = |ns| is_kept_from(ns, INTERNET, 80);

    let firewall = Firewall::install(bridge()).await.unwrap();
    assert!(no_internet("pfnet-a"), "an unknown address has no network");
    assert!(is_kept_from("pfnet-a", "10.213.77.1", 8899), "the host is closed");

    let started = Instant::now();
    firewall.apply(&a, Endpoint::new(A), Policy::default()).await.unwrap();
    println!("policy installed in {:?}", started.elapsed());
    firewall.apply(&b, Endpoint::new(B), Policy::default()).await.unwrap();
    assert!(internet("pfnet-a"), "the open policy reaches the internet");
    assert!(is_kept_from("pfnet-a", "10.213.77.1", 8899), "the host stays closed");
    for port in [2280, 8000] {
        assert!(is_kept_from("pfnet-a", "10.213.77.3", port), "a neighbour's port {port} is closed");
    }
    assert!(host_reaches("10.213.77.3", 2280), "the host reaches the sandbox");

    let list = Policy::parse(None, Some("203.0.113.0/24"), None, false).unwrap();
    firewall.apply(&a, Endpoint::new(A), list).await.unwrap();
    assert!(internet("pfnet-a"), "a listed network is reached");
    let other = Policy::parse(None, Some("198.51.100.0/24"), None, true).unwrap();
    firewall.apply(&a, Endpoint::new(A), other).await.unwrap();
    assert!(no_internet("pfnet-a"), "an unlisted network is not");
    firewall.apply(&a, Endpoint::new(A), Policy::block_all()).await.unwrap();
    assert!(no_internet("pfnet-a"));

    // A spoofed source: b takes an address whose owner may do more.
    firewall.apply(&a, Endpoint::new(A), Policy::default()).await.unwrap();
    firewall.apply(&b, Endpoint::new(B), Policy::block_all()).await.unwrap();
    let take = |ip: Ipv4Addr| {
        format!(
            "ip -n pfnet-b addr flush dev eth0; ip -n pfnet-b addr add {ip}/24 dev eth0; ip -n pfnet-b route replace default via {GATEWAY}"
        )
    };
    assert!(sh("ip -n pfnet-a link set eth0 down") && sh(&take(A)));
    assert!(no_internet("pfnet-b"), "a spoofed address has no network");
    assert!(
        sh(&take(B))
            && sh(&format!(
                "ip -n pfnet-a link set eth0 up; ip -n pfnet-a route replace default via {GATEWAY}"
            ))
    );

    // A new run keeps what it is told to keep and drops the rest.
    drop(firewall);
    let firewall = Firewall::install(bridge()).await.unwrap();
    assert!(internet("pfnet-a"), "a restart does not interrupt");
    assert_eq!(firewall.retain(&[a.clone()].into()).await.unwrap(), 1);
    assert!(internet("pfnet-a"));
    firewall.retain(&[].into()).await.unwrap();
    assert!(no_internet("pfnet-a"), "a sandbox that is gone leaves nothing open");

    assert!(
        !sh("nft list set inet pinfold limited | grep -q 10.213.77"),
        "a policy without a limit leaves no mark"
    );
    firewall.uninstall().await.unwrap();
}

/// Where sandboxes may reach each other, they do so under their policies, and never each other's daemon.
#[tokio::test]
#[ignore = "needs root and nftables: make test-network"]
async fn sandboxes_that_may_reach_each_other_do_so_under_their_policies() {
    let _world = World::new();
    let _setting = BridgedPackets::past_the_rules();
    let firewall = Firewall::install(Bridge { inter_sandbox: true, ..bridge() }).await.unwrap();
    let [a, b] = [uuid::Uuid::new_v4().to_string(), uuid::Uuid::new_v4().to_string()];
    firewall.apply(&a, Endpoint::new(A), Policy::default()).await.unwrap();
    firewall.apply(&b, Endpoint::new(B), Policy::default()).await.unwrap();
    let neighbour = |port| reaches("pfnet-a", "10.213.77.3", port);
    let no_neighbour = |port| is_kept_from("pfnet-a", "10.213.77.3", port);
    assert!(neighbour(8000), "a service of the neighbour is reached");
    assert!(no_neighbour(2280), "its toolbox is not");
    assert!(reaches("pfnet-a", INTERNET, 80));
    firewall.apply(&a, Endpoint::new(A), Policy::block_all()).await.unwrap();
    assert!(no_neighbour(8000), "who may reach nothing reaches no neighbour");
    firewall
        .apply(&a, Endpoint::new(A), Policy::parse(None, Some("10.213.77.0/24"), None, false).unwrap())
        .await
        .unwrap();
    assert!(
        neighbour(8000) && no_neighbour(2280),
        "a listed network is the neighbours', and still not their daemons'"
    );
    assert!(is_kept_from("pfnet-a", INTERNET, 80));
    firewall.remove(&a).await.unwrap();
    assert!(no_neighbour(8000), "an unknown one reaches nobody");
    firewall.uninstall().await.unwrap();
}

/// How long each of many policies takes, one after another, and a change of each (`make bench ARGS=policies`).
#[tokio::test]
#[ignore = "needs root and nftables: make test-network"]
async fn two_hundred_policies_are_installed_quickly_and_found_again() {
    let _world = World::new();
    let firewall = Firewall::install(bridge()).await.unwrap();
    let sandboxes: Vec<(String, Endpoint)> = (0..200_u8)
        .map(|n| (uuid::Uuid::new_v4().to_string(), Endpoint::new(Ipv4Addr::new(10, 213, 77, 10 + n))))
        .collect();
    let closed = Policy::parse(None, Some("10.0.0.0/8,203.0.113.0/24"), Some("*.example.com"), true).unwrap();
    let (mut times, mut floor) = (Vec::new(), Vec::new());
    for policy in [Policy::default(), closed] {
        for (n, (id, endpoint)) in sandboxes.iter().enumerate() {
            let began = Instant::now();
            firewall.apply(id, *endpoint, policy.clone()).await.unwrap();
            times.push(began.elapsed());
            if n % 20 == 0 {
                // A run of the program that changes nothing: what the machine takes for that, as busy as it is.
                let began = Instant::now();
                assert!(sh("nft add table inet pinfold"));
                floor.push(began.elapsed());
            }
        }
    }
    times.sort();
    floor.sort();
    println!(
        "a policy: p50 {:?}, p99 {:?}, worst {:?}; nft alone {:?}",
        times[200], times[395], times[399], floor[10]
    );
    assert!(
        times[200] < floor[10].max(Duration::from_millis(5)),
        "{:?}, nft alone {:?}",
        times[200],
        floor[10]
    );
    let listed = Command::new("nft").args(["list", "table", "inet", "pinfold"]).output().unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    for expected in ["ip daddr 10.0.0.0/8 accept", "ip daddr 203.0.113.0/24 accept", "ip daddr @dom_"] {
        assert_eq!(listed.matches(expected).count(), 200, "nft reads what we wrote: {expected}");
    }
    // Another run of the runner finds them all, and takes them away.
    drop(firewall);
    let firewall = Firewall::install(bridge()).await.unwrap();
    for (id, _) in &sandboxes[..100] {
        firewall.remove(id).await.unwrap();
    }
    assert_eq!(firewall.retain(&std::collections::HashSet::new()).await.unwrap(), 100);
    let listed = Command::new("nft").args(["list", "table", "inet", "pinfold"]).output().unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    assert!(
        !listed.contains("sb_") && !listed.contains("dom_") && !listed.contains("10.213.77.10"),
        "{listed}"
    );
    firewall.uninstall().await.unwrap();
}

/// Pain F43: whoever reorders or flushes the host's rules does not open a sandbox.
#[tokio::test]
#[ignore = "needs root and nftables: make test-network"]
async fn pain_43_rules_that_somebody_flushed_are_put_back() {
    let _world = World::new();
    let a = uuid::Uuid::new_v4().to_string();
    let firewall = Firewall::install(bridge()).await.unwrap();
    firewall.apply(&a, Endpoint::new(A), Policy::block_all()).await.unwrap();
    assert!(!firewall.restore().await.unwrap(), "nothing is lost yet");
    assert!(sh("nft delete table inet pinfold"));
    assert!(reaches("pfnet-a", INTERNET, 80), "without rules the network is open");
    assert!(firewall.restore().await.unwrap());
    assert!(is_kept_from("pfnet-a", INTERNET, 80), "closed again");
    assert!(sh("nft flush chain inet pinfold outbound") && firewall.restore().await.unwrap());
    assert!(is_kept_from("pfnet-a", INTERNET, 80) && is_kept_from("pfnet-a", "10.213.77.1", 8899));
    assert!(sh("nft delete table bridge pinfold") && firewall.restore().await.unwrap());
    assert!(sh("nft list chain bridge pinfold origins | grep -q pinned"), "the bridge's own rules are back");
    firewall.uninstall().await.unwrap();
}

/// Nobody has to look for it: the kernel tells at once of what somebody flushes, and looks tell of a setting.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and nftables: make test-network"]
async fn rules_are_put_back_as_soon_as_they_are_gone() {
    let _world = World::new();
    let _setting = BridgedPackets::past_the_rules();
    let firewall = Arc::new(Firewall::install(Bridge { inter_sandbox: true, ..bridge() }).await.unwrap());
    let [a, b] = [uuid::Uuid::new_v4().to_string(), uuid::Uuid::new_v4().to_string()];
    firewall.apply(&a, Endpoint::new(A), Policy::default()).await.unwrap();
    let watched = firewall.clone();
    let watching = tokio::spawn(async move {
        loop {
            watched.disturbed().await;
            watched.restore().await.unwrap();
        }
    });
    let back = [
        ("map inet pinfold sandboxes", "10.213.77.2"),
        ("chain inet pinfold outbound", "vmap"),
        ("chain bridge pinfold origins", "pinned"),
    ];
    let back = back.map(|(what, has)| format!("nft list {what} | grep -q {has}")).join(" && ");
    for flush in [
        "delete table inet pinfold",
        "flush chain inet pinfold outbound",
        "flush chain bridge pinfold origins",
    ] {
        // Our own changes in between are nobody else's.
        firewall.apply(&b, Endpoint::new(B), Policy::default()).await.unwrap();
        firewall.remove(&b).await.unwrap();
        assert!(sh(&format!("nft {flush}")));
        let gone = Instant::now();
        while !sh(&back) {
            assert!(gone.elapsed() < PATIENCE, "{flush} is not undone");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        println!("nft {flush}: undone within {:?}", gone.elapsed());
    }
    watching.abort();
    assert!(!firewall.restore().await.unwrap());
    let setting = BridgedPackets::past_the_rules();
    assert!(firewall.restore().await.unwrap(), "bridged packets pass the rules again");
    assert!(!firewall.restore().await.unwrap());
    drop(setting);
}

/// The address at which `namespace` is reached over IPv6 by its neighbours on the bridge.
fn link_local(namespace: &str) -> String {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let listed =
            Command::new("ip").args(["-n", namespace, "-6", "-o", "addr", "show", "dev", "eth0"]).output();
        let listed = String::from_utf8(listed.unwrap().stdout).unwrap();
        let usable = listed.lines().filter(|line| !line.contains("tentative"));
        let mut found =
            usable.flat_map(|line| line.split_whitespace()).filter(|word| word.starts_with("fe80:"));
        if let Some(address) = found.next() {
            return format!("{}%eth0", address.trim_end_matches("/64"));
        }
        assert!(Instant::now() < deadline, "still waiting for the neighbour's IPv6 address");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// The ports of a link network reach each other's services, and neither each other's daemon, nor the host, nor the internet.
#[tokio::test]
#[ignore = "needs root and nftables: make test-network"]
async fn a_link_network_leads_nowhere_else() {
    let _world = World::new();
    // For this test the world's bridge plays the link network, and another one nobody is on is the sandboxes'.
    let subnet = "10.213.79.0/24".parse().unwrap();
    let elsewhere = Bridge { interface: "pfnet9".to_owned(), subnet, ..bridge() };
    let firewall = Firewall::install(elsewhere).await.unwrap();
    let neighbour = |port| reaches("pfnet-a", "10.213.77.3", port);
    let no_neighbour = |port| is_kept_from("pfnet-a", "10.213.77.3", port);
    assert!(neighbour(2280) && reaches("pfnet-a", INTERNET, 80), "an unguarded bridge is open");
    let over_ipv6 = link_local("pfnet-b");
    link_local("pfnet-a");
    let deadline = Instant::now() + PATIENCE;
    while is_kept_from("pfnet-a", &over_ipv6, 8000) {
        assert!(Instant::now() < deadline, "the neighbour is not reached over IPv6 either way");
    }
    firewall.guard_link(BRIDGE).await.unwrap();
    assert!(neighbour(8000), "a service of the linked sandbox is reached");
    assert!(no_neighbour(2280), "its toolbox is not");
    assert!(is_kept_from("pfnet-a", INTERNET, 80), "the internet is not");
    assert!(is_kept_from("pfnet-a", "10.213.77.1", 8899), "the host is not");
    assert!(host_reaches("10.213.77.3", 2280), "the host reaches the sandbox");
    assert!(is_kept_from("pfnet-a", &over_ipv6, 8000), "nor does IPv6 lead to the neighbour");
    assert!(sh("nft delete table inet pinfold") && firewall.restore().await.unwrap());
    assert!(no_neighbour(2280), "the guard comes back with the rules");
    firewall.forget_link(BRIDGE).await.unwrap();
    assert!(neighbour(2280));
    firewall.uninstall().await.unwrap();
}
