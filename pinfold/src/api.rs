//! The client that the commands for people use: the same API, address and key as the official SDKs.

use reqwest::Method;
use serde_json::Value;

use crate::exit::Failure;

/// Where the API is, unless `DAYTONA_API_URL` says otherwise.
const DEFAULT_URL: &str = "http://127.0.0.1:3000/api";

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

    /// Calls the toolbox of a sandbox through the address that the sandbox itself names.
    pub(crate) async fn toolbox(&self, sandbox: &Value, path: &str, body: Value) -> Result<Value, Failure> {
        let text = |key: &str| sandbox[key].as_str().unwrap_or_default();
        let url = format!("{}/{}{path}", text("toolboxProxyUrl").trim_end_matches('/'), text("id"));
        self.call(Method::POST, &url, Some(body)).await
    }

    async fn send(&self, method: Method, path: &str, body: Option<Value>) -> Result<Value, Failure> {
        self.call(method, &format!("{}{path}", self.base), body).await
    }

    async fn call(&self, method: Method, url: &str, body: Option<Value>) -> Result<Value, Failure> {
        let mut request =
            self.http.request(method, url).bearer_auth(&self.key).header("X-Daytona-Source", "pinfold-cli");
        if let Some(body) = body {
            request = request.json(&body);
        }
        let response = request.send().await.map_err(|error| {
            Failure::unreachable(format!(
                "could not reach {url}: {}; is `pinfold up` running, and is DAYTONA_API_URL right?",
                root_cause(&error)
            ))
        })?;
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
}

/// The last error of a chain says what really happened.
fn root_cause(error: &dyn std::error::Error) -> String {
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
