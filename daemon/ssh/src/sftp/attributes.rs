//! File attributes: as the protocol writes them, as they are set, and as `ls -l` shows them.

use std::collections::HashMap;
use std::fs::{File, Metadata};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::fcntl::{AT_FDCWD, AtFlags};
use nix::sys::stat::{FchmodatFlags, Mode, UtimensatFlags, fchmod, fchmodat, futimens, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, fchown, fchownat, ftruncate, truncate};
use pinfold_spawn::users;

use crate::sftp::protocol::Failure;
use crate::wire::{Reader, Truncated, Writer};

const SIZE: u32 = 1;
const OWNER: u32 = 2;
const PERMISSIONS: u32 = 4;
const TIMES: u32 = 8;
const EXTENDED: u32 = 0x8000_0000;

/// The attributes in a request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Attributes {
    size: Option<u64>,
    owner: Option<(u32, u32)>,
    permissions: Option<u32>,
    times: Option<(u32, u32)>,
}

impl Attributes {
    pub(super) fn parse(packet: &mut Reader) -> Result<Self, Truncated> {
        let flags = packet.u32()?;
        let mut attributes = Self::default();
        if flags & SIZE != 0 {
            attributes.size = Some(packet.u64()?);
        }
        if flags & OWNER != 0 {
            attributes.owner = Some((packet.u32()?, packet.u32()?));
        }
        if flags & PERMISSIONS != 0 {
            attributes.permissions = Some(packet.u32()?);
        }
        if flags & TIMES != 0 {
            attributes.times = Some((packet.u32()?, packet.u32()?));
        }
        if flags & EXTENDED != 0 {
            for _ in 0..packet.u32()? {
                packet.string()?;
                packet.string()?;
            }
        }
        Ok(attributes)
    }

    /// Permission bits for something new.
    pub(super) fn mode_or(&self, default: u32) -> u32 {
        self.permissions.unwrap_or(default) & 0o7777
    }

    fn mode(&self) -> Option<Mode> {
        self.permissions.map(|bits| Mode::from_bits_truncate(bits & 0o7777))
    }

    fn timestamps(&self) -> Option<(TimeSpec, TimeSpec)> {
        self.times.map(|(accessed, modified)| {
            (TimeSpec::new(accessed.into(), 0), TimeSpec::new(modified.into(), 0))
        })
    }

    /// Sets them on what `path` names, or on the link itself. The order lets a change of owner not undo one of mode.
    pub(super) fn set(&self, path: &Path, follow: bool) -> Result<(), Failure> {
        if let Some(size) = self.size {
            if !follow {
                return Err(Failure::Unsupported);
            }
            truncate(path, i64::try_from(size).unwrap_or(i64::MAX))?;
        }
        if let Some((uid, gid)) = self.owner {
            let flags = if follow { AtFlags::empty() } else { AtFlags::AT_SYMLINK_NOFOLLOW };
            fchownat(AT_FDCWD, path, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)), flags)?;
        }
        if let Some(mode) = self.mode() {
            // Links have no mode of their own on Linux; the system says so where it matters.
            let flags = if follow { FchmodatFlags::FollowSymlink } else { FchmodatFlags::NoFollowSymlink };
            fchmodat(AT_FDCWD, path, mode, flags)?;
        }
        if let Some((accessed, modified)) = self.timestamps() {
            let flags = if follow { UtimensatFlags::FollowSymlink } else { UtimensatFlags::NoFollowSymlink };
            utimensat(AT_FDCWD, path, &accessed, &modified, flags)?;
        }
        Ok(())
    }

    /// Sets them on an open file.
    pub(super) fn set_open(&self, file: &File) -> Result<(), Failure> {
        if let Some(size) = self.size {
            ftruncate(file, i64::try_from(size).unwrap_or(i64::MAX))?;
        }
        if let Some((uid, gid)) = self.owner {
            fchown(file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
        }
        if let Some(mode) = self.mode() {
            fchmod(file, mode)?;
        }
        if let Some((accessed, modified)) = self.timestamps() {
            futimens(file.as_fd(), &accessed, &modified)?;
        }
        Ok(())
    }
}

/// Appends a file's attributes.
pub(super) fn write(writer: Writer, metadata: &Metadata) -> Writer {
    writer
        .u32(SIZE | OWNER | PERMISSIONS | TIMES)
        .u64(metadata.size())
        .u32(metadata.uid())
        .u32(metadata.gid())
        .u32(metadata.mode())
        .u32(seconds(metadata.atime()))
        .u32(seconds(metadata.mtime()))
}

/// The protocol's times end in 2106 and begin in 1970.
fn seconds(time: i64) -> u32 {
    u32::try_from(time.max(0)).unwrap_or(u32::MAX)
}

/// Names of users and groups, looked up once each.
#[derive(Debug, Default)]
pub(super) struct Owners {
    users: HashMap<u32, String>,
    groups: HashMap<u32, String>,
}

/// More different owners than this are not remembered.
const MAX_REMEMBERED: usize = 4096;

impl Owners {
    pub(super) fn user(&mut self, uid: u32) -> &str {
        remembered(&mut self.users, uid, |uid| users::by_uid(uid).map(|user| user.name))
    }

    pub(super) fn group(&mut self, gid: u32) -> &str {
        remembered(&mut self.groups, gid, users::group_name)
    }

    /// A line as `ls -l` writes it, which is what clients show.
    pub(super) fn long_name(&mut self, name: &[u8], metadata: &Metadata) -> Vec<u8> {
        let (user, group) = (self.user(metadata.uid()).to_owned(), self.group(metadata.gid()).to_owned());
        let mut line = format!(
            "{} {:>4} {user:<8} {group:<8} {:>8} {} ",
            mode_string(metadata.mode()),
            metadata.nlink(),
            metadata.size(),
            date(metadata.mtime()),
        )
        .into_bytes();
        line.extend_from_slice(name);
        line
    }
}

fn remembered(names: &mut HashMap<u32, String>, id: u32, find: impl FnOnce(u32) -> Option<String>) -> &str {
    if names.len() >= MAX_REMEMBERED {
        names.clear();
    }
    names.entry(id).or_insert_with(|| find(id).unwrap_or_else(|| id.to_string()))
}

/// The hour for what is less than half a year away, the year for the rest.
fn date(time: i64) -> String {
    const HALF_A_YEAR: i64 = 182 * 86_400;
    let Ok(at) = jiff::Timestamp::from_second(time) else { return "?".to_owned() };
    let near = (jiff::Timestamp::now().as_second() - time).abs() < HALF_A_YEAR;
    at.strftime(if near { "%b %e %H:%M" } else { "%b %e  %Y" }).to_string()
}

fn mode_string(mode: u32) -> String {
    let kind = match mode & 0o170_000 {
        0o040_000 => 'd',
        0o120_000 => 'l',
        0o060_000 => 'b',
        0o020_000 => 'c',
        0o010_000 => 'p',
        0o140_000 => 's',
        _ => '-',
    };
    let mut text = String::with_capacity(10);
    text.push(kind);
    for (shift, special, letter) in [(6, 0o4000, 's'), (3, 0o2000, 's'), (0, 0o1000, 't')] {
        let bits = mode >> shift;
        text.push(if bits & 4 != 0 { 'r' } else { '-' });
        text.push(if bits & 2 != 0 { 'w' } else { '-' });
        text.push(match (bits & 1 != 0, mode & special != 0) {
            (true, true) => letter,
            (false, true) => letter.to_ascii_uppercase(),
            (true, false) => 'x',
            (false, false) => '-',
        });
    }
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_bytes_parse_without_panic(bytes: Vec<u8>) {
            let _ = Attributes::parse(&mut Reader::new(bytes.into()));
        }
    }

    #[test]
    fn shows_modes_as_ls_does() {
        for (mode, text) in [
            (0o100_644, "-rw-r--r--"),
            (0o041_777, "drwxrwxrwt"),
            (0o104_755, "-rwsr-xr-x"),
            (0o120_777, "lrwxrwxrwx"),
        ] {
            assert_eq!(mode_string(mode), text);
        }
    }

    #[test]
    fn reads_what_clients_send() {
        let message = Writer::default()
            .u32(SIZE | PERMISSIONS | TIMES | EXTENDED)
            .u64(5)
            .u32(0o100_600)
            .u32(1)
            .u32(2)
            .u32(1);
        let mut reader = Reader::new(message.string("a").string("b").finish());
        let attributes = Attributes::parse(&mut reader).unwrap();
        assert_eq!(
            (attributes.size, attributes.mode_or(0), attributes.times),
            (Some(5), 0o600, Some((1, 2)))
        );
        assert!(reader.is_empty());
    }
}
