//! Whether a sandbox works although nobody is connected to it (`PINFOLD_BUSY_IS_ACTIVE`): what a session has started still runs.
//!
//! It is asked when the sandbox would be stopped, and only then: nothing is polled.

use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use serde::Deserialize;

use super::runner::Upstream;
use crate::core::Core;
use crate::store::sandboxes::Record;

/// How long a daemon may take; one that does not answer keeps no sandbox awake.
const LIMIT: Duration = Duration::from_secs(5);
/// Longest list of sessions that is read, in bytes.
const MAX_ANSWER: usize = 4 << 20;
/// The session of the image's own program, which runs for as long as the sandbox does.
const ENTRYPOINT: &str = "entrypoint";

/// A session, as far as it matters here (toolbox contract 8).
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Session {
    session_id: String,
    #[serde(default)]
    commands: Vec<Command>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Command {
    #[serde(default)]
    exit_code: Option<i64>,
}

fn runs(sessions: &[Session]) -> bool {
    let asked_for = sessions.iter().filter(|session| session.session_id != ENTRYPOINT);
    asked_for.flat_map(|session| &session.commands).any(|command| command.exit_code.is_none())
}

impl Core {
    /// Whether a command of a session of this sandbox still runs. A sandbox that cannot be asked is not busy.
    pub(crate) async fn is_busy(&self, r: &Record) -> bool {
        let asking = async {
            let runner = r.runner_id.as_deref().and_then(|id| self.runners.get(id));
            let runner = runner.ok_or_else(|| "it has no runner".to_owned())?;
            let failed = |error: pinfold_http::ApiError| error.message().to_owned();
            let upstream = Upstream::of(&runner).await.map_err(failed)?;
            let request = Request::new(Body::empty());
            let answer =
                upstream.ask_daemon(self, &r.id, request, "/process/session").await.map_err(failed)?;
            let status = answer.status();
            let body = axum::body::to_bytes(answer.into_body(), MAX_ANSWER).await;
            let body = body.map_err(|error| error.to_string())?;
            if !status.is_success() {
                return Err(format!("its daemon answered {status}"));
            }
            serde_json::from_slice::<Vec<Session>>(&body).map_err(|error| error.to_string())
        };
        match tokio::time::timeout(LIMIT, asking).await {
            Ok(Ok(sessions)) => runs(&sessions),
            Ok(Err(why)) => {
                tracing::info!(sandbox = r.id, why, "could not ask whether a sandbox is busy");
                false
            }
            Err(_) => {
                tracing::info!(sandbox = r.id, "a daemon did not say in time whether its sandbox is busy");
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_no_exit_code_runs_but_for_the_entrypoint() {
        let busy = |text: &str| runs(&serde_json::from_str::<Vec<Session>>(text).unwrap());
        assert!(!busy(r#"[]"#));
        assert!(!busy(r#"[{"sessionId":"entrypoint","commands":[{"id":"e","command":"sleep infinity"}]}]"#));
        assert!(!busy(
            r#"[{"sessionId":"s","commands":[{"id":"a","command":"true","exitCode":0}]},{"sessionId":"t"}]"#
        ));
        assert!(busy(r#"[{"sessionId":"s","commands":[{"id":"a","command":"make"}]}]"#));
    }
}
