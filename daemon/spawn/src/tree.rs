//! The process tree, read from `/proc` on demand.

use std::collections::HashMap;

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;

/// Every descendant of `root` that exists now, parents before children; `root` itself is not among them.
pub fn descendants(root: Pid) -> Vec<Pid> {
    let mut children: HashMap<i32, Vec<i32>> = HashMap::new();
    for (pid, parent) in processes() {
        children.entry(parent).or_default().push(pid);
    }
    let mut found = Vec::new();
    let mut next = vec![root.as_raw()];
    while let Some(pid) = next.pop() {
        for child in children.remove(&pid).unwrap_or_default() {
            found.push(Pid::from_raw(child));
            next.push(child);
        }
    }
    found
}

/// Signals every descendant of `root` (deepest first), then the group that `root` leads, then `root`.
///
/// `root` must not have been waited for, or its pid may be somebody else's.
pub fn kill_tree(root: Pid, signal: Signal) {
    for pid in descendants(root).into_iter().rev() {
        let _ = kill(pid, signal);
    }
    let _ = killpg(root, signal);
    let _ = kill(root, signal);
}

/// All processes with their parents.
fn processes() -> Vec<(i32, i32)> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.filter_map(|e| e.ok()?.file_name().to_str()?.parse::<i32>().ok());
    pids.filter_map(|pid| Some((pid, parent_of(pid)?))).collect()
}

fn parent_of(pid: i32) -> Option<i32> {
    let stat = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
    parse_parent(&stat)
}

/// The fourth field of `/proc/<pid>/stat`; the second is in parentheses and may hold anything, so the last `)` counts.
fn parse_parent(stat: &[u8]) -> Option<i32> {
    let after = &stat[stat.iter().rposition(|b| *b == b')')? + 1..];
    std::str::from_utf8(after).ok()?.split_ascii_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_parent_behind_any_name() {
        assert_eq!(parse_parent(b"7 (a) b) S 3 7 7 0"), Some(3));
        assert_eq!(parse_parent(b"7 (sh"), None);
    }
}
