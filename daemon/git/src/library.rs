//! One-time set-up of libgit2, whose options are global to the process.
#![allow(unsafe_code)]

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use git2::{ConfigLevel, opts};

use crate::error::Failure;
use crate::remote::http;

/// Most memory of mapped packs at a time; libgit2's own limit is half of the address space.
const MAPPED: usize = 256 << 20;
/// One mapped window of a pack.
const WINDOW: usize = 16 << 20;
/// Cache of parsed objects.
const CACHE: isize = 32 << 20;
/// For the `git://` protocol, which has no other clock.
const CONNECT_MILLISECONDS: i32 = 15_000;
const SILENCE_MILLISECONDS: i32 = 60_000;

/// Settings of the lowest rank for the packs that are made here: by a push, and by a clone or pull from a local path, which is served by this process.
///
/// libgit2 searches for deltas like git does, with a window full of the largest files. In a sandbox a longer pack is better than that.
pub(crate) const FRUGAL: &str =
    "[core]\n\tbigFileThreshold = 8m\n[pack]\n\twindowMemory = 48m\n\tdeltaCacheSize = 16m\n";

/// Sets libgit2 up, once; the first home directory holds for the process.
pub(crate) fn set_up(home: &Path) -> Result<(), Failure> {
    static DONE: OnceLock<Result<(), Failure>> = OnceLock::new();
    DONE.get_or_init(|| configure(home).map_err(Failure::from)).clone()
}

fn configure(home: &Path) -> Result<(), git2::Error> {
    // SAFETY: these change global state of libgit2 without a lock. `OnceLock` runs them on one thread, and every
    // other use of libgit2 in this process comes after `set_up`.
    unsafe {
        // A repository of another user is no danger here: the sandbox is the boundary, and nothing in a
        // repository is executed.
        opts::set_verify_owner_validation(false)?;
        opts::set_search_path(ConfigLevel::Global, home)?;
        opts::set_search_path(ConfigLevel::XDG, home.join(".config/git"))?;
        opts::set_search_path(ConfigLevel::System, "/etc")?;
        // Where the home cannot be written, packs cost what libgit2 makes them cost.
        if let Some(defaults) = defaults(home) {
            opts::set_search_path(ConfigLevel::ProgramData, defaults)?;
        }
        opts::set_mwindow_size(WINDOW)?;
        opts::set_mwindow_mapped_limit(MAPPED)?;
        opts::set_cache_max_size(CACHE)?;
        opts::set_server_connect_timeout_in_milliseconds(CONNECT_MILLISECONDS)?;
        opts::set_server_timeout_in_milliseconds(SILENCE_MILLISECONDS)?;
        http::register()
    }
}

/// The directory in which libgit2 finds [`FRUGAL`]; none if it cannot be made.
fn defaults(home: &Path) -> Option<PathBuf> {
    let directory = home.join(".daytona/git");
    let file = directory.join("config");
    if std::fs::read(&file).is_ok_and(|text| text == FRUGAL.as_bytes()) {
        return Some(directory);
    }
    std::fs::create_dir_all(&directory).ok()?;
    // At once: other operations may be reading it.
    let mut new = tempfile::NamedTempFile::new_in(&directory).ok()?;
    new.write_all(FRUGAL.as_bytes()).ok()?;
    new.persist(&file).ok()?;
    Some(directory)
}
