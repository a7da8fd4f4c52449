//! The runner's configuration: every variable of the runner contract (section 1), and Pinfold's own with the prefix `PINFOLD_`.
//!
//! Where the contract's default is unsafe or slow, ours differs and the field says so; an explicit value always wins.

use std::path::PathBuf;
use std::time::Duration;

use pinfold_engine::Builder;
use pinfold_proto::id::Secret;
use pinfold_settings::Reader;

mod environment;

pub use environment::{builder, engine_wait};

/// How long an engine is waited for at the start, unless told otherwise.
const ENGINE_WAIT: Duration = Duration::from_secs(60);

/// Address and credentials of an S3-compatible object store, for volumes and build contexts.
#[derive(Debug, Clone)]
pub struct ObjectStore {
    /// `AWS_ENDPOINT_URL`; its scheme is honoured.
    pub endpoint: String,
    /// `AWS_REGION`.
    pub region: String,
    /// `AWS_ACCESS_KEY_ID`.
    pub access_key: String,
    /// `AWS_SECRET_ACCESS_KEY`.
    pub secret_key: Secret,
    /// `AWS_DEFAULT_BUCKET`: where build contexts are.
    pub bucket: Option<String>,
}

/// The SSH gateway's settings (runner contract 1.6).
#[derive(Debug, Clone)]
pub struct SshGateway {
    /// `SSH_GATEWAY_PORT`, 2220.
    pub port: u16,
    /// `SSH_PUBLIC_KEY`: base64 of one `authorized_keys` line.
    pub public_key: String,
    /// `SSH_HOST_KEY_PATH`; `<data>/ssh_host_key` by default, not root's own key.
    pub host_key: PathBuf,
    /// `<data>/ssh_sandbox_key`: what sandboxes let in, where they do not take the contract's password.
    pub sandbox_key: PathBuf,
    /// `PINFOLD_SANDBOX_SSH`: `key` makes sandboxes that take this runner's key alone; `password`, the default, is the contract's.
    pub sandboxes_take_key: bool,
    /// The `authorized_keys` line of that key, once it has been read.
    pub sandbox_line: Option<String>,
}

impl SshGateway {
    /// With keys in `data_dir`.
    pub fn new(r: &mut Reader<'_>, port: u16, public_key: String, data_dir: &std::path::Path) -> Self {
        let login = r.text("PINFOLD_SANDBOX_SSH");
        if login.as_deref().is_some_and(|login| !["password", "key"].contains(&login)) {
            r.reject("PINFOLD_SANDBOX_SSH", "must be password or key");
        }
        Self {
            port,
            public_key,
            host_key: data_dir.join("ssh_host_key"),
            sandbox_key: data_dir.join("ssh_sandbox_key"),
            sandboxes_take_key: login.as_deref() == Some("key"),
            sandbox_line: None,
        }
    }
}

/// Everything the runner can be told. Build it with [`Config::from_env`] or [`Config::local`].
#[derive(Debug, Clone)]
pub struct Config {
    /// `DAYTONA_API_URL` or `SERVER_URL`: the control plane, with its `/api`.
    pub api_url: String,
    /// `DAYTONA_RUNNER_TOKEN` or `API_TOKEN`: presented to the control plane, and required from callers.
    pub token: Secret,
    /// `API_PORT`, 8080.
    pub port: u16,
    /// `PINFOLD_LISTEN`, `0.0.0.0`: the address the HTTP API listens on.
    pub listen: std::net::IpAddr,
    /// `API_VERSION`, 2: only 2 polls for jobs and posts healthchecks.
    pub api_version: u32,
    /// `API_LOG_REQUESTS`, off.
    pub log_requests: bool,
    /// `ENABLE_TLS` with `TLS_CERT_FILE` and `TLS_KEY_FILE`.
    pub tls: Option<(PathBuf, PathBuf)>,
    /// `RUNNER_DOMAIN`: host part of the advertised URLs. Found from the default route when unset.
    pub domain: Option<String>,
    /// `PINFOLD_ADVERTISED_URL`: replaces `scheme://domain:port` in healthchecks.
    pub advertised_url: Option<String>,
    /// `ENVIRONMENT`.
    pub environment: String,
    /// `PINFOLD_DATA_DIR`, `/var/lib/pinfold`: daemon binaries, outbox, sandbox records, local volumes.
    pub data_dir: PathBuf,
    /// Directory of build logs: `<dirname LOG_FILE_PATH>/builds`, or `<data>/builds`.
    pub build_log_dir: PathBuf,

    /// `PINFOLD_ENGINE_WAIT`, 1 min: how long an engine that does not answer at our start is waited for; at boot it may be the later one.
    pub engine_wait: Duration,
    /// `POLL_TIMEOUT`. 12 s by default and 15 s at most, not 30: a dropped poll swallows jobs until its own end (17.1).
    pub poll_timeout: Duration,
    /// `POLL_LIMIT`, 10.
    pub poll_limit: u32,
    /// `HEALTHCHECK_INTERVAL`, 10 s, not 30, and 1 s at least: two lost reports must not take the node out of service.
    pub healthcheck_interval: Duration,
    /// `HEALTHCHECK_TIMEOUT`, 10 s.
    pub healthcheck_timeout: Duration,
    /// `COLLECTOR_WINDOW_SIZE`, 12 samples: a minute of history, not five.
    pub cpu_window: u32,
    /// `CPU_USAGE_SNAPSHOT_INTERVAL`, 5 s.
    pub cpu_interval: Duration,

    /// `DAEMON_START_TIMEOUT_SEC`, 60 s.
    pub daemon_start_timeout: Duration,
    /// `ANDROID_BOOT_TIMEOUT_SEC`, 300 s.
    pub android_boot_timeout: Duration,
    /// `MOUNT_KVM_TO_ANDROID_SANDBOX`, off.
    pub android_kvm: bool,
    /// The debug bridge's port in an Android device. Only tests change it.
    pub adb_port: u16,
    /// `SANDBOX_START_TIMEOUT_SEC`, 30 s.
    pub sandbox_start_timeout: Duration,
    /// `USE_SNAPSHOT_ENTRYPOINT`, off.
    pub use_snapshot_entrypoint: bool,
    /// `RESOURCE_LIMITS_DISABLED`, off.
    pub limits_disabled: bool,
    /// `CONTAINER_RUNTIME`: the OCI runtime of sandboxes.
    pub runtime: Option<String>,
    /// `CONTAINER_NETWORK`: attached to every sandbox besides the sandbox network.
    pub container_network: Option<String>,
    /// `INTER_SANDBOX_NETWORK_ENABLED`. Off by default, not on: any sandbox could use its neighbours' toolboxes (14.1).
    pub inter_sandbox: bool,
    /// The names of this host's GPUs, with `GPU_ENABLED`; found by `nvidia-smi` at the start.
    pub gpus: Vec<String>,
    /// `INITIALIZE_DAEMON_TELEMETRY`, on.
    pub initialize_telemetry: bool,
    /// `PINFOLD_PRIVILEGED`, off: privileged containers, on a runtime that isolates them.
    pub privileged: bool,
    /// `PINFOLD_CAPABILITIES`: capabilities on top of the kept ones, separated by commas.
    pub capabilities: Vec<String>,
    /// `PINFOLD_NO_NEW_PRIVILEGES`, off: `sudo` is expected to work in sandboxes.
    pub no_new_privileges: bool,
    /// `PINFOLD_PIDS_LIMIT`, 4096 processes and threads for each sandbox.
    pub pids_limit: u32,
    /// `PINFOLD_SANDBOX_SUBNET`, `172.20.0.0/16`: the sandbox network, when it has to be created.
    pub subnet: String,
    /// `PINFOLD_DNS`: name servers of sandboxes, separated by commas; this host's by default. They are asked from inside a sandbox's network,
    /// so that its policy covers its lookups too.
    pub dns: Vec<std::net::Ipv4Addr>,
    /// `PINFOLD_RESOLVER_PORT`, 2253: where the resolver behind domain allow lists listens on the sandbox network's gateway address.
    pub resolver_port: u16,
    /// `PINFOLD_NETWORK_POLICY`, `enforce`; `off` starts sandboxes with no rules at all.
    pub enforce_policy: bool,
    /// The daemon's port in a sandbox. Only tests change it.
    pub toolbox_port: u16,

    /// `SNAPSHOT_PULL_TIMEOUT`, 60 min.
    pub pull_timeout: Duration,
    /// `BUILD_TIMEOUT_MIN`, 120 min.
    pub build_timeout: Duration,
    /// `BUILD_ENGINE`, `buildkit`; or `legacy`.
    pub builder: Builder,
    /// `BUILD_CPU_CORES`, 4.
    pub build_cpu: u32,
    /// `BUILD_MEMORY_GB`, 8.
    pub build_memory_gib: u32,
    /// `BACKUP_TIMEOUT_MIN`, 60 min.
    pub backup_timeout: Duration,
    /// `BACKUP_INFO_CACHE_RETENTION`, 168 h.
    pub backup_retention: Duration,
    /// `SNAPSHOT_ERROR_CACHE_RETENTION`, 10 min.
    pub snapshot_error_retention: Duration,
    /// `FORCE_SNAPSHOT_REMOVAL`, on.
    pub force_snapshot_removal: bool,
    /// `AWS_*`: where volumes and build contexts are. Local directories under the data directory otherwise.
    pub object_store: Option<ObjectStore>,
    /// Where buckets are mounted; unset, where the original mounts them. `pinfold up` keeps them in its data directory.
    pub bucket_dir: Option<PathBuf>,
    /// `VOLUME_CLEANUP_INTERVAL`, 30 s.
    pub volume_cleanup_interval: Duration,
    /// `VOLUME_CLEANUP_DRY_RUN`, on: unused volumes stay mounted.
    pub volume_cleanup_dry_run: bool,
    /// `VOLUME_CLEANUP_EXCLUSION_PERIOD`, 120 s.
    pub volume_cleanup_exclusion: Duration,
    /// `SSH_GATEWAY_ENABLE` and its companions.
    pub ssh_gateway: Option<SshGateway>,
    /// `PINFOLD_DAEMON_BINARY`: a daemon to use instead of the embedded one.
    pub daemon_binary: Option<PathBuf>,
    /// `OTEL_*`: which telemetry goes where; none unless told (runner contract 1.7). The process sends it, see [`crate::telemetry`].
    pub telemetry: Option<pinfold_otlp::Settings>,
    /// `PINFOLD_DRAIN_TIMEOUT`, 20 s: how long running jobs may go on after a stop.
    pub drain_timeout: Duration,
}

impl Config {
    /// The configuration of a runner beside its control plane on one machine, as `pinfold up` starts it.
    pub fn local(api_url: impl Into<String>, token: Secret, port: u16, data_dir: impl Into<PathBuf>) -> Self {
        let data_dir = data_dir.into();
        Self {
            api_url: trimmed(api_url.into()),
            token,
            port,
            listen: std::net::IpAddr::from([127, 0, 0, 1]),
            api_version: 2,
            log_requests: false,
            tls: None,
            domain: Some("127.0.0.1".to_owned()),
            advertised_url: None,
            environment: String::new(),
            build_log_dir: data_dir.join("builds"),
            data_dir,
            engine_wait: ENGINE_WAIT,
            poll_timeout: Duration::from_secs(12),
            poll_limit: 10,
            healthcheck_interval: Duration::from_secs(10),
            healthcheck_timeout: Duration::from_secs(10),
            cpu_window: 12,
            cpu_interval: Duration::from_secs(5),
            daemon_start_timeout: Duration::from_secs(60),
            android_boot_timeout: Duration::from_secs(300),
            android_kvm: false,
            adb_port: 5555,
            sandbox_start_timeout: Duration::from_secs(30),
            use_snapshot_entrypoint: false,
            limits_disabled: false,
            runtime: None,
            container_network: None,
            inter_sandbox: false,
            gpus: Vec::new(),
            initialize_telemetry: true,
            privileged: false,
            capabilities: Vec::new(),
            no_new_privileges: false,
            pids_limit: 4096,
            subnet: "172.20.0.0/16".to_owned(),
            dns: crate::domain::name_servers(),
            resolver_port: 2253,
            enforce_policy: true,
            toolbox_port: pinfold_proto::well_known::TOOLBOX_PORT,
            pull_timeout: Duration::from_secs(3600),
            build_timeout: Duration::from_secs(120 * 60),
            builder: Builder::BuildKit,
            build_cpu: 4,
            build_memory_gib: 8,
            backup_timeout: Duration::from_secs(3600),
            backup_retention: Duration::from_secs(168 * 3600),
            snapshot_error_retention: Duration::from_secs(600),
            force_snapshot_removal: true,
            object_store: None,
            bucket_dir: None,
            volume_cleanup_interval: Duration::from_secs(30),
            volume_cleanup_dry_run: true,
            volume_cleanup_exclusion: Duration::from_secs(120),
            ssh_gateway: None,
            daemon_binary: None,
            telemetry: None,
            drain_timeout: Duration::from_secs(20),
        }
    }

    /// The base URL that callers are told, given the host to advertise.
    pub fn public_url(&self, domain: &str) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        self.advertised_url.clone().unwrap_or_else(|| format!("{scheme}://{domain}:{}", self.port))
    }
}

fn trimmed(url: String) -> String {
    url.trim_end_matches('/').to_owned()
}
