//! Bounds of BuildKit's steps. The builder ignores those of a request, so they are set on the cgroup that holds the steps of all its builds:
//! with BuildKit, `BUILD_CPU_CORES` and `BUILD_MEMORY_GB` are what all builds of this node may use together.
//!
//! An engine that makes its cgroups itself (`cgroupfs`) keeps the steps in `buildkit` below its parent, which is `docker` unless its operator said
//! otherwise; one that lets systemd make them spreads them over scopes of their own, which have no cgroup in common but the system's.

use std::io;
use std::path::{Path, PathBuf};

use super::super::convert::CPU_PERIOD;
use crate::types::Limits;

const ROOT: &str = "/sys/fs/cgroup";
const STEPS: &str = "buildkit";

/// Whether an engine with this cgroup driver keeps its steps together, or why not.
pub(super) fn possible(driver: &str) -> Result<(), String> {
    if driver == "cgroupfs" {
        return Ok(());
    }
    Err(format!("the engine's cgroup driver is {driver}, and only cgroupfs keeps steps together"))
}

/// Puts the bounds in force for an engine whose cgroups are below `parent`, or says why that cannot be done.
pub(super) fn apply(limits: Limits, parent: &str) -> Result<(), String> {
    apply_below(Path::new(ROOT), parent, limits)
}

fn apply_below(root: &Path, parent: &str, limits: Limits) -> Result<(), String> {
    let steps = Path::new(parent).join(STEPS);
    let unified_tree = root.join("cgroup.controllers").exists();
    let result = if unified_tree { unified(root, &steps, limits) } else { v1(root, &steps, limits) };
    result.map_err(|(path, error)| format!("{}: {error}", path.display()))
}

type Written = Result<(), (PathBuf, io::Error)>;

fn write(path: PathBuf, value: impl ToString) -> Written {
    std::fs::write(&path, value.to_string()).map_err(|error| (path, error))
}

fn make(path: &Path) -> Written {
    std::fs::create_dir_all(path).map_err(|error| (path.to_owned(), error))
}

/// cgroup v1 (Documentation/admin-guide/cgroup-v1 of the kernel): a tree for each controller.
fn v1(root: &Path, below: &Path, limits: Limits) -> Written {
    if let Some(cpu) = limits.cpu {
        let steps = root.join("cpu").join(below);
        make(&steps)?;
        write(steps.join("cpu.cfs_period_us"), CPU_PERIOD)?;
        write(steps.join("cpu.cfs_quota_us"), i64::from(cpu) * CPU_PERIOD)?;
    }
    if let Some(memory) = limits.memory {
        let steps = root.join("memory").join(below);
        make(&steps)?;
        let (alone, with_swap) =
            (steps.join("memory.limit_in_bytes"), steps.join("memory.memsw.limit_in_bytes"));
        if with_swap.exists() {
            // Neither may pass the other on the way: the sum goes up first, and down last.
            let _ = write(with_swap.clone(), memory);
            write(alone, memory)?;
            write(with_swap, memory)?;
        } else {
            write(alone, memory)?;
        }
    }
    Ok(())
}

/// cgroup v2 (Documentation/admin-guide/cgroup-v2.rst of the kernel): one tree; controllers are handed down level by level.
fn unified(root: &Path, below: &Path, limits: Limits) -> Written {
    let steps = root.join(below);
    make(&steps)?;
    let levels: Vec<&Path> = steps.ancestors().skip(1).take_while(|level| level.starts_with(root)).collect();
    // From the root on: a level can hand down only what it was given.
    for level in levels.into_iter().rev() {
        write(level.join("cgroup.subtree_control"), "+cpu +memory")
            .or_else(|error| if has_controllers(level) { Ok(()) } else { Err(error) })?;
    }
    if let Some(cpu) = limits.cpu {
        write(steps.join("cpu.max"), format!("{} {CPU_PERIOD}", i64::from(cpu) * CPU_PERIOD))?;
    }
    if let Some(memory) = limits.memory {
        write(steps.join("memory.max"), memory)?;
        if steps.join("memory.swap.max").exists() {
            write(steps.join("memory.swap.max"), 0)?;
        }
    }
    Ok(())
}

fn has_controllers(level: &Path) -> bool {
    let handed = std::fs::read_to_string(level.join("cgroup.subtree_control")).unwrap_or_default();
    ["cpu", "memory"].iter().all(|wanted| handed.split_whitespace().any(|name| name == *wanted))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { cpu: Some(2), memory: Some(1 << 30), storage: None, pids: None };

    #[test]
    fn both_versions_are_written() {
        let (old, new) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let read = |root: &Path, file: &str| std::fs::read_to_string(root.join(file)).unwrap();
        apply_below(old.path(), "docker", LIMITS).unwrap();
        assert_eq!(read(old.path(), "cpu/docker/buildkit/cpu.cfs_quota_us"), "200000");
        assert_eq!(read(old.path(), "memory/docker/buildkit/memory.limit_in_bytes"), "1073741824");
        std::fs::write(new.path().join("cgroup.controllers"), "cpu memory").unwrap();
        apply_below(new.path(), "mine/all", LIMITS).unwrap();
        assert_eq!(read(new.path(), "mine/all/buildkit/cpu.max"), "200000 100000");
        assert_eq!(read(new.path(), "mine/all/buildkit/memory.max"), "1073741824");
        assert_eq!(read(new.path(), "mine/all/cgroup.subtree_control"), "+cpu +memory");
        assert_eq!(read(new.path(), "mine/cgroup.subtree_control"), "+cpu +memory");
        assert_eq!(read(new.path(), "cgroup.subtree_control"), "+cpu +memory");
    }

    #[test]
    fn what_cannot_be_bounded_says_why() {
        assert!(possible("cgroupfs").is_ok() && possible("systemd").unwrap_err().contains("systemd"));
        let nowhere = apply_below(Path::new("/proc/nothing"), "docker", LIMITS).unwrap_err();
        assert!(nowhere.contains("/proc/nothing"), "{nowhere}");
    }
}
