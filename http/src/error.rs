//! The one error type of all HTTP handlers.
//!
//! A handler returns [`ApiError`]; the [`render_errors`] layer, which knows the request's path and the contract's flavour, writes the body. So no
//! handler formats an error, and no answer of status 400 or above leaves without a code and a message.

use std::borrow::Cow;
use std::fmt::Display;
use std::sync::Arc;

use axum::extract::Request;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, StatusCode};
use pinfold_proto::error::{ErrorBody, SOURCE_API, SOURCE_DAEMON, code_of};
use serde_json::{Map, Value};

/// An error that a client sees: status, stable code, message.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    status: StatusCode,
    code: Option<Cow<'static, str>>,
    message: String,
    retry_after: Option<u32>,
    extra: Map<String, Value>,
}

impl ApiError {
    /// An error with the generic code of its status.
    pub fn new(status: StatusCode, message: impl Display) -> Self {
        Self {
            status,
            code: code_of(status.as_u16()).map(Cow::Borrowed),
            message: message.to_string(),
            retry_after: None,
            extra: Map::new(),
        }
    }

    /// 400 `BAD_REQUEST`.
    pub fn bad_request(message: impl Display) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    /// 400 `INVALID_REQUEST_BODY`.
    pub fn invalid_body(message: impl Display) -> Self {
        Self::new(StatusCode::BAD_REQUEST, format_args!("invalid body request: {message}"))
            .code("INVALID_REQUEST_BODY")
    }

    /// 404 `NOT_FOUND`.
    pub fn not_found(message: impl Display) -> Self {
        Self::new(StatusCode::NOT_FOUND, message)
    }

    /// 409 `CONFLICT`.
    pub fn conflict(message: impl Display) -> Self {
        Self::new(StatusCode::CONFLICT, message)
    }

    /// 410 `GONE`.
    pub fn gone(message: impl Display) -> Self {
        Self::new(StatusCode::GONE, message)
    }

    /// 500 `INTERNAL_SERVER_ERROR`. The message still says which step failed.
    pub fn internal(message: impl Display) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, message)
    }

    /// 503 `SERVICE_UNAVAILABLE`.
    pub fn unavailable(message: impl Display) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, message)
    }

    /// 503 `RESOURCES_EXHAUSTED`: there is no room for another process, descriptor or page now. Nothing has been done, and the caller may come again.
    pub fn exhausted(message: impl Display) -> Self {
        Self::unavailable(message).code("RESOURCES_EXHAUSTED").retry_after(1)
    }

    /// 429: `limit` of `what` exist already, and more are not allowed; named after the setting that says how many.
    pub fn too_many(limit: usize, what: &str, setting: &str) -> Self {
        let message = format_args!("there are {limit} {what} already, and no more are allowed ({setting})");
        Self::new(StatusCode::TOO_MANY_REQUESTS, message)
    }

    /// Replaces the generic code by one that says more.
    #[must_use]
    pub fn code(mut self, code: impl Into<Cow<'static, str>>) -> Self {
        self.code = Some(code.into());
        self
    }

    /// Tells the client when to come back, in seconds.
    #[must_use]
    pub fn retry_after(mut self, seconds: u32) -> Self {
        self.retry_after = Some(seconds);
        self
    }

    /// Adds a member to the error body.
    #[must_use]
    pub fn with(mut self, member: &str, value: impl Into<Value>) -> Self {
        self.extra.insert(member.to_owned(), value.into());
        self
    }

    /// The HTTP status.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// The message.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The stable code, if the status or the caller gave one.
    pub fn code_str(&self) -> Option<&str> {
        self.code.as_deref()
    }

    /// The body as a control plane, a runner or a daemon writes it.
    pub fn body(&self, style: ErrorStyle, method: &str, path: &str) -> Value {
        let reason = self.status.canonical_reason().unwrap_or("Error");
        let body = ErrorBody {
            status_code: self.status.as_u16(),
            message: self.message.clone(),
            code: self.code.as_deref().map(str::to_owned),
            timestamp: jiff::Timestamp::now().to_string(),
            path: path.to_owned(),
            method: Some(method.to_owned()),
            source: match style {
                ErrorStyle::Daemon => Some(SOURCE_DAEMON.to_owned()),
                ErrorStyle::Runner => None,
                ErrorStyle::Control => Some(SOURCE_API.to_owned()),
            },
            error: match style {
                ErrorStyle::Daemon => Some(self.message.clone()),
                ErrorStyle::Runner => None,
                ErrorStyle::Control => Some(reason.to_owned()),
            },
        };
        let mut value = serde_json::to_value(body).unwrap_or_default();
        if let Value::Object(object) = &mut value {
            object.extend(self.extra.clone());
        }
        value
    }
}

/// Which contract's error body is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorStyle {
    /// `source` is the daemon's, and `error` repeats the message for old clients.
    Daemon,
    /// Neither `source` nor `error`.
    Runner,
    /// `source` is the API's, and `error` is the reason phrase.
    Control,
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        // The body is written by `render_errors`; this is what is seen without that layer.
        let mut response = (self.status, self.message.clone()).into_response();
        response.extensions_mut().insert(Arc::new(self));
        response
    }
}

/// Layer (`axum::middleware::from_fn_with_state(style, render_errors)`) that writes the JSON body of every [`ApiError`].
pub async fn render_errors(
    axum::extract::State(style): axum::extract::State<ErrorStyle>,
    request: Request,
    next: Next,
) -> Response {
    let method = request.method().clone();
    let path = request.uri().path().to_owned();
    let mut response = next.run(request).await;
    let Some(error) = response.extensions_mut().remove::<Arc<ApiError>>() else { return response };
    if error.status.is_server_error() {
        tracing::warn!(%method, path, status = error.status.as_u16(), code = error.code_str(), error = error.message, "request failed");
    } else {
        // What is wrong with a body may quote it, and bodies hold secrets. Who sent it is told.
        let reason = Some(&error.message).filter(|_| error.code_str() != Some("INVALID_REQUEST_BODY"));
        tracing::debug!(%method, path, status = error.status.as_u16(), code = error.code_str(), error = reason, "request refused");
    }
    let body = error.body(style, method.as_str(), &path).to_string();
    // What the handler said besides the error stays, such as the `Content-Range` of a 416.
    let mut rendered = (error.status, std::mem::take(response.headers_mut()), body).into_response();
    rendered.headers_mut().remove(CONTENT_LENGTH);
    rendered.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Some(seconds) = error.retry_after {
        rendered.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    rendered
}
