"""What clients of other versions get (contract 2.5): the directory where a session starts, and how its output is told."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from conftest import SANDBOX, Daemon
from sockets import Ended, Raw
from support import eventually

WORK, HOME = "/srv", "/home/daytona"
COMMAND = "echo out; echo err >&2; printf last"
PLAIN = "out\n", "err\n", "last"


@dataclass
class Client:
    """A version as its client says it, and what it gets."""

    headers: dict[str, str]
    directory: str
    kind: str


def version(text: str, **more: str) -> dict[str, str]:
    return {"X-Daytona-SDK-Version": text} | more


CLIENTS = {
    "none": Client({}, WORK, "combined"),
    "none-split-false": Client({"X-Daytona-Split-Output": "false"}, WORK, "combined"),
    "none-split": Client({"X-Daytona-Split-Output": "true"}, WORK, "raw"),
    "0.1.0": Client(version("0.1.0"), HOME, "combined"),
    "0.26.9": Client(version("0.26.9"), HOME, "combined"),
    "0.26.9-dev": Client(version("0.26.9-dev"), WORK, "split"),
    # A threshold holds for what comes before its release as well.
    "0.27.0-alpha.1": Client(version("0.27.0-alpha.1"), HOME, "raw"),
    "0.27.0": Client(version("0.27.0"), HOME, "raw"),
    "0.102.9": Client(version("0.102.9"), HOME, "raw"),
    "0.103.0rc1": Client(version("0.103.0rc1"), WORK, "raw"),
    "0.103.0": Client(version("0.103.0"), WORK, "raw"),
    "0.166.5": Client(version("0.166.5"), WORK, "raw"),
    "0.167.0-alpha.1": Client(version("0.167.0-alpha.1"), WORK, "split"),
    "0.167.0": Client(version("0.167.0"), WORK, "split"),
    "0.226.1": Client(version("0.226.1"), WORK, "split"),
    "1.0.0": Client(version("1.0.0"), WORK, "split"),
    "v0.190.0": Client(version("v0.190.0"), WORK, "split"),
    "0.0.0-dev": Client(version("0.0.0-dev"), WORK, "split"),
    "nonsense": Client(version("nonsense"), WORK, "raw"),
    # The version is told: what a header of older clients says does not count.
    "0.226.1-split-false": Client(version("0.226.1", **{"X-Daytona-Split-Output": "false"}), WORK, "split"),
}


@pytest.fixture(scope="module")
def daemon(make_shared) -> Daemon:
    """Work directory and home are two places."""
    daemon = make_shared(SANDBOX, "-w", WORK, command=("sh", "-c", "echo out; echo err >&2; sleep infinity"))
    logs = "/process/session/entrypoint/logs"
    eventually(lambda: [daemon.get(logs).json()[stream] for stream in ("stdout", "stderr")] == ["out\n", "err\n"], "the entrypoint's words")
    return daemon


@pytest.fixture(params=CLIENTS)
def client(request, daemon) -> Client:
    """The client; the daemon's is set up like it."""
    client = CLIENTS[request.param]
    before = dict(daemon.http.headers)
    del daemon.http.headers["X-Daytona-SDK-Version"]
    daemon.http.headers.update(client.headers)
    yield client
    daemon.http.headers.clear()
    daemon.http.headers.update(before)


def test_start_directory(daemon, client, name):
    session = daemon.session(name)
    assert client.directory in session.run("pwd")["output"].replace("\1", "")
    session.delete()


def test_output_of_a_command(daemon, client, name):
    session = daemon.session(name)
    answer = session.run(COMMAND)
    assert answer["exitCode"] == 0 and answer["cmdId"]
    if client.kind == "split":
        assert (answer["stdout"], answer["stderr"]) == ("out\nlast", "err\n")
    else:
        assert (answer["stdout"], answer["stderr"]) == (None, None)
    text = answer["output"]
    if client.kind == "raw":
        check_marked(text.encode())
    else:
        check_plain(text)
    session.delete()


def check_marked(log: bytes) -> None:
    """Both streams are whole; which came first the pipes do not tell."""
    assert log.startswith((b"\1\1\1", b"\2\2\2"))
    parts = log.replace(b"\1\1\1", b"|1").replace(b"\2\2\2", b"|2").split(b"|")[1:]
    streams = {kind: b"".join(part[1:] for part in parts if part[:1] == kind) for kind in (b"1", b"2")}
    assert streams == {b"1": b"out\nlast", b"2": b"err\n"}


def check_plain(text: str) -> None:
    assert not {"\1", "\2"} & set(text)
    assert all(piece in text for piece in PLAIN) and len(text) == sum(map(len, PLAIN))


def test_logs(daemon, client, name):
    session = daemon.session(name)
    command = session.run(COMMAND)["cmdId"]
    answer = daemon.get(f"{session.path}/command/{command}/logs")
    if client.kind == "split":
        assert answer.headers["content-type"] == "application/json; charset=utf-8"
        assert (answer.json()["stdout"], answer.json()["stderr"]) == ("out\nlast", "err\n")
        check_plain(answer.json()["output"])
    else:
        assert answer.headers["content-type"] == "text/plain; charset=utf-8"
        check_marked(answer.content) if client.kind == "raw" else check_plain(answer.text)
    # The stream has markers for all but the oldest.
    headers = [(key.encode(), value.encode()) for key, value in client.headers.items()]
    for follow in ("true", "false"):
        raw = Raw(daemon.address, f"{session.path}/command/{command}/logs?follow={follow}", headers=headers)
        *frames, end = raw.messages()
        assert end == Ended(1000, "")
        check_plain(b"".join(frames).decode()) if client.kind == "combined" else check_marked(b"".join(frames))
    session.delete()


def test_the_entrypoints_log_is_never_combined(daemon, client):
    answer = daemon.get("/process/session/entrypoint/logs")
    if client.kind == "split":
        assert (answer.json()["stdout"], answer.json()["stderr"]) == ("out\n", "err\n")
    else:
        assert b"\1\1\1out\n" in answer.content and b"\2\2\2err\n" in answer.content


def test_browsers_say_their_version_in_a_sub_protocol(daemon, name):
    session = daemon.session(name)
    command = session.run(COMMAND)["cmdId"]
    for token, marked in [("0.226.1", True), ("0.20.0", False)]:
        raw = Raw(daemon.address, f"{session.path}/command/{command}/logs?follow=true", protocols=[f"X-Daytona-SDK-Version~{token}"])
        assert raw.accepted.subprotocol == f"X-Daytona-SDK-Version~{token}"
        *frames, _ = raw.messages()
        check_marked(b"".join(frames)) if marked else check_plain(b"".join(frames).decode())
    session.delete()


def test_routes_of_old_clients(daemon):
    """Terminals by two calls, single uploads, and the first name of the home directory."""
    assert daemon.get("/project-dir").json() == {"dir": HOME}
    assert daemon.post("/files/upload", params={"path": "/tmp/old/file"}, files={"file": b"old"}).status_code == 200
    assert daemon.get("/files/download", params={"path": "/tmp/old/file"}).content == b"old"
    assert daemon.post("/process/pty", {"id": "old", "cols": 80, "rows": 24}).status_code == 201
    raw = Raw(daemon.address, "/process/pty/old/connect")
    raw.send(b"\x82\x85\0\0\0\0exit\n")
    # A client that did not ask for it gets no message about the exit, only the close frame.
    *messages, end = raw.messages()
    assert [m for m in messages if isinstance(m, str)] == ['{"type":"control","status":"connected"}']
    assert end == Ended(1000, '{"exitCode":0}')
