//! The runner's configuration as its environment gives it (runner contract, section 1).

use std::path::PathBuf;
use std::time::Duration;

use pinfold_engine::Builder;
use pinfold_proto::id::Secret;
use pinfold_settings::{Env, InvalidSettings, Reader};

use super::{Config, ENGINE_WAIT, ObjectStore, SshGateway, trimmed};

impl Config {
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
            engine_wait: engine_wait(&mut r),
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
            builder: builder(&mut r),
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
}

/// `PINFOLD_ENGINE_WAIT`.
pub fn engine_wait(r: &mut Reader<'_>) -> Duration {
    r.duration("PINFOLD_ENGINE_WAIT", ENGINE_WAIT, Duration::ZERO)
}

/// `BUILD_ENGINE`.
pub fn builder(r: &mut Reader<'_>) -> Builder {
    match r.text("BUILD_ENGINE").as_deref() {
        None | Some("buildkit") => Builder::BuildKit,
        Some("legacy") => Builder::Legacy,
        Some(other) => {
            r.reject("BUILD_ENGINE", format!("{other:?} must be buildkit or legacy"));
            Builder::BuildKit
        }
    }
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

    /// Contract 14.6, rows 8 and 9: behind a proxy a node is reached by another address, and its gateway by another port.
    #[test]
    fn what_is_advertised_can_be_said() {
        let config = read(&[
            ("SERVER_URL", "http://api:3000/api"),
            ("API_TOKEN", "t"),
            ("RUNNER_DOMAIN", "node"),
            ("PINFOLD_ADVERTISED_URL", "https://nodes.example.com/one/"),
            ("SSH_GATEWAY_ENABLE", "true"),
            ("SSH_GATEWAY_PORT", "2221"),
            ("SSH_PUBLIC_KEY", "c3NoLWVkMjU1MTkgQQ=="),
        ])
        .unwrap();
        assert_eq!(config.public_url("node"), "https://nodes.example.com/one");
        assert_eq!(config.ssh_gateway.unwrap().port, 2221);
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

    /// Contract 14.1, row 19: not root's own key, and a place that the unit lets us write to.
    #[test]
    fn the_gateways_host_key_is_ours() {
        let base = [
            ("DAYTONA_API_URL", "http://a/api"),
            ("DAYTONA_RUNNER_TOKEN", "t"),
            ("SSH_GATEWAY_ENABLE", "true"),
            ("SSH_PUBLIC_KEY", "x"),
        ];
        let gateway = read(&base).unwrap().ssh_gateway.unwrap();
        assert_eq!(gateway.host_key, PathBuf::from("/var/lib/pinfold/ssh_host_key"));
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
