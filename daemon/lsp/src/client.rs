//! JSON-RPC with one server: one task reads, one writes, requests wait for their answer with a limit.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::unix::pipe;
use tokio::sync::{mpsc, oneshot};
use tokio_util::codec::FramedRead;

use crate::error::LspError;
use crate::frame::{Frames, frame};

/// Messages that may wait for a server that does not read.
const QUEUE: usize = 64;

type Answer = Result<Value, String>;
type Requests = HashMap<i64, oneshot::Sender<Answer>>;

/// The requests that wait; `None` when the server has ended.
#[derive(Debug, Clone)]
struct Waiting(Arc<Mutex<Option<Requests>>>);

/// Sends requests and notifications. The server ends by itself when this is dropped: its input closes.
#[derive(Debug)]
pub(crate) struct Client {
    sender: mpsc::Sender<Bytes>,
    waiting: Waiting,
    next: AtomicI64,
}

impl Client {
    /// Starts the two tasks.
    pub(crate) fn start(stdin: OwnedFd, stdout: OwnedFd) -> std::io::Result<Self> {
        let mut writer = pipe::Sender::from_owned_fd(stdin)?;
        let reader = pipe::Receiver::from_owned_fd(stdout)?;
        let (sender, mut queue) = mpsc::channel::<Bytes>(QUEUE);
        let waiting = Waiting(Arc::new(Mutex::new(Some(HashMap::new()))));
        tokio::spawn(async move {
            while let Some(message) = queue.recv().await {
                if writer.write_all(&message).await.is_err() {
                    break;
                }
            }
        });
        // The reader answers the server's requests, without keeping its input open.
        tokio::spawn(read(reader, waiting.clone(), sender.downgrade()));
        Ok(Self { sender, waiting, next: AtomicI64::new(1) })
    }

    /// Whether the server has ended, or speaks no protocol.
    pub(crate) fn is_over(&self) -> bool {
        self.waiting.lock().is_none()
    }

    /// Sends a notification.
    pub(crate) async fn notify(&self, method: &'static str, params: Value) -> Result<(), LspError> {
        let message = frame(&json!({"jsonrpc": "2.0", "method": method, "params": params}));
        self.send(method, message, Duration::from_secs(10)).await
    }

    /// Sends a request and waits for its result.
    pub(crate) async fn request(
        &self,
        method: &'static str,
        params: Value,
        limit: Duration,
    ) -> Result<Value, LspError> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (sender, answer) = oneshot::channel();
        self.waiting.lock().as_mut().ok_or(LspError::Ended)?.insert(id, sender);
        let mut withdrawal = Withdrawal { client: self, id, sent: false };
        let message = frame(&json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params}));
        self.send(method, message, limit).await?;
        withdrawal.sent = true;
        match tokio::time::timeout(limit, answer).await {
            Ok(Ok(Ok(result))) => Ok(result),
            Ok(Ok(Err(message))) => Err(LspError::Refused { method, message }),
            Ok(Err(_)) => Err(LspError::Ended),
            Err(_) => Err(LspError::Timeout { method, limit }),
        }
    }

    async fn send(&self, method: &'static str, message: Bytes, limit: Duration) -> Result<(), LspError> {
        match tokio::time::timeout(limit, self.sender.send(message)).await {
            Ok(sent) => sent.map_err(|_| LspError::Ended),
            Err(_) => Err(LspError::Timeout { method, limit }),
        }
    }
}

/// Takes a request back when nobody waits for it any more.
struct Withdrawal<'c> {
    client: &'c Client,
    id: i64,
    sent: bool,
}

impl Drop for Withdrawal<'_> {
    fn drop(&mut self) {
        let unanswered =
            self.client.waiting.lock().as_mut().and_then(|waiting| waiting.remove(&self.id)).is_some();
        if unanswered && self.sent {
            let cancel = json!({"jsonrpc": "2.0", "method": "$/cancelRequest", "params": {"id": self.id}});
            // A server whose queue is full would not read this either.
            let _ = self.client.sender.try_send(frame(&cancel));
        }
    }
}

impl Waiting {
    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Requests>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answer(&self, message: &mut Value) {
        let id = message["id"].as_i64();
        let waiter = id.and_then(|id| self.lock().as_mut().and_then(|waiting| waiting.remove(&id)));
        let Some(waiter) = waiter else { return };
        let error = message.get("error").filter(|error| !error.is_null());
        let answer = match error {
            Some(error) => Err(error["message"].as_str().unwrap_or("no reason given").to_owned()),
            None => Ok(message["result"].take()),
        };
        // The one who asked may be gone.
        let _ = waiter.send(answer);
    }
}

async fn read(reader: pipe::Receiver, waiting: Waiting, sender: mpsc::WeakSender<Bytes>) {
    let mut messages = FramedRead::new(reader, Frames::default());
    loop {
        match messages.next().await {
            Some(Ok(mut message)) if message.get("method").is_none() => waiting.answer(&mut message),
            Some(Ok(message)) => {
                let Some(id) = message.get("id").filter(|id| !id.is_null()) else { continue };
                let reply = json!({"jsonrpc": "2.0", "id": id, "result": reply(&message)});
                let Some(sender) = sender.upgrade() else { break };
                if sender.send(frame(&reply)).await.is_err() {
                    break;
                }
            }
            Some(Err(error)) => {
                tracing::warn!(%error, "a language server is given up");
                break;
            }
            None => break,
        }
    }
    // Whoever waits learns that there will be no answer.
    waiting.lock().take();
}

/// Servers may ask for settings and registrations; there is nothing to tell them. The protocol wants one answer for each setting.
fn reply(request: &Value) -> Value {
    match (request["method"].as_str(), request["params"]["items"].as_array()) {
        (Some("workspace/configuration"), Some(items)) => vec![Value::Null; items.len()].into(),
        _ => Value::Null,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt;

    /// A client and the other ends of its pipes.
    fn pair() -> (Client, pipe::Receiver, pipe::Sender) {
        let flags = nix::fcntl::OFlag::O_CLOEXEC;
        let (input, stdin) = nix::unistd::pipe2(flags).expect("a pipe");
        let (stdout, output) = nix::unistd::pipe2(flags).expect("a pipe");
        let client = Client::start(stdin, stdout).expect("a client");
        let input = pipe::Receiver::from_owned_fd(input).expect("a pipe");
        (client, input, pipe::Sender::from_owned_fd(output).expect("a pipe"))
    }

    async fn heard(messages: &mut FramedRead<pipe::Receiver, Frames>) -> Value {
        messages.next().await.expect("a message").expect("sound")
    }

    #[tokio::test]
    async fn a_late_answer_is_given_up_taken_back_and_ignored() {
        let (client, input, mut output) = pair();
        let mut messages = FramedRead::new(input, Frames::default());
        let error =
            client.request("slow", json!({}), Duration::from_millis(20)).await.expect_err("no answer");
        assert!(matches!(error, LspError::Timeout { method: "slow", .. }), "{error}");
        let id = heard(&mut messages).await["id"].clone();
        let cancel = heard(&mut messages).await;
        assert_eq!((&cancel["method"], &cancel["params"]["id"]), (&json!("$/cancelRequest"), &id));
        let next = client.request("next", json!({}), Duration::from_secs(60));
        let answer = async {
            let request = heard(&mut messages).await;
            for (id, result) in [(id, "late"), (request["id"].clone(), "mine")] {
                let answer = frame(&json!({"jsonrpc": "2.0", "id": id, "result": result}));
                output.write_all(&answer).await.expect("written");
            }
        };
        let (result, ()) = tokio::join!(next, answer);
        assert_eq!(result.expect("an answer"), json!("mine"));
    }

    #[tokio::test]
    async fn the_end_of_the_server_ends_every_wait() {
        let (client, mut input, output) = pair();
        let requests = (0..3).map(|_| client.request("any", json!({}), Duration::from_secs(60)));
        let end = async {
            // The first has been sent, then.
            input.read_u8().await.expect("a request");
            drop(output);
        };
        let (results, ()) = tokio::join!(futures_util::future::join_all(requests), end);
        assert!(results.iter().all(|result| matches!(result, Err(LspError::Ended))), "{results:?}");
        assert!(client.is_over());
        assert!(matches!(
            client.request("any", json!({}), Duration::from_secs(60)).await,
            Err(LspError::Ended)
        ));
    }

    #[tokio::test]
    async fn a_server_that_does_not_read_is_not_waited_for() {
        let (client, _input, _output) = pair();
        let big = "x".repeat(1 << 20);
        let calls = (0..QUEUE + 4).map(|_| client.request("big", json!(big), Duration::from_millis(100)));
        let results = futures_util::future::join_all(calls).await;
        assert!(results.iter().all(|result| matches!(result, Err(LspError::Timeout { .. }))), "{results:?}");
    }
}
