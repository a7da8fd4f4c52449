//! The session routes (toolbox contract 8.2, 8.3, 8.5, 8.6, 9), and ours: signal, offsets, end of input.

use std::io;
use std::time::Duration;

use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::{Path, State as AxumState, WebSocketUpgrade};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use http::{HeaderMap, StatusCode};
use pinfold_http::{ApiError, ApiResult, JsonBody, Query, socket, ws};
use pinfold_proto::markers::Stream;
use pinfold_proto::toolbox::process as wire;
use pinfold_proto::toolbox::sdk::{SdkClass, SdkProfile};
use pinfold_spawn::AnySignal;
use pinfold_spawn::tree::Scope;
use serde_json::json;
use tokio::sync::oneshot;

use super::command::{Cause, Command, Input, Manner, State};
use super::driver::signal_started;
use super::follow::{self, Wish};
use super::{ENTRYPOINT, ENTRYPOINT_COMMAND, Session, refuse_reserved};
use crate::Processes;
use crate::body::{self, Pick, Source};

type Processing = AxumState<Processes>;

pub(crate) fn router() -> Router<Processes> {
    Router::new()
        .route("/process/session", get(list).post(create))
        .route("/process/session/entrypoint", get(entrypoint).delete(delete_entrypoint))
        .route("/process/session/entrypoint/logs", get(entrypoint_logs))
        .route("/process/session/{session}", get(show).delete(delete))
        .route("/process/session/{session}/exec", post(execute))
        .route("/process/session/{session}/command/{command}", get(show_command))
        .route("/process/session/{session}/command/{command}/input", post(input))
        .route("/process/session/{session}/command/{command}/signal", post(send_signal))
        .route("/process/session/{session}/command/{command}/logs", get(logs))
}

/// What the request says of its client.
fn profile(headers: &HeaderMap) -> SdkProfile {
    let header = |name| headers.get(name).and_then(|v| v.to_str().ok());
    let token = ws::offered(headers)
        .into_iter()
        .find_map(|t| Some(t.strip_prefix(ws::SDK_VERSION_TOKEN)?.to_owned()));
    let version = header("x-daytona-sdk-version").map(str::to_owned).or(token);
    SdkProfile::of(version.as_deref(), header("x-daytona-split-output") == Some("true"))
}

async fn list(AxumState(processes): Processing) -> Json<Vec<wire::Session>> {
    Json(processes.list_sessions())
}

async fn create(
    AxumState(processes): Processing,
    headers: HeaderMap,
    JsonBody(body): JsonBody<wire::CreateSession>,
) -> ApiResult<StatusCode> {
    processes.create_session(&body.session_id, profile(&headers).starts_at_home).await?;
    Ok(StatusCode::CREATED)
}

async fn show(AxumState(processes): Processing, Path(id): Path<String>) -> ApiResult<Json<wire::Session>> {
    Ok(Json(processes.session(&id)?.wire()))
}

async fn entrypoint(AxumState(processes): Processing) -> ApiResult<Json<wire::Session>> {
    Ok(Json(processes.session(ENTRYPOINT)?.wire()))
}

async fn delete_entrypoint() -> ApiResult<StatusCode> {
    refuse_reserved(ENTRYPOINT).map(|()| StatusCode::NO_CONTENT)
}

async fn delete(
    AxumState(processes): Processing,
    Path(id): Path<String>,
    query: Query,
) -> ApiResult<StatusCode> {
    refuse_reserved(&id)?;
    let keep_detached = query.parsed("keepDetached")?.unwrap_or(processes.settings.keep_detached);
    let scope = if keep_detached { Scope::Attached } else { Scope::Everything };
    let missing = || ApiError::not_found(format_args!("not found: session {id:?} not found"));
    let ending = processes.remove_session(&id, scope).ok_or_else(missing)?;
    ending
        .await
        .map_err(|error| ApiError::internal(format_args!("the session could not be ended: {error}")))?;
    Ok(StatusCode::NO_CONTENT)
}

async fn execute(
    AxumState(processes): Processing,
    Path(id): Path<String>,
    headers: HeaderMap,
    JsonBody(body): JsonBody<wire::SessionExecute>,
) -> ApiResult<Response> {
    refuse_reserved(&id)?;
    if body.command.trim().is_empty() || body.command.contains('\0') {
        return Err(ApiError::bad_request("bad request: the command is empty or holds a NUL byte"));
    }
    let session = processes.session(&id)?;
    let run_async = body.run_async || body.old_async;
    let cmd_id = uuid::Uuid::new_v4().to_string();
    let limit =
        body.timeout.filter(|seconds| *seconds > 0).map(|seconds| Duration::from_secs(seconds.into()));
    let manner = Manner { with_input: run_async, echo: !body.suppress_input_echo, limit };
    let command = session.submit(cmd_id.clone(), body.command, manner, &processes.settings)?;
    if run_async {
        let answer =
            wire::SessionExecuted { cmd_id, output: None, stdout: None, stderr: None, exit_code: None };
        return Ok((StatusCode::ACCEPTED, Json(answer)).into_response());
    }
    let exit_code = command.ended().await;
    if session.is_deleted() {
        return Err(session.gone(None, None));
    }
    if matches!(command.state(), State::Ended { cause: Cause::Timeout, .. }) {
        let seconds = limit.unwrap_or_default().as_secs();
        let message =
            format_args!("request timeout: the command ran into its timeout of {seconds} s and was killed");
        let error = ApiError::new(StatusCode::REQUEST_TIMEOUT, message).code("PROCESS_EXECUTION_TIMEOUT");
        return Err(error.with("cmdId", cmd_id));
    }
    let source = command.log.source().map_err(|error| unreadable(&error))?;
    Ok(match profile(&headers).class {
        SdkClass::Split => {
            let mut plain = json!({ "cmdId": cmd_id, "exitCode": exit_code });
            if matches!(command.state(), State::Ended { cause: Cause::Oom, .. }) {
                plain["oomKilled"] = true.into();
            }
            body::object(plain, split(source))
        }
        class => {
            let plain = json!({ "cmdId": cmd_id, "exitCode": exit_code, "stdout": null, "stderr": null });
            let pick = if class == SdkClass::Combined { Pick::Unmarked } else { Pick::All };
            body::object(plain, vec![("output", source, pick)])
        }
    })
}

async fn show_command(
    AxumState(processes): Processing,
    Path((session, command)): Path<(String, String)>,
) -> ApiResult<Json<wire::Command>> {
    Ok(Json(processes.session(&session)?.command(&command)?.wire()))
}

/// Whether the command can still be acted on; 410 if not.
fn check_running(session: &Session, command: &Command) -> ApiResult<()> {
    if let State::Ended { code, .. } = command.state() {
        session.check_alive()?;
        let message =
            format_args!("gone: command {} has already completed with exit code {code}", command.id);
        return Err(ApiError::gone(message).code("COMMAND_ALREADY_COMPLETED"));
    }
    Ok(())
}

async fn input(
    AxumState(processes): Processing,
    Path((session, command)): Path<(String, String)>,
    JsonBody(body): JsonBody<wire::Input>,
) -> ApiResult<StatusCode> {
    refuse_reserved(&session)?;
    let session = processes.session(&session)?;
    let command = session.command(&command)?;
    check_running(&session, &command)?;
    let closed = || ApiError::bad_request("bad request: the command's standard input is closed");
    let sender = command.input.as_ref().ok_or_else(closed)?;
    let only_eof = body.eof && body.data.as_deref().is_none_or(str::is_empty);
    if body.data.is_none() && !only_eof {
        return Err(ApiError::invalid_body("data is required"));
    }
    let mut data = body.data.unwrap_or_default().into_bytes();
    if !body.raw && !only_eof && data.last() != Some(&b'\n') {
        data.push(b'\n');
    }
    let (taken, wait) = oneshot::channel();
    let waiting = command.state() == State::Waiting;
    let deliver = async {
        sender.send(Input { data, eof: body.eof, taken }).await.map_err(|_| closed())?;
        // A command that has not begun takes its input when it does.
        if waiting { Ok(()) } else { wait.await.map_err(|_| closed()) }
    };
    tokio::select! {
        // What was delivered was, though the command may have ended of it meanwhile.
        biased;
        delivered = deliver => delivered.or_else(|error| check_running(&session, &command).and(Err(error)))?,
        _ = command.ended() => check_running(&session, &command)?,
    }
    Ok(StatusCode::NO_CONTENT)
}

async fn send_signal(
    AxumState(processes): Processing,
    Path((session, command)): Path<(String, String)>,
    JsonBody(body): JsonBody<wire::SendSignal>,
) -> ApiResult<StatusCode> {
    let unknown = || ApiError::bad_request(format_args!("bad request: {:?} is not a signal", body.signal));
    let signal = AnySignal::parse(&body.signal).ok_or_else(unknown)?;
    let session = processes.session(&session)?;
    let command = session.command(&command)?;
    check_running(&session, &command)?;
    let State::Running { since } = command.state() else {
        return Err(ApiError::conflict("conflict: the command waits for the one before it"));
    };
    let sent =
        tokio::task::spawn_blocking(move || signal_started(&session.process, &session.mark, since, signal))
            .await;
    let sent = sent.map_err(|error| ApiError::internal(format_args!("the signal was not sent: {error}")))?;
    if sent == 0 {
        return Err(ApiError::conflict(
            "conflict: the command has no process of its own; the shell itself runs it",
        ));
    }
    Ok(StatusCode::NO_CONTENT)
}

async fn logs(
    AxumState(processes): Processing,
    Path((session, command)): Path<(String, String)>,
    headers: HeaderMap,
    query: Query,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> ApiResult<Response> {
    let command = processes.session(&session)?.command(&command)?;
    let class = if session == ENTRYPOINT { entrypoint_class(&headers) } else { profile(&headers).class };
    answer_logs(&command, class, &headers, &query, upgrade.ok())
}

async fn entrypoint_logs(
    AxumState(processes): Processing,
    headers: HeaderMap,
    query: Query,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> ApiResult<Response> {
    let command = processes.session(ENTRYPOINT)?.command(ENTRYPOINT_COMMAND)?;
    answer_logs(&command, entrypoint_class(&headers), &headers, &query, upgrade.ok())
}

/// The entrypoint's log is never combined.
fn entrypoint_class(headers: &HeaderMap) -> SdkClass {
    match profile(headers).class {
        SdkClass::Split => SdkClass::Split,
        SdkClass::Raw | SdkClass::Combined => SdkClass::Raw,
    }
}

fn answer_logs(
    command: &Command,
    class: SdkClass,
    headers: &HeaderMap,
    query: &Query,
    upgrade: Option<WebSocketUpgrade>,
) -> ApiResult<Response> {
    let offset = query.parsed::<u64>("offset")?.unwrap_or(0);
    if let Some(upgrade) = upgrade {
        let file = command.log.file().map_err(|error| unreadable(&error))?;
        let progress = command.log.progress();
        let wish = Wish { follow: query.flag("follow"), unmarked: class == SdkClass::Combined, offset };
        let upgrade = socket::accept(Ok(upgrade), headers)?;
        return Ok(upgrade.on_upgrade(move |socket| follow::serve(socket, file, progress, wish)));
    }
    let source = command.log.source().map_err(|error| unreadable(&error))?.skip(offset);
    Ok(match class {
        // `nextOffset` is ours: asking again from there gives what came meanwhile.
        SdkClass::Split => body::object(json!({ "nextOffset": source.len() }), split(source)),
        SdkClass::Combined => body::plain(source, Pick::Unmarked),
        SdkClass::Raw => body::plain(source, Pick::All),
    })
}

/// A log as the newest SDKs take it: whole, and by stream.
fn split(log: Source) -> Vec<(&'static str, Source, Pick)> {
    vec![
        ("output", log.clone(), Pick::Unmarked),
        ("stdout", log.clone(), Pick::Only(Stream::Stdout)),
        ("stderr", log, Pick::Only(Stream::Stderr)),
    ]
}

fn unreadable(error: &io::Error) -> ApiError {
    match error.kind() {
        io::ErrorKind::NotFound => {
            ApiError::not_found(format_args!("not found: the command's log is missing: {error}"))
        }
        io::ErrorKind::PermissionDenied => ApiError::new(
            StatusCode::FORBIDDEN,
            format_args!("forbidden: the command's log cannot be read: {error}"),
        ),
        _ => ApiError::internal(format_args!("the command's log cannot be read: {error}")),
    }
}
