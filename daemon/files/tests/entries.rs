//! Listing, describing, creating, moving, deleting, and changing permissions.

#![allow(clippy::unwrap_used)]

mod common;

use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};

use common::{Daemon, encode};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use serde_json::Value;

fn names(list: &Value) -> Vec<&str> {
    list.as_array().unwrap().iter().map(|e| e["name"].as_str().unwrap()).collect()
}

fn fifo(path: &std::path::Path) {
    mknodat(CWD, path, FileType::Fifo, Mode::from_bits_truncate(0o644), 0).unwrap();
}

#[tokio::test]
async fn lists_by_name_with_links_and_depth() {
    let daemon = Daemon::start().await;
    daemon.write("d/sub/deep/z", "");
    daemon.write("d/b", "12345");
    daemon.write("d/Ü ä", "");
    symlink("b", daemon.path("d/link")).unwrap();
    symlink("sub", daemon.path("d/to-sub")).unwrap();
    symlink("nowhere", daemon.path("d/dangling")).unwrap();
    fifo(&daemon.path("d/fifo"));

    for target in ["/files?path=d", "/files/?path=d", "/files?path=d&depth=1&unknown=x"] {
        let answer = daemon.ask("GET", target).await;
        assert_eq!((answer.status, answer.header("content-type")), (200, "application/json; charset=utf-8"));
        assert_eq!(
            names(&answer.json()),
            ["b", "dangling", "fifo", "link", "sub", "to-sub", "Ü ä"],
            "{target}"
        );
    }
    let list = daemon.ask("GET", "/files?path=d").await.json();
    assert_eq!((&list[0]["size"], &list[0]["isDir"]), (&5.into(), &false.into()));
    assert_eq!(list[0]["path"], daemon.path("d/b").to_str().unwrap());
    assert!(list[1]["mode"].as_str().unwrap().starts_with('L'));
    assert_eq!(list[2]["mode"], "prw-r--r--");
    assert_eq!(list[3]["size"], 5, "a link to a file is described as the file");
    assert_eq!(list[5]["isDir"], true, "a link to a directory is described as one");

    let deep = daemon.ask("GET", "/files?path=d&depth=2").await.json();
    assert_eq!(names(&deep), ["b", "dangling", "fifo", "link", "sub", "deep", "to-sub", "Ü ä"]);
    assert_eq!(names(&daemon.ask("GET", "/files?depth=9").await.json()).len(), 10);
    assert_eq!(daemon.ask("GET", "/files?path=d/sub/deep/..%2F..").await.json().as_array().unwrap().len(), 7);

    std::fs::create_dir(daemon.path("empty")).unwrap();
    assert_eq!(daemon.ask("GET", "/files?path=empty").await.body, "[]");
    let errors = [
        ("/files?path=nothing", (404, "FILE_NOT_FOUND")),
        ("/files?path=d/b", (400, "INVALID_FILE_PATH")),
        ("/files?path=d&depth=0", (400, "BAD_REQUEST")),
        ("/files?path=d&depth=x", (400, "BAD_REQUEST")),
        ("/files?path=a%00b", (400, "INVALID_FILE_PATH")),
    ];
    for (target, (status, code)) in errors {
        assert_eq!(daemon.ask("GET", target).await.error(), (status, code.to_owned()), "{target}");
    }
}

#[tokio::test]
async fn a_large_listing_is_sent_while_it_is_made() {
    let daemon = Daemon::start().await;
    std::fs::create_dir(daemon.path("d")).unwrap();
    for n in 0..3000 {
        std::fs::File::create(daemon.path(&format!("d/{n:04}"))).unwrap();
    }
    let answer = daemon.ask("GET", "/files?path=d").await;
    assert!(answer.complete && answer.headers.get("content-length").is_none(), "{:?}", answer.headers);
    let list = answer.json();
    assert_eq!(names(&list), (0..3000).map(|n| format!("{n:04}")).collect::<Vec<_>>());
}

#[tokio::test]
async fn info_has_every_member() {
    let daemon = Daemon::start().await;
    let path = daemon.write("sub/run.sh", "x");
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o4751)).unwrap();
    let time = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::new(1_777_889_472, 120_000_000);
    std::fs::File::open(&path).unwrap().set_modified(time).unwrap();
    let info = daemon.ask("GET", "/files/info?path=./sub//run.sh").await.json();
    let metadata = std::fs::metadata(&path).unwrap();
    assert_eq!(info["name"], "run.sh");
    assert_eq!(info["path"], path.to_str().unwrap());
    assert_eq!(info["size"], 1);
    assert_eq!(info["mode"], "urwxr-x--x");
    assert_eq!(info["permissions"], "0751");
    assert_eq!(info["modifiedAt"], "2026-05-04T10:11:12.12Z");
    assert!(info["modTime"].as_str().unwrap().contains(":11:12.12 "), "{info}");
    assert_eq!(info["owner"], metadata.uid().to_string());
    assert_eq!(info["group"], metadata.gid().to_string());
    assert_eq!(info["isDir"], false);
    let name = |uid| pinfold_spawn::users::by_uid(uid).map(|user| user.name);
    assert_eq!(info["ownerName"].as_str().map(str::to_owned), name(metadata.uid()));
    let group = pinfold_spawn::users::group_name(metadata.gid());
    assert_eq!(info["groupName"].as_str().map(str::to_owned), group);

    let root = daemon.ask("GET", "/files/info?path=/").await.json();
    assert_eq!((&root["name"], &root["path"], &root["isDir"]), (&"/".into(), &"/".into(), &true.into()));
    assert_eq!(daemon.ask("GET", "/files/info?path=/dev/null").await.json()["mode"], "Dcrw-rw-rw-");
    let tmp = daemon.ask("GET", "/files/info?path=/tmp").await.json();
    assert_eq!(tmp["mode"], "dtrwxrwxrwx");

    for (target, error) in
        [("/files/info?path=no", (404, "FILE_NOT_FOUND")), ("/files/info", (400, "BAD_REQUEST"))]
    {
        assert_eq!(daemon.ask("GET", target).await.error(), (error.0, error.1.to_owned()));
    }
}

#[tokio::test]
async fn folders_are_made_with_their_parents() {
    let daemon = Daemon::start().await;
    let made = daemon.ask("POST", "/files/folder?path=a/b/c&mode=700").await;
    assert_eq!((made.status, made.body.len()), (201, 0));
    let mode = |path: &str| std::fs::metadata(daemon.path(path)).unwrap().permissions().mode() & 0o7777;
    assert_eq!((mode("a"), mode("a/b/c")), (0o700, 0o700));
    assert_eq!(daemon.ask("POST", "/files/folder?path=a/b/c&mode=0755").await.status, 201);
    assert_eq!(mode("a/b/c"), 0o700, "an existing directory keeps its mode");
    assert_eq!(daemon.ask("POST", "/files/folder?path=plain").await.status, 201);
    assert_eq!(mode("plain"), 0o755);
    daemon.write("file", "");
    for (target, code) in [
        ("/files/folder?path=x&mode=9", "BAD_REQUEST"),
        ("/files/folder?mode=755", "BAD_REQUEST"),
        ("/files/folder?path=file", "INVALID_FILE_PATH"),
        ("/files/folder?path=file/x", "INVALID_FILE_PATH"),
    ] {
        assert_eq!(daemon.ask("POST", target).await.error(), (400, code.to_owned()), "{target}");
    }
}

#[tokio::test]
async fn deleting_spares_targets_and_needs_recursive_for_trees() {
    let daemon = Daemon::start().await;
    daemon.write("d/x/y", "kept");
    symlink("d", daemon.path("to-d")).unwrap();
    symlink("nowhere", daemon.path("dangling")).unwrap();
    assert_eq!(daemon.ask("DELETE", "/files?path=d").await.error(), (400, "INVALID_FILE_PATH".into()));
    assert_eq!(daemon.ask("DELETE", "/files?path=d&recursive=TRUE").await.status, 400);
    assert_eq!(daemon.ask("DELETE", "/files?path=to-d&recursive=true").await.status, 204);
    assert_eq!(daemon.read("d/x/y"), b"kept");
    let gone = daemon.ask("DELETE", "/files/?path=dangling").await;
    assert_eq!((gone.status, gone.body.len()), (204, 0));
    assert_eq!(daemon.ask("DELETE", "/files?path=d/x/y").await.status, 204);
    assert_eq!(daemon.ask("DELETE", "/files?path=d&recursive=true").await.status, 204);
    assert!(!daemon.path("d").exists());
    assert_eq!(daemon.ask("DELETE", "/files?path=d").await.error(), (404, "FILE_NOT_FOUND".into()));
    for kept in ["/", "/proc", "/sys", "/dev", "/dev/..", "/proc/../sys/"] {
        let answer = daemon.ask("DELETE", &format!("/files?path={}&recursive=true", encode(kept))).await;
        assert_eq!(answer.error(), (400, "BAD_REQUEST".into()), "{kept}");
    }
}

#[tokio::test]
async fn moving_never_overwrites() {
    let daemon = Daemon::start().await;
    daemon.write("a", "A");
    daemon.write("b", "B");
    daemon.write("tree/x", "X");
    let errors = [
        ("a", "b", (409, "CONFLICT")),
        ("a", "a", (409, "CONFLICT")),
        ("none", "c", (404, "FILE_NOT_FOUND")),
        ("a", "none/c", (404, "FILE_NOT_FOUND")),
        ("tree", "tree/inside", (400, "BAD_REQUEST")),
        ("a", "", (400, "BAD_REQUEST")),
    ];
    for (source, destination, (status, code)) in errors {
        let target = format!("/files/move?source={source}&destination={destination}");
        assert_eq!(daemon.ask("POST", &target).await.error(), (status, code.to_owned()), "{target}");
    }
    assert_eq!((daemon.read("a"), daemon.read("b")), (b"A".to_vec(), b"B".to_vec()));
    let moved = daemon.ask("POST", "/files/move?source=tree&destination=other").await;
    assert_eq!((moved.status, moved.body.len()), (200, 0));
    assert_eq!(daemon.read("other/x"), b"X");
    symlink("nowhere", daemon.path("dangling")).unwrap();
    assert_eq!(daemon.ask("POST", "/files/move?source=dangling&destination=moved").await.status, 200);
    assert_eq!(std::fs::read_link(daemon.path("moved")).unwrap().to_str(), Some("nowhere"));
}

#[tokio::test]
async fn moving_between_file_systems_keeps_what_a_tree_is() {
    let daemon = Daemon::start().await;
    let Ok(shm) = tempfile::tempdir_in("/dev/shm") else {
        panic!("/dev/shm is needed for a second file system")
    };
    assert_ne!(shm.path().metadata().unwrap().dev(), daemon.directory.path().metadata().unwrap().dev());
    daemon.write("tree/sub/file", vec![7; 3 << 20]);
    let file = daemon.path("tree/sub/file");
    std::fs::hard_link(&file, daemon.path("tree/again")).unwrap();
    symlink("sub/file", daemon.path("tree/link")).unwrap();
    symlink("nowhere", daemon.path("tree/dangling")).unwrap();
    fifo(&daemon.path("tree/fifo"));
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o4751)).unwrap();
    std::fs::set_permissions(daemon.path("tree/sub"), PermissionsExt::from_mode(0o511)).unwrap();
    let time = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::new(1_000_000_000, 5);
    std::fs::File::open(&file).unwrap().set_modified(time).unwrap();
    std::fs::File::open(daemon.path("tree/sub")).unwrap().set_modified(time).unwrap();
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(daemon.path("tree/again"), Some(1234), Some(4321)).unwrap();
        std::fs::set_permissions(&file, PermissionsExt::from_mode(0o4751)).unwrap();
    }
    let before = std::fs::metadata(&file).unwrap();

    let target = shm.path().join("moved");
    let request = format!("/files/move?source=tree&destination={}", encode(&target));
    assert_eq!(daemon.ask("POST", &request).await.status, 200);
    assert!(!daemon.path("tree").exists());
    let after = std::fs::metadata(target.join("sub/file")).unwrap();
    assert_eq!(
        (after.mode(), after.uid(), after.gid(), after.len(), after.modified().unwrap(), after.nlink()),
        (before.mode(), before.uid(), before.gid(), before.len(), time, 2)
    );
    assert_eq!(after.ino(), std::fs::metadata(target.join("again")).unwrap().ino());
    let sub = std::fs::metadata(target.join("sub")).unwrap();
    assert_eq!((sub.mode() & 0o7777, sub.modified().unwrap()), (0o511, time));
    assert_eq!(std::fs::read_link(target.join("link")).unwrap().to_str(), Some("sub/file"));
    assert!(std::fs::symlink_metadata(target.join("dangling")).is_ok());
    assert!(std::fs::symlink_metadata(target.join("fifo")).unwrap().file_type().is_fifo());
    let left: Vec<_> = std::fs::read_dir(shm.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, ["moved"], "no temporary directory stays");

    daemon.write("again", "");
    let request = format!("/files/move?source=again&destination={}", encode(&target));
    assert_eq!(daemon.ask("POST", &request).await.error(), (409, "CONFLICT".into()));
    assert!(daemon.path("again").exists());
}

#[tokio::test]
async fn permissions_change_what_is_named() {
    let daemon = Daemon::start().await;
    let path = daemon.write("f", "");
    symlink("f", daemon.path("link")).unwrap();
    let set = async |query: &str| daemon.ask("POST", &format!("/files/permissions?{query}")).await;
    let mode = || std::fs::metadata(&path).unwrap().mode() & 0o7777;
    assert_eq!(set("path=link&mode=4750").await.status, 200);
    assert_eq!(mode(), 0o4750);
    if rustix::process::geteuid().is_root() {
        assert_eq!(set("path=f&owner=1234&mode=6755").await.status, 200);
        let metadata = std::fs::metadata(&path).unwrap();
        assert_eq!((metadata.uid(), metadata.gid(), mode()), (1234, 0, 0o6755));
        assert_eq!(set("path=f&owner=root&group=daemon").await.status, 200);
        let metadata = std::fs::metadata(&path).unwrap();
        assert_eq!((metadata.uid(), Some(metadata.gid())), (0, pinfold_spawn::users::gid_by_name("daemon")));
    }
    let before = mode();
    for (query, error) in [
        ("path=none&mode=644", (404, "FILE_NOT_FOUND")),
        ("path=f&mode=rw", (400, "BAD_REQUEST")),
        ("path=f&mode=600&owner=nobody-has-this-name", (400, "BAD_REQUEST")),
        ("path=f&mode=600&group=nobody-has-this-name", (400, "BAD_REQUEST")),
    ] {
        assert_eq!(set(query).await.error(), (error.0, error.1.to_owned()), "{query}");
    }
    assert_eq!(mode(), before, "a request that is refused changes nothing");
    assert_eq!(set("path=f").await.status, 200);
}
