//! The environment of sandboxes that were started before anyone knew what it should be: those of warm pools.
//!
//! Their daemons are told of it, at hand-out and at each start after that, before anyone is told that the sandbox is started. Processes that begin
//! afterwards have it. What runs already does not, nor does the daemon itself: [`can_be_late`] says which sandboxes and variables that is good enough for.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use http::{Method, header};
use pinfold_proto::control::sandbox::SandboxState;
use serde_json::json;

use crate::core::Core;
use crate::store::sandboxes::Record;

/// How long a daemon may take.
const LIMIT: Duration = Duration::from_secs(10);
/// Variables that the daemon reads at its start, besides those with a prefix of its own.
const AT_THE_START: [&str; 4] = ["HOME", "LOG_LEVEL", "DISPLAY", "ENVIRONMENT"];

/// Whether an environment that comes late does all that it should: the entrypoint does nothing, and no variable is the daemon's own.
pub(crate) fn can_be_late(env: &BTreeMap<String, String>, entrypoint: Option<&[String]>) -> bool {
    let program =
        entrypoint.and_then(<[String]>::first).map(|path| path.rsplit('/').next().unwrap_or_default());
    let idle = match program {
        None | Some("sleep") => true,
        Some("sh" | "bash") => entrypoint.is_some_and(|words| words.len() == 1),
        _ => false,
    };
    let own = |name: &str| {
        name.starts_with("DAYTONA_") || name.starts_with("PINFOLD_") || AT_THE_START.contains(&name)
    };
    env.is_empty() || (idle && !env.keys().any(|name| own(name)))
}

impl Core {
    /// Tells a sandbox's daemon of the environment in its record.
    pub(crate) async fn apply_env(&self, r: &Record) -> Result<(), String> {
        let request = Request::builder()
            .method(Method::POST)
            .header(header::CONTENT_TYPE, "application/json")
            .body(Body::from(json!({ "set": r.env }).to_string()))
            .map_err(|error| error.to_string())?;
        self.ask_daemon(r, request, "/env", LIMIT).await.map(drop)
    }
}

/// Tells once more what a hand-out that was cut off by our end may not have told.
pub(crate) fn resume(core: &Arc<Core>) {
    for handle in core.directory.all() {
        let r = handle.record();
        let Some(runner) = r.runner_id.clone().filter(|_| r.late_env && r.state == SandboxState::Started)
        else {
            continue;
        };
        let core = core.clone();
        core.tasks.clone().spawn(async move {
            let stop = core.stop.clone();
            let told = async {
                core.runners.ready(&runner).await;
                core.apply_env(&r).await
            };
            tokio::select! {
                told = told => if let Err(why) = told {
                    tracing::warn!(sandbox = r.id, why, "could not tell a sandbox of its environment");
                },
                () = stop.cancelled() => {}
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_reads_its_environment_at_the_start_gets_it_at_the_start() {
        let env = |name: &str| BTreeMap::from([(name.to_owned(), "x".to_owned())]);
        let words = |line: &str| line.split(' ').map(str::to_owned).collect::<Vec<_>>();
        assert!(can_be_late(&env("A"), None));
        assert!(can_be_late(&env("A"), Some(&words("sleep infinity"))));
        assert!(can_be_late(&env("A"), Some(&words("/bin/sh"))));
        for line in ["/bin/sh -c server", "/usr/bin/server", "tail -f /log"] {
            assert!(!can_be_late(&env("A"), Some(&words(line))), "{line}");
            assert!(can_be_late(&BTreeMap::new(), Some(&words(line))), "{line}");
        }
        for name in ["PINFOLD_MAX_PTYS", "DAYTONA_OTEL_ENDPOINT", "LOG_LEVEL"] {
            assert!(!can_be_late(&env(name), None), "{name}");
        }
    }
}
