//! The wire contracts, and nothing else: identifiers, request and response types, error bodies, log markers. No I/O.
//!
//! [`toolbox`] is what the daemon serves inside a sandbox, [`runner`] what passes between a control plane and a node, [`control`]
//! what the official SDKs read from a control plane. Types are shared so that a recorded message from one side decodes on the other.

pub mod control;
pub mod error;
pub mod id;
pub mod markers;
pub mod null;
pub mod runner;
pub mod toolbox;
pub mod utf8;

/// Where things are inside a sandbox and on the wire; constants that both sides of a contract must agree on.
pub mod well_known {
    /// The daemon's toolbox HTTP port.
    pub const TOOLBOX_PORT: u16 = 2280;
    /// The daemon's SSH port.
    pub const DAEMON_SSH_PORT: u16 = 22220;
    /// The daemon's web terminal port.
    pub const TERMINAL_PORT: u16 = 22222;
    /// The daemon's recording dashboard port.
    pub const RECORDINGS_PORT: u16 = 33333;
    /// Where the daemon is mounted in a sandbox.
    pub const DAEMON_PATH: &str = "/usr/local/bin/daytona";
    /// The user name with which the platform logs in to the daemon's SSH server.
    pub const DAEMON_SSH_USER: &str = "daytona";
    /// The password the daemon's SSH server accepts.
    pub const DAEMON_SSH_PASSWORD: &str = "sandbox-ssh";
    /// The header that carries a runner's token when `Authorization` belongs to the caller's own application.
    pub const RUNNER_AUTH_HEADER: &str = "x-daytona-authorization";
    /// The default base image tag that a build reference carries.
    pub const BUILD_TAG: &str = "daytona";
}
