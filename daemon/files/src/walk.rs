//! Walking a tree in lexical order: each directory before its entries, entries by name.
//!
//! Links are not followed, except the root itself. Directories that cannot be read are passed over, as are the kernel's own file systems: they are
//! no files of the user's, may be endless, and reading some of them has effects.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::FileType;

use crate::directory::{Directory, NAMES};

/// One entry of the tree.
#[derive(Debug)]
pub(crate) struct Entry<'w> {
    /// What it is an entry of. Whoever keeps it holds the names of one directory.
    pub(crate) directory: &'w Arc<Directory>,
    /// Which of them.
    pub(crate) index: usize,
}

impl Entry<'_> {
    /// Its type; of a link, that it is one.
    pub(crate) fn kind(&self) -> FileType {
        self.directory.kind(self.index)
    }

    /// Its name; the root has none.
    pub(crate) fn name(&self) -> Option<&OsStr> {
        Some(self.directory.name(self.index)).filter(|name| !name.is_empty())
    }

    /// Path below the root; empty for the root itself.
    pub(crate) fn below(&self) -> PathBuf {
        self.directory.below(self.index)
    }
}

/// Calls `visit` for the root and everything below, until it fails. A root that does not exist has nothing to visit.
pub(crate) fn walk(root: &Path, visit: &mut dyn FnMut(Entry<'_>) -> io::Result<()>) -> io::Result<()> {
    let Some(above) = Directory::above(root) else { return Ok(()) };
    descend(&Arc::new(above), &mut Vec::with_capacity(NAMES), visit)
}

/// As deep as a path may be long, so the stack is bounded; what is held are the names of one directory for each level.
fn descend(
    directory: &Arc<Directory>,
    buffer: &mut Vec<u8>,
    visit: &mut dyn FnMut(Entry<'_>) -> io::Result<()>,
) -> io::Result<()> {
    for index in 0..directory.len() {
        visit(Entry { directory, index })?;
        if directory.kind(index) != FileType::Directory {
            continue;
        }
        if let Some(below) = directory.sub_directory(index, buffer) {
            descend(&Arc::new(below), buffer, visit)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(root: &Path) -> Vec<String> {
        let mut seen = Vec::new();
        let mut visit = |entry: Entry<'_>| {
            seen.push(entry.below().to_str().unwrap().to_owned());
            Ok(())
        };
        walk(root, &mut visit).unwrap();
        seen
    }

    #[test]
    fn order_is_lexical_and_links_are_not_followed() {
        let root = tempfile::tempdir().unwrap();
        for file in ["b/2", "b/1", "a.txt", "a/x", "B"] {
            let path = root.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        }
        std::os::unix::fs::symlink(root.path(), root.path().join("loop")).unwrap();
        assert_eq!(paths(root.path()), ["", "B", "a", "a/x", "a.txt", "b", "b/1", "b/2", "loop"]);
        assert_eq!(paths(&root.path().join("loop")).len(), 9);
        assert_eq!(paths(&root.path().join("a.txt")), [""]);
        assert!(paths(&root.path().join("nothing")).is_empty());
    }
}
