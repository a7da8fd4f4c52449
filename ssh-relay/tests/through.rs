//! A sandbox's SSH server through two gateways, as OpenSSH's client sees it.

// The clients are the tests' own children.
#![allow(clippy::disallowed_methods, clippy::unwrap_used)]

#[path = "../../daemon/ssh/tests/common/mod.rs"]
mod common;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Command, Stdio};

use common::{Server, noise, text, with_input};
use pinfold_testing::{free_port, wait_for};

fn two_hops() -> Server {
    Server::start_as("ssh_chain", &["2"])
}

#[test]
fn streams_status_and_half_close() {
    let server = two_hops();
    let mut ssh = server.ssh();
    ssh.args(["127.0.0.1", "cat; read x; echo after $?; echo err >&2; exit 7"]);
    let output = with_input(ssh, b"input\n");
    assert_eq!(
        (text(&output.stdout), text(&output.stderr)),
        ("input\nafter 1\n".to_owned(), "err\n".to_owned())
    );
    assert_eq!(output.status.code(), Some(7));
    let killed = server.ssh().args(["-v", "127.0.0.1", "kill -TERM $$"]).output().unwrap();
    assert!(text(&killed.stderr).contains("rtype exit-signal"), "{}", text(&killed.stderr));
}

#[test]
fn terminals_and_environment() {
    let server = two_hops();
    let output = server
        .ssh()
        .args(["-tt", "-o", "SetEnv=FOO=bar", "127.0.0.1", "tty; echo $FOO; exit 5"])
        .output()
        .unwrap();
    assert!(
        text(&output.stdout).contains("/dev/pts/") && text(&output.stdout).contains("bar"),
        "{}",
        text(&output.stdout)
    );
    assert_eq!(output.status.code(), Some(5));
}

#[test]
fn much_goes_both_ways_at_once_while_keys_change() {
    let server = two_hops();
    let input = noise(8 << 20);
    let mut ssh = server.ssh();
    ssh.args(["-o", "RekeyLimit=200K", "127.0.0.1", "cat"]);
    let output = with_input(ssh, &input);
    assert!(
        output.stdout == input,
        "{} bytes came back of {}: {}",
        output.stdout.len(),
        input.len(),
        text(&output.stderr)
    );
}

#[test]
fn many_sessions_share_a_connection_and_none_stops_another() {
    let server = two_hops();
    let socket = server.path("master");
    let shared = |extra: &[&str]| {
        let mut ssh = server.ssh();
        ssh.arg("-o").arg(format!("ControlPath={}", socket.display())).args(extra);
        ssh
    };
    let mut first = shared(&["-o", "ControlMaster=yes", "-N", "127.0.0.1"]).spawn().unwrap();
    wait_for("the shared connection", || socket.exists().then_some(()));
    let mut loud = shared(&["127.0.0.1", "yes"]).stdout(Stdio::piped()).spawn().unwrap();
    loud.stdout.as_mut().unwrap().read_exact(&mut [0; 1]).unwrap();
    for n in 0..5 {
        assert_eq!(
            text(&shared(&["127.0.0.1", &format!("echo {n}")]).output().unwrap().stdout),
            format!("{n}\n")
        );
    }
    assert!(Command::new("kill").arg(loud.id().to_string()).status().unwrap().success());
    loud.wait().unwrap();
    assert!(shared(&["-O", "exit", "127.0.0.1"]).stderr(Stdio::null()).status().unwrap().success());
    first.wait().unwrap();
}

#[test]
fn losing_the_client_hangs_the_process_up() {
    let server = two_hops();
    let line = "trap 'echo gone > gone; exit' HUP; echo ready; while :; do sleep 0.05; done";
    let mut ssh = server.ssh().args(["127.0.0.1", line]).stdout(Stdio::piped()).spawn().unwrap();
    ssh.stdout.as_mut().unwrap().read_exact(&mut [0; 6]).unwrap();
    let client = text(&Command::new("pgrep").args(["-P", &ssh.id().to_string()]).output().unwrap().stdout);
    assert!(Command::new("kill").args(["-9", client.trim()]).status().unwrap().success());
    wait_for("SIGHUP at the far end", || fs::read(server.work().join("gone")).ok().filter(|t| !t.is_empty()));
    ssh.wait().unwrap();
}

#[test]
fn files() {
    let server = two_hops();
    let data = noise(3 << 20);
    fs::write(server.path("original"), &data).unwrap();
    for protocol in ["-s", "-O"] {
        let there = server.work().join("there");
        for (from, to) in [
            (server.path("original").display().to_string(), "127.0.0.1:there".to_owned()),
            ("127.0.0.1:there".to_owned(), server.path("back").display().to_string()),
        ] {
            let output = server.client("scp", "-P").args([protocol, &from, &to]).output().unwrap();
            assert!(output.status.success(), "{protocol}: {}", text(&output.stderr));
        }
        assert!(fs::read(&there).unwrap() == data && fs::read(server.path("back")).unwrap() == data);
        fs::remove_file(there).unwrap();
    }
}

/// Everything OpenSSH can forward, of which the gateway this one stands in for refuses half.
#[test]
fn forwards_in_all_directions() {
    let server = two_hops();
    let echo = TcpListener::bind("127.0.0.1:0").unwrap();
    let target = echo.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in echo.incoming() {
            serve_backwards(stream.unwrap())
        }
    });
    let (ours, theirs) = (server.path("ours"), server.work().join("theirs"));
    let listener = UnixListener::bind(&ours).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            serve_backwards(stream.unwrap())
        }
    });
    let port = free_port();
    let here = server.path("here");

    let mut ssh = server.ssh();
    ssh.args([
        "-N",
        "-v",
        "-o",
        "ExitOnForwardFailure=yes",
        "-L",
        &format!("{port}:localhost:{target}"),
        "-R",
        &format!("0:127.0.0.1:{target}"),
    ]);
    ssh.args([
        "-L",
        &format!("{}:{}", here.display(), ours.display()),
        "-R",
        &format!("{}:{}", theirs.display(), ours.display()),
        "127.0.0.1",
    ]);
    let mut ssh = ssh.stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(ssh.stderr.take().unwrap()).lines();
    let allocated = lines
        .find_map(|line| {
            line.unwrap().strip_prefix("Allocated port ")?.split(' ').next()?.parse::<u16>().ok()
        })
        .unwrap();
    std::thread::spawn(move || lines.for_each(drop));

    for port in [port, allocated] {
        let mut stream = wait_for("a forwarded port", || TcpStream::connect(("127.0.0.1", port)).ok());
        stream.write_all(b"half-closed").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        assert_eq!(all(&mut stream), "desolc-flah");
    }
    for path in [here, theirs] {
        let mut stream = wait_for("a forwarded socket", || UnixStream::connect(&path).ok());
        stream.write_all(b"half-closed").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        assert_eq!(all(&mut stream), "desolc-flah");
    }
    assert!(Command::new("kill").arg(ssh.id().to_string()).status().unwrap().success());
    ssh.wait().unwrap();
    wait_for("the far listener to end", || {
        TcpStream::connect(("127.0.0.1", allocated)).is_err().then_some(())
    });
}

fn all(stream: &mut impl Read) -> String {
    let mut heard = String::new();
    stream.read_to_string(&mut heard).unwrap();
    heard
}

fn serve_backwards(mut stream: impl Read + Write) {
    let heard: String = all(&mut stream).chars().rev().collect();
    stream.write_all(heard.as_bytes()).unwrap();
}

#[test]
fn keepalives_pass_through() {
    let server = two_hops();
    let mut ssh = server.ssh();
    // It tells of each packet. These two types answer global requests, of which only keepalives come again and again.
    ssh.args(["-N", "-vvv", "-o", "ServerAliveInterval=1", "-o", "ServerAliveCountMax=60"]);
    let mut ssh = ssh.arg("127.0.0.1").stderr(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(ssh.stderr.take().unwrap()).lines().map(Result::unwrap);
    let answers = lines.filter(|line| {
        line.ends_with("receive packet: type 81") || line.ends_with("receive packet: type 82")
    });
    assert_eq!(answers.take(3).count(), 3, "keepalives are not answered");
    assert!(Command::new("kill").arg(ssh.id().to_string()).status().unwrap().success());
    ssh.wait().unwrap();
}

#[test]
fn the_user_is_told_why_not() {
    let server = two_hops();
    for (user, reason) in [
        ("bad-token", "this access token is not valid or has expired"),
        ("stopped", "sandbox s1 is stopped; start it first"),
        ("gone", "sandbox s1 cannot be reached: Connection refused"),
    ] {
        let mut ssh = Command::new("timeout");
        ssh.args([
            "60",
            "ssh",
            "-p",
            &server.port.to_string(),
            "-o",
            "BatchMode=yes",
            "-o",
            "StrictHostKeyChecking=no",
        ]);
        ssh.args(["-o", "UserKnownHostsFile=/dev/null", &format!("{user}@127.0.0.1"), "true"]);
        let output = ssh.stdin(Stdio::null()).output().unwrap();
        assert_eq!(output.status.code(), Some(255), "{user}");
        assert!(text(&output.stderr).contains(reason), "{user}: {}", text(&output.stderr));
    }
}
