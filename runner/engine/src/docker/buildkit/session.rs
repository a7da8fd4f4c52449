//! The session beside a build: over a connection that we open, the builder calls us, by gRPC. It may ask for credentials, and nothing else.
//!
//! gRPC over HTTP/2 (github.com/grpc/grpc, doc/PROTOCOL-HTTP2.md): a message is a flag, its length in four bytes, and its bytes; the status comes in
//! the trailers. The builder also asks every few seconds whether we are still there, and gives the build up when nobody answers.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty, Limited, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioExecutor;
use pinfold_proto::error::chain;
use pinfold_protobuf::{Message, fields};
use tokio_util::task::AbortOnDropHandle;

use super::connection::Connection;
use crate::types::Credentials;

const CREDENTIALS: &str = "/moby.filesync.v1.Auth/Credentials";
const HEALTH: &str = "/grpc.health.v1.Health/Check";
/// gRPC's status for a method that is not there.
const UNIMPLEMENTED: &str = "12";
/// The longest message that is read.
const LONGEST: usize = 64 << 10;
/// How long the engine may take to open a session.
const OPENING: Duration = Duration::from_secs(10);
/// Docker Hub, as the builder names it, and as its credentials are named.
const HUB: (&str, &str) = ("registry-1.docker.io", "https://index.docker.io/v1/");

/// An open session; closed when dropped.
pub(super) struct Session {
    id: String,
    _connection: Connection,
    _served: AbortOnDropHandle<()>,
}

impl Session {
    /// Opens a session that answers from `credentials`.
    pub(super) async fn open(
        prefix: &str,
        credentials: &BTreeMap<String, Credentials>,
    ) -> Result<Self, String> {
        let opening = Self::open_unbounded(prefix, credentials);
        let opened = tokio::time::timeout(OPENING, opening).await;
        opened.unwrap_or_else(|_| Err(format!("the engine did not open a session within {OPENING:?}")))
    }

    async fn open_unbounded(
        prefix: &str,
        credentials: &BTreeMap<String, Credentials>,
    ) -> Result<Self, String> {
        let id = uuid::Uuid::new_v4().simple().to_string();
        let mut connection = Connection::open().await?;
        let request = Request::post(format!("{prefix}/session"))
            .header("host", "docker")
            .header("connection", "Upgrade")
            .header("upgrade", "h2c")
            .header("x-docker-expose-session-uuid", &id)
            .header("x-docker-expose-session-name", "pinfold")
            .header("x-docker-expose-session-sharedkey", "")
            .header("x-docker-expose-session-grpc-method", CREDENTIALS)
            .header("x-docker-expose-session-grpc-method", HEALTH)
            .body(Empty::<Bytes>::new().map_err(|never| -> io::Error { match never {} }).boxed_unsync())
            .map_err(|e| e.to_string())?;
        let answer = connection.sender.send_request(request).await.map_err(|e| chain(&e))?;
        if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Err(format!("the engine opened no session: {}", answer.status()));
        }
        let upgraded = hyper::upgrade::on(answer).await.map_err(|e| chain(&e))?;
        let credentials = Arc::new(credentials.clone());
        let service = service_fn(move |request| answer_call(credentials.clone(), request));
        let serving = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
            .serve_connection(upgraded, service);
        let served = tokio::spawn(async move {
            if let Err(error) = serving.await {
                tracing::debug!(%error, "a build's session ended");
            }
        });
        Ok(Self { id, _connection: connection, _served: AbortOnDropHandle::new(served) })
    }

    /// What a build names the session by.
    pub(super) fn id(&self) -> &str {
        &self.id
    }
}

type Answer = StreamBody<futures_util::stream::Iter<std::vec::IntoIter<Result<Frame<Bytes>, Infallible>>>>;

async fn answer_call(
    credentials: Arc<BTreeMap<String, Credentials>>,
    request: Request<Incoming>,
) -> Result<Response<Answer>, Infallible> {
    let path = request.uri().path().to_owned();
    let body = Limited::new(request.into_body(), LONGEST).collect().await;
    let body = body.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let message = match path.as_str() {
        CREDENTIALS => Some(credentials_for(&credentials, &host_of(&body))),
        // 1: SERVING.
        HEALTH => Some(Message::default().number(1, 1)),
        _ => None,
    };
    let (data, status) = match message {
        Some(message) => (Some(framed(&message.into_bytes())), "0"),
        None => (None, UNIMPLEMENTED),
    };
    let trailers = HeaderMap::from_iter(
        [("grpc-status".parse(), HeaderValue::from_static(status))]
            .into_iter()
            .filter_map(|(name, value)| Some((name.ok()?, value))),
    );
    let frames: Vec<_> =
        data.map(Frame::data).into_iter().chain([Frame::trailers(trailers)]).map(Ok).collect();
    let mut response = Response::new(StreamBody::new(futures_util::stream::iter(frames)));
    response.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
    Ok(response)
}

fn framed(message: &[u8]) -> Bytes {
    let mut bytes = BytesMut::with_capacity(5 + message.len());
    bytes.put_u8(0);
    bytes.put_u32(u32::try_from(message.len()).unwrap_or(0));
    bytes.put_slice(message);
    bytes.freeze()
}

/// `CredentialsRequest`: the host is its only field.
fn host_of(body: &[u8]) -> String {
    let message = body.get(5..).unwrap_or_default();
    fields(message).find(|(number, _)| *number == 1).map(|(_, value)| value.text()).unwrap_or_default()
}

/// `CredentialsResponse`; an empty one means nobody in particular.
fn credentials_for(credentials: &BTreeMap<String, Credentials>, host: &str) -> Message {
    let names = if host == HUB.0 {
        vec![HUB.1.to_owned()]
    } else {
        vec![format!("https://{host}"), format!("http://{host}")]
    };
    match names.iter().find_map(|name| credentials.get(name)) {
        Some(known) => Message::default().text(1, &known.username).text(2, known.password.expose()),
        None => Message::default(),
    }
}

#[cfg(test)]
mod tests {
    use pinfold_proto::id::Secret;

    use super::*;

    #[test]
    fn only_whom_they_are_for_gets_credentials() {
        let known = |name: &str| Credentials { username: name.to_owned(), password: Secret::new("p") };
        let all =
            BTreeMap::from([(HUB.1.to_owned(), known("hub")), ("http://reg:5000".to_owned(), known("reg"))]);
        let user = |host: &str| {
            let message = credentials_for(&all, host).into_bytes();
            fields(&message).next().map(|(_, value)| value.text())
        };
        assert_eq!(user("registry-1.docker.io").as_deref(), Some("hub"));
        assert_eq!(user("reg:5000").as_deref(), Some("reg"));
        assert_eq!(user("reg"), None);
        let request = framed(&Message::default().text(1, "reg:5000").into_bytes());
        assert_eq!(host_of(&request), "reg:5000");
        assert_eq!(host_of(b"\0\0"), "");
    }
}
