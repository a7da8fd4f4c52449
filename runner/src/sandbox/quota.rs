//! The XFS project quota that limits a container's layer, read and changed in place.
//!
//! The engine gives each layer that has a size a project of its own when it makes it, and never looks at the limit again (moby,
//! `quota/projectquota.go`). So the limit can be changed under a container that exists: no copy, no new container. The only unsafe code of
//! this crate.

#![allow(unsafe_code)]

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::libc;

/// linux/dqblk_xfs.h counts in basic blocks.
const BLOCK: u64 = 512;
const PROJECT: libc::c_int = 2;
const GET: libc::c_int = ((b'X' as libc::c_int) << 8) + 3;
const SET_LIMITS: libc::c_int = ((b'X' as libc::c_int) << 8) + 4;
const VERSION: i8 = 1;
const PROJECT_FLAG: i8 = 2;
const BOTH_LIMITS: u16 = (1 << 2) | (1 << 3);

/// Why a layer's limit could not be read or changed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum QuotaError {
    #[error("{0} belongs to no project, so nothing limits it")]
    NoProject(PathBuf),
    #[error("the filesystem of {0} is not among this process's mounts")]
    NoDevice(PathBuf),
    #[error("could not {step} of {path}: {source}")]
    Kernel { step: &'static str, path: PathBuf, source: io::Error },
}

/// `struct fsxattr` of linux/fs.h.
#[repr(C)]
#[derive(Default)]
struct Attributes {
    flags: u32,
    extent_size: u32,
    extents: u32,
    project: u32,
    cow_extent_size: u32,
    padding: [u8; 8],
}

nix::ioctl_read!(get_attributes, b'X', 31, Attributes);

/// `struct fs_disk_quota` of linux/dqblk_xfs.h.
#[repr(C)]
#[derive(Default)]
struct DiskQuota {
    version: i8,
    flags: i8,
    fields: u16,
    id: u32,
    block_hard: u64,
    block_soft: u64,
    inode_limits: [u64; 2],
    counts: [u64; 2],
    timers: [i32; 2],
    warnings: [u16; 2],
    timers_high: [i8; 4],
    realtime: [u64; 3],
    realtime_timer: i32,
    realtime_warnings: u16,
    padding: i16,
    reserved: [u8; 8],
}

const _: () = assert!(size_of::<DiskQuota>() == 112 && size_of::<Attributes>() == 28);

/// The limit of a layer in bytes.
pub(crate) fn limit(layer: &Path) -> Result<u64, QuotaError> {
    let (device, project) = found(layer)?;
    let mut quota = DiskQuota::default();
    call(GET, &device, project, &mut quota).map_err(|source| kernel("read the quota", layer, source))?;
    Ok(quota.block_hard.saturating_mul(BLOCK))
}

/// Sets the limit of a layer, in bytes; at once in force, also under a running container.
pub(crate) fn set_limit(layer: &Path, bytes: u64) -> Result<(), QuotaError> {
    let (device, project) = found(layer)?;
    let blocks = bytes / BLOCK;
    let mut quota = DiskQuota {
        version: VERSION,
        flags: PROJECT_FLAG,
        fields: BOTH_LIMITS,
        id: project,
        block_hard: blocks,
        block_soft: blocks,
        ..DiskQuota::default()
    };
    call(SET_LIMITS, &device, project, &mut quota).map_err(|source| kernel("set the quota", layer, source))
}

fn kernel(step: &'static str, path: &Path, source: impl Into<io::Error>) -> QuotaError {
    QuotaError::Kernel { step, path: path.to_owned(), source: source.into() }
}

/// The block device that a layer is on, and its project there.
fn found(layer: &Path) -> Result<(PathBuf, u32), QuotaError> {
    let directory = File::open(layer).map_err(|source| kernel("open the layer", layer, source))?;
    let number = directory.metadata().map_err(|source| kernel("stat the layer", layer, source))?.dev();
    let mut attributes = Attributes::default();
    // SAFETY: the descriptor is open, and the kernel writes one `struct fsxattr` into what the pointer shows to.
    unsafe { get_attributes(directory.as_raw_fd(), &raw mut attributes) }
        .map_err(|source| kernel("read the project", layer, source))?;
    if attributes.project == 0 {
        return Err(QuotaError::NoProject(layer.to_owned()));
    }
    let mounts = std::fs::read_to_string("/proc/self/mountinfo")
        .map_err(|source| kernel("find the filesystem", layer, source))?;
    let device = device_of(&mounts, libc::major(number), libc::minor(number));
    Ok((device.ok_or_else(|| QuotaError::NoDevice(layer.to_owned()))?, attributes.project))
}

/// The source of the mounts of a device number: field 3 of proc(5)'s mountinfo, and the second one behind the dash.
fn device_of(mounts: &str, major: u32, minor: u32) -> Option<PathBuf> {
    let number = format!("{major}:{minor}");
    let line = mounts.lines().find(|line| line.split(' ').nth(2) == Some(number.as_str()))?;
    line.split_once(" - ")?.1.split(' ').nth(1).map(PathBuf::from)
}

fn call(command: libc::c_int, device: &Path, project: u32, quota: &mut DiskQuota) -> Result<(), Errno> {
    let device = CString::new(device.as_os_str().as_encoded_bytes()).map_err(|_| Errno::EINVAL)?;
    // SAFETY: the device is a C string, and both commands read or write one `struct fs_disk_quota`, to which the pointer shows.
    let status = unsafe {
        libc::quotactl(
            (command << 8) | PROJECT,
            device.as_ptr(),
            project.cast_signed(),
            std::ptr::from_mut(quota).cast(),
        )
    };
    Errno::result(status).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_found_by_its_number() {
        let mounts = "29 1 254:0 / / rw,noatime shared:1 - ext4 /dev/vda rw\n\
                      80 29 254:16 / /var/lib/docker rw,noatime shared:31 - xfs /dev/vdb rw,prjquota\n";
        assert_eq!(device_of(mounts, 254, 16), Some(PathBuf::from("/dev/vdb")));
        assert_eq!(device_of(mounts, 254, 1), None);
    }

    #[test]
    fn a_directory_without_a_project_is_left_to_the_copy() {
        let dir = tempfile::tempdir().unwrap();
        let error = set_limit(dir.path(), 1 << 30).unwrap_err();
        // A filesystem without projects may lack the question itself.
        assert!(matches!(error, QuotaError::NoProject(_) | QuotaError::Kernel { .. }), "{error}");
    }
}
