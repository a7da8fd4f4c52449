//! Builds with the BuildKit that is inside the engine (`POST /build?version=2`), without its client libraries.
//!
//! bollard's own support carries a whole gRPC stack; what is needed of it is little. The context travels as the request's body, as with the
//! legacy builder. The builder's progress comes as protobuf in a JSON stream ([`trace`]). What it asks of us, credentials for private
//! parents, it asks over a session that is opened beside the build ([`session`]). Its steps ignore the limits of the request, so the
//! cgroup that holds them all is bounded instead ([`bounds`]).

mod bounds;
mod connection;
mod parent;
mod session;
mod trace;

use std::io;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use futures_util::TryStreamExt;
use futures_util::stream::BoxStream;
use http::Request;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use pinfold_proto::error::chain;
use serde::Deserialize;
use tokio::sync::mpsc;

use self::connection::{Address, Connection};
use self::session::Session;
use self::trace::Trace;
use super::Docker;
use crate::error::{EngineError, Result};
use crate::types::BuildSpec;

/// The longest line of the build's answer that is read; log output comes in pieces far smaller.
const LONGEST_LINE: usize = 16 << 20;
/// What an error body may hold.
const LONGEST_ERROR: usize = 64 << 10;

/// One line of the build's answer.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Line {
    id: String,
    aux: serde_json::Value,
    stream: String,
    error: String,
}

impl Docker {
    /// Why BuildKit cannot build here as `spec` wants it; `None` when it can. Bounds of its steps are in force after this.
    pub(super) async fn no_buildkit(&self, spec: &BuildSpec) -> Option<String> {
        let version = self.client.client_version();
        if (version.major_version, version.minor_version) < (1, 39) {
            return Some("this engine is too old for BuildKit".to_owned());
        }
        let address = match connection::address() {
            Ok(address) => address,
            Err(reason) => return Some(reason),
        };
        if spec.limits.cpu.is_none() && spec.limits.memory.is_none() {
            return None;
        }
        let Address::Unix(socket) = address else {
            return Some(
                "the engine may be on another host, where its steps cannot be kept within limits".to_owned(),
            );
        };
        let driver = match self.client.info().await {
            Ok(info) => info.cgroup_driver.map(|driver| driver.to_string()).unwrap_or_default(),
            Err(error) => return Some(format!("the engine does not say how it uses cgroups: {error}")),
        };
        let bounded = match bounds::possible(&driver) {
            Ok(()) => {
                parent::of_engine_at(&socket).await.and_then(|parent| bounds::apply(spec.limits, &parent))
            }
            impossible => impossible,
        };
        bounded.err().map(|reason| {
            format!("its steps could not be kept within BUILD_CPU_CORES and BUILD_MEMORY_GB ({reason})")
        })
    }

    /// Builds `spec`. The engine ends a build whose connection is closed, so dropping this ends it.
    pub(super) async fn build_with_buildkit(
        &self,
        spec: &BuildSpec,
        context: BoxStream<'static, io::Result<Bytes>>,
        log: mpsc::Sender<Bytes>,
        deadline: Duration,
    ) -> Result<()> {
        let what = format!("build {}", spec.tag);
        let build = async {
            let lost = |message: String| EngineError::Unreachable { what: what.clone(), message };
            let version = self.client.client_version();
            let prefix = format!("/v{}.{}", version.major_version, version.minor_version);
            // It ends with the build: dropped, it closes its connection.
            let session = Session::open(&prefix, &spec.credentials).await.map_err(lost)?;
            let mut connection = Connection::open().await.map_err(lost)?;
            let body = StreamBody::new(context.map_ok(Frame::data));
            let request = Request::post(format!("{prefix}/build?{}", query(spec, session.id())))
                .header("host", "docker")
                .header("content-type", "application/x-tar")
                .body(BodyExt::boxed_unsync(body))
                .map_err(|e| lost(e.to_string()))?;
            let answer = connection.sender.send_request(request).await.map_err(|e| lost(chain(&e)))?;
            let status = answer.status();
            if !status.is_success() {
                let text = error_of(answer.into_body()).await;
                return Err(EngineError::from_status(&what, status.as_u16(), text));
            }
            follow(&what, answer.into_body(), log).await
        };
        let span = super::span(|| what.clone());
        let bounded = tokio::time::timeout(deadline, tracing::Instrument::instrument(build, span.clone()));
        let result = bounded
            .await
            .unwrap_or_else(|_| Err(EngineError::Timeout { what: what.clone(), after: deadline }));
        super::ended(&span, &result);
        result
    }
}

fn query(spec: &BuildSpec, session: &str) -> String {
    let mut query = vec![("version", "2"), ("t", &spec.tag), ("dockerfile", &spec.dockerfile)];
    query.extend([("session", session), ("rm", "1"), ("forcerm", "1")]);
    if !spec.platform.is_empty() {
        query.push(("platform", &spec.platform));
    }
    if spec.pull {
        query.push(("pull", "1"));
    }
    let pairs = query.into_iter().map(|(name, value)| format!("{name}={}", escaped(value)));
    pairs.collect::<Vec<_>>().join("&")
}

/// RFC 3986, section 2.3: everything but unreserved characters.
fn escaped(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    let escape = |byte: u8| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") };
    text.bytes().map(escape).collect()
}

async fn error_of(body: Incoming) -> String {
    let read = http_body_util::Limited::new(body, LONGEST_ERROR).collect().await;
    let bytes = read.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let message = serde_json::from_slice::<serde_json::Value>(&bytes).ok();
    let message = message.and_then(|body| body.get("message")?.as_str().map(str::to_owned));
    message.unwrap_or_else(|| String::from_utf8_lossy(&bytes).into_owned())
}

/// Reads the answer to its end, and passes on what the builder says. The first error is the build's.
async fn follow(what: &str, mut body: Incoming, log: mpsc::Sender<Bytes>) -> Result<()> {
    let lost = |message: String| EngineError::Unreachable { what: what.to_owned(), message };
    let (mut trace, mut rest) = (Trace::default(), BytesMut::new());
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|e| lost(chain(&e)))?.into_data() else { continue };
        rest.extend_from_slice(&data);
        while let Some(end) = memchr::memchr(b'\n', &rest) {
            let line = rest.split_to(end);
            rest.advance(1);
            let Ok(line) = serde_json::from_slice::<Line>(line.trim_ascii()) else { continue };
            if !line.error.is_empty() {
                return Err(EngineError::from_status(what, super::stream_status(&line.error), line.error));
            }
            let text = match (line.id.as_str(), line.aux.as_str()) {
                ("moby.buildkit.trace", Some(aux)) => trace.lines(aux),
                _ => line.stream.into_bytes(),
            };
            if !text.is_empty() {
                // A reader that went away does not stop the build.
                let _ = log.send(text.into()).await;
            }
        }
        if rest.len() > LONGEST_LINE {
            let message = format!("a line of the build's answer is longer than {LONGEST_LINE} bytes");
            return Err(EngineError::Internal { what: what.to_owned(), message });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_query_is_escaped() {
        let spec = BuildSpec { tag: "a/b:1&x".to_owned(), pull: true, ..BuildSpec::default() };
        let query = query(&spec, "s");
        assert_eq!(query, "version=2&t=a%2Fb%3A1%26x&dockerfile=&session=s&rm=1&forcerm=1&pull=1");
    }
}
