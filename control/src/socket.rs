//! The event socket: Socket.IO 4 over a WebSocket, as much of it as the SDKs use (control-plane contract 12).
//!
//! Events carry whole sandboxes, so the key is looked at again before each frame: one that was deleted or has expired hears nothing more, and its socket
//! ends with the next event or ping.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::extract::ws::{Message, Utf8Bytes, WebSocket, WebSocketUpgrade};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use pinfold_http::{ApiError, Query};
use serde_json::{Value, json};
use tokio::sync::broadcast::error::RecvError;
use tokio::time::Instant;

use crate::api::Caller;
use crate::core::Core;
use crate::store::keys::Key;
use crate::token;

const PING_INTERVAL: Duration = Duration::from_secs(25);
const PING_TIMEOUT: Duration = Duration::from_secs(20);
/// How long a client may take to send its key.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);
/// How long one message may take to be written before the client counts as gone.
const SEND_TIMEOUT: Duration = Duration::from_secs(20);
const MAX_MESSAGE: usize = 64 * 1024;

pub(crate) fn router(core: &Arc<Core>) -> Router {
    Router::new()
        .route("/api/socket.io", get(upgrade))
        .route("/api/socket.io/", get(upgrade))
        .with_state(core.clone())
}

type Upgrade = Result<WebSocketUpgrade, axum::extract::ws::rejection::WebSocketUpgradeRejection>;

async fn upgrade(State(core): State<Arc<Core>>, query: Query, ws: Upgrade) -> Response {
    match (ws, query.get("transport")) {
        (Ok(ws), None | Some("websocket")) => {
            ws.max_message_size(MAX_MESSAGE).on_upgrade(move |socket| serve(core, socket))
        }
        _ => ApiError::bad_request("the event socket speaks WebSocket only").into_response(),
    }
}

async fn serve(core: Arc<Core>, mut socket: WebSocket) {
    let stop = core.stop.clone();
    tokio::select! {
        _ = talk(&core, &mut socket) => {}
        () = stop.cancelled() => {}
    }
    // The client may be gone already.
    let _ = tokio::time::timeout(Duration::from_secs(1), socket.send(Message::Close(None))).await;
}

/// The client is gone.
struct Gone;

async fn send(socket: &mut WebSocket, text: String) -> Result<(), Gone> {
    let sending = socket.send(Message::Text(Utf8Bytes::from(text)));
    match tokio::time::timeout(SEND_TIMEOUT, sending).await {
        Ok(Ok(())) => Ok(()),
        _ => Err(Gone),
    }
}

async fn next_text(socket: &mut WebSocket) -> Result<String, Gone> {
    loop {
        match socket.recv().await {
            Some(Ok(Message::Text(text))) => return Ok(text.to_string()),
            Some(Ok(Message::Close(_)) | Err(_)) | None => return Err(Gone),
            Some(Ok(_)) => {}
        }
    }
}

async fn talk(core: &Arc<Core>, socket: &mut WebSocket) -> Result<(), Gone> {
    let open = json!({
        "sid": token::alphanumeric(20), "upgrades": [], "pingInterval": 25_000, "pingTimeout": 20_000, "maxPayload": 1_000_000,
    });
    send(socket, format!("0{open}")).await?;
    // Heard from before the answer, so that nothing falls between.
    let mut events = core.events.subscribe();
    let key = tokio::time::timeout(CONNECT_TIMEOUT, connect(core, socket)).await.map_err(|_| Gone)??;
    send(socket, format!("40{}", json!({ "sid": token::alphanumeric(20) }))).await?;

    let mut ping_at = Instant::now() + PING_INTERVAL;
    let mut pong_by: Option<Instant> = None;
    loop {
        let wake = pong_by.unwrap_or(ping_at);
        let frame = tokio::select! {
            event = events.recv() => match event {
                Ok(event) => format!("42{}", json!([event.name, event.payload])),
                Err(RecvError::Lagged(missed)) => {
                    tracing::debug!(missed, "an event socket is too slow");
                    continue;
                }
                Err(RecvError::Closed) => return Ok(()),
            },
            text = next_text(socket) => match text?.as_str() {
                "3" => {
                    pong_by = None;
                    ping_at = Instant::now() + PING_INTERVAL;
                    continue;
                }
                "2" => "3".to_owned(),
                "1" | "41" => return Ok(()),
                _ => continue,
            },
            () = tokio::time::sleep_until(wake) => {
                if pong_by.is_some() {
                    return Err(Gone);
                }
                pong_by = Some(Instant::now() + PING_TIMEOUT);
                "2".to_owned()
            }
        };
        if !core.keys.is_good(&key) {
            return Ok(());
        }
        send(socket, frame).await?;
    }
}

/// Waits for the client's key; a wrong one is told so.
async fn connect(core: &Core, socket: &mut WebSocket) -> Result<Key, Gone> {
    loop {
        let text = next_text(socket).await?;
        let Some(auth) = text.strip_prefix("40") else { continue };
        let auth: Value = serde_json::from_str(auth).unwrap_or_default();
        let key = auth.get("token").and_then(Value::as_str).unwrap_or_default();
        let key = key.strip_prefix("Bearer ").unwrap_or(key);
        if let Some(Caller::User(key)) = Caller::of(core, key) {
            return Ok(key);
        }
        send(socket, format!("44{}", json!({ "message": "Unauthorized" }))).await?;
        return Err(Gone);
    }
}
