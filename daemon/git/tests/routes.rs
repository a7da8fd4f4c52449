//! Every route that needs no remote, over real repositories.

mod common;

use common::World;
use serde_json::{Value, json};

#[tokio::test]
async fn from_init_to_history() {
    let world = World::new();
    world.post("/git/init", json!({"path": "new/repo", "initial_branch": "trunk"}), 201).await;
    world.fails("GET", "/git/status?path=new/repo", Value::Null, 404, "GIT_BRANCH_NOT_FOUND").await;
    world.fails("GET", "/git/history?path=new/repo", Value::Null, 404, "GIT_BRANCH_NOT_FOUND").await;
    assert_eq!(world.get("/git/branches?path=new/repo").await, json!({"branches": [], "current": "trunk"}));
    world.write("new/repo/sub/b.txt", "b\n");
    world.write("new/repo/ä.txt", "a\n");
    world.post("/git/add", json!({"path": "new/repo", "files": ["."]}), 200).await;
    let commit = json!({"path": "new/repo", "message": "first", "author": "Ann", "email": "ann@example.org"});
    let (status, answer) = world.call("POST", "/git/commit", commit.clone()).await;
    assert_eq!(status, 200);
    let hash = answer["hash"].as_str().unwrap();
    assert_eq!(hash, world.git("new/repo", &["rev-parse", "HEAD"]).await.trim());
    // Nothing is staged now.
    world.fails("POST", "/git/commit", commit, 409, "CONFLICT").await;
    let empty = json!({"path": "new/repo", "message": "second\n\nbody\n", "author": "Ann", "email": "a@b", "allow_empty": true});
    assert_eq!(world.call("POST", "/git/commit", empty).await.0, 200);
    let history = world.get("/git/history?path=new/repo").await;
    assert_eq!(history.as_array().unwrap().len(), 2);
    assert_eq!(history[0]["message"], "second\n\nbody\n");
    assert_eq!(
        (&history[1]["hash"], &history[1]["author"], &history[1]["message"]),
        (&json!(hash), &json!("Ann"), &json!("first\n"))
    );
    let when = history[1]["timestamp"].as_str().unwrap();
    let git = world.git("new/repo", &["log", "--skip=1", "--format=%aI"]).await;
    assert_eq!(when.parse::<jiff::Timestamp>().unwrap(), git.trim().parse::<jiff::Timestamp>().unwrap());
    let page = world.get("/git/history?path=new/repo&skip=1&limit=1").await;
    assert_eq!((page.as_array().unwrap().len(), &page[0]["hash"]), (1, &json!(hash)));
    let status = world.get("/git/status?path=new/repo").await;
    assert_eq!(
        status,
        json!({"currentBranch": "trunk", "fileStatus": [], "branchPublished": false, "ahead": 0, "behind": 0, "detached": false, "upstream": ""})
    );
}

#[tokio::test]
async fn required_members_are_required() {
    let world = World::new();
    for (route, body) in [
        ("/git/clone", json!({"url": "", "path": "x"})),
        ("/git/branches", json!({"path": "x"})),
        ("/git/add", json!({"path": "x", "files": null})),
        ("/git/commit", json!({"path": "x", "message": "", "author": "a", "email": "b"})),
        ("/git/restore", json!({"path": "x", "files": []})),
        ("/git/credentials", json!({"username": "a"})),
    ] {
        world.fails("POST", route, body, 400, "INVALID_REQUEST_BODY").await;
    }
    world.fails("GET", "/git/status", Value::Null, 400, "BAD_REQUEST").await;
    world.fails("GET", "/git/status?path=nowhere", Value::Null, 404, "GIT_REPO_NOT_FOUND").await;
    std::fs::create_dir(world.path("plain")).unwrap();
    world.fails("GET", "/git/branches?path=plain", Value::Null, 404, "GIT_REPO_NOT_FOUND").await;
}

#[tokio::test]
async fn branches_are_made_switched_and_deleted() {
    let world = World::new();
    world.repository("r").await;
    world.post("/git/branches", json!({"path": "r", "name": "dev"}), 201).await;
    assert_eq!(
        world.get("/git/branches?path=r").await,
        json!({"branches": ["dev", "main"], "current": "dev"})
    );
    world
        .fails("POST", "/git/branches", json!({"path": "r", "name": "main"}), 409, "GIT_BRANCH_EXISTS")
        .await;
    world.fails("POST", "/git/branches", json!({"path": "r", "name": "a..b"}), 400, "BAD_REQUEST").await;
    world.fails("DELETE", "/git/branches", json!({"path": "r", "name": "dev"}), 409, "CONFLICT").await;
    world
        .fails("DELETE", "/git/branches", json!({"path": "r", "name": "no"}), 404, "GIT_BRANCH_NOT_FOUND")
        .await;
    world.post("/git/checkout", json!({"path": "r", "branch": "main"}), 200).await;
    let (status, body) = world.call("DELETE", "/git/branches", json!({"path": "r", "name": "dev"})).await;
    assert_eq!((status.as_u16(), body), (204, Value::Null));
    for unknown in ["master", "dev", "0123456789012345678901234567890123456789", "HEAD~1"] {
        world
            .fails(
                "POST",
                "/git/checkout",
                json!({"path": "r", "branch": unknown}),
                404,
                "GIT_BRANCH_NOT_FOUND",
            )
            .await;
    }
    let hash = world.git("r", &["rev-parse", "HEAD"]).await;
    world.post("/git/checkout", json!({"path": "r", "branch": hash.trim()}), 200).await;
    assert_eq!(world.get("/git/branches?path=r").await["current"], "");
    let status = world.get("/git/status?path=r").await;
    assert_eq!((&status["currentBranch"], &status["detached"]), (&json!("HEAD"), &json!(true)));
}

#[tokio::test]
async fn a_checkout_keeps_changes_it_can_and_refuses_otherwise() {
    let world = World::new();
    world.repository("r").await;
    world.git("r", &["checkout", "-q", "-b", "dev"]).await;
    world.write("r/a.txt", "two\n");
    world.write("r/b.txt", "b\n");
    world.git("r", &["add", "."]).await;
    world.git("r", &["commit", "-q", "-m", "second"]).await;
    let to = |branch: &str| json!({"path": "r", "branch": branch});
    // A change to a file that both have alike is carried over.
    world.post("/git/checkout", to("main"), 200).await;
    assert!(!world.path("r/b.txt").exists());
    world.write("r/c.txt", "untracked\n");
    world.post("/git/checkout", to("dev"), 200).await;
    assert_eq!((world.text("r/c.txt"), world.text("r/a.txt")), ("untracked\n".into(), "two\n".into()));
    world.write("r/a.txt", "mine\n");
    world.fails("POST", "/git/checkout", to("main"), 409, "GIT_DIRTY_WORKTREE").await;
    assert_eq!(world.text("r/a.txt"), "mine\n");
    // Staged only: the working tree has the committed content again.
    world.git("r", &["add", "a.txt"]).await;
    world.write("r/a.txt", "two\n");
    world.fails("POST", "/git/checkout", to("main"), 409, "GIT_DIRTY_WORKTREE").await;
    assert_eq!(world.git("r", &["show", ":a.txt"]).await, "mine\n");
    // An untracked file in the way.
    world.git("r", &["reset", "-q", "--hard"]).await;
    world.git("r", &["checkout", "-q", "main"]).await;
    world.write("r/b.txt", "in the way\n");
    world.fails("POST", "/git/checkout", to("dev"), 409, "GIT_DIRTY_WORKTREE").await;
    assert_eq!(world.text("r/b.txt"), "in the way\n");
    assert_eq!(world.git("r", &["branch", "--show-current"]).await.trim(), "main");
}

#[tokio::test]
async fn add_takes_paths_folders_patterns_and_deletions() {
    let world = World::new();
    world.repository("r").await;
    world.write("r/.gitignore", "*.log\n");
    world.write("r/d/x.txt", "x\n");
    world.write("r/d/[y].txt", "y\n");
    world.write("r/d/z.log", "z\n");
    let add = |files: &[&str]| json!({"path": "r", "files": files});
    world.fails("POST", "/git/add", add(&["a.txt", "nope.txt"]), 400, "BAD_REQUEST").await;
    world.fails("POST", "/git/add", add(&["d/z.log"]), 400, "BAD_REQUEST").await;
    world.fails("POST", "/git/add", add(&["../r2"]), 400, "BAD_REQUEST").await;
    world.post("/git/add", add(&["d/[y].txt"]), 200).await;
    assert_eq!(world.git("r", &["ls-files"]).await, "a.txt\nd/[y].txt\n");
    let absolute = world.path("r/d/x.txt");
    world.post("/git/add", add(&["a.txt", absolute.to_str().unwrap()]), 200).await;
    assert_eq!(world.git("r", &["ls-files"]).await, "a.txt\nd/[y].txt\nd/x.txt\n");
    std::fs::remove_file(world.path("r/a.txt")).unwrap();
    world.post("/git/add", add(&["a.txt"]), 200).await;
    assert_eq!(world.git("r", &["ls-files"]).await, "d/[y].txt\nd/x.txt\n");
    std::fs::remove_dir_all(world.path("r/d")).unwrap();
    world.write("r/e.py", "e\n");
    world.write("r/f.txt", "f\n");
    world.post("/git/add", add(&["d", "*.py"]), 200).await;
    assert_eq!(world.git("r", &["ls-files"]).await, "e.py\n");
    world.post("/git/add", add(&["."]), 200).await;
    assert_eq!(world.git("r", &["ls-files"]).await, ".gitignore\ne.py\nf.txt\n");
}

#[tokio::test]
async fn the_five_resets_do_what_gits_do() {
    let world = World::new();
    world.repository("seed").await;
    world.write("seed/other.txt", "o\n");
    world.git("seed", &["add", "."]).await;
    world.git("seed", &["commit", "-q", "--amend", "-m", "first"]).await;
    world.write("seed/a.txt", "two\n");
    world.git("seed", &["commit", "-q", "-a", "-m", "second"]).await;
    // Staged, unstaged and both; to HEAD and to its parent: the outcome is git's own.
    for change in ["none", "staged other", "unstaged other", "staged", "unstaged", "both"] {
        let start = format!("start {change}");
        world.copy("seed", &start);
        let file = if change.ends_with("other") { "other.txt" } else { "a.txt" };
        if change.starts_with("staged") || change == "both" {
            world.write(&format!("{start}/{file}"), "staged\n");
            world.git(&start, &["add", "."]).await;
        }
        if change.starts_with("unstaged") || change == "both" {
            world.write(&format!("{start}/{file}"), "unstaged\n");
        }
        for mode in ["soft", "mixed", "hard", "merge", "keep"] {
            for target in ["HEAD", "HEAD~1"] {
                let (ours, theirs) =
                    (format!("ours {change} {mode} {target}"), format!("theirs {change} {mode} {target}"));
                world.copy(&start, &ours);
                world.copy(&start, &theirs);
                // A copy's index knows other inodes, which git takes for changes.
                world.git(&theirs, &["status"]).await;
                let (exit, output) =
                    world.try_git(&theirs, &["reset", "-q", &format!("--{mode}"), target]).await;
                let body = json!({"path": ours, "mode": mode, "target": target});
                let (status, answer) = world.call("POST", "/git/reset", body).await;
                let what = format!("{mode} {target} {change}: git {output:?}, we {answer}");
                assert_eq!(status.is_success(), exit == pinfold_spawn::Exit::Code(0), "{what}");
                if !status.is_success() {
                    assert_eq!(
                        (status.as_u16(), &answer["code"]),
                        (409, &json!("GIT_DIRTY_WORKTREE")),
                        "{what}"
                    );
                }
                // Names HEAD's commit and every entry that differs; the files' texts are compared beside it.
                let command = ["status", "--porcelain=v2", "--branch"];
                assert_eq!(world.git(&ours, &command).await, world.git(&theirs, &command).await, "{what}");
                for name in ["a.txt", "other.txt"] {
                    assert_eq!(
                        world.text(&format!("{ours}/{name}")),
                        world.text(&format!("{theirs}/{name}")),
                        "{what}"
                    );
                }
            }
        }
    }
}

#[tokio::test]
async fn reset_of_files_and_bad_resets() {
    let world = World::new();
    world.repository("r").await;
    world.write("r/a.txt", "two\n");
    world.write("r/b.txt", "b\n");
    world.git("r", &["add", "."]).await;
    world.post("/git/reset", json!({"path": "r", "files": ["b.txt"]}), 200).await;
    assert_eq!(world.git("r", &["status", "--porcelain"]).await, "M  a.txt\n?? b.txt\n");
    world
        .fails(
            "POST",
            "/git/reset",
            json!({"path": "r", "mode": "hard", "files": ["b.txt"]}),
            400,
            "BAD_REQUEST",
        )
        .await;
    world.fails("POST", "/git/reset", json!({"path": "r", "mode": "worse"}), 400, "BAD_REQUEST").await;
    world
        .fails("POST", "/git/reset", json!({"path": "r", "target": "nope"}), 404, "GIT_BRANCH_NOT_FOUND")
        .await;
}

#[tokio::test]
async fn restore_takes_from_index_head_or_revision() {
    let world = World::new();
    world.repository("r").await;
    world.write("r/a.txt", "two\n");
    world.write("r/gone.txt", "g\n");
    world.git("r", &["add", "."]).await;
    world.git("r", &["commit", "-q", "-m", "second"]).await;
    world.write("r/a.txt", "staged\n");
    world.git("r", &["add", "."]).await;
    world.write("r/a.txt", "unstaged\n");
    let restore = |more: Value| {
        let mut body = json!({"path": "r", "files": ["a.txt"]});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body
    };
    world.post("/git/restore", restore(json!({})), 200).await;
    assert_eq!(world.text("r/a.txt"), "staged\n");
    world.post("/git/restore", restore(json!({"staged": true})), 200).await;
    assert_eq!(
        (world.text("r/a.txt"), world.git("r", &["show", ":a.txt"]).await),
        ("staged\n".into(), "two\n".into())
    );
    world.post("/git/restore", restore(json!({"source": "HEAD~1"})), 200).await;
    assert_eq!(
        (world.text("r/a.txt"), world.git("r", &["show", ":a.txt"]).await),
        ("one\n".into(), "two\n".into())
    );
    let both = json!({"staged": true, "worktree": true, "source": "HEAD~1", "files": ["."]});
    world.post("/git/restore", restore(both), 200).await;
    // As git does: what the source lacks goes, from the index and from the working tree.
    assert_eq!(world.git("r", &["ls-files"]).await, "a.txt\n");
    assert!(!world.path("r/gone.txt").exists());
    world.fails("POST", "/git/restore", restore(json!({"files": ["nope"]})), 400, "BAD_REQUEST").await;
    world
        .fails("POST", "/git/restore", restore(json!({"source": "nope"})), 404, "GIT_BRANCH_NOT_FOUND")
        .await;
}

#[tokio::test]
async fn configuration_has_scopes() {
    let world = World::new();
    world.repository("r").await;
    let unset = world.get("/git/config?key=pinfold.nothing").await;
    assert_eq!(unset, json!({"value": null}));
    world.post("/git/config", json!({"key": "pinfold.word", "value": "grün"}), 200).await;
    world
        .post(
            "/git/config",
            json!({"key": "pinfold.word", "value": "blau", "scope": "local", "path": "r"}),
            200,
        )
        .await;
    assert_eq!(world.get("/git/config?key=pinfold.word").await, json!({"value": "grün"}));
    assert_eq!(world.get("/git/config?key=pinfold.word&scope=local&path=r").await, json!({"value": "blau"}));
    assert_eq!(world.git("r", &["config", "--global", "pinfold.word"]).await, "grün\n");
    world
        .post(
            "/git/config/user",
            json!({"name": "Ann", "email": "ann@b", "scope": "local", "path": "r"}),
            200,
        )
        .await;
    assert_eq!(world.git("r", &["config", "user.email"]).await, "ann@b\n");
    world.fails("GET", "/git/config?key=plain", Value::Null, 400, "BAD_REQUEST").await;
    world.fails("GET", "/git/config?key=a.b&scope=local", Value::Null, 400, "BAD_REQUEST").await;
    world.fails("GET", "/git/config?key=a.b&scope=odd", Value::Null, 400, "BAD_REQUEST").await;
}

#[tokio::test]
async fn remotes_are_listed_added_and_replaced() {
    let world = World::new();
    world.repository("r").await;
    world.repository("other").await;
    assert_eq!(world.get("/git/remotes?path=r").await, json!({"remotes": []}));
    let url = world.path("other").to_str().unwrap().to_owned();
    let add = |more: Value| {
        let mut body = json!({"path": "r", "name": "up", "url": url});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body
    };
    world.post("/git/remotes", add(json!({"fetch": true})), 201).await;
    assert_eq!(
        world.git("r", &["rev-parse", "up/main"]).await,
        world.git("other", &["rev-parse", "main"]).await
    );
    world.fails("POST", "/git/remotes", add(json!({})), 409, "CONFLICT").await;
    world.post("/git/remotes", add(json!({"url": "https://example.org/x", "overwrite": true})), 201).await;
    let remotes = json!({"remotes": [{"name": "up", "url": "https://example.org/x"}]});
    assert_eq!(world.get("/git/remotes?path=r").await, remotes);
    world.fails("POST", "/git/remotes", add(json!({"name": "a..b"})), 400, "BAD_REQUEST").await;
}

#[tokio::test]
async fn writers_of_one_repository_take_turns() {
    let world = World::new();
    world.repository("r").await;
    let calls = (0..24).map(|number| {
        let world = &world;
        async move {
            world.write(&format!("r/{number}.txt"), "x\n");
            // The same repository by different names.
            let path = if number % 2 == 0 { "r" } else { "./r/../r" };
            world.post("/git/add", json!({"path": path, "files": [format!("{number}.txt")]}), 200).await;
            let commit =
                json!({"path": path, "message": "m", "author": "a", "email": "e", "allow_empty": true});
            assert_eq!(world.call("POST", "/git/commit", commit).await.0, 200);
        }
    });
    futures_util::future::join_all(calls).await;
    assert_eq!(world.git("r", &["rev-list", "--count", "HEAD"]).await, "25\n");
    assert_eq!(world.git("r", &["status", "--porcelain"]).await, "");
}
