//! What a terminal's WebSocket client does and sees.

use std::time::{Duration, Instant};

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
        Ok(Self { stream, protocol })
    }

    pub(crate) async fn frame(&mut self, awaited: &str) -> Message {
        loop {
            match timeout(DEADLINE, self.stream.next()).await {
                Ok(Some(Ok(Message::Ping(_)))) => {}
                Ok(Some(Ok(message))) => return message,
                Ok(other) => panic!("{other:?} instead of {awaited}"),
                Err(_) => panic!("{awaited} did not come"),
            }
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

    /// Reads, and confirms with that, until nothing comes any more: the daemon asks for receipts 0.2 s after its last output.
    pub(crate) async fn read_on(&mut self) {
        while timeout(Duration::from_millis(1500), self.stream.next()).await.is_ok() {}
    }

    /// Reads until a client from which nothing is read has been given up: for three seconds nothing comes, and then more; or more has come than the ring
    /// and the kernel hold for that client.
    pub(crate) async fn outlast(&mut self) {
        let mut taken = 0;
        while taken < 6 << 20 {
            let began = Instant::now();
            match self.frame("more output").await {
                Message::Binary(bytes) => taken += bytes.len(),
                other => panic!("{other:?} after {taken} bytes of output"),
            }
            if began.elapsed() > Duration::from_secs(3) {
                return;
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
