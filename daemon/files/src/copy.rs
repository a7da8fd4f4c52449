//! Copying a tree between file systems so that the copy is what the original was: links, modes, times, owners, extended attributes. What the target's
//! file system does not keep (a bucket none of these) the copy is without, but for symbolic links: those are content.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::{File, Metadata};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use crate::target::close;

/// What went wrong, and at which entry of the tree.
#[derive(Debug, thiserror::Error)]
#[error("{path}")]
pub(crate) struct CopyError {
    pub(crate) path: PathBuf,
    pub(crate) source: io::Error,
    /// Whether something is at the target now that the copying has put there.
    pub(crate) made: bool,
}

/// Copies the entry at `source`, and all below it, to `target`, which must not exist.
pub(crate) fn tree(source: &Path, target: &Path) -> Result<(), CopyError> {
    let mut copier = Copier { linked: HashMap::new(), made: false };
    copier.entry(source, target).map_err(|error| CopyError { made: copier.made, ..error })
}

struct Copier {
    /// Whether anything was made yet. The first is the target itself.
    made: bool,
    /// Files with several names, by device and inode, and where each was copied to: the copies share one file as well.
    linked: HashMap<(u64, u64), PathBuf>,
}

impl Copier {
    fn entry(&mut self, source: &Path, target: &Path) -> Result<(), CopyError> {
        let at = |source_error: io::Error| CopyError {
            path: source.to_owned(),
            source: source_error,
            made: false,
        };
        let metadata = std::fs::symlink_metadata(source).map_err(at)?;
        if metadata.is_dir() {
            std::fs::create_dir(target).map_err(at)?;
            self.made = true;
            for entry in std::fs::read_dir(source).map_err(at)? {
                let name = entry.map_err(at)?.file_name();
                self.entry(&source.join(&name), &target.join(&name))?;
            }
            // After its entries, whose creation changed its time, and for which a mode without `w` would have been in the way.
            return attributes(source, target, &metadata).map_err(at);
        }
        let key = (metadata.dev(), metadata.ino());
        if metadata.nlink() > 1
            && let Some(first) = self.linked.get(&key)
        {
            match std::fs::hard_link(first, target) {
                Err(error) if is_unsupported(&error) => {}
                linked => return linked.map_err(at),
            }
        }
        self.single(source, target, &metadata).map_err(at)?;
        attributes(source, target, &metadata).map_err(at)?;
        if metadata.nlink() > 1 {
            self.linked.insert(key, target.to_owned());
        }
        Ok(())
    }

    fn single(&mut self, source: &Path, target: &Path, metadata: &Metadata) -> io::Result<()> {
        let kind = metadata.file_type();
        if kind.is_file() {
            let (mut original, mut copy) = (File::open(source)?, File::create_new(target)?);
            self.made = true;
            // copy_file_range or sendfile underneath: no byte passes through us.
            let copied = io::copy(&mut original, &mut copy)?;
            close(copy)?;
            return if copied < metadata.len() { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) };
        }
        if kind.is_symlink() {
            std::os::unix::fs::symlink(std::fs::read_link(source)?, target)?;
        } else {
            let (kind, mode) = (FileType::from_raw_mode(metadata.mode()), metadata.mode() & 0o7777);
            rustix::fs::mknodat(CWD, target, kind, Mode::from_bits_truncate(mode), metadata.rdev())?;
        }
        self.made = true;
        Ok(())
    }
}

/// Whether a file system says so of what it does not do at all.
pub(crate) fn is_unsupported(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw_os_error);
    matches!(errno, Some(Errno::PERM | Errno::NOSYS | Errno::OPNOTSUPP))
}

/// What cannot be kept there is not kept.
fn if_supported(done: io::Result<()>) -> io::Result<()> {
    done.or_else(|error| if is_unsupported(&error) { Ok(()) } else { Err(error) })
}

fn attributes(source: &Path, target: &Path, metadata: &Metadata) -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(metadata.uid()), Gid::from_raw(metadata.gid()));
    // Only root may give files away; what an ordinary user moves becomes his, as with mv.
    let owned = rustix::fs::chownat(CWD, target, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW);
    if_supported(owned.map_err(Into::into))?;
    if !metadata.is_symlink() {
        if_supported(std::fs::set_permissions(target, PermissionsExt::from_mode(metadata.mode() & 0o7777)))?;
        xattrs(source, target);
    }
    let time = |seconds, nanoseconds| Timespec { tv_sec: seconds, tv_nsec: nanoseconds };
    let times = Timestamps {
        last_access: time(metadata.atime(), metadata.atime_nsec()),
        last_modification: time(metadata.mtime(), metadata.mtime_nsec()),
    };
    let timed = rustix::fs::utimensat(CWD, target, &times, AtFlags::SYMLINK_NOFOLLOW);
    if_supported(timed.map_err(Into::into))
}

/// Copies the extended attributes (access lists among them) as far as the target's file system takes them.
pub(crate) fn xattrs(source: &Path, target: &Path) {
    let mut names = vec![0; 64 << 10];
    let Ok(length) = rustix::fs::llistxattr(source, &mut names[..]) else { return };
    let mut value = vec![0; 64 << 10];
    for name in names[..length].split(|b| *b == 0).filter(|name| !name.is_empty()) {
        let name = OsStr::from_bytes(name);
        if let Ok(length) = rustix::fs::lgetxattr(source, name, &mut value[..])
            && let Err(error) = rustix::fs::lsetxattr(target, name, &value[..length], XattrFlags::empty())
        {
            tracing::debug!(?name, path = %target.display(), %error, "an extended attribute was not copied");
        }
    }
}
