//! Sessions as OpenSSH's client sees them.

// The clients are the tests' own children, not the daemon's.
#![allow(clippy::disallowed_methods, clippy::unwrap_used)]

mod common;

use std::fs;
use std::io::{Read, Write};
use std::process::Stdio;

use common::{Server, noise, text, with_input};
use pinfold_testing::wait_for;

#[test]
fn keeps_streams_apart_and_tells_the_status() {
    let server = Server::start();
    let output = server.run("echo out; echo err >&2; pwd; echo $MARK; exit 7");
    let work = server.work();
    assert_eq!(text(&output.stdout), format!("out\n{}\nfrom the sandbox\n", work.display()));
    assert_eq!(text(&output.stderr), "err\n");
    assert_eq!(output.status.code(), Some(7));
}

#[test]
fn tells_a_signal_as_a_signal() {
    let server = Server::start();
    let output = server
        .ssh()
        .arg("-v")
        .args(["-o", "LogLevel=DEBUG1", "127.0.0.1", "kill -SEGV $$"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(255));
    assert!(text(&output.stderr).contains("rtype exit-signal"), "{}", text(&output.stderr));
}

#[test]
fn end_of_input_leaves_output_running() {
    let server = Server::start();
    let mut ssh = server.ssh();
    ssh.args(["127.0.0.1", "cat; read x; echo after $?; sleep 0.2; echo later"]);
    let output = with_input(ssh, b"input\n");
    assert_eq!(text(&output.stdout), "input\nafter 1\nlater\n");
}

#[test]
fn a_shell_without_a_terminal_reads_commands() {
    let server = Server::start();
    let output = with_input(
        {
            let mut ssh = server.ssh();
            ssh.args(["-T", "127.0.0.1"]);
            ssh
        },
        b"echo $((6*7))\nexit 3\n",
    );
    assert_eq!((text(&output.stdout), output.status.code()), ("42\n".to_owned(), Some(3)));
}

#[test]
fn a_command_gets_the_terminal_it_asked_for() {
    let server = Server::start();
    let output = server
        .ssh()
        .args(["-tt", "127.0.0.1", "tty; stty size; echo $TERM; test -t 2 && echo stderr too; exit 5"])
        .env("TERM", "vt220")
        .output();
    let output = output.unwrap();
    let lines: Vec<String> = text(&output.stdout).lines().map(|l| l.trim_end().to_owned()).collect();
    assert!(lines[0].starts_with("/dev/pts/"), "{lines:?}");
    assert_eq!(lines[1..], ["24 80", "vt220", "stderr too"]);
    assert_eq!(output.status.code(), Some(5));
}

#[test]
fn an_interactive_shell_tells_its_status() {
    let server = Server::start();
    let output = with_input(
        {
            let mut ssh = server.ssh();
            ssh.args(["-tt", "127.0.0.1"]);
            ssh
        },
        b"echo shell is $0\nexit 9\n",
    );
    assert!(text(&output.stdout).contains("shell is "), "{}", text(&output.stdout));
    assert_eq!(output.status.code(), Some(9));
}

#[test]
fn end_of_input_ends_a_terminals_input() {
    let server = Server::start();
    let output = with_input(
        {
            let mut ssh = server.ssh();
            ssh.args(["-tt", "127.0.0.1", "cat; echo ended"]);
            ssh
        },
        b"line\n",
    );
    assert!(text(&output.stdout).contains("ended"), "{}", text(&output.stdout));
}

#[test]
fn takes_the_environment_but_not_all_of_it() {
    let server = Server::start();
    let mut ssh = server.ssh();
    ssh.args(["-o", "SetEnv=LANG=xx FOO=a,b LD_PRELOAD=/evil BASH_ENV=/evil", "127.0.0.1"]);
    ssh.arg("echo $LANG/$FOO/$LD_PRELOAD/$BASH_ENV/${SSH_CONNECTION%% *}");
    let output = ssh.output().unwrap();
    assert_eq!(text(&output.stdout), "xx/a,b///127.0.0.1\n");
}

#[test]
fn much_goes_both_ways_at_once_while_keys_change() {
    let server = Server::start();
    let input = noise(12 << 20);
    let mut ssh = server.ssh();
    ssh.args(["-o", "RekeyLimit=200K", "127.0.0.1", "cat"]);
    let output = with_input(ssh, &input);
    assert!(output.status.success());
    assert!(output.stdout == input, "{} bytes came back of {}", output.stdout.len(), input.len());
}

#[test]
fn the_server_changes_keys_too() {
    const LIMIT: usize = 200_000;
    let server = Server::start_as("ssh_serve", &["200000"]);
    let input = noise(24 << 20);
    let mut ssh = server.ssh();
    ssh.args(["-v", "127.0.0.1", "cat"]);
    let output = with_input(ssh, &input);
    assert!(output.stdout == input, "{} bytes came back of {}", output.stdout.len(), input.len());
    let changes = text(&output.stderr).matches("SSH2_MSG_NEWKEYS received").count();
    // One is the first exchange. Another is due after LIMIT bytes either way, and while it is agreed on the server grants no window: what still comes
    // is no more than a window (`channel::WINDOW`) and a packet, and what still goes is nothing. Each direction carries the input once, and some headers.
    let (window, packet) = (2 << 20, 64 << 10);
    let least = 1 + input.len() / (LIMIT + window + packet);
    let most = 1 + 2 * (input.len() + input.len() / 16) / LIMIT;
    assert!((least..=most).contains(&changes), "keys were changed {changes} times, not {least} to {most}");
}

#[test]
fn the_last_byte_comes_before_the_status() {
    let server = Server::start();
    for _ in 0..20 {
        let output = server.run("head -c 300000 /dev/zero; head -c 1000 /dev/zero >&2; exit 4");
        assert_eq!(
            (output.stdout.len(), output.stderr.len(), output.status.code()),
            (300_000, 1000, Some(4))
        );
    }
}

#[test]
fn losing_the_connection_hangs_the_group_up() {
    let server = Server::start();
    let line = "trap 'echo parent > parent; exit' HUP; \
                (trap 'echo child > child; exit' HUP; echo ready; while :; do sleep 0.05; done) & \
                while :; do sleep 0.05; done";
    let mut ssh = server.ssh().args(["127.0.0.1", line]).stdout(Stdio::piped()).spawn().unwrap();
    let mut ready = [0; 6];
    ssh.stdout.as_mut().unwrap().read_exact(&mut ready).unwrap();
    // `timeout` passes it on, as SIGKILL cannot be; ssh dies without a word.
    let client = text(
        &std::process::Command::new("pgrep").args(["-P", &ssh.id().to_string()]).output().unwrap().stdout,
    );
    assert!(std::process::Command::new("kill").args(["-9", client.trim()]).status().unwrap().success());
    for name in ["child", "parent"] {
        wait_for(&format!("SIGHUP in the {name}"), || {
            fs::read(server.work().join(name)).ok().filter(|t| !t.is_empty())
        });
    }
    ssh.wait().unwrap();
}

#[test]
fn a_session_nobody_reads_stops_no_other() {
    let server = Server::start();
    let socket = server.path("master");
    let master = |extra: &[&str]| {
        let mut ssh = server.ssh();
        ssh.arg("-o").arg(format!("ControlPath={}", socket.display())).args(extra);
        ssh
    };
    let mut first = master(&["-o", "ControlMaster=yes", "-N", "127.0.0.1"]).spawn().unwrap();
    wait_for("the shared connection", || socket.exists().then_some(()));
    // Output that nobody takes, and input that nobody takes.
    let mut loud = master(&["127.0.0.1", "yes"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut one = [0; 1];
    loud.stdout.as_mut().unwrap().read_exact(&mut one).unwrap();
    let mut deaf = master(&["127.0.0.1", "sleep 1000"]).stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = deaf.stdin.take().unwrap();
    let writer = std::thread::spawn(move || drop(stdin.write_all(&noise(8 << 20))));
    for n in 0..5 {
        let output = master(&["127.0.0.1", &format!("echo {n}")]).output().unwrap();
        assert_eq!(text(&output.stdout), format!("{n}\n"));
    }
    for mut child in [loud, deaf] {
        // `timeout` hands the signal on.
        assert!(std::process::Command::new("kill").arg(child.id().to_string()).status().unwrap().success());
        child.wait().unwrap();
    }
    writer.join().unwrap();
    assert!(master(&["-O", "exit", "127.0.0.1"]).stderr(Stdio::null()).status().unwrap().success());
    first.wait().unwrap();
}

#[test]
fn the_host_stays_the_same_host() {
    let mut server = Server::start();
    let known = server.path("known_hosts");
    let run = |server: &Server, checking: &str| {
        let mut ssh = std::process::Command::new("ssh");
        ssh.args(["-p", &server.port.to_string(), "-i"]).arg(server.path("key"));
        ssh.args(["-o", "BatchMode=yes", "-o", "HostKeyAlias=sandbox", "-o", checking, "-o"]);
        ssh.arg(format!("UserKnownHostsFile={}", known.display())).args(["x@127.0.0.1", "true"]);
        ssh.stdin(Stdio::null()).output().unwrap()
    };
    assert!(run(&server, "StrictHostKeyChecking=accept-new").status.success());
    server.restart();
    let again = run(&server, "StrictHostKeyChecking=yes");
    assert!(again.status.success(), "{}", text(&again.stderr));
    assert!(fs::read_to_string(known).unwrap().contains("ssh-ed25519"));
}

#[test]
fn lets_in_any_key_or_the_one_password() {
    let server = Server::start();
    for (password, welcome) in [("sandbox-ssh", true), ("sandbox", false), ("", false)] {
        let ask = server.path("ask");
        fs::write(&ask, format!("#!/bin/sh\necho '{password}'\n")).unwrap();
        fs::set_permissions(&ask, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
        let mut ssh = std::process::Command::new("ssh");
        ssh.args([
            "-p",
            &server.port.to_string(),
            "-o",
            "PubkeyAuthentication=no",
            "-o",
            "NumberOfPasswordPrompts=1",
        ]);
        ssh.args([
            "-o",
            "StrictHostKeyChecking=no",
            "-o",
            "UserKnownHostsFile=/dev/null",
            "whoever@127.0.0.1",
            "echo in",
        ]);
        ssh.env("SSH_ASKPASS", &ask).env("SSH_ASKPASS_REQUIRE", "force").stdin(Stdio::null());
        let output = ssh.output().unwrap();
        assert_eq!(text(&output.stdout) == "in\n", welcome, "{password:?}: {}", text(&output.stderr));
    }
}

#[test]
fn what_cannot_start_says_why() {
    let server = Server::start();
    fs::remove_dir_all(server.work()).unwrap();
    let output = server.run("true");
    assert!(text(&output.stderr).contains("could not start"), "{}", text(&output.stderr));
    assert_eq!(output.status.code(), Some(126));
}
