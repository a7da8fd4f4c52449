//! One server span for each request on the toolbox's port; what goes through the preview proxy is not ours.

use axum::extract::{MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::Response;

use super::otlp::Value;
use super::{Record, Span, Telemetry, now};

/// Middleware. Outside the routes' own layers, so that it sees which route matched.
pub(crate) async fn trace(State(telemetry): State<Telemetry>, request: Request, next: Next) -> Response {
    let route = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned());
    let Some(route) = route.filter(|route| telemetry.is_active() && !route.starts_with("/proxy/")) else {
        return next.run(request).await;
    };
    let parent = request.headers().get("traceparent").and_then(|value| parse(value.to_str().ok()?));
    let method = request.method().to_string();
    let path = request.uri().path().to_owned();
    let start = now();
    let response = next.run(request).await;
    let status = response.status();
    let (trace, parent) =
        parent.map_or_else(|| (uuid::Uuid::new_v4().into_bytes(), None), |(t, p)| (t, Some(p)));
    let mut id = [0; 8];
    id.copy_from_slice(&uuid::Uuid::new_v4().into_bytes()[..8]);
    telemetry.record(Record::Span(Span {
        trace,
        id,
        parent,
        name: route.clone(),
        start,
        end: now(),
        attributes: vec![
            ("http.request.method", Value::Text(method)),
            ("http.route", Value::Text(route)),
            ("url.path", Value::Text(path)),
            ("http.response.status_code", Value::Int(status.as_u16().into())),
        ],
        failed: status.is_server_error(),
    }));
    response
}

/// W3C trace context: `00-<trace id>-<parent id>-<flags>`.
fn parse(text: &str) -> Option<([u8; 16], [u8; 8])> {
    let mut parts = text.trim().split('-');
    let (version, trace, parent) = (parts.next()?, parts.next()?, parts.next()?);
    let known = version.len() == 2 && version != "ff" && trace.len() == 32 && parent.len() == 16;
    let trace = known.then(|| u128::from_str_radix(trace, 16).ok()).flatten().filter(|n| *n != 0)?;
    let parent = u64::from_str_radix(parent, 16).ok().filter(|n| *n != 0)?;
    Some((trace.to_be_bytes(), parent.to_be_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_trace_contexts() {
        let (trace, parent) = parse("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01").unwrap();
        assert_eq!((trace[0], trace[15], parent[1], parent[7]), (0x4b, 0x36, 0xf0, 0xb7));
        for bad in [
            "",
            "00-0-0-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
        ] {
            assert!(parse(bad).is_none(), "{bad}");
        }
    }
}
