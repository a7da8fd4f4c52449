//! One operation's process: the daemon's own program again, under another name, which serves one request on its standard input and ends.
//!
//! Request and answer go over a socket pair as HTTP, so that a long answer streams, a broken one shows, and a client that goes away is noticed at the
//! other end. Credentials are in the request's body: in no argument, environment or file.
//!
//! Who owns what: a task ([`supervise`]) owns the process and the turn. When the request is over (answered, given up by its client, or out of time) the
//! socket closes, the engine cancels what it does and cleans up, and what has not ended a moment later is killed.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdStream;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::response::Response;
use http::header::{CONNECTION, CONTENT_TYPE, HOST, HeaderValue};
use http::{Request, StatusCode};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use nix::sys::signal::Signal;
use pinfold_http::{ApiError, ApiResult};
use pinfold_proto::error::ErrorBody;
use pinfold_spawn::oom::Kills;
use pinfold_spawn::{Exit, Process, SpawnError, is_no_room};
use tokio::net::UnixStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::turns::Turn;
use super::{Asked, DIRECTORY, Front, TIMEOUT};
use crate::engine::NAME;
use crate::error::{Failure, Kind};

/// How long an engine that nobody listens to any more has to clean up.
const CLEAN_UP: Duration = Duration::from_secs(2);
/// Largest error.
const ERROR: usize = 1 << 20;

/// An engine that waits for its request.
pub(super) struct Child {
    request: SendRequest<Body>,
    end: JoinHandle<End>,
    kills: Kills,
    kills_before: u64,
}

/// How an operation's process ended.
struct End {
    exit: Exit,
    /// The limit that it met.
    late: Option<Duration>,
}

impl Child {
    /// Starts an engine, which has `turn` until it is gone.
    pub(super) async fn start(front: &Front, turn: Option<Turn>, limit: Option<Duration>) -> ApiResult<Self> {
        let sandbox = &front.sandbox;
        let kills = sandbox.spawner.oom_kills().clone();
        let kills_before = kills.count();
        let (socket, theirs) = sockets().map_err(|error| refused(&error))?;
        let mut command = Command::new(&*front.program);
        sandbox.environment.apply(&mut command, []);
        command.arg0(NAME).arg(&*sandbox.work_dir).arg(&*sandbox.home).current_dir("/").process_group(0);
        command.stdin(Stdio::from(theirs)).stdout(Stdio::null());
        let process = sandbox.spawner.spawn(command).map_err(|error| match error {
            SpawnError::NoRoom { .. } => ApiError::exhausted(error),
            _ => ApiError::internal(format_args!("git's process did not start: {error}")),
        })?;
        let (request, connection) = http1::handshake(TokioIo::new(socket)).await.map_err(|error| {
            ApiError::internal(format_args!("git's process cannot be spoken to: {error}"))
        })?;
        let end = tokio::spawn(supervise(process, async { drop(connection.await) }, limit, turn));
        Ok(Self { request, end, kills, kills_before })
    }

    /// Has the request served. The answer's body streams; the operation is cancelled when it is dropped.
    pub(super) async fn ask(&mut self, asked: Asked) -> ApiResult<Response> {
        let mut request = Request::new(Body::from(asked.body));
        *request.method_mut() = asked.head.method;
        *request.uri_mut() = asked.head.uri;
        request.headers_mut().insert(HOST, HeaderValue::from_static("git"));
        request.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        if let Some(directory) = asked.directory {
            request.headers_mut().insert(DIRECTORY, directory);
        }
        let Ok(answer) = self.request.send_request(request).await else { return Err(self.explain().await) };
        if answer.status().is_server_error() && self.kills.since(self.kills_before) {
            return Err(out_of_memory());
        }
        let (head, body) = answer.into_parts();
        if head.status.is_client_error() || head.status.is_server_error() {
            return Err(failure(head.status, Body::new(body)).await);
        }
        let mut response = Response::new(Body::new(body));
        *response.status_mut() = head.status;
        if let Some(kind) = head.headers.get(CONTENT_TYPE) {
            response.headers_mut().insert(CONTENT_TYPE, kind.clone());
        }
        Ok(response)
    }

    /// Waits until nothing of the operation runs any more.
    pub(super) async fn gone(&mut self) {
        if !self.end.is_finished() {
            let _ = (&mut self.end).await;
        }
    }

    /// Why there was no answer.
    async fn explain(&mut self) -> ApiError {
        let End { exit, late } = match (&mut self.end).await {
            Ok(end) => end,
            Err(error) => return ApiError::internal(format_args!("git's process was lost: {error}")),
        };
        if let Some(limit) = late {
            let text = format!("the operation took longer than its limit of {limit:?} ({TIMEOUT})");
            return Failure::new(Kind::Transport, text).into();
        }
        if exit.signal() == Some(Signal::SIGKILL as i32) && self.kills.since(self.kills_before) {
            return out_of_memory();
        }
        let how = match (exit.signal_name(), exit) {
            (Some(signal), _) => format!("was ended by {signal}"),
            (None, exit) => format!("ended with {}", exit.shell_code()),
        };
        ApiError::internal(format_args!("git's process {how} before it answered"))
    }
}

/// The engine's error, to be written and logged like the daemon's own.
async fn failure(status: StatusCode, body: Body) -> ApiError {
    let body = to_bytes(body, ERROR).await.unwrap_or_default();
    match serde_json::from_slice::<ErrorBody>(&body) {
        Ok(ErrorBody { message, code: Some(code), .. }) => ApiError::new(status, message).code(code),
        Ok(ErrorBody { message, code: None, .. }) => ApiError::new(status, message),
        Err(error) => ApiError::internal(format_args!("git's process broke its answer off: {error}")),
    }
}

fn out_of_memory() -> ApiError {
    let limit = Kills::limit().map(|bytes| format!(": its limit is {bytes} bytes")).unwrap_or_default();
    Failure::new(
        Kind::OutOfMemory,
        format!("the git operation was killed because the sandbox has no memory left{limit}"),
    )
    .into()
}

/// Our end, for the runtime, and the engine's.
fn sockets() -> io::Result<(UnixStream, OwnedFd)> {
    let (ours, theirs) = StdStream::pair()?;
    ours.set_nonblocking(true)?;
    Ok((UnixStream::from_std(ours)?, theirs.into()))
}

fn refused(error: &io::Error) -> ApiError {
    if is_no_room(error) {
        return ApiError::exhausted(format_args!("the daemon has no descriptor left: {error}"));
    }
    ApiError::internal(format_args!("no socket for git's process: {error}"))
}

/// Drives the connection, then sees to it that the process and what it started are gone.
async fn supervise(
    process: Process,
    connection: impl Future<Output = ()>,
    limit: Option<Duration>,
    turn: Option<Turn>,
) -> End {
    let late = match limit {
        Some(limit) => timeout(limit, connection).await.err().map(|_| limit),
        None => {
            connection.await;
            None
        }
    };
    let process = Arc::new(process);
    let exit = match timeout(CLEAN_UP, process.wait()).await {
        Ok(exit) => exit,
        Err(_) => {
            tracing::warn!(pid = process.pid().as_raw(), "killed a git operation that did not end");
            let family = Arc::clone(&process);
            // Reading the process table is file I/O.
            let _ = tokio::task::spawn_blocking(move || family.kill_tree()).await;
            process.wait().await
        }
    };
    if exit != Exit::Code(0) {
        // git and ssh, which an engine that was killed could not end itself.
        let _ = process.signal_group(Signal::SIGKILL);
    }
    drop(turn);
    End { exit, late }
}
