//! `pinfold doctor`: whether this host can be a node, each finding with a remedy.
//!
//! A check looks at the real thing (it asks the engine, opens the device, binds the port) and changes nothing. A failed check means that `pinfold run` would not
//! start or would not hold its promises; a warning means that one feature is missing.

mod host;
mod services;

use serde_json::json;

use crate::exit::Failure;
use crate::table::{print_json, print_line};

/// What a check found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Ok,
    Warning,
    Failed,
}

/// One finding.
#[derive(Debug)]
pub(crate) struct Finding {
    name: &'static str,
    verdict: Verdict,
    detail: String,
    remedy: String,
}

impl Finding {
    pub(crate) fn ok(name: &'static str, detail: impl Into<String>) -> Self {
        Self { name, verdict: Verdict::Ok, detail: detail.into(), remedy: String::new() }
    }

    pub(crate) fn warning(name: &'static str, detail: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { name, verdict: Verdict::Warning, detail: detail.into(), remedy: remedy.into() }
    }

    pub(crate) fn failed(name: &'static str, detail: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { name, verdict: Verdict::Failed, detail: detail.into(), remedy: remedy.into() }
    }
}

/// Runs all checks and prints them; fails when one of them failed.
pub(crate) async fn run(as_json: bool) -> Result<(), Failure> {
    let mut findings = host::check();
    findings.extend(services::check().await);
    if as_json {
        let verdict = |v| match v {
            Verdict::Ok => "ok",
            Verdict::Warning => "warning",
            Verdict::Failed => "failed",
        };
        let list = findings.iter().map(|f| json!({ "check": f.name, "verdict": verdict(f.verdict), "detail": f.detail, "remedy": f.remedy }));
        print_json(&list.collect());
    } else {
        for finding in &findings {
            let mark = match finding.verdict {
                Verdict::Ok => "ok  ",
                Verdict::Warning => "warn",
                Verdict::Failed => "FAIL",
            };
            print_line(&format!("{mark}  {:<12}  {}", finding.name, finding.detail));
            if !finding.remedy.is_empty() {
                print_line(&format!("{:20}→ {}", "", finding.remedy));
            }
        }
    }
    let failed = findings.iter().filter(|f| f.verdict == Verdict::Failed).count();
    if failed == 0 { Ok(()) } else { Err(Failure::runtime(format!("{failed} check(s) failed"))) }
}
