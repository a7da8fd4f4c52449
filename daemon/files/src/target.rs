//! Where uploaded or rewritten content goes.
//!
//! A regular file on a local file system is replaced as a whole: content is written to a temporary neighbour that takes over mode, owner and extended
//! attributes and is then renamed, so that readers see the old file or the new one, and a crash leaves one of them. Content is written in place
//! where a rename would change more than the content or is not cheap: files with several names, mount points, directories we may not write
//! to, and network or FUSE file systems. Links are followed and stay links. Special files are refused.

use std::fs::{File, Metadata, OpenOptions, Permissions};
use std::io::{self, Seek, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use rustix::fs::{Access, AtFlags, CWD, OFlags};
use rustix::io::Errno;
use tempfile::{NamedTempFile, TempPath};

use crate::copy;

/// Magic numbers (statfs(2)) of file systems on which renaming is no cheap, atomic exchange.
const REMOTE: [i64; 6] = [
    0x6573_5546, // FUSE
    0x6969,      // NFS
    0x0102_1997, // 9P
    0xff53_4d42, // CIFS
    0xfe53_4d42, // SMB2
    0x0bd0_0bd0, // Lustre
];

/// A file being written. Dropped unfinished, it leaves no temporary file behind.
#[derive(Debug)]
pub(crate) struct Target {
    file: File,
    /// The temporary neighbour and the name it will get; `None` when writing in place.
    replacing: Option<(TempPath, PathBuf)>,
}

impl Target {
    /// Opens `path` for new content. The directory must exist.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        match std::fs::symlink_metadata(path) {
            Ok(metadata) if metadata.is_symlink() => match path.canonicalize() {
                Ok(real) => Self::existing(&real, &std::fs::metadata(&real)?),
                Err(_) => Self::in_place(path),
            },
            Ok(metadata) => Self::existing(path, &metadata),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Self::new(path),
            Err(error) => Err(error),
        }
    }

    /// Like [`Target::open`], but `None` (and nothing changed) if content would be written in place.
    pub(crate) fn open_atomic(path: &Path) -> io::Result<Option<Self>> {
        let real = path.canonicalize()?;
        Self::beside_existing(&real, &std::fs::metadata(&real)?)
    }

    /// Ends writing: only after this is the content there.
    pub(crate) fn finish(self) -> io::Result<()> {
        let Some((temporary, path)) = self.replacing else { return close(self.file) };
        close(self.file)?;
        match temporary.persist(&path) {
            Ok(()) => Ok(()),
            // A mount point, or somebody else's file in a sticky directory: not to be renamed over, but perhaps to be written.
            Err(failure) => copy_into(&failure.path, &path).map_err(|_| failure.error),
        }
    }

    fn new(path: &Path) -> io::Result<Self> {
        match beside(path, 0o666) {
            Some(temporary) => Ok(Self::replacing(temporary, path)),
            None => Self::in_place(path),
        }
    }

    fn existing(path: &Path, metadata: &Metadata) -> io::Result<Self> {
        match Self::beside_existing(path, metadata)? {
            Some(target) => Ok(target),
            None => Self::in_place(path),
        }
    }

    /// A replacement for the file at `path`, if replacing it is a good idea and possible.
    fn beside_existing(path: &Path, metadata: &Metadata) -> io::Result<Option<Self>> {
        if metadata.is_dir() {
            return Err(Errno::ISDIR.into());
        }
        if !metadata.is_file() {
            return Err(special());
        }
        if metadata.nlink() != 1
            || rustix::fs::accessat(CWD, path, Access::WRITE_OK, AtFlags::EACCESS).is_err()
        {
            return Ok(None);
        }
        let Some(temporary) = beside(path, 0o600) else { return Ok(None) };
        let taken = take_after(&temporary, path, metadata);
        Ok(taken.is_ok().then(|| Self::replacing(temporary, path)))
    }

    fn replacing(temporary: NamedTempFile, path: &Path) -> Self {
        let (file, temporary) = temporary.into_parts();
        Self { file, replacing: Some((temporary, path.to_owned())) }
    }

    fn in_place(path: &Path) -> io::Result<Self> {
        Ok(Self { file: truncated(path)?, replacing: None })
    }
}

impl Write for Target {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.file.write(data)
    }

    fn write_vectored(&mut self, bufs: &[io::IoSlice<'_>]) -> io::Result<usize> {
        self.file.write_vectored(bufs)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn special() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, "not a regular file")
}

/// Opens and empties `path`, following links and creating it if it is not there. Never waits for a FIFO's reader, and does nothing to what is special.
///
/// Emptied by opening: a bucket (Mountpoint for S3) lets a file be written anew only if that is said there and then.
fn truncated(path: &Path) -> io::Result<File> {
    let flags = (OFlags::NONBLOCK | OFlags::NOCTTY).bits().cast_signed();
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o666)
        .custom_flags(flags)
        .open(path)?;
    if !file.metadata()?.is_file() {
        return Err(special());
    }
    Ok(file)
}

/// A temporary file in the directory of `path`, if that is a good idea and possible.
fn beside(path: &Path, mode: u32) -> Option<NamedTempFile> {
    let directory = path.parent().filter(|p| !p.as_os_str().is_empty())?;
    path.file_name()?;
    if path.as_os_str().as_encoded_bytes().ends_with(b"/") {
        return None;
    }
    if is_remote(directory).ok()? {
        return None;
    }
    let mut builder = tempfile::Builder::new();
    builder
        .prefix(".pinfold-")
        .suffix(".tmp")
        .permissions(Permissions::from_mode(mode))
        .tempfile_in(directory)
        .ok()
}

/// Whether the file system of `directory` is one on which a rename is no cheap, atomic exchange, if there is one at all.
pub(crate) fn is_remote(directory: &Path) -> io::Result<bool> {
    let kind = rustix::fs::statfs(directory)?.f_type;
    #[allow(clippy::useless_conversion, reason = "the type differs between architectures")]
    Ok(REMOTE.contains(&i64::from(kind)))
}

/// Gives the temporary file the owner, mode and extended attributes of the file it will replace.
fn take_after(temporary: &NamedTempFile, path: &Path, metadata: &Metadata) -> io::Result<()> {
    let own = temporary.as_file().metadata()?;
    if (own.uid(), own.gid()) != (metadata.uid(), metadata.gid()) {
        fchown(temporary.as_file(), Some(metadata.uid()), Some(metadata.gid()))?;
    }
    temporary.as_file().set_permissions(Permissions::from_mode(metadata.mode() & 0o7777))?;
    copy::xattrs(path, temporary.path());
    Ok(())
}

fn copy_into(temporary: &Path, path: &Path) -> io::Result<()> {
    let mut content = File::open(temporary)?;
    let mut file = truncated(path)?;
    content.rewind()?;
    io::copy(&mut content, &mut file)?;
    close(file)
}

/// Closes and says whether that worked: network file systems report failed writes here.
pub(crate) fn close(file: File) -> io::Result<()> {
    Ok(nix::unistd::close(file)?)
}
