//! `POST /files/bulk-download`: many files in one multipart body, in the order they were asked for.

use std::fs::File;
use std::path::Path;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use http::header::CONTENT_TYPE;
use pinfold_http::{ApiError, ApiResult, ErrorStyle, JsonBody};
use pinfold_proto::toolbox::files::DownloadRequest;
use pinfold_spawn::Sandbox;

use crate::error::{DENIED, Kind, NOT_FOUND, READ_FAILED, invalid_path, kind, reason};
use crate::stream::Feed;
use crate::{blocking, content_type, multipart, source, stream};

/// Sends every file as a part named `file`, or says in a part named `error` why it cannot be sent.
pub(crate) async fn download(
    State(sandbox): State<Sandbox>,
    JsonBody(request): JsonBody<DownloadRequest>,
) -> ApiResult<Response> {
    if request.paths.is_empty() {
        return Err(ApiError::invalid_body("paths must name at least one file"));
    }
    let boundary = format!("{:032x}", rand::random::<u128>());
    let kind = format!("multipart/form-data; boundary={boundary}");
    let (sink, body) = stream::body(source::QUEUE);
    tokio::spawn(async move {
        let mut parts = Parts { sandbox, boundary, sink };
        if let Err(error) = parts.write(&request.paths).await {
            // No closing delimiter: its absence is how the client learns of it.
            tracing::debug!(%error, "a bulk download ended early");
        }
    });
    Ok(([(CONTENT_TYPE, kind)], body).into_response())
}

struct Parts {
    sandbox: Sandbox,
    boundary: String,
    sink: Feed,
}

impl Parts {
    async fn write(&mut self, paths: &[String]) -> Result<(), source::SendError> {
        for path in paths {
            match self.open(path).await {
                Ok((file, size)) => {
                    let extra = format!(
                        "Content-Length: {size}\r\nContent-Type: {}\r\n",
                        content_type::of(Path::new(path))
                    );
                    self.head("file", path, &extra).await?;
                    source::send(file, size, &self.sink).await?;
                }
                Err(error) => {
                    self.head("error", path, "Content-Type: application/json; charset=utf-8\r\n").await?;
                    self.text(error.body(ErrorStyle::Daemon, "POST", path).to_string()).await?;
                }
            }
            self.text("\r\n".to_owned()).await?;
        }
        self.text(format!("--{}--\r\n", self.boundary)).await
    }

    async fn open(&self, path: &str) -> ApiResult<(File, u64)> {
        if path.is_empty() {
            return Err(invalid_path("empty file path"));
        }
        let resolved = self.sandbox.resolve(path);
        let opened = blocking(move || Ok(source::open_regular(&resolved))).await?;
        match opened {
            Ok((file, metadata)) => Ok((file, metadata.len())),
            Err(error) => Err(refused(path, &error)),
        }
    }

    async fn head(&self, name: &str, path: &str, extra: &str) -> Result<(), source::SendError> {
        let mut head = format!("--{}\r\nContent-Disposition: ", self.boundary).into_bytes();
        head.extend_from_slice(&multipart::form_data(name, path));
        head.extend_from_slice(b"\r\n");
        head.extend_from_slice(extra.as_bytes());
        head.extend_from_slice(b"\r\n");
        self.sink.send(Ok(head.into())).await.map_err(|_| source::SendError::Gone)
    }

    async fn text(&self, text: String) -> Result<(), source::SendError> {
        self.sink.send(Ok(text.into())).await.map_err(|_| source::SendError::Gone)
    }
}

fn refused(path: &str, error: &std::io::Error) -> ApiError {
    match kind(error) {
        Kind::Missing => ApiError::not_found(format_args!("file not found: {path}")).code(NOT_FOUND),
        Kind::Denied => {
            ApiError::new(StatusCode::FORBIDDEN, format_args!("permission denied: {path}")).code(DENIED)
        }
        Kind::Path => invalid_path(format_args!("{}: {path}", reason(error))),
        Kind::Other => ApiError::internal(format_args!("{}: {path}", reason(error))).code(READ_FAILED),
    }
}
