//! A file system that hangs: FUSE whose server never says a word.

use std::path::Path;
use std::sync::mpsc::{Sender, channel};

use crate::DEADLINE;
use crate::fuse::{Fuse, abort};

/// A directory on which whoever looks at it hangs, until this is dropped, or a test takes too long: it shall fail then, and not hang.
#[derive(Debug)]
pub struct Hung {
    mounted: Fuse,
    _server: Sender<()>,
}

impl Hung {
    /// Mounts it, which takes root.
    pub fn mount() -> Self {
        let (mounted, device) = Fuse::mount("hung");
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
