//! What a session has open.

use std::collections::HashMap;
use std::fs::{File, ReadDir};
use std::path::PathBuf;

use crate::sftp::protocol::Failure;
use crate::wire::Reader;

/// The most that one session may have open.
pub(super) const MAX_HANDLES: usize = 1000;

/// An open file or directory.
#[derive(Debug)]
pub(super) enum Open {
    File(File),
    Directory { path: PathBuf, entries: ReadDir, dots: bool },
}

/// A session's open files and directories.
#[derive(Debug, Default)]
pub(super) struct Handles {
    next: u32,
    open: HashMap<u32, Open>,
}

impl Handles {
    pub(super) fn add(&mut self, open: Open) -> Result<u32, Failure> {
        if self.open.len() >= MAX_HANDLES {
            return Err(Failure::TooManyHandles);
        }
        while self.open.contains_key(&self.next) {
            self.next = self.next.wrapping_add(1);
        }
        let handle = self.next;
        self.next = self.next.wrapping_add(1);
        self.open.insert(handle, open);
        Ok(handle)
    }

    pub(super) fn remove(&mut self, packet: &mut Reader) -> Result<Open, Failure> {
        let handle = parse(packet)?;
        self.open.remove(&handle).ok_or(Failure::NoSuchHandle)
    }

    pub(super) fn get(&mut self, packet: &mut Reader) -> Result<&mut Open, Failure> {
        let handle = parse(packet)?;
        self.open.get_mut(&handle).ok_or(Failure::NoSuchHandle)
    }

    pub(super) fn file(&mut self, packet: &mut Reader) -> Result<&File, Failure> {
        match self.get(packet)? {
            Open::File(file) => Ok(file),
            Open::Directory { .. } => Err(Failure::NoSuchHandle),
        }
    }
}

fn parse(packet: &mut Reader) -> Result<u32, Failure> {
    let bytes = packet.string()?;
    <[u8; 4]>::try_from(&bytes[..]).map(u32::from_be_bytes).map_err(|_| Failure::NoSuchHandle)
}
