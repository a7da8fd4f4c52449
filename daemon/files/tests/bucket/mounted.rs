//! A bucket mounted as Mountpoint for S3 mounts one: FUSE that neither renames nor changes modes, owners or times, that lets an object be written anew
//! only if it is emptied by the opening, and that tells at the closing whether it has arrived. In memory, as far as the tests go.
//!
//! The protocol is that of `linux/fuse.h`.

#![allow(unreachable_pub)]
#![allow(clippy::cast_possible_truncation, reason = "offsets in files of some bytes")]

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};
use std::path::PathBuf;

use nix::errno::Errno;
use nix::libc::{O_ACCMODE, O_RDONLY, O_TRUNC};
use pinfold_testing::Fuse;

const ROOT: u64 = 1;
/// Objects of this name do not arrive.
pub const LOST: &str = "lost";
const MAX_WRITE: u32 = 128 << 10;
/// `FUSE_ATOMIC_O_TRUNC`: what an opening empties it is told of.
const ATOMIC_TRUNCATION: u32 = 1 << 3;
const IN_HEADER: usize = 40;

/// A bucket, mounted until it is dropped.
pub struct Bucket(Fuse);

impl Bucket {
    /// An empty one. Mounting takes root.
    pub fn mount() -> Self {
        let (mounted, device) = Fuse::mount("bucket");
        std::thread::spawn(move || Server { device, nodes: BTreeMap::new(), last: ROOT }.serve());
        Self(mounted)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
}

struct Node {
    parent: u64,
    name: String,
    /// A directory has none.
    content: Option<Vec<u8>>,
}

struct Server {
    device: File,
    nodes: BTreeMap<u64, Node>,
    last: u64,
}

impl Server {
    fn serve(mut self) {
        let mut buffer = vec![0; MAX_WRITE as usize + 8192];
        // An error is the end of the mount.
        while let Ok(length) = self.device.read(&mut buffer) {
            let (header, body) = buffer[..length].split_at(IN_HEADER);
            let (code, unique, node) = (u32_at(header, 4), &header[8..16], u64_at(header, 16));
            if [2, 36, 42].contains(&code) {
                continue; // FORGET, INTERRUPT, BATCH_FORGET: nobody waits
            }
            let (error, answer) = match self.perform(code, node, body) {
                Ok(answer) => (0, answer),
                Err(error) => (-(error as i32), Vec::new()),
            };
            let mut out = u32::try_from(answer.len() + 16).unwrap().to_le_bytes().to_vec();
            out.extend(error.to_le_bytes());
            out.extend(unique);
            out.extend(answer);
            // Who asked may be gone.
            let _ = self.device.write(&out);
        }
    }

    fn perform(&mut self, code: u32, node: u64, body: &[u8]) -> Result<Vec<u8>, Errno> {
        match code {
            1 => self.find(node, name(body)).map(|found| self.entry(found)).ok_or(Errno::ENOENT),
            3 => Ok([vec![0; 16], self.attributes(node)].concat()),
            4 => Err(Errno::EPERM),
            9 => Ok(self.make(node, name(&body[8..]), None)),
            10 | 11 => self.remove(node, name(body)),
            14 => self.open(node, u32_at(body, 0).cast_signed()),
            15 => {
                let (from, size) = (u64_at(body, 8) as usize, u32_at(body, 16) as usize);
                let content = self.content(node)?;
                Ok(content[from.min(content.len())..(from + size).min(content.len())].to_vec())
            }
            16 => {
                let (from, size) = (u64_at(body, 8) as usize, u32_at(body, 16));
                let content = self.content(node)?;
                if from != content.len() {
                    return Err(Errno::EINVAL); // objects are written from the beginning to the end
                }
                content.extend(&body[40..]);
                Ok([size.to_le_bytes(), [0; 4]].concat())
            }
            17 => Ok(vec![0; 80]),
            25 if self.nodes.get(&node).is_some_and(|node| node.name == LOST) => Err(Errno::EIO),
            18 | 25 | 29 | 38 => Ok(Vec::new()),
            26 => {
                let words = [7, 31, MAX_WRITE, ATOMIC_TRUNCATION, 0, MAX_WRITE];
                Ok([words.map(u32::to_le_bytes).concat(), vec![0; 40]].concat())
            }
            27 => Ok(vec![0; 16]),
            28 => Ok(self.list(node, u64_at(body, 8))),
            35 => {
                let made = self.make(node, name(&body[16..]), Some(Vec::new()));
                Ok([made, vec![0; 16]].concat())
            }
            // Renames among them.
            _ => Err(Errno::ENOSYS),
        }
    }

    fn find(&self, parent: u64, name: &str) -> Option<u64> {
        let mut nodes = self.nodes.iter();
        nodes.find(|(_, node)| node.parent == parent && node.name == name).map(|(number, _)| *number)
    }

    fn content(&mut self, node: u64) -> Result<&mut Vec<u8>, Errno> {
        self.nodes.get_mut(&node).and_then(|node| node.content.as_mut()).ok_or(Errno::EISDIR)
    }

    fn make(&mut self, parent: u64, name: &str, content: Option<Vec<u8>>) -> Vec<u8> {
        self.last += 1;
        self.nodes.insert(self.last, Node { parent, name: name.to_owned(), content });
        self.entry(self.last)
    }

    fn remove(&mut self, parent: u64, name: &str) -> Result<Vec<u8>, Errno> {
        let found = self.find(parent, name).ok_or(Errno::ENOENT)?;
        if self.nodes.values().any(|node| node.parent == found) {
            return Err(Errno::ENOTEMPTY);
        }
        self.nodes.remove(&found);
        Ok(Vec::new())
    }

    fn open(&mut self, node: u64, flags: i32) -> Result<Vec<u8>, Errno> {
        if flags & O_ACCMODE != O_RDONLY {
            if flags & O_TRUNC == 0 {
                return Err(Errno::EPERM);
            }
            self.content(node)?.clear();
        }
        Ok(vec![0; 16])
    }

    fn list(&self, parent: u64, after: u64) -> Vec<u8> {
        let mut list = Vec::new();
        for (number, node) in self.nodes.range(after + 1..).filter(|(_, node)| node.parent == parent) {
            list.extend([number.to_le_bytes(), number.to_le_bytes()].concat());
            list.extend(u32::try_from(node.name.len()).unwrap().to_le_bytes());
            list.extend([0; 4]);
            list.extend(node.name.as_bytes());
            list.resize(list.len().next_multiple_of(8), 0);
        }
        list
    }

    fn entry(&self, node: u64) -> Vec<u8> {
        [node.to_le_bytes().to_vec(), vec![0; 32], self.attributes(node)].concat()
    }

    fn attributes(&self, node: u64) -> Vec<u8> {
        let content = self.nodes.get(&node).and_then(|node| node.content.as_ref());
        let size = content.map_or(0, Vec::len) as u64;
        let mode: u32 = if content.is_some() { 0o100_644 } else { 0o40_755 };
        let numbers = [node, size, 0, 0, 0, 0].map(u64::to_le_bytes).concat();
        // Nanoseconds, mode, links, owner and group, device, block size, flags.
        let rest = [0, 0, 0, mode, 1, 0, 0, 0, 4096, 0].map(u32::to_le_bytes).concat();
        [numbers, rest].concat()
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

fn name(bytes: &[u8]) -> &str {
    std::ffi::CStr::from_bytes_until_nul(bytes).unwrap().to_str().unwrap()
}
