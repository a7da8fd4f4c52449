//! The router on a real socket, and clients for it. A process can have only one reaper, so the spawner lives on a runtime of its own.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::LazyLock;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use futures_util::{SinkExt, StreamExt};
use http::{Request, StatusCode};
use pinfold_http::{ErrorStyle, render_errors};
use pinfold_process::{Processes, Settings};
use pinfold_spawn::{Environment, Sandbox, Spawner};
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};
use tower::ServiceExt;

pub(crate) const DEADLINE: Duration = Duration::from_secs(15);

static REAPER: LazyLock<(Runtime, Spawner)> = LazyLock::new(|| {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let spawner = {
        let _entered = runtime.enter();
        Spawner::start().unwrap()
    };
    (runtime, spawner)
});

pub(crate) fn sandbox() -> Sandbox {
    let inherited =
        ["PATH", "HOME"].into_iter().filter_map(|name| Some((name.to_owned(), std::env::var(name).ok()?)));
    Sandbox {
        spawner: REAPER.1.clone(),
        environment: Environment::from_map(inherited.collect::<BTreeMap<_, _>>()),
        work_dir: Path::new("/tmp").into(),
        home: Path::new("/tmp").into(),
    }
}

pub(crate) fn processes() -> Processes {
    processes_in(sandbox())
}

pub(crate) fn processes_in(sandbox: Sandbox) -> Processes {
    Processes::new(sandbox, Settings::default())
}

pub(crate) struct Server {
    address: SocketAddr,
    router: Router,
}

impl Server {
    pub(crate) async fn start(router: Router) -> Self {
        let router = router.layer(axum::middleware::from_fn_with_state(ErrorStyle::Daemon, render_errors));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(pinfold_http::serve(listener, router.clone(), std::future::pending(), DEADLINE));
        Self { address, router }
    }

    /// One REST call; an empty body is `Value::Null`.
    pub(crate) async fn call(&self, method: &str, path: &str, body: &str) -> (StatusCode, Value) {
        let request = Request::builder().method(method).uri(path).body(Body::from(body.to_owned())).unwrap();
        let response =
            timeout(DEADLINE, self.router.clone().oneshot(request)).await.expect("an answer").unwrap();
        let status = response.status();
        let bytes = axum::body::to_bytes(response.into_body(), 16 << 20).await.unwrap();
        (status, serde_json::from_slice(&bytes).unwrap_or_default())
    }

    pub(crate) async fn socket(&self) -> Socket {
        let url = format!("ws://{}/process/interpreter/execute", self.address);
        let (stream, _) = timeout(DEADLINE, connect_async(url)).await.expect("a handshake").unwrap();
        Socket(stream)
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

pub(crate) struct Socket(WebSocketStream<MaybeTlsStream<TcpStream>>);

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

/// The command lines that have `words` in them. Not by `pgrep`: the reaper of this process owns every child.
pub(crate) fn commands_with(words: &str) -> Vec<String> {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let lines = processes.filter_map(|process| std::fs::read(process.path().join("cmdline")).ok());
    let lines = lines.map(|line| String::from_utf8_lossy(&line).replace('\0', " "));
    lines.filter(|line| line.contains(words)).collect()
}
