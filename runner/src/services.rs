//! What the runner depends on, one entry each in the healthcheck (runner contract 2.3, 14.7).
//!
//! A control plane takes a node out of service for any unhealthy entry, and then does not even delete its sandboxes. So only what no sandbox can start
//! without is ever unhealthy: the engine, the runtime that was asked for and the network policy. What some sandboxes miss, or will miss soon, is told as the reason of a healthy
//! entry.

use std::path::Path;

use pinfold_proto::runner::health::ServiceHealth;

use crate::node::Node;

/// Below this part of the disk, creates will soon fail.
const SCARCE: f64 = 95.0;

fn entry(name: &str, healthy: bool, reason: Option<String>) -> ServiceHealth {
    ServiceHealth { service_name: name.to_owned(), healthy, error_reason: reason }
}

/// The entries; `engine`, `runtime` and `policy` say why these do not work, if they do not, and `disk_used` is a percentage.
pub(crate) fn all(
    node: &Node,
    engine: Option<String>,
    runtime: Option<String>,
    policy: Option<String>,
    disk_used: Option<f64>,
) -> Vec<ServiceHealth> {
    let unenforced = (!node.policy.is_enforced())
        .then(|| "PINFOLD_NETWORK_POLICY=off: sandboxes are not isolated".to_owned());
    vec![
        entry("docker", engine.is_none(), engine),
        entry("container-runtime", runtime.is_none(), runtime),
        entry("network-policy", policy.is_none(), policy.or(unenforced)),
        entry("volumes", true, node.volumes.problem()),
        entry("disk", true, no_room(disk_used, &node.info.data_root)),
        entry("disk-quota", true, no_quota(node)),
        entry("registry", true, node.images.registry_problem()),
    ]
}

/// Why creates will soon fail for want of room.
fn no_room(used: Option<f64>, data_root: &Path) -> Option<String> {
    match used {
        Some(used) if used >= SCARCE => {
            Some(format!("less than {:.0} % of the disk is free", 100.0 - SCARCE))
        }
        Some(_) => None,
        None => Some(format!("the filesystem of {} cannot be measured", data_root.display())),
    }
}

/// Why disk limits are not kept on this node.
fn no_quota(node: &Node) -> Option<String> {
    if node.config.limits_disabled {
        return Some("RESOURCE_LIMITS_DISABLED: sandboxes have no limits".to_owned());
    }
    let (driver, filesystem) =
        (&node.info.driver, node.info.backing_filesystem.as_deref().unwrap_or("unknown"));
    if driver != "overlay2" || filesystem != "xfs" {
        return Some(format!(
            "unavailable: it needs overlay2 on xfs, and this engine has {driver} on {filesystem}"
        ));
    }
    match has_project_quota(&node.info.data_root) {
        Some(false) => Some("unavailable: the engine's xfs is not mounted with pquota".to_owned()),
        // In a container of our own the engine's mount may be out of sight; the engine decides then.
        Some(true) | None => None,
    }
}

/// Whether the XFS that holds `path` keeps project quotas; `None` when it is no XFS, or its mount is not to be seen (proc(5)).
pub fn has_project_quota(path: &Path) -> Option<bool> {
    project_quota(&std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default(), path)
}

fn project_quota(mountinfo: &str, path: &Path) -> Option<bool> {
    let mounts = mountinfo.lines().filter_map(|line| {
        let (mount, filesystem) = line.split_once(" - ")?;
        let (point, mut kind) = (mount.split(' ').nth(4)?, filesystem.split(' '));
        let options = kind.nth(2)?.to_owned() + "," + mount.split(' ').nth(5)?;
        path.starts_with(point).then(|| (point.len(), filesystem.starts_with("xfs "), options))
    });
    let (_, xfs, options) = mounts.max_by_key(|(length, ..)| *length)?;
    xfs.then(|| options.split(',').any(|o| matches!(o, "prjquota" | "pquota")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_that_is_nearly_full_is_named_in_time() {
        let root = Path::new("/var/lib/docker");
        assert_eq!(no_room(Some(94.9), root), None);
        assert!(no_room(Some(95.0), root).unwrap().contains("less than 5 %"));
        assert!(no_room(None, root).unwrap().contains("/var/lib/docker"));
    }

    #[test]
    fn pain_33_quotas_are_those_of_the_filesystem_that_holds_the_data() {
        let info = |options: &str| {
            format!(
                "1 0 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n\
                 2 1 8:2 / /var/lib/docker rw,noatime shared:2 - xfs /dev/sdb {options}\n"
            )
        };
        let data = Path::new("/var/lib/docker");
        assert_eq!(project_quota(&info("rw,attr2,prjquota"), data), Some(true));
        assert_eq!(project_quota(&info("rw,noquota"), data), Some(false));
        assert_eq!(project_quota(&info("rw,prjquota"), Path::new("/var/lib/docker2")), None);
        assert_eq!(project_quota("nonsense", data), None);
    }
}
