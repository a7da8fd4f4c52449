//! What this process may use: the machine's processors and memory, less what its cgroups take away.
//!
//! A limit is compared with the use of the cgroup that sets it, since all its members share it.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::files::{Missing, optional};
use crate::{Amount, Group, Kernel, Percent};

/// Whose use counts where no cgroup sets a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// The whole machine's: for a runner, to whose sandboxes the machine belongs. What limits the runner's own systemd service does not limit them,
    /// because the engine keeps its containers beside the service and not in it; what limits the slice around both does.
    Node,
    /// This process's cgroup's: for a daemon, which speaks for its container.
    Container,
}

/// The machine as one process may use it.
#[derive(Debug, Clone)]
pub struct Machine {
    kernel: Kernel,
    scope: Scope,
}

/// Memory in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// The smaller of the machine's memory and the tightest limit; never 0.
    pub total: u64,
    /// Without reclaimable page cache; at most `total`.
    pub used: u64,
    /// Page cache.
    pub cache: u64,
}

impl Memory {
    /// used ÷ total.
    pub fn used_percent(&self) -> Option<Percent> {
        Percent::of_bytes(self.used, self.total)
    }
}

impl Machine {
    /// What this process may use, as `kernel` tells.
    pub fn new(kernel: Kernel, scope: Scope) -> Self {
        Self { kernel, scope }
    }

    /// The files it is read from.
    pub fn kernel(&self) -> &Kernel {
        &self.kernel
    }

    /// This process's cgroup, for a node without its unit; `None` where there are no cgroups at all.
    fn group(&self) -> Result<Option<Group>, Missing> {
        let own = optional(self.kernel.own())?;
        Ok(match self.scope {
            Scope::Node => own.map(Group::without_service),
            Scope::Container => own,
        })
    }

    /// The processors this process may run on, at least one.
    pub fn cpus(&self) -> Result<u32, Missing> {
        let cpus = self.allowed(self.group()?.as_ref())?;
        Ok(u32::try_from(cpus.0.len()).unwrap_or(u32::MAX))
    }

    /// Processor time that may be used each second, in cores, more than 0: the processors, or a smaller quota.
    pub fn cpu_limit(&self) -> Result<Amount, Missing> {
        Ok(self.cpu()?.0)
    }

    /// Processor time used so far, and the limit it counts against. The origin is arbitrary: only differences count.
    pub(crate) fn cpu(&self) -> Result<(Amount, Duration), Missing> {
        let group = self.group()?;
        let (cpus, busy) = self.allowed(group.as_ref())?;
        let all = Amount::count(u32::try_from(cpus.len()).unwrap_or(u32::MAX));
        let Some(group) = group else { return Ok((all, busy)) };
        if let Some(limit) = optional(group.cpu_limit())?.flatten().filter(|limit| limit.value < all) {
            return Ok((limit.value, group.cpu_usage_at(&limit.at)?));
        }
        let used = match self.scope {
            Scope::Node => None,
            Scope::Container => optional(group.cpu_usage())?,
        };
        Ok((all, used.unwrap_or(busy)))
    }

    /// The online processors of the cpuset, with their busy time.
    fn allowed(&self, group: Option<&Group>) -> Result<(BTreeSet<u32>, Duration), Missing> {
        let mut processors = self.kernel.processors()?;
        if let Some(set) = group.map(Group::cpu_set).transpose()?.flatten() {
            // A set with no online processor cannot be this process's.
            if processors.iter().any(|processor| set.contains(&processor.cpu)) {
                processors.retain(|processor| set.contains(&processor.cpu));
            }
        }
        let busy = processors.iter().fold(Duration::ZERO, |sum, one| sum.saturating_add(one.busy));
        Ok((processors.into_iter().map(|processor| processor.cpu).collect(), busy))
    }

    /// The memory that may be used and that is used.
    pub fn memory(&self) -> Result<Memory, Missing> {
        let host = self.kernel.host_memory()?;
        let whole = Memory { total: host.total, used: host.used, cache: host.cache };
        let Some(group) = self.group()? else { return Ok(whole) };
        let within = |total: u64, memory: crate::GroupMemory| Memory {
            total,
            used: memory.used.min(total),
            cache: memory.cache.min(total),
        };
        if let Some(limit) =
            optional(group.memory_limit())?.flatten().filter(|limit| limit.value < host.total)
        {
            return Ok(within(limit.value.max(1), group.memory_at(&limit.at)?));
        }
        Ok(match self.scope {
            Scope::Node => whole,
            Scope::Container => optional(group.memory())?.map_or(whole, |memory| within(host.total, memory)),
        })
    }
}
