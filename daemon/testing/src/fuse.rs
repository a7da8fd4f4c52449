//! FUSE mounts that a test serves itself, or does not.

use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;
use std::path::Path;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use tempfile::TempDir;

/// A mount in a directory of its own, gone when this is dropped.
#[derive(Debug)]
pub struct Fuse(TempDir);

impl Fuse {
    /// Mounts it, which takes root. Requests are read from the file, and answers written to it.
    pub fn mount(name: &str) -> (Self, File) {
        let directory = tempfile::tempdir().unwrap();
        let device = OpenOptions::new().read(true).write(true).open("/dev/fuse").unwrap();
        let options = format!("fd={},rootmode=40000,user_id=0,group_id=0", device.as_raw_fd());
        let flags = MsFlags::empty();
        mount(Some(name), directory.path(), Some("fuse"), flags, Some(options.as_str())).unwrap();
        (Self(directory), device)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Fuse {
    fn drop(&mut self) {
        abort(self.path());
    }
}

/// Who waits gets an error, and the mount is gone.
pub(crate) fn abort(path: &Path) {
    let _ = umount2(path, MntFlags::MNT_FORCE);
    let _ = umount2(path, MntFlags::MNT_DETACH);
}
