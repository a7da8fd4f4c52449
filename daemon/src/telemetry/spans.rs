//! One server span for each request on the toolbox's port; what goes through the preview proxy is not ours.

use axum::extract::{MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::Response;

use pinfold_otlp::{Record, Span, SpanKind, Telemetry, TraceContext, Value, now};

/// Middleware. Outside the routes' own layers, so that it sees which route matched.
pub(crate) async fn trace(State(telemetry): State<Telemetry>, request: Request, next: Next) -> Response {
    let route = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned());
    let Some(route) = route.filter(|route| telemetry.is_active() && !route.starts_with("/proxy/")) else {
        return next.run(request).await;
    };
    let parent =
        request.headers().get("traceparent").and_then(|value| TraceContext::parse(value.to_str().ok()?));
    let method = request.method().to_string();
    let path = request.uri().path().to_owned();
    let start = now();
    let response = next.run(request).await;
    let status = response.status();
    let own = parent.as_ref().map_or_else(TraceContext::root, TraceContext::child);
    telemetry.record(Record::Span(Span {
        trace: own.trace,
        id: own.span,
        parent: parent.map(|parent| parent.span),
        kind: SpanKind::Server,
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
