//! The files routes served over a real socket, with a directory of their own as work directory.

#![allow(clippy::unwrap_used, dead_code, unreachable_pub, missing_docs)]

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::middleware::from_fn_with_state;
use http::{HeaderMap, Request};
use http_body_util::BodyExt;
use hyper_util::rt::TokioIo;
use pinfold_http::{ErrorStyle, render_errors};
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};

/// What came back.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
    /// Whether the body ended as it should.
    pub complete: bool,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {:?}", self.body))
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).unwrap_or_else(|| panic!("no {name} in {:?}", self.headers)).to_str().unwrap()
    }

    /// Status and code of an error, whose body must be whole.
    pub fn error(&self) -> (u16, String) {
        let body = self.json();
        assert_eq!(body["statusCode"], self.status, "{body}");
        assert_eq!(body["source"], "DAYTONA_DAEMON", "{body}");
        assert_eq!(body["error"], body["message"], "{body}");
        assert!(!body["message"].as_str().unwrap().is_empty());
        (self.status, body["code"].as_str().unwrap().to_owned())
    }
}

pub struct Daemon {
    pub address: SocketAddr,
    pub directory: tempfile::TempDir,
}

impl Daemon {
    pub async fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let sandbox = pinfold_testing::sandbox(directory.path(), directory.path(), &[]);
        let router =
            pinfold_files::router(sandbox).layer(from_fn_with_state(ErrorStyle::Daemon, render_errors));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(pinfold_http::serve(listener, router, std::future::pending(), Duration::ZERO));
        Self { address, directory }
    }

    pub fn path(&self, relative: &str) -> PathBuf {
        self.directory.path().join(relative)
    }

    /// Writes a file and the directories above it.
    pub fn write(&self, relative: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(relative);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, content).unwrap();
        path
    }

    pub fn read(&self, relative: &str) -> Vec<u8> {
        std::fs::read(self.path(relative)).unwrap()
    }

    pub async fn send(&self, request: Request<Body>) -> Answer {
        let stream = TcpStream::connect(self.address).await.unwrap();
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let exchange = async {
            let response = sender.send_request(request).await.unwrap();
            let (parts, mut incoming) = response.into_parts();
            let (mut body, mut complete) = (Vec::new(), true);
            while let Some(frame) = incoming.frame().await {
                match frame {
                    Ok(frame) => body.extend_from_slice(frame.data_ref().unwrap()),
                    Err(_) => complete = false,
                }
            }
            Answer { status: parts.status.as_u16(), headers: parts.headers, body: body.into(), complete }
        };
        tokio::time::timeout(Duration::from_secs(60), exchange).await.expect("an answer within a minute")
    }

    pub async fn ask(&self, method: &str, target: &str) -> Answer {
        self.ask_with(method, target, &[], Body::empty()).await
    }

    pub async fn ask_with(
        &self,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: impl Into<Body>,
    ) -> Answer {
        let mut request = Request::builder().method(method).uri(target).header("host", "x");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.send(request.body(body.into()).unwrap()).await
    }
}

/// For a query string.
pub fn encode(path: impl AsRef<Path>) -> String {
    use std::os::unix::ffi::OsStrExt;
    percent_encoding::percent_encode(path.as_ref().as_os_str().as_bytes(), percent_encoding::NON_ALPHANUMERIC)
        .to_string()
}
