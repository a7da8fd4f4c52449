//! Trees of files as the kernel shows them on version 1, version 2 and hybrid hosts, nested and in slices.

use std::fs;
use std::path::Path;
use std::time::Duration;

use pinfold_cgroup::{Group, Kernel, Machine, Scope};
use tempfile::TempDir;

const GIB: u64 = 1 << 30;
const MEMINFO: &str = "MemTotal:       16777216 kB\nMemFree:         1000 kB\nMemAvailable:   12582912 kB\n\
                       Buffers:          1024 kB\nCached:           2048 kB\n";
const STAT: &str = "cpu  400 0 0 4000 0 0 0 0 0 0\ncpu0 100 0 0 1000 0 0 0 0 0 0\ncpu1 100 0 0 1000 0 0 0 0 0 0\n\
                    cpu2 100 0 0 1000 0 0 0 0 0 0\ncpu3 100 0 0 1000 0 0 0 0 0 0\nintr 1 2 3\n";
const V2_MOUNT: &str = "24 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n";

fn tree(files: &[(&str, &str)]) -> (TempDir, Kernel) {
    let root = tempfile::tempdir().expect("a directory");
    let common =
        [("proc/meminfo", MEMINFO), ("proc/stat", STAT), ("proc/loadavg", "0.50 1.25 2.00 1/99 7\n")];
    for (name, text) in common.iter().chain(files) {
        let path = root.path().join(name);
        fs::create_dir_all(path.parent().expect("a parent")).expect("directories");
        fs::write(path, text).expect("a file");
    }
    let kernel = Kernel::at(root.path());
    (root, kernel)
}

fn v1_mounts(root: &str) -> String {
    let line = |options: &str, at: &str| {
        format!("40 31 0:30 {root} /sys/fs/cgroup/{at} rw - cgroup cgroup rw,{options}\n")
    };
    [("cpu,cpuacct", "cpu,cpuacct"), ("cpuset", "cpuset"), ("memory", "memory"), ("pids", "pids")]
        .map(|(options, at)| line(options, at))
        .concat()
}

fn ends(path: &Path, end: &str) {
    assert!(path.ends_with(end), "{} does not end in {end}", path.display());
}

#[test]
fn the_load_is_the_hosts() {
    let (_root, kernel) = tree(&[]);
    let load = kernel.load().expect("a load");
    assert_eq!([load.one, load.five, load.fifteen].map(pinfold_cgroup::Amount::get), [0.5, 1.25, 2.0]);
}

#[test]
fn a_v2_host_without_limits_gives_the_hosts_figures() {
    let (_root, kernel) = tree(&[
        ("proc/self/mountinfo", V2_MOUNT),
        ("proc/self/cgroup", "0::/system.slice/pinfold.service\n"),
        ("sys/fs/cgroup/cgroup.controllers", "cpuset cpu io memory pids\n"),
        ("sys/fs/cgroup/system.slice/memory.max", "max\n"),
        ("sys/fs/cgroup/system.slice/pinfold.service/memory.max", "max\n"),
        ("sys/fs/cgroup/system.slice/pinfold.service/memory.current", "5000000\n"),
        ("sys/fs/cgroup/system.slice/pinfold.service/memory.stat", "file 2000000\ninactive_file 1000000\n"),
        ("sys/fs/cgroup/system.slice/pinfold.service/cpu.max", "max 100000\n"),
    ]);
    let node = Machine::new(kernel.clone(), Scope::Node);
    assert_eq!(node.cpus(), Ok(4));
    assert_eq!(node.cpu_limit().map(|cores| cores.get()), Ok(4.0));
    let memory = node.memory().expect("memory");
    assert_eq!((memory.total, memory.used, memory.cache), (16 * GIB, 4 * GIB, 3 << 20));
    assert_eq!(memory.used_percent().map(|percent| percent.get()), Some(25.0));
    // The same tree seen by a daemon: the whole machine's memory, its own cgroup's use.
    let own = Machine::new(kernel, Scope::Container).memory().expect("memory");
    assert_eq!((own.total, own.used), (16 * GIB, 4_000_000));
}

/// Pain 38: a runner within a limit, such as in a container, reports the limit and not its host.
#[test]
fn a_v2_slice_limits_its_members() {
    let (_root, kernel) = tree(&[
        ("proc/self/mountinfo", V2_MOUNT),
        ("proc/self/cgroup", "0::/tenants.slice/tenants-a.slice/pinfold.service\n"),
        ("sys/fs/cgroup/cgroup.controllers", "cpuset cpu memory pids\n"),
        ("sys/fs/cgroup/tenants.slice/memory.max", "8589934592\n"),
        ("sys/fs/cgroup/tenants.slice/cpu.max", "max 100000\n"),
        ("sys/fs/cgroup/tenants.slice/tenants-a.slice/memory.max", "4294967296\n"),
        ("sys/fs/cgroup/tenants.slice/tenants-a.slice/memory.current", "2147483648\n"),
        ("sys/fs/cgroup/tenants.slice/tenants-a.slice/memory.stat", "file 700\ninactive_file 1073741824\n"),
        ("sys/fs/cgroup/tenants.slice/tenants-a.slice/cpu.max", "150000 100000\n"),
        ("sys/fs/cgroup/tenants.slice/tenants-a.slice/cpu.stat", "usage_usec 7000000\nuser_usec 1\n"),
        // What limits the service alone does not limit the sandboxes beside it.
        ("sys/fs/cgroup/tenants.slice/tenants-a.slice/pinfold.service/memory.max", "1073741824\n"),
        ("sys/fs/cgroup/tenants.slice/tenants-a.slice/pinfold.service/cpu.max", "10000 100000\n"),
        ("sys/fs/cgroup/tenants.slice/tenants-a.slice/cpuset.cpus.effective", "0-2\n"),
        ("sys/fs/cgroup/tenants.slice/tenants-a.slice/pinfold.service/memory.current", "1\n"),
        ("sys/fs/cgroup/tenants.slice/tenants-a.slice/pinfold.service/cpuset.cpus.effective", "0\n"),
        ("sys/fs/cgroup/tenants.slice/tenants-a.slice/pinfold.service/memory.events", "oom 2\noom_kill 3\n"),
        ("sys/fs/cgroup/tenants.slice/tenants-a.slice/pinfold.service/pids.max", "max\n"),
        ("sys/fs/cgroup/tenants.slice/tenants-a.slice/pinfold.service/pids.current", "17\n"),
        ("sys/fs/cgroup/tenants.slice/pids.max", "512\n"),
    ]);
    let machine = Machine::new(kernel.clone(), Scope::Node);
    assert_eq!(machine.cpus(), Ok(3));
    assert_eq!(machine.cpu_limit().map(|cores| cores.get()), Ok(1.5));
    let memory = machine.memory().expect("memory");
    assert_eq!((memory.total, memory.used, memory.cache), (4 * GIB, GIB, 700));
    let group = kernel.own().expect("a cgroup");
    let limit = group.memory_limit().expect("readable").expect("limited");
    ends(&limit.at, "tenants.slice/tenants-a.slice/pinfold.service");
    assert_eq!(group.oom_kills(), Ok(3));
    assert_eq!(group.pids(), Ok(17));
    assert_eq!(group.pids_limit().expect("readable").expect("limited").value, 512);
}

#[test]
fn a_v2_container_with_a_namespace_of_its_own() {
    let (_root, kernel) = tree(&[
        ("proc/self/mountinfo", V2_MOUNT),
        ("proc/self/cgroup", "0::/\n"),
        ("sys/fs/cgroup/cgroup.controllers", "cpu memory pids\n"),
        ("sys/fs/cgroup/memory.max", "1073741824\n"),
        ("sys/fs/cgroup/memory.current", "524288000\n"),
        ("sys/fs/cgroup/memory.stat", "file 10\ninactive_file 0\n"),
        ("sys/fs/cgroup/cpu.max", "50000 100000\n"),
        ("sys/fs/cgroup/cpu.stat", "usage_usec 1500000\n"),
    ]);
    let machine = Machine::new(kernel.clone(), Scope::Container);
    assert_eq!(machine.cpus(), Ok(4));
    assert_eq!(machine.cpu_limit().map(|cores| cores.get()), Ok(0.5));
    assert_eq!(machine.memory().map(|memory| (memory.total, memory.used)), Ok((GIB, 524_288_000)));
    assert_eq!(kernel.own().and_then(|group| group.cpu_usage()), Ok(Duration::from_millis(1500)));
}

#[test]
fn a_v1_container_that_sees_its_hosts_paths() {
    let cgroup =
        "9:pids:/docker/abc\n8:memory:/docker/abc\n3:cpuset:/docker/abc\n2:cpu,cpuacct:/docker/abc\n";
    let (_root, kernel) = tree(&[
        ("proc/self/mountinfo", &v1_mounts("/docker/abc")),
        ("proc/self/cgroup", cgroup),
        ("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "-1\n"),
        ("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000\n"),
        ("sys/fs/cgroup/cpu,cpuacct/cpuacct.usage", "2500000000\n"),
        ("sys/fs/cgroup/cpuset/cpuset.cpus", "1,3\n"),
        ("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n"),
        ("sys/fs/cgroup/memory/memory.usage_in_bytes", "3000\n"),
        // An ancestor that the container does not see.
        (
            "sys/fs/cgroup/memory/memory.stat",
            "hierarchical_memory_limit 2147483648\ntotal_cache 900\ntotal_inactive_file 1000\n",
        ),
        ("sys/fs/cgroup/memory/memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 1\n"),
        ("sys/fs/cgroup/pids/pids.current", "2\n"),
        ("sys/fs/cgroup/pids/pids.max", "64\n"),
    ]);
    let machine = Machine::new(kernel.clone(), Scope::Container);
    assert_eq!(machine.cpus(), Ok(2));
    assert_eq!(machine.cpu_limit().map(|cores| cores.get()), Ok(2.0));
    assert_eq!(machine.memory().map(|memory| (memory.total, memory.used)), Ok((2 * GIB, 2000)));
    let group = kernel.own().expect("a cgroup");
    assert_eq!(group.cpu_limit(), Ok(None));
    assert_eq!(group.cpu_usage(), Ok(Duration::from_millis(2500)));
    assert_eq!(group.oom_kills(), Ok(1));
    assert_eq!(group.pids_limit().expect("readable").map(|limit| limit.value), Some(64));
}

/// Version 1 with `cpu` and `cpuacct` mounted apart, and a version 2 hierarchy without controllers beside it.
fn hybrid() -> (TempDir, Kernel) {
    let mounts = ["cpu", "cpuacct", "memory"]
        .map(|name| format!("33 31 0:30 / /sys/fs/cgroup/{name} rw - cgroup cgroup rw,{name}\n"))
        .concat()
        + "41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
    let memory = |name: &str| format!("sys/fs/cgroup/memory/{name}");
    tree(&[
        ("proc/self/mountinfo", &mounts),
        ("proc/self/cgroup", "4:memory:/limited/leaf\n2:cpuacct:/limited/leaf\n1:cpu:/limited/leaf\n0::/\n"),
        ("proc/77/cgroup", "4:memory:/docker/feed\n2:cpuacct:/docker/feed\n1:cpu:/docker/feed\n0::/\n"),
        ("sys/fs/cgroup/unified/cgroup.controllers", "\n"),
        ("sys/fs/cgroup/cpu/limited/cpu.cfs_quota_us", "100000\n"),
        ("sys/fs/cgroup/cpu/limited/cpu.cfs_period_us", "100000\n"),
        ("sys/fs/cgroup/cpu/limited/leaf/cpu.cfs_quota_us", "-1\n"),
        ("sys/fs/cgroup/cpuacct/limited/cpuacct.usage", "8000000000\n"),
        ("sys/fs/cgroup/cpuacct/limited/leaf/cpuacct.usage", "5000000000\n"),
        ("sys/fs/cgroup/cpu/docker/feed/cpu.cfs_quota_us", "25000\n"),
        ("sys/fs/cgroup/cpu/docker/feed/cpu.cfs_period_us", "50000\n"),
        ("sys/fs/cgroup/cpuacct/docker/feed/cpuacct.usage", "1\n"),
        (&memory("memory.limit_in_bytes"), "9223372036854771712\n"),
        (&memory("limited/memory.limit_in_bytes"), "9223372036854771712\n"),
        (&memory("limited/leaf/memory.limit_in_bytes"), "1073741824\n"),
        (&memory("limited/leaf/memory.usage_in_bytes"), "10\n"),
        (&memory("limited/leaf/memory.stat"), "total_cache 1\ntotal_inactive_file 20\n"),
        (&memory("docker/feed/memory.limit_in_bytes"), "268435456\n"),
        (&memory("docker/feed/memory.usage_in_bytes"), "7\n"),
        (&memory("docker/feed/memory.stat"), "total_cache 1\ntotal_inactive_file 2\n"),
    ])
}

#[test]
fn a_hybrid_host_is_read_from_its_v1_hierarchies() {
    let (_root, kernel) = hybrid();
    let machine = Machine::new(kernel.clone(), Scope::Node);
    assert_eq!(machine.cpu_limit().map(|cores| cores.get()), Ok(1.0));
    // More inactive cache than use, which the kernel's batching allows, is no use, not a negative one.
    assert_eq!(machine.memory().map(|memory| (memory.total, memory.used)), Ok((GIB, 0)));
    let missing = kernel.own().expect("a cgroup").pids().expect_err("no pids controller");
    assert!(missing.to_string().ends_with("/sys/fs/cgroup/unified/cgroup.controllers: does not list pids"));
}

fn is_feed(group: &Group) {
    assert_eq!(group.memory_limit().expect("readable").map(|limit| limit.value), Some(256 << 20));
    assert_eq!(group.cpu_limit().expect("readable").map(|limit| limit.value.get()), Some(0.5));
    assert_eq!(group.memory().map(|memory| memory.used), Ok(5));
}

#[test]
fn a_container_is_found_by_id_and_by_process() {
    let (_root, kernel) = hybrid();
    is_feed(&kernel.container("feed", None).expect("a container"));
    is_feed(&kernel.container("feed", Some("/docker")).expect("a container"));
    is_feed(&kernel.group_of(77).expect("a process"));
    let missing = kernel.container("dead", None).expect("mounts").memory().expect_err("no such container");
    assert!(
        missing.is_absent() && missing.to_string().contains("no cgroup of the container dead"),
        "{missing}"
    );
}

#[test]
fn a_container_in_a_systemd_slice_and_one_of_a_nested_engine() {
    let group = "sys/fs/cgroup/tenants.slice/tenants-a.slice/docker-feed.scope";
    let nested = "sys/fs/cgroup/outer/docker/inner";
    let (_root, kernel) = tree(&[
        ("proc/self/mountinfo", V2_MOUNT),
        ("proc/self/cgroup", "0::/outer\n"),
        ("sys/fs/cgroup/cgroup.controllers", "cpu memory pids\n"),
        (&format!("{group}/memory.max"), "1048576\n"),
        (&format!("{nested}/memory.max"), "2097152\n"),
    ]);
    let limit = |id, parent| {
        let group = kernel.container(id, parent).expect("mounts");
        group.memory_limit().expect("readable").map(|limit| limit.value)
    };
    assert_eq!(limit("feed", Some("tenants-a.slice")), Some(1 << 20));
    assert_eq!(limit("inner", None), Some(2 << 20));
}

#[test]
fn without_cgroups_the_hosts_figures_hold() {
    let (_root, kernel) =
        tree(&[("proc/self/mountinfo", "1 1 0:1 / / rw - ext4 /dev/vda rw\n"), ("proc/self/cgroup", "")]);
    let machine = Machine::new(kernel, Scope::Container);
    assert_eq!(machine.cpus(), Ok(4));
    assert_eq!(machine.memory().map(|memory| memory.used), Ok(4 * GIB));
}

#[test]
fn a_limit_that_cannot_be_understood_is_not_ignored() {
    let (_root, kernel) = tree(&[
        ("proc/self/mountinfo", V2_MOUNT),
        ("proc/self/cgroup", "0::/\n"),
        ("sys/fs/cgroup/cgroup.controllers", "cpu memory\n"),
        ("sys/fs/cgroup/memory.max", "-1\n"),
        ("sys/fs/cgroup/cpu.max", "0 0\n"),
    ]);
    let machine = Machine::new(kernel, Scope::Node);
    let memory = machine.memory().expect_err("no number").to_string();
    assert!(memory.ends_with("/sys/fs/cgroup/memory.max: \"-1\" is not a number"), "{memory}");
    let cpu = machine.cpu_limit().expect_err("no quota").to_string();
    assert!(cpu.ends_with("/sys/fs/cgroup/cpu.max: a quota of 0 in 0 µs"), "{cpu}");
}
