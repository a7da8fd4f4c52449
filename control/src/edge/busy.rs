//! Whether a sandbox works although nobody is connected to it (`PINFOLD_BUSY_IS_ACTIVE`): what a session has started still runs.
//!
//! It is asked when the sandbox would be stopped, and only then: nothing is polled.

use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::Request;
use serde::Deserialize;

use crate::core::Core;
use crate::store::sandboxes::Record;

/// How long a daemon may take; one that does not answer keeps no sandbox awake.
const LIMIT: Duration = Duration::from_secs(5);
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
        let asked = self.ask_daemon(r, Request::new(Body::empty()), "/process/session", LIMIT).await;
        let read =
            |body: Bytes| serde_json::from_slice::<Vec<Session>>(&body).map_err(|error| error.to_string());
        match asked.and_then(read) {
            Ok(sessions) => runs(&sessions),
            Err(why) => {
                tracing::info!(sandbox = r.id, why, "could not ask whether a sandbox is busy");
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
