//! What a terminal's WebSocket client does and sees.

use futures_util::{SinkExt, StreamExt};
use pinfold_testing::WebSocket;
pub(crate) use pinfold_testing::{DEADLINE, Server};
use serde_json::Value;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::{Error, Message};

/// A client's end, and the sub-protocol that was chosen.
pub(crate) struct Socket {
    pub(crate) stream: WebSocket,
    pub(crate) protocol: Option<String>,
    /// Bytes of output that were received.
    received: u64,
}

/// Everything a socket carried until it was closed.
#[derive(Debug, Default)]
pub(crate) struct Transcript {
    pub(crate) output: Vec<u8>,
    pub(crate) texts: Vec<Value>,
    /// `t` for a text frame, `b` for a run of binary ones.
    pub(crate) order: String,
    pub(crate) close: Option<(u16, String)>,
}

impl Transcript {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.output).into_owned()
    }
}

impl Socket {
    pub(crate) async fn open(server: &Server, path: &str, protocols: &str) -> Result<Self, Error> {
        let (stream, protocol) = server.websocket(path, protocols).await?;
        Ok(Self { stream, protocol, received: 0 })
    }

    pub(crate) async fn frame(&mut self, awaited: &str) -> Message {
        loop {
            match self.any_frame(awaited).await {
                Message::Ping(_) => {}
                message => return message,
            }
        }
    }

    async fn any_frame(&mut self, awaited: &str) -> Message {
        match timeout(DEADLINE, self.stream.next()).await {
            Ok(Some(Ok(message))) => {
                if let Message::Binary(bytes) = &message {
                    self.received += bytes.len() as u64;
                }
                message
            }
            Ok(other) => panic!("{other:?} instead of {awaited}"),
            Err(_) => panic!("{awaited} did not come"),
        }
    }

    pub(crate) async fn control(&mut self) -> Value {
        match self.frame("a text frame").await {
            Message::Text(text) => serde_json::from_str(&text).unwrap(),
            other => panic!("{other:?} instead of a text frame"),
        }
    }

    pub(crate) async fn type_in(&mut self, text: &str) {
        self.stream.send(Message::Binary(text.to_owned().into())).await.unwrap();
    }

    /// Reads output until it holds `wanted`; answers the last of it.
    pub(crate) async fn until(&mut self, wanted: &str) -> String {
        const KEPT: usize = 4 << 10;
        let mut tail = Vec::new();
        loop {
            let text = String::from_utf8_lossy(&tail).into_owned();
            if text.contains(wanted) {
                return text;
            }
            tail.drain(..tail.len().saturating_sub(KEPT));
            match self.frame(&format!("{wanted:?} after {text:?}")).await {
                Message::Binary(bytes) => tail.extend_from_slice(&bytes),
                other => panic!("{other:?} instead of {wanted:?} after {text:?}"),
            }
        }
    }

    /// Reads on until the daemon has asked for the receipt of all output there was, and has got it. For a client that was there from the start: its
    /// count of bytes is the session's.
    pub(crate) async fn confirm(&mut self) {
        loop {
            match self.any_frame("the wish for a receipt").await {
                Message::Ping(at) if at[..] == self.received.to_be_bytes() => break,
                Message::Ping(_) | Message::Binary(_) => {}
                other => panic!("{other:?} instead of the wish for a receipt"),
            }
        }
        // The receipt, and behind it a question: when that is answered, the other was read.
        self.stream.flush().await.unwrap();
        self.stream.send(Message::Ping("read".into())).await.unwrap();
        while !matches!(self.any_frame("a pong").await, Message::Pong(_)) {}
    }

    /// Reads until a client from which nothing is read must have been given up: more has come than the ring and the kernel hold for that client.
    pub(crate) async fn outlast(&mut self) {
        let before = self.received;
        while self.received - before < 6 << 20 {
            match self.frame("more output").await {
                Message::Binary(_) => {}
                other => panic!("{other:?} instead of more output"),
            }
        }
    }

    /// Changes to a shell that is silent but for what commands write, and the same on every machine.
    pub(crate) async fn hush(&mut self) {
        // Line editors throw away what was typed before they set up the terminal, so each line waits for the one before.
        self.type_in(
            "stty -echo; echo lea''ving; exec env PS1= HISTFILE= bash --norc --noprofile --noediting -i\n",
        )
        .await;
        self.until("leaving\r\n").await;
        self.type_in("echo hu''shed\n").await;
        self.until("hushed\r\n").await;
    }

    /// Reads until the connection is over.
    pub(crate) async fn into_end(mut self) -> Transcript {
        let mut transcript = Transcript::default();
        while let Some(message) = timeout(DEADLINE, self.stream.next()).await.expect("the end of the socket")
        {
            match message {
                Ok(Message::Text(text)) => {
                    transcript.texts.push(serde_json::from_str(&text).unwrap());
                    transcript.order.push('t');
                }
                Ok(Message::Binary(bytes)) => {
                    transcript.output.extend_from_slice(&bytes);
                    if !transcript.order.ends_with('b') {
                        transcript.order.push('b');
                    }
                }
                Ok(Message::Close(frame)) => {
                    transcript.close = frame.map(|f| (f.code.into(), f.reason.to_string()))
                }
                Ok(_) => {}
                Err(_) if transcript.close.is_some() => break,
                Err(error) => panic!("the socket broke: {error}; so far {} bytes", transcript.output.len()),
            }
        }
        transcript
    }
}
