//! Serving an axum router: header-read deadline, keep-alive longer than our proxies', upgrades, and an end within a deadline.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::extract::ConnectInfo;
use axum::extract::Request;
use http::HeaderValue;
use http::header::CONNECTION;
use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tower::ServiceExt;

use crate::direct::{Direct, Socket};

/// Longest time between two requests on one connection. Proxies reuse connections that idled up to 30 s, so ours stay open longer.
/// hyper has no idle timer apart from the header-read deadline, which starts when a connection waits for its next request.
const HEADER_READ_TIMEOUT: Duration = Duration::from_secs(75);

/// Why serving ended early.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The deadline passed with connections still open.
    #[error("{0} connection(s) were cut at shutdown")]
    Cut(usize),
}

/// The end of a listener, as one of its connections sees it. The end waits for whoever holds one.
#[derive(Debug)]
pub struct Closing(watch::Receiver<()>);

impl Closing {
    /// Resolves when no more connections are accepted: what is under way is the last.
    pub async fn begun(mut self) {
        drop(self.0.changed().await);
    }
}

/// Serves `router` on `listener` until `stop` resolves; then accepts no more and gives open requests `grace`.
///
/// Long-lived upgrades (WebSockets) do not count as open requests: they end with the process.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    stop: impl Future<Output = ()>,
    grace: Duration,
) -> Result<(), ServeError> {
    let serve = move |stream, peer, closing: Closing| {
        let router = router.clone();
        async move {
            let stream = Direct::new(stream);
            let socket = Some(stream.socket());
            run(stream, socket, peer, router, closing.begun()).await;
        }
    };
    accept(listener, stop, grace, serve).await
}

/// Accepts connections until `stop` resolves, each served by a task of its own; then gives those that hold their [`Closing`] `grace`.
pub async fn accept<F>(
    listener: TcpListener,
    stop: impl Future<Output = ()>,
    grace: Duration,
    serve: impl Fn(TcpStream, SocketAddr, Closing) -> F,
) -> Result<(), ServeError>
where
    F: Future<Output = ()> + Send + 'static,
{
    let (closing, closed) = watch::channel(());
    let mut stop = std::pin::pin!(stop);
    loop {
        let (stream, peer) = tokio::select! {
            () = &mut stop => break,
            accepted = listener.accept() => match accepted {
                Ok(pair) => pair,
                Err(error) => {
                    // Out of descriptors, or the peer is gone already: neither is a reason to stop serving.
                    tracing::warn!(%error, "could not accept a connection");
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    continue;
                }
            },
        };
        let _ = stream.set_nodelay(true);
        tokio::spawn(serve(stream, peer, Closing(closed.clone())));
    }
    drop(listener);
    drop(closed);
    let _ = closing.send(());
    match tokio::time::timeout(grace, closing.closed()).await {
        Ok(()) => Ok(()),
        Err(_) => Err(ServeError::Cut(closing.receiver_count())),
    }
}

/// Serves `router` on one connection until it ends. When `stop` resolves, the request under way is the last.
pub async fn serve_connection(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    peer: SocketAddr,
    router: Router,
    stop: impl Future<Output = ()>,
) {
    run(stream, None, peer, router, stop).await;
}

async fn run(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    socket: Option<Socket>,
    peer: SocketAddr,
    router: Router,
    stop: impl Future<Output = ()>,
) {
    let service = hyper::service::service_fn(move |request: hyper::Request<Incoming>| {
        let (router, socket) = (router.clone(), socket.clone());
        async move {
            let mut request: Request = request.map(axum::body::Body::new);
            request.extensions_mut().insert(ConnectInfo(peer));
            if let Some(socket) = &socket {
                request.extensions_mut().insert(socket.clone());
            }
            let mut response = match router.oneshot(request).await {
                Ok(response) => response,
                Err(never) => match never {},
            };
            if socket.is_some_and(|socket| socket.is_taken()) {
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            Ok::<_, Infallible>(response)
        }
    });
    let mut builder = hyper::server::conn::http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEADER_READ_TIMEOUT);
    let connection = builder.serve_connection(TokioIo::new(stream), service).with_upgrades();
    let mut connection = std::pin::pin!(connection);
    let result = tokio::select! {
        result = &mut connection => result,
        () = stop => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        tracing::debug!(%peer, %error, "connection ended early");
    }
}
