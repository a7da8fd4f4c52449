//! The in-band markers of a command's log: three bytes before each chunk say which stream it belongs to (toolbox contract 8.4).
//!
//! There is no escaping: a payload that holds three equal marker bytes would be misread, so [`write_chunk`] splits it after two and repeats
//! the marker. [`Splitter`] reads a log back incrementally, correctly across chunk boundaries.

/// Precedes standard output.
pub const STDOUT: [u8; 3] = [1, 1, 1];
/// Precedes standard error.
pub const STDERR: [u8; 3] = [2, 2, 2];

/// Which stream a chunk belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

impl Stream {
    /// The stream's marker.
    pub const fn marker(self) -> [u8; 3] {
        match self {
            Self::Stdout => STDOUT,
            Self::Stderr => STDERR,
        }
    }
}
