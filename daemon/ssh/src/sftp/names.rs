//! Requests about names.

use std::ffi::OsStr;
use std::fs::{DirBuilder, symlink_metadata};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;

use crate::sftp::Server;
use crate::sftp::attributes::Attributes;
use crate::sftp::files::attributes_reply;
use crate::sftp::protocol::{self, Failure, NAME, Reply};
use crate::wire::Reader;

impl Server {
    /// The next field as a path; relative ones are below the work directory (toolbox contract 19.2), and the empty one is that directory.
    pub(super) fn path(&self, packet: &mut Reader) -> Result<PathBuf, Failure> {
        Ok(self.sandbox.resolve(OsStr::from_bytes(&packet.string()?)))
    }

    pub(super) fn stat(&mut self, id: u32, mut packet: Reader, follow: bool) -> Result<Reply, Failure> {
        let path = self.path(&mut packet)?;
        let metadata = if follow { std::fs::metadata(path)? } else { symlink_metadata(path)? };
        Ok(attributes_reply(id, &metadata))
    }

    pub(super) fn setstat(&mut self, id: u32, mut packet: Reader) -> Result<Reply, Failure> {
        let path = self.path(&mut packet)?;
        Attributes::parse(&mut packet)?.set(&path, true)?;
        Ok(protocol::ok(id))
    }

    pub(super) fn remove(&mut self, id: u32, mut packet: Reader) -> Result<Reply, Failure> {
        std::fs::remove_file(self.path(&mut packet)?)?;
        Ok(protocol::ok(id))
    }

    pub(super) fn mkdir(&mut self, id: u32, mut packet: Reader) -> Result<Reply, Failure> {
        let path = self.path(&mut packet)?;
        let attributes = Attributes::parse(&mut packet)?;
        DirBuilder::new().mode(attributes.mode_or(0o777)).create(path)?;
        Ok(protocol::ok(id))
    }

    pub(super) fn rmdir(&mut self, id: u32, mut packet: Reader) -> Result<Reply, Failure> {
        std::fs::remove_dir(self.path(&mut packet)?)?;
        Ok(protocol::ok(id))
    }

    pub(super) fn realpath(&mut self, id: u32, mut packet: Reader) -> Result<Reply, Failure> {
        let path = self.path(&mut packet)?;
        Ok(name_reply(id, &real(&path)?))
    }

    /// Renames only onto nothing, as version 3 of the protocol says; `posix-rename@openssh.com` replaces.
    pub(super) fn rename(&mut self, id: u32, mut packet: Reader) -> Result<Reply, Failure> {
        let (from, to) = (self.path(&mut packet)?, self.path(&mut packet)?);
        if symlink_metadata(&from)?.is_dir() {
            if symlink_metadata(&to).is_ok() {
                return Err(Failure::Exists);
            }
            std::fs::rename(from, to)?;
            return Ok(protocol::ok(id));
        }
        // A link fails if the target exists, which a rename would replace.
        match std::fs::hard_link(&from, &to) {
            Ok(()) => std::fs::remove_file(from)?,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Err(Failure::Exists),
            Err(error) if has_no_links(&error) => {
                if symlink_metadata(&to).is_ok() {
                    return Err(Failure::Exists);
                }
                std::fs::rename(from, to)?;
            }
            Err(error) => return Err(error.into()),
        }
        Ok(protocol::ok(id))
    }

    pub(super) fn readlink(&mut self, id: u32, mut packet: Reader) -> Result<Reply, Failure> {
        let target = std::fs::read_link(self.path(&mut packet)?)?;
        Ok(name_reply(id, &target))
    }

    /// The first field is what the link says and the second where it is: OpenSSH's order, and by now everybody's.
    pub(super) fn symlink(&mut self, id: u32, mut packet: Reader) -> Result<Reply, Failure> {
        let target = packet.string()?;
        std::os::unix::fs::symlink(OsStr::from_bytes(&target), self.path(&mut packet)?)?;
        Ok(protocol::ok(id))
    }
}

/// File systems without hard links say so in several ways.
fn has_no_links(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw);
    matches!(
        errno,
        Some(Errno::EOPNOTSUPP | Errno::ENOSYS | Errno::EXDEV | Errno::EMLINK | Errno::EPERM | Errno::EACCES)
    )
}

pub(super) fn name_reply(id: u32, path: &Path) -> Reply {
    let name = path.as_os_str().as_bytes();
    // No attributes: the answer is the name alone.
    Reply::new(NAME, id, 16 + 2 * name.len()).with(|w| w.u32(1).string(name).string(name).u32(0))
}

/// The canonical form of a path whose last components need not exist.
pub(super) fn real(path: &Path) -> io::Result<PathBuf> {
    let mut missing = Vec::new();
    let mut there = path;
    loop {
        match std::fs::canonicalize(there) {
            Ok(mut real) => {
                for component in missing.iter().rev() {
                    push_lexically(&mut real, component);
                }
                return Ok(real);
            }
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Err(error) => {
                let mut components = there.components();
                missing.push(components.next_back().ok_or(error)?);
                there = components.as_path();
            }
        }
    }
}

fn push_lexically(path: &mut PathBuf, component: &Component<'_>) {
    match component {
        Component::ParentDir => drop(path.pop()),
        Component::CurDir => {}
        other => path.push(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canonicalizes_what_exists_and_keeps_the_rest() {
        let directory = tempfile::tempdir().unwrap();
        let base = directory.path().canonicalize().unwrap();
        std::os::unix::fs::symlink(&base, base.join("link")).unwrap();
        assert_eq!(real(&base.join("link/new/x/../y")).unwrap(), base.join("new/y"));
        assert_eq!(real(&base.join("./link/.")).unwrap(), base);
        assert_eq!(real(Path::new("/")).unwrap(), Path::new("/"));
    }
}
