"""What the runner tells a collector: a create through the SDK is one trace, from the job down to the engine and the daemon."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from support import eventually


class Collector(ThreadingHTTPServer):
    """Keeps what it is sent, decoded by OpenTelemetry's own messages."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Receiver)
        self.spans, self.logs, self.services, self.lock = [], [], set(), threading.Lock()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def take(self, path: str, body: bytes) -> None:
        traces = path == "/v1/traces"
        message = (ExportTraceServiceRequest if traces else ExportLogsServiceRequest).FromString(body)
        with self.lock:
            for resource in message.resource_spans if traces else message.resource_logs:
                self.services.update(a.value.string_value for a in resource.resource.attributes if a.key == "service.name")
                for scope in resource.scope_spans if traces else resource.scope_logs:
                    (self.spans if traces else self.logs).extend(scope.spans if traces else scope.log_records)

    def span(self, name: str, trace: bytes | None = None, **attributes: str) -> Span | None:
        with self.lock:
            for span in self.spans:
                found = {a.key: a.value.string_value for a in span.attributes}
                if span.name == name and trace in (None, span.trace_id) and attributes.items() <= found.items():
                    return span
        return None

    def lines(self, trace: bytes) -> set[str]:
        """What was logged in a trace."""
        with self.lock:
            return {log.body.string_value for log in self.logs if log.trace_id == trace}


class Receiver(BaseHTTPRequestHandler):
    def do_POST(self):
        self.server.take(self.path, self.rfile.read(int(self.headers["content-length"])))
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_arguments):
        pass


@pytest.fixture
def collector():
    server = Collector()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def test_a_create_and_a_call_are_traced(collector, restart, make_sandbox):
    restart(OTEL_TRACING_ENABLED="true", OTEL_LOGGING_ENABLED="true", OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint)
    sandbox = make_sandbox()
    assert sandbox.process.exec("echo traced").result.strip() == "traced"
    job = eventually(lambda: collector.span("execute_CREATE_SANDBOX", **{"resource.id": sandbox.id}), "the span of the create")
    assert job.kind == Span.SPAN_KIND_INTERNAL
    for name in ("create container", "start container", "wait_for_daemon_running", "update_job_status"):
        # Jobs of sandboxes that are still being removed have spans of these names, too.
        within = eventually(lambda name=name: collector.span(name, job.trace_id), f"the span {name}")
        assert within.parent_span_id == job.span_id, name
        assert job.start_time_unix_nano <= within.start_time_unix_nano <= within.end_time_unix_nano
    path = f"/sandboxes/{sandbox.id}/toolbox/process/execute"
    served = eventually(lambda: collector.span("POST /sandboxes/{id}/toolbox/{*path}", **{"url.path": path}), "the span of the command")
    assert served.kind == Span.SPAN_KIND_SERVER
    assert collector.services == {"daytona-runner"}
    eventually(lambda: "job completed" in collector.lines(job.trace_id), "the line that was logged at the job's end")
