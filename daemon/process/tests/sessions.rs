//! Sessions over every shell that a sandbox may have.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod common;

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use common::{Daemon, until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pinfold_process::Settings;
use pinfold_spawn::tree;
use pinfold_testing::commands_with;
use serde_json::{Value, json};

struct Session<'a> {
    daemon: &'a Daemon,
    id: String,
    shell: &'a str,
}

impl<'a> Session<'a> {
    async fn new(daemon: &'a Daemon, shell: &'a str, id: &str) -> Self {
        let (status, body) = daemon.ask("POST", "/process/session", json!({ "sessionId": id })).await;
        assert_eq!(status, 201, "{shell}: {body}");
        Self { daemon, id: id.to_owned(), shell }
    }

    fn path(&self, rest: &str) -> String {
        format!("/process/session/{}{rest}", self.id)
    }

    async fn exec(&self, command: &str) -> (u16, Value) {
        let path = self.path("/exec");
        let asked = self.daemon.ask("POST", &path, json!({ "command": command }));
        let answered = tokio::time::timeout(Duration::from_secs(60), asked).await;
        answered.unwrap_or_else(|_| panic!("{}: {command:?} hangs", self.shell))
    }

    /// Exit code, standard output, standard error.
    async fn run(&self, command: &str) -> (i64, String, String) {
        let (status, body) = self.exec(command).await;
        assert_eq!(status, 200, "{}: {command:?} {body}", self.shell);
        let text = |name: &str| body[name].as_str().unwrap().to_owned();
        (body["exitCode"].as_i64().unwrap(), text("stdout"), text("stderr"))
    }

    async fn start(&self, command: &str) -> String {
        let body = json!({ "command": command, "runAsync": true });
        let (status, body) = self.daemon.ask("POST", &self.path("/exec"), body).await;
        assert_eq!(status, 202, "{}: {command:?} {body}", self.shell);
        assert!(body["output"].is_null() && body["exitCode"].is_null());
        body["cmdId"].as_str().unwrap().to_owned()
    }

    async fn command(&self, id: &str, rest: &str, body: impl Into<Option<Value>>) -> (u16, Value) {
        let method = if rest.is_empty() || rest.starts_with("/logs") { "GET" } else { "POST" };
        self.daemon.ask(method, &self.path(&format!("/command/{id}{rest}")), body).await
    }

    async fn exit_code(&self, id: &str) -> i64 {
        until("a command's end", async || self.command(id, "", None).await.1["exitCode"].is_i64()).await;
        self.command(id, "", None).await.1["exitCode"].as_i64().unwrap()
    }

    async fn delete(&self) {
        assert_eq!(self.daemon.ask("DELETE", &self.path(""), None).await.0, 204, "{}", self.shell);
    }
}

/// Every shell on this machine. bash and dash have to be there.
fn shells(directory: &Path) -> Vec<(&'static str, PathBuf)> {
    let mut found = vec![("bash", PathBuf::from("/bin/bash")), ("dash", PathBuf::from("/bin/dash"))];
    for path in ["/bin/busybox", "/usr/bin/busybox"] {
        if Path::new(path).exists() {
            let link = directory.join("ash");
            symlink(path, &link).unwrap();
            found.push(("busybox", link));
            break;
        }
    }
    match ["/bin/zsh", "/usr/bin/zsh"].iter().find(|p| Path::new(p).exists()) {
        Some(zsh) => found.push(("zsh", zsh.into())),
        None => println!("zsh is not tested: it is not installed"),
    }
    if found.len() < 3 {
        println!("busybox is not tested: it is not installed");
    }
    assert!(found.iter().all(|(_, path)| path.exists()), "{found:?}");
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_ends_with_its_time() {
    // The shells are spared, however late they are to tell of a command's end, but for the one that is to be given up.
    let patient = Settings { strikes: 600, ..Settings::default() };
    let daemon = Daemon::with(&common::default_shell(), patient);
    let strict = Daemon::new();
    let limited = |command: &str| json!({ "command": command, "timeout": 1 });
    let waits = async {
        let s = Session::new(&daemon, "bash", "waits").await;
        s.run("kept=1").await;
        let (status, body) =
            daemon.ask("POST", &s.path("/exec"), limited("echo begun; setsid sleep 1201")).await;
        assert_eq!((status, &body["code"]), (408, &json!("PROCESS_EXECUTION_TIMEOUT")), "{body}");
        let id = body["cmdId"].as_str().unwrap();
        let (_, shown) = s.command(id, "", None).await;
        assert_eq!((&shown["timedOut"], &shown["exitCode"]), (&json!(true), &json!(137)), "{shown}");
        assert_eq!(s.command(id, "/logs", None).await.1["stdout"], "begun\n");
        assert_eq!(s.run("echo $kept").await, (0, "1\n".to_owned(), String::new()));
    };
    let goes_on = async {
        let s = Session::new(&daemon, "bash", "goes-on").await;
        let (status, body) =
            daemon.ask("POST", &s.path("/exec"), limited("sleep 1202; sleep 1203; true")).await;
        assert_eq!(status, 408, "{body}");
        assert_eq!(s.run("echo here").await.1, "here\n");
    };
    let spins = async {
        let s = Session::new(&strict, "bash", "spins").await;
        assert_eq!(strict.ask("POST", &s.path("/exec"), limited("while :; do :; done")).await.0, 408);
        let (status, body) = s.exec("true").await;
        assert_eq!((status, &body["code"]), (410, &json!("SESSION_ENDED")), "{body}");
    };
    let in_time = async {
        let s = Session::new(&daemon, "bash", "in-time").await;
        let (status, body) =
            daemon.ask("POST", &s.path("/exec"), json!({ "command": "echo quick", "timeout": 60 })).await;
        assert_eq!((status, &body["stdout"]), (200, &json!("quick\n")), "{body}");
    };
    // The processor is somebody else's when its child is killed: that ends the command, and not the session.
    let is_late = async {
        let s = Session::new(&daemon, "bash", "is-late").await;
        let shell = Pid::from_raw(s.run("echo $$").await.1.trim().parse().unwrap());
        let children = format!("/proc/{shell}/task/{shell}/children");
        // As itself: a dead one that its parent has not noticed has no command line.
        let is_it =
            |pid: &str| std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|l| l == b"sleep\x001204\0");
        let runs = || std::fs::read_to_string(&children).is_ok_and(|pids| pids.split(' ').any(is_it));
        let late = async {
            until("the command", async || runs()).await;
            kill(shell, Signal::SIGSTOP).unwrap();
            until("its end", async || !runs()).await;
            tokio::time::sleep(Duration::from_millis(300)).await;
            kill(shell, Signal::SIGCONT).unwrap();
        };
        let path = s.path("/exec");
        // Long enough to be seen.
        let command = json!({ "command": "sleep 1204", "timeout": 5 });
        let ((status, body), ()) = tokio::join!(daemon.ask("POST", &path, command), late);
        assert_eq!(status, 408, "{body}");
        assert_eq!(s.run("echo here").await.1, "here\n");
    };
    tokio::join!(waits, goes_on, spins, in_time, is_late);
}

/// `pains.md` A5: deleting a session kills what people meant to leave, or leaves what they meant to kill. Both can be had.
#[tokio::test(flavor = "multi_thread")]
async fn a5_detached_processes_are_killed_or_kept_as_asked() {
    let settings = Settings { grace: Duration::from_secs(1), ..Settings::default() };
    let kept = Settings { keep_detached: true, ..settings };
    // The setting, the request, and whether detached processes live on.
    let cases = [
        (settings, "", false),
        (settings, "?keepDetached=true", true),
        (kept, "", true),
        (kept, "?keepDetached=false", false),
    ];
    for (settings, query, live_on) in cases {
        let daemon = Daemon::with(&common::default_shell(), settings);
        let s = Session::new(&daemon, "bash", "a5").await;
        s.run("setsid sh -c 'sleep 1101; true' & nohup sleep 1102 & sleep 1103 &").await;
        let find = |words: &str| {
            let family = tree::descendants(Pid::this()).into_iter().filter(|pid| !tree::is_zombie(*pid));
            let line =
                |pid: &Pid| std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            family.filter(|pid| line(pid) == words.replace(' ', "\0") + "\0").collect::<Vec<_>>()
        };
        let (detached, attached) = (["sleep 1101", "sleep 1102"], "sleep 1103");
        let all_run = async || detached.iter().chain([&attached]).all(|words| !find(words).is_empty());
        until("the processes", all_run).await;
        assert_eq!(daemon.ask("DELETE", &s.path(query), None).await.0, 204);
        assert!(find(attached).is_empty(), "{query:?}");
        for words in detached {
            let left = find(words);
            assert_eq!(!left.is_empty(), live_on, "{query:?} {words}");
            left.iter().for_each(|pid| kill(*pid, Signal::SIGKILL).unwrap());
        }
    }
    assert_eq!(Daemon::new().ask("DELETE", "/process/session/x?keepDetached=maybe", None).await.0, 400);
}

/// An orphan without the mark, which outlives the shell's end by ignoring `SIGTERM`.
#[tokio::test(flavor = "multi_thread")]
async fn a_wiped_environment_hides_nobody() {
    let daemon = Daemon::new();
    let s = Session::new(&daemon, "bash", "wiped").await;
    let number = std::process::id() * 10;
    let run = || !commands_with(&format!("sleep {number} ")).is_empty();
    s.run(&format!("(env -i sh -c 'trap \"\" TERM; sleep {number}; :' &)")).await;
    until("the orphan", async || run()).await;
    s.delete().await;
    until("the end of the orphan", async || !run()).await;
    // The same under a command that runs into its time, while an earlier one's stays.
    let s = Session::new(&daemon, "bash", "wiped").await;
    let kept = format!("sleep {} ", number + 1);
    s.run(&format!("(env -i {kept}&)")).await;
    // Which command has started what is told by the clock's ticks.
    let then = tree::now();
    until("the clock's next tick", async || tree::now() > then + 1).await;
    let body = json!({ "command": format!("(env -i sleep {number} &); sleep 1205"), "timeout": 1 });
    assert_eq!(daemon.ask("POST", &s.path("/exec"), body).await.0, 408);
    until("the end of the orphan", async || !run()).await;
    assert!(!commands_with(&kept).is_empty());
    s.delete().await;
    until("the end of the other", async || commands_with(&kept).is_empty()).await;
}

#[tokio::test]
async fn no_more_sessions_and_commands_than_allowed() {
    let settings = Settings { max_sessions: 2, max_running: 1, ..Settings::default() };
    let daemon = Daemon::with(&common::default_shell(), settings);
    for (id, expected) in [("one", 201), ("two", 201), ("three", 429)] {
        let (status, body) = daemon.ask("POST", "/process/session", json!({ "sessionId": id })).await;
        assert_eq!(status, expected, "{id}: {body}");
        if status == 429 {
            assert!(body["message"].as_str().unwrap().contains("PINFOLD_MAX_SESSIONS"), "{body}");
        }
    }
    assert_eq!(daemon.ask("DELETE", "/process/session/one", None).await.0, 204);
    assert_eq!(daemon.ask("POST", "/process/session", json!({ "sessionId": "three" })).await.0, 201);
    let go = daemon.home.path().join("go");
    let script = format!("touch {0}.began; until [ -e {0} ]; do sleep 0.02; done", go.display());
    let second = async {
        until("the first command", async || go.with_extension("began").exists()).await;
        let refused = daemon.ask("POST", "/process/execute", json!({ "command": "true" })).await;
        std::fs::write(&go, "").unwrap();
        refused
    };
    let first = daemon.ask("POST", "/process/execute", json!({ "command": script }));
    let (first, second) = tokio::join!(first, second);
    assert_eq!((first.0, second.0), (200, 429), "{first:?} {second:?}");
}

/// Weakness S11: neither a log nor the list of commands grows for ever.
#[tokio::test(flavor = "multi_thread")]
async fn logs_and_lists_have_an_end() {
    let settings = Settings { session_log_max: 10_000, max_remembered: 3, ..Settings::default() };
    let daemon = Daemon::with(&common::default_shell(), settings);
    let s = Session::new(&daemon, "bash", "s11").await;
    let (code, stdout, stderr) = s.run("head -c 50000 /dev/zero | tr '\\0' x; echo end").await;
    assert_eq!((code, stdout.trim_end_matches('x'), stdout.len() <= 10_000), (0, "", true));
    assert!(stderr.contains("[output truncated: this log keeps 10000 bytes]"), "{stderr}");
    assert!(stdout.len() > 9_000, "{} bytes are kept", stdout.len());
    // What has not ended is not forgotten, however old it is.
    let go = daemon.home.path().join("go");
    let oldest = s.start(&format!("until [ -e {} ]; do sleep 0.02; done", go.display())).await;
    let mut later = Vec::new();
    for n in 0..5 {
        later.push(s.start(&format!("echo {n}")).await);
    }
    assert_eq!(s.command(&oldest, "", None).await.0, 200);
    std::fs::write(&go, "").unwrap();
    assert_eq!((s.exit_code(&oldest).await, s.exit_code(&later[4]).await), (0, 0));
    s.run("true").await;
    s.run("true").await;
    let (_, body) = daemon.ask("GET", &s.path(""), None).await;
    assert_eq!(body["commands"].as_array().unwrap().len(), 3, "{body}");
    assert_eq!(s.command(&oldest, "", None).await.0, 404, "the oldest is forgotten first");
    let kept = std::fs::read_dir(daemon.home.path().join(".daytona/sessions/s11")).unwrap().count();
    assert_eq!(kept, body["commands"].as_array().unwrap().len(), "logs go with their commands");
    s.delete().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions() {
    sessions_over_every_shell().await;
    ids_shapes_and_errors().await;
    the_entrypoint().await;
}

async fn sessions_over_every_shell() {
    let directory = tempfile::tempdir().unwrap();
    for (name, path) in shells(directory.path()) {
        let settings = Settings { grace: Duration::from_secs(1), ..Settings::default() };
        let daemon = Daemon::with(&path, settings);
        state_persists(&daemon, name).await;
        odd_commands(&daemon, name).await;
        odd_names(&daemon, name).await;
        ends(&daemon, name).await;
        input(&daemon, name).await;
        queue(&daemon, name).await;
        leftovers(&daemon, name).await;
        let gone = async || tree::descendants(Pid::this()).iter().all(|pid| tree::is_zombie(*pid));
        until(&format!("every process of {name} to be gone"), gone).await;
    }
}

async fn state_persists(daemon: &Daemon, shell: &str) {
    let s = Session::new(daemon, shell, "state").await;
    assert_eq!(
        s.run("cd /tmp; export A=1; B=2; f() { echo \"$B\"; }").await,
        (0, String::new(), String::new())
    );
    assert_eq!(s.run("pwd; sh -c 'echo $A'; f; f >&2").await, (0, "/tmp\n1\n2\n".into(), "2\n".into()));
    assert_eq!(s.run("false; true").await.0, 0);
    assert_eq!(s.run("true; false").await.0, 1);
    assert_eq!(s.run("sh -c 'exit 77'").await.0, 77);
    assert_eq!(s.run("sh -c 'kill -9 $$'").await.0, 137);
    assert_eq!(s.run("printf 'no newline'").await.1, "no newline");
    s.delete().await;
}

async fn odd_commands(daemon: &Daemon, shell: &str) {
    let s = Session::new(daemon, shell, "odd").await;
    assert_eq!(s.run("cat <<'X'\n$a\nX\necho after").await.1, "$a\nafter\n");
    // What reads standard input finds it empty, not the script.
    assert_eq!(s.run("cat; read x; echo \"[$x]\"").await.1, "[]\n");
    // A syntax error or an open quote harms only its own command.
    for bad in ["echo 'open", ")", "if true; then"] {
        let (code, _, stderr) = s.run(bad).await;
        assert!(code != 0 && !stderr.is_empty(), "{shell}: {bad} {code} {stderr}");
        assert_eq!(s.run("echo alive").await.1, "alive\n", "{shell} after {bad}");
    }
    assert_eq!(s.run("return 9").await.0, 9);
    // Nothing the user redefines breaks the status report.
    s.run("echo() { :; }; alias echo=false; set -C; set -x; IFS=0123456789; trap 'true' USR1").await;
    assert_eq!(s.run("printf fine; (exit 5)").await.0, 5);
    assert_eq!(s.run("set +x; set +C; unset -f echo; unalias echo; unset IFS").await.0, 0);
    s.run("exec 3>&1; exec 2>/dev/null; exec 0</dev/null").await;
    assert_eq!(s.run("echo still").await.1, "still\n");
    // zsh refuses job control without a terminal, whoever runs it.
    let jobs = if shell == "zsh" { "sleep 0.01 & wait" } else { "set -m; sleep 0.01 & wait; set +m" };
    for command in [jobs, "nohup true", "setsid true", "bash -ic true"] {
        assert_eq!(s.run(command).await.0, 0, "{shell}: {command}");
    }
    let bytes: String = s.run("printf '\\1\\1\\1\\1\\2\\2\\2\\2'; printf '\\1\\1\\1' >&2").await.1;
    assert_eq!(bytes, "\u{1}\u{1}\u{1}\u{1}\u{2}\u{2}\u{2}\u{2}");
    assert_eq!(s.run("printf '\\303'; sleep 0.02; printf '\\251'").await.1, "é");
    let long = format!("x='{}'; printf %s \"$x\" | wc -c", "y".repeat(300_000));
    assert_eq!(s.run(&long).await.1.trim(), "300000");
    s.delete().await;
}

/// Functions that are called as what the status is reported with, or might be, neither keep it back nor falsify it.
async fn odd_names(daemon: &Daemon, shell: &str) {
    for name in ["command", "builtin", "echo", "unset", "printf", "eval", "exit", "read", "trap"] {
        let s = Session::new(daemon, shell, name).await;
        let (code, _, stderr) = s.run(&format!("{name}() {{ :; }}; sh -c 'exit 7'")).await;
        // POSIX keeps functions from being called as special builtins are.
        let forbidden =
            ["unset", "eval", "exit", "trap"].contains(&name) && !["bash", "zsh"].contains(&shell);
        assert_eq!(code == 7, !forbidden, "{shell}: {name}: {code} {stderr}");
        for code in [5, 0] {
            let said = s.run(&format!("cat <<'X'\nalive\nX\nsh -c 'exit {code}'")).await;
            assert_eq!(said, (code, "alive\n".to_owned(), String::new()), "{shell}: {name}");
        }
        s.delete().await;
    }
}

async fn ends(daemon: &Daemon, shell: &str) {
    for (command, code) in [
        ("echo bye; exit 3", 3),
        ("set -e; false; echo never", 1),
        ("exec sh -c 'echo bye; exit 6'", 6),
        ("kill -9 $$; sleep 1", 137),
    ] {
        let s = Session::new(daemon, shell, "ends").await;
        let (exit, stdout, _) = s.run(command).await;
        assert_eq!(exit, code, "{shell}: {command}");
        assert!(!stdout.contains("never") && stdout.contains("bye") == command.contains("bye"));
        let (status, body) = s.exec("echo more").await;
        assert_eq!((status, &body["code"]), (410, &json!("SESSION_ENDED")), "{shell}: {command} {body}");
        let (_, body) = daemon.ask("GET", &s.path(""), None).await;
        assert_eq!((&body["ended"], body["commands"].as_array().unwrap().len()), (&json!(code), 1));
        s.delete().await;
    }
}

async fn input(daemon: &Daemon, shell: &str) {
    let s = Session::new(daemon, shell, "input").await;
    let id = s.start("read a; read b; echo \"$a-$b\"; cat").await;
    assert_eq!(s.command(&id, "/input", json!({ "data": "one" })).await.0, 204);
    assert_eq!(s.command(&id, "/input", json!({ "data": "two\n" })).await.0, 204);
    assert_eq!(s.command(&id, "/input", json!({ "data": "raw", "raw": true, "eof": true })).await.0, 204);
    assert_eq!(s.exit_code(&id).await, 0);
    // The echo comes first, then what the command made of it.
    let (_, logs) = s.command(&id, "/logs", None).await;
    let stdout = logs["stdout"].as_str().unwrap();
    assert!(stdout.starts_with("one\n") && stdout.contains("one-two\n") && stdout.ends_with("raw"), "{logs}");
    let (status, body) = s.command(&id, "/input", json!({ "data": "late" })).await;
    assert_eq!((status, &body["code"]), (410, &json!("COMMAND_ALREADY_COMPLETED")));
    // Without echo, and to a command that waits.
    let first = s.start("sleep 0.2").await;
    let body = json!({ "command": "read x; echo \"got $x\"", "async": true, "suppressInputEcho": true });
    let (_, body) = daemon.ask("POST", &s.path("/exec"), body).await;
    let second = body["cmdId"].as_str().unwrap();
    assert_eq!(s.command(second, "/input", json!({ "data": "it" })).await.0, 204);
    assert_eq!((s.exit_code(&first).await, s.exit_code(second).await), (0, 0));
    assert_eq!(s.command(second, "/logs", None).await.1["stdout"], "got it\n");
    s.delete().await;
}

async fn queue(daemon: &Daemon, shell: &str) {
    let s = Session::new(daemon, shell, "queue").await;
    let long = s.start("sleep 0.3; echo 0").await;
    let mut ids = vec![long];
    for n in 1..5 {
        ids.push(s.start(&format!("echo {n}")).await);
    }
    assert_eq!(s.run("echo last").await.1, "last\n");
    let (_, body) = daemon.ask("GET", &s.path(""), None).await;
    let listed: Vec<&str> =
        body["commands"].as_array().unwrap().iter().map(|c| c["id"].as_str().unwrap()).collect();
    assert_eq!(listed[..5], ids, "submission order");
    for (n, id) in ids.iter().enumerate() {
        assert_eq!(s.command(id, "/logs", None).await.1["stdout"], format!("{n}\n"));
    }
    // A signal reaches the command and not the session, nor what runs in the background.
    s.run("sleep 1000 & echo $! > /dev/null").await;
    tokio::time::sleep(Duration::from_millis(20)).await;
    let id = s.start("sleep 999").await;
    until("the command to be signalled", async || {
        s.command(&id, "/signal", json!({ "signal": "TERM" })).await.0 == 204
    })
    .await;
    assert_eq!(s.exit_code(&id).await, 143, "{shell}");
    assert_eq!(s.run("echo on").await.1, "on\n");
    let family = tree::descendants(Pid::this());
    assert!(!family.is_empty(), "{shell}: the background process lives");
    s.delete().await;
}

async fn leftovers(daemon: &Daemon, shell: &str) {
    let s = Session::new(daemon, shell, "left").await;
    // A background process holds the output open, and goes on writing into the log.
    let go = daemon.home.path().join(format!("go-{}", shell.replace('/', "-")));
    let background = format!("(until [ -e {} ]; do sleep 0.02; done; echo later) & echo now", go.display());
    let id = s.start(&background).await;
    assert_eq!(s.exit_code(&id).await, 0);
    assert_eq!(s.command(&id, "/logs", None).await.1["stdout"], "now\n");
    std::fs::write(&go, "").unwrap();
    until("the background output", async || {
        s.command(&id, "/logs", None).await.1["stdout"] == "now\nlater\n"
    })
    .await;
    // Deleting leaves nothing, whatever it did to get away, and does not take long.
    s.run("trap '' TERM; setsid sleep 1001 & (setsid sh -c 'trap \"\" TERM; sleep 1002; sleep 1003' &)")
        .await;
    let waiting = s.start("sleep 1004").await;
    let began = Instant::now();
    s.delete().await;
    assert!(began.elapsed() < Duration::from_secs(45), "{:?}", began.elapsed());
    assert_eq!(s.command(&waiting, "", None).await.0, 404);
    let alive = || tree::descendants(Pid::this()).into_iter().filter(|p| !tree::is_zombie(*p)).count();
    until("the end of everything", async || alive() == 0).await;
    assert!(!daemon.home.path().join(".daytona/sessions/left").exists());
}

async fn ids_shapes_and_errors() {
    let daemon = Daemon::new();
    for (id, status) in [("", 400), ("..", 400), ("a/b", 400), ("entrypoint", 400), ("$(id) 'x'", 201)] {
        let (got, body) = daemon.ask("POST", "/process/session", json!({ "sessionId": id })).await;
        assert_eq!(got, status, "{id} {body}");
    }
    assert_eq!(daemon.ask("POST", "/process/session", json!({ "sessionId": "x".repeat(256) })).await.0, 400);
    assert_eq!(daemon.ask("POST", "/process/session", json!({ "sessionId": "s" })).await.0, 201);
    assert_eq!(daemon.ask("POST", "/process/session", json!({ "sessionId": "s" })).await.0, 409);
    let (_, list) = daemon.ask("GET", "/process/session", None).await;
    assert_eq!(list[1], json!({ "sessionId": "s", "commands": [] }));
    for (method, path) in [
        ("GET", "/process/session/no"),
        ("DELETE", "/process/session/no"),
        ("POST", "/process/session/no/exec"),
        ("GET", "/process/session/s/command/no"),
        ("GET", "/process/session/s/command/no/logs"),
        ("GET", "/process/session/entrypoint"),
        ("GET", "/process/session/entrypoint/logs"),
    ] {
        let (status, body) = daemon.ask(method, path, json!({ "command": "true" })).await;
        assert_eq!((status, &body["code"]), (404, &json!("NOT_FOUND")), "{path} {body}");
    }
    for path in ["exec", "command/entrypoint_command/input"] {
        let path = format!("/process/session/entrypoint/{path}");
        assert_eq!(
            daemon.ask("POST", &path, json!({ "command": "true", "data": "x" })).await.0,
            400,
            "{path}"
        );
    }
    assert_eq!(daemon.ask("DELETE", "/process/session/entrypoint", None).await.0, 400);
    assert_eq!(daemon.ask("POST", "/process/session/s/exec", json!({ "command": " " })).await.0, 400);
    let command = json!({ "command": "echo a; echo b >&2" });
    let (_, split) = daemon.ask("POST", "/process/session/s/exec", command.clone()).await;
    assert_eq!((&split["stdout"], &split["stderr"]), (&json!("a\n"), &json!("b\n")));
    let (_, raw) = daemon.ask_as("0.150.0", "POST", "/process/session/s/exec", command.clone()).await;
    assert!(raw["stdout"].is_null() && raw["exitCode"] == 0, "{raw}");
    let marked = raw["output"].as_str().unwrap();
    assert!(marked.contains("\u{1}\u{1}\u{1}a\n") && marked.contains("\u{2}\u{2}\u{2}b\n"), "{raw}");
    let (_, combined) = daemon.ask_as("", "POST", "/process/session/s/exec", command).await;
    assert_eq!(combined["output"].as_str().unwrap().len(), 4, "{combined}");
    let logs = format!("/process/session/s/command/{}/logs", combined["cmdId"].as_str().unwrap());
    assert_eq!(daemon.ask_as("", "GET", &logs, None).await.1.as_str().unwrap().len(), 4);
    assert_eq!(daemon.ask_as("0.150.0", "GET", &logs, None).await.1.as_str().unwrap().len(), 10);
    let old = daemon.ask_as("0.100.0", "POST", "/process/session", json!({ "sessionId": "old" })).await;
    assert_eq!(old.0, 201);
    let (_, home) = daemon.ask("POST", "/process/session/old/exec", json!({ "command": "pwd" })).await;
    assert_eq!(home["stdout"].as_str().unwrap().trim(), daemon.home.path().to_str().unwrap());
    // Many creators of one id: exactly one wins.
    let asked = (0..8).map(|_| daemon.ask("POST", "/process/session", json!({ "sessionId": "race" })));
    let statuses: Vec<u16> = futures_util::future::join_all(asked).await.into_iter().map(|a| a.0).collect();
    assert_eq!(statuses.iter().filter(|s| **s == 201).count(), 1, "{statuses:?}");
    // A session made while its namesake is being deleted keeps its files; whoever waited for the old one is told.
    let path = "/process/session/race";
    let slow = json!({ "command": "trap '' TERM; sleep 1000; sleep 1000" });
    let exec = format!("{path}/exec");
    let waiting = daemon.ask("POST", &exec, slow);
    let remade = async {
        until("the slow command", async || {
            daemon.ask("GET", path, None).await.1["commands"].as_array().unwrap().len() == 1
        })
        .await;
        let deleting = daemon.ask("DELETE", path, None);
        let making = async {
            until("the id to be free", async || {
                daemon.ask("POST", "/process/session", json!({ "sessionId": "race" })).await.0 == 201
            })
            .await;
            daemon.ask("POST", &exec, json!({ "command": "echo new" })).await.1["cmdId"]
                .as_str()
                .unwrap()
                .to_owned()
        };
        tokio::join!(deleting, making)
    };
    let (old, (deleted, id)) = tokio::join!(waiting, remade);
    assert_eq!((old.0, &old.1["code"], deleted.0), (410, &json!("SESSION_ENDED"), 204), "{}", old.1);
    assert_eq!(daemon.ask("GET", &format!("{path}/command/{id}/logs"), None).await.1["stdout"], "new\n");
    daemon.processes.shut_down().await;
    assert_eq!(daemon.ask("GET", "/process/session", None).await.1, json!([]));
}

async fn the_entrypoint() {
    let daemon = Daemon::new();
    let arguments =
        ["sh", "-c", "echo \"it's $0\"; echo err >&2; read line; echo \"$line\""].map(str::to_owned);
    daemon.processes.start_entrypoint(&arguments).unwrap();
    let logs = async || daemon.ask("GET", "/process/session/entrypoint/logs", None).await.1;
    until("the entrypoint's output on both streams", async || {
        let logs = logs().await;
        (&logs["stdout"], &logs["stderr"]) == (&json!("it's sh\n"), &json!("err\n"))
    })
    .await;
    let (_, session) = daemon.ask("GET", "/process/session/entrypoint", None).await;
    assert_eq!(session["commands"][0]["id"], "entrypoint_command");
    assert!(session["commands"][0]["exitCode"].is_null(), "its input stays open");
    assert_eq!(daemon.ask("GET", "/process/session", None).await.1, json!([]));
    let (status, raw) =
        daemon.ask_as("", "GET", "/process/session/entrypoint/command/entrypoint_command/logs", None).await;
    assert!(status == 200 && raw.as_str().unwrap().contains('\u{1}'), "never combined: {raw}");
    assert!(pinfold_process::entrypoint_log_path(daemon.home.path()).exists());
    daemon.processes.shut_down().await;
}
