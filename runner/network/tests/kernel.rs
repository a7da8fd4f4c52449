//! The rules in a real kernel: a bridge with two "sandboxes" in network namespaces, and an "internet" behind the host.
//!
//! Needs root, nftables and iproute2; everything it makes has names of its own and is removed at the end.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test that cannot go on should stop")]

use std::net::Ipv4Addr;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use pinfold_network::{Bridge, Endpoint, Firewall, Policy, Resolver};

const BRIDGE: &str = "pfnet0";
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 213, 77, 1);
const A: Ipv4Addr = Ipv4Addr::new(10, 213, 77, 2);
const B: Ipv4Addr = Ipv4Addr::new(10, 213, 77, 3);
const INTERNET: &str = "10.213.78.2";

fn sh(script: &str) -> bool {
    Command::new("sh")
        .arg("-ec")
        .arg(script)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .unwrap()
        .success()
}

/// Whether `namespace` can open a TCP connection there.
fn reaches(namespace: &str, address: &str, port: u16) -> bool {
    sh(&format!("ip netns exec {namespace} timeout 1 bash -c 'exec 3<>/dev/tcp/{address}/{port}'"))
}

struct World(Vec<Child>);

impl World {
    fn new() -> Self {
        Self::clean();
        let mac = |ip| Endpoint::new(ip).mac_text();
        let sandbox = |ns: &str, ip: Ipv4Addr| {
            format!(
                "ip netns add {ns}; ip link add {ns}v type veth peer name eth0 netns {ns} address {mac}
                 ip link set {ns}v master {BRIDGE} up
                 ip -n {ns} addr add {ip}/24 dev eth0; ip -n {ns} link set eth0 up; ip -n {ns} link set lo up; ip -n {ns} route add default via {GATEWAY}\n",
                mac = mac(ip)
            )
        };
        let script = format!(
            "ip link add {BRIDGE} type bridge; ip addr add {GATEWAY}/24 dev {BRIDGE}; ip link set {BRIDGE} up
             {}{}
             ip netns add pfnet-i; ip link add pfneti type veth peer name eth0 netns pfnet-i
             ip addr add 10.213.78.1/24 dev pfneti; ip link set pfneti up
             ip -n pfnet-i addr add {INTERNET}/24 dev eth0; ip -n pfnet-i link set lo up; ip -n pfnet-i link set eth0 up; ip -n pfnet-i route add default via 10.213.78.1
             sysctl -qw net.ipv4.ip_forward=1
             iptables -I FORWARD -i {BRIDGE} -j ACCEPT; iptables -I FORWARD -o {BRIDGE} -j ACCEPT",
            sandbox("pfnet-a", A),
            sandbox("pfnet-b", B)
        );
        assert!(sh(&script), "the test network could not be set up (root? iproute2?)");
        let serve = |ns: &str, port: u16| {
            let mut command = Command::new("ip");
            command.args([
                "netns",
                "exec",
                ns,
                "python3",
                "-m",
                "http.server",
                "--bind",
                "::",
                &port.to_string(),
            ]);
            command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
        };
        let host = Command::new("python3")
            .args(["-m", "http.server", "8899", "--bind", &GATEWAY.to_string()])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let world = Self(vec![serve("pfnet-i", 80), serve("pfnet-b", 2280), serve("pfnet-b", 8000), host]);
        let deadline = Instant::now() + Duration::from_secs(10);
        let up = || {
            reaches("pfnet-b", "10.213.77.3", 8000)
                && reaches("pfnet-i", INTERNET, 80)
                && reaches("pfnet-a", "10.213.77.1", 8899)
        };
        while !up() {
            assert!(Instant::now() < deadline, "the servers of the test network did not come up");
        }
        world
    }

    fn clean() {
        sh("nft delete table inet pinfold");
        sh("nft delete table bridge pinfold");
        for ns in ["pfnet-a", "pfnet-b", "pfnet-i"] {
            sh(&format!("ip netns del {ns}"));
        }
        sh(&format!("iptables -D FORWARD -i {BRIDGE} -j ACCEPT; iptables -D FORWARD -o {BRIDGE} -j ACCEPT"));
        sh(&format!("ip link del {BRIDGE}"));
        sh("ip link del pfneti");
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
        Self::clean();
    }
}

fn bridge() -> Bridge {
    Bridge {
        interface: BRIDGE.to_owned(),
        subnet: "10.213.77.0/24".parse().unwrap(),
        gateway: GATEWAY,
        inter_sandbox: false,
        resolver_port: None,
    }
}

#[tokio::test]
#[ignore = "needs root and nftables: make test-network"]
async fn policy_holds_in_the_kernel() {
    let _world = World::new();
    let [a, b] = [uuid::Uuid::new_v4().to_string(), uuid::Uuid::new_v4().to_string()];
    let internet = |ns| reaches(ns, INTERNET, 80);

    let firewall = Firewall::install(bridge()).await.unwrap();
    assert!(!internet("pfnet-a"), "an unknown address has no network");
    assert!(!reaches("pfnet-a", "10.213.77.1", 8899), "the host is closed");

    let started = Instant::now();
    firewall.apply(&a, Endpoint::new(A), Policy::default()).await.unwrap();
    println!("policy installed in {:?}", started.elapsed());
    firewall.apply(&b, Endpoint::new(B), Policy::default()).await.unwrap();
    assert!(internet("pfnet-a"), "the open policy reaches the internet");
    assert!(!reaches("pfnet-a", "10.213.77.1", 8899), "the host stays closed");
    for port in [2280, 8000] {
        assert!(!reaches("pfnet-a", "10.213.77.3", port), "a neighbour's port {port} is closed");
    }
    assert!(sh("timeout 1 bash -c 'exec 3<>/dev/tcp/10.213.77.3/2280'"), "the host reaches the sandbox");

    let list = Policy::parse(None, Some("10.213.78.0/24"), None, false).unwrap();
    firewall.apply(&a, Endpoint::new(A), list).await.unwrap();
    assert!(internet("pfnet-a"), "a listed network is reached");
    let other = Policy::parse(None, Some("203.0.113.0/24"), None, true).unwrap();
    firewall.apply(&a, Endpoint::new(A), other).await.unwrap();
    assert!(!internet("pfnet-a"), "an unlisted network is not");
    firewall.apply(&a, Endpoint::new(A), Policy::block_all()).await.unwrap();
    assert!(!internet("pfnet-a"));

    // A spoofed source: b takes an address whose owner may do more.
    firewall.apply(&a, Endpoint::new(A), Policy::default()).await.unwrap();
    firewall.apply(&b, Endpoint::new(B), Policy::block_all()).await.unwrap();
    let take = |ip: Ipv4Addr| {
        format!(
            "ip -n pfnet-b addr flush dev eth0; ip -n pfnet-b addr add {ip}/24 dev eth0; ip -n pfnet-b route replace default via {GATEWAY}"
        )
    };
    assert!(sh("ip -n pfnet-a link set eth0 down") && sh(&take(A)));
    assert!(!internet("pfnet-b"), "a spoofed address has no network");
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
    assert!(!internet("pfnet-a"), "a sandbox that is gone leaves nothing open");

    assert!(
        !sh("nft list set inet pinfold limited | grep -q 10.213.77"),
        "a policy without a limit leaves no mark"
    );
    firewall.uninstall().await.unwrap();
}

/// How long each of many policies takes, one after another, and a change of each; run it with `--release` on a machine that does nothing else.
#[tokio::test]
#[ignore = "needs root and nftables: make test-network"]
async fn two_hundred_policies_are_installed_quickly_and_found_again() {
    let _world = World::new();
    let firewall = Firewall::install(bridge()).await.unwrap();
    let sandboxes: Vec<(String, Endpoint)> = (0..200_u8)
        .map(|n| (uuid::Uuid::new_v4().to_string(), Endpoint::new(Ipv4Addr::new(10, 213, 77, 10 + n))))
        .collect();
    let closed = Policy::parse(None, Some("10.0.0.0/8,203.0.113.0/24"), Some("*.example.com"), true).unwrap();
    let mut times = Vec::new();
    for policy in [Policy::default(), closed] {
        for (id, endpoint) in &sandboxes {
            let began = Instant::now();
            firewall.apply(id, *endpoint, policy.clone()).await.unwrap();
            times.push(began.elapsed());
        }
    }
    times.sort();
    println!("a policy: p50 {:?}, p99 {:?}, worst {:?}", times[200], times[395], times[399]);
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
    assert!(!reaches("pfnet-a", INTERNET, 80), "closed again");
    assert!(sh("nft flush chain inet pinfold outbound") && firewall.restore().await.unwrap());
    assert!(!reaches("pfnet-a", INTERNET, 80) && !reaches("pfnet-a", "10.213.77.1", 8899));
    firewall.uninstall().await.unwrap();
}

/// The address at which `namespace` is reached over IPv6 by its neighbours on the bridge.
fn link_local(namespace: &str) -> String {
    let deadline = Instant::now() + Duration::from_secs(10);
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
    let firewall = Firewall::install(Bridge { interface: "pfnet9".to_owned(), ..bridge() }).await.unwrap();
    let neighbour = |port| reaches("pfnet-a", "10.213.77.3", port);
    assert!(neighbour(2280) && reaches("pfnet-a", INTERNET, 80), "an unguarded bridge is open");
    let over_ipv6 = link_local("pfnet-b");
    link_local("pfnet-a");
    let deadline = Instant::now() + Duration::from_secs(10);
    while !reaches("pfnet-a", &over_ipv6, 8000) {
        assert!(Instant::now() < deadline, "the neighbour is not reached over IPv6 either way");
    }
    firewall.guard_link(BRIDGE).await.unwrap();
    assert!(neighbour(8000), "a service of the linked sandbox is reached");
    assert!(!neighbour(2280), "its toolbox is not");
    assert!(!reaches("pfnet-a", INTERNET, 80), "the internet is not");
    assert!(!reaches("pfnet-a", "10.213.77.1", 8899), "the host is not");
    assert!(sh("timeout 1 bash -c 'exec 3<>/dev/tcp/10.213.77.3/2280'"), "the host reaches the sandbox");
    assert!(!reaches("pfnet-a", &over_ipv6, 8000), "nor does IPv6 lead to the neighbour");
    assert!(sh("nft delete table inet pinfold") && firewall.restore().await.unwrap());
    assert!(!neighbour(2280), "the guard comes back with the rules");
    firewall.forget_link(BRIDGE).await.unwrap();
    assert!(neighbour(2280));
    firewall.uninstall().await.unwrap();
}

/// A name server for `example.com`, which is [`INTERNET`], and for nothing else.
fn name_server() -> (std::net::SocketAddr, std::thread::JoinHandle<()>) {
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let address = socket.local_addr().unwrap();
    let thread = std::thread::spawn(move || {
        let mut buffer = [0; 512];
        while let Ok((length, peer)) = socket.recv_from(&mut buffer) {
            let mut answer = buffer[..length].to_vec();
            answer[2..8].copy_from_slice(&[0x81, 0x80, 0, 1, 0, 1]);
            answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 5, 0, 4]);
            answer.extend(INTERNET.parse::<Ipv4Addr>().unwrap().octets());
            socket.send_to(&answer, peer).unwrap();
        }
    });
    (address, thread)
}

/// The response code and the number of answers that a sandbox gets for a name, over UDP, from a server that does not exist.
fn look_up(namespace: &str, name: &str) -> String {
    let script = format!(
        "import socket,sys
s=socket.socket(socket.AF_INET,socket.SOCK_DGRAM); s.settimeout(3)
q=b'\\x12\\x34\\x01\\x00\\x00\\x01'+bytes(6)+b''.join(bytes([len(l)])+l.encode() for l in '{name}'.split('.'))+b'\\x00\\x00\\x01\\x00\\x01'
s.sendto(q,('198.51.100.53',53))
r=s.recv(512); print(r[3]&15, r[7])"
    );
    let output =
        Command::new("ip").args(["netns", "exec", namespace, "python3", "-c", &script]).output().unwrap();
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and nftables: make test-network"]
async fn domain_lists_hold_in_the_kernel() {
    let _world = World::new();
    let a = uuid::Uuid::new_v4().to_string();
    let internet = |ns| reaches(ns, INTERNET, 80);
    let firewall = std::sync::Arc::new(
        Firewall::install(Bridge { resolver_port: Some(8853), ..bridge() }).await.unwrap(),
    );
    let (upstream, _thread) = name_server();
    let listen = (GATEWAY, 8853).into();
    let resolver = Resolver::bind(std::sync::Arc::clone(&firewall), listen, vec![upstream]).await.unwrap();
    let resolver = tokio::spawn(resolver);

    let domains = Policy::parse(None, None, Some("example.com"), false).unwrap();
    firewall.apply(&a, Endpoint::new(A), domains).await.unwrap();
    assert!(!internet("pfnet-a"));
    assert_eq!(look_up("pfnet-a", "other.org"), "5 0", "a name that is not listed is refused");
    assert!(!internet("pfnet-a"));
    assert_eq!(look_up("pfnet-a", "example.com"), "0 1", "a listed name is answered");
    assert!(internet("pfnet-a"), "a resolved address is reached");
    resolver.abort();
    assert_eq!(look_up("pfnet-a", "example.com"), "", "names stop resolving with the resolver");
    firewall.remove(&a).await.unwrap();
    assert!(!internet("pfnet-a"));
}
