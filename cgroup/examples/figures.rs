//! Prints what this process may use and what it uses. `figures burn` computes meanwhile; `figures wait` ends when its input does.

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use pinfold_cgroup::{CpuSampler, Kernel, Machine, Scope};

fn main() -> std::io::Result<()> {
    let mode = std::env::args().nth(1).unwrap_or_default();
    let kernel = Kernel::default();
    let mut out = std::io::stdout().lock();
    for (name, scope) in [("node", Scope::Node), ("container", Scope::Container)] {
        let machine = Machine::new(kernel.clone(), scope);
        writeln!(out, "{name} cpus {}", shown(machine.cpus()))?;
        writeln!(out, "{name} cores {}", shown(machine.cpu_limit().map(pinfold_cgroup::Amount::get)))?;
        writeln!(out, "{name} memory {}", shown(machine.memory().map(|memory| memory.total)))?;
        writeln!(out, "{name} used {}", shown(machine.memory().map(|memory| memory.used)))?;
        let mut sampler = CpuSampler::new(machine, Duration::from_millis(1500));
        let mut last = sampler.sample();
        if mode == "burn" {
            // Whole scheduler periods, in which a quota is used up.
            let end = Instant::now() + Duration::from_millis(1500);
            while Instant::now() < end {
                std::hint::spin_loop();
            }
        } else {
            std::thread::sleep(sampler.due());
        }
        if let Ok(None) = last {
            last = sampler.sample();
        }
        writeln!(
            out,
            "{name} cpu {}",
            shown(last.map(|percent| percent.map_or(-1.0, pinfold_cgroup::Percent::get)))
        )?;
    }
    let group = kernel.own();
    let pids = group.and_then(|group| group.pids_limit()).map(|limit| limit.map_or(0, |limit| limit.value));
    writeln!(out, "pids {}", shown(pids))?;
    writeln!(out, "disk {}", shown(kernel.disk("/").map(|disk| disk.total)))?;
    writeln!(out, "load {}", shown(kernel.load().map(|load| load.one.get())))?;
    out.flush()?;
    if mode == "wait" {
        std::io::stdin().read_to_end(&mut Vec::new())?;
    }
    Ok(())
}

fn shown<T: std::fmt::Display>(figure: Result<T, pinfold_cgroup::Missing>) -> String {
    figure.map_or_else(|missing| format!("missing: {missing}"), |figure| figure.to_string())
}
