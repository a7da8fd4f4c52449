//! Uploads of one file: `POST /files/upload` (old clients) and `POST /files/upload-v2` (signed upload URLs).

use std::path::{Path, PathBuf};

use axum::Json;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use futures_util::{FutureExt, StreamExt};
use http::StatusCode;
use pinfold_http::{ApiError, ApiResult, Query};
use pinfold_proto::toolbox::files::UploadedFile;
use pinfold_spawn::Sandbox;

use crate::body::{Incoming, receive};
use crate::error::{DENIED, INVALID_PATH, Kind, kind, reason};
use crate::multipart::{Multipart, MultipartError, boundary_of};
use crate::path;
use crate::sink::{Sink, WriteError};

/// The form field that holds the file.
const FIELD: &str = "file";

/// The file is the form field `file`.
pub(crate) async fn form(
    State(sandbox): State<Sandbox>,
    query: Query,
    request: Request,
) -> ApiResult<Response> {
    let destination = destination(&sandbox, &query);
    let boundary = boundary_of(request.headers());
    let work = async move |body| match (destination, boundary) {
        (Ok(path), Some(boundary)) => {
            multipart(path, 0o750, body, &boundary).await.map(|()| StatusCode::OK.into_response())
        }
        (Ok(_), None) => {
            refuse(body, ApiError::bad_request("the request is not multipart/form-data with a boundary"))
                .await
        }
        (Err(error), _) => refuse(body, error).await,
    };
    receive(request, Box::new(|body| work(body).boxed())).await
}

/// The file is the form field `file`, or the body itself if that is no form.
pub(crate) async fn any(
    State(sandbox): State<Sandbox>,
    query: Query,
    request: Request,
) -> ApiResult<Response> {
    let destination = destination(&sandbox, &query);
    let boundary = boundary_of(request.headers());
    let work = async move |body| {
        let destination = match destination {
            Ok(path) => path,
            Err(error) => return refuse(body, error).await,
        };
        match boundary {
            Some(boundary) => multipart(destination.clone(), 0o755, body, &boundary).await?,
            None => raw(destination.clone(), body).await?,
        }
        let path = path::clean(&destination);
        let name = path::base_name(&path).to_string_lossy().into_owned();
        Ok(Json(UploadedFile { name, path: path::text(&path), r#type: "file".to_owned() }).into_response())
    };
    receive(request, Box::new(|body| work(body).boxed())).await
}

fn destination(sandbox: &Sandbox, query: &Query) -> ApiResult<PathBuf> {
    query.required("path").map(|path| sandbox.resolve(path))
}

/// Answers once the client has sent everything; an earlier answer would reset its connection.
async fn refuse<T>(mut body: Incoming, error: ApiError) -> ApiResult<T> {
    body.drain().await;
    Err(error)
}

async fn raw(path: PathBuf, mut body: Incoming) -> ApiResult<()> {
    let written = async {
        let sink = Sink::create(path.clone(), 0o755, body.blocks()).await;
        let mut sink = sink.map_err(|error| failed(&path, &error))?;
        while let Some(chunk) = body.next().await {
            let chunk = chunk.map_err(|error| broken(&MultipartError::Body(error.into())))?;
            sink.push(chunk).await.map_err(|error| failed(&path, &error))?;
        }
        sink.finish().await.map_err(|error| failed(&path, &error))
    };
    let result = written.await;
    body.drain().await;
    result.map(|_| ())
}

async fn multipart(path: PathBuf, directory_mode: u32, body: Incoming, boundary: &[u8]) -> ApiResult<()> {
    let blocks = body.blocks();
    let mut form = Multipart::new(body, boundary);
    let result = field(&path, directory_mode, blocks, &mut form).await;
    form.drain().await;
    result
}

async fn field(
    path: &Path,
    directory_mode: u32,
    blocks: bool,
    form: &mut Multipart<Incoming>,
) -> ApiResult<()> {
    loop {
        match form.part().await.map_err(|error| broken(&error))? {
            Some(part) if part.name == FIELD => break,
            Some(_) => {}
            None => return Err(ApiError::bad_request(format_args!("the form has no field {FIELD:?}"))),
        }
    }
    let sink = Sink::create(path.to_owned(), directory_mode, blocks).await;
    let mut sink = sink.map_err(|error| failed(path, &error))?;
    while let Some(chunk) = form.content().await.map_err(|error| broken(&error))? {
        sink.push(chunk).await.map_err(|error| failed(path, &error))?;
    }
    sink.finish().await.map_err(|error| failed(path, &error)).map(|_| ())
}

fn broken(error: &MultipartError) -> ApiError {
    ApiError::invalid_body(error)
}

/// These routes know only one error status; the code still tells the kinds apart.
fn failed(path: &Path, error: &WriteError) -> ApiError {
    let answer =
        ApiError::bad_request(format_args!("{}: {}: {}", error.step, reason(&error.source), path.display()));
    match kind(&error.source) {
        Kind::Denied => answer.code(DENIED),
        Kind::Path => answer.code(INVALID_PATH),
        _ => answer,
    }
}
