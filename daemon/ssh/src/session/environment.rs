//! The environment of what a session runs: the sandbox's, what the client set, and what SSH itself says.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::process::Command;

use pinfold_spawn::is_valid_name;

use crate::connection::Shared;
use crate::forward::Agent;

/// The most a client may set, names and values together.
const MAX_BYTES: usize = 64 << 10;

/// Variables that change which code a program runs, or what identifies the user and the sandbox: never a client's to set.
const REFUSED: [&str; 18] = [
    "BASHOPTS",
    "BASH_ENV",
    "ENV",
    "GCONV_PATH",
    "GLIBC_TUNABLES",
    "HOME",
    "IFS",
    "LOGNAME",
    "MAIL",
    "NLSPATH",
    "PROMPT_COMMAND",
    "PS4",
    "SHELL",
    "SHELLOPTS",
    "TERM",
    "TZDIR",
    "USER",
    "ZDOTDIR",
];
const REFUSED_PREFIXES: [&str; 5] = ["LD_", "DYLD_", "BASH_FUNC_", "SSH_", "DAYTONA_"];

/// What the client set with `env` requests.
#[derive(Debug, Default)]
pub(super) struct ClientEnvironment {
    variables: BTreeMap<String, Vec<u8>>,
    bytes: usize,
}

impl ClientEnvironment {
    /// Takes one variable, or refuses it.
    pub(super) fn set(&mut self, name: &[u8], value: &[u8]) -> bool {
        let Some(name) = std::str::from_utf8(name).ok().filter(|name| is_valid_name(name)) else {
            return false;
        };
        let dangerous =
            REFUSED.contains(&name) || REFUSED_PREFIXES.iter().any(|prefix| name.starts_with(prefix));
        let bytes = self.bytes + name.len() + value.len();
        if dangerous || value.contains(&0) || bytes > MAX_BYTES {
            return false;
        }
        self.bytes = bytes;
        self.variables.insert(name.to_owned(), value.to_owned());
        true
    }

    /// Gives `command` the sandbox's environment, over it the client's, and over that SSH's own.
    pub(super) fn apply(
        &self,
        command: &mut Command,
        shared: &Shared,
        terminal: Option<&str>,
        agent: Option<&Agent>,
    ) {
        let sandbox = &shared.served.sandbox;
        sandbox.environment.apply(command, []);
        command.envs(self.variables.iter().map(|(name, value)| (name, OsStr::from_bytes(value))));
        let (client, server) = shared.ends;
        let (from, to) = (client.ip().to_canonical(), server.ip().to_canonical());
        command.env("SSH_CONNECTION", format!("{from} {} {to} {}", client.port(), server.port()));
        command.env("SSH_CLIENT", format!("{from} {} {}", client.port(), server.port()));
        if let Some(terminal) = terminal {
            if !terminal.is_empty() && !terminal.contains('\0') {
                command.env("TERM", terminal);
            }
            command.env("SHELL", sandbox.shell());
        }
        if let Some(agent) = agent {
            command.env("SSH_AUTH_SOCK", agent.socket());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_what_is_harmless() {
        let mut environment = ClientEnvironment::default();
        for (name, taken) in [
            ("LANG", true),
            ("GIT_PROTOCOL", true),
            ("_x9", true),
            ("LD_PRELOAD", false),
            ("BASH_ENV", false),
            ("SSH_AUTH_SOCK", false),
            ("1A", false),
            ("A=B", false),
            ("", false),
            ("BASH_FUNC_ls%%", false),
            ("DAYTONA_SANDBOX_ID", false),
        ] {
            assert_eq!(environment.set(name.as_bytes(), b"v"), taken, "{name}");
        }
        assert!(!environment.set(b"NUL", b"a\0b"));
        assert!(!environment.set(b"BIG", &vec![b'x'; MAX_BYTES]));
    }
}
