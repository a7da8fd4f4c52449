//! Checks of what a node works with: the engine and its storage, the packet filter, our ports, the registry, the control plane, and the clock beside
//! theirs.

use std::path::Path;
use std::time::{Duration, SystemTime};

use pinfold_cgroup::Kernel;
use pinfold_engine::{Docker, Engine, EngineInfo};

use super::Finding;
use crate::api::root_cause;

/// Free space below which pulls and builds soon fail.
const LOW_DISK: u64 = 5 << 30;
/// A clock that is further off breaks tokens and certificates, and makes jobs look stale.
const MAX_SKEW: Duration = Duration::from_secs(5);

/// All checks of services.
pub(crate) async fn check() -> Vec<Finding> {
    let mut findings = Vec::new();
    match engine().await {
        Ok(info) => {
            let detail = format!(
                "Docker Engine {} ({}, {}), data in {}",
                info.version,
                info.driver,
                info.architecture,
                info.data_root.display()
            );
            findings.push(Finding::ok("engine", detail));
            findings.extend(runtime(&info));
            findings.push(quota(&info));
            findings.push(disk(&info.data_root));
        }
        Err(reason) => findings.push(Finding::failed(
            "engine",
            reason,
            "install docker.io and start it: systemctl enable --now docker",
        )),
    }
    findings.push(packet_filter().await);
    findings.extend(ports());
    let (told, of_plane) = control_plane().await;
    findings.push(told);
    let (told, of_registry) = registry().await;
    findings.push(told);
    let apart = of_plane.map(|skew| ("control plane", skew)).or(of_registry.map(|skew| ("registry", skew)));
    findings.push(clock(apart));
    findings
}

async fn engine() -> Result<EngineInfo, String> {
    let docker = Docker::connect().await.map_err(|e| e.to_string())?;
    docker.info().await.map_err(|e| e.to_string())
}

/// The runtime that was asked for, if one was.
fn runtime(info: &EngineInfo) -> Option<Finding> {
    let wanted = std::env::var("CONTAINER_RUNTIME").ok().filter(|name| !name.is_empty())?;
    Some(match info.lacks_runtime(&wanted) {
        None => Finding::ok("runtime", format!("sandboxes run under {wanted}")),
        Some(reason) => Finding::failed(
            "runtime",
            reason,
            "install it, name it under \"runtimes\" in /etc/docker/daemon.json, and reload the engine",
        ),
    })
}

fn quota(info: &EngineInfo) -> Finding {
    let xfs = info.backing_filesystem.as_deref() == Some("xfs");
    if xfs && pinfold_runner::has_project_quota(&info.data_root) == Some(true) {
        Finding::ok("disk quota", "XFS with project quotas: each sandbox's disk is limited")
    } else {
        let detail = format!(
            "{} without project quotas: a sandbox can fill the disk",
            info.backing_filesystem.as_deref().unwrap_or("unknown filesystem")
        );
        Finding::warning("disk quota", detail, "put the engine's data directory on XFS mounted with prjquota")
    }
}

fn disk(data_root: &Path) -> Finding {
    match Kernel::at("/").disk(&data_root.to_string_lossy()) {
        Ok(disk) if disk.available < LOW_DISK => {
            let detail = format!("{} MiB left in {}", disk.available >> 20, data_root.display());
            Finding::warning("disk", detail, "make room: docker image prune, or a larger disk")
        }
        Ok(disk) => {
            Finding::ok("disk", format!("{} GiB left in {}", disk.available >> 30, data_root.display()))
        }
        Err(missing) => Finding::warning("disk", missing.to_string(), "run doctor as root"),
    }
}

async fn packet_filter() -> Finding {
    let remedy = "install nftables; the kernel needs nf_tables with the inet family";
    match tokio::process::Command::new("nft")
        .args(["--check", "add", "table", "inet", "pinfold_doctor"])
        .output()
        .await
    {
        Ok(output) if output.status.success() => Finding::ok("firewall", "nftables answers"),
        Ok(output) => {
            Finding::failed("firewall", String::from_utf8_lossy(&output.stderr).trim().to_owned(), remedy)
        }
        Err(error) => Finding::failed("firewall", format!("could not run nft: {error}"), remedy),
    }
}

fn ports() -> Vec<Finding> {
    let number =
        |name: &str, default: u16| std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(default);
    let wanted =
        [("API_PORT", number("API_PORT", 8080)), ("SSH_GATEWAY_PORT", number("SSH_GATEWAY_PORT", 2220))];
    let check = |(setting, port): (&str, u16)| match std::net::TcpListener::bind(("0.0.0.0", port)) {
        Ok(_) => Finding::ok("port", format!("{port} is free")),
        Err(error) => Finding::warning(
            "port",
            format!("{port} cannot be used: {error}"),
            format!("if that is not Pinfold itself, end what listens there or set {setting}"),
        ),
    };
    wanted.into_iter().map(check).collect()
}

/// What a server answers to a request, and how far its clock is from ours.
async fn answer(url: &str) -> reqwest::Result<(reqwest::StatusCode, Option<Duration>)> {
    let client = reqwest::Client::builder().timeout(Duration::from_secs(5)).build()?;
    let asked = SystemTime::now();
    let response = client.get(url).send().await?;
    let answered = SystemTime::now();
    let date = response.headers().get("date").and_then(|d| d.to_str().ok());
    let date = date.and_then(|d| httpdate::parse_http_date(d).ok());
    Ok((response.status(), date.map(|date| skew(asked, date, answered))))
}

/// How far a date is outside of the time in which it was told: a slow answer is no wrong clock.
fn skew(asked: SystemTime, date: SystemTime, answered: SystemTime) -> Duration {
    // Dates are whole seconds, rounded down (RFC 9110, section 5.6.7).
    let latest = date + Duration::from_secs(1);
    asked.duration_since(latest).or_else(|_| date.duration_since(answered)).unwrap_or_default()
}

/// Whether the control plane answers.
async fn control_plane() -> (Finding, Option<Duration>) {
    const NAME: &str = "control plane";
    let Some(base) = std::env::var("DAYTONA_API_URL").ok().filter(|v| !v.is_empty()) else {
        return (Finding::ok(NAME, "DAYTONA_API_URL is not set; nothing to check"), None);
    };
    let url = format!("{}/health", base.trim_end_matches('/'));
    match answer(&url).await {
        Ok((status, skew)) if status.is_success() => (Finding::ok(NAME, format!("{url} answers")), skew),
        Ok((status, skew)) => {
            let remedy = "check DAYTONA_API_URL, which ends in /api, and what answers there";
            (Finding::warning(NAME, format!("{url} answers {status}"), remedy), skew)
        }
        Err(error) => {
            let detail = format!("{url} does not answer: {}", root_cause(&error));
            (Finding::failed(NAME, detail, "check DAYTONA_API_URL, DNS and the way there"), None)
        }
    }
}

/// Whether images can be had: from the registry that is configured, else from the one that engines ask for names without a host.
async fn registry() -> (Finding, Option<Duration>) {
    const NAME: &str = "registry";
    let place = std::env::var("PINFOLD_REGISTRY").ok().filter(|v| !v.is_empty());
    let place = place.as_deref().map_or("registry-1.docker.io", str::trim);
    let (scheme, rest) = place.split_once("://").unwrap_or(("https", place));
    let host = rest.split('/').next().unwrap_or(rest);
    match answer(&format!("{scheme}://{host}/v2/")).await {
        // Most want to know who asks.
        Ok((status, skew)) if status.is_success() || matches!(status.as_u16(), 401 | 403) => {
            (Finding::ok(NAME, format!("{host} answers")), skew)
        }
        Ok((status, skew)) => {
            let detail = format!("{host} answers {status}, as no registry does");
            (Finding::warning(NAME, detail, "set PINFOLD_REGISTRY to a registry's address"), skew)
        }
        Err(error) => {
            let detail = format!(
                "{host} does not answer ({}): only images that are here can be used",
                root_cause(&error)
            );
            let remedy = "check DNS, the way out and the engine's proxy settings, or docker load the images";
            (Finding::warning(NAME, detail, remedy), None)
        }
    }
}

/// How far our clock is from somebody else's.
fn clock(apart: Option<(&str, Duration)>) -> Finding {
    const NAME: &str = "clock";
    let remedy = "synchronise the clock: systemctl enable --now systemd-timesyncd";
    let Some((whose, skew)) = apart else {
        return Finding::warning(NAME, "nobody answered whose clock could be compared with ours", remedy);
    };
    if skew > MAX_SKEW {
        Finding::warning(NAME, format!("{} s apart from the {whose}'s", skew.as_secs()), remedy)
    } else {
        Finding::ok(NAME, format!("agrees with the {whose}'s"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_answer_is_no_wrong_clock() {
        let at = |seconds: f64| SystemTime::UNIX_EPOCH + Duration::from_secs_f64(seconds);
        assert_eq!(skew(at(100.9), at(100.0), at(101.0)), Duration::ZERO, "dates are rounded down");
        assert_eq!(skew(at(100.0), at(108.0), at(110.0)), Duration::ZERO);
        assert_eq!(skew(at(100.0), at(117.0), at(110.0)), Duration::from_secs(7));
        assert_eq!(skew(at(100.0), at(92.0), at(110.0)), Duration::from_secs(7));
    }
}
