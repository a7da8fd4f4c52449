//! Files as OpenSSH's `sftp` and `scp` see them.

// The clients are the tests' own children, not the daemon's.
#![allow(clippy::disallowed_methods, clippy::unwrap_used)]

mod common;

use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::Stdio;

use common::{Server, noise, text, with_input};

/// Runs sftp's commands; they stop at the first failure that is not excused with `-`.
fn sftp(server: &Server, commands: &str) -> std::process::Output {
    let mut sftp = server.client("sftp", "-P");
    sftp.args(["-b", "-", "127.0.0.1"]).current_dir(server.directory.path());
    with_input(sftp, commands.as_bytes())
}

#[test]
fn round_trip_keeps_bytes_modes_and_times() {
    let server = Server::start();
    let data = noise(5 << 20);
    let original = server.path("original");
    fs::write(&original, &data).unwrap();
    fs::set_permissions(&original, PermissionsExt::from_mode(0o640)).unwrap();
    let changed = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000);
    fs::File::open(&original).unwrap().set_modified(changed).unwrap();

    let output = sftp(&server, "put -p original there\nget -p there back\n");
    assert!(output.status.success(), "{}", text(&output.stderr));
    for copy in [server.work().join("there"), server.path("back")] {
        let metadata = fs::metadata(&copy).unwrap();
        assert!(fs::read(&copy).unwrap() == data, "{} differs", copy.display());
        assert_eq!((metadata.mode() & 0o777, metadata.mtime()), (0o640, 1_000_000_000), "{}", copy.display());
    }
}

#[test]
fn names_links_and_directories() {
    let server = Server::start();
    fs::write(server.path("f"), "text").unwrap();
    let commands = "put f a\nmkdir d\nrename a d/b\nln -s d/b soft\nln d/b hard\nls -l\nrm hard\nput f \"two words\"\ncp d/b d/c\nchmod 600 d/c\ndf\n\
                    -mkdir d\n-rm missing\npwd\n";
    let output = sftp(&server, commands);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let work = server.work();
    assert_eq!(fs::read_link(work.join("soft")).unwrap(), OsStr::new("d/b"));
    assert_eq!(fs::read(work.join("d/c")).unwrap(), b"text");
    assert_eq!(fs::metadata(work.join("d/c")).unwrap().mode() & 0o777, 0o600);
    assert!(work.join("two words").exists() && !work.join("hard").exists());
    let listing = text(&output.stdout);
    assert!(
        listing.contains(&format!("Remote working directory: {}", work.canonicalize().unwrap().display())),
        "{listing}"
    );
    assert!(listing.contains("lrwxrwxrwx"), "{listing}");
    assert!(text(&output.stderr).contains("No such file or directory"), "{}", text(&output.stderr));
}

#[test]
fn renaming_replaces_only_when_asked_to() {
    let server = Server::start();
    let work = server.work();
    for (name, content) in [("a", "a"), ("b", "b")] {
        fs::write(work.join(name), content).unwrap();
    }
    // -l is the protocol's own rename, without it OpenSSH's replaces.
    assert!(!sftp(&server, "rename -l a b\n").status.success());
    assert_eq!(
        (fs::read(work.join("a")).unwrap(), fs::read(work.join("b")).unwrap()),
        (b"a".to_vec(), b"b".to_vec())
    );
    assert!(sftp(&server, "rename a b\n").status.success());
    assert_eq!(fs::read(work.join("b")).unwrap(), b"a");
    assert!(!work.join("a").exists());
}

#[test]
fn files_may_be_called_anything() {
    let server = Server::start();
    let name = OsStr::from_bytes(b"odd \xff\xfe name");
    fs::create_dir(server.work().join("d")).unwrap();
    fs::write(server.work().join("d").join(name), "x").unwrap();
    let output = sftp(&server, "get -r d got\n");
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(fs::read(server.path("got").join(name)).unwrap(), b"x");
}

#[test]
fn interrupted_transfers_resume() {
    let server = Server::start();
    let data = noise(1 << 20);
    fs::write(server.path("whole"), &data).unwrap();
    fs::write(server.work().join("part"), &data[..300_000]).unwrap();
    fs::write(server.path("down"), &data[..500_000]).unwrap();
    let output = sftp(&server, "reput whole part\nreget part down\n");
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(
        fs::read(server.work().join("part")).unwrap() == data
            && fs::read(server.path("down")).unwrap() == data
    );
}

#[test]
fn scp_in_both_its_protocols() {
    let server = Server::start();
    let tree = server.path("tree");
    for n in 0..40 {
        let directory = tree.join(format!("d{}", n % 5));
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join(format!("f{n}")), noise(n * 5000)).unwrap();
    }
    for (protocol, name) in [("-s", "sftp"), ("-O", "scp")] {
        for (from, to) in [
            (tree.display().to_string(), format!("127.0.0.1:{name}")),
            (format!("127.0.0.1:{name}"), server.path(name).display().to_string()),
        ] {
            let output =
                server.client("scp", "-P").args([protocol, "-r", "-p", &from, &to]).output().unwrap();
            assert!(output.status.success(), "{protocol} {from} {to}: {}", text(&output.stderr));
        }
        let same =
            std::process::Command::new("diff").arg("-r").arg(&tree).arg(server.path(name)).status().unwrap();
        assert!(same.success(), "{protocol}: the trees differ");
    }
}

#[test]
fn a_client_that_talks_nonsense_is_shown_out() {
    let server = Server::start();
    let mut ssh = server.ssh();
    ssh.args(["-s", "127.0.0.1", "sftp"]);
    let output = with_input(ssh, &[0xff; 64]);
    assert_eq!(output.status.code(), Some(0));
    // A version request, and then a write to a handle that is none: answered, not fatal.
    let mut input = Vec::new();
    input.write_all(&[0, 0, 0, 5, 1, 0, 0, 0, 3]).unwrap();
    input.write_all(&[0, 0, 0, 13, 4, 0, 0, 0, 9, 0, 0, 0, 4, 9, 9, 9, 9]).unwrap();
    let mut ssh = server.ssh();
    ssh.args(["-s", "127.0.0.1", "sftp"]);
    let output = with_input(ssh, &input);
    assert!(text(&output.stdout).contains("no such handle"), "{:?}", text(&output.stdout));
}

/// A session that is served, as long as its input is open.
fn held(server: &Server, name: &str) -> std::process::Child {
    let mut sftp = server.client("sftp", "-P");
    sftp.args(["-b", "-", "127.0.0.1"]).stdin(Stdio::piped()).stdout(Stdio::null());
    let mut client = sftp.spawn().unwrap();
    writeln!(client.stdin.as_mut().unwrap(), "mkdir {name}").unwrap();
    let made = server.work().join(name);
    pinfold_testing::wait_for("a session to be served", || made.exists().then_some(()));
    client
}

/// Each session has a thread, and there are only so many.
#[test]
fn no_more_sessions_than_allowed() {
    let server = Server::start_as("ssh_serve", &["1073741824", "2"]);
    let mut clients = ["one", "two"].map(|name| held(&server, name));
    let refused = sftp(&server, "mkdir three\n");
    let said = text(&refused.stderr);
    assert!(!refused.status.success() && said.contains("2 SFTP sessions already"), "{said}");
    assert!(!server.work().join("three").exists());
    assert!(server.run("true").status.success(), "commands need no place");
    drop(clients[0].stdin.take());
    assert!(clients[0].wait().unwrap().success());
    pinfold_testing::wait_for("the place of a session that has ended", || {
        sftp(&server, "mkdir three\n").status.success().then_some(())
    });
    drop(clients[1].stdin.take());
    assert!(clients[1].wait().unwrap().success());
}
