//! Structured logs on standard error: RFC 3339 time, level, message, `key=value` fields.

use std::io::IsTerminal;

use tracing::level_filters::LevelFilter;
use tracing::{Level, Metadata};
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry};

/// Whoever else wants to know what is logged.
pub type LogObserver = Box<dyn Layer<Registry> + Send + Sync>;

/// How log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// Text for people; coloured on a terminal.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

/// The level named by `LOG_LEVEL`; anything unknown means `info`, as the contract says.
pub fn level_of(text: Option<&str>) -> LevelFilter {
    match text.map(str::to_ascii_lowercase).as_deref() {
        Some("trace") => LevelFilter::TRACE,
        Some("debug") => LevelFilter::DEBUG,
        Some("warn" | "warning") => LevelFilter::WARN,
        Some("error") => LevelFilter::ERROR,
        _ => LevelFilter::INFO,
    }
}

/// Whether something belongs in a log: all that this project's own code says, and what others say to their users. What libraries say for their own debugging
/// has whole requests in it, with the environment and the credentials of whoever made them.
pub fn is_loggable(meta: &Metadata<'_>) -> bool {
    meta.target().starts_with("pinfold") || *meta.level() <= Level::INFO
}

/// Sends this process's logs to standard error, and everything to the observers. A second call has no effect.
///
/// Spans whose target ends in `::span` are not the log's: they are the observers' alone.
pub fn init_logging(level: LevelFilter, format: LogFormat, observers: Vec<LogObserver>) {
    let layer = tracing_subscriber::fmt::layer()
        // A line that cannot be written, on a full disk for instance, would be told on standard error, and that panics when it fails as well.
        .log_internal_errors(false)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false);
    let layer: LogObserver = match format {
        LogFormat::Text => layer.boxed(),
        LogFormat::Json => layer.json().boxed(),
    };
    let shown = filter_fn(|meta| is_loggable(meta) && !(meta.is_span() && meta.target().ends_with("::span")));
    let mut layers = observers;
    layers.push(layer.with_filter(shown.with_max_level_hint(level)).with_filter(level).boxed());
    // A global logger that is already set (a test harness's) stays.
    let _ = tracing_subscriber::registry().with(layers).try_init();
}
