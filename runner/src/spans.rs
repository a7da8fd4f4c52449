//! The runner's spans (runner contract 3.8 and 12.2), and where they come from: the trace context of a job or of a request.

use std::time::Duration;

use axum::extract::{MatchedPath, Request};
use axum::middleware::Next;
use axum::response::Response;
use http::HeaderMap;
use pinfold_otlp::TraceContext;
use pinfold_proto::runner::job::{Job, JobStatus, StatusUpdate};
use serde_json::Value;
use tracing::field::Empty;
use tracing::{Instrument, Span};

const TARGET: &str = "pinfold_runner::span";

/// The span that a job is going to be: a child of the one in its trace context, else the first of a trace.
pub(crate) fn of_job(job: &Job) -> TraceContext {
    let parent = parent_of_job(job);
    let mut own = parent.as_ref().map_or_else(TraceContext::root, TraceContext::child);
    own.baggage = text_of_job(job, "baggage").map(str::to_owned);
    own
}

/// A value that is no string is ignored (runner contract 3.2).
fn text_of_job<'a>(job: &'a Job, name: &str) -> Option<&'a str> {
    job.trace_context.as_ref()?.get(name).and_then(Value::as_str).filter(|text| !text.is_empty())
}

fn parent_of_job(job: &Job) -> Option<TraceContext> {
    TraceContext::parse(text_of_job(job, "traceparent")?)
}

/// A job's span, to become `own`.
pub(crate) fn job(job: &Job, own: &TraceContext) -> Span {
    tracing::info_span!(
        target: TARGET,
        parent: None,
        "execute",
        otel.name = format!("execute_{}", job.kind.as_str()),
        otel.context = own.traceparent(),
        traceparent = parent_of_job(job).map(|parent| parent.traceparent()),
        baggage = own.baggage.as_deref(),
        job.id = job.id,
        "job.type" = job.kind.as_str(),
        "resource.type" = job.resource_type,
        resource.id = job.resource_id,
        job.status = Empty,
        error = Empty,
    )
}

/// Writes a job's outcome into its span.
pub(crate) fn job_ended(span: &Span, update: &StatusUpdate) {
    span.record("job.status", update.status.as_str());
    if update.status == JobStatus::Failed {
        span.record("error", true);
    }
}

/// The span of one attempt to report a job's result.
pub(crate) fn update_job_status(job: &str, update: &StatusUpdate, of: Option<&TraceContext>) -> Span {
    tracing::info_span!(
        target: TARGET,
        parent: None,
        "update_job_status",
        otel.kind = "client",
        traceparent = of.map(TraceContext::traceparent),
        baggage = of.and_then(|of| of.baggage.as_deref()),
        job.id = job,
        job.status = update.status.as_str(),
        job.error = update.error_message.as_deref(),
        error = Empty,
    )
}

/// Middleware: one server span for each request, as part of its caller's trace. What the request is passed on to becomes a part of it too.
pub(crate) async fn serve(mut request: Request, next: Next) -> Response {
    let span = server_span(&request);
    span.in_scope(|| pinfold_otlp::inject(request.headers_mut()));
    let response = next.run(request).instrument(span.clone()).await;
    // A caller's mistake, and above all a 404, is no failure of ours.
    answered(&span, response.status());
    response
}

fn server_span(request: &Request) -> Span {
    let Some(route) = request.extensions().get::<MatchedPath>().map(MatchedPath::as_str) else {
        return Span::none();
    };
    let header = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok());
    tracing::info_span!(
        target: TARGET,
        parent: None,
        "serve",
        otel.name = format!("{} {route}", request.method()),
        otel.kind = "server",
        traceparent = header("traceparent"),
        baggage = header("baggage"),
        http.request.method = request.method().as_str(),
        http.route = route,
        url.path = request.uri().path(),
        http.response.status_code = Empty,
        error = Empty,
    )
}

fn answered(span: &Span, status: http::StatusCode) {
    span.record("http.response.status_code", u64::from(status.as_u16()));
    if status.is_server_error() {
        span.record("error", true);
    }
}

/// Makes a request to the control plane in a client span, which its answerer is told of.
pub(crate) async fn call(
    client: &reqwest::Client,
    mut request: reqwest::Request,
) -> reqwest::Result<reqwest::Response> {
    let span = tracing::info_span!(
        target: TARGET,
        "call",
        otel.name = request.method().as_str(),
        otel.kind = "client",
        http.request.method = request.method().as_str(),
        server.address = request.url().host_str(),
        url.path = request.url().path(),
        http.response.status_code = Empty,
        error = Empty,
    );
    let headers: &mut HeaderMap = request.headers_mut();
    span.in_scope(|| pinfold_otlp::inject(headers));
    let answer = client.execute(request).instrument(span.clone()).await;
    match &answer {
        Ok(response) => answered(&span, response.status()),
        Err(error) => drop(span.record("error", error.to_string())),
    }
    answer
}

/// The span in which a sandbox is waited for; `retries` is recorded at its end.
pub(crate) fn waiting(name: &'static str, address: std::net::IpAddr, limit: Duration) -> Span {
    tracing::info_span!(
        target: TARGET,
        "wait",
        otel.name = name,
        container.ip = %address,
        timeout_sec = limit.as_secs(),
        retries = Empty,
        error = Empty,
    )
}
