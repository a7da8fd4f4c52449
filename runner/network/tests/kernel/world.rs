//! The test network.

use std::net::Ipv4Addr;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use pinfold_network::{Bridge, Endpoint};

pub(crate) const BRIDGE: &str = "pfnet0";
pub(crate) const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 213, 77, 1);
pub(crate) const A: Ipv4Addr = Ipv4Addr::new(10, 213, 77, 2);
pub(crate) const B: Ipv4Addr = Ipv4Addr::new(10, 213, 77, 3);
pub(crate) const INTERNET: &str = "203.0.113.2";

pub(crate) fn sh(script: &str) -> bool {
    Command::new("sh")
        .arg("-ec")
        .arg(script)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .unwrap()
        .success()
}

/// How long what should be done in no time may take on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Opens a TCP connection; `seconds` are all that it may take.
fn connects(from: &str, address: &str, port: u16, seconds: u32) -> bool {
    sh(&format!("{from} timeout {seconds} bash -c 'exec 3<>/dev/tcp/{address}/{port}'"))
}

/// Whether `namespace` can open a TCP connection there, which it should: a busy machine and a packet that is sent again have their time.
pub(crate) fn reaches(namespace: &str, address: &str, port: u16) -> bool {
    connects(&format!("ip netns exec {namespace}"), address, port, 20)
}

/// Whether `namespace` opens no TCP connection there within a second, which is long for one that nothing stands in the way of.
pub(crate) fn is_kept_from(namespace: &str, address: &str, port: u16) -> bool {
    !connects(&format!("ip netns exec {namespace}"), address, port, 1)
}

/// Whether the host can open a TCP connection there.
pub(crate) fn host_reaches(address: &str, port: u16) -> bool {
    connects("", address, port, 20)
}

pub(crate) struct World(Vec<Child>);

impl World {
    pub(crate) fn new() -> Self {
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
             ip addr add 203.0.113.1/24 dev pfneti; ip link set pfneti up
             ip -n pfnet-i addr add {INTERNET}/24 dev eth0; ip -n pfnet-i link set lo up; ip -n pfnet-i link set eth0 up; ip -n pfnet-i route add default via 203.0.113.1
             sysctl -qw net.ipv4.ip_forward=1
             iptables -w -I FORWARD -i {BRIDGE} -j ACCEPT; iptables -w -I FORWARD -o {BRIDGE} -j ACCEPT",
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
        let deadline = Instant::now() + PATIENCE;
        let is_down = || {
            is_kept_from("pfnet-b", "10.213.77.3", 8000)
                || is_kept_from("pfnet-b", "10.213.77.3", 2280)
                || is_kept_from("pfnet-i", INTERNET, 80)
                || is_kept_from("pfnet-a", "10.213.77.1", 8899)
        };
        while is_down() {
            assert!(Instant::now() < deadline, "the servers of the test network did not come up");
            std::thread::sleep(Duration::from_millis(20));
        }
        world
    }

    fn clean() {
        sh("nft delete table inet pinfold");
        sh("nft delete table bridge pinfold");
        // A namespace goes in its own time, and its links with it: these go at once.
        sh("for link in pfnet-av pfnet-av2 pfnet-bv pfneti; do ip link del $link || true; done");
        for ns in ["pfnet-a", "pfnet-b", "pfnet-i"] {
            sh(&format!("ip netns del {ns}"));
        }
        sh(&format!(
            "iptables -w -D FORWARD -i {BRIDGE} -j ACCEPT; iptables -w -D FORWARD -o {BRIDGE} -j ACCEPT"
        ));
        sh(&format!("ip link del {BRIDGE}"));
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

/// The host's settings that show bridged packets to the IP rules, which engines switch on, until it is dropped switched off.
pub(crate) struct BridgedPackets(Vec<(&'static str, String)>);

impl BridgedPackets {
    pub(crate) fn past_the_rules() -> Self {
        let paths =
            ["/proc/sys/net/bridge/bridge-nf-call-iptables", "/proc/sys/net/bridge/bridge-nf-call-ip6tables"];
        let found = paths.map(|path| (path, std::fs::read_to_string(path).unwrap()));
        paths.iter().for_each(|path| std::fs::write(path, "0").unwrap());
        Self(found.into())
    }
}

impl Drop for BridgedPackets {
    fn drop(&mut self) {
        for (path, value) in &self.0 {
            let _ = std::fs::write(path, value);
        }
    }
}

pub(crate) fn bridge() -> Bridge {
    Bridge {
        interface: BRIDGE.to_owned(),
        subnet: "10.213.77.0/24".parse().unwrap(),
        gateway: GATEWAY,
        inter_sandbox: false,
        resolver_port: None,
        names_for_all: false,
    }
}
