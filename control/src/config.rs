//! Settings of the control plane.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use pinfold_proto::id::Secret;
use pinfold_proto::runner::payload::Registry;
use pinfold_settings::Reader;

use crate::s3::S3Config;

/// The snapshot that exists from the first start, and that a create without one uses.
#[derive(Debug, Clone)]
pub struct DefaultSnapshot {
    /// `PINFOLD_SNAPSHOT`: its name, `default` if unset.
    pub name: String,
    /// `PINFOLD_SNAPSHOT_IMAGE`: the image reference that runners use, `pinfold/sandbox:latest` if unset.
    pub image: String,
    /// `PINFOLD_SNAPSHOT_CPU`: cores, 1 if unset.
    pub cpu: u32,
    /// `PINFOLD_SNAPSHOT_MEMORY`: GiB, 1 if unset.
    pub memory: u32,
    /// `PINFOLD_SNAPSHOT_DISK`: GiB, 3 if unset.
    pub disk: u32,
    /// `PINFOLD_SNAPSHOT_ENTRYPOINT`: command line separated by spaces; the image's own if unset.
    pub entrypoint: Option<Vec<String>>,
}

/// Settings of the control plane. Every one is read from the environment variable that its field names.
#[derive(Debug, Clone)]
pub struct Config {
    /// `PINFOLD_BIND`: where to listen, `127.0.0.1:3000` if unset. Port 0 picks a free one.
    pub bind: SocketAddr,
    /// `PINFOLD_PUBLIC_URL`: how clients reach us, without `/api`, for example `https://sandboxes.example.com`. Unset: what the request's
    /// `Host` says, which serves local and remote clients alike.
    pub public_url: Option<String>,
    /// `PINFOLD_PROXY_DOMAIN`: preview links are `<port>-<sandbox>.<this>`, `proxy.localhost` if unset.
    pub proxy_domain: String,
    /// `PINFOLD_SSH_PORT`: where the SSH gateway listens, on the same address; 2222 if unset, 0 for none.
    pub ssh_port: u16,
    /// `PINFOLD_DATA_DIR`: where the database and the keys are, `/var/lib/pinfold` if unset.
    pub data_dir: PathBuf,
    /// `PINFOLD_CONTEXT_DIR`: where uploaded build contexts are, `runner/contexts` in the data directory if unset, as the local runner expects.
    pub context_dir: PathBuf,
    /// `PINFOLD_REGION`: the name of the only region, `us` if unset.
    pub region: String,
    /// `PINFOLD_REGISTRY`: a registry of images of our own, `<host>[:<port>][/<project>]`, with `PINFOLD_REGISTRY_USERNAME` and
    /// `PINFOLD_REGISTRY_PASSWORD`. Backups, snapshots of sandboxes and built snapshots go there, so that every runner can use them. Unset: they
    /// stay in the engine's store of the runner that made them.
    pub registry: Option<Registry>,
    /// Whether `PINFOLD_REGISTRY` was given with `http://`: it may be spoken to without TLS.
    pub registry_plain: bool,
    /// `PINFOLD_S3_*`: an object store for build contexts and volumes. Unset: a directory each.
    pub s3: Option<S3Config>,
    /// `PINFOLD_VOLUME_DIR`: where volumes are when they are directories, `runner/volumes` in the data directory if unset, as the local runner has them.
    /// That of a volume is removed when it is deleted.
    pub volume_dir: PathBuf,
    /// `PINFOLD_BACKUP_ON_STOP`: back every sandbox up when it has stopped; off if unset.
    pub backup_on_stop: bool,
    /// `PINFOLD_BUSY_IS_ACTIVE`: a sandbox in which a session's command still runs is not stopped for idleness; off if unset.
    pub busy_is_active: bool,
    /// `PINFOLD_SNAPSHOT_IDLE_DAYS`: a snapshot that was not used for so many days becomes inactive; 14 if unset, 0 for never.
    pub snapshot_idle_days: u32,
    /// `PINFOLD_CONTEXT_DAYS`: a build context that was not used for so many days is removed; 30 if unset, 0 for never.
    pub context_days: u32,
    /// `PINFOLD_STORAGE_PORT`: where build contexts are also taken over TLS, on the same address; 0 for nowhere, 3900 if unset.
    pub storage_port: u16,
    /// `PINFOLD_RUNNER_SILENCE`: a runner that was not heard of for longer counts as lost; 60 s if unset, 3 s at least. The local one reports three
    /// times in it.
    pub runner_silence: Duration,
    /// `PINFOLD_PREVIEW_WARNING`: browsers see a warning page before the first preview of a sandbox; off if unset.
    pub preview_warning: bool,
    /// The default snapshot.
    pub default_snapshot: DefaultSnapshot,
    /// `PINFOLD_API_KEY`: an API key that is valid besides those in the database. Unset: one is made at the first start.
    pub api_key: Option<Secret>,
    /// `PINFOLD_RUNNER_TOKEN`: the token of the local runner. Unset: one is made at the first start.
    pub runner_token: Option<Secret>,
}

impl Default for Config {
    fn default() -> Self {
        let none: &[(&str, &str)] = &[];
        Self::read(&mut Reader::new(&none))
    }
}

impl Config {
    /// Reads every setting; mistakes are left with the reader.
    pub fn read(reader: &mut Reader<'_>) -> Self {
        let text = |reader: &mut Reader<'_>, name: &str, default: &str| {
            reader.text(name).unwrap_or_else(|| default.to_owned())
        };
        let size = |reader: &mut Reader<'_>, name: &str, default: u32| {
            reader.parse(name, default, "a whole number from 1 to 4096", |n: &u32| (1..=4096).contains(n))
        };
        let bind = SocketAddr::from(([127, 0, 0, 1], 3000));
        let name = text(reader, "PINFOLD_SNAPSHOT", "default");
        let public_url = reader.text("PINFOLD_PUBLIC_URL").map(|url| url.trim_end_matches('/').to_owned());
        if public_url.as_ref().is_some_and(|url| !url.starts_with("http://") && !url.starts_with("https://"))
        {
            reader.reject("PINFOLD_PUBLIC_URL", "must begin with http:// or https://");
        }
        let api_key = reader.text("PINFOLD_API_KEY").map(Secret::new);
        let registry_plain =
            reader.text("PINFOLD_REGISTRY").is_some_and(|place| place.trim().starts_with("http://"));
        let registry = registry(reader);
        let s3 = object_store(reader);
        let data_dir = PathBuf::from(text(reader, "PINFOLD_DATA_DIR", "/var/lib/pinfold"));
        let context_dir = reader.text("PINFOLD_CONTEXT_DIR").map(PathBuf::from);
        let volume_dir = reader.text("PINFOLD_VOLUME_DIR").map(PathBuf::from);
        Self {
            bind: reader.parse(
                "PINFOLD_BIND",
                bind,
                "an address and a port, for example 0.0.0.0:3000",
                |_| true,
            ),
            public_url,
            proxy_domain: text(reader, "PINFOLD_PROXY_DOMAIN", "proxy.localhost")
                .trim_matches('.')
                .to_ascii_lowercase(),
            ssh_port: reader.parse(
                "PINFOLD_SSH_PORT",
                2222,
                "a port number, or 0 for no SSH gateway",
                |_| true,
            ),
            volume_dir: volume_dir.unwrap_or_else(|| data_dir.join("runner/volumes")),
            context_dir: context_dir.unwrap_or_else(|| data_dir.join("runner/contexts")),
            data_dir,
            region: text(reader, "PINFOLD_REGION", "us"),
            registry,
            registry_plain,
            s3,
            backup_on_stop: reader.bool("PINFOLD_BACKUP_ON_STOP", false),
            busy_is_active: reader.bool("PINFOLD_BUSY_IS_ACTIVE", false),
            snapshot_idle_days: reader.parse("PINFOLD_SNAPSHOT_IDLE_DAYS", 14, "a number of days", |_| true),
            context_days: reader.parse("PINFOLD_CONTEXT_DAYS", 30, "a number of days", |_| true),
            storage_port: reader.parse(
                "PINFOLD_STORAGE_PORT",
                3900,
                "a port number, or 0 for no TLS",
                |_| true,
            ),
            runner_silence: reader.duration(
                "PINFOLD_RUNNER_SILENCE",
                Duration::from_secs(60),
                Duration::from_secs(3),
            ),
            preview_warning: reader.bool("PINFOLD_PREVIEW_WARNING", false),
            default_snapshot: DefaultSnapshot {
                image: text(reader, "PINFOLD_SNAPSHOT_IMAGE", "pinfold/sandbox:latest"),
                name,
                cpu: size(reader, "PINFOLD_SNAPSHOT_CPU", 1),
                memory: size(reader, "PINFOLD_SNAPSHOT_MEMORY", 1),
                disk: size(reader, "PINFOLD_SNAPSHOT_DISK", 3),
                entrypoint: reader
                    .text("PINFOLD_SNAPSHOT_ENTRYPOINT")
                    .map(|line| line.split_whitespace().map(str::to_owned).collect()),
            },
            api_key,
            runner_token: reader.text("PINFOLD_RUNNER_TOKEN").map(Secret::new),
        }
    }

    /// Every setting and its value, to show at the start; secrets only by whether they are set. A new setting cannot be forgotten here.
    pub fn shown(&self) -> Vec<(&'static str, String)> {
        let Self {
            bind,
            public_url,
            proxy_domain,
            ssh_port,
            data_dir,
            context_dir,
            region,
            default_snapshot,
            api_key,
            runner_token,
            registry,
            registry_plain: _,
            s3,
            volume_dir,
            backup_on_stop,
            busy_is_active,
            snapshot_idle_days,
            context_days,
            storage_port,
            runner_silence,
            preview_warning,
        } = self;
        let DefaultSnapshot { name, image, cpu, memory, disk, entrypoint } = default_snapshot;
        let secret = |secret: &Option<Secret>, file: &str| match secret {
            Some(_) => "as it was set".to_owned(),
            None => format!("in {}", data_dir.join(file).display()),
        };
        let text = |value: &Option<String>, unset: &str| value.clone().unwrap_or_else(|| unset.to_owned());
        let store = |show: fn(&S3Config) -> String| s3.as_ref().map_or_else(|| "none".to_owned(), show);
        vec![
            ("PINFOLD_BIND", bind.to_string()),
            ("PINFOLD_PUBLIC_URL", text(public_url, "what each request names")),
            ("PINFOLD_PROXY_DOMAIN", proxy_domain.clone()),
            ("PINFOLD_SSH_PORT", ssh_port.to_string()),
            ("PINFOLD_DATA_DIR", data_dir.display().to_string()),
            ("PINFOLD_CONTEXT_DIR", context_dir.display().to_string()),
            ("PINFOLD_REGION", region.clone()),
            ("PINFOLD_SNAPSHOT", name.clone()),
            ("PINFOLD_SNAPSHOT_IMAGE", image.clone()),
            ("PINFOLD_SNAPSHOT_CPU", cpu.to_string()),
            ("PINFOLD_SNAPSHOT_MEMORY", memory.to_string()),
            ("PINFOLD_SNAPSHOT_DISK", disk.to_string()),
            (
                "PINFOLD_SNAPSHOT_ENTRYPOINT",
                text(&entrypoint.as_ref().map(|words| words.join(" ")), "the image's"),
            ),
            ("PINFOLD_REGISTRY", text(&registry.as_ref().map(|registry| registry.url.clone()), "none")),
            ("PINFOLD_S3_ENDPOINT", store(|store| store.endpoint.clone())),
            ("PINFOLD_S3_STS_ENDPOINT", store(|store| store.sts_endpoint.clone())),
            ("PINFOLD_S3_REGION", store(|store| store.region.clone())),
            ("PINFOLD_S3_BUCKET", store(|store| store.bucket.clone())),
            ("PINFOLD_S3_ACCESS_KEY", store(|_| "as it was set".to_owned())),
            ("PINFOLD_S3_SECRET_KEY", store(|_| "as it was set".to_owned())),
            (
                "PINFOLD_S3_ROLE",
                store(|store| store.role.clone().unwrap_or_else(|| "none: clients get the key".to_owned())),
            ),
            ("PINFOLD_VOLUME_DIR", volume_dir.display().to_string()),
            ("PINFOLD_BACKUP_ON_STOP", backup_on_stop.to_string()),
            ("PINFOLD_BUSY_IS_ACTIVE", busy_is_active.to_string()),
            ("PINFOLD_SNAPSHOT_IDLE_DAYS", snapshot_idle_days.to_string()),
            ("PINFOLD_CONTEXT_DAYS", context_days.to_string()),
            ("PINFOLD_STORAGE_PORT", storage_port.to_string()),
            ("PINFOLD_RUNNER_SILENCE", format!("{} s", runner_silence.as_secs())),
            ("PINFOLD_PREVIEW_WARNING", preview_warning.to_string()),
            ("PINFOLD_API_KEY", secret(api_key, "api-key")),
            ("PINFOLD_RUNNER_TOKEN", secret(runner_token, "runner-token")),
        ]
    }
}

fn object_store(reader: &mut Reader<'_>) -> Option<S3Config> {
    let url = |reader: &mut Reader<'_>, name: &str| {
        let url = reader.text(name).map(|url| url.trim_end_matches('/').to_owned());
        let whole = |url: &String| {
            let host = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://"));
            host.is_some_and(|host| !host.is_empty() && !host.contains('/'))
        };
        if url.as_ref().is_some_and(|url| !whole(url)) {
            reader.reject(name, "must be http:// or https://, a host and perhaps a port");
        }
        url
    };
    let sts_endpoint = url(reader, "PINFOLD_S3_STS_ENDPOINT");
    let (access_key, secret_key) =
        (reader.text("PINFOLD_S3_ACCESS_KEY"), reader.text("PINFOLD_S3_SECRET_KEY"));
    let region = reader.text("PINFOLD_S3_REGION").unwrap_or_else(|| "us-east-1".to_owned());
    let bucket = reader.text("PINFOLD_S3_BUCKET").unwrap_or_else(|| "daytona".to_owned());
    let role = reader.text("PINFOLD_S3_ROLE");
    let Some(endpoint) = url(reader, "PINFOLD_S3_ENDPOINT") else {
        if access_key.is_some() || secret_key.is_some() || role.is_some() {
            reader.reject("PINFOLD_S3_ENDPOINT", "must be set when its companions are");
        }
        return None;
    };
    if access_key.is_none() || secret_key.is_none() {
        reader.reject(
            "PINFOLD_S3_ACCESS_KEY",
            "and PINFOLD_S3_SECRET_KEY must be set with PINFOLD_S3_ENDPOINT",
        );
    }
    let label = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || ".-".contains(c);
    if !(3..=63).contains(&bucket.len()) || !bucket.chars().all(label) {
        reader.reject("PINFOLD_S3_BUCKET", "must be the name of a bucket");
    }
    Some(S3Config {
        sts_endpoint: sts_endpoint.unwrap_or_else(|| endpoint.clone()),
        endpoint,
        region,
        access_key: access_key.unwrap_or_default(),
        secret_key: Secret::new(secret_key.unwrap_or_default()),
        bucket,
        role,
    })
}

fn registry(reader: &mut Reader<'_>) -> Option<Registry> {
    let username = reader.text("PINFOLD_REGISTRY_USERNAME");
    let password = reader.text("PINFOLD_REGISTRY_PASSWORD").map(Secret::new);
    let place = reader.text("PINFOLD_REGISTRY")?;
    let place = crate::registries::address(&place);
    let (url, project) = place.split_once('/').unwrap_or((&place, "daytona"));
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-/".contains(c);
    if url.is_empty() || !project.chars().all(plain) {
        reader.reject("PINFOLD_REGISTRY", "must be <host>[:<port>][/<project>] in lower case");
    }
    if username.is_some() != password.is_some() {
        reader.reject("PINFOLD_REGISTRY_USERNAME", "and PINFOLD_REGISTRY_PASSWORD must be set together");
    }
    Some(Registry { url: url.to_owned(), project: Some(project.to_owned()), username, password })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_setting_is_shown_and_no_secret() {
        let env: &[(&str, &str)] = &[("PINFOLD_API_KEY", "dtn_hidden"), ("PINFOLD_SNAPSHOT_CPU", "2")];
        let shown = Config::read(&mut Reader::new(&env)).shown();
        let value = |name: &str| shown.iter().find(|(n, _)| *n == name).map(|(_, value)| value.as_str());
        assert_eq!(value("PINFOLD_SNAPSHOT_CPU"), Some("2"));
        assert_eq!(value("PINFOLD_BIND"), Some("127.0.0.1:3000"));
        assert_eq!(value("PINFOLD_API_KEY"), Some("as it was set"));
        assert_eq!(value("PINFOLD_RUNNER_TOKEN"), Some("in /var/lib/pinfold/runner-token"));
        assert!(!format!("{shown:?}").contains("hidden"));
    }

    #[test]
    fn an_object_store_is_whole_or_refused() {
        let read = |env: &[(&str, &str)]| {
            let mut reader = Reader::new(&env);
            let config = Config::read(&mut reader);
            reader.finish(config.s3)
        };
        let (key, secret) = (("PINFOLD_S3_ACCESS_KEY", "k"), ("PINFOLD_S3_SECRET_KEY", "s"));
        let endpoint = |url| ("PINFOLD_S3_ENDPOINT", url);
        let store = read(&[key, secret, endpoint("http://store:9000/")]).unwrap().unwrap();
        assert_eq!((store.endpoint.as_str(), store.bucket.as_str()), ("http://store:9000", "daytona"));
        assert_eq!(store.sts_endpoint, store.endpoint);
        for bad in ["store:9000", "http://store/path", "http://"] {
            assert!(read(&[key, secret, endpoint(bad)]).is_err(), "{bad}");
        }
        assert!(read(&[key, secret]).is_err() && read(&[endpoint("http://store")]).is_err());
    }
}
