//! PTY sessions over their routes, with real shells and a real WebSocket client: the contract's section 10.

use std::time::{Duration, Instant};

use crate::common::sandbox;
use crate::server::{DEADLINE, Server, Socket};
use futures_util::SinkExt;
use http::StatusCode;
use pinfold_pty::Settings;
use pinfold_testing::kill_commands;
use serde_json::json;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::{Error, Message};

const EXIT: &str = "X-Daytona-Pty-Exit-Control";

async fn start() -> Server {
    Server::start(pinfold_pty::router(sandbox(), Settings::default())).await
}

async fn create_connect(server: &Server, id: &str) -> Socket {
    let mut socket =
        Socket::open(server, &format!("/process/pty/create-connect?id={id}&cols=80&rows=24"), EXIT)
            .await
            .unwrap();
    assert_eq!(socket.control().await, json!({"type":"control","status":"connected"}));
    socket
}

/// Waits until the session is no longer listed.
async fn forgotten(server: &Server, id: &str) {
    let started = Instant::now();
    while server.call("GET", &format!("/process/pty/{id}"), "").await.0 != StatusCode::NOT_FOUND {
        assert!(started.elapsed() < DEADLINE, "the session {id} stayed");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn no_more_sessions_than_allowed() {
    let server =
        Server::start(pinfold_pty::router(sandbox(), Settings { max: 1, ..Settings::default() })).await;
    assert_eq!(server.call("POST", "/process/pty", r#"{"id":"a"}"#).await.0, StatusCode::CREATED);
    let (status, body) = server.call("POST", "/process/pty", r#"{"id":"b"}"#).await;
    assert_eq!(status, StatusCode::TOO_MANY_REQUESTS);
    assert!(body["message"].as_str().unwrap().contains("PINFOLD_MAX_PTYS"), "{body}");
    assert_eq!(server.call("POST", "/process/pty", r#"{"id":"a"}"#).await.0, StatusCode::CONFLICT);
    server.call("DELETE", "/process/pty/a", "").await;
    assert_eq!(server.call("POST", "/process/pty", r#"{"id":"b"}"#).await.0, StatusCode::CREATED);
    server.call("DELETE", "/process/pty/b", "").await;
}

#[tokio::test]
async fn a_session_that_nobody_uses_ends_if_the_operator_wants_that() {
    let limit = std::time::Duration::from_millis(400);
    let server =
        Server::start(pinfold_pty::router(sandbox(), Settings { idle: Some(limit), ..Settings::default() }))
            .await;
    let mut used = create_connect(&server, "used").await;
    let began = Instant::now();
    assert_eq!(server.call("POST", "/process/pty", r#"{"id":"unused"}"#).await.0, StatusCode::CREATED);
    forgotten(&server, "unused").await;
    assert!(began.elapsed() >= limit, "ended after {:?}", began.elapsed());
    // The other had a client all the while, and lives.
    used.type_in("echo a''live\n").await;
    used.until("alive").await;
}

#[tokio::test]
async fn rest_tells_of_a_session_and_kills_it() {
    let server = start().await;
    let body = r#"{"id":"t1","cwd":"/","envs":{"FOO":"1"},"cols":120,"rows":30}"#;
    assert_eq!(
        server.call("POST", "/process/pty", body).await,
        (StatusCode::CREATED, json!({"sessionId":"t1"}))
    );
    let (status, info) = server.call("GET", "/process/pty/t1", "").await;
    assert_eq!(status, StatusCode::OK);
    let created = info["createdAt"].as_str().unwrap().to_owned();
    created.parse::<jiff::Timestamp>().unwrap();
    let expected = json!({"id":"t1","cwd":"/","envs":{"FOO":"1","TERM":"xterm-256color"},"cols":120,"rows":30,
        "createdAt":created,"active":true,"lazyStart":false});
    assert_eq!(info, expected);
    assert_eq!(server.call("GET", "/process/pty", "").await.1, json!({"sessions":[expected]}));

    let (status, info) = server.call("POST", "/process/pty/t1/resize", r#"{"cols":100,"rows":40}"#).await;
    assert_eq!((status, &info["cols"], &info["rows"]), (StatusCode::OK, &json!(100), &json!(40)));

    let (status, answer) = server.call("DELETE", "/process/pty/t1", "").await;
    assert_eq!(status, StatusCode::OK);
    assert!(answer["message"].is_string());
    assert_eq!(server.call("GET", "/process/pty", "").await.1, json!({"sessions":[]}));
}

#[tokio::test]
async fn rest_refuses_as_the_contract_says() {
    let server = start().await;
    let cases = [
        ("POST", "/process/pty", r#"{"cols":80}"#, 400),
        ("POST", "/process/pty", r#"{"id":"x","cols":1001}"#, 400),
        ("POST", "/process/pty", r#"{"id":"x","rows":-1}"#, 400),
        ("POST", "/process/pty", r#"{"id":"x","envs":{"":"1"}}"#, 400),
        ("POST", "/process/pty", "", 400),
        ("POST", "/process/pty", r#"{"id":"x","cwd":"/does/not/exist"}"#, 500),
        ("GET", "/process/pty/x", "", 404),
        ("DELETE", "/process/pty/x", "", 404),
        ("POST", "/process/pty/x/resize", r#"{"cols":80,"rows":24}"#, 410),
        ("POST", "/process/pty/x/resize", r#"{"cols":80,"rows":1001}"#, 400),
        ("POST", "/process/pty/x/resize", r#"{"cols":"80"}"#, 400),
        ("GET", "/process/pty/x/connect", "", 400),
        ("GET", "/process/pty/create-connect?id=x", "", 400),
    ];
    for (method, path, body, expected) in cases {
        let (status, answer) = server.call(method, path, body).await;
        assert_eq!(status.as_u16(), expected, "{method} {path} {body}: {answer}");
        assert_eq!(answer["source"], "DAYTONA_DAEMON", "{method} {path} {body}");
        assert!(answer["message"].is_string() && answer["code"].is_string(), "{answer}");
    }
    assert_eq!(
        server.call("POST", "/process/pty", r#"{"id":"x","lazyStart":true}"#).await.0,
        StatusCode::CREATED
    );
    assert_eq!(server.call("POST", "/process/pty", r#"{"id":"x"}"#).await.0, StatusCode::CONFLICT);
    assert_eq!(
        server.call("POST", "/process/pty/x/resize", r#"{"cols":80,"rows":24}"#).await.0.as_u16(),
        500
    );
    assert_eq!(server.call("GET", "/process/pty/x", "").await.1["active"], json!(false));
    assert_eq!(server.call("DELETE", "/process/pty/x", "").await.0, StatusCode::OK);
}

#[tokio::test]
async fn create_connect_fails_before_the_upgrade() {
    let server = start().await;
    let _first = create_connect(&server, "taken").await;
    let cases = [
        ("id=taken", "", 409),
        ("cols=80", "", 400),
        ("id=a&cols=x", "", 400),
        ("id=a&cols=1001", "", 400),
        ("id=a&cwd=/does/not/exist", "", 500),
        ("id=a", "X-Daytona-Pty-Envs~!!", 400),
        ("id=a", "X-Daytona-Pty-Envs~WzFd", 400),
    ];
    for (query, protocols, expected) in cases {
        let path = format!("/process/pty/create-connect?{query}");
        let Err(Error::Http(answer)) = Socket::open(&server, &path, protocols).await else {
            panic!("{query} was upgraded")
        };
        assert_eq!(answer.status().as_u16(), expected, "{query} {protocols}");
        let body: serde_json::Value =
            serde_json::from_slice(answer.body().as_deref().unwrap_or_default()).unwrap();
        assert_eq!((&body["statusCode"], &body["source"]), (&json!(expected), &json!("DAYTONA_DAEMON")));
    }
    let (_, list) = server.call("GET", "/process/pty", "").await;
    assert_eq!(list["sessions"].as_array().unwrap().len(), 1, "failures leave nothing behind: {list}");
    server.call("DELETE", "/process/pty/taken", "").await;
}

#[tokio::test]
async fn create_connect_carries_size_environment_and_the_first_byte() {
    let server = start().await;
    // {"A":"ü 1"}
    let protocols = format!("{EXIT}, X-Daytona-Pty-Envs~eyJBIjoiw7wgMSJ9");
    let path = "/process/pty/create-connect?id=cc&cols=90&rows=33&cwd=/usr";
    let mut socket = Socket::open(&server, path, &protocols).await.unwrap();
    assert_eq!(socket.protocol.as_deref(), Some(EXIT));
    assert_eq!(socket.control().await["status"], "connected");
    socket.type_in("PS1=; stty -echo; echo \"<$A|$TERM|$PWD|$(stty size)>\"; exit 7\n").await;
    let transcript = socket.into_end().await;
    assert!(transcript.text().contains("<ü 1|xterm-256color|/usr|33 90>"), "{transcript:?}");
    assert_eq!(transcript.order, "bt", "output, then exited, then close");
    assert_eq!(
        transcript.texts,
        [json!({"type":"control","status":"exited","exitCode":7,"exitReason":"non-zero exit"})]
    );
    assert_eq!(transcript.close, Some((1011, r#"{"exitCode":7,"exitReason":"non-zero exit"}"#.to_owned())));
    assert_eq!(
        server.call("GET", "/process/pty/cc", "").await.0,
        StatusCode::NOT_FOUND,
        "gone before the close"
    );
}

#[tokio::test]
async fn the_tail_of_large_output_precedes_the_exit() {
    let server = start().await;
    let mut socket = create_connect(&server, "tail").await;
    socket.type_in("stty -echo -onlcr; exec sh -c 'seq 1 200000; echo THE-END'\n").await;
    let transcript = socket.into_end().await;
    let text = transcript.text();
    assert!(text.ends_with("THE-END\n"), "{:?}", &text[text.len().saturating_sub(100)..]);
    assert!(text.contains("\n99999\n100000\n100001\n"));
    let numbers = text.lines().filter_map(|l| l.parse::<u32>().ok()).collect::<Vec<_>>();
    assert!(numbers.ends_with(&[199_999, 200_000]) && numbers.len() == 200_000, "{} numbers", numbers.len());
    assert_eq!(transcript.close.unwrap(), (1000, r#"{"exitCode":0}"#.to_owned()));
}

#[tokio::test]
async fn exit_codes_and_close_reasons() {
    let server = start().await;
    let cases = [
        ("exit 0", 1000, r#"{"exitCode":0}"#),
        ("exit 130", 1011, r#"{"exitCode":130,"exitReason":"Ctrl+C"}"#),
        ("kill -KILL $$", 1011, r#"{"exitCode":137,"exitReason":"SIGKILL"}"#),
        ("exec sh -c 'kill -TERM $$'", 1011, r#"{"exitCode":143,"exitReason":"SIGTERM"}"#),
        ("ulimit -c 0; kill -SEGV $$", 1011, r#"{"exitCode":139,"exitReason":"signal 11"}"#),
    ];
    for (index, (script, code, reason)) in cases.into_iter().enumerate() {
        let mut with = create_connect(&server, &format!("x{index}")).await;
        let mut without = Socket::open(&server, &format!("/process/pty/x{index}/connect"), "").await.unwrap();
        assert_eq!(without.protocol, None);
        assert_eq!(without.control().await["status"], "connected");
        with.type_in(&format!("{script}\n")).await;
        let (with, without) = tokio::join!(with.into_end(), without.into_end());
        assert_eq!(with.close, Some((code, reason.to_owned())), "{script}");
        assert_eq!(with.texts.len(), 1, "{script}");
        assert_eq!(without.close, Some((code, reason.to_owned())), "{script}");
        assert_eq!(without.texts, Vec::<serde_json::Value>::new(), "exited is only for those who offered it");
    }
}

#[tokio::test]
async fn clients_share_a_session_and_may_come_back() {
    let server = start().await;
    let mut first = create_connect(&server, "shared").await;
    first.hush().await;
    first.type_in("X=kept; echo one-$X\n").await;
    first.until("one-kept").await;
    // Else it would owe a receipt, and whoever comes next be told what it may not have heard.
    first.confirm().await;
    let mut second = Socket::open(&server, "/process/pty/shared/connect", "other").await.unwrap();
    assert_eq!(second.protocol.as_deref(), Some("other"));
    second.control().await;
    second.type_in("echo two-$X\n").await;
    let seen = second.until("two-kept").await;
    assert!(!seen.contains("one-kept"), "a second client sees what comes after it attached: {seen:?}");
    first.until("two-kept").await;
    first.stream.close(None).await.unwrap();
    first.into_end().await;
    second.stream.close(None).await.unwrap();
    second.into_end().await;
    assert_eq!(server.call("GET", "/process/pty/shared", "").await.1["active"], json!(true));

    let mut back = Socket::open(&server, "/process/pty/shared/connect", EXIT).await.unwrap();
    assert_eq!(back.control().await, json!({"type":"control","status":"connected"}));
    back.type_in("echo three-$X\n").await;
    back.until("three-kept").await;
    let mut all = Socket::open(&server, "/process/pty/shared/connect?replay=true", EXIT).await.unwrap();
    assert_eq!(all.control().await, json!({"type":"control","status":"connected","offset":0}));
    all.until("three-kept").await;
    back.type_in("exit\n").await;
    assert_eq!(back.into_end().await.close.unwrap().0, 1000);
    assert_eq!(all.into_end().await.close.unwrap().0, 1000);
}

#[tokio::test]
async fn output_before_the_first_client_is_replayed() {
    let server = start().await;
    let home = tempfile::tempdir().unwrap();
    for profile in [".profile", ".bash_profile", ".zprofile"] {
        std::fs::write(home.path().join(profile), "echo early\nif [ -n \"$LEAVE\" ]; then exit 4; fi\n")
            .unwrap();
    }
    let envs = json!({"HOME": home.path(), "LEAVE": "1"});
    let body = json!({"id":"early","lazyStart":true,"envs":envs}).to_string();
    assert_eq!(server.call("POST", "/process/pty", &body).await.0, StatusCode::CREATED);
    let mut lazy = Socket::open(&server, "/process/pty/early/connect", EXIT).await.unwrap();
    assert_eq!(lazy.control().await["status"], "connected");
    let transcript = lazy.into_end().await;
    assert!(transcript.text().contains("early"), "{transcript:?}");
    assert_eq!(transcript.texts[0]["exitCode"], 4);

    let body = json!({"id":"eager","envs":{"HOME": home.path()}}).to_string();
    assert_eq!(server.call("POST", "/process/pty", &body).await.0, StatusCode::CREATED);
    let mut eager = Socket::open(&server, "/process/pty/eager/connect", EXIT).await.unwrap();
    assert_eq!(eager.control().await["status"], "connected");
    eager.until("early").await;
    server.call("DELETE", "/process/pty/eager", "").await;
}

#[tokio::test]
async fn unknown_sessions_are_told_of_on_the_socket() {
    let server = start().await;
    let mut socket = Socket::open(&server, "/process/pty/nobody/connect", EXIT).await.unwrap();
    let control = socket.control().await;
    assert_eq!((&control["type"], &control["status"]), (&json!("control"), &json!("error")));
    assert!(control["error"].as_str().unwrap().contains("nobody"));
    assert_eq!(socket.into_end().await.close.unwrap().0, 1011);

    server.call("POST", "/process/pty", r#"{"id":"lazy","lazyStart":true,"cwd":"/does/not/exist"}"#).await;
    let mut socket = Socket::open(&server, "/process/pty/lazy/connect", EXIT).await.unwrap();
    assert!(socket.control().await["error"].as_str().unwrap().contains("/does/not/exist"));
    assert_eq!(socket.into_end().await.close.unwrap().0, 1011);
    assert_eq!(server.call("GET", "/process/pty/lazy", "").await.0, StatusCode::NOT_FOUND);
}

/// Which of `numbers` some `sleep` of this machine sleeps.
fn sleeping(numbers: &[u32]) -> Vec<u32> {
    let lines = std::fs::read_dir("/proc").unwrap().flatten();
    let lines: Vec<_> = lines.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok()).collect();
    let runs = |number: &&u32| lines.contains(&format!("sleep\0{number}\0").into_bytes());
    numbers.iter().filter(runs).copied().collect()
}

async fn until_sleeping(numbers: &[u32], wanted: &[u32]) {
    let started = Instant::now();
    while sleeping(numbers) != wanted {
        assert!(started.elapsed() < DEADLINE, "{:?} instead of {wanted:?}", sleeping(numbers));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A job in the background, one that has left its session, one that has left the tree, one that ignores hang-ups, one that ignores signals.
async fn populate(socket: &mut Socket, numbers: &[u32; 5]) {
    let [job, setsid, forked, nohup, deaf] = numbers;
    socket.hush().await;
    socket
        .type_in(&format!(
            "sleep {job} & setsid sh -c 'sleep {setsid}; :' & disown -a; (setsid sh -c 'sleep {forked} & exit' &); nohup sleep {nohup} >/dev/null 2>&1 & sh -c 'trap \"\" TERM; sleep {deaf}; :'\n"
        ))
        .await;
    until_sleeping(numbers, numbers).await;
}

#[tokio::test]
async fn a_kill_leaves_no_process_and_tells_everyone() {
    let server = start().await;
    let mut socket = create_connect(&server, "kill").await;
    let numbers = [4101, 4102, 4103, 4104, 4105];
    populate(&mut socket, &numbers).await;
    assert_eq!(server.call("DELETE", "/process/pty/kill", "").await.0, StatusCode::OK);
    assert_eq!(server.call("GET", "/process/pty/kill", "").await.0, StatusCode::NOT_FOUND);
    until_sleeping(&numbers, &[]).await;
    let transcript = socket.into_end().await;
    assert_eq!(
        transcript.texts,
        [json!({"type":"control","status":"exited","exitCode":137,"exitReason":"SIGKILL"})]
    );
    assert_eq!(transcript.close, Some((1011, r#"{"exitCode":137,"exitReason":"SIGKILL"}"#.to_owned())));
}

#[tokio::test]
async fn a_kill_spares_what_has_detached_itself_if_that_is_asked_for() {
    let keeping = Settings { keep_detached: true, ..Settings::default() };
    for (number, settings, query) in [(0, Settings::default(), "?keepDetached=true"), (1, keeping, "")] {
        let server = Server::start(pinfold_pty::router(sandbox(), settings)).await;
        let mut socket = create_connect(&server, "kill").await;
        let numbers = [4111, 4112, 4113, 4114, 4115].map(|n| n + number * 10);
        populate(&mut socket, &numbers).await;
        assert_eq!(server.call("DELETE", "/process/pty/kill?keepDetached=maybe", "").await.0, 400);
        assert_eq!(server.call("DELETE", &format!("/process/pty/kill{query}"), "").await.0, StatusCode::OK);
        let left = [numbers[1], numbers[2], numbers[3]];
        until_sleeping(&numbers, &left).await;
        // Nothing may stay behind.
        for number in left {
            kill_commands(&format!("sleep {number} "));
        }
        until_sleeping(&numbers, &[]).await;
    }
}

/// Pain A13: what the kernel took for a client whose network went away is not lost, whether or not its end is known yet.
#[tokio::test]
async fn whoever_comes_after_a_lost_client_gets_what_that_one_never_confirmed() {
    let server = start().await;
    let mut dead = create_connect(&server, "lost").await;
    dead.hush().await;
    dead.type_in("echo be''fore; read -r _; echo swal''lowed\n").await;
    dead.until("before\r\n").await;
    // Reading on confirms all that; then this client falls silent.
    dead.confirm().await;
    dead.type_in("\n").await;
    let started = Instant::now();
    let mut next = loop {
        assert!(started.elapsed() < DEADLINE, "the next client never got what the dead one swallowed");
        let mut next = Socket::open(&server, "/process/pty/lost/connect", EXIT).await.unwrap();
        assert_eq!(next.control().await["status"], "connected");
        let Ok(seen) = timeout(Duration::from_millis(500), next.until("swallowed\r\n")).await else {
            continue;
        };
        assert!(!seen.contains("before"), "what was confirmed is not repeated: {seen:?}");
        break next;
    };
    // It vanishes without a close, too, and before it has confirmed anything.
    drop(dead);
    next.type_in("echo la''ter\n").await;
    next.until("later\r\n").await;
    drop(next);
    let mut last = Socket::open(&server, "/process/pty/lost/connect", EXIT).await.unwrap();
    assert_eq!(last.control().await["status"], "connected");
    last.until("later\r\n").await;
    // A leave in due form confirms everything.
    last.stream.close(None).await.unwrap();
    last.into_end().await;
    let mut fresh = Socket::open(&server, "/process/pty/lost/connect", EXIT).await.unwrap();
    assert_eq!(fresh.control().await["status"], "connected");
    fresh.type_in("echo fi''nal\n").await;
    let seen = fresh.until("final\r\n").await;
    assert!(!seen.contains("later"), "{seen:?}");
    server.call("DELETE", "/process/pty/lost", "").await;
}

#[tokio::test]
async fn a_paste_of_two_mebibytes_arrives() {
    let server = start().await;
    let mut socket = create_connect(&server, "paste").await;
    socket.type_in("stty -echo raw; echo go; head -c 2097152 | cksum; stty sane; exit\n").await;
    socket.until("go\n").await;
    socket.type_in(&"0123456789abcdef".repeat(131_072)).await;
    let transcript = socket.into_end().await;
    assert!(transcript.text().contains(" 2097152"), "{:?}", transcript.text());
}

#[tokio::test]
async fn a_message_without_measure_is_refused_properly() {
    let server = start().await;
    let mut socket = create_connect(&server, "huge").await;
    socket.hush().await;
    // A ping that comes later would have this client answer it on a connection that is closed already.
    socket.confirm().await;
    // The server may close while this is still being sent.
    let _ = socket.stream.send(Message::Binary(vec![b'x'; (16 << 20) + 1].into())).await;
    assert_eq!(socket.into_end().await.close.unwrap().0, 1009);
    assert_eq!(server.call("GET", "/process/pty/huge", "").await.0, StatusCode::OK, "the session stays");
    server.call("DELETE", "/process/pty/huge", "").await;
}

#[tokio::test]
async fn pings_are_answered_between_pieces_of_output() {
    let server = start().await;
    let mut socket = create_connect(&server, "ping").await;
    socket.type_in("stty -echo; yes\n").await;
    socket.until("y\r\ny\r\n").await;
    socket.stream.send(Message::Ping("are you there".into())).await.unwrap();
    let mut waited = 0;
    loop {
        match socket.frame("a pong").await {
            Message::Pong(payload) => break assert_eq!(&payload[..], b"are you there"),
            Message::Binary(bytes) => waited += bytes.len(),
            other => panic!("{other:?}"),
        }
        assert!(waited < 64 << 20, "the pong is starved by output");
    }
    server.call("DELETE", "/process/pty/ping", "").await;
}

#[tokio::test]
async fn a_storm_of_resizes_ends_at_the_last_size() {
    let server = start().await;
    let mut socket = create_connect(&server, "storm").await;
    socket.hush().await;
    for cols in 1..=1000 {
        let body = format!(r#"{{"cols":{cols},"rows":50}}"#);
        assert_eq!(server.call("POST", "/process/pty/storm/resize", &body).await.0, StatusCode::OK);
    }
    socket.type_in("stty size\n").await;
    socket.until("50 1000").await;
    server.call("DELETE", "/process/pty/storm", "").await;
}

#[tokio::test]
async fn a_name_can_be_taken_by_one_of_many() {
    let server = start().await;
    let creates = (0..8).map(|_| server.call("POST", "/process/pty", r#"{"id":"race"}"#));
    let answers = futures_util::future::join_all(creates).await;
    assert_eq!(answers.iter().filter(|(s, _)| *s == StatusCode::CREATED).count(), 1);
    assert_eq!(answers.iter().filter(|(s, _)| *s == StatusCode::CONFLICT).count(), 7);
    server.call("DELETE", "/process/pty/race", "").await;
    assert_eq!(
        server.call("POST", "/process/pty", r#"{"id":"race"}"#).await.0,
        StatusCode::CREATED,
        "free at once"
    );
    server.call("DELETE", "/process/pty/race", "").await;
}

#[tokio::test]
async fn a_background_job_on_the_terminal_does_not_hold_up_the_exit() {
    let server = start().await;
    let mut socket = create_connect(&server, "bg").await;
    socket.hush().await;
    socket.type_in("(trap '' HUP; exec sleep 30) & echo bye; exit 5\n").await;
    let started = Instant::now();
    let transcript = socket.into_end().await;
    assert!(started.elapsed().as_secs() < 25, "{:?}", started.elapsed());
    assert!(transcript.text().contains("bye"));
    assert_eq!(transcript.close.unwrap().1, r#"{"exitCode":5,"exitReason":"non-zero exit"}"#);
    forgotten(&server, "bg").await;
}

#[tokio::test]
async fn a_client_that_does_not_read_is_dropped_as_slow_and_the_session_goes_on() {
    let server = start().await;
    let mut stuck = create_connect(&server, "slow").await;
    stuck
        .type_in(
            "stty -echo; PS1=; echo rea''dy; read x; seq 1 3000000 | tail -c +1; echo THE-''END; read y\n",
        )
        .await;
    stuck.until("ready").await;
    let mut quick = Socket::open(&server, "/process/pty/slow/connect", EXIT).await.unwrap();
    quick.control().await;
    quick.type_in("\n").await;
    quick.outlast().await;
    // What it still holds ends with the verdict, which a client has ten seconds to take.
    let (transcript, _) = tokio::join!(stuck.into_end(), quick.until("THE-END"));
    assert_eq!(transcript.close, Some((1008, "slow consumer".to_owned())));
    server.call("DELETE", "/process/pty/slow", "").await;
}
