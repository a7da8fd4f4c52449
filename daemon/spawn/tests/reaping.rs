//! Statuses are right and nothing is left behind, however children die. One test function: the reaper owns every child of the test process.

#![allow(clippy::unwrap_used)]

use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pinfold_spawn::tree::{self, Mark, Scope};
use pinfold_spawn::{Exit, Process, Spawner, pidfd};

fn sh(script: &str) -> Command {
    let mut command = Command::new("/bin/dash");
    command.args(["-c", script]).process_group(0).stdin(Stdio::null());
    command
}

fn children() -> Vec<tree::Entry> {
    let own = std::process::id().cast_signed();
    tree::all().into_iter().filter(|e| e.parent == own).collect()
}

fn count(directory: &str) -> usize {
    std::fs::read_dir(directory).unwrap().count()
}

/// Waits for `condition`, at most ten seconds.
async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(60), "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn read(fd: &mut Option<OwnedFd>) -> String {
    let mut text = String::new();
    std::fs::File::from(fd.take().unwrap()).read_to_string(&mut text).unwrap();
    text
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_process_core() {
    let spawner = Spawner::start().unwrap();
    every_code_and_every_signal(&spawner).await;
    many_short_lives(&spawner).await;
    adopted_orphans(&spawner).await;
    families(&spawner).await;
    missing_things(&spawner);
    victims(&spawner).await;
    no_zombies_block_others(&spawner).await;
}

async fn every_code_and_every_signal(spawner: &Spawner) {
    for code in 0..=255 {
        let process = spawner.spawn(sh(&format!("exit {code}"))).unwrap();
        assert_eq!(process.wait().await, Exit::Code(code));
    }
    // 32 and 33 belong to the C library; stopping signals and those ignored by default do not kill.
    let deadly = (1..=64).filter(|s| ![17, 18, 19, 20, 21, 22, 23, 28, 32, 33].contains(s));
    for signal in deadly {
        let process = spawner.spawn(sh(&format!("kill -{signal} $$; sleep 10"))).unwrap();
        let exit = process.wait().await;
        assert_eq!(exit, Exit::Signal(signal));
        assert_eq!(exit.shell_code(), 128 + signal);
    }
}

/// Ten thousand processes, thirty-two at a time, racing the reaper: each status is its own.
async fn many_short_lives(spawner: &Spawner) {
    until("the children so far", || children().is_empty()).await;
    let (fds, threads) = (count("/proc/self/fd"), count("/proc/self/task"));
    let workers: Vec<_> = (0..32)
        .map(|worker| {
            let spawner = spawner.clone();
            tokio::spawn(async move {
                for round in 0..313 {
                    let code = (worker * 7 + round) % 256;
                    let process = spawner.spawn(sh(&format!("exit {code}"))).unwrap();
                    assert_eq!(process.wait().await, Exit::Code(code));
                }
            })
        })
        .collect();
    for worker in workers {
        worker.await.unwrap();
    }
    until("the last of ten thousand children", || children().is_empty()).await;
    assert_eq!((count("/proc/self/fd"), count("/proc/self/task")), (fds, threads));
}

/// A double fork ends up as our child and is reaped; an orphan that lives on is left alone.
async fn adopted_orphans(spawner: &Spawner) {
    let mut command = sh("(setsid sleep 0.05 & setsid sleep 100 & echo $!) | head -1");
    command.stdout(Stdio::piped());
    let mut process = spawner.spawn(command).unwrap();
    assert_eq!(process.wait().await, Exit::Code(0));
    let pid = read(&mut process.stdout).trim().parse().unwrap();
    until("the short orphan to be reaped and the long one adopted", || {
        let left = children();
        left.len() == 1 && left[0].pid == pid && left[0].name == "sleep"
    })
    .await;
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    pidfd::ended(Pid::from_raw(pid), Duration::from_millis(1)).await;
    until("the long orphan to be reaped", || children().is_empty()).await;
}

/// What left its tree by a double fork and a session of its own, or with no environment left, is killed with the rest, and nothing else is.
async fn families(spawner: &Spawner) {
    let bystander = spawner.spawn(sh("sleep 100")).unwrap();
    let mark = Mark::new("reaping-test-1");
    let mut command =
        sh("setsid sh -c 'sleep 101 & sleep 102' & (setsid sleep 103 &) ; (env -i sleep 105 &) ; sleep 104");
    mark.apply(&mut command);
    let process = spawner.spawn(command).unwrap();
    let names = |process: &Process| process.family(&mark).iter().filter(|e| e.name == "sleep").count();
    until("the whole family to run", || names(&process) == 5).await;
    process.kill_family(&mark, Scope::Everything);
    assert_eq!(process.wait().await, Exit::Signal(9));
    until("the family's end", || process.family(&mark).is_empty() && children().len() == 1).await;
    assert_eq!(bystander.exited(), None);
    bystander.kill_tree();
    assert_eq!(bystander.wait().await, Exit::Signal(9));
    // Its pid is not its own any more: nothing may happen to whoever has it now.
    bystander.signal(Signal::SIGKILL).unwrap();
}

fn missing_things(spawner: &Spawner) {
    let error = spawner.spawn(Command::new("/nowhere/at-all")).unwrap_err();
    assert!(error.to_string().contains("/nowhere/at-all"), "{error}");
    let mut command = sh("true");
    command.current_dir("/nowhere");
    let error = spawner.spawn(command).unwrap_err();
    assert!(error.to_string().contains("/nowhere"), "{error}");
}

/// When memory runs out, a child goes before this process does.
async fn victims(spawner: &Spawner) {
    let own: i32 = std::fs::read_to_string("/proc/self/oom_score_adj").unwrap().trim().parse().unwrap();
    let mut command = sh("sleep 0.2; cat /proc/self/oom_score_adj");
    command.stdout(Stdio::piped());
    let mut process = spawner.spawn(command).unwrap();
    process.wait().await;
    let childs: i32 = read(&mut process.stdout).trim().parse().unwrap();
    assert!(childs >= 0 && childs > own, "{childs} {own}");
}

/// A zombie that died of a real-time signal must not stand in front of the others.
async fn no_zombies_block_others(spawner: &Spawner) {
    let first = spawner.spawn(sh("kill -40 $$; sleep 10")).unwrap();
    let second = spawner.spawn(sh("exit 3")).unwrap();
    assert_eq!((first.wait().await, second.wait().await), (Exit::Signal(40), Exit::Code(3)));
    until("an empty process table", || children().is_empty()).await;
}
