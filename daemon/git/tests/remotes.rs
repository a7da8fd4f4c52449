//! Clone, push and pull with real remotes: git's HTTP backend, its daemon, paths and URLs.

mod common;

use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::server::Remote;
use common::{HOME, World};
use serde_json::{Value, json};

/// ann:s3cret.
const LOGIN: &str = "Basic YW5uOnMzY3JldA==";

async fn commit(world: &World, repository: &str, file: &str, text: &str) {
    world.write(&format!("{repository}/{file}"), text);
    world.git(repository, &["add", "."]).await;
    world.git(repository, &["commit", "-q", "-m", file]).await;
}

#[tokio::test]
async fn clone_push_and_pull_over_http_with_a_login() {
    let world = World::new();
    world.repository("seed").await;
    world.git("seed", &["tag", "v1"]).await;
    world.git("seed", &["branch", "other"]).await;
    world.bare("seed", "hub.git").await;
    let server = Remote::new(&world.sandbox, Some(LOGIN)).serve().await;
    let url = server.url("hub.git");
    let with = |path: &str, more: Value| {
        let mut body = json!({"path": path, "username": "ann", "password": "s3cret"});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body
    };
    let none =
        world.fails("POST", "/git/clone", json!({"url": url, "path": "x"}), 401, "GIT_AUTH_FAILED").await;
    assert!(none.contains("requires credentials"), "{none}");
    let half = json!({"url": url, "path": "x", "username": "ann"});
    world.fails("POST", "/git/clone", half, 401, "GIT_AUTH_FAILED").await;
    let wrong = json!({"url": url, "path": "x", "username": "ann", "password": "guess"});
    let wrong = world.fails("POST", "/git/clone", wrong, 401, "GIT_AUTH_FAILED").await;
    assert!(!wrong.contains("guess") && !world.path("x").exists(), "{wrong}");

    world.post("/git/clone", with("one", json!({"url": url})), 200).await;
    world.post("/git/clone", with("two", json!({"url": url, "branch": "main"})), 200).await;
    let status = world.get("/git/status?path=one").await;
    assert_eq!(
        status,
        json!({"currentBranch": "main", "fileStatus": [], "branchPublished": true, "ahead": 0, "behind": 0, "detached": false, "upstream": "origin/main"})
    );
    assert_eq!(
        world.git("one", &["for-each-ref", "--format=%(refname)"]).await,
        "refs/heads/main\nrefs/remotes/origin/HEAD\nrefs/remotes/origin/main\nrefs/tags/v1\n"
    );
    assert_eq!(world.git("one", &["fsck", "--strict"]).await, "");
    let config = world.text("one/.git/config");
    assert!(config.contains(&url) && !config.contains("s3cret") && !config.contains("ann"), "{config}");

    commit(&world, "one", "b.txt", "b\n").await;
    assert_eq!(world.get("/git/status?path=one").await["ahead"], 1);
    world.fails("POST", "/git/push", json!({"path": "one"}), 401, "GIT_AUTH_FAILED").await;
    world.post("/git/push", with("one", json!({})), 200).await;
    world.post("/git/push", with("one", json!({})), 200).await;
    assert_eq!(world.get("/git/status?path=one").await["ahead"], 0);

    // A stale clone: the push is refused, the pull moves it forward.
    commit(&world, "two", "c.txt", "c\n").await;
    world.fails("POST", "/git/push", with("two", json!({})), 409, "GIT_PUSH_REJECTED").await;
    world.fails("POST", "/git/pull", with("two", json!({})), 409, "GIT_MERGE_CONFLICT").await;
    let diverged = world.get("/git/status?path=two").await;
    assert_eq!((&diverged["ahead"], &diverged["behind"]), (&json!(1), &json!(1)));
    world.git("two", &["reset", "-q", "--hard", "HEAD~1"]).await;
    world.write("two/b.txt", "in the way\n");
    world.fails("POST", "/git/pull", with("two", json!({})), 409, "GIT_DIRTY_WORKTREE").await;
    assert_eq!(world.git("two", &["rev-list", "--count", "HEAD"]).await, "1\n");
    std::fs::remove_file(world.path("two/b.txt")).unwrap();
    world.write("two/mine.txt", "stays\n");
    world.post("/git/pull", with("two", json!({})), 200).await;
    world.post("/git/pull", with("two", json!({})), 200).await;
    assert_eq!(
        (world.text("two/b.txt"), world.git("two", &["status", "--porcelain"]).await),
        ("b\n".into(), "?? mine.txt\n".into())
    );

    // New branches, and what does not exist.
    world.post("/git/branches", json!({"path": "one", "name": "topic"}), 201).await;
    commit(&world, "one", "d.txt", "d\n").await;
    world.post("/git/push", with("one", json!({"set_upstream": true})), 200).await;
    let status = world.get("/git/status?path=one").await;
    assert_eq!((&status["upstream"], &status["branchPublished"]), (&json!("origin/topic"), &json!(true)));
    assert_eq!(
        world.git("hub.git", &["rev-parse", "topic"]).await,
        world.git("one", &["rev-parse", "HEAD"]).await
    );
    for (route, body) in [
        ("/git/push", json!({"branch": "nope"})),
        ("/git/push", json!({"remote": "nope"})),
        ("/git/pull", json!({"branch": "nope"})),
        ("/git/pull", json!({"remote": "nope"})),
    ] {
        world.fails("POST", route, with("one", body), 404, "GIT_BRANCH_NOT_FOUND").await;
    }
    world.git("one", &["checkout", "-q", "--detach"]).await;
    world.fails("POST", "/git/push", with("one", json!({})), 404, "GIT_BRANCH_NOT_FOUND").await;
}

#[tokio::test]
async fn the_remotes_refusals_have_codes() {
    let world = World::new();
    world.repository("seed").await;
    world.bare("seed", "hub.git").await;
    world.git(".", &["init", "-q", "--bare", "empty.git"]).await;
    let server = Remote::new(&world.sandbox, None).serve().await;
    for (path, status, code) in [
        ("nope.git", 404, "GIT_REPO_NOT_FOUND"),
        ("empty.git", 404, "GIT_REPO_NOT_FOUND"),
        ("page/hub.git", 404, "GIT_REPO_NOT_FOUND"),
        ("forbidden/hub.git", 403, "FORBIDDEN"),
        ("broken/hub.git", 502, "GIT_TRANSPORT_FAILED"),
    ] {
        let body = json!({"url": server.url(path), "path": "x/y"});
        world.fails("POST", "/git/clone", body, status, code).await;
        assert_eq!(std::fs::read_dir(world.path("x")).unwrap().count(), 0, "{path} leaves something");
    }
    for (url, status, code) in [
        ("http://127.0.0.1:1/x.git", 502, "GIT_TRANSPORT_FAILED"),
        ("http://ann:s3cret@127.0.0.1:1/x.git", 502, "GIT_TRANSPORT_FAILED"),
        ("http://no-such-host.invalid/x.git", 502, "GIT_TRANSPORT_FAILED"),
        ("git://127.0.0.1:1/x.git", 502, "GIT_TRANSPORT_FAILED"),
        ("/no/such/place", 404, "GIT_REPO_NOT_FOUND"),
        ("file:///no/such/place", 404, "GIT_REPO_NOT_FOUND"),
        ("gopher://example.org/x", 400, "BAD_REQUEST"),
    ] {
        let text = world.fails("POST", "/git/clone", json!({"url": url, "path": "x/y"}), status, code).await;
        assert!(!text.contains("s3cret"), "{text}");
    }
    let url = server.url("hub.git");
    world
        .fails(
            "POST",
            "/git/clone",
            json!({"url": url, "path": "x/y", "branch": "nope"}),
            404,
            "GIT_BRANCH_NOT_FOUND",
        )
        .await;
    world
        .fails(
            "POST",
            "/git/clone",
            json!({"url": url, "path": "x/y", "commit_id": "0123abcd"}),
            404,
            "GIT_BRANCH_NOT_FOUND",
        )
        .await;
    world.fails("POST", "/git/clone", json!({"url": url, "path": "seed"}), 409, "CONFLICT").await;
    world.write("full/file", "");
    world.fails("POST", "/git/clone", json!({"url": url, "path": "full"}), 409, "CONFLICT").await;
    world.fails("POST", "/git/clone", json!({"url": url, "path": "full/file"}), 409, "CONFLICT").await;

    // A hook's refusal, with its words.
    world.post("/git/clone", json!({"url": url, "path": "one"}), 200).await;
    let hook = world.path("hub.git/hooks/pre-receive");
    std::fs::write(&hook, "#!/bin/sh\necho no pushes on Sundays >&2\nexit 1\n").unwrap();
    std::fs::set_permissions(&hook, std::fs::Permissions::from_mode(0o755)).unwrap();
    commit(&world, "one", "b.txt", "b\n").await;
    let text = world.fails("POST", "/git/push", json!({"path": "one"}), 422, "GIT_REMOTE_REJECTED").await;
    assert!(text.contains("no pushes on Sundays"), "{text}");
}

#[tokio::test]
async fn a_redirect_is_followed_and_the_login_stays_with_its_host() {
    let world = World::new();
    world.repository("seed").await;
    world.bare("seed", "hub.git").await;
    let server = Remote::new(&world.sandbox, Some(LOGIN)).serve().await;
    let body =
        json!({"url": server.url("moved/hub.git"), "path": "one", "username": "ann", "password": "s3cret"});
    world.post("/git/clone", body, 200).await;
    let seen = server.remote.seen.lock().unwrap().clone();
    assert_eq!(
        seen,
        [
            "GET /moved/hub.git/info/refs",
            "GET /hub.git/info/refs",
            "GET /moved/hub.git/info/refs",
            "GET /hub.git/info/refs",
            "POST /hub.git/git-upload-pack"
        ]
    );
}

#[tokio::test]
async fn certificates_are_checked_unless_told_otherwise() {
    let world = World::new();
    world.repository("seed").await;
    world.bare("seed", "hub.git").await;
    let (address, certificate) = common::server::serve_tls(Remote::new(&world.sandbox, Some(LOGIN))).await;
    let url = format!("https://localhost:{}/hub.git", address.port());
    let with = |path: &str, insecure: bool| json!({"url": url, "path": path, "username": "ann", "password": "s3cret", "insecure_skip_tls": insecure});
    let text = world.fails("POST", "/git/clone", with("one", false), 502, "GIT_TRANSPORT_FAILED").await;
    assert!(text.contains("certificate"), "{text}");
    world.post("/git/clone", with("one", true), 200).await;
    // There is no such option for pushes: they trust what the image trusts.
    commit(&world, "one", "b.txt", "b\n").await;
    let push = json!({"path": "one", "username": "ann", "password": "s3cret"});
    world.fails("POST", "/git/push", push.clone(), 502, "GIT_TRANSPORT_FAILED").await;
    world.write("ca.pem", &certificate);
    let bundle = world.path("ca.pem").to_str().unwrap().to_owned();
    world.sandbox.environment.update(&[("SSL_CERT_FILE".to_owned(), bundle)].into(), &[], None).unwrap();
    world.post("/git/push", push.clone(), 200).await;
    world.post("/git/clone", with("two", false), 200).await;
    commit(&world, "one", "c.txt", "c\n").await;
    world.post("/git/push", push, 200).await;
    world.fails("POST", "/git/pull", json!({"path": "two"}), 401, "GIT_AUTH_FAILED").await;
    world.post("/git/pull", json!({"path": "two", "username": "ann", "password": "s3cret"}), 200).await;
    assert_eq!(world.text("two/c.txt"), "c\n");
}

#[tokio::test]
async fn ssh_remotes_go_through_the_images_git() {
    let world = World::new();
    world.repository("seed").await;
    world.bare("seed", "hub.git").await;
    // Stands for ssh: runs the command here that it would run there.
    world.write("ssh", "#!/bin/sh\nfor last; do :; done\necho \"$*\" >>\"$(dirname \"$0\")/ssh.log\"\nexec sh -c \"$last\"\n");
    std::fs::set_permissions(world.path("ssh"), std::fs::Permissions::from_mode(0o755)).unwrap();
    let ssh = world.path("ssh").to_str().unwrap().to_owned();
    world.sandbox.environment.update(&[("GIT_SSH_COMMAND".to_owned(), ssh)].into(), &[], None).unwrap();
    let url = format!("git@example.org:{}", world.path("hub.git").display());
    world.post("/git/clone", json!({"url": url, "path": "one", "depth": 1}), 200).await;
    world.post("/git/clone", json!({"url": url, "path": "two"}), 200).await;
    commit(&world, "one", "b.txt", "b\n").await;
    world.post("/git/push", json!({"path": "one", "set_upstream": true}), 200).await;
    world.post("/git/pull", json!({"path": "two"}), 200).await;
    assert_eq!(world.text("two/b.txt"), "b\n");
    assert!(world.text("ssh.log").contains("git@example.org git-upload-pack"));
    let missing = json!({"url": "git@example.org:/no/such/place", "path": "x"});
    world.fails("POST", "/git/clone", missing, 404, "GIT_REPO_NOT_FOUND").await;
}

#[tokio::test]
async fn a_stored_login_is_used() {
    let world = World::new();
    world.repository("seed").await;
    world.bare("seed", "hub.git").await;
    let server = Remote::new(&world.sandbox, Some(LOGIN)).serve().await;
    let host = server.address.to_string();
    let login = json!({"username": "ann", "password": "s3cret", "host": host, "protocol": "http"});
    world.post("/git/credentials", login.clone(), 200).await;
    world.post("/git/credentials", login, 200).await;
    world.post("/git/clone", json!({"url": server.url("hub.git"), "path": "one"}), 200).await;
    commit(&world, "one", "b.txt", "b\n").await;
    world.post("/git/push", json!({"path": "one"}), 200).await;
    // Git itself finds it too.
    world.git("one", &["-c", "credential.useHttpPath=false", "fetch", "origin"]).await;
    assert_eq!(world.git(".", &["config", "--global", "--get-all", "credential.helper"]).await, "store\n");
    let store = HOME.path().join(".git-credentials");
    assert_eq!(store.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let text = std::fs::read_to_string(store).unwrap().to_lowercase();
    assert_eq!(text.matches(&host.replace(':', "%3a")).count(), 1, "{text}");
}

#[tokio::test]
async fn big_packs_stream_both_ways() {
    let world = World::new();
    world.repository("seed").await;
    world.bare("seed", "hub.git").await;
    let server = Remote::new(&world.sandbox, None).serve().await;
    world.post("/git/clone", json!({"url": server.url("hub.git"), "path": "one"}), 200).await;
    // Does not compress.
    let mut noise = vec![0; 24 << 20];
    let mut state = 88_172_645_463_325_252_u64;
    for chunk in noise.chunks_mut(8) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        chunk.copy_from_slice(&state.to_le_bytes());
    }
    std::fs::write(world.path("one/noise"), &noise).unwrap();
    world.git("one", &["add", "."]).await;
    world.git("one", &["commit", "-q", "-m", "noise"]).await;
    world.post("/git/push", json!({"path": "one"}), 200).await;
    assert!(server.remote.bytes.load(std::sync::atomic::Ordering::Relaxed) > 24 << 20);
    world.post("/git/clone", json!({"url": server.url("hub.git"), "path": "two"}), 200).await;
    assert!(std::fs::read(world.path("two/noise")).unwrap() == noise);
}

#[tokio::test]
async fn shallow_clones_and_commits() {
    let world = World::new();
    world.repository("seed").await;
    for number in 0..5 {
        commit(&world, "seed", &format!("{number}.txt"), "x\n").await;
    }
    world.git("seed", &["checkout", "-q", "-b", "side", "HEAD~3"]).await;
    commit(&world, "seed", "side.txt", "side\n").await;
    let side = world.git("seed", &["rev-parse", "HEAD"]).await.trim().to_owned();
    world.git("seed", &["checkout", "-q", "main"]).await;
    world.bare("seed", "hub.git").await;
    let server = Remote::new(&world.sandbox, None).serve().await;
    let url = server.url("hub.git");
    world.post("/git/clone", json!({"url": url, "path": "shallow", "depth": 2}), 200).await;
    assert_eq!(world.git("shallow", &["rev-list", "--count", "HEAD"]).await, "2\n");
    assert_eq!(world.get("/git/history?path=shallow").await.as_array().unwrap().len(), 2);
    commit(&world, "seed", "late.txt", "x\n").await;
    world.git("seed", &["push", "-q", "../hub.git", "main"]).await;
    world.post("/git/pull", json!({"path": "shallow"}), 200).await;
    assert_eq!(world.git("shallow", &["rev-list", "--count", "HEAD"]).await, "3\n");
    commit(&world, "shallow", "mine.txt", "x\n").await;
    world.post("/git/push", json!({"path": "shallow"}), 200).await;

    let old = world.git("seed", &["rev-parse", "HEAD~2"]).await.trim().to_owned();
    world.post("/git/clone", json!({"url": url, "path": "old", "commit_id": old}), 200).await;
    assert_eq!(world.get("/git/status?path=old").await["detached"], true);
    assert_eq!(
        (world.git("old", &["rev-parse", "HEAD"]).await.trim(), world.path("old/late.txt").exists()),
        (old.as_str(), false)
    );
    // A commit of a branch that the clone did not ask for.
    world.post("/git/clone", json!({"url": url, "path": "side", "commit_id": side}), 200).await;
    assert_eq!(world.text("side/side.txt"), "side\n");
    world.post("/git/clone", json!({"url": url, "path": "side2", "branch": "side"}), 200).await;
    assert_eq!(world.get("/git/branches?path=side2").await, json!({"branches": ["side"], "current": "side"}));
}

#[tokio::test]
async fn paths_and_file_urls() {
    let world = World::new();
    world.repository("seed").await;
    world.bare("seed", "hub.git").await;
    let url = format!("file://{}", world.path("hub.git").display());
    world.post("/git/clone", json!({"url": url, "path": "one", "depth": 1}), 200).await;
    std::fs::create_dir(world.path("two")).unwrap();
    world.post("/git/clone", json!({"url": "hub.git", "path": "two"}), 200).await;
    commit(&world, "one", "b.txt", "b\n").await;
    world.post("/git/push", json!({"path": "one"}), 200).await;
    world.post("/git/pull", json!({"path": "two"}), 200).await;
    assert_eq!(world.text("two/b.txt"), "b\n");
    commit(&world, "two", "c.txt", "c\n").await;
    commit(&world, "one", "d.txt", "d\n").await;
    world.post("/git/push", json!({"path": "one"}), 200).await;
    world.fails("POST", "/git/push", json!({"path": "two"}), 409, "GIT_PUSH_REJECTED").await;
    // The branch that a working tree has checked out.
    world.post("/git/clone", json!({"url": "seed", "path": "three"}), 200).await;
    commit(&world, "three", "e.txt", "e\n").await;
    world.fails("POST", "/git/push", json!({"path": "three"}), 422, "GIT_REMOTE_REJECTED").await;
    // A relative path means the same as to git.
    world.git("two", &["reset", "-q", "--hard", "HEAD~1"]).await;
    world.git("two", &["remote", "set-url", "origin", "../hub.git"]).await;
    world.post("/git/pull", json!({"path": "two"}), 200).await;
    commit(&world, "two", "f.txt", "f\n").await;
    world.post("/git/push", json!({"path": "two"}), 200).await;
    assert_eq!(world.git("two", &["status", "-sb"]).await, "## main...origin/main\n");
    // A failed clone into a directory that exists leaves it empty.
    std::fs::create_dir(world.path("four")).unwrap();
    world
        .fails(
            "POST",
            "/git/clone",
            json!({"url": "hub.git", "path": "four", "commit_id": "abcdef12"}),
            404,
            "GIT_BRANCH_NOT_FOUND",
        )
        .await;
    assert_eq!(std::fs::read_dir(world.path("four")).unwrap().count(), 0);
}

#[tokio::test]
async fn gits_own_daemon() {
    let world = World::new();
    world.repository("seed").await;
    world.bare("seed", "hub.git").await;
    let port = pinfold_testing::free_port();
    let mut command = Command::new("git");
    world.sandbox.environment.apply(&mut command, []);
    command.args(["daemon", "--reuseaddr", "--export-all", "--enable=receive-pack", "--listen=127.0.0.1"]);
    command.arg(format!("--port={port}")).arg(format!("--base-path={}", world.sandbox.work_dir.display()));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let daemon = world.sandbox.spawner.spawn(command).unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    while tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_err() {
        assert!(Instant::now() < deadline, "git daemon did not listen");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let url = |name: &str| format!("git://127.0.0.1:{port}/{name}");
    world.post("/git/clone", json!({"url": url("hub.git"), "path": "one"}), 200).await;
    commit(&world, "one", "b.txt", "b\n").await;
    world.post("/git/push", json!({"path": "one"}), 200).await;
    world
        .fails("POST", "/git/clone", json!({"url": url("nope.git"), "path": "x"}), 404, "GIT_REPO_NOT_FOUND")
        .await;
    daemon.kill_tree();
}

#[tokio::test]
async fn a_client_that_goes_away_ends_the_operation() {
    let world = World::new();
    let server = Remote::new(&world.sandbox, None).serve().await;
    let body = json!({"url": server.url("silent/hub.git"), "path": "x/y"});
    let call = world.call("POST", "/git/clone", body);
    assert!(tokio::time::timeout(Duration::from_millis(300), call).await.is_err());
    // The lock is free and the place is clean once the operation has noticed.
    let seed = async {
        world.repository("seed").await;
        world.post("/git/clone", json!({"url": "seed", "path": "x/y"}), 200).await;
    };
    tokio::time::timeout(Duration::from_secs(60), seed).await.expect("the cancelled clone holds its lock");
    let names: Vec<_> =
        std::fs::read_dir(world.path("x")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["y"]);
}

#[tokio::test]
async fn an_operation_has_the_limit_that_is_set() {
    for variables in [
        &[("PINFOLD_GIT_TIMEOUT", "300ms")][..],
        &[("PINFOLD_GIT_TIMEOUT", "300ms"), ("DAYTONA_EXPERIMENTAL_USE_GIT_CLI", "true")],
    ] {
        let world = World::with(variables);
        let server = Remote::new(&world.sandbox, None).serve().await;
        let start = Instant::now();
        let body = json!({"url": server.url("silent/hub.git"), "path": "x"});
        let text = world.fails("POST", "/git/clone", body, 502, "GIT_TRANSPORT_FAILED").await;
        assert!(text.contains("limit of 300ms") && start.elapsed() < Duration::from_secs(55), "{text}");
    }
}

#[tokio::test]
async fn the_command_line_carries_transfers_when_asked() {
    let world = World::with(&[("DAYTONA_EXPERIMENTAL_USE_GIT_CLI", "true")]);
    world.repository("seed").await;
    world.bare("seed", "hub.git").await;
    let server = Remote::new(&world.sandbox, Some(LOGIN)).serve().await;
    let url = server.url("hub.git");
    let with = |path: &str| json!({"url": url, "path": path, "username": "ann", "password": "s3cret"});
    world.fails("POST", "/git/clone", json!({"url": url, "path": "x"}), 401, "GIT_AUTH_FAILED").await;
    let wrong = json!({"url": url, "path": "x", "username": "ann", "password": "guess"});
    let text = world.fails("POST", "/git/clone", wrong, 401, "GIT_AUTH_FAILED").await;
    assert!(!text.contains("guess"), "{text}");
    world.post("/git/clone", with("one"), 200).await;
    world.post("/git/clone", with("two"), 200).await;
    assert!(!world.text("one/.git/config").contains("s3cret"));
    commit(&world, "one", "b.txt", "b\n").await;
    world.post("/git/push", with("one"), 200).await;
    commit(&world, "two", "c.txt", "c\n").await;
    world.fails("POST", "/git/push", with("two"), 409, "GIT_PUSH_REJECTED").await;
    world.git("two", &["reset", "-q", "--hard", "HEAD~1"]).await;
    world.post("/git/pull", with("two"), 200).await;
    assert_eq!(world.text("two/b.txt"), "b\n");
    world
        .fails(
            "POST",
            "/git/clone",
            json!({"url": server.url("nope.git"), "path": "x", "username": "ann", "password": "s3cret"}),
            404,
            "GIT_REPO_NOT_FOUND",
        )
        .await;
    world
        .fails(
            "POST",
            "/git/clone",
            json!({"url": "http://127.0.0.1:1/x", "path": "x"}),
            502,
            "GIT_TRANSPORT_FAILED",
        )
        .await;
    world
        .fails(
            "POST",
            "/git/clone",
            json!({"url": "ssh://127.0.0.1:1/x", "path": "x"}),
            502,
            "GIT_TRANSPORT_FAILED",
        )
        .await;
}
