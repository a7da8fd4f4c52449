//! Signals under the names that SSH gives them (RFC 4254, section 6.9).

use nix::sys::signal::Signal;
use pinfold_spawn::{AnySignal, Process};

const NAMED: [&str; 13] =
    ["ABRT", "ALRM", "FPE", "HUP", "ILL", "INT", "KILL", "PIPE", "QUIT", "SEGV", "TERM", "USR1", "USR2"];

/// The signal with this name, without `SIG`. Names beyond the RFC's are understood too, and our own for real-time signals; nonsense is not.
pub(super) fn by_name(name: &str) -> Option<AnySignal> {
    let name = name.split('@').next().unwrap_or(name);
    let number = name.strip_prefix("RT").filter(|number| number.bytes().all(|byte| byte.is_ascii_digit()));
    AnySignal::parse(number.unwrap_or(name))
}

/// The RFC's name of a signal, or one in its form for names of one's own.
pub(super) fn protocol_name(number: i32) -> String {
    match Signal::try_from(number) {
        Ok(signal) => {
            let name = signal.as_str().trim_start_matches("SIG");
            if NAMED.contains(&name) { name.to_owned() } else { format!("{name}@openssh.com") }
        }
        Err(_) => format!("RT{number}@openssh.com"),
    }
}

/// Tells a process's group that its client is gone; a stopped group must run to hear it.
pub(super) fn hang_up(process: &Process) {
    for signal in [Signal::SIGHUP, Signal::SIGCONT] {
        if let Err(error) = process.signal_group(signal) {
            tracing::debug!(pid = process.pid().as_raw(), %error, "could not hang up a session's process");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_go_both_ways() {
        for name in NAMED {
            let signal = by_name(name).unwrap();
            assert_eq!(protocol_name(signal.number()), name);
        }
        assert_eq!(protocol_name(Signal::SIGBUS as i32), "BUS@openssh.com");
        assert_eq!(by_name("BUS@openssh.com"), Some(Signal::SIGBUS.into()));
        assert_eq!(protocol_name(40), "RT40@openssh.com");
        assert_eq!(by_name("RT40@openssh.com"), AnySignal::parse("RTMIN+6"));
        assert_eq!(by_name("NONSENSE"), None);
    }
}
