//! The process tree, read from `/proc` on demand.

use std::collections::{HashMap, HashSet};

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;

/// One process, from `/proc/<pid>/stat`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Process id.
    pub pid: i32,
    /// Its parent's.
    pub parent: i32,
    /// Its process group's.
    pub group: i32,
    /// Its session's.
    pub session: i32,
    /// When it started, in clock ticks since boot.
    pub started: u64,
    /// State letter: `R`, `S`, `D`, `T`, `Z` and others.
    pub state: char,
    /// The executable's name, at most 15 bytes.
    pub name: String,
}

/// The time since boot in clock ticks, as [`Entry::started`] counts it; 0 where the kernel does not tell.
pub fn now() -> u64 {
    let uptime = std::fs::read_to_string("/proc/uptime").unwrap_or_default();
    let seconds = uptime.split(' ').next().unwrap_or_default();
    // `12345.67`: hundredths are ticks (USER_HZ is 100 on every Linux that Rust has).
    seconds.replacen('.', "", 1).parse().unwrap_or(0)
}

/// Every process that this mount of `/proc` shows. Zombies are among them.
pub fn all() -> Vec<Entry> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.filter_map(|e| e.ok()?.file_name().to_str()?.parse::<i32>().ok());
    pids.filter_map(entry).collect()
}

/// Those below `roots` (which are not among them), parents before children.
pub fn below(all: &[Entry], roots: impl IntoIterator<Item = i32>) -> Vec<Entry> {
    let mut children: HashMap<i32, Vec<&Entry>> = HashMap::new();
    for entry in all {
        children.entry(entry.parent).or_default().push(entry);
    }
    let mut found = Vec::new();
    let mut next: Vec<i32> = roots.into_iter().collect();
    while let Some(pid) = next.pop() {
        for child in children.remove(&pid).unwrap_or_default() {
            next.push(child.pid);
            found.push(child.clone());
        }
    }
    found
}

/// What the process's first thread has started and not waited for, as the kernel lists it: for a look at one process, as all of `/proc` costs more.
pub(crate) fn children(pid: Pid) -> Vec<Pid> {
    let listed = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    listed.split_ascii_whitespace().filter_map(|pid| Some(Pid::from_raw(pid.parse().ok()?))).collect()
}

/// Every descendant of `root` that exists now, parents before children; `root` itself is not among them.
pub fn descendants(root: Pid) -> Vec<Pid> {
    below(&all(), [root.as_raw()]).into_iter().map(|e| Pid::from_raw(e.pid)).collect()
}

/// Signals the group that `root` leads, `root`, and every descendant of it: ancestors first, so that none lives to act on its child's death.
///
/// `root` must not have been waited for, or its pid may be somebody else's.
pub fn kill_tree(root: Pid, signal: Signal) {
    let descendants = descendants(root);
    let _ = killpg(root, signal);
    let _ = kill(root, signal);
    for pid in descendants {
        let _ = kill(pid, signal);
    }
}

/// Whether the process has ended but nobody has waited for it.
pub fn is_zombie(pid: Pid) -> bool {
    entry(pid.as_raw()).is_some_and(|e| e.state == 'Z')
}

/// A variable in the environment of a command, by which its descendants are known even after they have left its tree (by a double fork) and its
/// session: they become this process's children then, and still carry it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mark {
    value: String,
}

impl Mark {
    /// The variable's name.
    pub const NAME: &str = "PINFOLD_COMMAND";

    /// A mark with this value, which has to be unique.
    pub fn new(value: impl Into<String>) -> Self {
        Self { value: value.into() }
    }

    /// Marks what `command` will start.
    pub fn apply(&self, command: &mut std::process::Command) {
        command.env(Self::NAME, &self.value);
    }

    fn is_on(&self, pid: i32) -> bool {
        let Ok(environment) = std::fs::read(format!("/proc/{pid}/environ")) else { return false };
        let wanted = format!("{}={}", Self::NAME, self.value);
        environment.split(|b| *b == 0).any(|variable| variable == wanted.as_bytes())
    }
}

/// A command's processes: what descends from `root`, and what left the tree but carries the mark, or is in the group or the session that `root` leads.
/// Zombies are left out, and so is `root`. Once `root` has been reaped its number may be another leader's: then `leads` has to be false.
pub(crate) fn family(root: Pid, mark: &Mark, leads: bool) -> Vec<Entry> {
    let all = all();
    let own = std::process::id().cast_signed();
    let led = |e: &Entry| leads && (e.group == root.as_raw() || e.session == root.as_raw());
    let orphans =
        all.iter().filter(|e| (e.parent == own || e.parent == 1) && e.pid != root.as_raw() && e.pid != own);
    let orphans: Vec<&Entry> = orphans.filter(|e| e.state != 'Z' && (led(e) || mark.is_on(e.pid))).collect();
    let below = below(&all, orphans.iter().map(|e| e.pid).chain(leads.then_some(root.as_raw())));
    let mut seen = HashSet::new();
    let both = orphans.into_iter().cloned().chain(below);
    both.filter(|e| e.state != 'Z' && seen.insert(e.pid)).collect()
}

/// Which of a command's processes are meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// All of them.
    Everything,
    /// Those that have not detached themselves: neither into a session of their own (`setsid`) nor from hang-ups (`nohup`), nor below one that has.
    Attached,
}

/// Those of `root`'s `family` that `scope` means.
pub(crate) fn within(scope: Scope, root: Pid, family: Vec<Entry>) -> Vec<Entry> {
    if scope == Scope::Everything {
        return family;
    }
    // Children inherit what is ignored: if the root ignores hang-ups, that says nothing of the rest.
    let nohup_tells = !ignores_hangup(root.as_raw());
    let session = entry(root.as_raw()).map(|root| root.session);
    // A session that the root led keeps its number when the root is gone, and so nobody else can have it.
    let led = || family.iter().any(|process| process.session == root.as_raw()).then_some(root.as_raw());
    let own = || entry(std::process::id().cast_signed()).map(|own| own.session);
    let session = session.or_else(led).or_else(own);
    attached(family, |process| {
        session.is_some_and(|session| process.session != session)
            || (nohup_tells && ignores_hangup(process.pid))
    })
}

/// Leaves out what `is_detached`, and everything below it. Parents come before their children.
fn attached(family: Vec<Entry>, is_detached: impl Fn(&Entry) -> bool) -> Vec<Entry> {
    let mut detached = HashSet::new();
    let (left, attached): (Vec<_>, Vec<_>) = family.into_iter().partition(|process| {
        let below = detached.contains(&process.parent);
        if below || is_detached(process) {
            detached.insert(process.pid);
        }
        detached.contains(&process.pid)
    });
    tracing::debug!(detached = left.len(), "detached processes are spared");
    attached
}

/// Whether the process ignores `SIGHUP`: bit 0 of `SigIgn` in `/proc/<pid>/status`.
fn ignores_hangup(pid: i32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask & 1 == 1)
}

fn entry(pid: i32) -> Option<Entry> {
    parse(&std::fs::read(format!("/proc/{pid}/stat")).ok()?)
}

/// `pid (name) state parent group session …`; the name may hold anything, so the last `)` counts.
fn parse(stat: &[u8]) -> Option<Entry> {
    let (open, close) = (stat.iter().position(|b| *b == b'(')?, stat.iter().rposition(|b| *b == b')')?);
    let pid = std::str::from_utf8(&stat[..open]).ok()?.trim().parse().ok()?;
    let mut fields = std::str::from_utf8(stat.get(close + 1..)?).ok()?.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    let mut number = || fields.next()?.parse().ok();
    Some(Entry {
        pid,
        parent: number()?,
        group: number()?,
        session: number()?,
        started: fields.nth(15).and_then(|ticks| ticks.parse().ok()).unwrap_or(0),
        state,
        name: String::from_utf8_lossy(stat.get(open + 1..close)?).into_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_past_any_name() {
        let entry = parse(b"7 (a) b) S 3 7 7 0").unwrap();
        assert_eq!(
            (entry.pid, entry.parent, entry.group, entry.state, entry.name.as_str()),
            (7, 3, 7, 'S', "a) b")
        );
        for bad in [&b"7 (sh"[..], b")7 (", b"", b"7 (sh) "] {
            assert_eq!(parse(bad), None);
        }
    }

    #[test]
    fn what_is_below_a_detached_process_is_detached() {
        let entry = |pid, parent, session| Entry {
            pid,
            parent,
            group: 0,
            session,
            started: 0,
            state: 'S',
            name: String::new(),
        };
        // 3 called setsid and its child 4 came back; 6 belongs to the shell.
        let family = vec![entry(3, 2, 3), entry(4, 3, 1), entry(6, 2, 1), entry(7, 6, 1)];
        let left = attached(family, |process| process.session != 1);
        assert_eq!(left.iter().map(|e| e.pid).collect::<Vec<_>>(), [6, 7]);
    }

    #[test]
    fn what_is_attached_to_a_terminal_stays_so_when_its_shell_has_gone() {
        // No process has these numbers (`PID_MAX_LIMIT`).
        let process = |pid, session| Entry {
            pid: (1 << 22) + pid,
            parent: 1,
            group: 0,
            session: (1 << 22) + session,
            started: 0,
            state: 'S',
            name: String::new(),
        };
        let family = vec![process(2, 1), process(3, 3)];
        let left = within(Scope::Attached, Pid::from_raw((1 << 22) + 1), family.clone());
        assert_eq!(left, family[..1]);
        assert_eq!(within(Scope::Everything, Pid::from_raw((1 << 22) + 1), family.clone()), family);
    }

    #[test]
    fn walks_down_from_several_roots() {
        let entry = |pid, parent| Entry {
            pid,
            parent,
            group: 0,
            session: 0,
            started: 0,
            state: 'S',
            name: String::new(),
        };
        let all = [entry(2, 1), entry(3, 2), entry(4, 3), entry(5, 1), entry(6, 5)];
        let pids: Vec<i32> = below(&all, [2, 6]).iter().map(|e| e.pid).collect();
        assert_eq!(pids, [3, 4]);
    }
}
