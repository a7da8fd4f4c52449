//! Children begin with default signals, whatever the daemon was started with. A process of its own: it changes what it ignores.
#![allow(unsafe_code, clippy::unwrap_used)]

use std::io::Read;
use std::process::{Command, Stdio};

use nix::sys::signal::{SigHandler, Signal, signal};
use pinfold_spawn::{Exit, Spawner};

#[tokio::test]
async fn what_the_daemon_was_told_to_ignore_its_children_do_not() {
    for number in [Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT, Signal::SIGUSR1] {
        // SAFETY: no handler is called; the signal is ignored, as `nohup` and a shell's `&` do.
        unsafe { signal(number, SigHandler::SigIgn) }.unwrap();
    }
    let spawner = Spawner::start().unwrap();
    let mut command = Command::new("/bin/grep");
    command.args(["SigIgn", "/proc/self/status"]).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut process = spawner.spawn(command).unwrap();
    let mut output = String::new();
    std::fs::File::from(process.stdout.take().unwrap()).read_to_string(&mut output).unwrap();
    assert_eq!(process.wait().await, Exit::Code(0));
    let ignored = u64::from_str_radix(output.trim_start_matches("SigIgn:").trim(), 16).unwrap();
    // The C library keeps the first real-time signals to itself.
    assert_eq!(ignored & 0x7fff_ffff, 0, "{output}");
}
