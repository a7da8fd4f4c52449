//! A sandbox that may send whatever it likes, raw frames included: more than the capabilities that sandboxes have would let it.

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use pinfold_network::{Endpoint, Firewall, Policy};

use crate::world::*;

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/kernel/hostile.py");
/// Addresses of the test network that speak IPv6.
const HOST_6: &str = "fd77::1";
const INTERNET_6: &str = "fd78::2";

fn python(namespace: Option<&str>, words: &[&str]) -> Command {
    let mut command = Command::new(if namespace.is_some() { "ip" } else { "python3" });
    if let Some(namespace) = namespace {
        command.args(["netns", "exec", namespace, "python3"]);
    }
    command.arg(SCRIPT).args(words);
    command
}

/// Somebody who writes down which markers arrived.
struct Ears(Child, PathBuf);

impl Ears {
    fn open(namespace: Option<&str>, file: PathBuf, words: &[&str]) -> Self {
        let path = file.to_str().unwrap();
        let child = python(namespace, &[&words[..1], &[path], &words[1..]].concat()).spawn().unwrap();
        let deadline = Instant::now() + PATIENCE;
        while !file.exists() {
            assert!(Instant::now() < deadline, "nobody listens at {path}");
            std::thread::sleep(Duration::from_millis(5));
        }
        Self(child, file)
    }

    fn heard(&self, marker: &str) -> bool {
        std::fs::read_to_string(&self.1).unwrap_or_default().lines().any(|line| line == marker)
    }

    fn awaits(&self, marker: &str) {
        let deadline = Instant::now() + PATIENCE;
        while !self.heard(marker) {
            assert!(
                Instant::now() < deadline,
                "still waiting for {marker} to arrive at {}",
                self.1.display()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Ears {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn mac_of(interface: &str) -> String {
    let text = std::fs::read_to_string(format!("/sys/class/net/{interface}/address")).unwrap();
    text.trim().to_owned()
}

/// Sends packets from a namespace, by the hardware address of the host's bridge; each is `KIND MARKER FROM TO`.
fn sends(namespace: &str, lines: &[String]) {
    let gate = mac_of(BRIDGE);
    let mut sender = python(Some(namespace), &["send", &gate]).stdin(Stdio::piped()).spawn().unwrap();
    sender.stdin.take().unwrap().write_all(lines.join("\n").as_bytes()).unwrap();
    assert!(sender.wait().unwrap().success());
}

fn ipv6() {
    let script = format!(
        "sysctl -qw net.ipv6.conf.all.forwarding=1
         ip -6 addr add {HOST_6}/64 dev {BRIDGE} nodad; ip -6 addr add fd78::1/64 dev pfneti nodad
         ip -n pfnet-i -6 addr add {INTERNET_6}/64 dev eth0 nodad; ip -n pfnet-i -6 route add default via fd78::1
         for n in a:2 b:3; do ip -n pfnet-${{n%:*}} -6 addr add fd77::${{n#*:}}/64 dev eth0 nodad; ip -n pfnet-${{n%:*}} -6 route add default via {HOST_6}; done"
    );
    assert!(sh(&script), "IPv6 could not be set up");
}

struct Forwarding(String);

impl Drop for Forwarding {
    fn drop(&mut self) {
        let _ = std::fs::write("/proc/sys/net/ipv6/conf/all/forwarding", &self.0);
    }
}

/// Puts the host's own setting back at the end.
fn forwarding_of_now() -> Forwarding {
    Forwarding(std::fs::read_to_string("/proc/sys/net/ipv6/conf/all/forwarding").unwrap())
}

/// Every protocol, fragments, packets of connections that never were, and the addresses of others: nothing leaves past a policy, nothing reaches the host.
#[tokio::test]
#[ignore = "needs root and nftables: make test-network"]
async fn no_packet_of_any_kind_leaves_past_a_policy() {
    let _forwarding = forwarding_of_now();
    let _world = World::new();
    ipv6();
    // The kernel's own check of sources would hide whether the rules hold.
    assert!(sh(&format!("for i in all {BRIDGE}; do sysctl -qw net.ipv4.conf.$i.rp_filter=0; done")));
    let [a, b] = [uuid::Uuid::new_v4().to_string(), uuid::Uuid::new_v4().to_string()];
    let dir = tempfile::tempdir().unwrap();
    let far = Ears::open(Some("pfnet-i"), dir.path().join("far"), &["hear"]);
    let host = Ears::open(None, dir.path().join("host"), &["listen", "9999"]);
    let kinds = [
        "udp",
        "fragments",
        "lone-fragment",
        "syn-ack",
        "ack",
        "icmp",
        "icmp-error",
        "options",
        "gre",
        "sixinfour",
        "unknown",
    ];
    let (own, other, gateway) = (B.to_string(), A.to_string(), GATEWAY.to_string());
    // What follows would arrive, if nothing stood in its way.
    let open = ["udp", "ack", "icmp", "unknown", "fragments"];
    let mut control: Vec<_> =
        open.iter().map(|kind| format!("{kind} open-{kind} {own} {INTERNET}")).collect();
    control.push(format!("udp6 open-six fd77::3 {INTERNET_6}"));
    control.push(format!("udp host-own {own} {gateway}"));
    control.push(format!("udp host-spoofed {other} {gateway}"));
    sends("pfnet-b", &control);
    for marker in open.iter().map(|kind| format!("open-{kind}")).chain(["open-six".to_owned()]) {
        far.awaits(&marker);
    }
    host.awaits("host-own");
    host.awaits("host-spoofed");

    let firewall = Firewall::install(bridge()).await.unwrap();
    firewall.apply(&a, Endpoint::new(A), Policy::default()).await.unwrap();
    firewall.apply(&b, Endpoint::new(B), Policy::block_all()).await.unwrap();
    let mut tried = Vec::new();
    let mut lines = Vec::new();
    let mut attempt = |kind: &str, what: &str, from: &str, to: &str| {
        let marker = format!("{what}-{kind}");
        lines.push(format!("{kind} {marker} {from} {to}"));
        tried.push(marker);
    };
    for kind in kinds {
        attempt(kind, "blocked", &own, INTERNET);
        // The neighbour may go anywhere; its address alone does not make one the neighbour.
        attempt(kind, "spoofed", &other, INTERNET);
    }
    for (what, from) in [
        ("as-gateway", gateway.as_str()),
        ("as-loopback", "127.0.0.1"),
        ("as-internet", INTERNET),
        ("as-nobody", "0.0.0.0"),
    ] {
        attempt("udp", what, from, INTERNET);
    }
    for (what, to) in [
        ("to-gateway", gateway.as_str()),
        ("to-other-address", "203.0.113.1"),
        ("to-loopback", "127.0.0.1"),
        ("to-broadcast", "10.213.77.255"),
        ("to-everybody", "255.255.255.255"),
        ("to-multicast", "224.0.0.1"),
    ] {
        for kind in ["udp", "fragments"] {
            attempt(kind, what, &own, to);
            attempt(kind, &format!("spoofed-{what}"), &other, to);
        }
    }
    for (what, to) in
        [("six-out", INTERNET_6), ("six-host", HOST_6), ("six-all", "ff02::1"), ("six-neighbour", "fd77::2")]
    {
        attempt("udp6", what, "fd77::3", to);
    }
    sends("pfnet-b", &lines);
    // What the neighbour may send arrives after all that.
    sends("pfnet-a", &[format!("udp the-end {other} {INTERNET}")]);
    far.awaits("the-end");
    let arrived: Vec<_> = tried.iter().filter(|m| far.heard(m) || host.heard(m)).collect();
    assert!(arrived.is_empty(), "these arrived: {arrived:?}");
    firewall.uninstall().await.unwrap();
}

/// What `a` believes the gateway's hardware address to be.
fn believed() -> String {
    let shown =
        Command::new("ip").args(["-n", "pfnet-a", "neigh", "show", &GATEWAY.to_string()]).output().unwrap();
    String::from_utf8(shown.stdout).unwrap()
}

/// The address that a router advertisement brought, if one was believed.
fn advertised(namespace: Option<&str>, interface: &str) -> bool {
    let space = namespace.map(|n| format!("-n {n}")).unwrap_or_default();
    sh(&format!("ip {space} -6 addr show dev {interface} | grep -q fd66:"))
}

/// One sandbox cannot make another take it for the gateway, by ARP or by IPv6, nor the host for a router.
#[tokio::test]
#[ignore = "needs root and nftables: make test-network"]
async fn nobody_passes_for_the_router() {
    let _world = World::new();
    let neighbour = Endpoint::new(A).mac_text();
    // The host itself would believe a router here, if it heard one.
    assert!(sh(&format!("sysctl -qw net.ipv6.conf.{BRIDGE}.accept_ra=2 net.ipv6.conf.{BRIDGE}.autoconf=1")));
    let liar = Endpoint::new(B).mac_text();
    let lie = || {
        let mut said = python(Some("pfnet-b"), &["claim", &GATEWAY.to_string(), &neighbour]);
        assert!(
            said.status().unwrap().success()
                && python(Some("pfnet-b"), &["advertise"]).status().unwrap().success()
        );
    };
    assert!(reaches("pfnet-a", &GATEWAY.to_string(), 8899) && !believed().contains(&liar));
    let deadline = Instant::now() + PATIENCE;
    while !(believed().contains(&liar) && advertised(Some("pfnet-a"), "eth0") && advertised(None, BRIDGE)) {
        assert!(Instant::now() < deadline, "without rules the lies are believed: {}", believed());
        lie();
    }
    assert!(sh(&format!(
        "ip -n pfnet-a neigh flush dev eth0; ip -n pfnet-a -6 addr flush dev eth0 to fd66::/64; ip -6 addr flush dev {BRIDGE} to fd66::/64"
    )));
    let firewall = Firewall::install(bridge()).await.unwrap();
    let a = uuid::Uuid::new_v4().to_string();
    firewall.apply(&a, Endpoint::new(A), Policy::default()).await.unwrap();
    for _ in 0..5 {
        assert!(reaches("pfnet-a", INTERNET, 80), "the neighbour goes on as before");
        lie();
    }
    assert!(!believed().contains(&liar), "{}", believed());
    // A refused connection takes as long as a lie would need to be believed.
    assert!(is_kept_from("pfnet-a", &GATEWAY.to_string(), 8899));
    assert!(!advertised(Some("pfnet-a"), "eth0") && !advertised(None, BRIDGE));
    firewall.uninstall().await.unwrap();
}

/// Contract 14.1, row 12: who takes both addresses of a neighbour passes for it nowhere but from its port, and a pin outlives everything but the port.
#[tokio::test]
#[ignore = "needs root and nftables: make test-network"]
async fn nobody_passes_for_a_neighbour() {
    let _world = World::new();
    let dir = tempfile::tempdir().unwrap();
    let far = Ears::open(Some("pfnet-i"), dir.path().join("far"), &["hear"]);
    let [a, b] = [uuid::Uuid::new_v4().to_string(), uuid::Uuid::new_v4().to_string()];
    let mut firewall = Firewall::install(bridge()).await.unwrap();
    firewall.apply(&a, Endpoint::new(A), Policy::default()).await.unwrap();
    firewall.apply(&b, Endpoint::new(B), Policy::block_all()).await.unwrap();
    assert!(sh(&format!("ip -n pfnet-b link set eth0 address {}", Endpoint::new(A).mac_text())));
    let as_a = |marker: &str| vec![format!("udp {marker} {A} {INTERNET}")];
    sends("pfnet-b", &as_a("unpinned"));
    far.awaits("unpinned");

    let mut resident = Command::new("ip").args(["netns", "exec", "pfnet-a", "sleep", "600"]).spawn().unwrap();
    let deadline = Instant::now() + PATIENCE;
    while !firewall.is_pinned(&a).await {
        assert!(Instant::now() < deadline, "the port was not found");
        firewall.pin(&a, resident.id()).await.unwrap();
    }
    assert!(firewall.pin(&b, resident.id()).await.is_err(), "a port has one owner");
    for life in ["once", "again", "flushed", "moved"] {
        match life {
            // Another run of the runner knows what the kernel has, and sees no moment without it.
            "again" => {
                drop(firewall);
                firewall = Firewall::install(bridge()).await.unwrap();
                firewall.apply(&a, Endpoint::new(A), Policy::default()).await.unwrap();
                assert!(firewall.is_pinned(&a).await);
            }
            "flushed" => {
                assert!(sh("nft delete table bridge pinfold; nft delete table inet pinfold"));
                assert!(firewall.restore().await.unwrap());
            }
            // A container that was started anew has another port.
            "moved" => {
                assert!(sh(&format!(
                    "ip link del pfnet-av; ip link add pfnet-av2 type veth peer name eth0 netns pfnet-a address {mac}
                     ip link set pfnet-av2 master {BRIDGE} up; ip -n pfnet-a addr add {A}/24 dev eth0; ip -n pfnet-a link set eth0 up
                     ip -n pfnet-a route add default via {GATEWAY}",
                    mac = Endpoint::new(A).mac_text()
                )));
                assert!(!firewall.is_pinned(&a).await);
                firewall.pin(&a, resident.id()).await.unwrap();
            }
            _ => {}
        }
        assert!(firewall.is_pinned(&a).await);
        sends("pfnet-b", &as_a(&format!("forged-{life}")));
        sends("pfnet-a", &as_a(&format!("own-{life}")));
        far.awaits(&format!("own-{life}"));
        assert!(!far.heard(&format!("forged-{life}")), "{life}");
    }
    firewall.unpin(&a).await.unwrap();
    sends("pfnet-b", &as_a("unpinned-again"));
    far.awaits("unpinned-again");
    let _ = resident.kill();
    let _ = resident.wait();
    firewall.uninstall().await.unwrap();
}

/// A connection from one place to another, over which a byte is sent and comes back when it is told to.
struct Chat(Child, BufReader<ChildStdout>);

impl Chat {
    /// `patience` is how many seconds an answer may take.
    fn open(namespace: Option<&str>, address: &str, port: &str, patience: &str) -> Self {
        let mut command = python(namespace, &["chat", address, port, patience]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let said = BufReader::new(child.stdout.take().unwrap());
        let mut chat = Self(child, said);
        assert!(chat.is_answered(), "the connection to {address}:{port}");
        chat
    }

    fn is_answered(&mut self) -> bool {
        let mut line = String::new();
        let asked = self.0.stdin.as_mut().unwrap().write_all(b"\n").is_ok();
        asked && self.1.read_line(&mut line).unwrap() > 0
    }
}

impl Drop for Chat {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn echo(namespace: &str, port: &str) -> Child {
    let serve = "import socketserver,sys
class Echo(socketserver.BaseRequestHandler):
    def handle(self):
        while data := self.request.recv(1024): self.request.sendall(data)
socketserver.ThreadingTCPServer(('', int(sys.argv[1])), Echo).serve_forever()";
    let mut command = Command::new("ip");
    command
        .args(["netns", "exec", namespace, "python3", "-c", serve, port])
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// Pain F44: answers to whom the node let in go on under any policy; what the sandbox opened itself ends with the policy that let it.
#[tokio::test]
#[ignore = "needs root and nftables: make test-network"]
async fn pain_44_a_stricter_policy_cuts_what_is_open_and_no_answer() {
    let _world = World::new();
    let mut servers = [echo("pfnet-i", "7000"), echo("pfnet-a", "7000")];
    let deadline = Instant::now() + PATIENCE;
    while is_kept_from("pfnet-i", INTERNET, 7000) || is_kept_from("pfnet-a", &A.to_string(), 7000) {
        assert!(Instant::now() < deadline, "the echo servers did not come up");
        std::thread::sleep(Duration::from_millis(20));
    }
    let firewall = Firewall::install(bridge()).await.unwrap();
    let a = uuid::Uuid::new_v4().to_string();
    firewall.apply(&a, Endpoint::new(A), Policy::default()).await.unwrap();
    let mut outward = Chat::open(Some("pfnet-a"), INTERNET, "7000", "2");
    let mut inward = Chat::open(None, &A.to_string(), "7000", "60");
    firewall.apply(&a, Endpoint::new(A), Policy::block_all()).await.unwrap();
    let deadline = Instant::now() + PATIENCE;
    while outward.is_answered() {
        assert!(Instant::now() < deadline, "a connection that the policy forbids stays open");
    }
    assert!(inward.is_answered(), "an answer to the node was dropped");
    drop(Chat::open(None, &A.to_string(), "7000", "60"));
    firewall.uninstall().await.unwrap();
    for server in &mut servers {
        let _ = server.kill();
        let _ = server.wait();
    }
}

/// Contract 14.1, row 11: a change is one step. What both policies forbid never gets out in between, and what both allow is not cut.
#[tokio::test]
#[ignore = "needs root and nftables: make test-network"]
async fn a_change_of_policy_has_no_moment_in_between() {
    let _world = World::new();
    let mut server = echo("pfnet-i", "7000");
    let deadline = Instant::now() + PATIENCE;
    while is_kept_from("pfnet-i", INTERNET, 7000) {
        assert!(Instant::now() < deadline, "the echo server did not come up");
        std::thread::sleep(Duration::from_millis(20));
    }
    let firewall = Firewall::install(bridge()).await.unwrap();
    let [a, b] = [uuid::Uuid::new_v4().to_string(), uuid::Uuid::new_v4().to_string()];
    let list = |networks: &str| Policy::parse(None, Some(networks), None, false).unwrap();
    let (closed, open) = (
        ["198.51.100.0/24", "192.0.2.0/24"].map(list),
        ["203.0.113.0/24", "10.0.0.0/8,203.0.113.0/24"].map(list),
    );
    firewall.apply(&a, Endpoint::new(A), open[0].clone()).await.unwrap();
    firewall.apply(&b, Endpoint::new(B), closed[0].clone()).await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let far = Ears::open(Some("pfnet-i"), dir.path().join("far"), &["hear"]);
    let mut chat = Chat::open(Some("pfnet-a"), INTERNET, "7000", "60");
    // Both go on for as long as policies change.
    let [is_enough, is_over] = [(); 2].map(|()| Arc::new(AtomicBool::new(false)));
    let talk = std::thread::spawn({
        let is_over = Arc::clone(&is_over);
        move || {
            while chat.is_answered() {
                if is_over.load(Ordering::Relaxed) {
                    return true;
                }
            }
            false
        }
    });
    let flood = std::thread::spawn({
        let is_enough = Arc::clone(&is_enough);
        move || {
            let part = vec![format!("udp flood {B} {INTERNET}"); 5000];
            let mut parts = 0;
            while parts < 4 || !is_enough.load(Ordering::Relaxed) {
                sends("pfnet-b", &part);
                parts += 1;
            }
        }
    });
    let mut changes = 0;
    while !flood.is_finished() {
        changes += 1;
        firewall.apply(&a, Endpoint::new(A), open[changes % 2].clone()).await.unwrap();
        firewall.apply(&b, Endpoint::new(B), closed[changes % 2].clone()).await.unwrap();
        is_enough.store(changes > 50, Ordering::Relaxed);
    }
    is_over.store(true, Ordering::Relaxed);
    flood.join().unwrap();
    assert!(talk.join().unwrap(), "what both policies allow was cut");
    sends("pfnet-a", &[format!("udp the-end {A} {INTERNET}")]);
    far.awaits("the-end");
    assert!(!far.heard("flood"), "a packet got out in the middle of one of {changes} changes");
    firewall.uninstall().await.unwrap();
    let _ = server.kill();
    let _ = server.wait();
}

/// Pain F42: a port that the engine publishes on the host is the host's, behind whichever bridge it is.
#[tokio::test]
#[ignore = "needs root and nftables: make test-network"]
async fn pain_42_published_ports_are_the_hosts() {
    let _world = World::new();
    let published = "iptables -w -t nat -A PREROUTING -d 10.213.77.1 -p tcp --dport 8765 -j DNAT --to-destination 203.0.113.2:80";
    assert!(sh(published));
    let open = reaches("pfnet-a", "10.213.77.1", 8765);
    let firewall = Firewall::install(bridge()).await.unwrap();
    let a = uuid::Uuid::new_v4().to_string();
    firewall.apply(&a, Endpoint::new(A), Policy::default()).await.unwrap();
    let closed = is_kept_from("pfnet-a", "10.213.77.1", 8765);
    assert!(sh(&published.replace(" -A ", " -D ")));
    assert!(open, "without rules the published port is reached");
    assert!(closed && reaches("pfnet-a", INTERNET, 80), "with them it is not, and the internet is");
    firewall.uninstall().await.unwrap();
}
