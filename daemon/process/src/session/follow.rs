//! A command's log over a WebSocket (toolbox contract 8.5): from its beginning, or an offset, to the end of the command.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use axum::extract::ws::{CloseFrame, Message, WebSocket};
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use pinfold_http::{socket, ws};
use pinfold_proto::markers::{Splitter, frame_length};
use tokio::sync::watch;

use super::log::Progress;

/// The Node SDK fails on frames above 125 000 bytes; the contract says 32 KiB.
const MAX_FRAME: usize = 32 << 10;

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
    client: WebSocket,
    file: Arc<File>,
    progress: watch::Receiver<Progress>,
    wish: Wish,
) {
    let (mut sink, mut stream) = client.split();
    let close = tokio::select! {
        sent = send(&mut sink, &file, progress, wish) => match sent {
            Ok(()) => Some(ws::close_frame(ws::NORMAL, "")),
            Err(Failed::Read(error)) => {
                Some(ws::close_frame(ws::INTERNAL, &format!("could not read the log: {error}")))
            }
            Err(Failed::Send) => None,
        },
        close = until_closed(&mut stream) => close,
    };
    match close {
        Some(close) => socket::finish(sink, stream, None, close).await,
        None => socket::left(stream).await,
    }
}

/// What a client sends is ignored, but read: pings are answered that way, and its going away is seen. Answers with the close frame for a client that
/// broke the protocol.
async fn until_closed(stream: &mut SplitStream<WebSocket>) -> Option<CloseFrame> {
    loop {
        match stream.next().await {
            Some(Ok(Message::Close(_))) | None => return None,
            Some(Ok(_)) => {}
            Some(Err(error)) => return socket::broken(error),
        }
    }
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
