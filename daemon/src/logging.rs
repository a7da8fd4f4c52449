//! The daemon's own log: text lines on standard output and in a rotating file (toolbox contract 1.4).
//!
//! Lines pass through a bounded queue to a thread of their own, so that neither a full disk nor a stuck terminal can stall the daemon. When the
//! queue is full lines are counted and dropped, and the count is logged when there is room again.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use tracing::level_filters::LevelFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::config::LogFile;
use crate::rotate::Rotating;
use crate::telemetry::LogLayer;

/// Lines that may wait for the writer.
const QUEUE: usize = 4096;

enum Message {
    Line(Vec<u8>),
    Flush(SyncSender<()>),
}

/// The way into the queue. Cheap to clone.
#[derive(Clone)]
pub struct Log {
    queue: SyncSender<Message>,
    dropped: Arc<AtomicU64>,
}

impl std::fmt::Debug for Log {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Log").field("dropped", &self.dropped).finish_non_exhaustive()
    }
}

impl Log {
    /// Starts the writer thread and sends this process's log to it. A missing or unwritable file is reported on standard output only.
    /// Telemetry gets what is logged too.
    pub fn start(level: LevelFilter, file: LogFile, telemetry: Option<LogLayer>) -> io::Result<Self> {
        let (queue, lines) = sync_channel(QUEUE);
        let log = Self { queue, dropped: Arc::default() };
        let dropped = Arc::clone(&log.dropped);
        std::thread::Builder::new().name("log".to_owned()).spawn(move || write(&lines, &dropped, file))?;
        let text =
            tracing_subscriber::fmt::layer().with_ansi(false).with_target(false).with_writer(log.clone());
        let subscriber = tracing_subscriber::registry().with(level).with(text).with(telemetry);
        // A global logger that is already set (a test harness's) stays.
        let _ = subscriber.try_init();
        Ok(log)
    }

    /// Waits until every line so far is written, at most `limit`.
    pub fn flush(&self, limit: Duration) {
        let (done, wait) = sync_channel(1);
        if self.queue.try_send(Message::Flush(done)).is_ok() {
            let _ = wait.recv_timeout(limit);
        }
    }
}

/// Sends the warnings of one of the daemon's own helper processes to the standard error that they share.
pub fn to_standard_error() {
    let text = tracing_subscriber::fmt::layer().with_ansi(false).with_target(false).with_writer(io::stderr);
    let _ = tracing_subscriber::registry().with(LevelFilter::WARN).with(text).try_init();
}

fn write(lines: &Receiver<Message>, dropped: &AtomicU64, file: LogFile) {
    let mut out = io::stdout();
    let mut file = Rotating::open(file);
    if let Err(error) = &file {
        let _ = writeln!(out, "the log file cannot be written: {error}");
    }
    let mut put = |line: &[u8]| {
        let _ = out.write_all(line);
        if let Ok(file) = &mut file {
            let _ = file.write_all(line);
        }
    };
    for message in lines {
        match message {
            Message::Line(line) => put(&line),
            Message::Flush(done) => drop(done.try_send(())),
        }
        match dropped.swap(0, Ordering::Relaxed) {
            0 => {}
            n => put(format!("{n} log line(s) dropped: the log could not keep up\n").as_bytes()),
        }
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Line;

    fn make_writer(&'a self) -> Line {
        Line { log: self.clone(), text: Vec::new() }
    }
}

/// One event being formatted; it enters the queue when dropped.
#[derive(Debug)]
pub struct Line {
    log: Log,
    text: Vec<u8>,
}

impl Write for Line {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.text.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        if self.log.queue.try_send(Message::Line(std::mem::take(&mut self.text))).is_err() {
            self.log.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}
