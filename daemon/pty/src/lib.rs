//! Pseudo-terminals: a small core that the SSH server uses too, PTY sessions over REST and WebSocket, and the web terminal.
//!
//! The core ([`Pty`], [`PtyMaster`]) is non-blocking I/O on the runtime, with no thread for each terminal. It must not know HTTP.

mod pty;
mod relay;
mod session;
mod sys;
mod terminal;

pub use pty::{Pty, PtyError, PtyMaster, Size};
pub use session::{Settings, router};
pub use terminal::router as terminal_router;
