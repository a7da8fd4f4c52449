//! A file system that hangs: FUSE whose server never says a word.

use std::fs::OpenOptions;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::mpsc::{Sender, channel};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use tempfile::TempDir;

use crate::DEADLINE;

/// A directory on which whoever looks at it hangs, until this is dropped, or a test takes too long: it shall fail then, and not hang.
#[derive(Debug)]
pub struct Hung {
    mounted: TempDir,
    _server: Sender<()>,
}

impl Hung {
    /// Mounts it, which takes root.
    pub fn mount() -> Self {
        let mounted = tempfile::tempdir().unwrap();
        let device = OpenOptions::new().read(true).write(true).open("/dev/fuse").unwrap();
        let options = format!("fd={},rootmode=40000,user_id=0,group_id=0", device.as_raw_fd());
        let flags = MsFlags::empty();
        mount(Some("hung"), mounted.path(), Some("fuse"), flags, Some(options.as_str())).unwrap();
        let (server, dropped) = channel();
        let path = mounted.path().to_owned();
        std::thread::spawn(move || {
            if dropped.recv_timeout(DEADLINE).is_err() {
                abort(&path);
            }
            drop(device);
        });
        Self { mounted, _server: server }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.mounted.path()
    }
}

impl Drop for Hung {
    fn drop(&mut self) {
        abort(self.mounted.path());
    }
}

/// Who waits gets an error, and the mount is gone.
fn abort(path: &Path) {
    let _ = umount2(path, MntFlags::MNT_FORCE);
    let _ = umount2(path, MntFlags::MNT_DETACH);
}
