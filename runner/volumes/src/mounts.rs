//! Whether a directory is a live mount, asked of the kernel rather than of a program.

use std::path::Path;

/// State of a mount point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// Nothing is mounted there.
    Absent,
    /// It is mounted and answers.
    Live,
    /// It is mounted and its file system is gone ("transport endpoint is not connected"), or it does not answer.
    Dead,
}

/// The state of `path`. May block for as long as the file system does: call it off the runtime.
pub fn health(path: &Path) -> Health {
    let mountinfo = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    if !is_mount_point(&mountinfo, path) {
        return Health::Absent;
    }
    match std::fs::read_dir(path) {
        Ok(_) => Health::Live,
        Err(_) => Health::Dead,
    }
}

/// Whether `mountinfo` (proc(5)) lists `path` as a mount point.
pub(crate) fn is_mount_point(mountinfo: &str, path: &Path) -> bool {
    let Some(path) = path.to_str() else { return false };
    mount_points(mountinfo).any(|point| point == path)
}

/// Whether anything is mounted at `path` or below.
pub(crate) fn has_mounts(mountinfo: &str, path: &Path) -> bool {
    mount_points(mountinfo).any(|point| Path::new(&point).starts_with(path))
}

fn mount_points(mountinfo: &str) -> impl Iterator<Item = String> {
    mountinfo.lines().filter_map(|line| line.split(' ').nth(4)).map(unescape)
}

/// mountinfo writes space, tab, newline and backslash as three octal digits.
fn unescape(field: &str) -> String {
    field.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_mount_points_with_odd_names() {
        let info =
            "36 35 98:0 /mnt1 /mnt/a\\040b rw,noatime master:1 - ext3 /dev/root rw\n1 0 0:1 / / rw - x y z\n";
        assert!(is_mount_point(info, Path::new("/mnt/a b")));
        assert!(is_mount_point(info, Path::new("/")));
        assert!(!is_mount_point(info, Path::new("/mnt")));
        assert!(has_mounts(info, Path::new("/mnt")) && has_mounts(info, Path::new("/mnt/a b")));
        assert!(!has_mounts(info, Path::new("/mnt/a")) && !has_mounts(info, Path::new("/mnt/a b/c")));
        assert_eq!(health(Path::new("/proc")), Health::Live);
        assert_eq!(health(Path::new("/etc")), Health::Absent);
    }
}
