//! Serves the files routes on 127.0.0.1 with the current directory as work directory, to try clients on:
//! `cargo run -p pinfold-files --example serve -- 2280`.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::time::Duration;

use axum::middleware::from_fn_with_state;
use pinfold_http::{ErrorStyle, render_errors};
use pinfold_spawn::{Environment, Sandbox, Spawner};

#[tokio::main]
async fn main() {
    let port = std::env::args().nth(1).and_then(|p| p.parse().ok()).unwrap_or(0);
    let work_dir = std::env::current_dir().unwrap();
    let sandbox = Sandbox {
        spawner: Spawner::start().unwrap(),
        environment: Environment::inherited(&[]),
        work_dir: work_dir.clone().into(),
        home: work_dir.into(),
    };
    let router = pinfold_files::router(sandbox).layer(from_fn_with_state(ErrorStyle::Daemon, render_errors));
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await.unwrap();
    println!("{}", listener.local_addr().unwrap());
    let _ = pinfold_http::serve(listener, router, std::future::pending(), Duration::ZERO).await;
}
