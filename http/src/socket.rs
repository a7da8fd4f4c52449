//! Accepting WebSockets and ending them: the sub-protocol and the sizes on the way in, the peer's answer on the way out.

use std::time::Duration;

use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade};
use axum::response::IntoResponse;
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use http::HeaderMap;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Error;
use tokio_tungstenite::tungstenite::error::ProtocolError;

use crate::{ApiError, ApiResult, ws};

/// What axum makes of a request that may or may not be a WebSocket's.
pub type Upgrade = Result<WebSocketUpgrade, WebSocketUpgradeRejection>;

/// The largest message that is read.
const MAX_MESSAGE: usize = 16 << 20;
/// Buffers of a socket; the default of 128 KiB each is a lot for one that idles.
const BUFFER: usize = 8 << 10;
/// A peer has this long to take the last frames and to answer the close.
const FAREWELL: Duration = Duration::from_secs(10);

/// Chooses the sub-protocol and sets limits. A request that is no WebSocket's is refused with the status the handshake demands.
pub fn accept(upgrade: Upgrade, headers: &HeaderMap) -> ApiResult<WebSocketUpgrade> {
    let upgrade = upgrade.map_err(|rejection| {
        let message = rejection.to_string();
        ApiError::new(
            rejection.into_response().status(),
            format_args!("a WebSocket request is required: {message}"),
        )
    })?;
    let mut upgrade = upgrade
        .max_message_size(MAX_MESSAGE)
        .max_frame_size(MAX_MESSAGE)
        .read_buffer_size(BUFFER)
        .write_buffer_size(BUFFER);
    if let Some(protocol) = ws::select(&ws::offered(headers)).and_then(|p| p.parse().ok()) {
        upgrade.set_selected_protocol(protocol);
    }
    Ok(upgrade)
}

/// The close frame that tells a peer what was wrong with what it sent (RFC 6455, section 7.4.1); none if the connection itself is gone.
pub fn broken(error: axum::Error) -> Option<CloseFrame> {
    let (code, reason) = match error.into_inner().downcast_ref::<Error>()? {
        Error::Capacity(_) => (ws::TOO_BIG, "the message is too large"),
        Error::Utf8(_) => (ws::BAD_TEXT, "the text is not UTF-8"),
        Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => return None,
        Error::Protocol(_) => (ws::PROTOCOL_ERROR, "malformed frame"),
        _ => return None,
    };
    Some(ws::close_frame(code, reason))
}

/// Sends `last` and the close frame, then waits for the peer's close, so that it has read everything before the connection goes.
pub async fn finish(
    mut sink: SplitSink<WebSocket, Message>,
    stream: SplitStream<WebSocket>,
    last: Option<Message>,
    close: CloseFrame,
) {
    let last_words = async {
        if let Some(last) = last {
            sink.send(last).await?;
        }
        sink.send(Message::Close(Some(close))).await
    };
    // Reading on meanwhile keeps a peer that is busy sending from blocking itself and us.
    let _ = timeout(FAREWELL, async { tokio::join!(last_words, answer(stream)) }).await;
}

/// After the peer's close: reads on until ours is flushed.
pub async fn left(stream: SplitStream<WebSocket>) {
    let _ = timeout(FAREWELL, answer(stream)).await;
}

async fn answer(mut stream: SplitStream<WebSocket>) {
    while let Some(Ok(_)) = stream.next().await {}
}
