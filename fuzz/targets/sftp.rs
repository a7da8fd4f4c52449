//! SFTP requests against a real server and its file system: whatever comes is answered or ends the session; nothing panics, and no answer is
//! longer than a packet may be. Runs as nobody in a directory of its own, since requests are carried out.
#![no_main]

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use nix::unistd::{Gid, Uid, chown, setgid, setgroups, setuid};
use pinfold_spawn::{Environment, Sandbox, Spawner};
use tokio::runtime::Runtime;

static PLACE: OnceLock<(tempfile::TempDir, Sandbox, Runtime)> = OnceLock::new();

fn place() -> (tempfile::TempDir, Sandbox, Runtime) {
    assert!(
        Uid::effective().is_root(),
        "requests are carried out, so this target has to be able to become nobody: run it as root"
    );
    let directory = tempfile::tempdir().expect("a directory");
    let (user, group) = (Uid::from_raw(65534), Gid::from_raw(65534));
    chown(directory.path(), Some(user), Some(group)).expect("the directory is nobody's");
    setgroups(&[]).and_then(|()| setgid(group)).and_then(|()| setuid(user)).expect("become nobody");
    std::env::set_current_dir(directory.path()).expect("go there");
    let runtime = Runtime::new().expect("a runtime");
    let entered = runtime.enter();
    let sandbox = Sandbox {
        spawner: Spawner::start().expect("a spawner"),
        environment: Environment::inherited(&[]),
        work_dir: directory.path().into(),
        home: directory.path().into(),
    };
    drop(entered);
    (directory, sandbox, runtime)
}

fuzz_target!(init: { PLACE.get_or_init(place); }, |data: &[u8]| {
    let (directory, sandbox, _) = PLACE.get_or_init(place);
    pinfold_ssh::fuzzing::sftp(sandbox, data);
    // The next input finds what this one found.
    for entry in std::fs::read_dir(directory.path()).into_iter().flatten().flatten() {
        let path = entry.path();
        let _ = if entry.file_type().is_ok_and(|kind| kind.is_dir()) { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) };
    }
});
