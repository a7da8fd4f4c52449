//! Where the cgroup hierarchies are mounted, and where in them a process is.
//!
//! `/proc/<pid>/cgroup` names a cgroup by its path in the hierarchy, `/proc/self/mountinfo` says which part of the
//! hierarchy is mounted where. A container without a cgroup namespace sees its host's path and a mount of that very
//! path; with one it sees `/` in both. Stripping the mount's root from the path serves either.

use std::path::{Path, PathBuf};

use crate::files::{self, Missing};

/// Reads the kernel's files below a root directory: `/` in life, a fixture tree in tests.
#[derive(Debug, Clone)]
pub struct Kernel {
    root: PathBuf,
}

impl Default for Kernel {
    fn default() -> Self {
        Self::at("/")
    }
}

impl Kernel {
    /// Reads `<root>/proc` and `<root>/sys/fs/cgroup`.
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// An absolute path of the kernel's, below the root.
    pub(crate) fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        below(&self.root, path.as_ref())
    }

    pub(crate) fn mounts(&self) -> Result<Mounts, Missing> {
        let path = self.path("/proc/self/mountinfo");
        let text = files::read(&path)?;
        let mut mounts = Mounts { source: path, v1: Vec::new(), v2: None };
        for line in text.lines() {
            let Some((kind, controllers, root, point)) = mount(line) else { continue };
            let mount = Mount { point: self.path(point), root };
            match kind {
                "cgroup" => mounts.v1.push((controllers, mount)),
                // The first one is the real one: later ones are somebody's bind mounts.
                _ => mounts.v2 = mounts.v2.or(Some(mount)),
            }
        }
        Ok(mounts)
    }
}

/// `path` below `root`, whether or not it is absolute; `..` goes nowhere.
pub(crate) fn below(root: &Path, path: &Path) -> PathBuf {
    let normal = path.components().filter(|part| matches!(part, std::path::Component::Normal(_)));
    normal.fold(root.to_path_buf(), |whole, part| whole.join(part))
}

#[derive(Debug, Clone)]
pub(crate) struct Mount {
    /// Where it is mounted.
    pub(crate) point: PathBuf,
    /// Which part of the hierarchy is.
    root: PathBuf,
}

impl Mount {
    /// The directory of the cgroup that the kernel calls `path`, when this mount shows it.
    pub(crate) fn directory(&self, path: &Path) -> Option<PathBuf> {
        let inside = path.strip_prefix(&self.root).ok()?;
        Some(below(&self.point, inside)).filter(|directory| directory.is_dir())
    }
}

#[derive(Debug)]
pub(crate) struct Mounts {
    /// The file that told.
    pub(crate) source: PathBuf,
    /// Version 1 hierarchies with their controllers and other options.
    pub(crate) v1: Vec<(Vec<String>, Mount)>,
    /// The version 2 hierarchy.
    pub(crate) v2: Option<Mount>,
}

impl Mounts {
    /// The hierarchy that a controller is in: version 1 where it is mounted there, since then version 2 lacks it.
    pub(crate) fn of(&self, controller: &'static str) -> Result<(Hierarchy, &Mount), Missing> {
        let v1 = self.v1.iter().find(|(options, _)| options.iter().any(|option| option == controller));
        if let Some((_, mount)) = v1 {
            return Ok((Hierarchy::V1(controller), mount));
        }
        let v2 = self.v2.as_ref();
        let mount =
            v2.ok_or_else(|| Missing::absent(&self.source, format!("no cgroup mount for {controller}")))?;
        let list = mount.point.join("cgroup.controllers");
        // Accounting is part of version 2 itself, not a controller.
        if controller == "cpuacct"
            || files::read(&list)?.split_ascii_whitespace().any(|name| name == controller)
        {
            Ok((Hierarchy::V2, mount))
        } else {
            Err(Missing::absent(list, format!("does not list {controller}")))
        }
    }
}

/// Which hierarchy a controller is in.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Hierarchy {
    /// The version 1 hierarchy of this controller.
    V1(&'static str),
    /// The one of version 2.
    V2,
}

/// Type, superblock options, root and mount point of a cgroup mount.
fn mount(line: &str) -> Option<(&str, Vec<String>, PathBuf, PathBuf)> {
    let (left, right) = line.split_once(" - ")?;
    let mut right = right.split(' ');
    let kind = right.next().filter(|kind| matches!(*kind, "cgroup" | "cgroup2"))?;
    let options = right.nth(1).unwrap_or_default().split(',').map(str::to_owned).collect();
    let mut left = left.split(' ').skip(3);
    Some((kind, options, unescaped(left.next()?), unescaped(left.next()?)))
}

/// Undoes mountinfo's octal escapes for space, tab, newline and backslash (proc(5)).
fn unescaped(text: &str) -> PathBuf {
    let mut path = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('\\') {
        path.push_str(before);
        let code = after.get(..3).and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match code.filter(u8::is_ascii) {
            Some(code) => {
                path.push(char::from(code));
                rest = &after[3..];
            }
            None => {
                path.push('\\');
                rest = after;
            }
        }
    }
    path.push_str(rest);
    path.into()
}

/// A process's cgroups: `/proc/<pid>/cgroup`.
#[derive(Debug, Default)]
pub(crate) struct Membership {
    v1: Vec<(Vec<String>, PathBuf)>,
    v2: Option<PathBuf>,
}

impl Membership {
    pub(crate) fn parse(text: &str) -> Self {
        let mut membership = Self::default();
        for line in text.lines() {
            let mut fields = line.splitn(3, ':');
            let (Some(number), Some(controllers), Some(path)) = (fields.next(), fields.next(), fields.next())
            else {
                continue;
            };
            if number == "0" && controllers.is_empty() {
                membership.v2 = Some(path.into());
            } else {
                membership.v1.push((controllers.split(',').map(str::to_owned).collect(), path.into()));
            }
        }
        membership
    }

    /// The path in a hierarchy.
    pub(crate) fn path(&self, hierarchy: Hierarchy) -> Option<&Path> {
        match hierarchy {
            Hierarchy::V2 => self.v2.as_deref(),
            Hierarchy::V1(controller) => {
                let mut v1 = self.v1.iter();
                let found = v1.find(|(controllers, _)| controllers.iter().any(|name| name == controller));
                found.map(|(_, path)| path.as_path())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_with_a_space_in_its_name() {
        let line =
            r"35 31 0:32 /docker/a /sys/fs/my\040group ro,nosuid shared:9 - cgroup cgroup rw,cpu,cpuacct";
        let (kind, options, root, point) = mount(line).expect("a cgroup mount");
        assert_eq!(
            (kind, options.as_slice()),
            ("cgroup", ["rw", "cpu", "cpuacct"].map(str::to_owned).as_slice())
        );
        assert_eq!((root, point), ("/docker/a".into(), "/sys/fs/my group".into()));
    }

    #[test]
    fn paths_cannot_leave_the_root() {
        assert_eq!(below(Path::new("/a"), Path::new("/../../etc/./x")), Path::new("/a/etc/x"));
    }
}
