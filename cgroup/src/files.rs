//! Reading and parsing the kernel's small text files, each failure with the file's name.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// More than any of these files holds; mountinfo on a busy container host is the longest.
const LARGEST: u64 = 16 << 20;

/// A figure that could not be read. The text is fit to be shown: the file, then the reason.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {cause}", path.display())]
pub struct Missing {
    /// The file, directory or mount that did not give the figure.
    pub path: PathBuf,
    /// Why.
    pub cause: Cause,
}

/// Why a figure is missing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Cause {
    /// The file does not exist, or the kernel feature is off.
    #[error("{0}")]
    Absent(String),
    /// The file exists but cannot be read.
    #[error("{0}")]
    Unreadable(String),
    /// The file holds something else than the kernel documents.
    #[error("{0}")]
    Malformed(String),
}

impl Missing {
    pub(crate) fn absent(path: impl Into<PathBuf>, reason: impl Into<String>) -> Self {
        Self { path: path.into(), cause: Cause::Absent(reason.into()) }
    }

    pub(crate) fn malformed(path: impl Into<PathBuf>, reason: impl Into<String>) -> Self {
        Self { path: path.into(), cause: Cause::Malformed(reason.into()) }
    }

    fn io(path: &Path, error: &io::Error) -> Self {
        let absent = matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory);
        let text = error.to_string();
        let cause = if absent { Cause::Absent(text) } else { Cause::Unreadable(text) };
        Self { path: path.into(), cause }
    }

    /// Whether there is nothing to read, as opposed to something that could not be read or understood.
    pub fn is_absent(&self) -> bool {
        matches!(self.cause, Cause::Absent(_))
    }
}

/// The file's text. Bytes that are not UTF-8 are replaced: they can only occur in names.
pub(crate) fn read(path: &Path) -> Result<String, Missing> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(LARGEST).read_to_end(&mut bytes))
        .map_err(|error| Missing::io(path, &error))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// `None` for a file that does not exist.
pub(crate) fn optional<T>(read: Result<T, Missing>) -> Result<Option<T>, Missing> {
    match read {
        Ok(value) => Ok(Some(value)),
        Err(missing) if missing.is_absent() => Ok(None),
        Err(missing) => Err(missing),
    }
}

/// A file of one unsigned number.
pub(crate) fn number(path: &Path) -> Result<u64, Missing> {
    parse(path, read(path)?.trim())
}

/// A file of one unsigned number or `max`; `None` is `max`.
pub(crate) fn number_or_max(path: &Path) -> Result<Option<u64>, Missing> {
    match read(path)?.trim() {
        "max" => Ok(None),
        text => parse(path, text).map(Some),
    }
}

pub(crate) fn parse(path: &Path, text: &str) -> Result<u64, Missing> {
    text.parse().map_err(|_| Missing::malformed(path, format!("{:?} is not a number", shortened(text))))
}

/// The number after `key` in a file of `key value` lines.
pub(crate) fn keyed(path: &Path, text: &str, key: &str) -> Result<u64, Missing> {
    let found = text.lines().find_map(|line| {
        let mut words = line.split_ascii_whitespace();
        (words.next() == Some(key)).then(|| words.next().unwrap_or_default())
    });
    parse(path, found.ok_or_else(|| Missing::absent(path, format!("has no {key}")))?)
}

pub(crate) fn shortened(text: &str) -> String {
    text.chars().take(40).collect()
}
