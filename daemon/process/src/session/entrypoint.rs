//! The image's own command, run in a reserved session (toolbox contract 9), and the log that `entrypoint logs` prints.

use std::path::{Path, PathBuf};

use pinfold_http::ApiError;

use super::command::Manner;
use super::{ENTRYPOINT, sessions_directory};
use crate::Processes;

/// The id of the entrypoint's one command.
pub const COMMAND_ID: &str = "entrypoint_command";

/// Where the entrypoint's log is.
pub fn log_path(home: &Path) -> PathBuf {
    sessions_directory(home).join(ENTRYPOINT).join(COMMAND_ID).join("output.log")
}

impl Processes {
    /// Starts the entrypoint in the work directory, with an input that stays open.
    pub fn start_entrypoint(&self, arguments: &[String]) -> Result<(), ApiError> {
        let session = self.insert_session(ENTRYPOINT, &self.sandbox.work_dir)?;
        let text = quote(arguments);
        let manner = Manner { with_input: true, ..Manner::default() };
        session.submit(COMMAND_ID.to_owned(), text, manner, &self.settings).map(drop)
    }

    /// Waits for the entrypoint's end and gives its exit code; for ever if there is none, or if it is deleted at shutdown.
    pub async fn entrypoint_ended(&self) -> i32 {
        let command = self.session(ENTRYPOINT).and_then(|session| session.command(COMMAND_ID));
        match command {
            Ok(command) => command.ended().await,
            Err(_) => std::future::pending().await,
        }
    }
}

/// Each argument in single quotes, so that the shell sees it as it is.
fn quote(arguments: &[String]) -> String {
    let quoted = arguments.iter().map(|argument| format!("'{}'", argument.replace('\'', r"'\''")));
    quoted.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_quoted() {
        let arguments = ["sh", "-c", "echo 'it''s' $HOME"].map(str::to_owned);
        assert_eq!(quote(&arguments), r"'sh' '-c' 'echo '\''it'\'''\''s'\'' $HOME'");
    }
}
