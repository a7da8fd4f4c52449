//! The daemon's settings: every variable of the toolbox contract, section 1.4, and the few of our own, read once and checked together.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use pinfold_proto::well_known;
use pinfold_settings::{Env, InvalidSettings, Networks, Reader, level_of};
use pinfold_ssh::AuthorizedKeys;
use tracing::level_filters::LevelFilter;

use crate::guard::Guard;

/// Home directory; the configuration directory is `.daytona` in it.
pub const HOME: &str = "HOME";
/// `debug`, `info`, `warn` or `error`; anything else means `info`.
pub const LOG_LEVEL: &str = "LOG_LEVEL";
/// The sandbox's id; required.
pub const SANDBOX_ID: &str = "DAYTONA_SANDBOX_ID";
/// Whether the daemon first changes to `$HOME`.
pub const HOME_AS_WORKDIR: &str = "DAYTONA_USER_HOME_AS_WORKDIR";
/// Path of the daemon's own log; it also goes to standard output.
pub const LOG_FILE_PATH: &str = "DAYTONA_DAEMON_LOG_FILE_PATH";
/// Size in MiB at which the log is rotated.
pub const LOG_MAX_SIZE_MB: &str = "DAYTONA_DAEMON_LOG_MAX_SIZE_MB";
/// How many rotated logs are kept.
pub const LOG_MAX_BACKUPS: &str = "DAYTONA_DAEMON_LOG_MAX_BACKUPS";
/// How many days rotated logs are kept.
pub const LOG_MAX_AGE_DAYS: &str = "DAYTONA_DAEMON_LOG_MAX_AGE_DAYS";
/// Whether rotated logs are compressed with gzip.
pub const LOG_COMPRESS: &str = "DAYTONA_DAEMON_LOG_COMPRESS";
/// Time between `SIGTERM` and `SIGKILL` when a session is deleted; at least 1 s.
pub const TERMINATION_GRACE: &str = "DAYTONA_TERMINATION_GRACE_PERIOD";
/// How often a dying session is looked at where the kernel cannot tell of its end; at least 1 ms.
pub const TERMINATION_CHECK: &str = "DAYTONA_TERMINATION_CHECK_INTERVAL";
/// Where screen recordings are; default `$HOME/.daytona/recordings`.
pub const RECORDINGS_DIR: &str = "DAYTONA_RECORDINGS_DIR";
/// Base URL of an OTLP/HTTP collector; unset turns telemetry off.
pub const OTEL_ENDPOINT: &str = "DAYTONA_OTEL_ENDPOINT";
/// Resource label of telemetry.
pub const ORGANIZATION_ID: &str = "DAYTONA_ORGANIZATION_ID";
/// Resource label of telemetry.
pub const REGION_ID: &str = "DAYTONA_REGION_ID";
/// Resource label of telemetry.
pub const SNAPSHOT: &str = "DAYTONA_SANDBOX_SNAPSHOT";
/// More resource labels, `k=v,k=v`; read when telemetry starts.
pub const EXTRA_LABELS: &str = "DAYTONA_SANDBOX_OTEL_EXTRA_LABELS";
/// The X display that is recorded.
pub const DISPLAY: &str = "DISPLAY";
/// Ours: the address the four servers bind. Default: all for the toolbox and SSH, IPv6 and IPv4, and the loopback for the web terminal and the
/// dashboard, which everybody reaches through the toolbox's preview proxy.
pub const BIND: &str = "PINFOLD_DAEMON_BIND";
/// Ours: the toolbox's port; 0 lets the kernel choose.
pub const TOOLBOX_PORT: &str = "PINFOLD_DAEMON_TOOLBOX_PORT";
/// Ours: the SSH server's port.
pub const SSH_PORT: &str = "PINFOLD_DAEMON_SSH_PORT";
/// Ours: the web terminal's port.
pub const TERMINAL_PORT: &str = "PINFOLD_DAEMON_TERMINAL_PORT";
/// Ours: the recording dashboard's port.
pub const RECORDINGS_PORT: &str = "PINFOLD_DAEMON_RECORDINGS_PORT";
/// Ours: most bytes of output that `/process/execute` keeps, in MiB.
pub const EXECUTE_OUTPUT_MAX_MB: &str = "PINFOLD_EXECUTE_OUTPUT_MAX_MB";
/// Ours: most bytes of output that one session command's log keeps, in MiB.
pub const SESSION_LOG_MAX_MB: &str = "PINFOLD_SESSION_LOG_MAX_MB";

/// Ours: most commands that `/process/execute` and `/process/code-run` run at once.
pub const MAX_COMMANDS: &str = "PINFOLD_MAX_COMMANDS";
/// Ours: most sessions at one time.
pub const MAX_SESSIONS: &str = "PINFOLD_MAX_SESSIONS";
/// Ours: most PTY sessions at one time, and most web terminals.
pub const MAX_PTYS: &str = "PINFOLD_MAX_PTYS";
/// Ours: how long a PTY session may have neither client nor output before it is ended; default for ever.
pub const PTY_IDLE: &str = "PINFOLD_PTY_IDLE_TIMEOUT";
/// Ours: most interpreter contexts at one time, the default one not counted.
pub const MAX_CONTEXTS: &str = "PINFOLD_MAX_INTERPRETER_CONTEXTS";
/// Ours: most language servers at one time.
pub const MAX_SERVERS: &str = "PINFOLD_MAX_LANGUAGE_SERVERS";
/// Ours: whether deleting a session spares what has detached itself (`setsid`, `nohup`).
pub const KEEP_DETACHED: &str = "PINFOLD_SESSION_KEEP_DETACHED";
/// Ours: who may connect besides the sandbox itself, as addresses and networks; default anybody.
pub const PEERS: &str = "PINFOLD_DAEMON_PEERS";
/// Ours: whether web pages of any origin may use the HTTP servers directly.
pub const ANY_ORIGIN: &str = "PINFOLD_DAEMON_ANY_ORIGIN";
/// Ours: whether SSH takes the contract's well-known password, with which the platform's gateways come.
pub const SSH_PASSWORD: &str = "PINFOLD_SSH_WELL_KNOWN_PASSWORD";
/// Ours: the public keys that SSH takes, one a line as in `authorized_keys`; default any.
pub const SSH_KEYS: &str = "PINFOLD_SSH_AUTHORIZED_KEYS";
/// `production` turns the description of the API off.
pub const ENVIRONMENT: &str = "ENVIRONMENT";

/// What concerns the daemon alone: processes that it starts do not inherit these (weakness G13). What tells a program where it runs
/// (`DAYTONA_SANDBOX_ID`, `DAYTONA_SANDBOX_USER` and the like) and everything the user set is inherited.
pub const PRIVATE: &[&str] = &[
    HOME_AS_WORKDIR,
    LOG_FILE_PATH,
    LOG_MAX_SIZE_MB,
    LOG_MAX_BACKUPS,
    LOG_MAX_AGE_DAYS,
    LOG_COMPRESS,
    TERMINATION_GRACE,
    TERMINATION_CHECK,
    RECORDINGS_DIR,
    OTEL_ENDPOINT,
    EXTRA_LABELS,
    BIND,
    TOOLBOX_PORT,
    SSH_PORT,
    TERMINAL_PORT,
    RECORDINGS_PORT,
    EXECUTE_OUTPUT_MAX_MB,
    SESSION_LOG_MAX_MB,
    MAX_COMMANDS,
    MAX_SESSIONS,
    MAX_PTYS,
    PTY_IDLE,
    MAX_CONTEXTS,
    MAX_SERVERS,
    KEEP_DETACHED,
    PEERS,
    ANY_ORIGIN,
    SSH_PASSWORD,
    SSH_KEYS,
    EXIT_WITH_ENTRYPOINT,
];

/// Ours: whether the daemon, and with it the container, ends when the image's own command does.
pub const EXIT_WITH_ENTRYPOINT: &str = "PINFOLD_EXIT_WITH_ENTRYPOINT";

const MIB: u64 = 1 << 20;

/// Everything the daemon is told from outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The sandbox's id.
    pub sandbox_id: String,
    /// `$HOME`.
    pub home: PathBuf,
    /// Whether `$HOME` becomes the work directory.
    pub home_as_work_dir: bool,
    /// What is logged.
    pub level: LevelFilter,
    /// Where it is logged, besides standard output.
    pub log_file: LogFile,
    /// How a session is ended.
    pub termination: Termination,
    /// Where screen recordings are.
    pub recordings_dir: PathBuf,
    /// Where telemetry goes, if anywhere.
    pub telemetry: Option<Telemetry>,
    /// The X display that is recorded.
    pub display: String,
    /// Where the servers listen.
    pub listen: Listen,
    /// Whether the daemon ends when the image's own command does.
    pub exit_with_entrypoint: bool,
    /// Most bytes of output kept by `/process/execute`.
    pub execute_output_max: u64,
    /// Most bytes of output kept for one session command.
    pub session_log_max: u64,
    /// How much there may be at once.
    pub most: Most,
    /// How long a PTY session may have neither client nor output before it is ended; absent is for ever.
    pub pty_idle: Option<Duration>,
    /// Whether deleting a session spares what has detached itself.
    pub keep_detached: bool,
    /// Who may connect besides the sandbox itself; absent means anybody.
    pub peers: Option<Arc<Networks>>,
    /// Whether web pages of any origin may use the HTTP servers directly.
    pub any_origin: bool,
    /// Whether SSH takes the well-known password.
    pub ssh_password: bool,
    /// The public keys that SSH takes; absent means any.
    pub ssh_keys: Option<Arc<AuthorizedKeys>>,
    /// Whether the API's description is served.
    pub describe: bool,
}

/// How much there may be at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Most {
    /// Executed commands and programs.
    pub commands: usize,
    /// Sessions.
    pub sessions: usize,
    /// PTY sessions; as many web terminals.
    pub ptys: usize,
    /// Interpreter contexts, the default one not counted.
    pub contexts: usize,
    /// Language servers.
    pub servers: usize,
}

/// The rotating log file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogFile {
    /// Its path.
    pub path: PathBuf,
    /// It is rotated before it grows beyond this many bytes.
    pub max_bytes: u64,
    /// How many rotated files stay.
    pub backups: usize,
    /// How long they stay.
    pub max_age: Duration,
    /// Whether they are compressed.
    pub compress: bool,
}

/// How a session is ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Termination {
    /// Time between `SIGTERM` and `SIGKILL`.
    pub grace: Duration,
    /// How often to look where the kernel cannot tell.
    pub check: Duration,
}

/// Where telemetry goes and what it is labelled with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Telemetry {
    /// Base URL of the collector.
    pub endpoint: String,
    /// `daytona_organization_id`, `daytona_region_id`, `daytona_snapshot`, as far as they are set.
    pub labels: Vec<(&'static str, String)>,
}

/// Where the servers listen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listen {
    /// One address for all four, or all addresses.
    pub address: Option<IpAddr>,
    /// Toolbox HTTP.
    pub toolbox: u16,
    /// SSH.
    pub ssh: u16,
    /// Web terminal.
    pub terminal: u16,
    /// Recording dashboard.
    pub recordings: u16,
}

impl Config {
    /// Reads and checks everything; on failure the error names every mistake.
    pub fn read(env: &dyn Env) -> Result<Self, InvalidSettings> {
        let mut r = Reader::new(env);
        let home = PathBuf::from(r.required(HOME, &[]));
        let at_least_one = "a whole number of at least 1";
        let config = Self {
            sandbox_id: r.required(SANDBOX_ID, &[]),
            home_as_work_dir: r.bool(HOME_AS_WORKDIR, false),
            level: level_of(r.text(LOG_LEVEL).as_deref()),
            log_file: LogFile {
                path: r.text(LOG_FILE_PATH).unwrap_or_else(|| "/tmp/daytona-daemon.log".to_owned()).into(),
                max_bytes: r.parse(LOG_MAX_SIZE_MB, 100, at_least_one, |n| (1..=u64::MAX / MIB).contains(n))
                    * MIB,
                backups: r.parse(LOG_MAX_BACKUPS, 5, at_least_one, |n| *n >= 1),
                max_age: Duration::from_secs(86400)
                    * r.parse(LOG_MAX_AGE_DAYS, 14, at_least_one, |n| (1..=36500).contains(n)),
                compress: r.bool(LOG_COMPRESS, true),
            },
            termination: Termination {
                grace: r.duration(TERMINATION_GRACE, Duration::from_secs(5), Duration::from_secs(1)),
                check: r.duration(TERMINATION_CHECK, Duration::from_millis(100), Duration::from_millis(1)),
            },
            recordings_dir: r
                .text(RECORDINGS_DIR)
                .map_or_else(|| home.join(".daytona/recordings"), PathBuf::from),
            telemetry: r.text(OTEL_ENDPOINT).map(|endpoint| Telemetry {
                endpoint: endpoint.trim_end_matches('/').to_owned(),
                labels: [
                    ("daytona_organization_id", ORGANIZATION_ID),
                    ("daytona_region_id", REGION_ID),
                    ("daytona_snapshot", SNAPSHOT),
                ]
                .into_iter()
                .filter_map(|(label, name)| Some((label, r.text(name)?)))
                .collect(),
            }),
            display: r.text(DISPLAY).unwrap_or_else(|| ":0".to_owned()),
            listen: Listen {
                address: r.text(BIND).and_then(|text| {
                    text.parse().map_err(|_| r.reject(BIND, format!("{text:?} is not an IP address"))).ok()
                }),
                toolbox: port(&mut r, TOOLBOX_PORT, well_known::TOOLBOX_PORT),
                ssh: port(&mut r, SSH_PORT, well_known::DAEMON_SSH_PORT),
                terminal: port(&mut r, TERMINAL_PORT, well_known::TERMINAL_PORT),
                recordings: port(&mut r, RECORDINGS_PORT, well_known::RECORDINGS_PORT),
            },
            exit_with_entrypoint: r.bool(EXIT_WITH_ENTRYPOINT, false),
            execute_output_max: r
                .parse(EXECUTE_OUTPUT_MAX_MB, 256, at_least_one, |n| (1..=1 << 20).contains(n))
                * MIB,
            session_log_max: r.parse(SESSION_LOG_MAX_MB, 1024, at_least_one, |n| (1..=1 << 20).contains(n))
                * MIB,
            most: Most {
                commands: most(&mut r, MAX_COMMANDS, 1024),
                sessions: most(&mut r, MAX_SESSIONS, 1024),
                ptys: most(&mut r, MAX_PTYS, 1024),
                contexts: most(&mut r, MAX_CONTEXTS, 128),
                servers: most(&mut r, MAX_SERVERS, 32),
            },
            pty_idle: Some(r.duration(PTY_IDLE, Duration::ZERO, Duration::ZERO))
                .filter(|idle| !idle.is_zero()),
            keep_detached: r.bool(KEEP_DETACHED, false),
            peers: r
                .text(PEERS)
                .and_then(|text| text.parse().map_err(|e| r.reject(PEERS, e)).ok().map(Arc::new)),
            any_origin: r.bool(ANY_ORIGIN, false),
            ssh_password: r.bool(SSH_PASSWORD, true),
            ssh_keys: r
                .text(SSH_KEYS)
                .and_then(|text| text.parse().map_err(|e| r.reject(SSH_KEYS, e)).ok())
                .map(Arc::new),
            describe: r.text(ENVIRONMENT).as_deref() != Some("production"),
            home,
        };
        r.finish(config)
    }

    /// What concerns commands and sessions.
    pub fn processes(&self) -> pinfold_process::Settings {
        pinfold_process::Settings {
            grace: self.termination.grace,
            check: self.termination.check,
            execute_output_max: self.execute_output_max,
            session_log_max: self.session_log_max,
            max_running: self.most.commands,
            max_sessions: self.most.sessions,
            keep_detached: self.keep_detached,
            ..pinfold_process::Settings::default()
        }
    }

    /// What concerns PTY sessions.
    pub fn ptys(&self) -> pinfold_pty::Settings {
        pinfold_pty::Settings { max: self.most.ptys, idle: self.pty_idle, keep_detached: self.keep_detached }
    }

    /// What concerns SSH.
    pub fn ssh(&self) -> pinfold_ssh::Config {
        pinfold_ssh::Config {
            well_known_password: self.ssh_password,
            authorized_keys: self.ssh_keys.clone(),
            peers: self.peers.clone(),
            ..pinfold_ssh::Config::default()
        }
    }

    /// Who may use the HTTP servers.
    pub fn guard(&self) -> Guard {
        Guard { peers: self.peers.clone(), any_origin: self.any_origin }
    }
}

fn port(r: &mut Reader<'_>, name: &str, default: u16) -> u16 {
    r.parse(name, default, "a port number", |_| true)
}

fn most(r: &mut Reader<'_>, name: &str, default: usize) -> usize {
    r.parse(name, default, "a whole number of at least 1", |n| (1..=1 << 20).contains(n))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn has_the_contracts_defaults() {
        let env: &[(&str, &str)] = &[(HOME, "/home/u"), (SANDBOX_ID, "s1")];
        let config = Config::read(&env).unwrap();
        assert_eq!(config.recordings_dir, PathBuf::from("/home/u/.daytona/recordings"));
        assert_eq!(
            config.termination,
            Termination { grace: Duration::from_secs(5), check: Duration::from_millis(100) }
        );
        assert_eq!(
            (config.log_file.max_bytes, config.log_file.backups, config.log_file.compress),
            (100 << 20, 5, true)
        );
        assert_eq!(
            config.listen,
            Listen { address: None, toolbox: 2280, ssh: 22220, terminal: 22222, recordings: 33333 }
        );
        assert_eq!(config.telemetry, None);
    }

    #[test]
    fn reports_every_mistake_together() {
        let env: &[(&str, &str)] = &[
            (LOG_MAX_SIZE_MB, "0"),
            (TERMINATION_GRACE, "10ms"),
            (TERMINATION_CHECK, "0"),
            (BIND, "localhost"),
            (HOME_AS_WORKDIR, "yes please"),
            (PEERS, "the runner"),
            (MAX_PTYS, "0"),
        ];
        let InvalidSettings(all) = Config::read(&env).unwrap_err();
        let mut names: Vec<_> = all.iter().map(|i| i.name.as_str()).collect();
        names.sort_unstable();
        let mut expected = [
            BIND,
            LOG_MAX_SIZE_MB,
            TERMINATION_CHECK,
            TERMINATION_GRACE,
            HOME_AS_WORKDIR,
            HOME,
            SANDBOX_ID,
            PEERS,
            MAX_PTYS,
        ];
        expected.sort_unstable();
        assert_eq!(names, expected);
    }
}
