//! How a process ended.

use nix::sys::signal::Signal;

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Exit {
    /// It returned this code, 0–255.
    Code(i32),
    /// This signal killed it (a number: real-time signals have no name).
    Signal(i32),
}

impl Exit {
    /// The code a shell would report: the code itself, or 128 + the signal.
    pub fn shell_code(self) -> i32 {
        match self {
            Self::Code(code) => code,
            Self::Signal(signal) => 128 + signal,
        }
    }

    /// The signal that killed it.
    pub fn signal(self) -> Option<i32> {
        match self {
            Self::Code(_) => None,
            Self::Signal(signal) => Some(signal),
        }
    }

    /// The signal's name, such as `SIGKILL`.
    pub fn signal_name(self) -> Option<&'static str> {
        self.signal().and_then(|n| Signal::try_from(n).ok()).map(Signal::as_str)
    }
}
