//! The web terminal (toolbox contract 18): a page, and one fresh shell for each WebSocket.
//!
//! Unlike a session a terminal belongs to its socket: when the socket goes, the shell is hung up.

mod socket;

use std::sync::Arc;

use axum::Router;
use axum::http::header::{CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use axum::response::IntoResponse;
use axum::routing::{MethodRouter, get};
use pinfold_spawn::Sandbox;
use tokio::sync::Semaphore;

/// What each terminal is made from.
#[derive(Debug, Clone)]
struct Terminals {
    sandbox: Sandbox,
    max: usize,
    /// A place for each open one.
    places: Arc<Semaphore>,
}

/// The routes of the web terminal's port, for at most `max` terminals at once.
pub fn router(sandbox: Sandbox, max: usize) -> Router {
    let terminals = Terminals { sandbox, max, places: Arc::new(Semaphore::new(max)) };
    Router::new()
        .route("/", asset("text/html; charset=utf-8", include_bytes!("assets/index.html")))
        .route("/index.html", asset("text/html; charset=utf-8", include_bytes!("assets/index.html")))
        .route("/xterm.js", get(script))
        .route(
            "/xterm-addon-fit.js",
            asset("text/javascript; charset=utf-8", include_bytes!("assets/xterm-addon-fit.js")),
        )
        .route("/xterm.css", asset("text/css; charset=utf-8", include_bytes!("assets/xterm.css")))
        .route(
            "/LICENSE-xterm.txt",
            asset("text/plain; charset=utf-8", include_bytes!("assets/LICENSE-xterm.txt")),
        )
        .route("/ws", get(socket::upgrade))
        .with_state(terminals)
}

/// xterm.js, compressed by the build script. Every browser takes gzip.
async fn script() -> impl IntoResponse {
    const BYTES: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/xterm.js.gz"));
    let headers = [
        (CONTENT_TYPE, "text/javascript; charset=utf-8"),
        (CONTENT_ENCODING, "gzip"),
        (CACHE_CONTROL, "no-cache"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    (headers, BYTES)
}

fn asset(content_type: &'static str, bytes: &'static [u8]) -> MethodRouter<Terminals> {
    get(async move || {
        (
            [(CONTENT_TYPE, content_type), (CACHE_CONTROL, "no-cache"), (X_CONTENT_TYPE_OPTIONS, "nosniff")],
            bytes,
        )
            .into_response()
    })
}
