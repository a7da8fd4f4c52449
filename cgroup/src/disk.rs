//! The space of the filesystem that holds a path.

use nix::sys::statvfs::statvfs;

use crate::files::{Cause, Missing};
use crate::{Kernel, Percent};

/// A filesystem's space in bytes, from statfs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Disk {
    /// Its size. More than `used + available` where blocks are reserved for root.
    pub total: u64,
    /// Occupied.
    pub used: u64,
    /// Free to unprivileged users.
    pub available: u64,
}

impl Disk {
    /// used ÷ (used + available), as `df` counts it: blocks reserved for root are nobody's.
    pub fn used_percent(&self) -> Option<Percent> {
        Percent::of_bytes(self.used, self.used.saturating_add(self.available))
    }
}

impl Kernel {
    /// The space of the filesystem that holds `path`.
    pub fn disk(&self, path: &str) -> Result<Disk, Missing> {
        let path = self.path(path);
        let stat = statvfs(&path)
            .map_err(|error| Missing { path: path.clone(), cause: Cause::Unreadable(error.to_string()) })?;
        let size = stat.fragment_size().max(1);
        let total = stat.blocks().saturating_mul(size);
        if total == 0 {
            return Err(Missing::absent(path, "the filesystem reports no size"));
        }
        Ok(Disk {
            total,
            used: stat.blocks().saturating_sub(stat.blocks_free()).saturating_mul(size),
            available: stat.blocks_available().saturating_mul(size),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_filesystem_has_a_size() {
        let disk = Kernel::default().disk("/").expect("statfs of /");
        assert!(disk.used <= disk.total && disk.available <= disk.total, "{disk:?}");
        assert!(disk.used_percent().is_some());
    }

    #[test]
    fn a_missing_path_is_named() {
        let missing = Kernel::default().disk("/nonexistent/disk").expect_err("no such path");
        assert!(missing.to_string().starts_with("/nonexistent/disk: "), "{missing}");
    }
}
