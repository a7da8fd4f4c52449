//! Whatever the files hold, every figure is a sound number or a named reason, and nothing panics.

use std::fs;

use pinfold_cgroup::{CpuReading, Kernel, Machine, Scope};
use proptest::prelude::*;

const NAMES: &[&str] = &[
    "proc/stat",
    "proc/meminfo",
    "proc/loadavg",
    "proc/self/cgroup",
    "proc/self/mountinfo",
    "sys/fs/cgroup/cgroup.controllers",
    "sys/fs/cgroup/a/cpu.max",
    "sys/fs/cgroup/a/cpu.stat",
    "sys/fs/cgroup/a/cpuset.cpus.effective",
    "sys/fs/cgroup/a/memory.max",
    "sys/fs/cgroup/a/memory.current",
    "sys/fs/cgroup/a/memory.stat",
    "sys/fs/cgroup/a/memory.events",
    "sys/fs/cgroup/a/pids.current",
    "sys/fs/cgroup/a/pids.max",
    "sys/fs/cgroup/a/cpu.cfs_quota_us",
    "sys/fs/cgroup/a/cpu.cfs_period_us",
    "sys/fs/cgroup/a/cpuacct.usage",
    "sys/fs/cgroup/a/memory.limit_in_bytes",
    "sys/fs/cgroup/a/memory.usage_in_bytes",
    "sys/fs/cgroup/a/cpuset.cpus",
];

/// Text near enough to the real formats to get past the first check.
fn text() -> impl Strategy<Value = String> {
    let word = prop_oneof![
        any::<u64>().prop_map(|number| number.to_string()),
        any::<i64>().prop_map(|number| number.to_string()),
        any::<f64>().prop_map(|number| number.to_string()),
        "[ -~]{0,6}",
        prop::sample::select(vec![
            "max",
            "cpu0",
            "cpu1",
            "cpu",
            "MemTotal:",
            "MemAvailable:",
            "Cached:",
            "Buffers:",
            "usage_usec",
            "file",
            "inactive_file",
            "oom_kill",
            "total_cache",
            "total_inactive_file",
            "memory",
            "pids",
            "0::/a",
            "1:cpu,cpuacct,cpuset,memory,pids:/a",
            "0-3",
            "hierarchical_memory_limit",
            "\\",
            "\\777",
            "é\\0",
            "1 1 0:1 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw",
            "1 1 0:1 / /sys/fs/cgroup rw - cgroup cgroup rw,cpu,cpuacct,cpuset,memory,pids",
        ])
        .prop_map(str::to_owned),
    ];
    prop::collection::vec((word, prop::sample::select(vec![" ", "\n", "\t", ""])), 0..24)
        .prop_map(|words| words.into_iter().map(|(word, space)| word + space).collect())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn figures_are_sound_or_missing(
        texts in prop::collection::vec(prop::option::weighted(0.9, text()), NAMES.len()),
        mounted in any::<Option<bool>>(),
    ) {
        let root = tempfile::tempdir().expect("a directory");
        for (name, text) in NAMES.iter().zip(texts) {
            let path = root.path().join(name);
            fs::create_dir_all(path.parent().expect("a parent")).expect("directories");
            if let Some(text) = text {
                fs::write(path, text).expect("a file");
            }
        }
        if let Some(v2) = mounted {
            let (kind, controllers) = if v2 { ("cgroup2", "") } else { ("cgroup", ",cpu,cpuacct,cpuset,memory,pids") };
            let line = format!("1 1 0:1 / /sys/fs/cgroup rw - {kind} cgroup rw{controllers}\n");
            fs::write(root.path().join("proc/self/mountinfo"), line).expect("a file");
            fs::write(root.path().join("proc/self/cgroup"), "1:cpu,cpuacct,cpuset,memory,pids:/a\n0::/a\n").expect("a file");
            fs::write(root.path().join("sys/fs/cgroup/cgroup.controllers"), "cpu cpuset memory pids").expect("a file");
        }
        let kernel = Kernel::at(root.path());
        if let Ok(load) = kernel.load() {
            prop_assert!(load.one.get() >= 0.0 && load.fifteen.get().is_finite());
        }
        for scope in [Scope::Node, Scope::Container] {
            let machine = Machine::new(kernel.clone(), scope);
            if let Ok(cpus) = machine.cpus() {
                prop_assert!(cpus > 0);
            }
            if let Ok(cores) = machine.cpu_limit() {
                prop_assert!(cores.get() > 0.0 && cores.get().is_finite());
            }
            if let Ok(memory) = machine.memory() {
                prop_assert!(memory.total > 0 && memory.used <= memory.total);
                prop_assert!(memory.used_percent().is_some());
            }
            let _ = CpuReading::take(&machine);
        }
        for group in [kernel.own(), kernel.container("a", None), kernel.container("", Some("../.."))].into_iter().flatten() {
            let _ = (group.cpu_set(), group.cpu_usage(), group.memory(), group.oom_kills(), group.pids());
            let _ = (group.pids_limit(), group.memory_limit());
            if let Ok(Some(limit)) = group.cpu_limit() {
                prop_assert!(limit.value.get() > 0.0);
            }
        }
    }
}
