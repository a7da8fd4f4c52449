//! When is a sandbox ready? When its daemon answers `GET /version`.
//!
//! Probing begins right after the start: 1 ms between attempts, growing to 20 ms, each with a short connect timeout because a SYN sent
//! before the interface is up is lost without an answer. The container's end is noticed at once, not at the deadline.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use http::Request;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use pinfold_engine::ContainerStatus;
use pinfold_proto::id::{SandboxId, Secret};
use serde::Deserialize;
use tokio::net::TcpStream;
use tracing::Instrument;

use crate::error::{Class, OpError, OpResult};
use crate::node::Node;
use crate::spans;

const CONNECT: Duration = Duration::from_millis(50);
const ANSWER: Duration = Duration::from_secs(1);
/// The token is handed over once, on the connection on which the daemon has answered; nobody waits for it.
const TOKEN_TAKEN: Duration = Duration::from_secs(20);
const FIRST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(20);
/// Lines of the container's output that an error quotes.
const LOG_LINES: u32 = 5;

#[derive(Deserialize)]
struct Version {
    version: String,
}

type Connection = http1::SendRequest<Full<bytes::Bytes>>;

async fn connect(address: SocketAddr) -> Result<Connection, String> {
    let connecting = tokio::time::timeout(CONNECT, TcpStream::connect(address)).await;
    let stream =
        connecting.map_err(|_| "no answer to the connection".to_owned())?.map_err(|e| e.to_string())?;
    let _ = stream.set_nodelay(true);
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|e| e.to_string())?;
    // Ends with the connection, which ends when the sender is dropped.
    tokio::spawn(connection);
    Ok(sender)
}

async fn send(
    connection: &mut Connection,
    method: &str,
    path: &str,
    body: String,
    limit: Duration,
) -> Result<(u16, bytes::Bytes), String> {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", "sandbox")
        .header("content-type", "application/json")
        .body(Full::from(body))
        .map_err(|e| e.to_string())?;
    let exchange = async {
        let response = connection.send_request(request).await.map_err(|e| e.to_string())?;
        let status = response.status().as_u16();
        let body =
            Limited::new(response.into_body(), 64 * 1024).collect().await.map_err(|e| e.to_string())?;
        Ok((status, body.to_bytes()))
    };
    tokio::time::timeout(limit, exchange).await.map_err(|_| format!("no answer within {limit:?}"))?
}

async fn ask_version(address: SocketAddr) -> Result<(Connection, String), String> {
    let mut connection = connect(address).await?;
    let (_, body) = send(&mut connection, "GET", "/version", String::new(), ANSWER).await?;
    let version: Version = serde_json::from_slice(&body).map_err(|e| format!("GET /version: {e}"))?;
    Ok((connection, version.version))
}

/// The daemon's version, asked once.
pub async fn daemon_version(address: SocketAddr) -> Option<String> {
    ask_version(address).await.ok().map(|(_, version)| version)
}

/// Waits until the daemon answers and returns its version; hands it the token on the way, in the background.
pub(crate) async fn wait(
    node: &Node,
    id: &SandboxId,
    address: Ipv4Addr,
    token: Option<Secret>,
) -> OpResult<String> {
    let limit = node.config.daemon_start_timeout;
    let span = spans::waiting("wait_for_daemon_running", address.into(), limit);
    let address = SocketAddr::from((address, node.config.toolbox_port));
    let mut retries = 0;
    let answered = until_answered(node, id, address, token, &mut retries).instrument(span.clone()).await;
    span.record("retries", retries);
    if let Err(error) = &answered {
        span.record("error", error.to_string());
    }
    answered
}

async fn until_answered(
    node: &Node,
    id: &SandboxId,
    address: SocketAddr,
    token: Option<Secret>,
    retries: &mut u64,
) -> OpResult<String> {
    let began = Instant::now();
    let ended = node.index.wait(id, |s| match s {
        Some(s) if matches!(s.status, ContainerStatus::Exited | ContainerStatus::Dead) => Some(()),
        _ => None,
    });
    let mut ended = std::pin::pin!(ended);
    let mut pause = FIRST_PAUSE;
    let mut last = String::from("not tried");
    let mut noticed = false;
    while began.elapsed() < node.config.daemon_start_timeout {
        match ask_version(address).await {
            Ok((connection, version)) => {
                hand_over(node, id, connection, token);
                return Ok(version);
            }
            Err(error) => last = error,
        }
        *retries += 1;
        tokio::select! {
            () = tokio::time::sleep(pause) => pause = (pause * 2).min(LONGEST_PAUSE),
            // The index may still show the end of the run before this one, so the engine has the last word.
            () = &mut ended, if !noticed => {
                noticed = true;
                still_runs(node, id).await?;
            }
        }
    }
    let output = last_output(node, id).await;
    let message =
        format!("the daemon did not answer within {:?} ({last}){output}", node.config.daemon_start_timeout);
    Err(OpError::new(Class::Internal, message))
}

/// Whether the engine says that a sandbox runs; what its end was, if not.
pub(super) async fn still_runs(node: &Node, id: &SandboxId) -> OpResult<()> {
    let found = node.engine.inspect(id.as_str()).await?;
    if matches!(found.status, ContainerStatus::Running | ContainerStatus::Restarting) {
        node.index.change(id, |s| s.status = found.status);
        return Ok(());
    }
    let memory_limit = u64::try_from(found.memory).unwrap_or(0);
    let ending = crate::index::Ending {
        code: found.exit_code,
        oom: found.oom_killed,
        memory_limit,
        error: found.error,
    };
    let output = last_output(node, id).await;
    Err(OpError::new(Class::Internal, format!("{}{output}", ending.reason())))
}

/// The end of the container's output, worded for an error message.
pub(crate) async fn last_output(node: &Node, id: &SandboxId) -> String {
    match node.engine.logs(id.as_str(), LOG_LINES).await {
        Ok(text) if !text.trim().is_empty() => {
            let text = text.trim();
            let start = text.char_indices().rev().nth(1500).map_or(0, |(i, _)| i);
            format!("; last output: {}", &text[start..])
        }
        _ => String::new(),
    }
}

/// Gives the daemon its telemetry token (runner contract 6.4). The operation does not wait for it, and its failure is not the operation's.
fn hand_over(node: &Node, id: &SandboxId, mut connection: Connection, token: Option<Secret>) {
    let Some(token) = token.filter(|t| !t.is_empty() && node.config.initialize_telemetry) else { return };
    let id = id.clone();
    tokio::spawn(async move {
        let body = serde_json::json!({ "token": token.expose() }).to_string();
        match send(&mut connection, "POST", "/init", body, TOKEN_TAKEN).await {
            Ok((200, _)) => {}
            Ok((status, _)) => tracing::warn!(sandbox = %id, status, "the daemon refused its token"),
            Err(error) => tracing::warn!(sandbox = %id, error, "could not hand the daemon its token"),
        }
    });
}
