//! Requests about open files and directories.

use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, OpenOptionsExt};

use nix::fcntl::OFlag;

use crate::sftp::Server;
use crate::sftp::attributes::{self, Attributes};
use crate::sftp::handles::Open;
use crate::sftp::protocol::{self, ATTRS, DATA, Failure, MAX_DATA, NAME, Reply};
use crate::wire::{Reader, Writer};

const READ: u32 = 1;
const WRITE: u32 = 2;
const APPEND: u32 = 4;
const CREATE: u32 = 8;
const TRUNCATE: u32 = 0x10;
const EXCLUSIVE: u32 = 0x20;

/// A directory answer ends with the entry that passes this size.
const NAMES_BYTES: usize = 64 << 10;

impl Server {
    pub(super) fn open(&mut self, id: u32, mut packet: Reader) -> Result<Reply, Failure> {
        let path = self.path(&mut packet)?;
        let flags = packet.u32()?;
        let attributes = Attributes::parse(&mut packet)?;
        let write = flags & (WRITE | APPEND) != 0;
        let mut options = OpenOptions::new();
        options.read(flags & READ != 0 || !write).write(flags & WRITE != 0).append(flags & APPEND != 0);
        if write {
            options.create(flags & CREATE != 0).create_new(flags & CREATE != 0 && flags & EXCLUSIVE != 0);
            options.truncate(flags & TRUNCATE != 0 && flags & APPEND == 0);
        }
        // A FIFO nobody serves must not stop the session.
        let custom = OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
        let file = options.mode(attributes.mode_or(0o666)).custom_flags(custom.bits()).open(path)?;
        if flags & APPEND != 0 && flags & TRUNCATE != 0 {
            file.set_len(0)?;
        }
        Ok(protocol::handle(id, self.handles.add(Open::File(file))?))
    }

    pub(super) fn close(&mut self, id: u32, mut packet: Reader) -> Result<Reply, Failure> {
        self.handles.remove(&mut packet)?;
        Ok(protocol::ok(id))
    }

    pub(super) fn read(&mut self, id: u32, mut packet: Reader) -> Result<Reply, Failure> {
        let file = self.handles.file(&mut packet)?;
        let (offset, length) = (packet.u64()?, packet.u32()?.min(MAX_DATA));
        let mut data = vec![0; length as usize];
        let read = read_full(file, &mut data, offset)?;
        if read == 0 && length > 0 {
            return Err(Failure::Eof);
        }
        Ok(Reply::new(DATA, id, 4 + read).with(|w| w.string(&data[..read])))
    }

    pub(super) fn write(&mut self, id: u32, mut packet: Reader) -> Result<Reply, Failure> {
        let file = self.handles.file(&mut packet)?;
        let (offset, data) = (packet.u64()?, packet.string()?);
        file.write_all_at(&data, offset)?;
        Ok(protocol::ok(id))
    }

    pub(super) fn fstat(&mut self, id: u32, mut packet: Reader) -> Result<Reply, Failure> {
        let metadata = match self.handles.get(&mut packet)? {
            Open::File(file) => file.metadata()?,
            Open::Directory { path, .. } => std::fs::metadata(path)?,
        };
        Ok(attributes_reply(id, &metadata))
    }

    pub(super) fn fsetstat(&mut self, id: u32, mut packet: Reader) -> Result<Reply, Failure> {
        let open = self.handles.get(&mut packet)?;
        let attributes = Attributes::parse(&mut packet)?;
        match open {
            Open::File(file) => attributes.set_open(file)?,
            Open::Directory { path, .. } => attributes.set(path, true)?,
        }
        Ok(protocol::ok(id))
    }

    pub(super) fn opendir(&mut self, id: u32, mut packet: Reader) -> Result<Reply, Failure> {
        let path = self.path(&mut packet)?;
        let entries = std::fs::read_dir(&path)?;
        Ok(protocol::handle(id, self.handles.add(Open::Directory { path, entries, dots: false })?))
    }

    pub(super) fn readdir(&mut self, id: u32, mut packet: Reader) -> Result<Reply, Failure> {
        let Self { handles, names, .. } = self;
        let Open::Directory { path, entries, dots } = handles.get(&mut packet)? else {
            return Err(Failure::NoSuchHandle);
        };
        let (mut count, mut list) = (0u32, Vec::new());
        let mut add = |name: &[u8], metadata: &Metadata| {
            let entry = Writer::with_capacity(256).string(name).string(names.long_name(name, metadata));
            list.extend_from_slice(&attributes::write(entry, metadata).into_vec());
            count += 1;
            list.len() < NAMES_BYTES
        };
        // The system leaves these out, and clients such as sshfs expect them.
        if !std::mem::replace(dots, true) {
            for name in [".", ".."] {
                if let Ok(metadata) = std::fs::metadata(path.join(name)) {
                    add(name.as_bytes(), &metadata);
                }
            }
        }
        for entry in entries {
            let entry = entry?;
            // Gone since it was listed.
            let Ok(metadata) = entry.metadata() else { continue };
            if !add(entry.file_name().as_bytes(), &metadata) {
                break;
            }
        }
        if count == 0 {
            return Err(Failure::Eof);
        }
        Ok(Reply::new(NAME, id, 4 + list.len()).with(|w| w.u32(count).raw(list)))
    }
}

pub(super) fn attributes_reply(id: u32, metadata: &Metadata) -> Reply {
    Reply::new(ATTRS, id, 32).with(|w| attributes::write(w, metadata))
}

/// Reads until the buffer is full or the file ends: clients take a short answer for the end, or ask again at the price of a round trip.
fn read_full(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut read = 0;
    while read < buffer.len() {
        match file.read_at(&mut buffer[read..], offset + read as u64) {
            Ok(0) => break,
            Ok(n) => read += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) if read > 0 => break,
            Err(error) => return Err(error),
        }
    }
    Ok(read)
}
