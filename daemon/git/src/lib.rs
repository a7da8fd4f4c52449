//! The toolbox's git routes (toolbox contract, section 12).
//!
//! The engine is libgit2, linked in: the routes have to work in images without git, one engine means one behaviour, and
//! answers need no text of git's to be parsed. Its memory follows the largest file of a repository and its C may crash, so it runs in a process of its
//! own for each request: [`router`] is the daemon's side, [`engine`] the process. What libgit2 lacks is filled in here: an HTTP transport over our
//! own rustls stack ([`remote`]), so that no OpenSSL is linked and credentials exist nowhere but in memory. The image's
//! git binary carries only what libgit2 cannot: remotes reached by ssh, and transfers for which the sandbox's owner asked for
//! the command line (`DAYTONA_EXPERIMENTAL_USE_GIT_CLI`).
//!
//! Invariants:
//! * an operation that changes a repository has it to itself, and is cancelled, in the end killed, when its client goes away;
//! * a clone appears complete at its path, or not at all;
//! * packs stream from the socket to the disk and back; the memory of maps and caches is bounded ([`library`]);
//! * credentials reach neither argument lists, configuration, logs nor error texts, and die with the operation's process;
//! * no hook, filter command or credential program of a repository is run by libgit2.

mod branches;
mod clone;
mod commit;
mod config;
mod credentials;
mod engine;
mod error;
mod front;
#[doc(hidden)]
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod guard;
mod history;
mod init;
mod library;
mod operations;
mod pull;
mod push;
mod remote;
mod remotes;
mod repository;
mod reset;
mod restore;
mod stage;
mod status;

use pinfold_http::{ApiError, ApiResult};

pub use engine::{engine, is_engine};
pub use front::router;

/// Refuses empty members where the contract requires one.
fn required(members: &[(&str, &str)]) -> ApiResult<()> {
    match members.iter().find(|(_, value)| value.is_empty()) {
        Some((name, _)) => Err(ApiError::invalid_body(format_args!("{name} is required"))),
        None => Ok(()),
    }
}
