//! One execution's WebSocket: the request comes as the first message, events go out, and a close with code 4000 interrupts.

use std::time::Duration;

use axum::extract::State;
use axum::extract::ws::{CloseFrame, Message, WebSocket};
use axum::response::Response;
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use http::HeaderMap;
use pinfold_http::socket::{self, Upgrade};
use pinfold_http::{ApiResult, json, ws};
use pinfold_proto::toolbox::interpreter::{DEFAULT_TIMEOUT, ExecuteCode};
use tokio::time::timeout;

use super::job::{Event, Handle, Job};
use super::registry::Contexts;

/// A client has this long to say what it wants.
const FIRST_MESSAGE: Duration = Duration::from_secs(60);
/// A client has this long to take a message.
const PATIENCE: Duration = Duration::from_secs(30);
/// Close code with which a client interrupts its execution (ours, additive).
const INTERRUPT: u16 = 4000;

type Sink = SplitSink<WebSocket, Message>;
type Stream = SplitStream<WebSocket>;

/// GET `/process/interpreter/execute`.
pub(super) async fn execute(
    State(contexts): State<Contexts>,
    headers: HeaderMap,
    upgrade: Upgrade,
) -> ApiResult<Response> {
    let upgrade = socket::accept(upgrade, &headers)?;
    Ok(upgrade.on_upgrade(move |client| async move {
        let (mut sink, mut stream) = client.split();
        let submitted = match first_message(&mut stream).await {
            Ok(request) => submit(&contexts, request),
            Err(close) => Err(close),
        };
        let close = match submitted {
            Ok(handle) => converse(&mut sink, &mut stream, handle).await,
            Err(close) => close,
        };
        match close {
            Some(close) => socket::finish(sink, stream, None, close).await,
            None => socket::left(stream).await,
        }
    }))
}

/// The request; `Err(None)` if the client left without one.
async fn first_message(stream: &mut Stream) -> Result<ExecuteCode, Option<CloseFrame>> {
    let first = async {
        loop {
            match stream.next().await {
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                other => return other,
            }
        }
    };
    let unreadable = |why: &str| Some(ws::close_frame(ws::PROTOCOL_ERROR, why));
    let bytes = match timeout(FIRST_MESSAGE, first).await {
        Ok(Some(Ok(Message::Text(text)))) => text.into(),
        Ok(Some(Ok(Message::Binary(bytes)))) => bytes,
        Ok(Some(Err(error))) => return Err(socket::broken(error)),
        Ok(_) => return Err(None),
        Err(_) => return Err(unreadable("no request came")),
    };
    json::first_value(&bytes).map_err(|error| unreadable(&format!("the request is not valid JSON: {error}")))
}

fn submit(contexts: &Contexts, request: ExecuteCode) -> Result<Handle, Option<CloseFrame>> {
    let refused = |why: &str| Some(ws::close_frame(ws::POLICY, why));
    if request.code.is_empty() {
        return Err(refused("code is required"));
    }
    if request
        .envs
        .iter()
        .any(|(name, value)| name.is_empty() || name.contains(['=', '\0']) || value.contains('\0'))
    {
        return Err(refused("envs holds a name or value that no environment can hold"));
    }
    let seconds = request.timeout.unwrap_or(DEFAULT_TIMEOUT);
    let limit = match Duration::try_from_secs_f64(seconds) {
        Ok(limit) => Some(limit).filter(|limit| !limit.is_zero()),
        Err(_) if seconds < 0.0 => return Err(refused("timeout must not be negative")),
        // Longer than time itself.
        Err(_) => None,
    };
    let (job, handle) = Job::new(request.code, request.envs, limit);
    contexts.submit(&request.context_id, job).map_err(|error| refused(&error.to_string()))?;
    Ok(handle)
}

/// Carries events to the client. Answers the close to send, or `None` if the client is gone; the execution then goes on without it.
async fn converse(sink: &mut Sink, stream: &mut Stream, handle: Handle) -> Option<CloseFrame> {
    let Handle { mut events, interrupt } = handle;
    let outgoing = async {
        while let Some(event) = events.recv().await {
            let message = match event {
                Event::Message(message) => serde_json::to_string(&message).unwrap_or_default(),
                Event::Over(close) => return Some(close),
            };
            match timeout(PATIENCE, sink.send(Message::Text(message.into()))).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return None,
                Err(_) => return Some(ws::close_frame(ws::POLICY, "slow consumer")),
            }
        }
        Some(ws::close_frame(ws::GOING_AWAY, "the context has ended"))
    };
    let incoming = async {
        loop {
            match stream.next().await {
                // One request a connection; pings are answered by the protocol layer.
                Some(Ok(Message::Text(_) | Message::Binary(_) | Message::Ping(_) | Message::Pong(_))) => {}
                Some(Ok(Message::Close(frame))) => {
                    if frame.is_some_and(|frame| frame.code == INTERRUPT) {
                        interrupt.notify_one();
                    }
                    return None;
                }
                Some(Err(error)) => return socket::broken(error),
                None => return None,
            }
        }
    };
    tokio::select! {
        close = outgoing => close,
        close = incoming => close,
    }
}
