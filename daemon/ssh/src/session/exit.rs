//! The end of a session: the last byte, the status or the signal, end-of-file, the close; always in this order. Dropbear's client closes at the end-of-file,
//! and then hears no status any more.

use pinfold_spawn::Exit;

use crate::channel::Channel;
use crate::message::STDERR;
use crate::session::signal;
use crate::wire::Writer;

/// What a shell says of a command it cannot run.
const NOT_STARTED: i32 = 126;

/// Ends the channel with how the process ended. All output must have been written.
pub(crate) async fn exited(channel: &Channel, exit: Exit) {
    // A channel that is closed already has nobody left to tell.
    let _ = match exit {
        Exit::Code(code) => {
            channel.request("exit-status", Writer::default().u32(code.unsigned_abs()).finish()).await
        }
        Exit::Signal(number) => {
            // Name, core dumped, message, language (RFC 4254, section 6.10).
            let extra =
                Writer::default().string(signal::protocol_name(number)).bool(false).string("").string("");
            channel.request("exit-signal", extra.finish()).await
        }
    };
    let _ = channel.eof().await;
    channel.close().await;
}

/// Tells why nothing runs.
pub(super) async fn not_started(channel: Channel, error: String) {
    let _ = channel.write_extended(STDERR, format!("{error}\r\n").as_bytes()).await;
    exited(&channel, Exit::Code(NOT_STARTED)).await;
}
