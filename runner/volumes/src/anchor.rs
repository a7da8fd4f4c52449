//! A sandbox's own mount of a volume, or of a part of one, that can be healed under its running container.
//!
//! The container's mount is a slave of the anchor's (mount_namespaces(7)): what is mounted on the anchor, or taken away from it, is in the container too. An anchor is in a peer
//! group of its own, so that it can be healed alone, and is made before its container starts, which is the only time when the container takes over what it sees.
//!
//! A container can never be rid of the mount that it began with, because nothing of ours is below that. So the first, dead one stays as the ground on which the live one is
//! mounted; when that dies too, it is taken off the ground before the next is put there. Two layers, however often it happens.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::mounts::{layers, mountinfo};

/// Held while anchors are changed, which asks no volume anything and so takes no time. What was found out about an anchor before may have changed since.
static CHANGING: Mutex<()> = Mutex::new(());

/// Makes an anchor at `at` that shows the directory `source`, in place of whatever is there. No container may have it.
pub(crate) fn set(source: &File, at: &Path) -> io::Result<()> {
    let _alone = CHANGING.lock().unwrap_or_else(PoisonError::into_inner);
    // First: a directory below a dead mount cannot be looked at.
    take_away(at)?;
    std::fs::create_dir_all(at)?;
    bind(source, at)?;
    for own in [MsFlags::MS_PRIVATE, MsFlags::MS_SHARED] {
        mount(None::<&str>, at, None::<&str>, own, None::<&str>)?;
    }
    Ok(())
}

/// Shows `source` on an anchor of which the file system with the number `dead` is seen; false if that is not so any more.
pub(crate) fn renew(source: &File, at: &Path, dead: &str) -> io::Result<bool> {
    let _alone = CHANGING.lock().unwrap_or_else(PoisonError::into_inner);
    let found = layers(&mountinfo(), at);
    if found.last().is_none_or(|seen| seen != dead) {
        return Ok(false);
    }
    if found.len() > 1 {
        umount2(at, MntFlags::MNT_DETACH)?;
    }
    bind(source, at).map(|()| true)
}

/// Removes an anchor; what it showed is left alone.
pub(crate) fn remove(at: &Path) -> io::Result<()> {
    let _alone = CHANGING.lock().unwrap_or_else(PoisonError::into_inner);
    take_away(at)?;
    // Not recursive: if the unmounting failed, the volume's data is below.
    std::fs::remove_dir(at)
}

fn take_away(at: &Path) -> io::Result<()> {
    for _ in layers(&mountinfo(), at) {
        umount2(at, MntFlags::MNT_DETACH)?;
    }
    Ok(())
}

/// Binds the opened directory itself: its path may lead elsewhere by now.
fn bind(source: &File, at: &Path) -> io::Result<()> {
    let opened = PathBuf::from(format!("/proc/self/fd/{}", source.as_raw_fd()));
    Ok(mount(Some(&opened), at, None::<&str>, MsFlags::MS_BIND | MsFlags::MS_REC, None::<&str>)?)
}
