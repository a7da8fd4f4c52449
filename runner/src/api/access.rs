//! The access log (`API_LOG_REQUESTS`): a line for each request that was answered.
//!
//! Never the query, in which older control planes hand over a sandbox's token, and no header (runner contract 14.1, row 20).

use std::time::Instant;

use axum::extract::Request;
use axum::middleware::Next;
use axum::response::Response;

pub(super) async fn log(request: Request, next: Next) -> Response {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let began = Instant::now();
    let response = next.run(request).await;
    let ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
    tracing::info!(%method, path, status = response.status().as_u16(), ms, "request");
    response
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use axum::Router;
    use axum::routing::post;

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[tokio::test]
    async fn requests_are_logged_without_what_they_carry() {
        let lines = Lines::default();
        let written = lines.clone();
        let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || written.clone());
        let _guard = tracing::subscriber::set_default(subscriber.finish());
        let router = Router::new().route("/sandboxes/{id}/start", post(|| async { "started" }));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/sandboxes/one/start?token=precious", listener.local_addr().unwrap());
        let serving =
            tokio::spawn(axum::serve(listener, router.layer(axum::middleware::from_fn(log))).into_future());
        let asked = crate::jobs::http_client().unwrap().post(url).bearer_auth("secret").send().await.unwrap();
        assert_eq!(asked.status(), 200);
        serving.abort();
        let seen = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        assert!(seen.contains("method=POST path=\"/sandboxes/one/start\" status=200"), "{seen}");
        assert!(!seen.contains("precious") && !seen.contains("secret"), "{seen}");
    }
}
