//! Domain allow lists: what a listed name opens, for how long, and what it must not open.

use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Instant;

use pinfold_network::{Bridge, Endpoint, Firewall, FirewallError, Policy, Resolver};
use tokio::task::JoinHandle;

use crate::world::*;

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/kernel/names.py");

/// A name server, the resolver before it, and the sandbox `a` with a list of names.
struct Names {
    _world: World,
    firewall: Arc<Firewall>,
    resolver: JoinHandle<()>,
    server: Child,
    asked: tempfile::TempDir,
    a: String,
}

impl Drop for Names {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

impl Names {
    async fn new(domains: &str, networks: Option<&str>) -> Self {
        let bridge = Bridge { resolver_port: Some(8853), ..bridge() };
        Self::on(bridge, Policy::parse(None, networks, Some(domains), false).unwrap()).await
    }

    async fn on(bridge: Bridge, policy: Policy) -> Self {
        let world = World::new();
        let firewall = Arc::new(Firewall::install(bridge).await.unwrap());
        let asked = tempfile::tempdir().unwrap();
        let mut command = Command::new("python3");
        command.args([SCRIPT, "serve"]).arg(asked.path().join("names"));
        command.args([INTERNET, &GATEWAY.to_string()]).stdout(Stdio::piped());
        let mut server = command.spawn().unwrap();
        let mut port = String::new();
        BufReader::new(server.stdout.take().unwrap()).read_line(&mut port).unwrap();
        let port: u16 = port.trim().parse().expect("the name server says where it listens");
        let upstream = SocketAddr::from(([127, 0, 0, 1], port));
        let listen = (GATEWAY, 8853).into();
        let resolver = Resolver::bind(Arc::clone(&firewall), listen, vec![upstream]).await.unwrap();
        let resolver = tokio::spawn(resolver);
        let names =
            Self { _world: world, firewall, resolver, server, asked, a: uuid::Uuid::new_v4().to_string() };
        names.firewall.apply(&names.a, Endpoint::new(A), policy).await.unwrap();
        names
    }

    /// What the resolver does with an answer for the sandbox `a`, under its policy of this moment.
    async fn open(&self, addresses: &[Ipv4Addr], seconds: u32) -> Result<bool, FirewallError> {
        let (_, policy) = self.firewall.applied(&self.a).await.unwrap();
        self.firewall.allow_resolved(&self.a, &policy, addresses, seconds).await
    }

    /// The names that reached the server.
    fn asked(&self) -> String {
        std::fs::read_to_string(self.asked.path().join("names")).unwrap_or_default()
    }
}

fn python(namespace: &str, words: &[&str]) -> Command {
    let mut command = Command::new("ip");
    command.args(["netns", "exec", namespace, "python3", SCRIPT]).args(words);
    command
}

/// The response code and the number of answers that a sandbox gets from a server that does not exist; nothing without an answer.
fn look_up(namespace: &str, words: &[&str]) -> String {
    let output = python(namespace, &[&["ask"], words].concat()).output().unwrap();
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// The same for what is to have no answer, so that it is asked once.
fn is_unanswered(namespace: &str, name: &str) -> bool {
    look_up(namespace, &[name, "udp", "1", "once"]).is_empty()
}

fn internet() -> bool {
    reaches("pfnet-a", INTERNET, 80)
}

fn no_internet() -> bool {
    is_kept_from("pfnet-a", INTERNET, 80)
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and nftables: make test-network"]
async fn a_listed_name_opens_what_it_resolves_to() {
    let names = Names::new("example.com,*.example.org,alias.example.net", None).await;
    let asks = |name| look_up("pfnet-a", &[name]);
    assert!(no_internet());
    for (name, kind) in [("other.org", "1"), ("example.org", "1"), ("c2VjcmV0.example.com", "16")] {
        let refused = look_up("pfnet-a", &[name, "udp", kind]);
        assert_eq!(refused, "5 0", "{name} is not listed");
        assert_eq!(look_up("pfnet-a", &[name, "tcp", kind]), "5 0", "nor over TCP");
    }
    assert_eq!(names.asked(), "", "what is not listed is asked of nobody, so nothing leaks by it");
    assert!(no_internet());
    assert_eq!(look_up("pfnet-a", &["example.com", "udp", "28"]), "0 0", "there is no IPv6 to be had");
    assert!(no_internet());
    assert_eq!(asks("example.com"), "0 1", "a listed name is answered");
    assert!(internet(), "a resolved address is reached");
    // A policy that is set anew forgets what names had opened.
    for (list, ways) in
        [("*.example.org", vec!["a.b.example.org"]), ("alias.example.net", vec!["alias.example.net"])]
    {
        let policy = Policy::parse(None, None, Some(list), false).unwrap();
        names.firewall.apply(&names.a, Endpoint::new(A), policy).await.unwrap();
        assert!(no_internet(), "{list} has opened nothing yet");
        for name in ways {
            assert!(look_up("pfnet-a", &[name, "tcp"]).starts_with("0 "), "{name} over TCP");
        }
        assert!(internet(), "{list}");
    }
    names.resolver.abort();
    assert!(is_unanswered("pfnet-a", "alias.example.net"), "names stop resolving with the resolver");
    names.firewall.remove(&names.a).await.unwrap();
    assert!(no_internet());
}

/// A host whose name servers are its own loopback's: sandboxes without limits look names up through it, and nobody else does.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and nftables: make test-network"]
async fn names_that_only_the_host_can_ask_for_are_asked_for_by_it() {
    let bridge = Bridge { resolver_port: Some(8853), names_for_all: true, ..bridge() };
    let names = Names::on(bridge, Policy::default()).await;
    assert_eq!(look_up("pfnet-a", &["any.example.net"]), "0 1");
    assert_eq!(
        look_up("pfnet-a", &["lan.example.net", "tcp"]),
        "0 1",
        "it may go anywhere, so it may know anything"
    );
    let before = names.asked();
    assert!(before.contains("any.example.net"), "{before}");
    for policy in [Policy::block_all(), Policy::parse(None, Some("192.0.2.0/24"), None, false).unwrap()] {
        names.firewall.apply(&names.a, Endpoint::new(A), policy).await.unwrap();
        assert!(is_unanswered("pfnet-a", "secret.example.net"), "what is limited to networks asks nobody");
    }
    let listed = Policy::parse(None, None, Some("example.com"), false).unwrap();
    names.firewall.apply(&names.a, Endpoint::new(A), listed).await.unwrap();
    assert_eq!(look_up("pfnet-a", &["other.example.net"]), "5 0");
    assert_eq!(names.asked(), before, "and nothing leaks");
    names.firewall.apply(&names.a, Endpoint::new(A), Policy::default()).await.unwrap();
    assert_eq!(look_up("pfnet-a", &["any.example.net"]), "0 1", "free again");
}

/// DNS rebinding: who owns a listed name chooses its address, and must not choose one of the operator's.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and nftables: make test-network"]
async fn a_listed_name_opens_neither_the_host_nor_its_network() {
    let _names = Names::new("*.example.com", Some("10.99.0.0/24")).await;
    let opened = || {
        let listed = Command::new("nft").args(["list", "table", "inet", "pinfold"]).output().unwrap();
        let listed = String::from_utf8(listed.stdout).unwrap();
        listed.matches("expires").count()
    };
    for name in ["meta", "host", "mixed"] {
        assert_eq!(look_up("pfnet-a", &[&format!("{name}.example.com")]), "5 0", "{name}");
        assert_eq!(opened(), 0, "{name}");
    }
    assert!(no_internet() && is_kept_from("pfnet-a", &GATEWAY.to_string(), 8899));
    assert_eq!(
        look_up("pfnet-a", &["lan.example.com"]),
        "0 1",
        "a network that is listed beside the names is open anyway"
    );
    assert_eq!(look_up("pfnet-a", &["www.example.com"]), "0 1");
    assert!(internet());
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and nftables: make test-network"]
async fn what_a_name_opened_closes_when_its_time_is_over() {
    let names = Names::new("example.com", None).await;
    let deadline = Instant::now() + PATIENCE;
    // On a busy machine its time may be over before anybody goes there.
    loop {
        assert!(names.open(&[INTERNET.parse().unwrap()], 2).await.unwrap());
        if !no_internet() {
            break;
        }
        assert!(Instant::now() < deadline, "the address was not opened");
    }
    let deadline = Instant::now() + PATIENCE;
    while !no_internet() {
        assert!(Instant::now() < deadline, "the address stays open after its time");
    }
}

/// A list that is replaced takes along what it opened, also when a runner of before had put it in force; one that stays, or is said again, cuts nothing.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and nftables: make test-network"]
async fn only_another_list_closes_what_a_list_has_opened() {
    let names = Names::new("example.com", None).await;
    let listed = |domains| Policy::parse(None, None, Some(domains), false).unwrap();
    let address = [INTERNET.parse().unwrap()];
    assert!(names.open(&address, 600).await.unwrap() && internet());
    let wider = Policy::parse(None, Some("192.0.2.0/24"), Some("example.com"), true).unwrap();
    names.firewall.apply(&names.a, Endpoint::new(A), wider).await.unwrap();
    assert!(internet(), "the names are the same");
    let next = Firewall::install(bridge()).await.unwrap();
    next.apply(&names.a, Endpoint::new(A), listed("example.com")).await.unwrap();
    assert!(internet(), "a restart does not interrupt");
    let next = Firewall::install(bridge()).await.unwrap();
    next.apply(&names.a, Endpoint::new(A), listed("example.org")).await.unwrap();
    assert!(no_internet(), "recorded while the runner was away, the new list has opened nothing");
    // The answer to a question that was put under the old list comes late.
    let late = next.allow_resolved(&names.a, &listed("example.com"), &address, 600).await;
    assert!(!late.unwrap() && no_internet());
    assert!(next.allow_resolved(&names.a, &listed("example.org"), &address, 600).await.unwrap());
    assert!(internet());
}

/// A sandbox that asks for a great many names, or holds connections and asks nothing, takes neither the others' share nor the kernel's memory.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and nftables: make test-network"]
async fn one_sandbox_cannot_use_the_resolver_up() {
    let names = Names::new("*.example.com", None).await;
    let b = uuid::Uuid::new_v4().to_string();
    let policy = Policy::parse(None, None, Some("example.com"), false).unwrap();
    names.firewall.apply(&b, Endpoint::new(B), policy.clone()).await.unwrap();
    let mut holding = python("pfnet-a", &["hold", "400"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(holding.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let answered = look_up("pfnet-b", &["example.com"]);
    holding.kill().unwrap();
    holding.wait().unwrap();
    assert_eq!((line.trim(), answered.as_str()), ("held", "0 1"));
    let many = |from: u32| (from..from + 2048).map(Ipv4Addr::from_bits).collect::<Vec<_>>();
    names.open(&many(0x0b00_0000), 60).await.unwrap();
    names.open(&many(0x0c00_0000), 60).await.unwrap();
    names.open(&many(0x0d00_0000), 60).await.unwrap_err();
    assert!(names.firewall.allow_resolved(&b, &policy, &[INTERNET.parse().unwrap()], 60).await.unwrap());
}
