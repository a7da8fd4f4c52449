//! How the end of a session closes a socket (toolbox contract 10.4).

use axum::extract::ws::CloseFrame;
use pinfold_http::ws;
use pinfold_proto::toolbox::pty::ExitNotice;
use pinfold_spawn::Exit;

/// What clients are told about this exit.
pub(super) fn notice(exit: Exit) -> ExitNotice {
    ExitNotice::new(exit.shell_code())
}

/// The close frame, whose reason is JSON.
pub(super) fn close(notice: &ExitNotice) -> CloseFrame {
    let code = if notice.exit_code == 0 { ws::NORMAL } else { ws::INTERNAL };
    ws::close_frame(code, &serde_json::to_string(notice).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closes_as_the_contract_says() {
        let closed = |exit| {
            let frame = close(&notice(exit));
            (frame.code, frame.reason.to_string())
        };
        assert_eq!(closed(Exit::Code(0)), (1000, r#"{"exitCode":0}"#.to_owned()));
        assert_eq!(
            closed(Exit::Code(3)),
            (1011, r#"{"exitCode":3,"exitReason":"non-zero exit"}"#.to_owned())
        );
        assert_eq!(
            closed(Exit::Signal(11)),
            (1011, r#"{"exitCode":139,"exitReason":"signal 11"}"#.to_owned())
        );
    }
}
