//! Extractors for what real clients send: JSON under any content type, query strings with repeated or unknown keys.

use axum::body::Bytes;
use axum::extract::{FromRequest, FromRequestParts, Request};
use http::request::Parts;
use percent_encoding::percent_decode_str;
use serde::de::DeserializeOwned;

use crate::ApiError;
use crate::json::first_value;

/// A JSON body, whatever its `Content-Type` says: unknown members are ignored, names are taken in any case, and only the first JSON value is read.
///
/// Bodies are limited by axum's `DefaultBodyLimit` (2 MiB unless a route says otherwise).
#[derive(Debug)]
pub struct JsonBody<T>(pub T);

impl<S, T> FromRequest<S> for JsonBody<T>
where
    S: Send + Sync,
    T: DeserializeOwned,
{
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let bytes = Bytes::from_request(request, state).await.map_err(ApiError::invalid_body)?;
        first_value(&bytes).map(Self).map_err(ApiError::invalid_body)
    }
}

/// A JSON body that may be missing or empty, in which case it is the type's default. SDKs send lifecycle calls that way.
#[derive(Debug)]
pub struct OptionalJsonBody<T>(pub T);

impl<S, T> FromRequest<S> for OptionalJsonBody<T>
where
    S: Send + Sync,
    T: DeserializeOwned + Default,
{
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let bytes = Bytes::from_request(request, state).await.map_err(ApiError::invalid_body)?;
        if bytes.trim_ascii().is_empty() || bytes.trim_ascii() == b"null" {
            return Ok(Self(T::default()));
        }
        first_value(&bytes).map(Self).map_err(ApiError::invalid_body)
    }
}

/// The query string as it came: the first value of a repeated key wins, unknown keys are harmless.
#[derive(Debug, Clone, Default)]
pub struct Query(Vec<(String, String)>);

impl Query {
    /// Parses a raw query string.
    pub fn parse(raw: &str) -> Self {
        let decode = |s: &str| percent_decode_str(&s.replace('+', " ")).decode_utf8_lossy().into_owned();
        let pairs = raw.split('&').filter(|p| !p.is_empty());
        Self(
            pairs
                .map(|p| p.split_once('=').unwrap_or((p, "")))
                .map(|(k, v)| (decode(k), decode(v)))
                .collect(),
        )
    }

    /// The first value of `key`, if it is there at all.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str())
    }

    /// Every value of `key`: repeated (`k=a&k=b`), bracketed (`k[]=a`) or separated by commas.
    pub fn all(&self, key: &str) -> Vec<&str> {
        let bracketed = format!("{key}[]");
        let values = self.0.iter().filter(|(k, _)| k == key || *k == bracketed);
        values.flat_map(|(_, v)| v.split(',')).filter(|v| !v.is_empty()).collect()
    }

    /// The first value of `key`, or 400.
    pub fn required(&self, key: &str) -> Result<&str, ApiError> {
        match self.get(key) {
            Some(value) if !value.is_empty() => Ok(value),
            _ => Err(ApiError::bad_request(format_args!("the query parameter {key} is required"))),
        }
    }

    /// True only for the literal `true`.
    pub fn flag(&self, key: &str) -> bool {
        self.get(key) == Some("true")
    }

    /// A value that parses, or 400; `None` when it is absent or empty.
    pub fn parsed<T: std::str::FromStr>(&self, key: &str) -> Result<Option<T>, ApiError> {
        let Some(text) = self.get(key).filter(|v| !v.is_empty()) else { return Ok(None) };
        let invalid = |_| {
            ApiError::bad_request(format_args!("the query parameter {key} has the invalid value {text:?}"))
        };
        text.parse().map(Some).map_err(invalid)
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Query {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Self::Rejection> {
        Ok(Self::parse(parts.uri.query().unwrap_or_default()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_value_wins_and_unknown_keys_are_harmless() {
        let q = Query::parse("path=%2Fa+b&path=/c&follow=true&x&depth=2&states=a,b&states=c&states[]=d");
        assert_eq!(q.get("path"), Some("/a b"));
        assert!(q.flag("follow"));
        assert_eq!(q.get("x"), Some(""));
        assert_eq!(q.parsed::<u32>("depth").unwrap(), Some(2));
        assert_eq!(q.all("states"), ["a", "b", "c", "d"]);
        assert!(q.required("nope").is_err());
        assert!(q.parsed::<u32>("path").is_err());
    }
}
