//! One-time set-up of libgit2, whose options are global to the process.
#![allow(unsafe_code)]

use std::path::Path;
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
        opts::set_mwindow_size(WINDOW)?;
        opts::set_mwindow_mapped_limit(MAPPED)?;
        opts::set_cache_max_size(CACHE)?;
        opts::set_server_connect_timeout_in_milliseconds(CONNECT_MILLISECONDS)?;
        opts::set_server_timeout_in_milliseconds(SILENCE_MILLISECONDS)?;
        http::register()
    }
}
