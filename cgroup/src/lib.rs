//! CPU, memory, process and disk figures from cgroup v1, v2 and hybrid hosts, `/proc` and statfs.
//!
//! The host's totals are wrong for a process that a cgroup limits, and a container sees its limits under other
//! paths than its host does. This crate finds the right files and reads them, and knows neither Docker nor HTTP.
//!
//! Invariants:
//! * no figure is negative, infinite or NaN: the types cannot hold one ([`Amount`], [`Percent`], unsigned integers);
//! * a figure that cannot be read is a [`Missing`], which names the file and the reason; it is never a guess;
//! * a limit of any visible ancestor counts, and is measured where it applies ([`Limit::at`]);
//! * nothing is cached: each call reads the kernel's files, some tens of microseconds' work.

mod amount;
mod disk;
mod files;
mod group;
mod host;
mod machine;
mod mounts;
mod sampler;

pub use amount::{Amount, Percent};
pub use disk::Disk;
pub use files::{Cause, Missing};
pub use group::{Group, GroupMemory, Limit};
pub use host::{Load, Times};
pub use machine::{Machine, Memory, Scope};
pub use mounts::Kernel;
pub use sampler::{CpuReading, CpuSampler};
