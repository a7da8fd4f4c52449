//! The one task of a started session: terminal to log, queue to terminal, and the orderly end.

use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use pinfold_spawn::{Exit, Process};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

use super::input::Typed;
use super::output::OutputLog;
use crate::PtyMaster;

/// A terminal that background jobs keep open after the shell's end is drained until it was silent for this long …
const QUIET: Duration = Duration::from_millis(100);
/// … or until this long after the end, and what it held then was read.
const DRAIN: Duration = Duration::from_secs(1);
/// More than the kernel holds of what was written to a terminal and not read.
const HELD: usize = 128 << 10;
/// Bytes read at a time.
const PIECE: usize = 8 << 10;

/// Runs until the shell has ended and the terminal is drained; answers how the shell ended.
pub(crate) async fn run(
    process: Arc<Process>,
    master: PtyMaster,
    log: Arc<OutputLog>,
    typed: mpsc::Receiver<Typed>,
) -> Exit {
    let output = output(&process, &master, &log);
    let input = async {
        input(&master, typed).await;
        std::future::pending().await
    };
    tokio::select! {
        exit = output => exit,
        never = input => never,
    }
}

async fn output(process: &Process, master: &PtyMaster, log: &OutputLog) -> Exit {
    let exit = tokio::select! {
        // Even if the shell has ended, what it wrote comes first.
        biased;
        () = copy(master, log) => return process.wait().await,
        exit = process.wait() => exit,
    };
    let last = Instant::now() + DRAIN;
    let mut held = HELD;
    while held > 0 || Instant::now() < last {
        let silent = timeout_at(last.min(Instant::now() + QUIET), master.readable()).await.is_err();
        // That nothing was heard of says nothing of what is there: the runtime may not have been told yet, or had no time to listen.
        match piece(|buffer| if silent { master.read_now(buffer) } else { master.try_read(buffer) }) {
            Ok(bytes) if bytes.is_empty() => break,
            Ok(bytes) => {
                held = held.saturating_sub(bytes.len());
                log.append(&bytes).await;
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock && !silent => {}
            Err(_) => break,
        }
    }
    exit
}

/// Copies until the terminal's end-of-file.
async fn copy(master: &PtyMaster, log: &OutputLog) {
    while master.readable().await.is_ok() {
        if !copy_available(master, log).await {
            return;
        }
    }
}

/// Copies one piece, if there is one; false at the end.
async fn copy_available(master: &PtyMaster, log: &OutputLog) -> bool {
    match piece(|buffer| master.try_read(buffer)) {
        Ok(bytes) if bytes.is_empty() => false,
        Ok(bytes) => {
            log.append(&bytes).await;
            true
        }
        Err(error) if error.kind() == ErrorKind::WouldBlock => true,
        Err(_) => false,
    }
}

/// The buffer lives on the stack of the moment, so an idle terminal has none.
fn piece(read: impl FnOnce(&mut [u8]) -> std::io::Result<usize>) -> std::io::Result<Vec<u8>> {
    let mut buffer = [0; PIECE];
    let count = read(&mut buffer)?;
    Ok(buffer[..count].to_vec())
}

async fn input(master: &PtyMaster, mut typed: mpsc::Receiver<Typed>) {
    while let Some(message) = typed.recv().await {
        if master.write_all(&message.bytes).await.is_err() {
            return;
        }
    }
}
