"""What no log of a runner shows, however much it is told to say: its own token, and each secret that it is handed."""

from __future__ import annotations

import http.client
import uuid
from collections.abc import Iterator

import pytest

from node import TOKEN, Node, in_place_of

#: Nobody listens there.
NOWHERE = "127.0.0.1:9"
AWS = {
    "AWS_ENDPOINT_URL": f"http://{NOWHERE}", "AWS_REGION": "us-east-1", "AWS_DEFAULT_BUCKET": "contexts",
    "AWS_ACCESS_KEY_ID": "hush-access", "AWS_SECRET_ACCESS_KEY": "hush-s3",
}  # fmt: skip
TELEMETRY = {
    "OTEL_TRACING_ENABLED": "true", "OTEL_LOGGING_ENABLED": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://{NOWHERE}",
    "OTEL_EXPORTER_OTLP_HEADERS": "authorization=Bearer hush-telemetry,a header=hush-that-is-none",
}  # fmt: skip
ACCOUNT = {"url": NOWHERE, "project": "p", "username": "pf", "password": "hush-registry"}


@pytest.fixture(scope="module")
def node(stack) -> Iterator[Node]:
    with in_place_of(stack, LOG_LEVEL="debug", API_LOG_REQUESTS="true", **AWS, **TELEMETRY) as node:
        node.start()
        yield node


def test_no_secret_of_any_kind_is_logged(node):
    """They come in payloads of jobs that end well and that do not, in requests, in queries, in headers, in bodies that are no JSON."""

    def job(kind: str, resource: str, payload: dict | None) -> dict:
        return node.plane.result(node.plane.push(kind, resource, payload))

    sandbox, other = str(uuid.uuid4()), str(uuid.uuid4())
    secret = {"registry": ACCOUNT, "authToken": "hush-create", "env": {"PASSWORD": "hush-env"}}
    assert job("CREATE_SANDBOX", sandbox, node.create_payload(sandbox, **secret))["status"] == "COMPLETED"
    assert job("STOP_SANDBOX", sandbox, {})["status"] == "COMPLETED"
    assert job("START_SANDBOX", sandbox, {"authToken": "hush-start"})["status"] == "COMPLETED"
    context = {"dockerfile": f"FROM {node.image}\n", "organizationId": "o", "context": ["abc"]}
    for kind, resource, payload in [
        ("CREATE_SANDBOX", other, node.create_payload(other, **secret, snapshot=f"{NOWHERE}/p/none:1")),
        ("CREATE_SANDBOX", other, node.create_payload(other, **secret | {"registry": "hush-where-an-object-belongs"})),
        ("START_SANDBOX", sandbox, {"authToken": ["hush-in-a-list"]}),
        ("PULL_SNAPSHOT", "none", {"snapshot": f"{NOWHERE}/p/none:1", "registry": ACCOUNT}),
        ("CREATE_BACKUP", sandbox, {"snapshot": f"{NOWHERE}/p/backup-{sandbox}:1", "registry": ACCOUNT}),
        ("BUILD_SNAPSHOT", "daytona-pfquiet", context | {"snapshot": "daytona-pfquiet:daytona", "sourceRegistries": [ACCOUNT], "registry": ACCOUNT}),
    ]:
        assert job(kind, resource, payload)["status"] == "FAILED", kind
    assert node.ask("POST", f"/sandboxes/{sandbox}/start?token=hush-query")[0] == 200
    assert node.ask("GET", f"/sandboxes/{sandbox}/toolbox/version?token=hush-toolbox")[0] == 200
    raw = http.client.HTTPConnection(node.address, node.port, timeout=30)
    for token, body in [(TOKEN, '{"id": "x", "registry": {"password": "hush-cut'), (TOKEN, '{"env": "hush-text"}'), ("hush-wrong", "{}")]:
        raw.request("POST", "/sandboxes", body, {"Authorization": f"Bearer {token}", "X-Api-Key": "hush-header"})
        answer = raw.getresponse()
        # Who asks with our token may be shown what it sent.
        answer.read()
        assert answer.status in (400, 401)
    assert node.ask("POST", f"/sandboxes/{sandbox}/destroy")[0] == 200
    assert node.stop() == 143
    log = node.log.read_text()
    assert f"/sandboxes/{sandbox}/start" in log, "requests are logged"
    assert "BUILD_SNAPSHOT" in log
    assert "DEBUG" in log
    assert "telemetry could not be sent" in log
    told = [str(job.get(member)) for job in node.plane.jobs.values() for member in ("errorMessage", "resultMetadata")]
    assert [line for line in [*log.splitlines(), *told] if "hush" in line or TOKEN in line] == []
