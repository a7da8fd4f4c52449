//! The web terminal with a real shell and a real WebSocket client: the contract's section 18.

use crate::common::sandbox;
use crate::server::{Server, Socket};
use futures_util::SinkExt;
use pinfold_testing::{commands_with, eventually, kill_commands};
use tokio::io::AsyncWriteExt;
use tokio_tungstenite::tungstenite::Message;

async fn type_in(socket: &mut Socket, text: &str) {
    socket.stream.send(Message::Text(text.into())).await.unwrap();
}

/// Reads text frames until they hold `wanted`.
async fn until(socket: &mut Socket, wanted: &str) -> String {
    let mut all = String::new();
    while !all.contains(wanted) {
        match socket.frame(&format!("{wanted:?} after {all:?}")).await {
            Message::Text(text) => all += &text,
            other => panic!("{other:?} instead of {wanted:?} after {all:?}"),
        }
    }
    all
}

async fn hush(socket: &mut Socket) {
    type_in(
        socket,
        "stty -echo; echo lea''ving; exec env PS1= HISTFILE= bash --norc --noprofile --noediting -i\n",
    )
    .await;
    until(socket, "leaving\r\n").await;
    type_in(socket, "echo hu''shed\n").await;
    until(socket, "hushed\r\n").await;
}

#[tokio::test]
async fn serves_a_page_and_its_assets() {
    let server = Server::start(pinfold_pty::terminal_router(sandbox(), 64)).await;
    for path in ["/", "/xterm.js", "/xterm.css", "/xterm-addon-fit.js"] {
        assert_eq!(server.call("GET", path, "").await.0, 200, "{path}");
    }
}

#[tokio::test]
async fn a_shell_with_sizes_text_and_an_orderly_end() {
    let server = Server::start(pinfold_pty::terminal_router(sandbox(), 64)).await;
    let mut socket = Socket::open(&server, "/ws", "").await.unwrap();
    hush(&mut socket).await;
    type_in(&mut socket, r#"{"rows":31,"cols":97}"#).await;
    type_in(&mut socket, "echo \"<$(stty size)|$TERM|$PWD>\"\n").await;
    until(&mut socket, "<31 97|xterm-256color|/>").await;
    // None of these is a size; all of them are typed.
    for text in ["cat <<'X'\n", "{}", "null", "{\"rows\":0,\"cols\":0}", "\nX\n"] {
        type_in(&mut socket, text).await;
    }
    until(&mut socket, "{}null{\"rows\":0,\"cols\":0}\r\n").await;
    type_in(
        &mut socket,
        "stty size; printf '\\342'; sleep 0.05; printf '\\202\\254'; printf '\\342'; echo x\n",
    )
    .await;
    until(&mut socket, "31 97\r\n€\u{FFFD}x\r\n").await;
    // What is no whole character in the end is told as such.
    type_in(&mut socket, "exec sh -c \"printf '\\\\342'; exit 3\"\n").await;
    let mut last = String::new();
    let close = loop {
        match socket.frame("the close").await {
            Message::Close(frame) => break frame.unwrap(),
            Message::Text(text) => last += &text,
            other => panic!("{other:?}"),
        }
    };
    assert!(last.ends_with('\u{FFFD}'), "{last:?}");
    assert_eq!(u16::from(close.code), 1000);
    assert!(close.reason.contains("code 3"));
}

/// What has detached itself outlives a terminal that only lost its client, as it does everywhere.
#[tokio::test]
async fn a_disconnect_hangs_up_the_shell_and_its_jobs() {
    let server = Server::start(pinfold_pty::terminal_router(sandbox(), 64)).await;
    let mut socket = Socket::open(&server, "/ws", "").await.unwrap();
    hush(&mut socket).await;
    // Nobody else's, whatever else runs on this machine.
    let sleep = |number: u32| format!("sleep {} ", std::process::id() * 10 + number);
    let (attached, detached) = ([sleep(1), sleep(2)], [sleep(3), sleep(4)]);
    let background =
        format!("nohup {}>/dev/null 2>&1 & setsid {}& {}&", detached[0], detached[1], attached[0]);
    type_in(&mut socket, &format!("{background} echo \"pid $$ end\"; {}\n", attached[1])).await;
    let text = until(&mut socket, " end").await;
    let shell: u32 = text.split("pid ").nth(1).unwrap().split_once(' ').unwrap().0.parse().unwrap();
    // As itself: before that it is `setsid` or `nohup`, and not detached yet.
    let run = |words: &String| commands_with(words).iter().any(|line| line.starts_with(words));
    eventually("all of them to run", || attached.iter().chain(&detached).all(run)).await;
    // No close frame: the connection just breaks.
    drop(socket);
    let shell = std::path::PathBuf::from(format!("/proc/{shell}"));
    eventually("the shell and its jobs to end", || !shell.exists() && !attached.iter().any(run)).await;
    for words in &detached {
        assert!(run(words), "{words}");
        kill_commands(words);
    }
    eventually("the others to end", || !detached.iter().any(run)).await;
}

#[tokio::test]
async fn misuse_is_told_by_a_close_frame() {
    let server = Server::start(pinfold_pty::terminal_router(sandbox(), 64)).await;
    let mut socket = Socket::open(&server, "/ws", "").await.unwrap();
    // The head of a binary frame of 2^40 bytes.
    socket.stream.get_mut().write_all(&[0x82, 0xFF, 0, 0, 1, 0, 0, 0, 0, 0, 1, 2, 3, 4]).await.unwrap();
    let close = loop {
        if let Message::Close(close) = socket.frame("a close").await {
            break close;
        }
    };
    assert_eq!(u16::from(close.unwrap().code), 1009);
}
