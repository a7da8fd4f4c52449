//! A collector, and the requests it gets.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};
use pinfold_protobuf::Message;
use reqwest::Client;

use crate::message;

/// How long a collector may take.
pub(crate) const ANSWER: Duration = Duration::from_secs(10);

/// A collector behind an HTTP client of the caller's, which knows how names are looked up and whom to trust.
#[derive(Debug, Clone)]
pub struct Collector {
    client: Client,
    endpoint: String,
    scope: &'static str,
    /// Sent with each request.
    pub headers: HeaderMap,
    /// Resource attributes of everything that is sent.
    pub labels: Vec<(String, String)>,
}

impl Collector {
    /// The collector whose base URL is `endpoint`. `scope` names what records.
    pub fn new(client: Client, endpoint: impl Into<String>, scope: &'static str) -> Self {
        let endpoint = endpoint.into();
        Self { client, endpoint, scope, headers: HeaderMap::new(), labels: Vec::new() }
    }

    /// Adds a header to each request; one that HTTP does not allow is left out. Its value never shows in a log.
    pub fn header(&mut self, name: &str, value: &str) {
        let (Ok(name), Ok(mut value)) = (HeaderName::try_from(name), HeaderValue::from_str(value)) else {
            return tracing::warn!(name, "a header for telemetry is none that HTTP allows; it is left out");
        };
        value.set_sensitive(true);
        self.headers.insert(name, value);
    }

    /// Sends items of one signal (`traces`, `logs`, `metrics`), in 10 s at most. False when they are lost; why is logged.
    pub async fn post(&self, signal: &str, items: Vec<Message>) -> bool {
        if items.is_empty() {
            return true;
        }
        let body = message::request(&self.labels, self.scope, items);
        let request = self.client.post(format!("{}/v1/{signal}", self.endpoint)).body(body).timeout(ANSWER);
        let request = request.headers(self.headers.clone()).header("content-type", "application/x-protobuf");
        match request.send().await {
            Ok(response) if response.status().is_success() => true,
            Ok(response) => {
                tracing::warn!(
                    signal,
                    status = response.status().as_u16(),
                    "the collector refused telemetry"
                );
                false
            }
            Err(error) => {
                tracing::warn!(signal, %error, "telemetry could not be sent");
                false
            }
        }
    }
}
