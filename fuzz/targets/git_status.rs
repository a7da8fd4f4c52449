//! The status of a repository whose index is what a stranger left there: an answer or an error. The index gets a right header and checksum, for
//! without them libgit2 reads nothing of it.
#![no_main]

use std::path::PathBuf;
use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use sha1::{Digest, Sha1};

static REPOSITORY: OnceLock<(tempfile::TempDir, PathBuf)> = OnceLock::new();

fuzz_target!(|data: &[u8]| {
    let [version, entries, rest @ ..] = data else { return };
    let (directory, index) = REPOSITORY.get_or_init(|| {
        let directory = tempfile::tempdir().expect("a directory");
        pinfold_git::fuzzing::repository(directory.path());
        let index = directory.path().join(".git/index");
        (directory, index)
    });
    let mut bytes = [&b"DIRC\0\0\0"[..], &[2 + version % 3], &[0, 0, 0, *entries], rest].concat();
    let checksum = Sha1::digest(&bytes);
    bytes.extend_from_slice(&checksum);
    std::fs::write(index, bytes).expect("an index");
    pinfold_git::fuzzing::status(directory.path());
});
