//! Paths as text, for reports only: what is opened is always the path that was asked for, because `link/..` is not `.`.

use std::ffi::OsString;
use std::path::{Component, Path, PathBuf};

/// The path without `.`, `..` and doubled slashes, as a client would write it.
pub(crate) fn clean(path: &Path) -> PathBuf {
    let mut clean = PathBuf::new();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir if matches!(clean.components().next_back(), Some(Component::Normal(_))) => {
                clean.pop();
            }
            Component::ParentDir if clean.has_root() => {}
            other => clean.push(other),
        }
    }
    if clean.as_os_str().is_empty() { PathBuf::from(".") } else { clean }
}

/// The last element: of `/` it is `/`.
pub(crate) fn base_name(path: &Path) -> OsString {
    let clean = clean(path);
    clean.file_name().unwrap_or(clean.as_os_str()).to_owned()
}

/// The path as JSON can carry it.
pub(crate) fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cleaning_is_lexical() {
        let cases = [
            ("", "."),
            (".", "."),
            ("./a//b/.", "a/b"),
            ("/a/../../b", "/b"),
            ("a/..", "."),
            ("../a", "../a"),
            ("a/../../b", "../b"),
            ("/", "/"),
            ("//x/", "/x"),
        ];
        for (path, expected) in cases {
            assert_eq!(clean(Path::new(path)), Path::new(expected), "{path}");
        }
        assert_eq!(base_name(Path::new("/a/b/")), "b");
        assert_eq!(base_name(Path::new("/")), "/");
        assert_eq!(base_name(Path::new(".")), ".");
    }
}
