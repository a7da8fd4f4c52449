//! How failures of the file system become answers: status and code by kind, the step and the path in the message.

use std::fmt::Display;
use std::io;
use std::path::Path;

use http::StatusCode;
use pinfold_http::ApiError;
use rustix::io::Errno;

/// Code of a file that is not there.
pub(crate) const NOT_FOUND: &str = "FILE_NOT_FOUND";
/// Code of a file that may not be touched.
pub(crate) const DENIED: &str = "FILE_ACCESS_DENIED";
/// Code of a path that cannot be what was asked for.
pub(crate) const INVALID_PATH: &str = "INVALID_FILE_PATH";
/// Code of a file that could not be read to its end.
pub(crate) const READ_FAILED: &str = "FILE_READ_FAILED";

/// The answer for `error`, which `step` met at `path`.
pub(crate) fn failed(step: &str, path: &Path, error: &io::Error) -> ApiError {
    let path = path.display();
    match kind(error) {
        Kind::Missing => ApiError::not_found(format_args!("file not found: {path}")).code(NOT_FOUND),
        Kind::Denied => {
            ApiError::new(StatusCode::FORBIDDEN, format_args!("{step}: permission denied: {path}"))
                .code(DENIED)
        }
        Kind::Path => invalid_path(format_args!("{step}: {}: {path}", reason(error))),
        Kind::Other => ApiError::bad_request(format_args!("{step}: {}: {path}", reason(error))),
    }
}

/// 400 `INVALID_FILE_PATH`.
pub(crate) fn invalid_path(message: impl Display) -> ApiError {
    ApiError::bad_request(message).code(INVALID_PATH)
}

/// What a client would do about an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Missing,
    Denied,
    /// The path is of the wrong kind: a directory, a special file, a loop, too long.
    Path,
    Other,
}

/// Sorts an error.
pub(crate) fn kind(error: &io::Error) -> Kind {
    match error.kind() {
        io::ErrorKind::NotFound => Kind::Missing,
        io::ErrorKind::PermissionDenied => Kind::Denied,
        io::ErrorKind::InvalidInput if error.raw_os_error().is_none() => Kind::Path,
        _ => match error.raw_os_error().map(Errno::from_raw_os_error) {
            Some(Errno::NOTDIR | Errno::ISDIR | Errno::NAMETOOLONG | Errno::LOOP | Errno::NXIO) => Kind::Path,
            _ => Kind::Other,
        },
    }
}

/// The error in words, without the number that Rust appends: `permission denied`.
pub(crate) fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut chars = text.chars();
    chars.next().map(|first| first.to_lowercase().chain(chars).collect()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_keep_their_kind_and_lose_their_number() {
        let of = |errno: Errno| io::Error::from_raw_os_error(errno.raw_os_error());
        assert_eq!(reason(&of(Errno::ACCESS)), "permission denied");
        assert_eq!(failed("open", Path::new("/x"), &of(Errno::NOENT)).code_str(), Some(NOT_FOUND));
        assert_eq!(failed("open", Path::new("/x"), &of(Errno::PERM)).status(), 403);
        assert_eq!(failed("open", Path::new("/x"), &of(Errno::NOTDIR)).code_str(), Some(INVALID_PATH));
        assert_eq!(failed("write", Path::new("/x"), &of(Errno::NOSPC)).code_str(), Some("BAD_REQUEST"));
        assert_eq!(kind(&std::fs::File::open("/a\0b").unwrap_err()), Kind::Path);
    }
}
