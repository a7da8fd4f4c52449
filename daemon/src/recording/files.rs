//! A file as a response, whole or a range of it: players jump about in a video.

use std::io::SeekFrom;
use std::path::Path;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::header::{ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, RANGE};
use http::{HeaderMap, StatusCode};
use pinfold_http::{ApiError, ApiResult};
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio_util::io::ReaderStream;

/// Streams the file at `path`.
pub(crate) async fn serve(path: &Path, headers: &HeaderMap) -> ApiResult<Response> {
    let missing = |error| ApiError::not_found(format_args!("{}: {error}", path.display()));
    let mut file = tokio::fs::File::open(path).await.map_err(missing)?;
    let size = file.metadata().await.map_err(missing)?.len();
    let kind = match path.extension().and_then(|e| e.to_str()) {
        Some("mp4") => "video/mp4",
        Some("webm") => "video/webm",
        _ => "application/octet-stream",
    };
    let asked = headers.get(RANGE).and_then(|value| value.to_str().ok()).and_then(|text| range(text, size));
    let (first, last) = match asked {
        Some(Some(range)) => range,
        Some(None) => {
            let all = [(CONTENT_RANGE, format!("bytes */{size}"))];
            return Ok((StatusCode::RANGE_NOT_SATISFIABLE, all).into_response());
        }
        None => {
            let headers = [
                (CONTENT_TYPE, kind.to_owned()),
                (CONTENT_LENGTH, size.to_string()),
                (ACCEPT_RANGES, "bytes".to_owned()),
            ];
            return Ok((headers, Body::from_stream(ReaderStream::new(file))).into_response());
        }
    };
    file.seek(SeekFrom::Start(first)).await.map_err(ApiError::internal)?;
    let length = last - first + 1;
    let headers = [
        (CONTENT_TYPE, kind.to_owned()),
        (CONTENT_LENGTH, length.to_string()),
        (CONTENT_RANGE, format!("bytes {first}-{last}/{size}")),
        (ACCEPT_RANGES, "bytes".to_owned()),
    ];
    Ok((StatusCode::PARTIAL_CONTENT, headers, Body::from_stream(ReaderStream::new(file.take(length))))
        .into_response())
}

/// The first and last byte of a single range; `Some(None)` if there is no such part, nothing for what is to be ignored (RFC 9110, 14.2).
fn range(text: &str, size: u64) -> Option<Option<(u64, u64)>> {
    let (first, last) = text.strip_prefix("bytes=")?.split_once('-')?;
    let range = match (first.parse::<u64>(), last.parse::<u64>()) {
        (Ok(first), Ok(last)) if first <= last => (first, last),
        (Ok(first), Err(_)) if last.is_empty() => (first, u64::MAX),
        (Err(_), Ok(0)) if first.is_empty() => return Some(None),
        (Err(_), Ok(suffix)) if first.is_empty() => (size.saturating_sub(suffix), u64::MAX),
        _ => return None,
    };
    Some((range.0 < size).then(|| (range.0, range.1.min(size - 1))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_single_ranges() {
        for (text, expected) in [
            ("bytes=0-0", Some(Some((0, 0)))),
            ("bytes=2-", Some(Some((2, 9)))),
            ("bytes=2-99", Some(Some((2, 9)))),
            ("bytes=-3", Some(Some((7, 9)))),
            ("bytes=-99", Some(Some((0, 9)))),
            ("bytes=10-", Some(None)),
            ("bytes=-0", Some(None)),
            ("bytes=5-2", None),
            ("bytes=0-1,3-4", None),
            ("lines=1-2", None),
        ] {
            assert_eq!(range(text, 10), expected, "{text}");
        }
        assert_eq!(range("bytes=0-", 0), Some(None));
    }
}
