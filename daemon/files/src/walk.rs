//! Walking a tree in lexical order: each directory before its entries, entries by name.
//!
//! Links are not followed, except the root itself. Directories that cannot be read are passed over, as are the kernel's own file systems: they are
//! no files of the user's, may be endless, and reading some of them has effects.

use std::fs::FileType;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Magic numbers (statfs(2)) of file systems that are windows into the kernel.
const PSEUDO: [i64; 13] = [
    0x9fa0,      // proc
    0x6265_6572, // sysfs
    0x0027_e0eb, // cgroup
    0x6367_7270, // cgroup2
    0x1cd1,      // devpts
    0x6462_6720, // debugfs
    0x7472_6163, // tracefs
    0x7363_6673, // securityfs
    0xcafe_4a11, // bpf
    0x1980_0202, // mqueue
    0x6165_676c, // pstore
    0x6265_6570, // configfs
    0x4249_4e4d, // binfmt_misc
];

/// One entry of the tree.
#[derive(Debug)]
pub(crate) struct Entry {
    /// Path for opening it.
    pub(crate) path: PathBuf,
    /// Path below the root; empty for the root itself.
    pub(crate) below: PathBuf,
    /// Its type; of a link, that it is one.
    pub(crate) kind: FileType,
}

/// Calls `visit` for the root and everything below, until it fails. A root that does not exist has nothing to visit.
pub(crate) fn walk(root: &Path, visit: &mut dyn FnMut(Entry) -> io::Result<()>) -> io::Result<()> {
    let Ok(metadata) = std::fs::metadata(root) else { return Ok(()) };
    visit(Entry { path: root.to_owned(), below: PathBuf::new(), kind: metadata.file_type() })?;
    if metadata.is_dir() { descend(root, Path::new(""), metadata.dev(), visit) } else { Ok(()) }
}

fn descend(
    directory: &Path,
    below: &Path,
    device: u64,
    visit: &mut dyn FnMut(Entry) -> io::Result<()>,
) -> io::Result<()> {
    let Ok(reader) = std::fs::read_dir(directory) else { return Ok(()) };
    // Names and types only: what is held is as large as one directory.
    let named = reader.flatten().filter_map(|entry| Some((entry.file_name(), entry.file_type().ok()?)));
    let mut entries: Vec<_> = named.collect();
    entries.sort_unstable_by(|a, b| a.0.cmp(&b.0));
    for (name, kind) in entries {
        let path = directory.join(&name);
        let below = below.join(&name);
        visit(Entry { path: path.clone(), below: below.clone(), kind })?;
        if !kind.is_dir() {
            continue;
        }
        let Ok(metadata) = std::fs::symlink_metadata(&path) else { continue };
        if metadata.dev() == device || !is_pseudo(&path) {
            descend(&path, &below, metadata.dev(), visit)?;
        }
    }
    Ok(())
}

fn is_pseudo(path: &Path) -> bool {
    #[allow(clippy::useless_conversion, reason = "the type differs between architectures")]
    rustix::fs::statfs(path).is_ok_and(|fs| PSEUDO.contains(&i64::from(fs.f_type)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(root: &Path) -> Vec<String> {
        let mut seen = Vec::new();
        let mut visit = |entry: Entry| {
            seen.push(entry.below.to_str().unwrap().to_owned());
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

    #[test]
    fn the_kernels_own_are_passed_over() {
        assert!(is_pseudo(Path::new("/proc")) && is_pseudo(Path::new("/sys")));
        assert!(!is_pseudo(Path::new("/")));
    }
}
