//! Removing an image from our own registry (OCI distribution specification, "Deleting manifests").
//!
//! Only the manifest goes. What it alone referred to is freed by the registry's own garbage collection.

use std::net::IpAddr;

use http::header::{ACCEPT, WWW_AUTHENTICATE};
use http::{Method, StatusCode};
use pinfold_proto::error::chain;
use pinfold_proto::runner::payload::Registry;
use reqwest::{Client, Response};
use serde::Deserialize;

const KINDS: &str = "application/vnd.oci.image.index.v1+json, application/vnd.docker.distribution.manifest.list.v2+json, \
                     application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json";
const DIGEST: &str = "docker-content-digest";
/// Longest token, in bytes.
const LARGEST: usize = 64 << 10;

/// Why an image is still in the registry.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RemoteError {
    /// It does not delete: trying again is of no use.
    #[error("the registry {0} does not delete images: switch its deletion on, or remove them there")]
    Unsupported(String),
    /// It could not be asked, or said no.
    #[error("the registry {registry}: {reason}")]
    Failed { registry: String, reason: String },
}

#[derive(Deserialize)]
struct Token {
    #[serde(alias = "access_token")]
    token: String,
}

/// Our own registry, spoken to by ourselves.
#[derive(Debug)]
pub(crate) struct Remote {
    registry: Registry,
    client: Client,
    /// Whether it may be spoken to without TLS: it was configured so, or it is this host.
    plain: bool,
}

/// A repository and a tag.
fn split(reference: &str) -> Option<(&str, &str)> {
    let (name, tag) = reference.rsplit_once(':')?;
    (!name.is_empty() && !tag.contains('/')).then_some((name, tag))
}

fn is_this_host(address: &str) -> bool {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

impl Remote {
    pub(crate) fn new(registry: Registry, client: Client, plain: bool) -> Self {
        let plain = plain || is_this_host(&registry.url);
        Self { registry, client, plain }
    }

    fn failed(&self, reason: impl Into<String>) -> RemoteError {
        RemoteError::Failed { registry: self.registry.url.clone(), reason: reason.into() }
    }

    /// Removes an image; one that is not there is as good.
    pub(crate) async fn remove(&self, reference: &str) -> Result<(), RemoteError> {
        let below = reference.strip_prefix(&self.registry.url).and_then(|rest| rest.strip_prefix('/'));
        let Some((name, tag)) = below.and_then(split) else {
            return Err(self.failed(format!("{reference:?} is not an image of it")));
        };
        let found = self.ask(Method::HEAD, name, tag).await?;
        if found.status() == StatusCode::NOT_FOUND {
            return Ok(());
        }
        let digest = found.headers().get(DIGEST).and_then(|value| value.to_str().ok());
        let digest =
            digest.ok_or_else(|| self.failed(format!("no digest of {reference}: {}", found.status())))?;
        let deleted = self.ask(Method::DELETE, name, digest).await?;
        match deleted.status() {
            StatusCode::NOT_FOUND => Ok(()),
            status if status.is_success() => Ok(()),
            StatusCode::METHOD_NOT_ALLOWED | StatusCode::NOT_IMPLEMENTED => {
                Err(RemoteError::Unsupported(self.registry.url.clone()))
            }
            status => Err(self.failed(format!("it answered {status} to the deletion of {reference}"))),
        }
    }

    /// Asks about a manifest: by TLS, and without where that is allowed and TLS is not spoken.
    async fn ask(&self, method: Method, name: &str, what: &str) -> Result<Response, RemoteError> {
        let address = |scheme| format!("{scheme}://{}/v2/{name}/manifests/{what}", self.registry.url);
        match self.authorized(method.clone(), name, &address("https")).await {
            Err(_) if self.plain => self.authorized(method, name, &address("http")).await,
            other => other,
        }
    }

    async fn authorized(&self, method: Method, name: &str, url: &str) -> Result<Response, RemoteError> {
        let request = || self.client.request(method.clone(), url).header(ACCEPT, KINDS);
        let sent = self.basic(request()).send().await;
        let answer = sent.map_err(|error| self.failed(chain(&error)))?;
        if answer.status() != StatusCode::UNAUTHORIZED {
            return Ok(answer);
        }
        let token = self.token(&answer, name).await?;
        let sent = request().bearer_auth(token).send().await;
        let answer = sent.map_err(|error| self.failed(chain(&error)))?;
        match answer.status() {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                Err(self.failed("it refused the credentials"))
            }
            _ => Ok(answer),
        }
    }

    fn basic(&self, request: reqwest::RequestBuilder) -> reqwest::RequestBuilder {
        match (&self.registry.username, &self.registry.password) {
            (Some(username), Some(password)) => request.basic_auth(username, Some(password.expose())),
            _ => request,
        }
    }

    /// The token that the registry's challenge asks for.
    async fn token(&self, refused: &Response, name: &str) -> Result<String, RemoteError> {
        let challenge = refused.headers().get(WWW_AUTHENTICATE).and_then(|value| value.to_str().ok());
        let parameters = challenge.and_then(|challenge| challenge.strip_prefix("Bearer "));
        let parameters = parameters.ok_or_else(|| self.failed("it refused the credentials"))?;
        let parameter = |key: &str| {
            let at = parameters.find(&format!("{key}=\""))? + key.len() + 2;
            parameters[at..].split('"').next()
        };
        let realm = parameter("realm").ok_or_else(|| self.failed("its challenge names no realm"))?;
        let scope = format!("repository:{name}:pull,delete");
        let mut query = vec![("scope", scope.as_str())];
        query.extend(parameter("service").map(|service| ("service", service)));
        let sent = self.basic(self.client.get(realm).query(&query)).send().await;
        let answer = sent.map_err(|error| self.failed(chain(&error)))?;
        if answer.content_length().is_some_and(|length| length > LARGEST as u64) {
            return Err(self.failed("its token is too large"));
        }
        let token: Token = answer.json().await.map_err(|error| self.failed(chain(&error)))?;
        Ok(token.token)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_taken_apart() {
        assert_eq!(split("p/backup-1:2026"), Some(("p/backup-1", "2026")));
        assert_eq!(split("p/x"), None);
        assert!(
            is_this_host("127.0.0.1:5000") && is_this_host("localhost") && !is_this_host("10.0.0.1:5000")
        );
    }
}
