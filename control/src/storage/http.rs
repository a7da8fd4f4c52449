//! The S3 routes: HEAD, GET, PUT, multipart uploads, listing and the bucket's location.

use std::path::Path as FilePath;
use std::sync::Arc;
use std::time::SystemTime;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use futures_util::StreamExt;
use http::request::Parts;
use http::{Method, StatusCode, header};
use pinfold_http::Query;
use pinfold_proto::id::Secret;
use sha2::{Digest, Sha256};
use tokio::io::AsyncWriteExt;
use tokio_util::io::ReaderStream;
use tower::ServiceExt;

use super::chunked::{ChunkError, Decoder};
use super::multipart::part_numbers;
use super::signature::{Presented, Refused, Seal, SignedUri};
use crate::core::Core;
use crate::time::now;
use crate::token;

/// The only bucket, which is also the first part of the path of its objects.
pub(super) const BUCKET: &str = "daytona";
/// Largest object or part, in bytes.
const MAX_BYTES: u64 = 5 << 30;
const MAX_PART: u32 = 10_000;
/// Largest list of parts, in bytes.
const MAX_LIST: usize = 4 << 20;

pub(crate) fn router(core: &Arc<Core>) -> Router {
    Router::new()
        .route("/daytona", any(bucket))
        .route("/daytona/", any(bucket))
        .route("/daytona/{*key}", any(object))
        .with_state(core.clone())
}

/// The store alone, by path or by host.
pub(crate) fn entrance(core: &Arc<Core>) -> Router {
    let paths = router(core);
    Router::new().fallback(move |request: Request| {
        let paths = paths.clone();
        async move {
            match paths.oneshot(by_path(request)).await {
                Ok(response) => response,
                Err(never) => match never {},
            }
        }
    })
}

/// An answer in S3's own form.
struct S3Error(StatusCode, &'static str, String);

impl IntoResponse for S3Error {
    fn into_response(self) -> Response {
        let Self(status, code, message) = self;
        let body = format!(
            "<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>{}</Message></Error>",
            escape(&message)
        );
        (status, [(header::CONTENT_TYPE, "application/xml")], body).into_response()
    }
}

fn io(error: std::io::Error) -> S3Error {
    S3Error(StatusCode::INTERNAL_SERVER_ERROR, "InternalError", error.to_string())
}

fn no_key() -> S3Error {
    S3Error(StatusCode::NOT_FOUND, "NoSuchKey", "there is no such object".to_owned())
}

fn bad(message: impl Into<String>) -> S3Error {
    S3Error(StatusCode::BAD_REQUEST, "InvalidRequest", message.into())
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

fn xml(body: String) -> Response {
    ([(header::CONTENT_TYPE, "application/xml")], format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?>{body}"))
        .into_response()
}

/// Whether the request carries access that was handed out, and is as it was signed.
fn admit(core: &Core, request: &Parts) -> Result<Seal, S3Error> {
    let refuse = |code, message: &str| S3Error(StatusCode::FORBIDDEN, code, message.to_owned());
    let explain = |refused| match refused {
        Refused::Unsigned => {
            refuse("AccessDenied", "the request is not signed as AWS Signature Version 4 has it")
        }
        Refused::Mismatch => refuse("SignatureDoesNotMatch", "the signature is not that of this request"),
        Refused::Skewed => refuse("RequestTimeTooSkewed", "the client's clock is too far from the server's"),
    };
    let presented = Presented::read(&request.headers).map_err(explain)?;
    let session = request.headers.get("x-amz-security-token").and_then(|value| value.to_str().ok());
    let granted = core.storage.secret(presented.access_key, session.unwrap_or_default());
    let runner =
        || core.runners.authenticate(presented.access_key).map(|_| Secret::new(presented.access_key));
    let secret =
        granted.or_else(runner).ok_or_else(|| refuse("AccessDenied", "ask for push access again"))?;
    presented.verify(&secret, request, now()).map_err(explain)
}

/// A request that names the bucket in its host, as some clients do, with the bucket in its path instead.
pub(crate) fn by_path(mut request: Request) -> Request {
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    if host.split_once('.').is_none_or(|(label, _)| label != BUCKET) {
        return request;
    }
    let target = request.uri().path_and_query().map_or("/", |target| target.as_str());
    if let Ok(uri) = format!("/{BUCKET}{target}").parse() {
        let signed = std::mem::replace(request.uri_mut(), uri);
        request.extensions_mut().insert(SignedUri(signed));
    }
    request
}

fn admitted(core: &Core, request: Request) -> Result<Request, S3Error> {
    let (mut parts, body) = request.into_parts();
    let seal = admit(core, &parts)?;
    parts.extensions.insert(seal);
    Ok(Request::from_parts(parts, body))
}

async fn bucket(State(core): State<Arc<Core>>, query: Query, request: Request) -> Result<Response, S3Error> {
    let request = admitted(&core, request)?;
    match *request.method() {
        Method::HEAD => Ok(StatusCode::OK.into_response()),
        Method::GET if query.get("location").is_some() => {
            Ok(xml("<LocationConstraint>us-east-1</LocationConstraint>".to_owned()))
        }
        Method::GET => {
            let limit =
                query.get("max-keys").and_then(|n| n.parse().ok()).unwrap_or(1000usize).clamp(1, 1000);
            let prefix = query.get("prefix").unwrap_or_default();
            let found = core.storage.list(prefix, limit).await.map_err(io)?;
            let contents: String = found
                .iter()
                .map(|(key, size)| {
                    format!("<Contents><Key>{}</Key><Size>{size}</Size></Contents>", escape(key))
                })
                .collect();
            Ok(xml(format!(
                "<ListBucketResult><Name>{BUCKET}</Name><Prefix>{}</Prefix><KeyCount>{}</KeyCount><MaxKeys>{limit}</MaxKeys><IsTruncated>false</IsTruncated>{contents}</ListBucketResult>",
                escape(prefix),
                found.len()
            )))
        }
        _ => Err(S3Error(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", "not for buckets".to_owned())),
    }
}

async fn object(
    State(core): State<Arc<Core>>,
    Path(key): Path<String>,
    query: Query,
    request: Request,
) -> Result<Response, S3Error> {
    let request = admitted(&core, request)?;
    let file = core.storage.file(&key).ok_or_else(|| bad("the key is not <organization>/<hash>/<name>"))?;
    let method = request.method().clone();
    let head = method == Method::HEAD;
    match (method, query.get("uploadId")) {
        (Method::HEAD | Method::GET, _) => read(&file, head).await,
        (Method::PUT, None) => {
            let partial = core.storage.partial();
            let etag = receive(&partial, request).await?;
            into_place(&partial, &file).await?;
            Ok(tagged(&etag))
        }
        (Method::PUT, Some(id)) => {
            let dir = core.storage.uploads.dir(id, &key).ok_or_else(no_upload)?;
            let number = query.get("partNumber").and_then(|n| n.parse::<u32>().ok());
            let number = number
                .filter(|n| (1..=MAX_PART).contains(n))
                .ok_or_else(|| bad("partNumber is from 1 to 10000"))?;
            let partial = dir.join(format!(".{number}-{}", token::alphanumeric(8)));
            let etag = receive(&partial, request).await?;
            into_place(&partial, &dir.join(number.to_string())).await?;
            Ok(tagged(&etag))
        }
        (Method::POST, None) if query.get("uploads").is_some() => {
            let dir = core.storage.partial();
            tokio::fs::create_dir_all(&dir).await.map_err(io)?;
            let id = core.storage.uploads.open(&key, dir).ok_or_else(|| {
                S3Error(StatusCode::SERVICE_UNAVAILABLE, "SlowDown", "too many uploads are open".to_owned())
            })?;
            Ok(xml(format!(
                "<InitiateMultipartUploadResult><Bucket>{BUCKET}</Bucket><Key>{}</Key><UploadId>{id}</UploadId></InitiateMultipartUploadResult>",
                escape(&key)
            )))
        }
        (Method::POST, Some(id)) => complete(&core, &key, id, &file, request).await,
        (Method::DELETE, Some(id)) => {
            if let Some(dir) = core.storage.uploads.dir(id, &key) {
                core.storage.uploads.close(id);
                tokio::fs::remove_dir_all(dir).await.map_err(io)?;
            }
            Ok(StatusCode::NO_CONTENT.into_response())
        }
        _ => Err(S3Error(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", "not for objects".to_owned())),
    }
}

fn no_upload() -> S3Error {
    S3Error(StatusCode::NOT_FOUND, "NoSuchUpload", "there is no such upload".to_owned())
}

fn tagged(etag: &str) -> Response {
    [(header::ETAG, format!("\"{etag}\""))].into_response()
}

async fn touch(file: &FilePath) -> std::io::Result<()> {
    let file = tokio::fs::File::options().append(true).open(file).await?.into_std().await;
    tokio::task::spawn_blocking(move || file.set_modified(SystemTime::now()))
        .await
        .map_err(std::io::Error::other)?
}

async fn read(file: &FilePath, head: bool) -> Result<Response, S3Error> {
    let opened = tokio::fs::File::open(file).await.map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => no_key(),
        _ => io(error),
    })?;
    let size = opened.metadata().await.map_err(io)?.len();
    // Who asks for it uses it: it is not swept away between the question and the build.
    if let Err(error) = touch(file).await {
        tracing::warn!(%error, "could not note the use of a build context");
    }
    let body =
        if head { Body::empty() } else { Body::from_stream(ReaderStream::with_capacity(opened, 64 << 10)) };
    let headers = [
        (header::CONTENT_LENGTH, size.to_string()),
        (header::CONTENT_TYPE, "application/octet-stream".to_owned()),
        (header::ETAG, format!("\"{size:x}\"")),
    ];
    Ok((headers, body).into_response())
}

/// What takes the framing off a body that is sent in chunks of S3's own.
fn unframed(request: &Request) -> Result<Option<Decoder>, S3Error> {
    let text =
        |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    match text("x-amz-content-sha256") {
        "STREAMING-AWS4-HMAC-SHA256-PAYLOAD" | "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER" => {
            let seal = request.extensions().get::<Seal>().cloned();
            Ok(Some(Decoder::new(Some(seal.ok_or_else(|| chunk_refused(ChunkError::Signature))?))))
        }
        "STREAMING-UNSIGNED-PAYLOAD-TRAILER" => Ok(Some(Decoder::new(None))),
        other if other.starts_with("STREAMING-") => Err(S3Error(
            StatusCode::NOT_IMPLEMENTED,
            "NotImplemented",
            format!("{other} is not a way of signing that is known here"),
        )),
        _ => Ok(text("content-encoding").contains("aws-chunked").then(|| Decoder::new(None))),
    }
}

fn chunk_refused(error: ChunkError) -> S3Error {
    match error {
        ChunkError::Malformed => bad(error.to_string()),
        ChunkError::Signature => S3Error(StatusCode::FORBIDDEN, "SignatureDoesNotMatch", error.to_string()),
    }
}

/// Writes the request's body to a file as it comes, and returns a tag that stands for this upload.
async fn receive(file: &FilePath, request: Request) -> Result<String, S3Error> {
    let mut decoder = unframed(&request)?;
    let told = request.headers().get("x-amz-content-sha256").and_then(|value| value.to_str().ok());
    let told = told.filter(|hash| hash.len() == 64).map(str::to_owned);
    let mut hasher = Sha256::new();
    if let Some(dir) = file.parent() {
        tokio::fs::create_dir_all(dir).await.map_err(io)?;
    }
    let result = async {
        let mut out = tokio::fs::File::create(file).await.map_err(io)?;
        let mut written = 0u64;
        let mut body = request.into_body().into_data_stream();
        while let Some(piece) = body.next().await {
            let piece = piece.map_err(|error| bad(error.to_string()))?;
            let decoded;
            let content: &[u8] = match &mut decoder {
                Some(decoder) => {
                    decoded = decoder.push(&piece).map_err(chunk_refused)?;
                    &decoded
                }
                None => &piece,
            };
            written += content.len() as u64;
            if written > MAX_BYTES {
                return Err(S3Error(
                    StatusCode::PAYLOAD_TOO_LARGE,
                    "EntityTooLarge",
                    "an object has at most 5 GiB".to_owned(),
                ));
            }
            if told.is_some() {
                hasher.update(content);
            }
            out.write_all(content).await.map_err(io)?;
        }
        if told.is_some_and(|told| told != token::hex(&hasher.finalize())) {
            let message = "the body is not the one that was signed".to_owned();
            return Err(S3Error(StatusCode::BAD_REQUEST, "XAmzContentSHA256Mismatch", message));
        }
        if decoder.is_some_and(|decoder| !decoder.complete()) {
            return Err(bad("the body ended early"));
        }
        out.flush().await.map_err(io)?;
        out.sync_all().await.map_err(io)
    };
    let result = result.await;
    if result.is_err() {
        // The error that matters is the first one.
        let _ = tokio::fs::remove_file(file).await;
    }
    result.map(|()| token::hex(&rand::random::<[u8; 16]>()))
}

async fn into_place(partial: &FilePath, file: &FilePath) -> Result<(), S3Error> {
    if let Some(dir) = file.parent() {
        tokio::fs::create_dir_all(dir).await.map_err(io)?;
    }
    tokio::fs::rename(partial, file).await.map_err(io)
}

async fn complete(
    core: &Core,
    key: &str,
    id: &str,
    file: &FilePath,
    request: Request,
) -> Result<Response, S3Error> {
    let dir = core.storage.uploads.dir(id, key).ok_or_else(no_upload)?;
    let list =
        axum::body::to_bytes(request.into_body(), MAX_LIST).await.map_err(|error| bad(error.to_string()))?;
    let numbers = part_numbers(&String::from_utf8_lossy(&list));
    if numbers.is_empty() || !numbers.is_sorted() {
        return Err(S3Error(
            StatusCode::BAD_REQUEST,
            "InvalidPartOrder",
            "parts have to be listed in order".to_owned(),
        ));
    }
    let partial = core.storage.partial();
    let mut out = tokio::fs::File::create(&partial).await.map_err(io)?;
    for number in numbers {
        let missing =
            |_| S3Error(StatusCode::BAD_REQUEST, "InvalidPart", format!("part {number} was not uploaded"));
        let mut part = tokio::fs::File::open(dir.join(number.to_string())).await.map_err(missing)?;
        tokio::io::copy(&mut part, &mut out).await.map_err(io)?;
    }
    out.sync_all().await.map_err(io)?;
    into_place(&partial, file).await?;
    core.storage.uploads.close(id);
    tokio::fs::remove_dir_all(dir).await.map_err(io)?;
    let etag = token::hex(&rand::random::<[u8; 16]>());
    Ok(xml(format!(
        "<CompleteMultipartUploadResult><Bucket>{BUCKET}</Bucket><Key>{}</Key><ETag>&quot;{etag}&quot;</ETag></CompleteMultipartUploadResult>",
        escape(key)
    )))
}
