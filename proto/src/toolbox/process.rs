//! Requests and responses of the toolbox's process and session routes (toolbox contract 6, 8 and 9).
//!
//! Members that the contract does not have are ours, optional, and additive.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};

/// `POST /process/execute`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Execute {
    /// The command line, for the sandbox's shell.
    #[serde(default, deserialize_with = "crate::null::as_default")]
    pub command: String,
    /// Where, relative to the work directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
    /// Seconds; absent or 0 is no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<u32>,
    /// Added over the sandbox's environment.
    #[serde(
        default,
        deserialize_with = "crate::null::string_map",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub envs: BTreeMap<String, String>,
    /// Ours: answer standard output and standard error apart. `result` then holds both in the order they arrived, which is only nearly the order in
    /// which they were written.
    #[serde(
        default,
        deserialize_with = "crate::null::as_default",
        skip_serializing_if = "std::ops::Not::not"
    )]
    pub separate_output: bool,
    /// Ours: keep at most so many bytes of output.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_output: Option<u64>,
    /// Ours: kill the command when the client goes away.
    #[serde(
        default,
        deserialize_with = "crate::null::as_default",
        skip_serializing_if = "std::ops::Not::not"
    )]
    pub cancel_on_disconnect: bool,
}

/// The members of the answer to [`Execute`] apart from its texts (`result`, and `stdout` and `stderr` if they were asked for).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Executed {
    /// 0–255; −1 if a signal killed the shell or it did not start.
    pub exit_code: i32,
    /// Ours: the shell's process id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<i32>,
    /// Ours: how long it took.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration_ms: Option<u64>,
    /// Ours: the signal that killed the shell, such as `SIGKILL`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<String>,
    /// Ours: there was more output than is kept.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub truncated: bool,
    /// Ours: the kernel killed something in this sandbox for want of memory meanwhile.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub oom_killed: bool,
}

/// `POST /process/session`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CreateSession {
    /// Any text that may name a directory.
    #[serde(default, deserialize_with = "crate::null::as_default")]
    pub session_id: String,
}

/// A session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Session {
    /// Its id.
    pub session_id: String,
    /// Its commands in the order they were submitted.
    pub commands: Vec<Command>,
    /// Ours: how its shell ended, as a shell would report it; absent while it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<i32>,
}

/// A command of a session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Command {
    /// Made by the daemon.
    pub id: String,
    /// The text as it was sent.
    pub command: String,
    /// Absent while it waits or runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// Ours: it ran into its time limit and was killed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub timed_out: bool,
    /// Ours: it was killed, and the kernel killed something in this sandbox for want of memory meanwhile.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub oom_killed: bool,
}

/// `POST /process/session/{id}/exec`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SessionExecute {
    /// The command's text.
    #[serde(default, deserialize_with = "crate::null::as_default")]
    pub command: String,
    /// Answer at once.
    #[serde(default, deserialize_with = "crate::null::as_default")]
    pub run_async: bool,
    /// The older name of `runAsync`.
    #[serde(
        default,
        rename = "async",
        deserialize_with = "crate::null::as_default",
        skip_serializing_if = "std::ops::Not::not"
    )]
    pub old_async: bool,
    /// Keep input out of the log.
    #[serde(default, deserialize_with = "crate::null::as_default")]
    pub suppress_input_echo: bool,
    /// Ours: seconds after which what the command has started is killed; absent or 0 is no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<u32>,
}

/// The answer to an asynchronous [`SessionExecute`]; a synchronous one fills in the texts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SessionExecuted {
    /// The new command's id.
    pub cmd_id: String,
    /// Both streams.
    pub output: Option<String>,
    /// Standard output.
    pub stdout: Option<String>,
    /// Standard error.
    pub stderr: Option<String>,
    /// The command's exit code.
    pub exit_code: Option<i32>,
}

/// `POST …/command/{id}/input`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Input {
    /// A line; a newline is added unless it has one. Required, unless the input is only to be closed.
    pub data: Option<String>,
    /// Ours: write `data` as it is, without adding a newline.
    #[serde(
        default,
        deserialize_with = "crate::null::as_default",
        skip_serializing_if = "std::ops::Not::not"
    )]
    pub raw: bool,
    /// Ours: close the command's standard input afterwards.
    #[serde(
        default,
        deserialize_with = "crate::null::as_default",
        skip_serializing_if = "std::ops::Not::not"
    )]
    pub eof: bool,
}

/// Ours: `POST …/command/{id}/signal`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SendSignal {
    /// A name (`TERM`, `SIGRTMIN+1`) or a number.
    #[serde(default, deserialize_with = "word")]
    pub signal: String,
}

/// Text, or a number as text; nothing for null.
fn word<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Word {
        Text(String),
        Number(i32),
        Nothing,
    }
    Ok(match Word::deserialize(deserializer)? {
        Word::Text(text) => text,
        Word::Number(number) => number.to_string(),
        Word::Nothing => String::new(),
    })
}

/// Ours: one process, in `GET /process/tree`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProcessInfo {
    /// Process id.
    pub pid: i32,
    /// Parent's process id.
    pub parent: i32,
    /// Process group.
    pub group: i32,
    /// Session.
    pub session: i32,
    /// The kernel's state letter.
    pub state: char,
    /// The executable's name.
    pub name: String,
}
