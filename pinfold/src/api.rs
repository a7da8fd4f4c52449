//! The client that the commands for people use: the same API, address and key as the official SDKs.

use std::time::Duration;

use reqwest::{Method, RequestBuilder, Response, StatusCode};
use serde_json::Value;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::client::generate_key;
use tokio_tungstenite::tungstenite::protocol::Role;

use crate::exit::Failure;

/// Where the API is, unless `DAYTONA_API_URL` says otherwise.
const DEFAULT_URL: &str = "http://127.0.0.1:3000/api";

/// Keeps a request from counting as activity (control-plane contract 10).
const SKIP_ACTIVITY: &str = "X-Daytona-Skip-Last-Activity-Update";

/// A control plane's API.
#[derive(Debug, Clone)]
pub(crate) struct Api {
    http: reqwest::Client,
    base: String,
    key: String,
}

impl Api {
    /// From `DAYTONA_API_URL` and `DAYTONA_API_KEY`, else from what a local `pinfold up` left in its data directory.
    pub(crate) fn from_env() -> Result<Self, Failure> {
        let base = std::env::var("DAYTONA_API_URL")
            .ok()
            .filter(|v| !v.is_empty())
            .unwrap_or_else(|| DEFAULT_URL.to_owned());
        let key = match std::env::var("DAYTONA_API_KEY").ok().filter(|v| !v.is_empty()) {
            Some(key) => key,
            None => local_key()?,
        };
        Ok(Self { http: reqwest::Client::new(), base: base.trim_end_matches('/').to_owned(), key })
    }

    pub(crate) async fn get(&self, path: &str) -> Result<Value, Failure> {
        self.send(Method::GET, path, None).await
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> Result<Value, Failure> {
        self.send(Method::POST, path, Some(body)).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Result<Value, Failure> {
        self.send(Method::DELETE, path, None).await
    }

    /// Every sandbox, page by page.
    pub(crate) async fn sandboxes(&self) -> Result<Vec<Value>, Failure> {
        let mut items = Vec::new();
        let mut query = String::new();
        loop {
            let mut page = self.get(&format!("/sandbox?limit=200{query}")).await?;
            if let Some(Value::Array(found)) = page.get_mut("items").map(Value::take) {
                items.extend(found);
            }
            match page["nextCursor"].as_str() {
                Some(cursor) => query = format!("&cursor={}", segment(cursor)),
                None => return Ok(items),
            }
        }
    }

    /// Every snapshot, page by page.
    pub(crate) async fn snapshots(&self) -> Result<Vec<Value>, Failure> {
        let mut items = Vec::new();
        for page in 1.. {
            let mut found = self.get(&format!("/snapshots?limit=200&page={page}")).await?;
            if let Some(Value::Array(some)) = found.get_mut("items").map(Value::take) {
                items.extend(some);
            }
            if found["totalPages"].as_u64().is_none_or(|pages| page >= pages) {
                break;
            }
        }
        Ok(items)
    }

    /// Calls the toolbox of a sandbox through the address that the sandbox itself names.
    pub(crate) async fn toolbox(&self, sandbox: &Value, path: &str, body: Value) -> Result<Value, Failure> {
        self.call(Method::POST, &toolbox_url(sandbox, path), Some(body)).await
    }

    /// Reads from the toolbox of a sandbox within `limit`. It is a look from outside, so it does not count as the sandbox's activity.
    pub(crate) async fn look(&self, sandbox: &Value, path: &str, limit: Duration) -> Result<Value, Failure> {
        let url = toolbox_url(sandbox, path);
        let request = self.request(Method::GET, &url).header(SKIP_ACTIVITY, "true").timeout(limit);
        answer(sent(request, &url).await?, &url).await
    }

    /// Opens a WebSocket of a sandbox's toolbox (RFC 6455, section 4.1).
    pub(crate) async fn socket(
        &self,
        sandbox: &Value,
        path: &str,
    ) -> Result<WebSocketStream<reqwest::Upgraded>, Failure> {
        let url = toolbox_url(sandbox, path);
        let request = self
            .request(Method::GET, &url)
            .header("Connection", "Upgrade")
            .header("Upgrade", "websocket")
            .header("Sec-WebSocket-Version", "13")
            .header("Sec-WebSocket-Key", generate_key());
        let response = sent(request, &url).await?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Err(match answer(response, &url).await {
                Ok(_) => Failure::unreachable(format!("{url} does not speak WebSocket")),
                Err(refused) => refused,
            });
        }
        let upgraded = response.upgrade().await;
        let upgraded = upgraded
            .map_err(|error| Failure::unreachable(format!("{url} did not become a stream: {error}")))?;
        Ok(WebSocketStream::from_raw_socket(upgraded, Role::Client, None).await)
    }

    fn request(&self, method: Method, url: &str) -> RequestBuilder {
        self.http.request(method, url).bearer_auth(&self.key).header("X-Daytona-Source", "pinfold-cli")
    }

    async fn send(&self, method: Method, path: &str, body: Option<Value>) -> Result<Value, Failure> {
        self.call(method, &format!("{}{path}", self.base), body).await
    }

    async fn call(&self, method: Method, url: &str, body: Option<Value>) -> Result<Value, Failure> {
        let mut request = self.request(method, url);
        if let Some(body) = body {
            request = request.json(&body);
        }
        answer(sent(request, url).await?, url).await
    }
}

/// Where a path of a sandbox's toolbox is.
fn toolbox_url(sandbox: &Value, path: &str) -> String {
    let text = |key: &str| sandbox[key].as_str().unwrap_or_default();
    format!("{}/{}{path}", text("toolboxProxyUrl").trim_end_matches('/'), text("id"))
}

async fn sent(request: RequestBuilder, url: &str) -> Result<Response, Failure> {
    request.send().await.map_err(|error| {
        Failure::unreachable(format!(
            "could not reach {url}: {}; is `pinfold up` running, and is DAYTONA_API_URL right?",
            root_cause(&error)
        ))
    })
}

/// The answer's JSON, or the failure that it is.
async fn answer(response: Response, url: &str) -> Result<Value, Failure> {
    let status = response.status();
    let text = response
        .text()
        .await
        .map_err(|error| Failure::unreachable(format!("{url} stopped answering: {error}")))?;
    let value: Value = serde_json::from_str(&text).unwrap_or(Value::String(text));
    if status.is_success() {
        return Ok(value);
    }
    let message = value["message"].as_str().map_or_else(|| value.to_string(), str::to_owned);
    Err(Failure::refused(status.as_u16(), message))
}

/// The last error of a chain says what really happened.
pub(crate) fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}

fn local_key() -> Result<String, Failure> {
    let path = crate::data_dir().join("api-key");
    let key = std::fs::read_to_string(&path).map_err(|error| {
        Failure::usage(format!(
            "no API key: set DAYTONA_API_KEY (and {} cannot be read: {error})",
            path.display()
        ))
    })?;
    Ok(key.trim().to_owned())
}

/// Escapes one path segment.
pub(crate) fn segment(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~');
    text.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_single_segments() {
        assert_eq!(segment("a/b:c 1"), "a%2Fb%3Ac%201");
        assert_eq!(segment("é.txt"), "%C3%A9.txt");
    }
}
