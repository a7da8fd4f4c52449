//! One client's WebSocket, in one task: output goes out while input, pings and the close come in.
//!
//! The two directions run side by side, so that a client that reads slowly still gets its pongs: they go before the next piece of output, and a
//! piece is small ([`crate::relay::output::CHUNK`]). Every socket ends with a close frame, and every wait on a peer has a deadline.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade};
use axum::response::Response;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use http::HeaderMap;
use pinfold_http::socket::{self, Upgrade};
use pinfold_http::{ApiError, ApiResult, ws};
use pinfold_proto::toolbox::pty::{Control, Status};
use tokio::time::{Instant, timeout, timeout_at};

use super::exit;
use super::shell::Session;
use crate::relay::output::{Next, Reader, Receipts};

/// How long what a client typed before it went may take to be read.
const LAST_INPUT: Duration = Duration::from_secs(2);
/// Output is to be confirmed after this time, or after so many bytes.
const RECEIPT: Duration = Duration::from_millis(200);
const RECEIPT_BYTES: u64 = 64 << 10;

/// An upgrade, and what its client understands.
pub(super) struct Negotiated {
    upgrade: WebSocketUpgrade,
    exit_control: bool,
}

/// Chooses the sub-protocol; refuses what is no WebSocket request.
pub(super) fn negotiate(upgrade: Upgrade, headers: &HeaderMap) -> ApiResult<Negotiated> {
    let exit_control = ws::offered(headers).iter().any(|t| t == ws::EXIT_CONTROL_TOKEN);
    Ok(Negotiated { upgrade: socket::accept(upgrade, headers)?, exit_control })
}

impl Negotiated {
    /// Answers 101 and gives the socket to `serve`.
    pub(super) fn on_upgrade<F: Future<Output = ()> + Send + 'static>(
        self,
        serve: impl FnOnce(Client) -> F + Send + 'static,
    ) -> Response {
        let exit_control = self.exit_control;
        self.upgrade.on_upgrade(move |socket| {
            let (sink, stream) = socket.split();
            serve(Client { sink, stream, exit_control })
        })
    }
}

/// The environment in a sub-protocol token, empty if there is none; 400 if it cannot be read.
pub(super) fn offered_envs(offered: &[String]) -> ApiResult<BTreeMap<String, String>> {
    let Some(token) = offered.iter().find_map(|t| t.strip_prefix(ws::PTY_ENVS_TOKEN)) else {
        return Ok(BTreeMap::new());
    };
    let undecodable =
        |why: String| ApiError::bad_request(format_args!("the environment token is undecodable: {why}"));
    let json = URL_SAFE_NO_PAD.decode(token.trim_end_matches('=')).map_err(|e| undecodable(e.to_string()))?;
    serde_json::from_slice(&json).map_err(|e| undecodable(e.to_string()))
}

/// An attached client.
pub(super) struct Client {
    sink: SplitSink<WebSocket, Message>,
    stream: SplitStream<WebSocket>,
    /// Whether it understands the `exited` message.
    exit_control: bool,
}

/// Why the conversation is over.
enum Over {
    /// The peer closed.
    Closed,
    /// The connection broke.
    Left,
    /// We say these last things and close.
    Farewell(Option<Control>, CloseFrame),
}

impl Client {
    /// Tells the client why it cannot be attached.
    pub(super) async fn refuse(self, error: String) {
        let close = ws::close_frame(ws::INTERNAL, &error);
        let (sink, stream) = (self.sink, self.stream);
        socket::finish(sink, stream, Some(text(&Control { status: Status::Error { error } })), close).await;
    }

    /// Carries output to the client and input to the session until either is done.
    pub(super) async fn serve(self, session: Arc<Session>, mut reader: Reader, tell_offset: bool) {
        let Self { mut sink, mut stream, exit_control } = self;
        let connected = Status::Connected { offset: tell_offset.then(|| reader.start()) };
        if sink.send(text(&Control { status: connected })).await.is_err() {
            return;
        }
        let receipts = reader.receipts();
        let over = {
            let mut input = pin!(incoming(&mut stream, &session, &receipts));
            tokio::select! {
                over = outgoing(&mut sink, &mut reader, exit_control) => match over {
                    // The client does not listen any more; what it typed before it went is still typed.
                    Over::Left => timeout(LAST_INPUT, input).await.unwrap_or(Over::Left),
                    other => other,
                },
                over = &mut input => over,
            }
        };
        if matches!(over, Over::Closed) {
            receipts.confirm_all();
        }
        // From here on this client holds nobody up.
        drop(reader);
        drop(session);
        match over {
            Over::Closed | Over::Left => socket::left(stream).await,
            Over::Farewell(control, close) => {
                socket::finish(sink, stream, control.as_ref().map(text), close).await
            }
        }
    }
}

async fn outgoing(sink: &mut SplitSink<WebSocket, Message>, reader: &mut Reader, exit_control: bool) -> Over {
    // Up to where a receipt was asked for, and when the next is due.
    let (mut asked, mut due) = (reader.given(), None);
    loop {
        let next = match due {
            None => reader.next().await,
            Some(due) => match timeout_at(due, reader.next()).await {
                Ok(next) => next,
                Err(_) => Next::Output(Bytes::new()),
            },
        };
        let output = match next {
            Next::Output(bytes) => bytes,
            Next::Overrun => return slow(),
            Next::End(exit) => {
                let notice = exit::notice(exit);
                let close = exit::close(&notice);
                return Over::Farewell(
                    exit_control.then_some(Control { status: Status::Exited(notice) }),
                    close,
                );
            }
        };
        let given = reader.given();
        let late = due.is_some_and(|due| Instant::now() >= due);
        // A peer answers a ping behind everything that came before it.
        let ping = (late || given - asked >= RECEIPT_BYTES).then(|| Message::Ping(receipt(given)));
        let sending = async {
            if !output.is_empty() {
                sink.feed(Message::Binary(output)).await?;
            }
            if let Some(ping) = ping {
                (asked, due) = (given, None);
                sink.feed(ping).await?;
            } else if due.is_none() {
                due = Some(Instant::now() + RECEIPT);
            }
            sink.flush().await
        };
        tokio::select! {
            sent = sending => if sent.is_err() { return Over::Left },
            () = reader.overrun() => return slow(),
        }
    }
}

/// The payload of a ping that asks for a receipt, and of its pong.
fn receipt(at: u64) -> Bytes {
    Bytes::copy_from_slice(&at.to_be_bytes())
}

fn slow() -> Over {
    Over::Farewell(None, ws::close_frame(ws::POLICY, "slow consumer"))
}

async fn incoming(stream: &mut SplitStream<WebSocket>, session: &Session, receipts: &Receipts) -> Over {
    loop {
        let bytes = match stream.next().await {
            Some(Ok(Message::Binary(bytes))) => bytes,
            Some(Ok(Message::Text(text))) => Bytes::from(text),
            // Pings are answered by the protocol layer as it reads on.
            Some(Ok(Message::Ping(_))) => continue,
            Some(Ok(Message::Pong(payload))) => {
                if let Ok(at) = payload[..].try_into() {
                    receipts.confirm(u64::from_be_bytes(at));
                }
                continue;
            }
            Some(Ok(Message::Close(_))) => return Over::Closed,
            None => return Over::Left,
            Some(Err(error)) => {
                return socket::broken(error).map_or(Over::Left, |close| Over::Farewell(None, close));
            }
        };
        session.type_in(bytes).await;
    }
}

fn text(control: &Control) -> Message {
    Message::Text(serde_json::to_string(control).unwrap_or_default().into())
}
