//! This process's own figures, under the names that Prometheus clients use (runner contract 12.1), from `/proc/self` (proc(5)).

use std::fmt::Write;

/// Ticks a second in which the kernel tells times to user space, on every architecture that Linux has left.
const TICKS: f64 = 100.0;

/// The Prometheus text format. What cannot be read is left out.
pub(crate) fn prometheus() -> String {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let boot = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok().flatten();
    let page = page.and_then(|page| u64::try_from(page).ok()).unwrap_or(4096);
    // The listing is itself one descriptor.
    let open = std::fs::read_dir("/proc/self/fd").ok().map(|all| all.count().saturating_sub(1) as f64);
    let figures = figures(&stat, &boot, page).unwrap_or_default();
    let mut text = String::new();
    let all = [
        ("process_cpu_seconds_total", "counter", "Processor time.", figures.cpu_seconds),
        ("process_resident_memory_bytes", "gauge", "Resident memory.", figures.resident),
        ("process_virtual_memory_bytes", "gauge", "Address space.", figures.address_space),
        ("process_open_fds", "gauge", "Open file descriptors.", open),
        ("process_start_time_seconds", "gauge", "When it started, since 1970.", figures.started),
    ];
    for (name, kind, help, value) in all {
        if let Some(value) = value {
            super::describe(&mut text, name, kind, help);
            let _ = writeln!(text, "{name} {value}");
        }
    }
    text
}

#[derive(Debug, Default, PartialEq)]
struct Figures {
    cpu_seconds: Option<f64>,
    resident: Option<f64>,
    address_space: Option<f64>,
    started: Option<f64>,
}

fn figures(stat: &str, boot: &str, page: u64) -> Option<Figures> {
    // The program's name may hold anything; the fields after it do not hold a closing parenthesis.
    let fields: Vec<u64> =
        stat.rsplit_once(')')?.1.split_whitespace().skip(1).map(|f| f.parse().unwrap_or(0)).collect();
    // Numbered as in proc(5), of which the third (the state) was skipped.
    let field = |number: usize| fields.get(number - 4).copied();
    let booted = boot.lines().find_map(|line| line.strip_prefix("btime ")?.trim().parse::<f64>().ok());
    Some(Figures {
        cpu_seconds: Some((field(14)? + field(15)?) as f64 / TICKS),
        started: booted.zip(field(22)).map(|(booted, ticks)| booted + ticks as f64 / TICKS),
        address_space: field(23).map(|bytes| bytes as f64),
        resident: field(24).map(|pages| (pages * page) as f64),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_those_of_proc_5() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 10 20 0 0 150 50 0 0 20 0 9 0 1000 4096000 25 99 1 1";
        let found = figures(stat, "cpu 1\nbtime 1700000000\n", 4096).unwrap();
        let expected = Figures {
            cpu_seconds: Some(2.0),
            resident: Some(102_400.0),
            address_space: Some(4_096_000.0),
            started: Some(1_700_000_010.0),
        };
        assert_eq!(found, expected);
        assert_eq!(figures("nonsense", "", 4096), None);
        assert!(prometheus().contains("process_resident_memory_bytes "));
    }
}
