//! A process without a terminal: three pipes, each carried for itself.
//!
//! End-of-file from the client closes standard input and nothing else. The session ends when the process has ended *and* both outputs have: a child left
//! in the background that holds them keeps it open, as with any SSH server, because its output is still the session's. A client that closes the channel is
//! no longer interested: what it sent is delivered, and then the process's group is hung up; a lost connection hangs it up at once.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use pinfold_spawn::Process;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe::{Receiver, Sender};

use crate::channel::Channel;
use crate::message::STDERR;
use crate::session::{exit, signal};

/// How long a process may take to read what its client had sent before it closed the channel. One that has no processor for a while reads late.
const DELIVERY: Duration = Duration::from_secs(30);
/// How long a process may go on after that, before it is hung up: its pipe may be full still.
const LAST_WORK: Duration = Duration::from_secs(10);
/// How long a group that was hung up may go on, before its output has no reader any more.
const GRACE: Duration = Duration::from_secs(1);

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

/// Carries the streams until the process and its output have ended.
pub(super) async fn serve(channel: Channel, process: Arc<Process>, pipes: Pipes) {
    let output = async {
        tokio::join!(drain(&channel, pipes.stdout, None), drain(&channel, pipes.stderr, Some(STDERR)));
        process.wait().await
    };
    let input = feed(&channel, pipes.stdin);
    tokio::pin!(input, output);
    let mut feeding = true;
    loop {
        tokio::select! {
            // A client that closes gets no more output, so this cannot be mistaken for the end of a session that it still wants.
            biased;
            () = channel.closed() => break,
            exit = &mut output => return exit::exited(&channel, exit).await,
            () = &mut input, if feeding => feeding = false,
        }
    }
    // What the client sent before it closed still goes in, and the process may end by itself.
    let rest = async {
        if feeding {
            let _ = tokio::time::timeout(DELIVERY, input).await;
        }
        let _ = tokio::time::timeout(LAST_WORK, process.wait()).await;
    };
    let ending = async {
        tokio::select! {
            () = rest => {}
            () = channel.lost() => {}
        }
        if process.exited().is_none() {
            signal::hang_up(&process);
            // The whole group has this long, not its leader alone.
            tokio::time::sleep(GRACE).await;
        }
    };
    // Output is still taken, and thrown away: a process that says something as it cleans up must not die of SIGPIPE over it.
    tokio::select! {
        () = ending => {}
        _ = &mut output => {}
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
        // Without a client the output is thrown away until the pipe goes.
        let _ = written;
    }
}
