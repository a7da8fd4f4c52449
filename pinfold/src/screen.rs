//! What `top` and `status` share: a picture of lines, drawn once for a pipe and again and again on a terminal.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use rustix::termios::tcgetwinsize;
use tokio::signal::unix::{SignalKind, signal};

use crate::exit::Failure;
use crate::table::print_line;

/// The other screen of a terminal, without a cursor (xterm's control sequences, "Alternate Screen Buffer").
const ENTER: &str = "\x1b[?1049h\x1b[?25l";
const LEAVE: &str = "\x1b[?25h\x1b[?1049l";

/// Draws `picture` every `interval` until Ctrl-C if standard output is a terminal, else once.
///
/// A picture that fails ends it the first time; later the failure is shown in its place, since what is watched may come back.
pub(crate) async fn show(
    interval: Duration,
    mut picture: impl AsyncFnMut() -> Result<Vec<String>, Failure>,
) -> Result<(), Failure> {
    let mut lines = picture().await?;
    if !std::io::stdout().is_terminal() {
        lines.iter().for_each(|line| print_line(line));
        return Ok(());
    }
    // One listener for all the time: what comes between two would be lost.
    let mut interrupt = signal(SignalKind::interrupt())
        .map_err(|error| Failure::runtime(format!("could not watch for signals: {error}")))?;
    let screen = Screen::enter();
    loop {
        screen.draw(&lines);
        tokio::select! {
            () = tokio::time::sleep(interval) => {}
            _ = interrupt.recv() => return Ok(()),
        }
        lines = tokio::select! {
            drawn = picture() => drawn.unwrap_or_else(|failure| vec![failure.to_string()]),
            _ = interrupt.recv() => return Ok(()),
        };
    }
}

/// The terminal's other screen, which is left when this is dropped.
struct Screen;

impl Screen {
    fn enter() -> Self {
        say(ENTER);
        Self
    }

    /// Writes over what is there, line by line, so that nothing flickers; what does not fit is cut.
    fn draw(&self, lines: &[String]) {
        // A terminal that nobody gave a size, a serial line for example, says zero.
        let size = tcgetwinsize(std::io::stdout()).ok().filter(|s| s.ws_row > 0 && s.ws_col > 0);
        let (rows, columns) = size.map_or((24, 80), |s| (usize::from(s.ws_row), usize::from(s.ws_col)));
        let mut text = String::from("\x1b[H");
        for (at, line) in lines.iter().take(rows).enumerate() {
            if at > 0 {
                text.push('\n');
            }
            text.extend(line.chars().take(columns));
            text.push_str("\x1b[K");
        }
        text.push_str("\x1b[J");
        say(&text);
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        say(LEAVE);
    }
}

/// A terminal that is gone needs no picture.
fn say(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}
