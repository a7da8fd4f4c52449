//! `waitid`, called directly: nix cannot decode the death by a real-time signal and fails instead, which would leave that zombie in front of all others.

#![allow(unsafe_code)]

use std::io;
use std::mem::MaybeUninit;

use nix::libc::{
    CLD_EXITED, P_ALL, P_PID, WEXITED, WNOHANG, WNOWAIT, c_int, id_t, idtype_t, siginfo_t, waitid,
};
use nix::unistd::Pid;

use crate::Exit;

/// A dead child that nobody has waited for yet, left as it is; nothing when there is none (or no child at all).
pub(crate) fn peek() -> Option<(Pid, Exit)> {
    call(P_ALL, 0, WEXITED | WNOHANG | WNOWAIT)
}

/// Frees a dead child's pid.
pub(crate) fn free(pid: Pid) {
    if let Ok(id) = id_t::try_from(pid.as_raw()) {
        let _ = call(P_PID, id, WEXITED | WNOHANG);
    }
}

fn call(kind: idtype_t, id: id_t, options: c_int) -> Option<(Pid, Exit)> {
    loop {
        let mut info = MaybeUninit::<siginfo_t>::zeroed();
        // SAFETY: `info` is writable and as large as the kernel expects; all bytes zero is a valid siginfo_t.
        let (result, info) = unsafe { (waitid(kind, id, info.as_mut_ptr(), options), info.assume_init()) };
        if result != 0 {
            match io::Error::last_os_error().kind() {
                io::ErrorKind::Interrupted => continue,
                _ => return None,
            }
        }
        // SAFETY: waitid fills in the fields of a SIGCHLD; with WNOHANG and nothing to report they stay zero.
        let (pid, status) = unsafe { (info.si_pid(), info.si_status()) };
        let exit = if info.si_code == CLD_EXITED { Exit::Code(status) } else { Exit::Signal(status) };
        return (pid != 0).then(|| (Pid::from_raw(pid), exit));
    }
}
