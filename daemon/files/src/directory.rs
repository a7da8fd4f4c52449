//! One directory as a walk sees it: the names and types of its entries, in two pieces of memory however many there are.
//!
//! What is known of a directory is shared by all who work on its files, so that a file costs no memory of its own.

use std::ffi::OsStr;
use std::mem::MaybeUninit;
use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, RawDir, RawMode};

/// Bytes of names that the kernel gives at once.
pub(crate) const NAMES: usize = 64 << 10;

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

/// The entries of a directory, by name.
#[derive(Debug)]
pub(crate) struct Directory {
    path: PathBuf,
    below: PathBuf,
    device: u64,
    names: Vec<u8>,
    entries: Vec<Named>,
}

#[derive(Debug)]
struct Named {
    name: Range<usize>,
    kind: FileType,
}

impl Directory {
    /// What stands above the root: its only entry is the root itself, which may be a link.
    pub(crate) fn above(root: &Path) -> Option<Self> {
        let root_is = rustix::fs::stat(root).ok()?;
        let kind = FileType::from_raw_mode(root_is.st_mode as RawMode);
        let entries = vec![Named { name: 0..0, kind }];
        Some(Self {
            path: root.to_owned(),
            below: PathBuf::new(),
            device: root_is.st_dev,
            names: Vec::new(),
            entries,
        })
    }

    /// The directory that is the entry numbered `index`. Nothing if it cannot be read or is the kernel's own.
    pub(crate) fn sub_directory(&self, index: usize, buffer: &mut Vec<u8>) -> Option<Self> {
        let (path, below) = (self.path_of(index), self.below(index));
        // The root itself may be a link, and be what the walk passes over elsewhere: it was asked for.
        let is_root = self.entries[index].name.is_empty();
        let follow = if is_root { OFlags::empty() } else { OFlags::NOFOLLOW };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | follow;
        let open = || rustix::fs::openat(CWD, &path, flags, Mode::empty());
        let file = rustix::io::retry_on_intr(open).ok()?;
        let device = rustix::fs::fstat(&file).ok()?.st_dev;
        if !is_root && device != self.device && is_pseudo(&file) {
            return None;
        }
        let (names, entries) = read(rustix::fd::AsFd::as_fd(&file), buffer.spare_capacity_mut());
        Some(Self { path, below, device, names, entries })
    }

    /// How many entries it has.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// The type of an entry; of a link, that it is one.
    pub(crate) fn kind(&self, index: usize) -> FileType {
        self.entries[index].kind
    }

    /// Path for opening an entry.
    pub(crate) fn path_of(&self, index: usize) -> PathBuf {
        join(&self.path, self.name(index))
    }

    /// Path of an entry below the root; empty for the root itself.
    pub(crate) fn below(&self, index: usize) -> PathBuf {
        join(&self.below, self.name(index))
    }

    /// Makes `path` the path for opening an entry.
    pub(crate) fn put_path(&self, index: usize, path: &mut PathBuf) {
        path.clear();
        path.push(&self.path);
        let name = self.name(index);
        if !name.is_empty() {
            path.push(name);
        }
    }

    /// Name of an entry; empty for the root.
    pub(crate) fn name(&self, index: usize) -> &OsStr {
        OsStr::from_bytes(&self.names[self.entries[index].name.clone()])
    }
}

/// Joining with nothing would add a slash.
fn join(path: &Path, name: &OsStr) -> PathBuf {
    if name.is_empty() { path.to_owned() } else { path.join(name) }
}

/// A directory that fails in the middle has what was read until then.
fn read(file: BorrowedFd<'_>, buffer: &mut [MaybeUninit<u8>]) -> (Vec<u8>, Vec<Named>) {
    let (mut names, mut entries) = (Vec::new(), Vec::new());
    let mut found = RawDir::new(file, buffer);
    while let Some(Ok(entry)) = found.next() {
        let name = entry.file_name().to_bytes();
        if matches!(name, b"." | b"..") {
            continue;
        }
        let kind = match entry.file_type() {
            // Some file systems do not say it here.
            FileType::Unknown => {
                let stat = rustix::fs::statat(file, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW);
                let Ok(stat) = stat else { continue };
                FileType::from_raw_mode(stat.st_mode as RawMode)
            }
            kind => kind,
        };
        let start = names.len();
        names.extend_from_slice(name);
        entries.push(Named { name: start..names.len(), kind });
    }
    entries.sort_unstable_by(|a, b| names[a.name.clone()].cmp(&names[b.name.clone()]));
    (names, entries)
}

fn is_pseudo(file: impl rustix::fd::AsFd) -> bool {
    #[allow(clippy::useless_conversion, reason = "the type differs between architectures")]
    rustix::fs::fstatfs(file).is_ok_and(|fs| PSEUDO.contains(&i64::from(fs.f_type)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    #[test]
    fn the_kernels_own_are_passed_over() {
        let is = |path: &str| is_pseudo(File::open(path).unwrap());
        assert!(is("/proc") && is("/sys") && !is("/"));
        // Passed over on the way down, read when it was asked for.
        let mut buffer = Vec::with_capacity(NAMES);
        let root = Directory::above(Path::new("/")).unwrap().sub_directory(0, &mut buffer).unwrap();
        let proc = (0..root.len()).find(|index| root.below(*index) == Path::new("proc")).unwrap();
        assert!(root.sub_directory(proc, &mut buffer).is_none());
        assert!(Directory::above(Path::new("/proc")).unwrap().sub_directory(0, &mut buffer).is_some());
    }

    #[test]
    fn more_names_than_the_kernel_gives_at_once_are_all_read() {
        let root = tempfile::tempdir().unwrap();
        let name = |n: usize| format!("{n:04}{}", "x".repeat(200));
        for n in (0..1000).rev() {
            File::create(root.path().join(name(n))).unwrap();
        }
        let above = Directory::above(root.path()).unwrap();
        let directory = above.sub_directory(0, &mut Vec::with_capacity(NAMES)).unwrap();
        let read: Vec<_> = (0..directory.len()).map(|index| directory.below(index)).collect();
        assert!(1000 * name(0).len() > NAMES);
        assert_eq!(read, (0..1000).map(|n| PathBuf::from(name(n))).collect::<Vec<_>>());
    }
}
