//! The router on a real socket, and what its WebSocket client does and sees.

use std::ops::Deref;
use std::path::Path;

use axum::Router;
use futures_util::{SinkExt, StreamExt};
use pinfold_process::{Processes, Settings};
use pinfold_testing::WebSocket;
pub(crate) use pinfold_testing::{DEADLINE, commands_with, eventually};
use serde_json::Value;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;

pub(crate) fn processes() -> Processes {
    processes_on(&std::env::var("PATH").unwrap())
}

/// Those of a sandbox that finds programs here alone.
pub(crate) fn processes_on(path: &str) -> Processes {
    let tmp = Path::new("/tmp");
    // Of the user who runs the tests, for what Python keeps there.
    let home = std::env::var("HOME").unwrap();
    let sandbox = pinfold_testing::sandbox(tmp, tmp, &[("HOME", &home), ("PATH", path)]);
    Processes::new(sandbox, Settings::default())
}

/// The router on a real socket.
pub(crate) struct Server(pinfold_testing::Server);

impl Deref for Server {
    type Target = pinfold_testing::Server;

    fn deref(&self) -> &pinfold_testing::Server {
        &self.0
    }
}

impl Server {
    pub(crate) async fn start(router: Router) -> Self {
        Self(pinfold_testing::Server::start(router).await)
    }

    pub(crate) async fn socket(&self) -> Socket {
        Socket(self.0.websocket("/process/interpreter/execute", "").await.unwrap().0)
    }

    /// Starts an execution and leaves its socket open.
    pub(crate) async fn begin(&self, request: &Value) -> Socket {
        let mut socket = self.socket().await;
        socket.send(&request.to_string()).await;
        socket
    }

    /// One whole execution.
    pub(crate) async fn execute(&self, request: &Value) -> Execution {
        self.begin(request).await.finish().await
    }

    /// One whole execution in the default context.
    pub(crate) async fn run(&self, code: &str) -> Execution {
        self.execute(&serde_json::json!({ "code": code })).await
    }
}

pub(crate) struct Socket(WebSocket);

/// What an execution's socket carried.
#[derive(Debug, Default)]
pub(crate) struct Execution {
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) errors: Vec<Value>,
    pub(crate) controls: Vec<String>,
    /// Kinds in order, runs of one kind as one.
    pub(crate) order: Vec<String>,
    pub(crate) close: Option<(u16, String)>,
}

impl Execution {
    pub(crate) fn code(&self) -> u16 {
        self.close.as_ref().map_or(0, |(code, _)| *code)
    }

    fn take(&mut self, text: &str) {
        let message: Value = serde_json::from_str(text).unwrap();
        let members: Vec<&String> = message.as_object().unwrap().keys().collect();
        assert_eq!(members, ["name", "text", "traceback", "type", "value"], "all five members, always");
        let kind = message["type"].as_str().unwrap();
        let text = message["text"].as_str().unwrap();
        match kind {
            "stdout" => self.stdout += text,
            "stderr" => self.stderr += text,
            "error" => self.errors.push(message.clone()),
            "control" => self.controls.push(text.to_owned()),
            other => panic!("unknown message {other}"),
        }
        if self.order.last().is_none_or(|last| last != kind) {
            self.order.push(kind.to_owned());
        }
    }
}

impl Socket {
    pub(crate) async fn send(&mut self, text: &str) {
        self.0.send(Message::Text(text.into())).await.unwrap();
    }

    pub(crate) async fn close(&mut self, code: u16) {
        self.0.close(Some(CloseFrame { code: code.into(), reason: "".into() })).await.unwrap();
    }

    /// Waits until the server has read all that was sent: a pong comes behind it.
    pub(crate) async fn has_been_read(&mut self) {
        self.0.send(Message::Ping("read".into())).await.unwrap();
        match timeout(DEADLINE, self.0.next()).await.expect("a pong") {
            Some(Ok(Message::Pong(_))) => {}
            other => panic!("{other:?} instead of a pong"),
        }
    }

    /// Waits for a message that holds `wanted`.
    pub(crate) async fn until(&mut self, wanted: &str) {
        loop {
            match timeout(DEADLINE, self.0.next()).await.unwrap_or_else(|_| panic!("{wanted:?} did not come"))
            {
                Some(Ok(Message::Text(text))) if text.contains(wanted) => return,
                Some(Ok(Message::Close(frame))) => panic!("{frame:?} instead of {wanted:?}"),
                Some(Ok(_)) => {}
                other => panic!("{other:?} instead of {wanted:?}"),
            }
        }
    }

    pub(crate) async fn finish(mut self) -> Execution {
        let mut execution = Execution::default();
        loop {
            match timeout(DEADLINE, self.0.next())
                .await
                .unwrap_or_else(|_| panic!("no end; so far {execution:?}"))
            {
                Some(Ok(Message::Text(text))) => execution.take(&text),
                Some(Ok(Message::Close(frame))) => {
                    execution.close = frame.map(|f| (f.code.into(), f.reason.to_string()));
                }
                Some(Ok(_)) => {}
                Some(Err(error)) => panic!("the socket broke: {error}; so far {execution:?}"),
                None => return execution,
            }
        }
    }
}
