//! `git http-backend` behind a small HTTP server, streaming both ways, with basic authentication and misbehaviour on request.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Redirect, Response};
use futures_util::StreamExt;
use http::{HeaderMap, StatusCode};
use pinfold_spawn::Sandbox;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::pipe;
use tokio_util::io::ReaderStream;

/// What the server has seen and how it behaves.
#[derive(Clone)]
pub(crate) struct Remote {
    sandbox: Sandbox,
    root: PathBuf,
    /// The `Authorization` header it wants.
    login: Option<String>,
    pub(crate) seen: Arc<Mutex<Vec<String>>>,
    pub(crate) bytes: Arc<AtomicU64>,
}

pub(crate) struct Running {
    pub(crate) address: SocketAddr,
    pub(crate) remote: Remote,
}

impl Running {
    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}/{path}", self.address)
    }
}

impl Remote {
    pub(crate) fn new(sandbox: &Sandbox, login: Option<&str>) -> Self {
        Self {
            sandbox: sandbox.clone(),
            root: sandbox.work_dir.to_path_buf(),
            login: login.map(str::to_owned),
            seen: Arc::default(),
            bytes: Arc::default(),
        }
    }

    pub(crate) fn routes(&self) -> Router {
        Router::new().fallback(handle).with_state(self.clone())
    }

    pub(crate) async fn serve(self) -> Running {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(axum::serve(listener, self.routes()).into_future());
        Running { address, remote: self }
    }
}

/// The same server over TLS, for `localhost`, with a certificate of its own making. Gives the certificate in PEM, too.
pub(crate) async fn serve_tls(remote: Remote) -> (SocketAddr, String) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
    let config =
        rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let routes = remote.routes();
    tokio::spawn(async move {
        while let Ok((stream, peer)) = listener.accept().await {
            let (acceptor, routes) = (acceptor.clone(), routes.clone());
            tokio::spawn(async move {
                let Ok(stream) = acceptor.accept(stream).await else { return };
                pinfold_http::serve_connection(stream, peer, routes, std::future::pending()).await;
            });
        }
    });
    (address, made.cert.pem())
}

async fn handle(State(remote): State<Remote>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path().to_owned();
    remote.seen.lock().unwrap().push(format!("{} {path}", parts.method));
    if let Some(rest) = path.strip_prefix("/moved/") {
        return Redirect::temporary(&format!("/{rest}?{}", parts.uri.query().unwrap_or_default()))
            .into_response();
    }
    for (prefix, status) in
        [("/forbidden/", StatusCode::FORBIDDEN), ("/broken/", StatusCode::SERVICE_UNAVAILABLE)]
    {
        if path.starts_with(prefix) {
            return (status, "no").into_response();
        }
    }
    if path.starts_with("/page/") {
        return ([("content-type", "text/html")], "<html>").into_response();
    }
    if path.starts_with("/silent/") {
        std::future::pending::<()>().await;
    }
    if let Some(login) = &remote.login
        && parts.headers.get("authorization").and_then(|value| value.to_str().ok()) != Some(login)
    {
        return (StatusCode::UNAUTHORIZED, [("www-authenticate", "Basic realm=\"git\"")], "who?")
            .into_response();
    }
    backend(remote, &parts.method, &path, parts.uri.query().unwrap_or_default(), &parts.headers, body).await
}

async fn backend(
    remote: Remote,
    method: &http::Method,
    path: &str,
    query: &str,
    headers: &HeaderMap,
    body: Body,
) -> Response {
    let mut command = Command::new("git");
    remote.sandbox.environment.apply(&mut command, []);
    let header =
        |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
    command.arg("http-backend").env("GIT_PROJECT_ROOT", &remote.root).env("GIT_HTTP_EXPORT_ALL", "1");
    command.env("REQUEST_METHOD", method.as_str()).env("PATH_INFO", path).env("QUERY_STRING", query);
    command.env("CONTENT_TYPE", header("content-type")).env("REMOTE_USER", "test");
    if !header("content-length").is_empty() {
        command.env("CONTENT_LENGTH", header("content-length"));
    }
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut process = remote.sandbox.spawner.spawn(command).unwrap();
    let mut stdin = pipe::Sender::from_owned_fd(process.stdin.take().unwrap()).unwrap();
    let bytes = Arc::clone(&remote.bytes);
    tokio::spawn(async move {
        let mut chunks = body.into_data_stream();
        while let Some(Ok(chunk)) = chunks.next().await {
            bytes.fetch_add(chunk.len() as u64, Ordering::Relaxed);
            if stdin.write_all(&chunk).await.is_err() {
                break;
            }
        }
    });
    let mut stdout = BufReader::new(pipe::Receiver::from_owned_fd(process.stdout.take().unwrap()).unwrap());
    let mut response = Response::builder();
    let mut line = String::new();
    while stdout.read_line(&mut line).await.unwrap() > 2 {
        let (name, value) = line.trim_end().split_once(": ").unwrap();
        response = match name {
            "Status" => response.status(value.split(' ').next().unwrap()),
            _ => response.header(name, value),
        };
        line.clear();
    }
    let body = stdout.take(u64::MAX);
    response.body(Body::from_stream(ReaderStream::new(body))).unwrap()
}
