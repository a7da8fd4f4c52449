//! `POST /process/execute` (toolbox contract 6): one command, its output, its exit code.
//!
//! A command runs in a task of its own, so that a client that goes away does not stop it unless it asked for that. The answer is complete when
//! the shell has ended and its output has; a background child that keeps the output open gets a short grace (weakness E3), after which its output is
//! still read, to nowhere, so that it does not die of a closed pipe.

use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::State;
use axum::response::Response;
use http::StatusCode;
use pinfold_http::{ApiError, ApiResult, JsonBody};
use pinfold_proto::markers::Stream;
use pinfold_proto::toolbox::process::{Execute, Executed};
use pinfold_spawn::tree::{Mark, Scope};
use pinfold_spawn::{Exit, Process, SpawnError, is_valid_name};
use tokio::sync::{SemaphorePermit, watch};
use tokio::time::{Instant as Clock, timeout_at};

use crate::body::{self, Pick, Source};
use crate::outputs::Outputs;
use crate::{Processes, launch};

/// After the shell's end: how long the output may be quiet before it counts as over although somebody holds it open.
const QUIET: Duration = Duration::from_millis(250);
/// After the shell's end: how long the output is waited for at most.
const GRACE: Duration = Duration::from_secs(2);
/// How much of the output a timeout error carries.
const TAIL: usize = 16 << 10;

/// Handles the route.
pub(crate) async fn execute(
    State(processes): State<Processes>,
    JsonBody(request): JsonBody<Execute>,
) -> ApiResult<Response> {
    check(&request)?;
    // Its receivers see the channel close when this request is dropped.
    let (client, disconnected) = watch::channel(());
    let disconnected = request.cancel_on_disconnect.then_some(disconnected);
    let outcome = tokio::spawn(run(processes, request, disconnected)).await;
    drop(client);
    outcome.map_err(|error| ApiError::internal(format_args!("the command was lost: {error}")))?
}

fn check(request: &Execute) -> ApiResult<()> {
    if request.command.trim().is_empty() {
        return Err(ApiError::bad_request("bad request: the command is empty"));
    }
    if request.command.contains('\0') || request.envs.values().any(|value| value.contains('\0')) {
        return Err(ApiError::bad_request("bad request: a command or variable cannot hold a NUL byte"));
    }
    match request.envs.keys().find(|name| !is_valid_name(name)) {
        Some(name) => {
            Err(ApiError::bad_request(format_args!("bad request: {name:?} is not a variable name")))
        }
        None => Ok(()),
    }
}

async fn run(
    processes: Processes,
    request: Execute,
    disconnected: Option<watch::Receiver<()>>,
) -> ApiResult<Response> {
    let _place = processes.place()?;
    let running = match Running::start(&processes, &request).await {
        Ok(running) => running,
        Err(Refusal::Text(text)) => return Ok(not_started(text)),
        Err(Refusal::NoRoom(error)) => return Err(error),
    };
    let Ended { executed, output, .. } = running.supervise(&processes, request.timeout, disconnected).await?;
    let texts = if request.separate_output {
        let only = |stream| Pick::Only(stream);
        vec![
            ("result", output.clone(), Pick::Unmarked),
            ("stdout", output.clone(), only(Stream::Stdout)),
            ("stderr", output, only(Stream::Stderr)),
        ]
    } else {
        vec![("result", output, Pick::All)]
    };
    Ok(answer(&executed, texts))
}

impl Processes {
    /// A place among the commands that run; 429 if there is none.
    fn place(&self) -> ApiResult<SemaphorePermit<'_>> {
        let none = |_| ApiError::too_many(self.settings.max_running, "commands", "PINFOLD_MAX_COMMANDS");
        self.running.try_acquire().map_err(none)
    }

    /// Runs a program as commands are run: its output is collected, bounded and decoded, and at the end of its time it is killed with everything it
    /// started, which is the 408 of the contract. The caller sets arguments, environment and standard input.
    ///
    /// A caller that goes away does not stop the program if it called this in a task of its own.
    pub async fn run(&self, program: Program) -> ApiResult<Result<Ended, SpawnError>> {
        let _place = self.place()?;
        let Program { mut command, limit } = program;
        if let Some(directory) = command.get_current_dir()
            && let Err(error) = self.sandbox.spawner.look(directory).await
        {
            return Ok(Err(error));
        }
        let mark = Mark::new(uuid::Uuid::new_v4().to_string());
        mark.apply(&mut command);
        command.process_group(0);
        let outputs =
            Outputs::attach(&mut command, false, self.settings.execute_output_max).map_err(|error| {
                let plain = || ApiError::internal(format_args!("no pipe for the program's output: {error}"));
                launch::exhausted(&error).unwrap_or_else(plain)
            })?;
        let oom_before = self.sandbox.spawner.oom_kills().count();
        match self.sandbox.spawner.spawn(command) {
            Ok(process) => {
                let began = Instant::now();
                let running = Running { process: Arc::new(process), mark, outputs, began, oom_before };
                running.supervise(self, limit, None).await.map(Ok)
            }
            Err(error) => launch::no_room(&error).map_or(Ok(Err(error)), Err),
        }
    }
}

/// A program to be run by [`Processes::run`].
#[derive(Debug)]
pub struct Program {
    /// What to start. Its process group and its output are set here.
    pub command: Command,
    /// Seconds; `None` or 0 is no limit.
    pub limit: Option<u32>,
}

/// A program that has ended, with its output.
#[derive(Debug)]
pub struct Ended {
    /// How it ended.
    pub exit: Exit,
    executed: Executed,
    output: Source,
}

impl Ended {
    /// The answer to a client: `exit_code` and the output, with these members beside them.
    pub fn answer(mut self, exit_code: i32, members: serde_json::Map<String, serde_json::Value>) -> Response {
        self.executed.exit_code = exit_code;
        let mut plain = serde_json::to_value(&self.executed).unwrap_or_default();
        if let Some(object) = plain.as_object_mut() {
            object.extend(members);
        }
        body::object(plain, vec![("result", self.output, Pick::All)])
    }
}

impl Running {
    /// Lets it run to its end, or to the end of its time or of its client's interest.
    async fn supervise(
        mut self,
        processes: &Processes,
        limit: Option<u32>,
        disconnected: Option<watch::Receiver<()>>,
    ) -> ApiResult<Ended> {
        let limit = limit.filter(|s| *s > 0);
        let exit = tokio::select! {
            exit = self.finish() => exit,
            () = expire(limit) => {
                let seconds = limit.unwrap_or(0);
                let message = format!("request timeout: the command ran into its timeout of {seconds} s and was killed");
                let error = ApiError::new(StatusCode::REQUEST_TIMEOUT, message).code("PROCESS_EXECUTION_TIMEOUT");
                return Err(error.with("output", self.kill().await));
            }
            () = gone(disconnected) => {
                self.kill().await;
                return Err(ApiError::new(StatusCode::REQUEST_TIMEOUT, "the client went away and the command was killed"));
            }
        };
        let suspicious = matches!(exit, Exit::Signal(9) | Exit::Code(137));
        let executed = Executed {
            exit_code: if let Exit::Code(code) = exit { code } else { -1 },
            pid: Some(self.process.pid().as_raw()),
            duration_ms: u64::try_from(self.began.elapsed().as_millis()).ok(),
            signal: exit
                .signal()
                .map(|n| exit.signal_name().map_or_else(|| format!("SIG{n}"), str::to_owned)),
            truncated: self.outputs.truncated(),
            oom_killed: suspicious && processes.sandbox.spawner.oom_kills().since(self.oom_before),
        };
        Ok(Ended { exit, executed, output: self.outputs.leave() })
    }
}

/// 200 with −1 and the reason as text: what clients expect of a command that could not start.
fn not_started(reason: String) -> Response {
    let executed = Executed {
        exit_code: -1,
        pid: None,
        duration_ms: None,
        signal: None,
        truncated: false,
        oom_killed: false,
    };
    answer(&executed, vec![("result", Source::memory(reason.into_bytes()), Pick::All)])
}

fn answer(executed: &Executed, texts: Vec<(&str, Source, Pick)>) -> Response {
    body::object(serde_json::to_value(executed).unwrap_or_default(), texts)
}

async fn expire(limit: Option<u32>) {
    match limit {
        Some(seconds) => tokio::time::sleep(Duration::from_secs(seconds.into())).await,
        None => std::future::pending().await,
    }
}

async fn gone(client: Option<watch::Receiver<()>>) {
    match client {
        Some(mut client) => while client.changed().await.is_ok() {},
        None => std::future::pending().await,
    }
}

/// Why a command did not start.
enum Refusal {
    /// Something about it is wrong.
    Text(String),
    /// The sandbox is full.
    NoRoom(ApiError),
}

impl From<std::io::Error> for Refusal {
    fn from(error: std::io::Error) -> Self {
        launch::exhausted(&error)
            .map_or_else(|| Self::Text(format!("the command could not start: {error}")), Self::NoRoom)
    }
}

struct Running {
    process: Arc<Process>,
    mark: Mark,
    outputs: Outputs,
    began: Instant,
    /// The kernel's count of its victims in this sandbox when the command started.
    oom_before: u64,
}

impl Running {
    async fn start(processes: &Processes, request: &Execute) -> Result<Self, Refusal> {
        let began = Instant::now();
        let sandbox = &processes.sandbox;
        let directory = sandbox.resolve(request.cwd.as_deref().unwrap_or_default());
        let hangs = |error| Refusal::Text(launch::explain(&error, &directory));
        sandbox.spawner.look(&directory).await.map_err(hangs)?;
        let (mut command, file) = launch::script(&processes.shell(), &request.command)?;
        sandbox.environment.apply(&mut command, &request.envs);
        let mark = Mark::new(uuid::Uuid::new_v4().to_string());
        mark.apply(&mut command);
        command.current_dir(&directory);
        let max = request.max_output.unwrap_or(u64::MAX).min(processes.settings.execute_output_max);
        let outputs = Outputs::attach(&mut command, request.separate_output, max)?;
        let oom_before = sandbox.spawner.oom_kills().count();
        let process = sandbox.spawner.spawn(command).map_err(|error| {
            launch::no_room(&error)
                .map_or_else(|| Refusal::Text(launch::explain(&error, &directory)), Refusal::NoRoom)
        })?;
        // The shell has the file open once it reads it; until the command ends it stays reachable.
        let process = Arc::new(process);
        if let Some(file) = file {
            let process = Arc::clone(&process);
            tokio::spawn(async move {
                process.wait().await;
                drop(file);
            });
        }
        Ok(Self { process, mark, outputs, began, oom_before })
    }

    /// Collects output until the command is over.
    async fn finish(&mut self) -> Exit {
        let exit = loop {
            tokio::select! {
                exit = self.process.wait() => break exit,
                () = self.outputs.collect() => {}
            }
        };
        self.outputs.collect_rest();
        let deadline = Clock::now() + GRACE;
        while self.outputs.open() && Clock::now() < deadline {
            let quiet = deadline.min(Clock::now() + QUIET);
            if timeout_at(quiet, self.outputs.collect()).await.is_err() {
                break;
            }
        }
        exit
    }

    /// Kills the command and everything it started; gives the end of its output.
    async fn kill(self) -> String {
        let Self { process, mark, mut outputs, .. } = self;
        // Reading the process table takes milliseconds: not on a thread that serves others.
        let killed = tokio::task::spawn_blocking(move || process.kill_family(&mark, Scope::Everything)).await;
        if let Err(error) = killed {
            tracing::error!(%error, "a command that timed out could not be killed");
        }
        outputs.collect_rest();
        String::from_utf8_lossy(&outputs.tail(TAIL)).into_owned()
    }
}
