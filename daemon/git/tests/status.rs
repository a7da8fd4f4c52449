//! `/git/status` says what `git status --porcelain=v2 --branch -uall` says, on generated repositories.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use common::World;
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use serde_json::{Value, json};

const NAMES: &[&str] = &["a.txt", "b c.txt", "dir/d.txt", "dir/é.txt", "dir/sub/f", "z\"q\".txt", "x/y/z"];

/// What happens to a committed file before `git add -A`, and after it.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Act {
    Keep,
    Edit,
    Rewrite,
    Delete,
    Rename,
    RenameAndEdit,
    Executable,
    Symlink,
    Folder,
    /// Out of the index, still there. Before `add` only.
    Forget,
}

fn act() -> impl Strategy<Value = Act> {
    use Act::{Delete, Edit, Executable, Folder, Forget, Keep, Rename, RenameAndEdit, Rewrite, Symlink};
    let acts = vec![
        Keep,
        Keep,
        Keep,
        Edit,
        Rewrite,
        Delete,
        Rename,
        RenameAndEdit,
        Executable,
        Symlink,
        Folder,
        Forget,
    ];
    prop::sample::select(acts)
}

/// Long enough that one changed line keeps two versions alike, and different for every file.
fn content(name: &str, edited: usize) -> String {
    (0..30)
        .map(|line| {
            if line < edited {
                format!("edit {edited} {name}\n")
            } else {
                format!("{line} of {name} {name}\n")
            }
        })
        .collect()
}

fn apply(root: &Path, name: &str, act: Act, edits: usize) {
    let path = root.join(name);
    if fs::symlink_metadata(&path).is_err() {
        return;
    }
    let moved = root.join("moved").join(name);
    match act {
        Act::Keep | Act::Forget => {}
        Act::Edit if path.is_file() => fs::write(&path, content(name, edits)).unwrap(),
        Act::Rewrite => {
            fs::remove_file(&path).unwrap();
            fs::write(&path, format!("quite another text {edits}\n").repeat(9)).unwrap();
        }
        Act::Delete => fs::remove_file(&path).unwrap(),
        Act::Rename | Act::RenameAndEdit => {
            fs::create_dir_all(moved.parent().unwrap()).unwrap();
            fs::rename(&path, &moved).unwrap();
            if act == Act::RenameAndEdit && moved.is_file() {
                fs::write(&moved, content(name, edits)).unwrap();
            }
        }
        Act::Executable if path.is_file() => {
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap()
        }
        Act::Symlink => {
            fs::remove_file(&path).unwrap();
            symlink(format!("elsewhere/{name}"), &path).unwrap();
        }
        Act::Folder => {
            fs::remove_file(&path).unwrap();
            fs::create_dir(&path).unwrap();
            fs::write(path.join("inside"), name).unwrap();
        }
        Act::Edit | Act::Executable => {}
    }
}

/// Porcelain v2 in the contract's shape (toolbox contract 12.3).
fn expected(porcelain: &str) -> Value {
    let (mut branch, mut upstream, mut ahead, mut behind) = (String::new(), String::new(), 0, 0);
    let mut files = Vec::new();
    let mut fields = porcelain.split('\0');
    while let Some(field) = fields.next() {
        let word = |at| field.splitn(at + 1, ' ').nth(at).unwrap();
        let letter = |at: usize| match word(1).as_bytes()[at] {
            b'.' => "Unmodified",
            b'M' | b'T' => "Modified",
            b'A' => "Added",
            b'D' => "Deleted",
            b'R' => "Renamed",
            b'C' => "Copied",
            other => panic!("{other}"),
        };
        let file = |name: &str, extra: &str, staging: &str, worktree: &str| json!({"name": name, "extra": extra, "staging": staging, "worktree": worktree});
        match field.split(' ').next().unwrap() {
            "#" => match field.split(' ').collect::<Vec<_>>()[1..] {
                ["branch.head", name] => branch = name.to_owned(),
                ["branch.upstream", name] => upstream = name.to_owned(),
                ["branch.ab", a, b] => {
                    (ahead, behind) = (a.parse::<i32>().unwrap(), -b.parse::<i32>().unwrap())
                }
                _ => {}
            },
            "1" => files.push(file(word(8), "", letter(0), letter(1))),
            "2" => files.push(file(word(9), fields.next().unwrap(), letter(0), letter(1))),
            "u" => files.push(file(word(10), "", "Updated but unmerged", "Updated but unmerged")),
            "?" => files.push(file(word(1), "", "Untracked", "Untracked")),
            _ => {}
        }
    }
    let detached = branch == "(detached)";
    json!({
        "currentBranch": if detached { "HEAD".to_owned() } else { branch }, "detached": detached, "branchPublished": !upstream.is_empty(),
        "upstream": upstream, "ahead": ahead, "behind": behind, "fileStatus": files,
    })
}

async fn same(world: &World, name: &str) -> Result<(), TestCaseError> {
    let git = world.git(name, &["status", "--porcelain=v2", "--branch", "-z", "-uall"]).await;
    let ours = world.get(&format!("/git/status?path={name}")).await;
    prop_assert_eq!(ours, expected(&git), "{}", git.replace('\0', "\n"));
    Ok(())
}

/// What is set from outside wins.
fn repositories() -> ProptestConfig {
    let default = ProptestConfig::default();
    let (cases, seed) = (std::env::var_os("PROPTEST_CASES"), std::env::var_os("PROPTEST_RNG_SEED"));
    ProptestConfig {
        cases: if cases.is_some() { default.cases } else { 50 },
        rng_seed: if seed.is_some() { default.rng_seed } else { RngSeed::Fixed(1) },
        ..default
    }
}

proptest! {
    // The same repositories each time: what git's own heuristics make of others is found out with `PROPTEST_RNG_SEED` and `PROPTEST_CASES`, not by chance.
    #![proptest_config(ProptestConfig { max_shrink_iters: 300, failure_persistence: None, ..repositories() })]

    #[test]
    fn says_what_git_says(
        acts in prop::collection::vec((act(), 1usize..9, act(), 10usize..14), NAMES.len()),
        untracked in prop::collection::btree_set(prop::sample::select(vec!["new", "dir/new", "u/v/w", "x/skip.log", "ignored/x"]), 0..5),
        staged in any::<bool>(),
    ) {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            let world = World::new();
            let root = world.path("r");
            for name in NAMES {
                world.write(&format!("r/{name}"), &content(name, 0));
            }
            world.write("r/.gitignore", "*.log\nignored/\n");
            world.git("r", &["init", "-q", "-b", "main"]).await;
            world.git("r", &["add", "-A"]).await;
            world.git("r", &["commit", "-q", "-m", "first"]).await;
            for (name, (act, edits, _, _)) in NAMES.iter().zip(&acts) {
                apply(&root, name, *act, *edits);
            }
            if staged {
                world.write("r/staged/new", "staged\n");
            }
            world.git("r", &["add", "-A"]).await;
            let forgotten: Vec<_> = NAMES.iter().zip(&acts).filter(|(_, acts)| acts.0 == Act::Forget).map(|(name, _)| *name).collect();
            if !forgotten.is_empty() {
                world.git("r", &[&["rm", "-q", "--cached", "--"], &forgotten[..]].concat()).await;
            }
            for (name, (_, _, act, edits)) in NAMES.iter().zip(&acts) {
                if root.join(name).is_dir() {
                    continue;
                }
                apply(&root, name, *act, *edits);
            }
            let untracked: BTreeSet<_> = untracked;
            for name in untracked {
                if !root.join(name).parent().unwrap().is_file() {
                    world.write(&format!("r/{name}"), "new\n");
                }
            }
            same(&world, "r").await
        })?;
    }
}

#[tokio::test]
async fn merges_branches_and_submodules() {
    let world = World::new();
    world.repository("r").await;
    let commit = async |branch: &str, files: &[(&str, Option<&str>)]| {
        for (name, text) in files {
            match text {
                Some(text) => world.write(&format!("r/{name}"), text),
                None => fs::remove_file(world.path(&format!("r/{name}"))).unwrap(),
            }
        }
        world.git("r", &["add", "-A"]).await;
        world.git("r", &["commit", "-q", "-m", branch]).await;
    };
    commit("base", &[("both", Some("1\n")), ("gone", Some("1\n")), ("kept", Some("1\n"))]).await;
    world.git("r", &["checkout", "-q", "-b", "side"]).await;
    commit("side", &[("both", Some("2\n")), ("gone", None), ("added", Some("2\n"))]).await;
    world.git("r", &["checkout", "-q", "main"]).await;
    commit("main", &[("both", Some("3\n")), ("gone", Some("3\n")), ("added", Some("3\n"))]).await;
    world.try_git("r", &["merge", "-q", "side"]).await;
    world.write("r/loose", "");
    let status = world.get("/git/status?path=r").await;
    assert_eq!(status["fileStatus"].as_array().unwrap().len(), 4, "{status}");
    same(&world, "r").await.unwrap();
    // Nothing is committed or switched meanwhile; concluding the merge makes a commit with two parents.
    let body = json!({"path": "r", "message": "m", "author": "a", "email": "e"});
    world.fails("POST", "/git/commit", body.clone(), 409, "GIT_MERGE_CONFLICT").await;
    world
        .fails("POST", "/git/checkout", json!({"path": "r", "branch": "side"}), 409, "GIT_DIRTY_WORKTREE")
        .await;
    for name in ["both", "gone", "added"] {
        world.write(&format!("r/{name}"), "4\n");
        world.post("/git/add", json!({"path": "r", "files": [name]}), 200).await;
    }
    assert_eq!(world.call("POST", "/git/commit", body).await.0, 200);
    assert_eq!(world.git("r", &["rev-list", "--parents", "-1", "HEAD"]).await.split(' ').count(), 3);
    assert_eq!(world.git("r", &["status", "--porcelain"]).await, "?? loose\n");

    world.git(".", &["clone", "-q", "r", "copy"]).await;
    world.write("copy/more", "");
    world.git("copy", &["add", "."]).await;
    world.git("copy", &["commit", "-q", "-m", "ahead"]).await;
    commit("behind", &[("later", Some(""))]).await;
    world.git("copy", &["fetch", "-q"]).await;
    same(&world, "copy").await.unwrap();
    world.git("copy", &["branch", "-q", "-dr", "origin/main"]).await;
    same(&world, "copy").await.unwrap();
    world
        .git("copy", &["-c", "protocol.file.allow=always", "submodule", "--quiet", "add", "../r", "module"])
        .await;
    same(&world, "copy").await.unwrap();
    world.git("copy", &["commit", "-q", "-m", "module"]).await;
    world.write("copy/module/a.txt", "changed\n");
    world.git("copy", &["checkout", "-q", "--detach"]).await;
    same(&world, "copy").await.unwrap();
    // A repository in the tree that is no submodule.
    world.git("copy", &["init", "-q", "nested"]).await;
    world.write("copy/nested/file", "");
    same(&world, "copy").await.unwrap();
}
