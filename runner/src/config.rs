//! The runner's configuration: every variable of the runner contract (section 1), and Pinfold's own with the prefix `PINFOLD_`.
//!
//! Where the contract's default is unsafe or slow, ours differs and the field says so; an explicit value always wins.

use std::path::PathBuf;
use std::time::Duration;

use pinfold_engine::Builder;
use pinfold_proto::id::Secret;
use pinfold_settings::{Env, InvalidSettings, Reader};

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

    /// Reads every variable, and reports every mistake at once.
    pub fn from_env(env: &dyn Env) -> Result<Self, InvalidSettings> {
        let mut r = Reader::new(env);
        let api_url = r.required("DAYTONA_API_URL", &["SERVER_URL"]);
        if !api_url.is_empty() && !api_url.starts_with("http://") && !api_url.starts_with("https://") {
            r.reject("DAYTONA_API_URL", "must start with http:// or https:// and include the /api suffix");
        }
        let token = Secret::new(r.required("DAYTONA_RUNNER_TOKEN", &["API_TOKEN"]));
        let data_dir =
            PathBuf::from(r.text("PINFOLD_DATA_DIR").unwrap_or_else(|| "/var/lib/pinfold".to_owned()));
        let d = Self::local(api_url, token, 8080, data_dir);
        let seconds = |r: &mut Reader<'_>, name: &str, default: Duration| {
            let value: i64 = r.parse(name, 0, "a number of seconds", |_| true);
            u64::try_from(value).ok().filter(|v| *v > 0).map_or(default, Duration::from_secs)
        };
        let minutes = |r: &mut Reader<'_>, name: &str, default: u64| {
            Duration::from_secs(
                60 * r.parse(name, default, "a whole number of minutes, at least 1", |v| *v >= 1),
            )
        };
        let port = match r.parse::<u16>("API_PORT", 0, "a port number", |_| true) {
            0 => 8080,
            port => port,
        };
        let domain = r.text("RUNNER_DOMAIN");
        if domain.as_deref().is_some_and(|d| d.contains(['/', ':', ' '])) {
            r.reject("RUNNER_DOMAIN", "must be a host name or an IPv4 address without scheme and port");
        }
        let tls = tls(&mut r);
        let log_file = r.text("LOG_FILE_PATH").map(PathBuf::from);
        let build_log_dir = log_file.and_then(|p| p.parent().map(|dir| dir.join("builds")));
        let policy = r.text("PINFOLD_NETWORK_POLICY");
        if !matches!(policy.as_deref(), None | Some("enforce" | "off")) {
            r.reject("PINFOLD_NETWORK_POLICY", "must be enforce or off");
        }
        let builder = match r.text("BUILD_ENGINE").as_deref() {
            None | Some("buildkit") => Builder::BuildKit,
            Some("legacy") => Builder::Legacy,
            Some(other) => {
                r.reject("BUILD_ENGINE", format!("{other:?} must be buildkit or legacy"));
                Builder::BuildKit
            }
        };
        let subnet = r.text("PINFOLD_SANDBOX_SUBNET").unwrap_or(d.subnet.clone());
        if subnet.parse::<pinfold_network::Cidr>().is_err() {
            r.reject(
                "PINFOLD_SANDBOX_SUBNET",
                format!("{subnet:?} must be an IPv4 network such as 172.20.0.0/16"),
            );
        }
        let capabilities = r.text("PINFOLD_CAPABILITIES").unwrap_or_default();
        let min1 = |v: &u32| *v >= 1;
        let settings = Self {
            port,
            listen: r
                .parse("PINFOLD_LISTEN", std::net::IpAddr::from([0, 0, 0, 0]), "an IP address", |_| true),
            api_version: r.parse("API_VERSION", 2, "a number", |_| true),
            log_requests: r.bool("API_LOG_REQUESTS", false),
            tls,
            domain,
            advertised_url: r.text("PINFOLD_ADVERTISED_URL").map(trimmed),
            environment: r.text("ENVIRONMENT").unwrap_or_default(),
            build_log_dir: build_log_dir.unwrap_or(d.build_log_dir.clone()),
            poll_timeout: r
                .duration("POLL_TIMEOUT", d.poll_timeout, Duration::ZERO)
                .clamp(Duration::from_secs(1), Duration::from_secs(15)),
            poll_limit: r.parse("POLL_LIMIT", d.poll_limit, "from 1 to 100", |v| (1..=100).contains(v)),
            healthcheck_interval: r.duration(
                "HEALTHCHECK_INTERVAL",
                d.healthcheck_interval,
                Duration::from_secs(1),
            ),
            healthcheck_timeout: r.duration(
                "HEALTHCHECK_TIMEOUT",
                d.healthcheck_timeout,
                Duration::from_millis(1),
            ),
            cpu_window: r.parse("COLLECTOR_WINDOW_SIZE", d.cpu_window, "at least 1", min1),
            cpu_interval: r.duration("CPU_USAGE_SNAPSHOT_INTERVAL", d.cpu_interval, Duration::from_secs(1)),
            daemon_start_timeout: seconds(&mut r, "DAEMON_START_TIMEOUT_SEC", d.daemon_start_timeout),
            android_boot_timeout: seconds(&mut r, "ANDROID_BOOT_TIMEOUT_SEC", d.android_boot_timeout),
            android_kvm: r.bool("MOUNT_KVM_TO_ANDROID_SANDBOX", false),
            sandbox_start_timeout: seconds(&mut r, "SANDBOX_START_TIMEOUT_SEC", d.sandbox_start_timeout),
            use_snapshot_entrypoint: r.bool("USE_SNAPSHOT_ENTRYPOINT", false),
            limits_disabled: r.bool("RESOURCE_LIMITS_DISABLED", false),
            runtime: r.text("CONTAINER_RUNTIME"),
            container_network: r.text("CONTAINER_NETWORK"),
            inter_sandbox: r.bool("INTER_SANDBOX_NETWORK_ENABLED", d.inter_sandbox),
            gpus: if r.bool("GPU_ENABLED", false) { crate::gpu::probe() } else { Vec::new() },
            initialize_telemetry: r.bool("INITIALIZE_DAEMON_TELEMETRY", true),
            privileged: r.bool("PINFOLD_PRIVILEGED", false),
            capabilities: capabilities
                .split(',')
                .map(str::trim)
                .filter(|c| !c.is_empty())
                .map(str::to_owned)
                .collect(),
            no_new_privileges: r.bool("PINFOLD_NO_NEW_PRIVILEGES", false),
            pids_limit: r.parse("PINFOLD_PIDS_LIMIT", d.pids_limit, "at least 1", min1),
            subnet,
            dns: dns(&mut r).unwrap_or(d.dns.clone()),
            resolver_port: r.parse("PINFOLD_RESOLVER_PORT", d.resolver_port, "a port number", |p| *p > 0),
            enforce_policy: policy.as_deref() != Some("off"),
            pull_timeout: r.duration("SNAPSHOT_PULL_TIMEOUT", d.pull_timeout, Duration::from_secs(60)),
            build_timeout: minutes(&mut r, "BUILD_TIMEOUT_MIN", 120),
            builder,
            build_cpu: r.parse("BUILD_CPU_CORES", d.build_cpu, "at least 1", min1),
            build_memory_gib: r.parse("BUILD_MEMORY_GB", d.build_memory_gib, "at least 1", min1),
            backup_timeout: minutes(&mut r, "BACKUP_TIMEOUT_MIN", 60),
            backup_retention: r.duration(
                "BACKUP_INFO_CACHE_RETENTION",
                d.backup_retention,
                Duration::from_secs(300),
            ),
            snapshot_error_retention: r.duration(
                "SNAPSHOT_ERROR_CACHE_RETENTION",
                d.snapshot_error_retention,
                Duration::from_secs(300),
            ),
            force_snapshot_removal: r.bool("FORCE_SNAPSHOT_REMOVAL", true),
            object_store: object_store(&mut r),
            volume_cleanup_interval: r.duration(
                "VOLUME_CLEANUP_INTERVAL",
                d.volume_cleanup_interval,
                Duration::from_secs(10),
            ),
            volume_cleanup_dry_run: r.bool("VOLUME_CLEANUP_DRY_RUN", d.volume_cleanup_dry_run),
            volume_cleanup_exclusion: r.duration(
                "VOLUME_CLEANUP_EXCLUSION_PERIOD",
                d.volume_cleanup_exclusion,
                Duration::ZERO,
            ),
            ssh_gateway: ssh_gateway(&mut r, &d.data_dir),
            daemon_binary: r.text("PINFOLD_DAEMON_BINARY").map(PathBuf::from),
            telemetry: pinfold_otlp::Settings::read(&mut r),
            drain_timeout: r.duration("PINFOLD_DRAIN_TIMEOUT", d.drain_timeout, Duration::ZERO),
            ..d
        };
        r.finish(settings)
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

fn tls(r: &mut Reader<'_>) -> Option<(PathBuf, PathBuf)> {
    let (cert, key) = (r.text("TLS_CERT_FILE"), r.text("TLS_KEY_FILE"));
    if !r.bool("ENABLE_TLS", false) {
        return None;
    }
    match (cert, key) {
        (Some(cert), Some(key)) => Some((cert.into(), key.into())),
        _ => {
            r.reject("ENABLE_TLS", "needs TLS_CERT_FILE and TLS_KEY_FILE");
            None
        }
    }
}

fn dns(r: &mut Reader<'_>) -> Option<Vec<std::net::Ipv4Addr>> {
    let text = r.text("PINFOLD_DNS")?;
    let servers: Result<Vec<_>, _> = text.split(',').map(|server| server.trim().parse()).collect();
    if servers.is_err() {
        r.reject("PINFOLD_DNS", format!("{text:?} must be IPv4 addresses separated by commas"));
    }
    servers.ok()
}

fn object_store(r: &mut Reader<'_>) -> Option<ObjectStore> {
    let bucket = r.text("AWS_DEFAULT_BUCKET");
    let endpoint = r.text("AWS_ENDPOINT_URL")?;
    Some(ObjectStore {
        endpoint: trimmed(if endpoint.contains("://") { endpoint } else { format!("https://{endpoint}") }),
        region: r.text("AWS_REGION").unwrap_or_else(|| "us-east-1".to_owned()),
        access_key: r.text("AWS_ACCESS_KEY_ID").unwrap_or_default(),
        secret_key: Secret::new(r.text("AWS_SECRET_ACCESS_KEY").unwrap_or_default()),
        bucket,
    })
}

fn ssh_gateway(r: &mut Reader<'_>, data_dir: &std::path::Path) -> Option<SshGateway> {
    let enabled = r.text("SSH_GATEWAY_ENABLE").as_deref() == Some("true");
    let port = r.parse("SSH_GATEWAY_PORT", 2220, "a port number", |p| *p > 0);
    if !enabled {
        return None;
    }
    let public_key = r.required("SSH_PUBLIC_KEY", &[]);
    let mut gateway = SshGateway::new(r, port, public_key, data_dir);
    if let Some(path) = r.text("SSH_HOST_KEY_PATH") {
        gateway.host_key = path.into();
    }
    Some(gateway)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<Config, InvalidSettings> {
        Config::from_env(&pairs)
    }

    #[test]
    fn defaults_need_only_url_and_token() {
        let config = read(&[("SERVER_URL", "http://api:3000/api/"), ("API_TOKEN", "t")]).unwrap();
        assert_eq!(
            (config.api_url.as_str(), config.port, config.api_version),
            ("http://api:3000/api", 8080, 2)
        );
        assert!(!config.privileged && !config.inter_sandbox && config.enforce_policy);
        assert_eq!(config.public_url("node"), "http://node:8080");
    }

    #[test]
    fn all_mistakes_are_reported_at_once() {
        let wrong = [
            ("API_PORT", "x"),
            ("POLL_LIMIT", "101"),
            ("HEALTHCHECK_INTERVAL", "500ms"),
            ("ENABLE_TLS", "true"),
            ("RUNNER_DOMAIN", "http://a"),
            ("PINFOLD_SANDBOX_SUBNET", "many"),
            ("PINFOLD_DNS", "8.8.8.8,x"),
            ("SSH_GATEWAY_ENABLE", "true"),
        ];
        let names: Vec<String> = read(&wrong).unwrap_err().0.into_iter().map(|i| i.name).collect();
        for name in ["DAYTONA_API_URL", "DAYTONA_RUNNER_TOKEN", "SSH_PUBLIC_KEY"] {
            assert!(names.contains(&name.to_owned()), "{name} in {names:?}");
        }
        for (name, _) in wrong.iter().filter(|(n, _)| *n != "SSH_GATEWAY_ENABLE") {
            assert!(names.contains(&(*name).to_owned()), "{name} in {names:?}");
        }
    }

    #[test]
    fn seconds_of_zero_or_less_mean_the_default() {
        let base = [
            ("DAYTONA_API_URL", "http://a/api"),
            ("DAYTONA_RUNNER_TOKEN", "t"),
            ("DAEMON_START_TIMEOUT_SEC", "-1"),
        ];
        assert_eq!(read(&base).unwrap().daemon_start_timeout, Duration::from_secs(60));
    }
}
