//! `GET /files/download`.

use std::io::{Seek, SeekFrom};
use std::path::Path;
use std::time::SystemTime;

use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::header::{
    ACCEPT_RANGES, CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, EXPIRES,
    LAST_MODIFIED, PRAGMA,
};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use pinfold_http::{ApiError, ApiResult, Query};
use pinfold_spawn::Sandbox;

use crate::error::failed;
use crate::range::{Wanted, not_modified, precondition_failed, wanted};
use crate::{blocking, multipart, path, source, stream};

/// Sends one regular file, or a range of it.
pub(crate) async fn download(
    State(sandbox): State<Sandbox>,
    query: Query,
    headers: HeaderMap,
) -> ApiResult<Response> {
    let path = sandbox.resolve(query.required("path")?);
    let opening = path.clone();
    let (mut file, metadata) = blocking(move || {
        source::open_regular(&opening).map_err(|error| failed("download", &opening, &error))
    })
    .await?;
    let size = metadata.len();
    let modified = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);

    if precondition_failed(&headers, modified) {
        return Err(ApiError::new(
            StatusCode::PRECONDITION_FAILED,
            format_args!("changed since: {}", path.display()),
        ));
    }
    if not_modified(&headers, modified) {
        return Ok((StatusCode::NOT_MODIFIED, [(LAST_MODIFIED, date(modified))]).into_response());
    }
    let mut answer = describe(&path, modified);
    let (first, length) = match wanted(&headers, size, modified) {
        Wanted::Whole => (0, size),
        Wanted::Range(first, last) => {
            *answer.status_mut() = StatusCode::PARTIAL_CONTENT;
            set(&mut answer, CONTENT_RANGE, &format!("bytes {first}-{last}/{size}"));
            (first, last - first + 1)
        }
        Wanted::Unsatisfiable => {
            let message = format_args!("no such range: {} has {size} bytes", path.display());
            let error = ApiError::new(StatusCode::RANGE_NOT_SATISFIABLE, message);
            return Ok(([(CONTENT_RANGE, format!("bytes */{size}"))], error).into_response());
        }
    };
    set(&mut answer, CONTENT_LENGTH, &length.to_string());
    if first > 0 {
        file.seek(SeekFrom::Start(first)).map_err(|error| failed("download", &path, &error))?;
    }
    let (sender, body) = stream::body(source::QUEUE);
    tokio::spawn(async move {
        // A body shorter than its length is how the client learns of a failure; the reason is for the log.
        if let Err(error) = source::send(file, length, &sender).await {
            tracing::debug!(path = %path.display(), %error, "a download ended early");
        }
    });
    *answer.body_mut() = body;
    Ok(answer)
}

fn describe(path: &Path, modified: SystemTime) -> Response {
    let mut answer = Response::new(Body::empty());
    let name = path::base_name(path);
    set(&mut answer, CONTENT_TYPE, "application/octet-stream");
    if let Some(disposition) = multipart::attachment(&name.to_string_lossy()) {
        answer.headers_mut().insert(CONTENT_DISPOSITION, disposition);
    }
    answer.headers_mut().insert(LAST_MODIFIED, date(modified));
    set(&mut answer, ACCEPT_RANGES, "bytes");
    set(&mut answer, HeaderName::from_static("content-description"), "File Transfer");
    set(&mut answer, HeaderName::from_static("content-transfer-encoding"), "binary");
    set(&mut answer, EXPIRES, "0");
    set(&mut answer, CACHE_CONTROL, "must-revalidate");
    set(&mut answer, PRAGMA, "public");
    answer
}

fn set(answer: &mut Response, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        answer.headers_mut().insert(name, value);
    }
}

fn date(time: SystemTime) -> HeaderValue {
    // The format has four digits for the year and none before 1970.
    let time = time.clamp(
        SystemTime::UNIX_EPOCH,
        SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(253_402_300_799),
    );
    HeaderValue::try_from(httpdate::fmt_http_date(time))
        .unwrap_or(HeaderValue::from_static("Thu, 01 Jan 1970 00:00:00 GMT"))
}
