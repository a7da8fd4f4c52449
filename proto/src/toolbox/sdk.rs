//! Which shape a client expects, by the version its SDK announces (toolbox contract 2.5).

/// How a client wants a command's log and a session's start directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SdkClass {
    /// No version announced, or an unreadable one: raw text with markers.
    #[default]
    Raw,
    /// Old clients: text without markers.
    Combined,
    /// Current clients: standard output and standard error apart, as JSON.
    Split,
}
