//! A process on a pseudo-terminal.

use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use pinfold_pty::{Pty, PtyError, PtyMaster};
use pinfold_spawn::{Process, Sandbox};

use crate::channel::Channel;
use crate::session::{TerminalRequest, exit, signal};

/// How long the terminal must be silent after its process has ended, when others still hold it, for its output to count as complete.
const SILENCE: Duration = Duration::from_millis(50);
/// What ends input on a terminal that has not been told otherwise: control-D.
const END_OF_INPUT: &[u8] = &[4];

/// Starts `command` on a new terminal.
pub(super) fn start(
    sandbox: &Sandbox,
    mut command: Command,
    request: &TerminalRequest,
) -> Result<(Process, PtyMaster), PtyError> {
    let pty = Pty::open(request.size)?;
    request.modes.apply(pty.terminal());
    if let Ok(name) = nix::unistd::ttyname(pty.terminal()) {
        command.env("SSH_TTY", name);
    }
    pty.start(sandbox, command)
}

/// Carries the terminal until its process has ended and its output is complete, or the channel is closed.
pub(super) async fn serve(channel: Channel, process: Arc<Process>, terminal: PtyMaster) {
    let output = async {
        let mut buffer = vec![0; channel.max_packet()];
        let mut ended = false;
        loop {
            let read = tokio::select! {
                read = terminal.read(&mut buffer) => read,
                _ = process.wait(), if !ended => { ended = true; continue }
                // Only a process in the background can have kept the terminal: the session does not wait for it. But what is there now may have
                // been there before its process ended, and the runtime not have been told yet.
                () = tokio::time::sleep(SILENCE), if ended => terminal.read_now(&mut buffer),
            };
            match read {
                Ok(n @ 1..) if channel.write(&buffer[..n]).await.is_ok() => {}
                _ => break,
            }
        }
        process.wait().await
    };
    let input = feed(&channel, &terminal);
    tokio::pin!(output, input);
    let mut feeding = true;
    loop {
        tokio::select! {
            exit = &mut output => return exit::exited(&channel, exit).await,
            () = &mut input, if feeding => feeding = false,
            () = channel.closed() => return signal::hang_up(&process),
        }
    }
}

async fn feed(channel: &Channel, terminal: &PtyMaster) {
    while let Some(data) = channel.read().await {
        if terminal.write_all(&data).await.is_err() {
            channel.discard_input().await;
            return;
        }
    }
    // A terminal has no end-of-file of its own; this is what a person would type.
    let _ = terminal.write_all(END_OF_INPUT).await;
}
