//! Any signal there is. nix's `Signal` is without the real-time ones, which are numbers to the kernel and have names only in libraries.

#![allow(unsafe_code)]

use std::ops::RangeInclusive;

use nix::errno::Errno;
use nix::libc;
use nix::sys::signal::Signal;
use nix::unistd::Pid;

/// What programs may use: glibc keeps 32 and 33 for itself, and names count from here. (musl keeps 34 as well, and can be sent it all the same.)
const REAL_TIME: RangeInclusive<i32> = 34..=64;

/// A signal, standard or real-time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AnySignal(i32);

impl From<Signal> for AnySignal {
    fn from(signal: Signal) -> Self {
        Self(signal as i32)
    }
}

impl AnySignal {
    /// Reads `TERM`, `sigterm`, `15`, `RTMIN`, `SIGRTMIN+3`, `RTMAX-1`, and `SIG37`, which is how a signal without a name is told.
    pub fn parse(text: &str) -> Option<Self> {
        let upper = text.trim().to_ascii_uppercase();
        let name = upper.strip_prefix("SIG").unwrap_or(&upper);
        if let Some(from) = name.strip_prefix("RTMIN") {
            return Self::real_time(*REAL_TIME.start(), from, '+');
        }
        if let Some(from) = name.strip_prefix("RTMAX") {
            return Self::real_time(*REAL_TIME.end(), from, '-');
        }
        match digits(name) {
            Some(number) => {
                let known = Signal::try_from(number).is_ok() || REAL_TIME.contains(&number);
                known.then_some(Self(number))
            }
            None => format!("SIG{name}").parse::<Signal>().ok().map(Self::from),
        }
    }

    /// The one that is so many, after `sign`, from `base`; `base` itself where nothing follows.
    fn real_time(base: i32, distance: &str, sign: char) -> Option<Self> {
        let distance = if distance.is_empty() { 0 } else { digits(distance.strip_prefix(sign)?)? };
        let number = if sign == '+' { base.checked_add(distance) } else { base.checked_sub(distance) };
        number.filter(|number| REAL_TIME.contains(number)).map(Self)
    }

    /// Its number.
    pub fn number(self) -> i32 {
        self.0
    }

    /// Sends it to a process.
    pub fn send(self, pid: Pid) -> Result<(), Errno> {
        // SAFETY: kill takes two integers and touches no memory.
        Errno::result(unsafe { libc::kill(pid.as_raw(), self.0) }).map(drop)
    }

    /// Sends it to a process group.
    pub fn send_group(self, group: Pid) -> Result<(), Errno> {
        // SAFETY: as above.
        Errno::result(unsafe { libc::killpg(group.as_raw(), self.0) }).map(drop)
    }
}

/// A number of digits alone: a sign would be `str::parse`'s idea.
fn digits(text: &str) -> Option<i32> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers() {
        for (text, number) in [
            ("TERM", 15),
            ("sigterm", 15),
            (" 15 ", 15),
            ("SIG15", 15),
            ("RTMIN", 34),
            ("SIGRTMIN", 34),
            ("sigrtmin+3", 37),
            ("SIG37", 37),
            ("37", 37),
            ("RTMAX-1", 63),
            ("SIGRTMAX", 64),
            ("64", 64),
            ("RTMIN+30", 64),
            ("RTMAX-30", 34),
        ] {
            assert_eq!(AnySignal::parse(text), Some(AnySignal(number)), "{text}");
        }
        for text in [
            "",
            "SIG",
            "0",
            "65",
            "99",
            "-9",
            "+9",
            "32",
            "TERMINATE",
            "RTMIN-1",
            "RTMIN+31",
            "RTMAX-31",
            "RTMAX+1",
            "RTMIN++1",
            "RTMIN+-1",
            "RTMIN+",
            "RTMIN+99999999999",
            "RTMINX",
            "SIGSIGTERM",
        ] {
            assert_eq!(AnySignal::parse(text), None, "{text}");
        }
    }
}
