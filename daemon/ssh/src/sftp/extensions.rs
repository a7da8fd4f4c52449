//! What OpenSSH added to the protocol (its PROTOCOL document, section 4).

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;

use nix::sys::statvfs::{FsFlags, Statvfs, fstatvfs, statvfs};
use pinfold_spawn::users;

use crate::sftp::Server;
use crate::sftp::attributes::Attributes;
use crate::sftp::handles::{MAX_HANDLES, Open};
use crate::sftp::names::{name_reply, real};
use crate::sftp::protocol::{self, Failure, MAX_DATA, MAX_PACKET, Reply};
use crate::wire::{Reader, Writer};

/// What is offered, with versions.
pub(super) const ADVERTISED: &[(&str, &str)] = &[
    ("posix-rename@openssh.com", "1"),
    ("statvfs@openssh.com", "2"),
    ("fstatvfs@openssh.com", "2"),
    ("hardlink@openssh.com", "1"),
    ("fsync@openssh.com", "1"),
    ("lsetstat@openssh.com", "1"),
    ("limits@openssh.com", "1"),
    ("expand-path@openssh.com", "1"),
    ("copy-data", "1"),
    ("home-directory", "1"),
    ("users-groups-by-id@openssh.com", "1"),
];

/// Copied at a time.
const COPY_BUFFER: usize = 256 << 10;

impl Server {
    pub(super) fn extended(&mut self, id: u32, mut packet: Reader) -> Result<Reply, Failure> {
        match packet.text()?.as_str() {
            "posix-rename@openssh.com" => {
                let (from, to) = (self.path(&mut packet)?, self.path(&mut packet)?);
                std::fs::rename(from, to)?;
                Ok(protocol::ok(id))
            }
            "hardlink@openssh.com" => {
                let (from, to) = (self.path(&mut packet)?, self.path(&mut packet)?);
                std::fs::hard_link(from, to)?;
                Ok(protocol::ok(id))
            }
            "fsync@openssh.com" => {
                self.handles.file(&mut packet)?.sync_all()?;
                Ok(protocol::ok(id))
            }
            "lsetstat@openssh.com" => {
                let path = self.path(&mut packet)?;
                Attributes::parse(&mut packet)?.set(&path, false)?;
                Ok(protocol::ok(id))
            }
            "statvfs@openssh.com" => {
                let path = self.path(&mut packet)?;
                Ok(file_system(id, &statvfs(&path)?))
            }
            "fstatvfs@openssh.com" => {
                let figures = match self.handles.get(&mut packet)? {
                    Open::File(file) => fstatvfs(&*file)?,
                    Open::Directory { path, .. } => statvfs(path.as_path())?,
                };
                Ok(file_system(id, &figures))
            }
            "limits@openssh.com" => Ok(protocol::extended(id, |w| {
                w.u64(MAX_PACKET.into()).u64(MAX_DATA.into()).u64(MAX_DATA.into()).u64(MAX_HANDLES as u64)
            })),
            "expand-path@openssh.com" => {
                let path = packet.string()?;
                Ok(name_reply(id, &real(&self.expand(&path)?)?))
            }
            "home-directory" => {
                let name = packet.text()?;
                let home = if name.is_empty() { self.sandbox.home.to_path_buf() } else { home_of(&name)? };
                Ok(name_reply(id, &home))
            }
            "copy-data" => self.copy_data(id, packet),
            "users-groups-by-id@openssh.com" => self.owners(id, packet),
            _ => Err(Failure::Unsupported),
        }
    }

    /// `~` and `~user` at the start of a path.
    fn expand(&self, path: &[u8]) -> Result<PathBuf, Failure> {
        let Some(rest) = path.strip_prefix(b"~") else {
            return Ok(self.sandbox.resolve(OsStr::from_bytes(path)));
        };
        let split = rest.iter().position(|b| *b == b'/').unwrap_or(rest.len());
        let (user, below) = rest.split_at(split);
        let home = match user {
            b"" => self.sandbox.home.to_path_buf(),
            user => home_of(&String::from_utf8_lossy(user))?,
        };
        Ok(home.join(OsStr::from_bytes(below.strip_prefix(b"/").unwrap_or(below))))
    }

    fn copy_data(&mut self, id: u32, mut packet: Reader) -> Result<Reply, Failure> {
        let from = self.handles.file(&mut packet)?.try_clone()?;
        let (offset, length) = (packet.u64()?, packet.u64()?);
        let to = self.handles.file(&mut packet)?;
        copy(&from, offset, length, to, packet.u64()?)?;
        Ok(protocol::ok(id))
    }

    fn owners(&mut self, id: u32, mut packet: Reader) -> Result<Reply, Failure> {
        let (mut users, mut groups) = (Reader::new(packet.string()?), Reader::new(packet.string()?));
        let mut answer = (Writer::default(), Writer::default());
        while !users.is_empty() {
            answer.0 = answer.0.string(self.names.user(users.u32()?));
        }
        while !groups.is_empty() {
            answer.1 = answer.1.string(self.names.group(groups.u32()?));
        }
        let (users, groups) = (answer.0.into_vec(), answer.1.into_vec());
        if users.len() + groups.len() > MAX_DATA as usize {
            return Err(Failure::TooMuch);
        }
        Ok(protocol::extended(id, |w| w.string(users).string(groups)))
    }
}

/// Copies from one file into another; a length of 0 is all there is. Within one file, or from a device, that may never end.
fn copy(from: &File, mut offset: u64, length: u64, to: &File, mut target: u64) -> Result<(), Failure> {
    let (source, sink) = (from.metadata()?, to.metadata()?);
    let same = (source.dev(), source.ino()) == (sink.dev(), sink.ino());
    if same || !source.is_file() || !sink.is_file() {
        return Err(Failure::NotTwoFiles);
    }
    let mut left = if length == 0 { u64::MAX } else { length };
    let mut buffer = vec![0; COPY_BUFFER];
    while left > 0 {
        let part = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        let read = from.read_at(&mut buffer[..part], offset)?;
        if read == 0 {
            break;
        }
        to.write_all_at(&buffer[..read], target)?;
        offset += read as u64;
        target += read as u64;
        left -= read as u64;
    }
    Ok(())
}

fn home_of(user: &str) -> Result<PathBuf, Failure> {
    let missing = || io::Error::from_raw_os_error(nix::errno::Errno::ENOENT as i32);
    Ok(users::by_name(user).ok_or_else(missing)?.home)
}

/// Eleven figures; the two flags are read-only and no-setuid.
fn file_system(id: u32, figures: &Statvfs) -> Reply {
    let flags = u64::from(figures.flags().contains(FsFlags::ST_RDONLY))
        | u64::from(figures.flags().contains(FsFlags::ST_NOSUID)) << 1;
    protocol::extended(id, |w| {
        w.u64(figures.block_size())
            .u64(figures.fragment_size())
            .u64(figures.blocks())
            .u64(figures.blocks_free())
            .u64(figures.blocks_available())
            .u64(figures.files())
            .u64(figures.files_free())
            .u64(figures.files_available())
            .u64(figures.filesystem_id())
            .u64(flags)
            .u64(figures.name_max())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_end() {
        let directory = tempfile::tempdir().unwrap();
        let open = |name: &str| {
            let mut options = std::fs::OpenOptions::new();
            options
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .open(directory.path().join(name))
                .unwrap()
        };
        let (from, to) = (open("a"), open("b"));
        from.write_all_at(b"0123456789", 0).unwrap();
        copy(&from, 2, 3, &to, 1).unwrap();
        assert_eq!(std::fs::read(directory.path().join("b")).unwrap(), b"\x00234");
        copy(&from, 0, 0, &to, 0).unwrap();
        assert_eq!(std::fs::read(directory.path().join("b")).unwrap(), b"0123456789");
        // Each byte that is read makes one more to read.
        assert!(matches!(copy(&from, 0, 0, &open("a"), 1), Err(Failure::NotTwoFiles)));
        let endless = File::open("/dev/zero").unwrap();
        assert!(matches!(copy(&endless, 0, 0, &to, 0), Err(Failure::NotTwoFiles)));
    }
}
