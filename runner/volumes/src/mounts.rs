//! Whether a directory is a live mount, asked of the kernel rather than of a program.

use std::path::Path;
use std::time::Duration;

/// A file system that takes longer than this to say what it is counts as dead. A client answers that by itself, without its store.
const PROBE_DEADLINE: Duration = Duration::from_secs(20);

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
    if !is_mount_point(&mountinfo(), path) {
        return Health::Absent;
    }
    match rustix::fs::statfs(path) {
        Ok(_) => Health::Live,
        Err(_) => Health::Dead,
    }
}

/// The state of `path`, in bounded time: a file system that does not answer is dead.
pub(crate) async fn probe(path: &Path) -> Health {
    let path = path.to_owned();
    let asked = tokio::task::spawn_blocking(move || health(&path));
    match tokio::time::timeout(PROBE_DEADLINE, asked).await {
        Ok(Ok(health)) => health,
        _ => Health::Dead,
    }
}

/// Every mount that this process sees (proc(5)); nothing if that cannot be told.
pub(crate) fn mountinfo() -> String {
    std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default()
}

/// The device numbers of what is mounted at `path`, one on the other; what is seen there comes last.
pub(crate) fn layers(mountinfo: &str, path: &Path) -> Vec<String> {
    let fields = mountinfo.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let mut here: Vec<_> = fields
        .filter(|mount| mount.get(4).is_some_and(|point| Path::new(&unescape(point)) == path))
        .filter_map(|mount| {
            Some((mount.first()?.to_owned(), mount.get(1)?.to_owned(), mount.get(2)?.to_owned()))
        })
        .collect();
    let mut layers = Vec::new();
    // The list is in no promised order: each layer is the child of the one below it.
    while let Some(lowest) = here.iter().position(|(_, parent, _)| here.iter().all(|(id, ..)| id != parent)) {
        layers.push(here.remove(lowest).2.to_owned());
    }
    layers
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
        let stacked = "9 7 0:9 / /a\\040b rw - x y z\n7 5 0:7 / /a\\040b rw - x y z\n5 1 0:5 / / rw - x y z\n8 9 0:8 / /a\\040b rw - x y z\n";
        assert_eq!(layers(stacked, Path::new("/a b")), ["0:7", "0:9", "0:8"]);
        assert!(layers(stacked, Path::new("/a")).is_empty());
        assert_eq!(health(Path::new("/proc")), Health::Live);
        assert_eq!(health(Path::new("/etc")), Health::Absent);
    }
}
