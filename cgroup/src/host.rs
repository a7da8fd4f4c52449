//! What the kernel says of the whole machine in `/proc`: processors, memory, load.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use crate::files::{self, Missing};
use crate::{Amount, Kernel};

/// Ticks a second of the times in `/proc/stat`: USER_HZ, 100 on every architecture that Rust's Linux targets have.
const MILLISECONDS_PER_TICK: u64 = 10;

/// Load averages: the mean number of tasks running or waiting, over 1, 5 and 15 minutes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Load {
    /// Over one minute.
    pub one: Amount,
    /// Over five minutes.
    pub five: Amount,
    /// Over fifteen minutes.
    pub fifteen: Amount,
}

/// One processor's busy time since boot, from `/proc/stat`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Times {
    /// The processor's number.
    pub cpu: u32,
    /// Time that was not idle and did not wait for a disk.
    pub busy: Duration,
}

pub(crate) struct HostMemory {
    pub(crate) total: u64,
    pub(crate) used: u64,
    pub(crate) cache: u64,
}

impl Kernel {
    /// The machine's load averages (`/proc/loadavg`). They are the host's even inside a container.
    pub fn load(&self) -> Result<Load, Missing> {
        let path = self.path("/proc/loadavg");
        let text = files::read(&path)?;
        let mut words = text.split_ascii_whitespace();
        let mut next = || {
            let word = words.next().unwrap_or_default();
            let reason = || format!("{:?} is not a load average", files::shortened(word));
            word.parse().ok().and_then(Amount::new).ok_or_else(|| Missing::malformed(&path, reason()))
        };
        Ok(Load { one: next()?, five: next()?, fifteen: next()? })
    }

    /// The online processors and their busy times (`/proc/stat`).
    pub fn processors(&self) -> Result<Vec<Times>, Missing> {
        let path = self.path("/proc/stat");
        let text = files::read(&path)?;
        let mut processors = Vec::new();
        for line in text.lines() {
            let Some(rest) = line.strip_prefix("cpu") else { continue };
            let mut words = rest.split(' ').filter(|word| !word.is_empty());
            // The line without a number is the sum of the others.
            let Some(cpu) = words.next().filter(|_| rest.starts_with(|c: char| c.is_ascii_digit())) else {
                continue;
            };
            let cpu = u32::try_from(files::parse(&path, cpu)?)
                .map_err(|_| Missing::malformed(&path, "a processor's number is out of range"))?;
            processors.push(Times { cpu, busy: busy(&path, words)? });
        }
        if processors.is_empty() {
            return Err(Missing::malformed(&path, "names no processor"));
        }
        Ok(processors)
    }

    pub(crate) fn host_memory(&self) -> Result<HostMemory, Missing> {
        let path = self.path("/proc/meminfo");
        let text = files::read(&path)?;
        let bytes = |key| files::keyed(&path, &text, key).map(|kibibytes| kibibytes.saturating_mul(1024));
        let total = bytes("MemTotal:")?;
        if total == 0 {
            return Err(Missing::malformed(&path, "MemTotal is 0"));
        }
        let used = total.saturating_sub(bytes("MemAvailable:")?);
        let cache = bytes("Cached:")?.saturating_add(bytes("Buffers:")?);
        Ok(HostMemory { total, used, cache })
    }
}

/// user + nice + system + irq + softirq + steal; guest time is in user already, idle and iowait are not busy.
fn busy<'a>(path: &Path, words: impl Iterator<Item = &'a str>) -> Result<Duration, Missing> {
    let mut ticks: u64 = 0;
    for (column, word) in words.take(8).enumerate() {
        if !matches!(column, 3 | 4) {
            ticks = ticks.saturating_add(files::parse(path, word)?);
        }
    }
    Ok(Duration::from_millis(ticks.saturating_mul(MILLISECONDS_PER_TICK)))
}

/// A kernel list such as `0-3,8`. Nothing for text that is no such list, or one of more than a million.
pub(crate) fn cpu_list(text: &str) -> Option<BTreeSet<u32>> {
    let mut cpus = BTreeSet::new();
    for part in text.trim().split(',').filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u32, u32) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        if last < first || last - first > 1_000_000 {
            return None;
        }
        cpus.extend(first..=last);
    }
    Some(cpus)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_processors() {
        assert_eq!(cpu_list("0-2,8\n"), Some([0, 1, 2, 8].into()));
        assert_eq!(cpu_list(""), Some([].into()));
        assert_eq!(cpu_list("3-1"), None);
        assert_eq!(cpu_list("0-4294967295"), None);
        assert_eq!(cpu_list("a"), None);
    }

    #[test]
    fn waiting_for_a_disk_is_not_busy() {
        let words = "1 2 3 1000 2000 4 5 6 70 80".split(' ');
        assert_eq!(busy(Path::new("stat"), words), Ok(Duration::from_millis(210)));
    }
}
