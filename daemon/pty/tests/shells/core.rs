//! The PTY core with real processes: sizes, end-of-file, exit statuses, and large input both ways.

use std::process::Command;

use crate::common::sandbox;
use pinfold_pty::{Pty, PtyMaster, Size};
use pinfold_spawn::{Exit, Process, Sandbox};
use pinfold_testing::DEADLINE;
use tokio::time::timeout;

fn sh(sandbox: &Sandbox, script: &str) -> (Process, PtyMaster) {
    let mut command = Command::new("sh");
    command.args(["-c", script]);
    Pty::spawn(sandbox, command, Size::new(100, 40)).unwrap()
}

async fn read_to_end(master: &PtyMaster) -> Vec<u8> {
    let mut all = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        match timeout(DEADLINE, master.read(&mut buffer)).await.expect("the terminal's end-of-file").unwrap()
        {
            0 => return all,
            n => all.extend_from_slice(&buffer[..n]),
        }
    }
}

async fn read_until(master: &PtyMaster, wanted: &str) -> String {
    let mut all = Vec::new();
    let mut buffer = [0; 4096];
    while !String::from_utf8_lossy(&all).contains(wanted) {
        let n = timeout(DEADLINE, master.read(&mut buffer))
            .await
            .unwrap_or_else(|_| panic!("output {wanted:?}"))
            .unwrap();
        assert_ne!(n, 0, "ended before {wanted:?}: {:?}", String::from_utf8_lossy(&all));
        all.extend_from_slice(&buffer[..n]);
    }
    String::from_utf8_lossy(&all).into_owned()
}

#[tokio::test]
async fn a_process_owns_its_terminal_and_its_last_byte_arrives() {
    let sandbox = sandbox();
    let (process, master) = sh(
        &sandbox,
        "stty size; tty >/dev/null && ps -o sid=,pid= -p $$; : </dev/tty && echo has-tty; exit 3",
    );
    let text = String::from_utf8(read_to_end(&master).await).unwrap();
    assert!(text.starts_with("40 100\r\n"), "{text:?}");
    assert!(text.ends_with("has-tty\r\n"), "{text:?}");
    let pid = process.pid().to_string();
    assert_eq!(text.matches(&pid).count(), 2, "session id and pid are the same: {text:?}");
    assert_eq!(timeout(DEADLINE, process.wait()).await.expect("the exit"), Exit::Code(3));
}

#[tokio::test]
async fn resizing_signals_the_program() {
    let sandbox = sandbox();
    let (process, master) =
        sh(&sandbox, "trap 'stty size; exit 0' WINCH; echo ready; while :; do sleep 0.05; done");
    // The terminal may give a line and its end one after the other.
    read_until(&master, "ready\r\n").await;
    for cols in 101..200 {
        master.resize(Size::new(cols, 50)).unwrap();
    }
    let text = read_until(&master, "\r\n").await;
    assert!(text.starts_with("50 "), "{text:?}");
    assert_eq!(timeout(DEADLINE, process.wait()).await.expect("the exit"), Exit::Code(0));
}

#[tokio::test]
async fn large_input_waits_for_its_reader() {
    let sandbox = sandbox();
    let (process, master) = sh(&sandbox, "stty raw -echo; echo ready; sleep 0.3; head -c 3000000 | cksum");
    read_until(&master, "ready").await;
    let paste = vec![b'x'; 3_000_000];
    timeout(DEADLINE, master.write_all(&paste)).await.expect("the paste to be read").unwrap();
    let text = read_until(&master, "3000000").await;
    assert!(text.contains(" 3000000"), "{text:?}");
    assert_eq!(timeout(DEADLINE, process.wait()).await.expect("the exit"), Exit::Code(0));
}

#[tokio::test]
async fn large_input_of_lines_in_the_usual_mode() {
    let sandbox = sandbox();
    let (_process, master) = sh(&sandbox, "stty -echo; echo ready; head -n 20000 | wc -c");
    read_until(&master, "ready\r\n").await;
    let paste = "0123456789abcdefghijklmnopqrstuvwxyz0123456789abcdefghijklmno\n".repeat(20_000);
    timeout(DEADLINE, master.write_all(paste.as_bytes())).await.expect("the paste to be read").unwrap();
    let text = read_until(&master, "\r\n").await;
    assert!(text.contains(&paste.len().to_string()), "{text:?}");
}

#[tokio::test]
async fn a_line_without_an_end_does_not_block_the_writer_for_ever() {
    let sandbox = sandbox();
    let (process, master) = sh(&sandbox, "stty -echo; echo ready; cat >/dev/null");
    read_until(&master, "ready").await;
    // The kernel keeps 4095 characters of a line and drops the rest; the writer must still come through.
    timeout(DEADLINE, master.write_all(&vec![b'x'; 1 << 20])).await.expect("the writer to finish").unwrap();
    process.kill_tree();
    assert_eq!(timeout(DEADLINE, process.wait()).await.expect("the exit").shell_code(), 137);
}

#[tokio::test]
async fn dropping_the_master_hangs_up() {
    let sandbox = sandbox();
    let (process, master) = sh(&sandbox, "echo ready; sleep 100");
    read_until(&master, "ready").await;
    drop(master);
    assert_eq!(timeout(DEADLINE, process.wait()).await.expect("the hang-up"), Exit::Signal(1));
}
