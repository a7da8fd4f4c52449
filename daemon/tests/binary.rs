//! The daemon as a process: its answers, its log, its ends.

// Children are waited for by pid.
#![allow(clippy::unwrap_used, clippy::zombie_processes)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use serde_json::{Value, json};

const BINARY: &str = env!("CARGO_BIN_EXE_pinfold-daemon");

struct Daemon {
    child: Child,
    home: tempfile::TempDir,
    toolbox: SocketAddr,
    recordings: SocketAddr,
}

fn command(home: &Path) -> Command {
    let mut command = Command::new(BINARY);
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap()).env("HOME", home).env("OLD", "0");
    command.env("DAYTONA_SANDBOX_ID", "test").env("DAYTONA_DAEMON_LOG_FILE_PATH", home.join("daemon.log"));
    command.env("PINFOLD_DAEMON_BIND", "127.0.0.1").env("DAYTONA_TERMINATION_GRACE_PERIOD", "1s");
    for server in ["TOOLBOX", "SSH", "TERMINAL", "RECORDINGS"] {
        command.env(format!("PINFOLD_DAEMON_{server}_PORT"), "0");
    }
    command.current_dir(home).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

impl Daemon {
    fn start(arguments: &[&str]) -> Self {
        Self::start_with(arguments, &[])
    }

    fn start_with(arguments: &[&str], variables: &[(&str, &str)]) -> Self {
        let home = tempfile::tempdir().unwrap();
        let mut command = command(home.path());
        let mut child = command.args(arguments).envs(variables.iter().copied()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut address = |server: &str| loop {
            let line = lines.next().unwrap_or_else(|| panic!("waited in vain for {server}")).unwrap();
            if let Some((_, rest)) = line.split_once(&format!("{server} is listening address=")) {
                return rest.split(' ').next().unwrap().parse().unwrap();
            }
        };
        let (toolbox, recordings) = (address("toolbox"), address("recording dashboard"));
        std::thread::spawn(move || lines.for_each(drop));
        Self { child, home, toolbox, recordings }
    }

    fn ask(&self, method: &str, path: &str, body: &str) -> (u16, String, Value) {
        ask(self.toolbox, method, path, body)
    }

    fn end(mut self) -> (i32, Duration) {
        let began = Instant::now();
        kill(pid(&self.child), Signal::SIGTERM).unwrap();
        (wait(&mut self.child), began.elapsed())
    }
}

/// Status, head, and the body: JSON if it is some.
fn ask(address: SocketAddr, method: &str, path: &str, body: &str) -> (u16, String, Value) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let length = body.len();
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
    )
    .unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let answer = String::from_utf8(answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let value = serde_json::from_str(body).unwrap_or_else(|_| Value::String(body.to_owned()));
    (status, head.to_ascii_lowercase(), value)
}

fn pid(child: &Child) -> Pid {
    Pid::from_raw(child.id().cast_signed())
}

/// The exit code, within a minute.
fn wait(child: &mut Child) -> i32 {
    let start = Instant::now();
    loop {
        match waitpid(pid(child), Some(WaitPidFlag::WNOHANG)).unwrap() {
            WaitStatus::Exited(_, code) => return code,
            WaitStatus::StillAlive => {}
            other => panic!("{other:?}"),
        }
        assert!(start.elapsed() < Duration::from_secs(60), "waited in vain for the daemon's end");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn answers_and_ends() {
    let daemon = Daemon::start(&[]);
    let (status, head, version) = daemon.ask("GET", "/version", "");
    assert_eq!((status, &version), (200, &json!({ "version": concat!("v", env!("CARGO_PKG_VERSION")) })));
    assert!(head.contains("content-type: application/json; charset=utf-8"), "{head}");
    let home = daemon.home.path().to_str().unwrap();
    for path in ["/work-dir", "/user-home-dir", "/project-dir"] {
        assert_eq!(daemon.ask("GET", path, "").2, json!({ "dir": home }), "{path}");
    }
    let (status, head, body) = daemon.ask("GET", "/nope", "");
    assert_eq!((status, body), (404, json!("404 page not found")));
    assert!(head.contains("content-type: text/plain"));
    assert_eq!(daemon.ask("POST", "/version", "").0, 404);
    assert_eq!(daemon.ask("GET", "/work-dir/?a=b", "").0, 301);

    assert_eq!(daemon.ask("POST", "/init", "{}").0, 200);
    assert_eq!(daemon.ask("POST", "/init", r#"{"token":"x"}"#).0, 200);
    assert_eq!(daemon.ask("POST", "/init", "{").0, 400);
    assert_eq!(daemon.ask("POST", "/env", r#"{"set":{"NEW":"1"},"unset":["OLD"]}"#).0, 200);
    let (_, _, body) =
        daemon.ask("POST", "/process/execute", r#"{"command":"echo $NEW-$OLD-$DAYTONA_SANDBOX_ID"}"#);
    assert_eq!(body["result"], "1--test\n");
    assert_eq!(daemon.ask("POST", "/env", r#"{"set":{"A=B":"1"}}"#).0, 400);

    let (_, _, metrics) = daemon.ask("GET", "/system/metrics", "");
    for name in ["cpuCount", "cpuUsedPct", "memTotal", "memUsed", "diskTotal", "diskFree", "timestampUnix"] {
        assert!(metrics[name].as_f64().is_some_and(|v| v >= 0.0), "{name}: {metrics}");
    }
    assert!(metrics["cpuUsedPct"].as_f64().unwrap() <= 100.0);
    let port = daemon.toolbox.port();
    let (_, _, ports) = daemon.ask("GET", "/port", "");
    assert!(ports["ports"].as_array().unwrap().contains(&json!(port)), "{ports}");
    assert_eq!(daemon.ask("GET", "/port/80/in-use", "").0, 400);
    // Bound to another address than the one that a probe would reach.
    let nobodys = |port: &u16| std::net::TcpListener::bind(("0.0.0.0", *port)).is_ok();
    let own = |port| std::net::TcpListener::bind(("127.0.0.2", port)).ok();
    let listener = (9000..9999).rev().filter(nobodys).find_map(own).unwrap();
    let target = format!("/port/{}/in-use", listener.local_addr().unwrap().port());
    let in_use = || daemon.ask("GET", &target, "").2["isInUse"].clone();
    assert_eq!(in_use(), true);
    drop(listener);
    assert_eq!(in_use(), false);
    // The kernel's table of all connections takes longer than this on a machine with much memory.
    let mut took = (0..1000).map(|_| {
        let begin = Instant::now();
        in_use();
        begin.elapsed()
    });
    assert!(took.any(|took| took < Duration::from_millis(8)), "a thousand times");
    let proxied = daemon.ask("GET", &format!("/proxy/{port}/work-dir?x=%2F"), "");
    assert_eq!((proxied.0, &proxied.2["dir"]), (200, &json!(home)));
    assert_eq!(daemon.ask("GET", &format!("/proxy/{port}"), "").0, 301);
    let (status, _, error) = daemon.ask("GET", "/proxy/1/", "");
    assert_eq!((status, &error["source"]), (502, &json!("DAYTONA_DAEMON")));

    let (status, _, error) = daemon.ask("POST", "/computeruse/mouse/click", "{}");
    assert!(status == 503 && error["message"].is_string() && error["solution"].is_string(), "{error}");
    recordings(&daemon);
    assert_eq!(daemon.end().0, 0);
}

#[test]
fn strangers_are_refused_and_children_do_not_inherit_the_daemons_settings() {
    let daemon = Daemon::start_with(
        &[],
        &[("PINFOLD_MAX_PTYS", "7"), ("DAYTONA_RECORDINGS_DIR", "/r"), ("USERS_OWN", "1")],
    );
    let page =
        "GET /version HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\norigin: http://evil.example\r\n";
    let ask_raw = |address: SocketAddr, head: &str| {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        write!(stream, "{head}\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    let answer = ask_raw(daemon.toolbox, page);
    assert!(answer.starts_with("HTTP/1.1 403") && answer.contains("\"code\":\"FORBIDDEN\""), "{answer}");
    assert!(ask_raw(daemon.recordings, page).starts_with("HTTP/1.1 403"));
    let answer = ask_raw(daemon.toolbox, &format!("{page}x-forwarded-for: 10.0.0.1\r\n"));
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");

    let (_, _, body) = daemon.ask("POST", "/process/execute", r#"{"command":"env"}"#);
    let seen = body["result"].as_str().unwrap();
    for kept in ["DAYTONA_SANDBOX_ID=test", "USERS_OWN=1", "PATH="] {
        assert!(seen.contains(kept), "{kept} in {seen}");
    }
    for dropped in
        ["PINFOLD_DAEMON_BIND", "PINFOLD_MAX_PTYS", "DAYTONA_RECORDINGS_DIR", "DAYTONA_DAEMON_LOG_FILE_PATH"]
    {
        assert!(!seen.contains(dropped), "{dropped} in {seen}");
    }

    let (status, _, described) = daemon.ask("GET", "/swagger/doc.json", "");
    assert!(status == 200 && described["paths"]["/process/execute"].is_object(), "{status}");
    assert!(daemon.ask("GET", "/swagger/index.html", "").1.contains("text/html"));
    assert_eq!(daemon.end().0, 0);
    let production = Daemon::start_with(&[], &[("ENVIRONMENT", "production")]);
    assert_eq!(production.ask("GET", "/swagger/doc.json", "").0, 404);
    assert_eq!(production.end().0, 0);
}

fn recordings(daemon: &Daemon) {
    assert_eq!(daemon.ask("GET", "/computeruse/recordings", "").2, json!({ "recordings": [] }));
    let directory = daemon.home.path().join(".daytona/recordings");
    std::fs::create_dir_all(&directory).unwrap();
    let id = "7f9c24e8-3b12-4c57-9a40-0123456789ab";
    std::fs::write(directory.join(format!("{id}_demo_20260101_000000.mp4")), b"0123456789").unwrap();
    let (_, _, one) = daemon.ask("GET", &format!("/computeruse/recordings/{id}"), "");
    assert_eq!((&one["status"], &one["sizeBytes"]), (&json!("completed"), &json!(10)), "{one}");
    let (status, head, body) = daemon.ask("GET", &format!("/computeruse/recordings/{id}/download"), "");
    assert_eq!((status, body), (200, json!("0123456789")));
    assert!(head.contains("content-type: video/mp4"));
    assert_eq!(ask(daemon.recordings, "GET", "/api/recordings", "").2["recordings"][0]["id"], id);
    assert_eq!(ask(daemon.recordings, "GET", "/videos/..%2f..%2fdaemon.log", "").0, 403);
    assert!(ask(daemon.recordings, "GET", "/", "").2.as_str().unwrap().contains("<title>Recordings"));
    let ids = format!(r#"{{"ids":["{id}","nope"]}}"#);
    let (_, _, gone) = ask(daemon.recordings, "DELETE", "/api/recordings", &ids);
    assert_eq!(gone, json!({ "deleted": [id], "failed": ["nope"] }));
    assert_eq!(daemon.ask("DELETE", &format!("/computeruse/recordings/{id}"), "").0, 404);
}

#[test]
fn runs_the_entrypoint_and_prints_its_log() {
    let daemon = Daemon::start(&[
        "sh",
        "-c",
        "trap '' TERM; echo \"it's $1\"; echo err >&2; while :; do sleep 60; done",
        "x",
        "a b",
    ]);
    let mut follower = command(daemon.home.path()).args(["entrypoint", "logs"]).spawn().unwrap();
    let mut out = BufReader::new(follower.stdout.take().unwrap());
    let mut err = BufReader::new(follower.stderr.take().unwrap());
    let (mut first, mut second) = (String::new(), String::new());
    out.read_line(&mut first).unwrap();
    err.read_line(&mut second).unwrap();
    assert_eq!((first.as_str(), second.as_str()), ("it's a b\n", "err\n"));
    kill(pid(&follower), Signal::SIGKILL).unwrap();
    let _ = waitpid(pid(&follower), None);
    // It ignores SIGTERM, so the daemon's end takes the grace period, and then some; `wait` has no patience for more than a minute.
    let (code, took) = daemon.end();
    assert!(code == 0 && took >= Duration::from_secs(1), "{code} {took:?}");
}

#[test]
fn an_upload_that_never_goes_on_does_not_hold_up_the_end() {
    let daemon = Daemon::start(&[]);
    let mut upload = TcpStream::connect(daemon.toolbox).unwrap();
    let path = format!("/files/upload-v2?path={}", daemon.home.path().join("half").display());
    write!(upload, "POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/octet-stream\r\ncontent-length: 9000000\r\n\r\n").unwrap();
    upload.write_all(&[0; 5_000_000]).unwrap();
    // The client's end stays open: it is the daemon that does not wait for more than a minute, as it would for one that goes on.
    assert_eq!(daemon.end().0, 0);
    drop(upload);
}

#[test]
fn ends_with_its_entrypoint_if_asked_to() {
    let mut daemon = Daemon::start_with(&["sh", "-c", "exit 5"], &[("PINFOLD_EXIT_WITH_ENTRYPOINT", "true")]);
    assert_eq!(wait(&mut daemon.child), 0);
    let log = std::fs::read_to_string(daemon.home.path().join("daemon.log")).unwrap();
    assert!(log.contains("the entrypoint has ended exit_code=5"), "{log}");
}

#[test]
fn bad_starts_have_their_codes() {
    let home = tempfile::tempdir().unwrap();
    let run = |command: &mut Command| {
        let output = command.spawn().unwrap();
        let mut child = output;
        let code = wait(&mut child);
        let mut text = String::new();
        child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
        (code, text)
    };
    let (code, text) =
        run(command(home.path()).env_remove("HOME").env("DAYTONA_DAEMON_LOG_MAX_BACKUPS", "0"));
    assert!(
        code == 2 && text.contains("HOME") && text.contains("DAYTONA_DAEMON_LOG_MAX_BACKUPS"),
        "{code} {text}"
    );
    let (code, text) = run(command(home.path()).args(["entrypoint", "logs"]));
    assert!(code == 1 && text.contains("No such file"), "{code} {text}");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let (code, text) = run(command(home.path()).env("PINFOLD_DAEMON_TOOLBOX_PORT", &port));
    assert!(code == 1 && text.contains(&port), "{code} {text}");
}

/// A collector for one test: the head and body of each request it gets.
fn collector() -> (SocketAddr, std::sync::mpsc::Receiver<(String, Vec<u8>)>) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, requests) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let sender = sender.clone();
            std::thread::spawn(move || receive(stream.unwrap(), &sender));
        }
    });
    (address, requests)
}

fn receive(stream: TcpStream, sender: &std::sync::mpsc::Sender<(String, Vec<u8>)>) {
    let mut stream = BufReader::new(stream);
    loop {
        let (mut head, mut length) = (String::new(), 0);
        loop {
            let mut line = String::new();
            if stream.read_line(&mut line).unwrap_or(0) == 0 {
                return;
            }
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
            if line == "\r\n" {
                break;
            }
            head += &line;
        }
        let mut body = vec![0; length];
        stream.read_exact(&mut body).unwrap();
        // Before the answer: what the daemon sends when it has that, on whichever connection, comes after this.
        if sender.send((head, body)).is_err() {
            return;
        }
        stream.get_mut().write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").unwrap();
    }
}

#[test]
fn sends_telemetry_once_it_has_a_token() {
    let (address, requests) = collector();
    let endpoint = format!("http://{address}/");
    let variables = [
        ("DAYTONA_OTEL_ENDPOINT", endpoint.as_str()),
        ("DAYTONA_ORGANIZATION_ID", "org-1"),
        ("DAYTONA_SANDBOX_OTEL_EXTRA_LABELS", "team = blue"),
    ];
    let entrypoint =
        "echo from the entrypoint; echo its error >&2; until [ -e go ]; do sleep 0.05; done; exit 6";
    let daemon = Daemon::start_with(&["sh", "-c", entrypoint], &variables);
    assert_eq!(daemon.ask("GET", "/project-dir", "").0, 200);
    assert!(requests.try_recv().is_err(), "nothing is sent before there is a token");
    assert_eq!(daemon.ask("POST", "/init", r#"{"token":"secret-1"}"#).0, 200);
    // Recording begins when the exporter has seen the token: the first span there is proves it.
    let mut all: Vec<(String, Vec<u8>)> = Vec::new();
    let has = |all: &[(String, Vec<u8>)], signal: &str, text: &str| {
        let path = format!("POST /v1/{signal} ");
        all.iter().any(|(head, body)| {
            head.starts_with(&path) && body.windows(text.len()).any(|window| window == text.as_bytes())
        })
    };
    let deadline = Instant::now() + Duration::from_secs(60);
    while !(has(&all, "traces", "/work-dir") && has(&all, "logs", "its error")) {
        assert!(Instant::now() < deadline, "waited in vain for a span and the entrypoint's log");
        daemon.ask("GET", "/work-dir", "");
        all.extend(requests.recv_timeout(Duration::from_millis(500)));
    }
    // Weakness C4: the entrypoint's end is an event, too.
    std::fs::write(daemon.home.path().join("go"), "").unwrap();
    while daemon.ask("GET", "/process/session/entrypoint", "").2["commands"][0]["exitCode"] != 6 {
        assert!(Instant::now() < deadline, "waited in vain for the entrypoint's end");
        std::thread::sleep(Duration::from_millis(5));
    }
    // Weakness G12: another token takes over while requests run; nothing that is sent from now on has the old one.
    let new =
        |(head, _): &(String, Vec<u8>)| head.to_ascii_lowercase().contains("sandbox-auth-token: secret-2");
    assert_eq!(daemon.ask("POST", "/init", r#"{"token":"secret-2"}"#).0, 200);
    while !all.iter().any(new) {
        assert!(Instant::now() < deadline, "waited in vain for something with the new token");
        daemon.ask("GET", "/work-dir", "");
        all.extend(requests.recv_timeout(Duration::from_millis(10)));
    }
    assert_eq!(daemon.end().0, 0);
    all.extend(requests.try_iter());
    let last = all.iter().rev().find(|(head, _)| head.starts_with("POST /v1/traces ")).unwrap();
    assert!(new(last), "{}", last.0);
    assert!(has(&all, "logs", "the entrypoint has ended"));
    assert!(has(&all, "logs", "from the entrypoint") && has(&all, "logs", "daytona-entrypoint"));
    for name in ["cpu.limit", "memory.usage", "filesystem.utilization"] {
        assert!(has(&all, "metrics", &format!("daytona.sandbox.{name}")), "{name}");
    }
    for name in ["process.memory.usage", "process.thread.count", "process.open_file_descriptor.count"] {
        assert!(has(&all, "metrics", name), "{name}");
    }
    for (head, body) in &all {
        let head = head.to_ascii_lowercase();
        assert!(
            head.contains("sandbox-auth-token: secret-") && head.contains("application/x-protobuf"),
            "{head}"
        );
        for label in ["sandbox-test", "org-1", "team", "blue"] {
            assert!(body.windows(label.len()).any(|w| w == label.as_bytes()), "{label}");
        }
    }
    assert!(!has(&all, "traces", "/project-dir"), "what came before the token was not recorded");
}

/// A collector that takes connections and says nothing costs telemetry, and nothing else.
#[test]
fn a_collector_that_never_answers_stalls_nobody() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}/", silent.local_addr().unwrap());
    let daemon = Daemon::start_with(&[], &[("DAYTONA_OTEL_ENDPOINT", endpoint.as_str())]);
    assert_eq!(daemon.ask("POST", "/init", r#"{"token":"x"}"#).0, 200);
    let mut stream = TcpStream::connect(daemon.toolbox).unwrap();
    // The collector has ten seconds for each answer.
    stream.set_read_timeout(Some(Duration::from_secs(9))).unwrap();
    // More than the queue holds, and another token now and then.
    for round in 0..50 {
        stream.write_all("GET /work-dir HTTP/1.1\r\nhost: x\r\n\r\n".repeat(100).as_bytes()).unwrap();
        let mut answers = String::new();
        while answers.matches("HTTP/1.1 200").count() < 100 || !answers.ends_with('}') {
            let mut piece = [0; 64 << 10];
            let length = stream.read(&mut piece).expect("an answer in time");
            assert_ne!(length, 0, "{answers}");
            answers += std::str::from_utf8(&piece[..length]).unwrap();
        }
        if round % 10 == 0 {
            assert_eq!(daemon.ask("POST", "/init", r#"{"token":"y"}"#).0, 200);
        }
    }
    let (code, took) = daemon.end();
    assert!(code == 0 && took < Duration::from_secs(9), "{code} {took:?}");
}
