//! `POST /files/bulk-upload`: many files in one multipart body, each `files[<i>].path` before its `files[<i>].file`.
//!
//! Best effort: a file that fails is reported and skipped, and the rest is still written. The answer comes after the whole body.

use std::collections::HashMap;

use axum::Json;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt;
use pinfold_http::{ApiError, ApiResult};
use pinfold_proto::toolbox::files::{BulkUpload, WrittenFile};
use pinfold_spawn::Sandbox;

use crate::body::{Incoming, receive};
use crate::error::reason;
use crate::multipart::{Multipart, MultipartError, boundary_of};
use crate::sink::{Sink, WriteError};

/// Mode of directories that are created for a file.
const DIRECTORY_MODE: u32 = 0o755;
/// The longest path text that is read. The kernel takes 4096 bytes.
const MAX_PATH: usize = 16 << 10;
/// Paths whose files have not come yet, and reports: bounds what a client can make us remember.
const MAX_FILES: usize = 100_000;

/// Writes every file of the body.
pub(crate) async fn upload(State(sandbox): State<Sandbox>, request: Request) -> ApiResult<Response> {
    let boundary = boundary_of(request.headers());
    let work = async move |body: Incoming| {
        let mut upload = Upload {
            sandbox,
            blocks: body.blocks(),
            paths: HashMap::new(),
            written: Vec::new(),
            errors: Vec::new(),
        };
        let mut body = Multipart::new(body, boundary.as_deref().unwrap_or(b"-"));
        if boundary.is_none() {
            upload.errors.push("the request is not multipart/form-data with a boundary".to_owned());
        } else if let Err(error) = upload.run(&mut body).await {
            upload.errors.push(error.to_string());
        }
        // An answer before the last byte was read would reset the connection under a client that is still sending.
        body.drain().await;
        upload.result().map(IntoResponse::into_response)
    };
    receive(request, Box::new(|body| work(body).boxed())).await
}

struct Upload {
    sandbox: Sandbox,
    /// Whether this thread may block.
    blocks: bool,
    /// By `<i>`.
    paths: HashMap<String, String>,
    written: Vec<WrittenFile>,
    errors: Vec<String>,
}

impl Upload {
    async fn run(&mut self, body: &mut Multipart<Incoming>) -> Result<(), MultipartError> {
        while let Some(part) = body.part().await? {
            let Some((index, field)) =
                part.name.strip_prefix("files[").and_then(|rest| rest.rsplit_once("]."))
            else {
                continue;
            };
            if self.paths.len() + self.written.len() + self.errors.len() >= MAX_FILES {
                self.errors.push(format!("more than {MAX_FILES} files in one upload"));
                return Ok(());
            }
            match field {
                "path" => match text(body).await? {
                    Some(path) => {
                        self.paths.insert(index.to_owned(), path);
                    }
                    None => self.errors.push(format!("files[{index}].path: longer than {MAX_PATH} bytes")),
                },
                "file" => match self.paths.remove(index) {
                    Some(path) if !path.is_empty() => self.file(path, body).await?,
                    Some(_) => self.errors.push(format!("files[{index}].path: empty path")),
                    None => self.errors.push(format!("files[{index}].file: no path was given for it")),
                },
                _ => {}
            }
        }
        Ok(())
    }

    /// Writes one file. Only a broken body is an error here; what concerns the file alone is noted.
    async fn file(&mut self, path: String, body: &mut Multipart<Incoming>) -> Result<(), MultipartError> {
        let outcome = async {
            let mut sink = Sink::create(self.sandbox.resolve(&path), DIRECTORY_MODE, self.blocks).await?;
            // The error of the body passes through the error of the file: the body cannot be read on after it.
            loop {
                match body.content().await {
                    Ok(Some(chunk)) => sink.push(chunk).await?,
                    Ok(None) => return sink.finish().await.map(Ok),
                    Err(error) => return Ok(Err(error)),
                }
            }
        };
        let outcome: Result<Result<u64, MultipartError>, WriteError> = outcome.await;
        match outcome {
            Ok(Ok(bytes)) => self.written.push(WrittenFile { path, bytes }),
            Ok(Err(error)) => {
                self.errors.push(format!("{path}: read: {error}"));
                return Err(error);
            }
            Err(error) => self.errors.push(format!("{path}: {}: {}", error.step, reason(&error.source))),
        }
        Ok(())
    }

    fn result(self) -> ApiResult<Json<BulkUpload>> {
        if self.errors.is_empty() {
            return Ok(Json(BulkUpload { files: self.written }));
        }
        let files = serde_json::to_value(&self.written).unwrap_or_default();
        Err(ApiError::bad_request(self.errors.join("; ")).with("errors", self.errors).with("files", files))
    }
}

/// A text field, trimmed; `None` if it is too long.
async fn text(body: &mut Multipart<Incoming>) -> Result<Option<String>, MultipartError> {
    let mut text = Vec::new();
    while let Some(chunk) = body.content().await? {
        text.extend_from_slice(&chunk);
        if text.len() > MAX_PATH {
            return Ok(None);
        }
    }
    Ok(Some(String::from_utf8_lossy(&text).trim().to_owned()))
}
