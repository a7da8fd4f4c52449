//! `pinfold sandbox logs`: what a sandbox's entrypoint has written and writes.
//!
//! The log comes over the toolbox's WebSocket, so following it waits for bytes and asks for nothing again and again. Markers in it say which stream
//! each piece belongs to (toolbox contract 8.4, 8.5).

use std::io::{ErrorKind, Write};

use futures_util::StreamExt;
use pinfold_proto::markers::{Splitter, Stream};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use crate::api::{Api, segment};
use crate::exit::Failure;

const PATH: &str = "/process/session/entrypoint/logs";

/// Prints the log of the sandbox with this name or id; with `follow` until the entrypoint ends.
pub(super) async fn print(api: &Api, name: &str, follow: bool) -> Result<(), Failure> {
    let sandbox = api.get(&format!("/sandbox/{}", segment(name))).await?;
    let mut socket = api.socket(&sandbox, &format!("{PATH}?follow={follow}")).await?;
    let mut splitter = Splitter::default();
    while let Some(message) = socket.next().await {
        let mut written = Ok(());
        let mut write = |stream: Option<Stream>, bytes: &[u8]| {
            if written.is_ok() {
                written = write(stream, bytes);
            }
        };
        match message.map_err(|error| Failure::unreachable(format!("the log broke off: {error}")))? {
            Message::Binary(bytes) => splitter.feed(&bytes, &mut write),
            Message::Text(text) => splitter.feed(text.as_bytes(), &mut write),
            Message::Close(Some(frame)) if frame.code != CloseCode::Normal => {
                return Err(Failure::runtime(format!("the log broke off: {}", frame.reason)));
            }
            Message::Close(_) => {
                splitter.finish(&mut write);
                break;
            }
            Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => {}
        }
        match written {
            Ok(()) => {}
            // Whoever read our output, a pager for example, has seen enough.
            Err(error) if error.kind() == ErrorKind::BrokenPipe => return Ok(()),
            Err(error) => return Err(Failure::runtime(format!("could not write the log: {error}"))),
        }
    }
    Ok(())
}

fn write(stream: Option<Stream>, bytes: &[u8]) -> std::io::Result<()> {
    match stream {
        Some(Stream::Stderr) => std::io::stderr().write_all(bytes),
        // What precedes the first marker was written before streams were told apart.
        Some(Stream::Stdout) | None => {
            let mut out = std::io::stdout().lock();
            out.write_all(bytes)?;
            out.flush()
        }
    }
}
