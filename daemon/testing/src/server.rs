//! Routes on a real socket, for WebSockets.

use std::net::SocketAddr;

use axum::Router;
use http::StatusCode;
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Error;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

use crate::{DEADLINE, Routes};

/// A client's end.
pub type WebSocket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// A router that is served on the loopback for as long as the test runs.
#[derive(Debug)]
pub struct Server {
    /// Where.
    pub address: SocketAddr,
    routes: Routes,
}

impl Server {
    /// Serves `router` on any free port.
    pub async fn start(router: Router) -> Self {
        Self::of(Routes::new(router)).await
    }

    /// Serves what can be called without a socket as well.
    pub async fn of(routes: Routes) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(pinfold_http::serve(listener, routes.0.clone(), std::future::pending(), DEADLINE));
        Self { address, routes }
    }

    /// One REST call; an empty answer is null.
    pub async fn call(&self, method: &str, path: &str, body: &str) -> (StatusCode, Value) {
        self.routes.send_in_time(method, path, body).await
    }

    /// A WebSocket that offers these sub-protocols, and the one that was chosen.
    pub async fn websocket(&self, path: &str, protocols: &str) -> Result<(WebSocket, Option<String>), Error> {
        let offer = [("sec-websocket-protocol", protocols)];
        self.websocket_with(path, if protocols.is_empty() { &[] } else { &offer }).await
    }

    /// The same with headers.
    pub async fn websocket_with(
        &self,
        path: &str,
        headers: &[(&'static str, &str)],
    ) -> Result<(WebSocket, Option<String>), Error> {
        let mut request = format!("ws://{}{path}", self.address).into_client_request().unwrap();
        for (name, value) in headers {
            request.headers_mut().insert(*name, value.parse().unwrap());
        }
        let (stream, response) = timeout(DEADLINE, connect_async(request)).await.expect("a handshake")?;
        let protocol =
            response.headers().get("sec-websocket-protocol").map(|v| v.to_str().unwrap().to_owned());
        Ok((stream, protocol))
    }
}
