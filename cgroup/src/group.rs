//! One cgroup: its directories in the hierarchies, its limits and its use.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::files::{self, Missing, optional};
use crate::mounts::{Hierarchy, Membership, Mount, below};
use crate::{Amount, Kernel, host};

/// Version 1's "no limit" is the largest signed number, rounded down to a page.
const UNLIMITED: u64 = 1 << 62;

/// A cgroup of a process or a container. Holds directories only; every figure is read when asked for.
#[derive(Debug, Clone)]
pub struct Group {
    cpu: Result<Place, Missing>,
    cpuacct: Result<Place, Missing>,
    cpuset: Result<Place, Missing>,
    memory: Result<Place, Missing>,
    pids: Result<Place, Missing>,
}

/// A limit and the cgroup that sets it, which may be an ancestor shared with others.
#[derive(Debug, Clone, PartialEq)]
pub struct Limit<T> {
    /// The limit.
    pub value: T,
    /// The directory of the cgroup it applies to.
    pub at: PathBuf,
}

/// A cgroup's use of memory, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GroupMemory {
    /// Without the page cache that the kernel would drop first (inactive files).
    pub used: u64,
    /// Page cache, of which part is in `used`.
    pub cache: u64,
}

/// A directory in the hierarchy of one controller.
#[derive(Debug, Clone)]
struct Place {
    v2: bool,
    top: PathBuf,
    directory: PathBuf,
}

impl Place {
    /// The cgroup and its visible ancestors, innermost first.
    fn levels(&self) -> impl Iterator<Item = &Path> {
        self.directory.ancestors().take_while(|level| level.starts_with(&self.top))
    }

    /// The tightest limit of all levels; those without the file have none.
    fn tightest<T: PartialOrd>(
        &self,
        read: impl Fn(&Path) -> Result<Option<T>, Missing>,
    ) -> Result<Option<Limit<T>>, Missing> {
        let mut tightest: Option<Limit<T>> = None;
        for level in self.levels() {
            let Some(value) = optional(read(level))?.flatten() else { continue };
            if tightest.as_ref().is_none_or(|limit| value < limit.value) {
                tightest = Some(Limit { value, at: level.into() });
            }
        }
        Ok(tightest)
    }
}

impl Kernel {
    /// This process's own cgroup.
    pub fn own(&self) -> Result<Group, Missing> {
        self.group_in("/proc/self/cgroup")
    }

    /// The cgroup of the process `pid`, which this process's PID namespace must show.
    pub fn group_of(&self, pid: u32) -> Result<Group, Missing> {
        self.group_in(&format!("/proc/{pid}/cgroup"))
    }

    /// The cgroup of the container `id`, by the names that the Docker engine gives with its cgroupfs and systemd
    /// drivers, below `parent` (the container's or the engine's cgroup parent) or the default one.
    pub fn container(&self, id: &str, parent: Option<&str>) -> Result<Group, Missing> {
        if id.is_empty() || !id.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            let reason = format!("{:?} is no container's id", files::shortened(id));
            return Err(Missing::absent(self.path("/sys/fs/cgroup"), reason));
        }
        let own = files::read(&self.path("/proc/self/cgroup")).map(|text| Membership::parse(&text));
        let own = own.unwrap_or_default();
        let names = names(id, parent);
        self.group(|mount, hierarchy| {
            let inside = own.path(hierarchy).map(|path| path.strip_prefix("/").unwrap_or(path).to_owned());
            // An engine inside a container without a cgroup namespace puts its own below its cgroup.
            let bases = [Some(PathBuf::new()), inside];
            let places = bases.iter().flatten().flat_map(|base| names.iter().map(|name| base.join(name)));
            places.map(|name| below(&mount.point, &name)).find(|directory| directory.is_dir()).ok_or_else(
                || {
                    Missing::absent(
                        &mount.point,
                        format!("no cgroup of the container {}", files::shortened(id)),
                    )
                },
            )
        })
    }

    fn group_in(&self, file: &str) -> Result<Group, Missing> {
        let file = self.path(file);
        let membership = Membership::parse(&files::read(&file)?);
        self.group(|mount, hierarchy| {
            let path = membership.path(hierarchy).ok_or_else(|| {
                Missing::absent(&file, format!("has no entry for {}", mount.point.display()))
            })?;
            // A path that the mount does not show belongs to an outer namespace; the mount's top is then what
            // limits us.
            let top = || Some(mount.point.clone()).filter(|top| top.is_dir());
            let outside = || Missing::absent(&mount.point, format!("does not show {}", path.display()));
            mount.directory(path).or_else(top).ok_or_else(outside)
        })
    }

    fn group(
        &self,
        directory: impl Fn(&Mount, Hierarchy) -> Result<PathBuf, Missing>,
    ) -> Result<Group, Missing> {
        let mounts = self.mounts()?;
        let place = |controller| {
            let (hierarchy, mount) = mounts.of(controller)?;
            let v2 = matches!(hierarchy, Hierarchy::V2);
            Ok(Place { v2, top: mount.point.clone(), directory: directory(mount, hierarchy)? })
        };
        Ok(Group {
            cpu: place("cpu"),
            cpuacct: place("cpuacct"),
            cpuset: place("cpuset"),
            memory: place("memory"),
            pids: place("pids"),
        })
    }
}

/// What the Docker engine calls a container's cgroup.
fn names(id: &str, parent: Option<&str>) -> Vec<PathBuf> {
    let scope = format!("docker-{id}.scope");
    let parent = parent.filter(|parent| !parent.is_empty());
    let mut names = Vec::new();
    if let Some(parent) = parent {
        names.push(below(Path::new(""), Path::new(parent)).join(id));
        names.push(slice(parent).join(&scope));
    }
    names.push(Path::new("docker").join(id));
    names.push(Path::new("system.slice").join(&scope));
    names
}

/// The directory of a systemd slice: `a-b.slice` lies in `a.slice`.
fn slice(name: &str) -> PathBuf {
    let stem = name.trim_matches('/').trim_end_matches(".slice");
    let dashes = stem.match_indices('-').map(|(at, _)| &stem[..at]).chain([stem]);
    dashes
        .filter(|stem| !stem.contains('/') && !stem.is_empty())
        .map(|stem| format!("{stem}.slice"))
        .collect()
}

impl Group {
    /// What is around a systemd service, for a member of one; itself for others.
    pub(crate) fn without_service(mut self) -> Self {
        for place in [&mut self.cpu, &mut self.cpuacct, &mut self.cpuset, &mut self.memory, &mut self.pids] {
            let Ok(place) = place else { continue };
            let is_service = place.directory.extension().is_some_and(|kind| kind == "service");
            if let Some(around) =
                place.directory.parent().filter(|_| is_service && place.directory != place.top)
            {
                place.directory = around.to_owned();
            }
        }
        self
    }

    /// The processor time this cgroup may use each second, in cores; `None` without a quota.
    pub fn cpu_limit(&self) -> Result<Option<Limit<Amount>>, Missing> {
        let place = self.cpu.as_ref().map_err(Clone::clone)?;
        place.tightest(|level| if place.v2 { quota_v2(level) } else { quota_v1(level) })
    }

    /// The processors this cgroup may run on; `None` when the hierarchy does not say.
    pub fn cpu_set(&self) -> Result<Option<BTreeSet<u32>>, Missing> {
        let Some(place) = optional(self.cpuset.clone())? else { return Ok(None) };
        let names: &[&str] =
            if place.v2 { &["cpuset.cpus.effective"] } else { &["cpuset.effective_cpus", "cpuset.cpus"] };
        // Effective sets include the ancestors'; a level without the file has its parent's.
        for level in place.levels() {
            for name in names {
                let path = level.join(name);
                let Some(text) = optional(files::read(&path))? else { continue };
                let wrong = || Missing::malformed(&path, format!("{:?} is no list", files::shortened(&text)));
                let cpus = host::cpu_list(&text).ok_or_else(wrong)?;
                if !cpus.is_empty() {
                    return Ok(Some(cpus));
                }
            }
        }
        Ok(None)
    }

    /// Processor time used since the cgroup was made.
    pub fn cpu_usage(&self) -> Result<Duration, Missing> {
        let place = self.cpuacct.as_ref().map_err(Clone::clone)?;
        usage(place, &place.directory)
    }

    /// The use of the cgroup that sets a processor limit, as found by [`Group::cpu_limit`].
    pub(crate) fn cpu_usage_at(&self, at: &Path) -> Result<Duration, Missing> {
        let place = self.cpuacct.as_ref().map_err(Clone::clone)?;
        // Version 1 may mount the quota and the accounting apart, with the same paths inside.
        let inside = self.cpu.as_ref().ok().and_then(|cpu| at.strip_prefix(&cpu.top).ok());
        let twin = inside.map(|inside| place.top.join(inside)).filter(|twin| twin.is_dir());
        usage(place, twin.as_deref().unwrap_or(&place.directory))
    }

    /// The memory this cgroup may use, in bytes; `None` when it is unlimited.
    pub fn memory_limit(&self) -> Result<Option<Limit<u64>>, Missing> {
        let place = self.memory.as_ref().map_err(Clone::clone)?;
        if place.v2 {
            return place.tightest(|level| files::number_or_max(&level.join("memory.max")));
        }
        place.tightest(|level| {
            let limit = files::number(&level.join("memory.limit_in_bytes"))?;
            let stat = level.join("memory.stat");
            // Says what ancestors beyond the mount allow, too.
            let inherited = optional(
                files::read(&stat).and_then(|text| files::keyed(&stat, &text, "hierarchical_memory_limit")),
            )?;
            Ok(Some(inherited.map_or(limit, |inherited| inherited.min(limit)))
                .filter(|limit| *limit < UNLIMITED))
        })
    }

    /// The memory in use.
    pub fn memory(&self) -> Result<GroupMemory, Missing> {
        let place = self.memory.as_ref().map_err(Clone::clone)?;
        self.memory_at(&place.directory)
    }

    /// The memory in use in the cgroup that sets a limit, as found by [`Group::memory_limit`].
    pub(crate) fn memory_at(&self, at: &Path) -> Result<GroupMemory, Missing> {
        let place = self.memory.as_ref().map_err(Clone::clone)?;
        let (usage, inactive, cache) = if place.v2 {
            ("memory.current", "inactive_file", "file")
        } else {
            ("memory.usage_in_bytes", "total_inactive_file", "total_cache")
        };
        let usage = files::number(&at.join(usage))?;
        let path = at.join("memory.stat");
        let stat = files::read(&path)?;
        Ok(GroupMemory {
            used: usage.saturating_sub(files::keyed(&path, &stat, inactive)?),
            cache: files::keyed(&path, &stat, cache)?,
        })
    }

    /// How many processes the kernel killed here for want of memory.
    pub fn oom_kills(&self) -> Result<u64, Missing> {
        let place = self.memory.as_ref().map_err(Clone::clone)?;
        let path = place.directory.join(if place.v2 { "memory.events" } else { "memory.oom_control" });
        files::keyed(&path, &files::read(&path)?, "oom_kill")
    }

    /// Tasks (processes and threads) that exist.
    pub fn pids(&self) -> Result<u64, Missing> {
        let place = self.pids.as_ref().map_err(Clone::clone)?;
        files::number(&place.directory.join("pids.current"))
    }

    /// Tasks that may exist; `None` when unlimited.
    pub fn pids_limit(&self) -> Result<Option<Limit<u64>>, Missing> {
        let place = self.pids.as_ref().map_err(Clone::clone)?;
        place.tightest(|level| files::number_or_max(&level.join("pids.max")))
    }

    /// The directory whose files count this cgroup's memory, for those who watch `memory.events`.
    pub fn memory_directory(&self) -> Result<&Path, Missing> {
        self.memory.as_ref().map(|place| place.directory.as_path()).map_err(Clone::clone)
    }
}

fn usage(place: &Place, directory: &Path) -> Result<Duration, Missing> {
    if place.v2 {
        let path = directory.join("cpu.stat");
        let text = files::read(&path)?;
        files::keyed(&path, &text, "usage_usec").map(Duration::from_micros)
    } else {
        files::number(&directory.join("cpuacct.usage")).map(Duration::from_nanos)
    }
}

/// `cpu.max`: quota, or `max`, and period in microseconds.
fn quota_v2(level: &Path) -> Result<Option<Amount>, Missing> {
    let path = level.join("cpu.max");
    let text = files::read(&path)?;
    let mut words = text.split_ascii_whitespace();
    match words.next() {
        Some("max") => Ok(None),
        quota => {
            let quota = files::parse(&path, quota.unwrap_or_default())?;
            let period = words.next().map_or(Ok(100_000), |period| files::parse(&path, period))?;
            cores(&path, quota, period).map(Some)
        }
    }
}

/// `cpu.cfs_quota_us`, −1 for none, and `cpu.cfs_period_us`.
fn quota_v1(level: &Path) -> Result<Option<Amount>, Missing> {
    let path = level.join("cpu.cfs_quota_us");
    let text = files::read(&path)?;
    if text.trim().starts_with('-') {
        return Ok(None);
    }
    let quota = files::parse(&path, text.trim())?;
    let period = files::number(&level.join("cpu.cfs_period_us"))?;
    cores(&path, quota, period).map(Some)
}

#[expect(clippy::cast_precision_loss, reason = "microseconds of a quota fit in 52 bits")]
fn cores(path: &Path, quota: u64, period: u64) -> Result<Amount, Missing> {
    let wrong = || Missing::malformed(path, format!("a quota of {quota} in {period} µs"));
    Amount::new(quota as f64 / period as f64).filter(|cores| cores.get() > 0.0).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_nest_by_their_dashes() {
        assert_eq!(slice("a-b-c.slice"), Path::new("a.slice/a-b.slice/a-b-c.slice"));
        assert_eq!(slice("system.slice"), Path::new("system.slice"));
    }
}
