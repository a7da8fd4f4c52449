//! `pinfold top`: runners and sandboxes with what they use.
//!
//! Runners' figures are those of their last healthcheck. A sandbox's come from its own daemon, which knows its limits; asking for them is no activity
//! of the sandbox, so watching keeps none of them awake.

use std::cmp::Ordering;
use std::io::IsTerminal;
use std::time::Duration;

use clap::Args;
use futures_util::{StreamExt, stream};
use serde_json::{Value, json};

use crate::api::Api;
use crate::exit::Failure;
use crate::screen;
use crate::table::{cell, print_json, table};

/// How many sandboxes are asked at once.
const AT_ONCE: usize = 16;
/// How long one may take to answer; a picture that is drawn again and again goes on without it.
const PATIENCE: Duration = Duration::from_secs(2);
/// The same where there is one look only, which misses nothing because a host is busy.
const PATIENCE_ONCE: Duration = Duration::from_secs(15);
const GIB: f64 = (1_u64 << 30) as f64;

/// How to show it.
#[derive(Debug, Args)]
pub(crate) struct Top {
    /// Print JSON once
    #[arg(long)]
    json: bool,
    /// Seconds between two looks
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=3600))]
    interval: u64,
}

/// Runs the command.
pub(crate) async fn run(top: Top) -> Result<(), Failure> {
    let api = Api::from_env()?;
    if top.json {
        let (runners, sandboxes) = look(&api, PATIENCE_ONCE).await?;
        print_json(&json!({ "runners": runners, "sandboxes": sandboxes }));
        return Ok(());
    }
    let patience = if std::io::stdout().is_terminal() { PATIENCE } else { PATIENCE_ONCE };
    screen::show(Duration::from_secs(top.interval), async || {
        let (runners, sandboxes) = look(&api, patience).await?;
        Ok(picture(&runners, &sandboxes))
    })
    .await
}

/// All runners, and all sandboxes with `metrics` where there are any; the busiest first.
async fn look(api: &Api, patience: Duration) -> Result<(Vec<Value>, Vec<Value>), Failure> {
    let runners = api.get("/runners").await?;
    let measured = stream::iter(api.sandboxes().await?).map(|sandbox| measure(api, sandbox, patience));
    let mut sandboxes: Vec<Value> = measured.buffered(AT_ONCE).collect().await;
    let cpu = |sandbox: &Value| sandbox["metrics"]["cpuUsedPct"].as_f64().unwrap_or(-1.0);
    sandboxes.sort_by(|a, b| cpu(b).partial_cmp(&cpu(a)).unwrap_or(Ordering::Equal));
    Ok((runners.as_array().cloned().unwrap_or_default(), sandboxes))
}

async fn measure(api: &Api, mut sandbox: Value, patience: Duration) -> Value {
    if sandbox["state"] == "started" {
        // One that is just ending, or hangs, has no figures; its row says so.
        if let Ok(metrics) = api.look(&sandbox, "/system/metrics", patience).await {
            sandbox["metrics"] = metrics;
        }
    }
    sandbox
}

fn picture(runners: &[Value], sandboxes: &[Value]) -> Vec<String> {
    let rows: Vec<Vec<String>> = runners.iter().map(runner_row).collect();
    let titles = [
        "runner",
        "state",
        "score",
        "cpu",
        "memory",
        "disk",
        "cpus given",
        "GiB given",
        "disk given",
        "started",
    ];
    let mut lines = table(&titles, &rows);
    lines.push(String::new());
    let name_of = |id: &Value| {
        let runner = runners.iter().find(|runner| runner["id"] == *id);
        runner.map_or_else(|| cell(&json!({ "id": id }), "id"), |runner| cell(runner, "name"))
    };
    let rows: Vec<Vec<String>> = sandboxes.iter().map(|s| sandbox_row(s, name_of(&s["runnerId"]))).collect();
    lines.extend(table(
        &["sandbox", "state", "runner", "cpu", "memory GiB", "disk GiB", "last active", "reason"],
        &rows,
    ));
    lines
}

fn runner_row(runner: &Value) -> Vec<String> {
    let number = |member: &str| runner[member].as_f64().unwrap_or_default();
    let of = |given: &str, total: &str| format!("{:.0} of {:.0}", number(given), number(total));
    let state = match (runner["draining"] == true, runner["unschedulable"] == true) {
        (true, _) => format!("{}, draining", cell(runner, "state")),
        (_, true) => format!("{}, unschedulable", cell(runner, "state")),
        _ => cell(runner, "state"),
    };
    vec![
        cell(runner, "name"),
        state,
        cell(runner, "availabilityScore"),
        format!("{:.0} %", number("currentCpuUsagePercentage")),
        format!("{:.0} %", number("currentMemoryUsagePercentage")),
        format!("{:.0} %", number("currentDiskUsagePercentage")),
        of("currentAllocatedCpu", "cpu"),
        of("currentAllocatedMemoryGiB", "memory"),
        of("currentAllocatedDiskGiB", "disk"),
        cell(runner, "currentStartedSandboxes"),
    ]
}

fn sandbox_row(sandbox: &Value, runner: String) -> Vec<String> {
    let metrics = &sandbox["metrics"];
    let used = |used: &str, total: &str| match (metrics[used].as_f64(), metrics[total].as_f64()) {
        (Some(used), Some(total)) => format!("{:.2} of {:.1}", used / GIB, total / GIB),
        _ => "–".to_owned(),
    };
    vec![
        cell(sandbox, "name"),
        cell(sandbox, "state"),
        runner,
        metrics["cpuUsedPct"].as_f64().map_or_else(|| "–".to_owned(), |percent| format!("{percent:.0} %")),
        used("memUsed", "memTotal"),
        used("diskUsed", "diskTotal"),
        cell(sandbox, "lastActivityAt").chars().take(19).collect(),
        cell(sandbox, "errorReason").lines().next().unwrap_or_default().to_owned(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_that_is_missing_is_a_dash_and_not_a_zero() {
        let runner = json!({ "id": "r", "name": "local", "state": "ready", "draining": true, "cpu": 4, "currentAllocatedCpu": 1 });
        let with = json!({ "name": "a", "state": "started", "runnerId": "r", "errorReason": "first\nsecond",
            "metrics": { "cpuUsedPct": 12.6, "memUsed": 1 << 29, "memTotal": 1 << 30 } });
        let without = json!({ "name": "b", "state": "stopped", "runnerId": "unknown" });
        let lines = picture(&[runner], &[with, without]);
        let words =
            |at: usize| lines[at].split("  ").map(str::trim).filter(|w| !w.is_empty()).collect::<Vec<_>>();
        assert_eq!(words(1)[..2], ["local", "ready, draining"]);
        assert!(lines[1].contains("1 of 4"), "{}", lines[1]);
        assert_eq!(words(4), ["a", "started", "local", "13 %", "0.50 of 1.0", "–", "first"]);
        assert_eq!(words(5), ["b", "stopped", "unknown", "–", "–", "–"]);
    }
}
