//! The Python programs that this crate brings with it.

/// Reads one of the others from a socket on descriptor 0 and runs it.
pub(crate) const BOOT: &str = include_str!("boot.py");
/// The worker of a context.
pub(crate) const WORKER: &str = include_str!("worker.py");
/// The wrapper of a program that draws.
pub(crate) const CHARTS: &str = include_str!("charts.py");
