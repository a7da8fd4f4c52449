//! Finding, searching and replacing.

#![allow(clippy::unwrap_used)]

mod common;

use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::time::{Duration, SystemTime};

use common::{Daemon, encode};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use serde_json::{Value, json};

async fn find(daemon: &Daemon, path: &str, pattern: &str) -> Value {
    let answer =
        daemon.ask("GET", &format!("/files/find?path={}&pattern={}", encode(path), encode(pattern))).await;
    assert_eq!((answer.status, answer.complete), (200, true));
    answer.json()
}

#[tokio::test]
async fn lines_come_in_the_order_of_the_walk() {
    let daemon = Daemon::start().await;
    for n in 0..300 {
        daemon.write(&format!("many/{n:03}.txt"), format!("first\nneedle {n}\n").repeat(n % 7));
    }
    let found = find(&daemon, "many", "needle").await;
    let expected: Vec<Value> = (0..300)
        .flat_map(|n| (0..n % 7).map(move |k| json!({"file": format!("many/{n:03}.txt"), "line": 2 * k + 2, "content": format!("needle {n}")})))
        .collect();
    assert_eq!(found, Value::Array(expected));
}

#[tokio::test]
async fn only_text_in_regular_files_is_searched() {
    let daemon = Daemon::start().await;
    daemon.write("d/text", "a (x+) b\r\nA (X+) B\n");
    daemon.write("d/binary", b"\0(x+)");
    daemon.write("d/long", "y".repeat(200_000) + "(x+)");
    daemon.write(".hidden/.file", "(x+)");
    daemon.write(".gitignore", "d\n");
    symlink("d/text", daemon.path("link")).unwrap();
    symlink(".", daemon.path("loop")).unwrap();
    mknodat(CWD, daemon.path("fifo"), FileType::Fifo, Mode::from_bits_truncate(0o644), 0).unwrap();
    let found = find(&daemon, ".", "(x+)").await;
    let places: Vec<_> = found
        .as_array()
        .unwrap()
        .iter()
        .map(|m| (m["file"].as_str().unwrap(), m["line"].as_u64().unwrap()))
        .collect();
    assert_eq!(places, [(".hidden/.file", 1), ("d/long", 1), ("d/text", 1)]);
    assert_eq!(found[2]["content"], "a (x+) b");
    assert_eq!(found[1]["content"].as_str().unwrap().len(), 200_004);
    let absolute = daemon.path("d/text").display().to_string();
    assert_eq!(
        find(&daemon, &absolute, "X").await,
        json!([{"file": absolute, "line": 2, "content": "A (X+) B"}])
    );
    assert_eq!(find(&daemon, "fifo", "x").await, json!([]));
    assert_eq!(find(&daemon, "none", "x").await, json!([]));
    for target in ["/files/find?path=d", "/files/find?pattern=x", "/files/find?path=d&pattern="] {
        assert_eq!(daemon.ask("GET", target).await.error(), (400, "BAD_REQUEST".into()));
    }
}

#[tokio::test]
async fn many_long_lines_wait_for_their_turn() {
    let daemon = Daemon::start().await;
    // The first file is slow (no match, much to read); those after it produce far more than may wait.
    daemon.write("a", "none\n".repeat(1_000_000));
    for n in 0..40 {
        daemon.write(&format!("b{n:02}"), "x".repeat(1 << 20));
    }
    let found = find(&daemon, ".", "xx").await;
    let files: Vec<_> =
        found.as_array().unwrap().iter().map(|m| m["file"].as_str().unwrap().to_owned()).collect();
    assert_eq!(files, (0..40).map(|n| format!("b{n:02}")).collect::<Vec<_>>());
}

#[tokio::test]
async fn find_has_options_beyond_the_contract() {
    let daemon = Daemon::start().await;
    for n in 0..9 {
        daemon.write(&format!("d/{n}"), format!("Error {n}\r\nwarning {n}{n}\nan error {n}\n"));
    }
    let find = async |options: &str| {
        let answer = daemon.ask("GET", &format!("/files/find?path=d&{options}")).await;
        assert_eq!((answer.status, answer.complete), (200, true));
        answer.json().as_array().unwrap().clone()
    };
    assert_eq!(find("pattern=error").await.len(), 9);
    assert_eq!(find("pattern=error&ignoreCase=true").await.len(), 18);
    let expression = |text: &str| format!("regex=true&pattern={}", encode(text));
    let found = find(&expression("^(Error|warning) [2-3]+$")).await;
    let lines: Vec<_> = found.iter().map(|m| m["content"].as_str().unwrap()).collect();
    assert_eq!(lines, ["Error 2", "warning 22", "Error 3", "warning 33"]);
    assert_eq!(find(&(expression("^error") + "&ignoreCase=true")).await.len(), 9);
    assert_eq!(find(&expression("[0-9]").replace("true", "false")).await.len(), 0);

    let cut = find("pattern=error&ignoreCase=true&limit=3").await;
    let places: Vec<_> =
        cut[..3].iter().map(|m| (m["file"].as_str().unwrap(), m["line"].as_u64().unwrap())).collect();
    assert_eq!(places, [("d/0", 1), ("d/0", 3), ("d/1", 1)]);
    assert_eq!(cut[3..], [json!({"file": "", "line": 0, "content": "", "truncated": true})]);
    assert_eq!(find("pattern=error&limit=9").await.len(), 9, "all there are is not cut");

    for bad in [
        expression("("),
        expression("(a{200}){200}"),
        "pattern=x&limit=0".into(),
        "pattern=x&limit=many".into(),
    ] {
        let answer = daemon.ask("GET", &format!("/files/find?path=d&{bad}")).await;
        assert_eq!(answer.error(), (400, "BAD_REQUEST".into()), "{bad}");
    }
    let search = async |options: &str| {
        daemon.ask("GET", &format!("/files/search?path=d&pattern=[0-9]&{options}")).await.json()
    };
    assert_eq!(search("limit=2").await, json!({"files": ["d/0", "d/1"], "truncated": true}));
    assert_eq!(search("limit=9").await["files"].as_array().unwrap().len(), 9);
    assert_eq!(search("limit=9").await.get("truncated"), None);
}

/// Each of these takes a backtracking engine longer than anybody waits.
#[tokio::test]
async fn a_hostile_expression_is_answered() {
    let daemon = Daemon::start().await;
    daemon.write("d/text", "a".repeat(10_000) + "\n" + &"ab\n".repeat(1000));
    for hostile in ["(a+)+$x", "(a|aa)+c", "(?:a|b)*a(?:a|b){50}c"] {
        let answer =
            daemon.ask("GET", &format!("/files/find?path=d&regex=true&pattern={}", encode(hostile))).await;
        assert_eq!((answer.status, answer.json()), (200, json!([])), "{hostile}");
    }
}

#[tokio::test]
async fn search_matches_base_names() {
    let daemon = Daemon::start().await;
    daemon.write("src/main.rs", "");
    daemon.write("src/lib.rs.d/x.rs", "");
    daemon.write("README.md", "");
    symlink("none.rs", daemon.path("src/dangling.rs")).unwrap();
    let search = async |path: &str, pattern: &str| {
        let answer = daemon
            .ask("GET", &format!("/files/search?path={}&pattern={}", encode(path), encode(pattern)))
            .await;
        assert_eq!((answer.status, answer.header("content-type")), (200, "application/json; charset=utf-8"));
        answer.json()
    };
    assert_eq!(
        search("src", "*.rs").await,
        json!({"files": ["src/dangling.rs", "src/lib.rs.d/x.rs", "src/main.rs"]})
    );
    assert_eq!(
        search("./src/", "*r*").await,
        json!({"files": ["src", "src/dangling.rs", "src/lib.rs.d", "src/lib.rs.d/x.rs", "src/main.rs"]})
    );
    assert_eq!(search(".", "README.[a-m]d").await, json!({"files": ["README.md"]}));
    assert_eq!(search("src", "[").await, json!({"files": []}));
    assert_eq!(search("none", "*").await, json!({"files": []}));
    let absolute = daemon.path("src").display().to_string();
    assert_eq!(search(&absolute, "main*").await, json!({"files": [format!("{absolute}/main.rs")]}));
    for target in ["/files/search?path=src", "/files/search?pattern=x"] {
        assert_eq!(daemon.ask("GET", target).await.error(), (400, "BAD_REQUEST".into()));
    }
}

#[tokio::test]
async fn replacing_changes_only_what_has_the_text() {
    let daemon = Daemon::start().await;
    let changed = daemon.write("changed", "one.two one\n");
    let same = daemon.write("same", "1.2");
    daemon.write("hard", "one");
    std::fs::hard_link(daemon.path("hard"), daemon.path("again")).unwrap();
    symlink("changed", daemon.path("link")).unwrap();
    std::fs::set_permissions(&changed, PermissionsExt::from_mode(0o741)).unwrap();
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    std::fs::File::open(&same).unwrap().set_modified(time).unwrap();
    let mut reader = std::fs::File::open(&changed).unwrap();
    let replace = async |body: Value| daemon.ask_with("POST", "/files/replace", &[], body.to_string()).await;
    let answer =
        replace(json!({"files": ["link", "none", "same", "hard", "."], "pattern": "one", "newValue": "1."}))
            .await;
    assert_eq!(answer.status, 200);
    assert_eq!(
        answer.json(),
        json!([
            {"file": "link", "success": true},
            {"file": "none", "success": false, "error": "no such file or directory"},
            {"file": "same", "success": true},
            {"file": "hard", "success": true},
            {"file": ".", "success": false, "error": "is a directory"},
        ])
    );
    assert_eq!((daemon.read("changed"), daemon.read("again")), (b"1..two 1.\n".to_vec(), b"1.".to_vec()));
    assert!(daemon.path("link").is_symlink());
    let mut seen = String::new();
    std::io::Read::read_to_string(&mut reader, &mut seen).unwrap();
    assert_eq!(seen, "one.two one\n", "whoever reads the old file reads all of it");
    assert_eq!(std::fs::metadata(&changed).unwrap().mode() & 0o7777, 0o741);
    assert_eq!(std::fs::metadata(&same).unwrap().modified().unwrap(), time);
    let answer = replace(json!({"files": ["changed"], "pattern": ".", "newValue": ""})).await;
    assert_eq!((answer.status, daemon.read("changed")), (200, b"1two 1\n".to_vec()));
    assert_eq!(replace(json!({"files": [], "pattern": ".", "newValue": ""})).await.json(), json!([]));
    for body in [
        json!({"files": ["changed"], "pattern": "1"}),
        json!({"files": ["changed"], "pattern": "", "newValue": "x"}),
        json!({"pattern": "1", "newValue": ""}),
        json!({"files": null, "pattern": "1", "newValue": ""}),
    ] {
        assert_eq!(replace(body).await.error(), (400, "INVALID_REQUEST_BODY".into()));
    }
}
