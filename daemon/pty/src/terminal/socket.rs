//! One web terminal: a shell that lives as long as its socket.

use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::extract::ws::{CloseFrame, Message, WebSocket};
use axum::response::Response;
use bytes::Bytes;
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use http::HeaderMap;
use nix::sys::signal::Signal;
use pinfold_http::socket::{self, Upgrade};
use pinfold_http::{ApiError, ApiResult, ws};
use pinfold_proto::toolbox::pty::{DEFAULT_TERM, MAX_SIDE};
use pinfold_proto::utf8::Decoder;
use pinfold_spawn::{Process, Sandbox};
use serde::Deserialize;
use tokio::time::timeout;

use super::Terminals;
use crate::relay::input::Input;
use crate::relay::output::{From, Limits, Next, OutputLog, Reader};
use crate::relay::pump;
use crate::{Pty, PtyError, PtyMaster, Size};

/// A shell that was hung up has this long to end by itself.
const HANG_UP: Duration = Duration::from_secs(5);

type Sink = SplitSink<WebSocket, Message>;
type Stream = SplitStream<WebSocket>;

/// A frame that sets the size: exactly these two members. Anything else is typed.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Resize {
    rows: u16,
    cols: u16,
}

impl Resize {
    fn parse(text: &str) -> Option<Size> {
        let Self { rows, cols } = serde_json::from_str(text).ok()?;
        let sensible = |side| (1..=MAX_SIDE).contains(&side);
        (sensible(rows) && sensible(cols)).then(|| Size::new(cols, rows))
    }
}

/// GET `/ws`.
pub(super) async fn upgrade(
    State(terminals): State<Terminals>,
    headers: HeaderMap,
    upgrade: Upgrade,
) -> ApiResult<Response> {
    let upgrade = socket::accept(upgrade, &headers)?;
    let place = Arc::clone(&terminals.places).try_acquire_owned();
    let place = place.map_err(|_| ApiError::too_many(terminals.max, "web terminals", "PINFOLD_MAX_PTYS"))?;
    Ok(upgrade.on_upgrade(move |client| async move {
        let _place = place;
        let (sink, stream) = client.split();
        match start(&terminals.sandbox) {
            Ok((process, master)) => serve(sink, stream, Arc::new(process), master).await,
            Err(error) => {
                socket::finish(sink, stream, None, ws::close_frame(ws::INTERNAL, &error.to_string())).await;
            }
        }
    }))
}

fn start(sandbox: &Sandbox) -> Result<(Process, PtyMaster), PtyError> {
    let shell = sandbox.shell();
    let variables =
        [("TERM".to_owned(), DEFAULT_TERM.to_owned()), ("SHELL".to_owned(), shell.display().to_string())];
    let mut command = Command::new(&shell);
    command.current_dir("/");
    sandbox.environment.apply(&mut command, variables.iter().map(|(k, v)| (k, v)));
    Pty::spawn(sandbox, command, Size::default())
}

async fn serve(mut sink: Sink, mut stream: Stream, process: Arc<Process>, master: PtyMaster) {
    let log = OutputLog::new(Limits::default());
    let mut reader = log.reader(From::Oldest);
    let (input, typed) = Input::new();
    let running = async {
        log.end(pump::run(Arc::clone(&process), master.clone(), Arc::clone(&log), typed).await);
        std::future::pending().await
    };
    let over = tokio::select! {
        never = running => never,
        close = outgoing(&mut sink, &mut reader) => close,
        close = incoming(&mut stream, &input, &master) => close,
    };
    // The last descriptors of the terminal: the kernel hangs up the foreground, and we the shell.
    drop(master);
    tokio::spawn(hang_up(process));
    match over {
        Some(close) => socket::finish(sink, stream, None, close).await,
        None => socket::left(stream).await,
    }
}

/// `None` when the peer is gone. The start of a character waits for its rest, however long that takes, as it does in any terminal.
async fn outgoing(sink: &mut Sink, reader: &mut Reader) -> Option<CloseFrame> {
    let mut decoder = Decoder::default();
    loop {
        let text = match reader.next().await {
            Next::Output(bytes) => decoder.decode(&bytes),
            Next::Overrun => return Some(ws::close_frame(ws::POLICY, "slow consumer")),
            Next::End(exit) => {
                if decoder.is_waiting() {
                    sink.send(Message::Text(decoder.flush().into())).await.ok()?;
                }
                return Some(ws::close_frame(
                    ws::NORMAL,
                    &format!("the shell ended with code {}", exit.shell_code()),
                ));
            }
        };
        if text.is_empty() {
            continue;
        }
        tokio::select! {
            sent = sink.send(Message::Text(text.into())) => sent.ok()?,
            () = reader.overrun() => return Some(ws::close_frame(ws::POLICY, "slow consumer")),
        }
    }
}

/// What to close with: the peer has sent what nobody may send. `None` when it is gone.
async fn incoming(stream: &mut Stream, input: &Input, master: &PtyMaster) -> Option<CloseFrame> {
    loop {
        match stream.next().await? {
            Ok(Message::Text(text)) => match Resize::parse(&text) {
                Some(size) => drop(master.resize(size)),
                None => input.send(Bytes::from(text)).await,
            },
            Ok(Message::Binary(bytes)) => input.send(bytes).await,
            Ok(Message::Ping(_) | Message::Pong(_)) => {}
            Ok(Message::Close(_)) => return None,
            Err(error) => return socket::broken(error),
        }
    }
}

async fn hang_up(process: Arc<Process>) {
    let _ = process.signal(Signal::SIGHUP);
    if timeout(HANG_UP, process.wait()).await.is_err() {
        // Reading the process table is file I/O.
        let _ = tokio::task::spawn_blocking(move || process.kill_tree()).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_complete_size_is_a_size() {
        assert_eq!(Resize::parse(r#"{"rows":24,"cols":80}"#), Some(Size::new(80, 24)));
        let typed = [
            "null",
            "{}",
            r#"{"rows":24}"#,
            r#"{"rows":0,"cols":80}"#,
            r#"{"rows":-1,"cols":80}"#,
            r#"{"rows":24,"cols":70000}"#,
        ];
        for text in typed.into_iter().chain([
            "[24,80]x",
            r#"{"rows":24,"cols":80,"x":1}"#,
            r#"{"rows":"24","cols":"80"}"#,
            "",
        ]) {
            assert_eq!(Resize::parse(text), None, "{text}");
        }
    }
}
