//! A process without a terminal: three pipes, each carried for itself.
//!
//! End-of-file from the client closes standard input and nothing else. The session ends when the process has ended *and* both outputs have: a child left
//! in the background that holds them keeps it open, as with any SSH server, because its output is still the session's.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use pinfold_spawn::Process;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe::{Receiver, Sender};

use crate::channel::Channel;
use crate::message::STDERR;
use crate::session::exit;

/// Our ends of a process's standard streams.
#[derive(Debug)]
pub(super) struct Pipes {
    stdin: Option<OwnedFd>,
    stdout: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
}

impl Pipes {
    pub(super) fn take(process: &mut Process) -> Self {
        Self { stdin: process.stdin.take(), stdout: process.stdout.take(), stderr: process.stderr.take() }
    }
}

/// Carries the streams until the process and its output have ended, or the channel is closed.
pub(super) async fn serve(channel: Channel, process: Arc<Process>, pipes: Pipes) {
    let output = async {
        tokio::join!(drain(&channel, pipes.stdout, None), drain(&channel, pipes.stderr, Some(STDERR)));
        process.wait().await
    };
    let input = feed(&channel, pipes.stdin);
    tokio::pin!(input);
    let mut feeding = true;
    tokio::pin!(output);
    loop {
        tokio::select! {
            exit = &mut output => return exit::exited(&channel, exit).await,
            () = &mut input, if feeding => feeding = false,
            // The pipes go with this: a process that writes on gets SIGPIPE.
            () = channel.closed() => return,
        }
    }
}

async fn feed(channel: &Channel, stdin: Option<OwnedFd>) {
    if let Some(Ok(mut stdin)) = stdin.map(Sender::from_owned_fd) {
        while let Some(data) = channel.read().await {
            if stdin.write_all(&data).await.is_err() {
                break;
            }
        }
    }
    channel.discard_input().await;
}

async fn drain(channel: &Channel, output: Option<OwnedFd>, kind: Option<u32>) {
    let Some(Ok(mut output)) = output.map(Receiver::from_owned_fd) else { return };
    let mut buffer = vec![0; channel.max_packet()];
    while let Ok(n @ 1..) = output.read(&mut buffer).await {
        let written = match kind {
            None => channel.write(&buffer[..n]).await,
            Some(kind) => channel.write_extended(kind, &buffer[..n]).await,
        };
        if written.is_err() {
            return;
        }
    }
}
