//! Checks of the host itself: kernel, privileges, cgroups, forwarding, FUSE.

use std::path::Path;

use pinfold_cgroup::{Kernel, Machine, Scope};

use super::Finding;

/// The oldest kernel with everything we use: `openat2` and pidfds came with 5.6.
const MIN_KERNEL: (u32, u32) = (5, 6);

/// All checks of the host.
pub(crate) fn check() -> Vec<Finding> {
    let mut findings = vec![kernel(), privileges(), cgroups()];
    findings.extend(figures());
    findings.extend([forwarding(), fuse()]);
    findings
}

fn kernel() -> Finding {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let release = release.trim();
    match parse_release(release) {
        Some(version) if version >= MIN_KERNEL => Finding::ok("kernel", format!("Linux {release}")),
        _ => Finding::failed(
            "kernel",
            format!("Linux {release:?}"),
            format!("use Linux {}.{} or newer", MIN_KERNEL.0, MIN_KERNEL.1),
        ),
    }
}

fn parse_release(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

fn privileges() -> Finding {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status
        .lines()
        .find_map(|l| l.strip_prefix("CapEff:"))
        .and_then(|l| u64::from_str_radix(l.trim(), 16).ok());
    // Bits of capabilities(7): CAP_NET_ADMIN for the rules, CAP_SYS_ADMIN for the mounts.
    let missing: Vec<&str> = [(12, "CAP_NET_ADMIN"), (21, "CAP_SYS_ADMIN")]
        .into_iter()
        .filter(|(bit, _)| effective.unwrap_or(0) & (1 << bit) == 0)
        .map(|(_, name)| name)
        .collect();
    if missing.is_empty() {
        Finding::ok("privileges", "may set network rules and mount volumes")
    } else {
        Finding::failed(
            "privileges",
            format!("{} missing", missing.join(" and ")),
            "run as root, or through the systemd unit",
        )
    }
}

fn cgroups() -> Finding {
    let root = Path::new("/sys/fs/cgroup");
    let unified = std::fs::read_to_string(root.join("cgroup.controllers")).ok();
    let version = if unified.is_some() { "v2" } else { "v1 or hybrid" };
    let has = |name: &str| match &unified {
        Some(list) => list.split_ascii_whitespace().any(|c| c == name),
        None => root.join(name).is_dir(),
    };
    let missing: Vec<&str> = ["cpu", "memory", "pids"].into_iter().filter(|c| !has(c)).collect();
    if missing.is_empty() {
        Finding::ok("cgroup", format!("{version}; cpu, memory and pids are there"))
    } else {
        let remedy =
            "enable the controllers: a kernel parameter such as cgroup_enable=memory, or systemd's Delegate=";
        Finding::failed("cgroup", format!("{version}; without {}", missing.join(", ")), remedy)
    }
}

/// What the node would report as its size.
fn figures() -> Vec<Finding> {
    let machine = Machine::new(Kernel::at("/"), Scope::Node);
    let cpu = match machine.cpu_limit() {
        Ok(cpus) => Finding::ok("cpu", format!("{} CPU(s)", cpus.get())),
        Err(missing) => Finding::failed("cpu", missing.to_string(), "mount /proc and /sys/fs/cgroup"),
    };
    let memory = match machine.memory() {
        #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
        Ok(memory) => Finding::ok("memory", format!("{:.1} GiB", memory.total as f64 / f64::from(1 << 30))),
        Err(missing) => Finding::failed("memory", missing.to_string(), "mount /proc and /sys/fs/cgroup"),
    };
    vec![cpu, memory]
}

fn forwarding() -> Finding {
    match std::fs::read_to_string("/proc/sys/net/ipv4/ip_forward").as_deref().map(str::trim) {
        Ok("1") => Finding::ok("forwarding", "IPv4 forwarding is on"),
        _ => Finding::warning(
            "forwarding",
            "IPv4 forwarding is off: sandboxes have no internet",
            "sysctl -w net.ipv4.ip_forward=1 (the engine does it when it starts)",
        ),
    }
}

fn fuse() -> Finding {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let installed = |program: &str| std::env::split_paths(&path).any(|dir| dir.join(program).is_file());
    let client = ["mount-s3", "s3fs"].into_iter().find(|p| installed(p));
    match (Path::new("/dev/fuse").exists(), client) {
        (true, Some(client)) => Finding::ok("volumes", format!("S3 volumes by {client}")),
        (false, _) => Finding::warning("volumes", "no /dev/fuse: local volumes only", "modprobe fuse"),
        (true, None) => {
            Finding::warning("volumes", "no S3 mount client: local volumes only", "install mount-s3 or s3fs")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_releases_have_many_shapes() {
        assert_eq!(parse_release("6.1.0-56-cloud-amd64"), Some((6, 1)));
        assert_eq!(parse_release("5.10"), Some((5, 10)));
        assert_eq!(parse_release("nonsense"), None);
    }
}
