//! Routes called without a socket, and what tests expect of them.

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::middleware::from_fn_with_state;
use http::{Request, StatusCode};
use pinfold_http::{ErrorStyle, render_errors};
use serde_json::Value;
use tokio::time::timeout;
use tower::ServiceExt;

use crate::DEADLINE;

/// Largest answer.
const ANSWER: usize = 256 << 20;

/// A router whose errors are written as the daemon writes them.
#[derive(Debug, Clone)]
pub struct Routes(pub(crate) Router);

impl Routes {
    /// Adds the layer that writes errors.
    pub fn new(router: Router) -> Self {
        Self(router.layer(from_fn_with_state(ErrorStyle::Daemon, render_errors)))
    }

    /// Calls a route with any text; the answer is JSON, a string for what is none, or null for an empty body.
    pub async fn send(&self, method: &str, uri: &str, body: &str) -> (StatusCode, Value) {
        self.send_with(&[], method, uri, body).await
    }

    /// The same with headers.
    pub async fn send_with(
        &self,
        headers: &[(&str, &str)],
        method: &str,
        uri: &str,
        body: &str,
    ) -> (StatusCode, Value) {
        let request = Request::builder().method(method).uri(uri);
        let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        let request = request.body(Body::from(body.to_owned())).unwrap();
        let response = self.0.clone().oneshot(request).await.unwrap();
        let status = response.status();
        let bytes = to_bytes(response.into_body(), ANSWER).await.unwrap();
        if bytes.is_empty() {
            return (status, Value::Null);
        }
        let text = || Value::String(String::from_utf8_lossy(&bytes).into_owned());
        (status, serde_json::from_slice(&bytes).unwrap_or_else(|_| text()))
    }

    /// Calls a route with JSON, or with nothing for null.
    pub async fn call(&self, method: &str, uri: &str, body: Value) -> (StatusCode, Value) {
        self.send(method, uri, &if body.is_null() { String::new() } else { body.to_string() }).await
    }

    /// POSTs and expects a status without a body.
    pub async fn post(&self, uri: &str, body: Value, status: u16) {
        let (found, answer) = self.call("POST", uri, body.clone()).await;
        assert_eq!((found.as_u16(), &answer), (status, &Value::Null), "POST {uri} {body}");
    }

    /// Expects 200; gives the body.
    pub async fn get(&self, uri: &str) -> Value {
        let (status, answer) = self.call("GET", uri, Value::Null).await;
        assert_eq!(status, StatusCode::OK, "GET {uri}: {answer}");
        answer
    }

    /// Expects an error with this status and code; gives its message.
    pub async fn fails(&self, method: &str, uri: &str, body: Value, status: u16, code: &str) -> String {
        let (found, answer) = self.call(method, uri, body.clone()).await;
        assert_eq!(
            (found.as_u16(), answer["code"].as_str()),
            (status, Some(code)),
            "{method} {uri} {body}: {answer}"
        );
        answer["message"].as_str().unwrap().to_owned()
    }

    /// [`Routes::send`], which has to answer in time.
    pub(crate) async fn send_in_time(&self, method: &str, uri: &str, body: &str) -> (StatusCode, Value) {
        timeout(DEADLINE, self.send(method, uri, body)).await.expect("an answer")
    }
}
