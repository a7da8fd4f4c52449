//! `pinfold status`: what the runner of this host reports in its healthchecks, asked of the runner itself.

use std::time::Duration;

use clap::Args;
use pinfold_proto::id::Secret;
use pinfold_proto::runner::health::{RunnerMetrics, ServiceHealth};
use serde::Deserialize;
use serde_json::Value;

use crate::exit::Failure;
use crate::screen;
use crate::table::print_json;
use crate::whereabouts;

/// More than the three seconds that the contract (runner 4.2) gives callers of `/info`: a host that is busy is one that people look at.
const PATIENCE: Duration = Duration::from_secs(10);

/// How to show it.
#[derive(Debug, Args)]
pub(crate) struct Status {
    /// Print JSON once
    #[arg(long)]
    json: bool,
    /// Seconds between two looks
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=3600))]
    interval: u64,
}

/// Runs the command.
pub(crate) async fn run(status: Status) -> Result<(), Failure> {
    if status.json {
        print_json(&ask().await?);
        return Ok(());
    }
    screen::show(Duration::from_secs(status.interval), async || ask().await.map(|report| picture(&report)))
        .await
}

/// The report of the first runner that answers, with the `url` it answered at.
async fn ask() -> Result<Value, Failure> {
    let data_dir = crate::data_dir();
    let mut failure = Failure::unreachable(format!(
        "no runner of this host serves from {}: start `pinfold up` or `pinfold run`, or set PINFOLD_DATA_DIR as theirs",
        data_dir.display()
    ));
    for (url, token) in whereabouts::found(&data_dir) {
        match info(&url, &token).await {
            Ok(mut report) => {
                report["url"] = url.into();
                return Ok(report);
            }
            Err(error) => {
                failure = Failure::unreachable(format!("the runner at {url} does not answer: {error}"));
            }
        }
    }
    Err(failure)
}

async fn info(url: &str, token: &Secret) -> reqwest::Result<Value> {
    // The runner's own certificate is for the name that the world knows it by, which is not the loopback's.
    let client =
        reqwest::Client::builder().timeout(PATIENCE).tls_danger_accept_invalid_certs(true).build()?;
    let request = client.get(format!("{url}/info")).bearer_auth(token.expose());
    request.send().await?.error_for_status()?.json().await
}

/// What is shown of a report; anything else in it is for programs.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    url: String,
    #[serde(default)]
    app_version: String,
    #[serde(default)]
    service_health: Vec<ServiceHealth>,
    metrics: Option<RunnerMetrics>,
}

fn picture(report: &Value) -> Vec<String> {
    let report: Report = match serde_json::from_value(report.clone()) {
        Ok(report) => report,
        Err(error) => return vec![format!("the runner's report cannot be read: {error}")],
    };
    let mut lines = vec![format!("pinfold {} at {}", report.app_version, report.url), String::new()];
    let mut line = |name: &str, text: String| lines.push(format!("{name:<16}{text}"));
    for service in &report.service_health {
        let text = match (service.healthy, service.error_reason.as_deref()) {
            (true, None) => "well".to_owned(),
            // What some sandboxes miss, or will miss soon.
            (true, Some(reason)) => format!("well, but {reason}"),
            (false, reason) => format!("NOT WELL: {}", reason.unwrap_or("no reason was given")),
        };
        line(&service.service_name, text);
    }
    let Some(m) = &report.metrics else {
        line("figures", "none: one of them cannot be measured, and the runner's log says which".to_owned());
        return lines;
    };
    let load = m.current_cpu_load_average;
    line(
        "cpu",
        format!("{:.0} % of {:.1} cores, load {load:.2} of each", m.current_cpu_usage_percentage, m.cpu),
    );
    line("memory", format!("{:.0} % of {:.1} GiB", m.current_memory_usage_percentage, m.memory_gib));
    line("disk", format!("{:.0} % of {:.0} GiB", m.current_disk_usage_percentage, m.disk_gib));
    let (cpu, memory) = (m.current_allocated_cpu, m.current_allocated_memory_gib);
    line(
        "given away",
        format!("{cpu:.1} cores, {memory:.1} GiB memory, {:.0} GiB disk", m.current_allocated_disk_gib),
    );
    line("sandboxes", format!("{} running", m.current_started_sandboxes));
    line("images", m.current_snapshot_count.to_string());
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_wrong_stands_out_and_what_is_missing_is_said() {
        let lines = picture(&json!({ "url": "http://127.0.0.1:1", "appVersion": "1.2.3",
            "serviceHealth": [{ "serviceName": "docker", "healthy": false, "errorReason": "no socket" }] }));
        assert_eq!(lines[0], "pinfold 1.2.3 at http://127.0.0.1:1");
        assert!(
            lines.iter().any(|l| l.starts_with("docker") && l.ends_with("NOT WELL: no socket")),
            "{lines:?}"
        );
        assert!(lines.last().is_some_and(|l| l.starts_with("figures")), "{lines:?}");
    }

    #[test]
    fn every_figure_has_its_total() {
        let metrics = json!({ "currentCpuUsagePercentage": 12.4, "cpu": 2.0, "currentMemoryUsagePercentage": 30.0, "memoryGiB": 24.0,
            "diskGiB": 99.6, "currentStartedSandboxes": 3 });
        let lines = picture(&json!({ "url": "u", "metrics": metrics })).join("\n");
        for part in ["12 % of 2.0 cores", "30 % of 24.0 GiB", "0 % of 100 GiB", "3 running"] {
            assert!(lines.contains(part), "{part} in {lines}");
        }
    }
}
