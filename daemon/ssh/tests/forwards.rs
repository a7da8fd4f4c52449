//! Forwarding as OpenSSH's client asks for it.

// The clients are the tests' own children, not the daemon's.
#![allow(clippy::disallowed_methods, clippy::unwrap_used)]

mod common;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use common::{Server, text};
use pinfold_testing::{free_port, wait_for};

/// A client that only forwards, ended when dropped.
struct Forward(Child);

impl Forward {
    fn start(server: &Server, option: &str, what: &str) -> Self {
        let mut ssh = server.ssh();
        ssh.args([
            "-N",
            "-v",
            "-o",
            "LogLevel=DEBUG1",
            "-o",
            "ExitOnForwardFailure=yes",
            option,
            what,
            "127.0.0.1",
        ]);
        Self(ssh.stderr(Stdio::piped()).spawn().expect("ssh runs"))
    }

    /// Reads the client's words until a line has this in it.
    fn until(&mut self, part: &str) -> String {
        let lines = BufReader::new(self.0.stderr.as_mut().unwrap()).lines();
        let mut said = String::new();
        for line in lines {
            let line = line.unwrap();
            if line.contains(part) {
                return line;
            }
            said += &line;
            said.push('\n');
        }
        panic!("the client ended without saying {part:?}:\n{said}");
    }
}

impl Drop for Forward {
    fn drop(&mut self) {
        let _ = Command::new("kill").arg(self.0.id().to_string()).status();
        let _ = self.0.wait();
    }
}

/// Answers one connection: all it hears, backwards, once the other side has finished.
fn serve_backwards(mut stream: impl Read + Write) {
    let mut heard = Vec::new();
    stream.read_to_end(&mut heard).unwrap();
    heard.reverse();
    stream.write_all(&heard).unwrap();
}

fn tcp_server() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || serve_backwards(listener.accept().unwrap().0));
    port
}

fn socket_server(path: &Path) {
    let listener = UnixListener::bind(path).unwrap();
    std::thread::spawn(move || serve_backwards(listener.accept().unwrap().0));
}

fn ask_tcp(port: u16) -> String {
    let mut stream = wait_for("the forwarded port", || TcpStream::connect(("127.0.0.1", port)).ok());
    stream.write_all(b"half-closed").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

fn ask_socket(path: &Path) -> String {
    let mut stream = wait_for("the forwarded socket", || UnixStream::connect(path).ok());
    stream.write_all(b"half-closed").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

const BACKWARDS: &str = "desolc-flah";

#[test]
fn a_port_of_the_sandbox_here() {
    let server = Server::start();
    for host in ["127.0.0.1", "localhost"] {
        let port = free_port();
        let _forward = Forward::start(&server, "-L", &format!("{port}:{host}:{}", tcp_server()));
        assert_eq!(ask_tcp(port), BACKWARDS);
    }
}

#[test]
fn a_port_of_ours_there() {
    let server = Server::start();
    let mut forward = Forward::start(&server, "-R", &format!("0:127.0.0.1:{}", tcp_server()));
    let line = forward.until("Allocated port");
    let port =
        line.split_whitespace().nth(2).and_then(|p| p.parse().ok()).unwrap_or_else(|| panic!("{line}"));
    assert_eq!(ask_tcp(port), BACKWARDS);
    drop(forward);
    wait_for("the listener to end with the connection", || {
        TcpStream::connect(("127.0.0.1", port)).is_err().then_some(())
    });
}

#[test]
fn sockets_both_ways() {
    let server = Server::start();
    let (there, here) = (server.work().join("there"), server.path("here"));
    socket_server(&there);
    let forward = Forward::start(&server, "-L", &format!("{}:{}", here.display(), there.display()));
    assert_eq!(ask_socket(&here), BACKWARDS);
    drop(forward);

    let (ours, theirs) = (server.path("ours"), server.work().join("new/directory/theirs"));
    socket_server(&ours);
    let forward = Forward::start(&server, "-R", &format!("{}:{}", theirs.display(), ours.display()));
    assert_eq!(ask_socket(&theirs), BACKWARDS);
    drop(forward);
    wait_for("the socket to go with the connection", || (!theirs.exists()).then_some(()));
}

#[test]
fn a_forwarded_socket_replaces_what_is_in_the_way_but_no_directory() {
    let server = Server::start();
    let (ours, theirs) = (server.path("ours"), server.work().join("theirs"));
    fs::write(&theirs, "left over").unwrap();
    socket_server(&ours);
    let forward = Forward::start(&server, "-R", &format!("{}:{}", theirs.display(), ours.display()));
    assert_eq!(ask_socket(&theirs), BACKWARDS);
    drop(forward);
    let directory = server.work().join("directory");
    fs::create_dir(&directory).unwrap();
    let mut refused = Forward::start(&server, "-R", &format!("{}:{}", directory.display(), ours.display()));
    refused.until("remote port forwarding failed");
    assert!(directory.is_dir());
}

#[test]
fn what_cannot_be_reached_is_said() {
    let server = Server::start();
    let output =
        server.ssh().args(["-v", "-W", &format!("127.0.0.1:{}", free_port()), "127.0.0.1"]).output().unwrap();
    assert!(!output.status.success());
    assert!(text(&output.stderr).contains("Connection refused"), "{}", text(&output.stderr));
}

#[test]
fn a_name_nobody_has_is_said() {
    let server = Server::start();
    let output = server.ssh().args(["-v", "-W", "no-such-host.invalid:80", "127.0.0.1"]).output().unwrap();
    assert!(
        text(&output.stderr).contains("could not connect to no-such-host.invalid"),
        "{}",
        text(&output.stderr)
    );
}

#[test]
fn the_agent_comes_along() {
    let server = Server::start();
    let socket = server.path("agent");
    let mut agent =
        Command::new("ssh-agent").arg("-D").arg("-a").arg(&socket).stdout(Stdio::null()).spawn().unwrap();
    wait_for("the agent", || UnixStream::connect(&socket).ok());
    let add = Command::new("ssh-add")
        .arg(server.path("key"))
        .env("SSH_AUTH_SOCK", &socket)
        .stderr(Stdio::null())
        .status();
    assert!(add.unwrap().success());
    let fingerprint = Command::new("ssh-keygen").arg("-lf").arg(server.path("key.pub")).output().unwrap();
    let output = server
        .ssh()
        .args(["-A", "127.0.0.1", "ssh-add -l; ls -ld ${SSH_AUTH_SOCK%/*}"])
        .env("SSH_AUTH_SOCK", &socket)
        .output()
        .unwrap();
    let (said, key) = (text(&output.stdout), text(&fingerprint.stdout));
    assert!(said.contains(key.split_whitespace().nth(1).unwrap()), "{said}{}", text(&output.stderr));
    assert!(said.contains("drwx------"), "{said}");
    agent.kill().unwrap();
    agent.wait().unwrap();
    // Without being asked for, there is none.
    assert_eq!(text(&server.run("echo ${SSH_AUTH_SOCK:-none}").stdout), "none\n");
}
