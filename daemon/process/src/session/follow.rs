//! A command's log over a WebSocket (toolbox contract 8.5): from its beginning, or an offset, to the end of the command.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::ws::{Message, WebSocket};
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use pinfold_http::ws;
use pinfold_proto::markers::{Splitter, frame_length};
use tokio::sync::watch;

use super::log::Progress;

/// The Node SDK fails on frames above 125 000 bytes; the contract says 32 KiB.
const MAX_FRAME: usize = 32 << 10;
/// How long a client may take to answer our close.
const CLOSE: Duration = Duration::from_secs(5);

/// What a follower wants.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wish {
    /// Stay until the command is over.
    pub(crate) follow: bool,
    /// Leave out markers.
    pub(crate) unmarked: bool,
    /// Begin at this byte of the log.
    pub(crate) offset: u64,
}

type Sink = SplitSink<WebSocket, Message>;

/// Serves one socket to its end. One task owns it; reading and writing are polled together, so pings are answered between frames.
pub(crate) async fn serve(
    socket: WebSocket,
    file: Arc<File>,
    progress: watch::Receiver<Progress>,
    wish: Wish,
) {
    let (mut sink, mut stream) = socket.split();
    let sent = tokio::select! {
        sent = send(&mut sink, &file, progress, wish) => sent,
        () = until_closed(&mut stream) => return,
    };
    let (code, reason) = match sent {
        Ok(()) => (ws::NORMAL, String::new()),
        Err(Failed::Read(error)) => (ws::INTERNAL, format!("could not read the log: {error}")),
        Err(Failed::Send) => return,
    };
    let _ = sink.send(Message::Close(Some(ws::close_frame(code, &reason)))).await;
    let _ = tokio::time::timeout(CLOSE, until_closed(&mut stream)).await;
}

/// What a client sends is ignored, but read: pings are answered that way, and its going away is seen.
async fn until_closed(stream: &mut SplitStream<WebSocket>) {
    while let Some(Ok(_)) = stream.next().await {}
}

enum Failed {
    Read(std::io::Error),
    Send,
}

async fn send(
    sink: &mut Sink,
    file: &File,
    mut progress: watch::Receiver<Progress>,
    wish: Wish,
) -> Result<(), Failed> {
    let mut offset = wish.offset;
    let mut buffer = vec![0; MAX_FRAME];
    let mut splitter = Splitter::default();
    loop {
        let Progress { length, over } = *progress.borrow_and_update();
        while offset < length {
            let wanted = usize::try_from(length - offset).unwrap_or(MAX_FRAME).min(MAX_FRAME);
            let read = file.read_at(&mut buffer[..wanted], offset).map_err(Failed::Read)?;
            let cut = frame_length(&buffer[..read], MAX_FRAME);
            if cut == 0 {
                break;
            }
            offset += cut as u64;
            let mut frame = Vec::with_capacity(cut);
            if wish.unmarked {
                splitter.feed(&buffer[..cut], |_, bytes| frame.extend_from_slice(bytes));
            } else {
                frame.extend_from_slice(&buffer[..cut]);
            }
            feed(sink, frame).await?;
        }
        if over || !wish.follow {
            break;
        }
        if progress.changed().await.is_err() {
            break;
        }
    }
    let mut rest = Vec::new();
    splitter.finish(|_, bytes| rest.extend_from_slice(bytes));
    feed(sink, rest).await
}

async fn feed(sink: &mut Sink, frame: Vec<u8>) -> Result<(), Failed> {
    if frame.is_empty() {
        return Ok(());
    }
    sink.send(Message::Binary(frame.into())).await.map_err(|_| Failed::Send)
}
