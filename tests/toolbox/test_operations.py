"""Each operation of the toolbox's description: its routes, statuses and bodies, in the good case and in the bad ones.

An operation that has no case here fails, and so does a case that asks for nothing but successes where something can go wrong.
"""

from __future__ import annotations

import base64
import os
import socket
import uuid
from collections.abc import Callable
from datetime import datetime

import jsonschema
import pytest

from conftest import Daemon
from description import OPERATIONS, operation, schema, spoiled, validate
from support import eventually

CASES: dict[str, Callable[[Call], None]] = {}
# What cannot be asked for wrongly and does not depend on anything.
CANNOT_FAIL = {
    "GET /version", "GET /work-dir", "GET /user-home-dir", "GET /system/metrics", "GET /port", "GET /process/session", "GET /process/pty",
    "GET /process/interpreter/context", "GET /computeruse/recordings",
}  # fmt: skip
# Content of files, and the answer to an upload, which the description leaves out.
NOT_JSON = {"GET /files/download", "POST /files/bulk-download", "POST /files/bulk-upload", "GET /computeruse/recordings/{id}/download"}
HANDSHAKE = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}


class Call:
    """Calls one operation and holds every answer against the description."""

    def __init__(self, daemon: Daemon, name: str, unique: str):
        self.daemon, self.name, self.unique = daemon, name, unique
        self.method, self.template = name.split(" ", 1)
        self.statuses: set[int] = set()

    def __call__(self, status: int, *path: str, code: str | None = None, daemon: Daemon | None = None, **keywords: object):
        """Asks with these path parameters; expects this status, and this error code if one is given. Gives the decoded body."""
        target = self.template
        for value in path:
            start = target.index("{")
            target = target[:start] + value + target[target.index("}") + 1 :]
        answer = (daemon or self.daemon).http.request(self.method, target, **keywords)
        assert answer.status_code == status, f"{self.name} {keywords}: {answer.status_code} {answer.text[:500]}"
        self.statuses.add(status)
        expected = schema(self.name, status)
        if status >= 400:
            assert answer.headers["content-type"] == "application/json", answer.headers
            body = self.checked(answer.json(), expected)
            assert (body["statusCode"], body["method"], body["source"]) == (status, self.method, "DAYTONA_DAEMON")
            assert body["path"] == target and body["message"]
            assert datetime.fromisoformat(body["timestamp"]).tzinfo
            if code:
                assert body["code"] == code, body
            return body
        if self.name in NOT_JSON:
            return answer
        if expected is None:
            assert not answer.content, answer.content
            return answer
        assert answer.headers["content-type"] == "application/json; charset=utf-8"
        return self.checked(answer.json(), expected)

    def checked(self, body: object, expected: dict) -> object:
        """The body, which the schema takes, while it refuses every spoiled copy of it: a schema that took anything would prove nothing."""
        validate(body, expected)
        for wrong in spoiled(body):
            with pytest.raises(jsonschema.ValidationError):
                validate(wrong, expected)
                pytest.fail(f"the description of {self.name} takes {wrong!r:.300}")
        return body

    def upgrade(self, status: int, *path: str, query: str = "") -> None:
        """A WebSocket handshake."""
        target = self.template
        for value in path:
            target = target.replace("{sessionId}", value)
        key = base64.b64encode(os.urandom(16)).decode()
        lines = [f"GET {target}{query} HTTP/1.1", "Host: x", f"Sec-WebSocket-Key: {key}"]
        lines += [f"{header}: {value}" for header, value in HANDSHAKE.items()]
        with socket.create_connection((self.daemon.address, 2280), 10) as sock:
            sock.sendall("\r\n".join([*lines, "", ""]).encode())
            first = sock.makefile("rb").readline().decode()
        assert first.startswith(f"HTTP/1.1 {status} "), first
        self.statuses.add(status)


def case(*names: str):
    def register(function: Callable[[Call], None]):
        for name in names:
            assert name not in CASES
            CASES[name] = function
        return function

    return register


@pytest.mark.parametrize("name", OPERATIONS)
def test_operation(daemon, name, request):
    assert name in CASES, f"no case asks for {name}"
    call = Call(daemon, name, f"operation-{OPERATIONS.index(name)}")
    CASES[name](call)
    described = {int(status) for status in operation(name)["responses"]}
    unavailable = name.startswith("GET /computeruse") or name.startswith("POST /computeruse")
    assert any(s < 400 and s in described for s in call.statuses) or unavailable, f"no good case: {call.statuses}"
    assert any(s >= 400 for s in call.statuses) or name in CANNOT_FAIL, f"no bad case: {call.statuses}"


def test_every_case_is_an_operation():
    assert set(CASES) - set(OPERATIONS) == set()


def test_unknown_routes_and_methods(daemon):
    for method, path in [("GET", "/nothing"), ("PUT", "/version"), ("POST", "/work-dir"), ("OPTIONS", "/files")]:
        answer = daemon.http.request(method, path)
        assert (answer.status_code, answer.headers["content-type"]) == (404, "text/plain"), (method, path)
        assert answer.text == "404 page not found"
    assert daemon.get("/files/").status_code == 200
    assert daemon.get("/version/", follow_redirects=False).status_code == 301
    assert daemon.post("/process/execute/", {}, follow_redirects=False).status_code == 307


# Info, initialisation, environment, metrics.


@case("GET /version")
def _(call):
    assert call(200)["version"].startswith("v")


@case("GET /work-dir", "GET /user-home-dir")
def _(call):
    assert call(200)["dir"] == "/home/daytona"


@case("POST /init")
def _(call):
    call(200, json={"token": "t"})
    call(200, json={})
    call(400, content=b"{")


@case("POST /env")
def _(call):
    call(200, json={"set": {"CASE_A": "sec_1", "CASE_B": "2"}})
    call(200, json={"unset": ["CASE_B"], "unsetValuePrefix": "sec_", "set": {"CASE_C": "3"}})
    assert call.daemon.execute("env | grep ^CASE_")["result"] == "CASE_C=3\n"
    call(200, json={"unset": ["CASE_C"]})
    call(400, json={"set": {"1BAD": "x"}}, code="BAD_REQUEST")
    call(400, content=b"[")


@case("GET /system/metrics")
def _(call):
    metrics = call(200)
    assert metrics["memTotal"] > metrics["memUsed"] > 0 and metrics["cpuCount"] >= 1 and 0 <= metrics["cpuUsedPct"] <= 100
    assert metrics["diskTotal"] >= metrics["diskUsed"] > 0


# Files.


def folder(call, *files: str) -> str:
    """A folder of the case's own, with files that say their name."""
    path = f"/tmp/{call.unique}"
    script = f"rm -rf {path}; mkdir -p {path}/locked; chmod 700 {path}/locked; " + "".join(f"echo {f} > {path}/{f}; " for f in files)
    assert call.daemon.execute(script)["exitCode"] == 0
    return path


@case("GET /files")
def _(call):
    path = folder(call, "b", "a")
    assert [f["name"] for f in call(200, params={"path": path})] == ["a", "b", "locked"]
    assert call(200, params={"path": f"{path}/locked"}) == []
    call(400, params={"path": f"{path}/a"})
    call(400, params={"path": path, "depth": 0})
    call(403, params={"path": "/root"}, code="FILE_ACCESS_DENIED")
    call(404, params={"path": f"{path}/none"}, code="FILE_NOT_FOUND")


@case("DELETE /files")
def _(call):
    path = folder(call, "a")
    call(204, params={"path": f"{path}/a"})
    call(404, params={"path": f"{path}/a"}, code="FILE_NOT_FOUND")
    call(400, params={"path": path})
    call(400)
    call(403, params={"path": "/etc/passwd"}, code="FILE_ACCESS_DENIED")
    call(204, params={"path": path, "recursive": "true"})


@case("GET /files/info")
def _(call):
    path = folder(call, "a")
    info = call(200, params={"path": f"{path}/a"})
    assert (info["name"], info["size"], info["isDir"], info["mode"], info["permissions"]) == ("a", 2, False, "-rw-r--r--", "0644")
    assert info["path"] == f"{path}/a" and info["owner"] == "1000"
    call(400)
    call(403, params={"path": "/root/x"}, code="FILE_ACCESS_DENIED")
    call(404, params={"path": f"{path}/none"}, code="FILE_NOT_FOUND")


@case("POST /files/folder")
def _(call):
    path = folder(call)
    call(201, params={"path": f"{path}/x/y", "mode": "0750"})
    call(201, params={"path": f"{path}/x/y", "mode": "0700"})
    call(400, params={"path": f"{path}/z", "mode": "9"})
    call(400, params={"mode": "0755"})


@case("POST /files/move")
def _(call):
    path = folder(call, "a", "b")
    call(200, params={"source": f"{path}/a", "destination": f"{path}/c"})
    call(409, params={"source": f"{path}/b", "destination": f"{path}/c"}, code="CONFLICT")
    call(404, params={"source": f"{path}/none", "destination": f"{path}/d"})
    call(403, params={"source": f"{path}/b", "destination": "/etc/b"})
    call(400, params={"source": f"{path}/b"})


@case("POST /files/permissions")
def _(call):
    path = folder(call, "a")
    call(200, params={"path": f"{path}/a", "mode": "600", "owner": "daytona"})
    call(400, params={"path": f"{path}/a", "mode": "8"})
    call(400, params={"path": f"{path}/a", "owner": "nobody-has-this-name"})
    call(403, params={"path": "/root/x", "mode": "600"})
    call(404, params={"path": f"{path}/none", "mode": "600"}, code="FILE_NOT_FOUND")


@case("POST /files/replace")
def _(call):
    path = folder(call, "a")
    got = call(200, json={"files": [f"{path}/a", f"{path}/none"], "pattern": "a", "newValue": ""})
    assert [r["success"] for r in got] == [True, False] and got[1]["error"]
    call(400, json={"files": [f"{path}/a"], "pattern": "a"}, code="INVALID_REQUEST_BODY")
    call(400, content=b"")


@case("GET /files/find")
def _(call):
    path = folder(call, "a", "b")
    assert call(200, params={"path": path, "pattern": "b"}) == [{"file": f"{path}/b", "line": 1, "content": "b"}]
    assert call(200, params={"path": f"{path}/none", "pattern": "b"}) == []
    call(400, params={"path": path})


@case("GET /files/search")
def _(call):
    path = folder(call, "a", "b")
    assert call(200, params={"path": path, "pattern": "[b]"}) == {"files": [f"{path}/b"]}
    assert call(200, params={"path": f"{path}/none", "pattern": "*"}) == {"files": []}
    call(400, params={"pattern": "*"})


@case("GET /files/download")
def _(call):
    path = folder(call, "a")
    answer = call(200, params={"path": f"{path}/a"})
    assert answer.content == b"a\n" and answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["content-disposition"] == "attachment; filename=\"a\"; filename*=utf-8''a"
    assert call(206, params={"path": f"{path}/a"}, headers={"Range": "bytes=1-1"}).content == b"\n"
    call(400, params={"path": path})
    call(403, params={"path": "/root/x"})
    call(404, params={"path": f"{path}/none"}, code="FILE_NOT_FOUND")


@case("POST /files/bulk-download")
def _(call):
    path = folder(call, "a")
    answer = call(200, json={"paths": [f"{path}/a", f"{path}/none"]})
    assert answer.headers["content-type"].startswith("multipart/form-data; boundary=")
    assert b'name="file"' in answer.content and b'name="error"' in answer.content and b"FILE_NOT_FOUND" in answer.content
    call(400, json={"paths": []})
    call(400, content=b"no")


@case("POST /files/bulk-upload")
def _(call):
    path = folder(call)
    answer = call(200, data={"files[0].path": f"{path}/up"}, files={"files[0].file": b"12345"})
    assert answer.json() == {"files": [{"path": f"{path}/up", "bytes": 5}]}
    refused = call(400, data={"files[0].path": "/etc/up"}, files={"files[0].file": b"12345"})
    assert refused["errors"] and refused["files"] == []
    assert len(call(400, content=b"text")["errors"]) == 1


@case("POST /files/upload-v2")
def _(call):
    path = folder(call)
    expected = {"name": "up", "path": f"{path}/new/up", "type": "file"}
    assert call(200, params={"path": f"{path}/new/up"}, content=b"raw") == expected
    assert call(200, params={"path": f"{path}/new/up"}, files={"file": b"form"}) == expected
    call(400, content=b"raw")


# Processes.


@case("POST /process/execute")
def _(call):
    answer = call(200, json={"command": "echo $A; exit 3", "envs": {"A": "1"}, "cwd": "/tmp"})
    assert (answer["exitCode"], answer["result"]) == (3, "1\n")
    assert call(200, json={"command": "true", "cwd": "/none"})["exitCode"] == -1
    for bad in [{"command": " "}, {"command": "x", "envs": {"1": ""}}, {"command": "x", "timeout": -1}, {"command": "x", "timeout": 1.5}, {}]:
        call(400, json=bad)
    assert "timeout" in call(408, json={"command": "sleep 60", "timeout": 1}, code="PROCESS_EXECUTION_TIMEOUT")["message"]


@case("POST /process/code-run")
def _(call):
    answer = call(200, json={"code": "import sys; print(sys.argv[1])", "language": "python", "argv": ["x y"]})
    assert (answer["exitCode"], answer["result"]) == (0, "x y\n")
    call(400, json={"code": "1", "language": "cobol"}, code="BAD_REQUEST")
    call(400, json={"language": "python"}, code="INVALID_REQUEST_BODY")
    call(408, json={"code": "import time; time.sleep(60)", "language": "python", "timeout": 1}, code="PROCESS_EXECUTION_TIMEOUT")


def with_session(call):
    return call.daemon.session(call.unique)


@case("GET /process/session")
def _(call):
    session = with_session(call)
    session.run("true")
    listed = call(200)
    assert session.name in [s["sessionId"] for s in listed] and "entrypoint" not in [s["sessionId"] for s in listed]
    session.delete()


@case("POST /process/session")
def _(call):
    call(201, json={"sessionId": call.unique})
    call(409, json={"sessionId": call.unique}, code="CONFLICT")
    call.daemon.delete(f"/process/session/{call.unique}")
    call(400, json={"sessionId": ""}, code="INVALID_REQUEST_BODY")
    for bad in ["entrypoint", "..", "a/b", "x" * 256]:
        call(400, json={"sessionId": bad}, code="BAD_REQUEST")


@case("GET /process/session/entrypoint")
def _(call):
    (command,) = call(200)["commands"]
    assert command["id"] == "entrypoint_command" and "exitCode" not in command
    assert call.daemon.get("/process/session/entrypoint/command/entrypoint_command").json() == command
    for method, path, body in [("DELETE", "", None), ("POST", "/exec", {"command": "x"}), ("POST", "/command/entrypoint_command/input", {"data": "x"})]:
        answer = call.daemon.http.request(method, f"/process/session/entrypoint{path}", json=body)
        assert (answer.status_code, answer.json()["code"]) == (400, "BAD_REQUEST")
        call.statuses.add(400)


@case("GET /process/session/entrypoint/logs")
def _(call):
    # Each stream in its own time.
    eventually(lambda: [call(200)[stream] for stream in ("stdout", "stderr")] == ["begun\n", "bad\n"], "the entrypoint's words")
    # An offset that is no number is the only way to ask for it wrongly.
    call(400, params={"offset": "x"})


@case("GET /process/session/{sessionId}")
def _(call):
    session = with_session(call)
    session.run("true")
    session.run("exit 0")
    assert [c["command"] for c in call(200, session.name)["commands"]] == ["true", "exit 0"]
    session.delete()
    call(404, session.name, code="NOT_FOUND")


@case("DELETE /process/session/{sessionId}")
def _(call):
    session = with_session(call)
    call(204, session.name)
    call(404, session.name, code="NOT_FOUND")
    call(400, "entrypoint", code="BAD_REQUEST")


@case("POST /process/session/{sessionId}/exec")
def _(call):
    session = with_session(call)
    answer = call(200, session.name, json={"command": "echo out; echo err >&2; (exit 4)"})
    assert (answer["stdout"], answer["stderr"], answer["exitCode"]) == ("out\n", "err\n", 4)
    # Members that are not known yet are null by the contract (8.3); the description cannot say so.
    started = call.daemon.post(f"{session.path}/exec", {"command": "true", "async": True})
    assert started.status_code == 202 and started.json()["exitCode"] is None and started.json()["cmdId"]
    call(400, session.name, json={"command": " "})
    call(400, session.name, content=b"{")
    call(404, "no-such-session", json={"command": "true"}, code="NOT_FOUND")
    call(200, session.name, json={"command": "exit 7"})
    call(410, session.name, json={"command": "true"}, code="SESSION_ENDED")
    session.delete()


@case("GET /process/session/{sessionId}/command/{commandId}")
def _(call):
    session = with_session(call)
    command = session.start("sleep 60")
    assert "exitCode" not in call(200, session.name, command)
    call(404, session.name, "no-such-command", code="NOT_FOUND")
    session.delete()
    call(404, session.name, command, code="NOT_FOUND")


@case("POST /process/session/{sessionId}/command/{commandId}/input")
def _(call):
    session = with_session(call)
    command = session.start("read x; echo got $x")
    call(204, session.name, command, json={"data": "this"})
    assert session.ended(command) == 0 and session.logs(command)["stdout"] == "this\ngot this\n"
    call(410, session.name, command, json={"data": "more"}, code="COMMAND_ALREADY_COMPLETED")
    call(400, session.name, session.start("sleep 60"), json={})
    call(404, session.name, "no-such-command", json={"data": "x"}, code="NOT_FOUND")
    session.delete()


@case("GET /process/session/{sessionId}/command/{commandId}/logs")
def _(call):
    session = with_session(call)
    command = session.run("echo out; echo err >&2")["cmdId"]
    logs = call(200, session.name, command)
    assert (logs["stdout"], logs["stderr"]) == ("out\n", "err\n")
    raw = call.daemon.get(f"{session.path}/command/{command}/logs", headers={"X-Daytona-SDK-Version": "0.150.0"})
    assert raw.headers["content-type"] == "text/plain; charset=utf-8"
    # Two pipes have no order between them when both are written at once.
    out, err = b"\1\1\1out\n", b"\2\2\2err\n"
    assert raw.content in (out + err, err + out)
    call(400, session.name, command, params={"offset": "-1"})
    call(404, session.name, "no-such-command", code="NOT_FOUND")
    session.delete()


@case("GET /process/pty")
def _(call):
    call.daemon.post("/process/pty", {"id": call.unique})
    assert call.unique in [s["id"] for s in call(200)["sessions"]]
    call.daemon.delete(f"/process/pty/{call.unique}")


@case("POST /process/pty")
def _(call):
    assert call(201, json={"id": call.unique, "cwd": "/tmp", "envs": {"A": "1"}, "cols": 100, "rows": 30}) == {"sessionId": call.unique}
    call(409, json={"id": call.unique}, code="CONFLICT")
    call.daemon.delete(f"/process/pty/{call.unique}")
    for bad in [{}, {"id": ""}, {"id": "x", "cols": 1001}, {"id": "x", "rows": -1}, {"id": "x", "rows": 70000}]:
        call(400, json=bad)


@case("GET /process/pty/{sessionId}")
def _(call):
    call.daemon.post("/process/pty", {"id": call.unique, "cols": 100, "rows": 30, "envs": {"A": "1"}})
    info = call(200, call.unique)
    assert (info["cols"], info["rows"], info["active"], info["lazyStart"]) == (100, 30, True, False)
    assert info["envs"] == {"A": "1", "TERM": "xterm-256color"} and info["cwd"] == "/home/daytona"
    call.daemon.delete(f"/process/pty/{call.unique}")
    call(404, call.unique)


@case("DELETE /process/pty/{sessionId}")
def _(call):
    call.daemon.post("/process/pty", {"id": call.unique})
    call(200, call.unique)
    call(404, call.unique)


@case("GET /process/pty/{sessionId}/connect")
def _(call):
    call.daemon.post("/process/pty", {"id": call.unique})
    call.upgrade(101, call.unique)
    call.upgrade(101, "no-such-terminal")
    call(400, call.unique)
    call.daemon.delete(f"/process/pty/{call.unique}")


@case("POST /process/pty/{sessionId}/resize")
def _(call):
    call.daemon.post("/process/pty", {"id": call.unique})
    assert call(200, call.unique, json={"cols": 101, "rows": 31})["cols"] == 101
    call(400, call.unique, json={"cols": 1001, "rows": 31})
    call(400, call.unique, json={"cols": 80})
    call.daemon.delete(f"/process/pty/{call.unique}")
    call(410, call.unique, json={"cols": 80, "rows": 24}, code="GONE")


@case("GET /process/interpreter/context")
def _(call):
    assert call(200)["contexts"] == [] or all(c["id"] != "default" for c in call(200)["contexts"])


@case("POST /process/interpreter/context")
def _(call):
    made = call(200, json={"cwd": "/tmp", "language": "python"})
    assert (made["cwd"], made["active"]) == ("/tmp", True)
    call.daemon.delete(f"/process/interpreter/context/{made['id']}")
    made = call(200, json={"cwd": None, "language": None})
    call.daemon.delete(f"/process/interpreter/context/{made['id']}")
    call(400, json={"language": "cobol"})
    call(400, content=b"{")


@case("DELETE /process/interpreter/context/{id}")
def _(call):
    made = call.daemon.post("/process/interpreter/context", {}).json()["id"]
    call(200, made)
    call(404, made, code="NOT_FOUND")
    call(400, "default")


@case("GET /process/interpreter/execute")
def _(call):
    call.upgrade(101)
    call(400)


# Git.


def repository(call, name: str = "work", **members: object) -> str:
    """A repository with one commit."""
    path = f"/tmp/{call.unique}/{name}"
    git = call.daemon
    for route, body in [
        ("/git/init", {"path": path, "initial_branch": "main"}),
        ("/git/add", {"path": path, "files": ["a"]}),
        ("/git/commit", {"path": path, "message": "first", "author": "Ada", "email": "ada@example.org"}),
    ]:
        if route == "/git/add":
            git.execute(f"echo one > {path}/a")
        answer = git.post(route, body)
        assert answer.status_code in (200, 201), answer.text
    return path


def published(call) -> tuple[str, str]:
    """A repository with one commit and the bare one that it pushes to."""
    path, bare = repository(call), f"/tmp/{call.unique}/bare"
    git = call.daemon
    assert git.post("/git/init", {"path": bare, "bare": True, "initial_branch": "main"}).status_code == 201
    assert git.post("/git/remotes", {"path": path, "name": "origin", "url": bare}).status_code == 201
    assert git.post("/git/push", {"path": path, "set_upstream": True}).status_code == 200
    return path, bare


@case("POST /git/init")
def _(call):
    call(201, json={"path": f"/tmp/{call.unique}/new", "initial_branch": "main"})
    call(201, json={"path": f"/tmp/{call.unique}/bare", "bare": True})
    call(400, json={}, code="INVALID_REQUEST_BODY")


@case("GET /git/status")
def _(call):
    path = repository(call)
    call.daemon.execute(f"echo two > {path}/a; echo new > {path}/b")
    status = call(200, params={"path": path})
    assert status["currentBranch"] == "main" and not status["detached"]
    assert {(f["name"], f["staging"], f["worktree"]) for f in status["fileStatus"]} == {
        ("a", "Unmodified", "Modified"),
        ("b", "Untracked", "Untracked"),
    }
    call(400)
    call(404, params={"path": "/tmp"}, code="GIT_REPO_NOT_FOUND")


@case("GET /git/branches")
def _(call):
    path = repository(call)
    assert call(200, params={"path": path}) == {"branches": ["main"], "current": "main"}
    call(404, params={"path": "/tmp"}, code="GIT_REPO_NOT_FOUND")
    call(400)


@case("POST /git/branches")
def _(call):
    path = repository(call)
    call(201, json={"path": path, "name": "side"})
    call(409, json={"path": path, "name": "side"}, code="GIT_BRANCH_EXISTS")
    call(400, json={"path": path}, code="INVALID_REQUEST_BODY")


@case("DELETE /git/branches")
def _(call):
    path = repository(call)
    call.daemon.post("/git/branches", {"path": path, "name": "side"})
    call.daemon.post("/git/checkout", {"path": path, "branch": "main"})
    call(204, json={"path": path, "name": "side"})
    call(404, json={"path": path, "name": "side"}, code="GIT_BRANCH_NOT_FOUND")
    call(400, json={"path": path})


@case("POST /git/checkout")
def _(call):
    path = repository(call)
    call.daemon.post("/git/branches", {"path": path, "name": "side"})
    call(200, json={"path": path, "branch": "main"})
    call(404, json={"path": path, "branch": "no-such-branch"}, code="GIT_BRANCH_NOT_FOUND")
    call(400, json={"path": path})


@case("POST /git/add")
def _(call):
    path = repository(call)
    call.daemon.execute(f"echo new > {path}/b")
    call(200, json={"path": path, "files": ["b"]})
    call(200, json={"path": path, "files": ["."]})
    call(400, json={"path": path})
    call(404, json={"path": "/tmp", "files": ["."]}, code="GIT_REPO_NOT_FOUND")


@case("POST /git/commit")
def _(call):
    path = repository(call)
    body = {"path": path, "message": "again", "author": "Ada", "email": "ada@example.org"}
    assert len(call(200, json=body | {"allow_empty": True})["hash"]) == 40
    call(409, json=body)
    call(400, json={"path": path, "message": "x"}, code="INVALID_REQUEST_BODY")


@case("GET /git/history")
def _(call):
    path = repository(call)
    (commit,) = call(200, params={"path": path})
    assert (commit["author"], commit["email"], commit["message"].strip()) == ("Ada", "ada@example.org", "first")
    call(404, params={"path": "/tmp"}, code="GIT_REPO_NOT_FOUND")


@case("POST /git/clone")
def _(call):
    _, bare = published(call)
    path = f"/tmp/{call.unique}/clone"
    call(200, json={"url": bare, "path": path, "branch": "main"})
    assert call.daemon.execute(f"cat {path}/a")["result"] == "one\n"
    call(409, json={"url": bare, "path": path})
    call(404, json={"url": bare, "path": f"{path}-2", "branch": "none"}, code="GIT_BRANCH_NOT_FOUND")
    call(404, json={"url": f"{bare}-none", "path": f"{path}-3"}, code="GIT_REPO_NOT_FOUND")
    call(400, json={"path": path}, code="INVALID_REQUEST_BODY")
    call(502, json={"url": "http://127.0.0.1:9/x.git", "path": f"{path}-4"}, code="GIT_TRANSPORT_FAILED")


@case("POST /git/push")
def _(call):
    path, bare = published(call)
    call(200, json={"path": path})
    other = f"/tmp/{call.unique}/other"
    call.daemon.post("/git/clone", {"url": bare, "path": other})
    commit = {"message": "x", "author": "A", "email": "a@x", "allow_empty": True}
    call.daemon.post("/git/commit", commit | {"path": other})
    call(200, json={"path": other})
    call.daemon.post("/git/commit", commit | {"path": path, "message": "y"})
    call(409, json={"path": path}, code="GIT_PUSH_REJECTED")
    call(404, json={"path": "/tmp"}, code="GIT_REPO_NOT_FOUND")
    call(400, json={}, code="INVALID_REQUEST_BODY")


@case("POST /git/pull")
def _(call):
    path, bare = published(call)
    other = f"/tmp/{call.unique}/other"
    call.daemon.post("/git/clone", {"url": bare, "path": other})
    commit = {"message": "x", "author": "A", "email": "a@x", "allow_empty": True}
    call.daemon.post("/git/commit", commit | {"path": other})
    call.daemon.post("/git/push", {"path": other})
    call(200, json={"path": path})
    assert len(call.daemon.get("/git/history", params={"path": path}).json()) == 2
    call(404, json={"path": path, "remote": "nowhere"})
    call(400, json={}, code="INVALID_REQUEST_BODY")


@case("GET /git/remotes")
def _(call):
    path, bare = published(call)
    assert call(200, params={"path": path}) == {"remotes": [{"name": "origin", "url": bare}]}
    call(404, params={"path": "/tmp"}, code="GIT_REPO_NOT_FOUND")


@case("POST /git/remotes")
def _(call):
    path, bare = published(call)
    call(201, json={"path": path, "name": "second", "url": bare, "fetch": True})
    call(409, json={"path": path, "name": "second", "url": bare})
    call(201, json={"path": path, "name": "second", "url": bare, "overwrite": True})
    call(400, json={"path": path, "name": "third"}, code="INVALID_REQUEST_BODY")


@case("POST /git/reset")
def _(call):
    path = repository(call)
    call.daemon.execute(f"echo two > {path}/a")
    call(200, json={"path": path, "mode": "hard"})
    assert call.daemon.execute(f"cat {path}/a")["result"] == "one\n"
    call(400, json={"path": path, "mode": "no-such-mode"})
    call(404, json={"path": path, "target": "no-such-revision"})


@case("POST /git/restore")
def _(call):
    path = repository(call)
    call.daemon.execute(f"echo two > {path}/a")
    call(200, json={"path": path, "files": ["a"]})
    assert call.daemon.execute(f"cat {path}/a")["result"] == "one\n"
    call(400, json={"path": path}, code="INVALID_REQUEST_BODY")


@case("GET /git/config")
def _(call):
    path = repository(call)
    assert call(200, params={"key": "core.bare", "scope": "local", "path": path}) == {"value": "false"}
    # A key that is not set is null by the contract (12.2); the description cannot say so.
    unset = call.daemon.get("/git/config", params={"key": "no.suchkey"})
    assert (unset.status_code, unset.json()) == (200, {"value": None})
    call(400)
    call(400, params={"key": "core.bare", "scope": "local"})
    call(400, params={"key": "core.bare", "scope": "nowhere"})


@case("POST /git/config")
def _(call):
    path = repository(call)
    call(200, json={"key": "a.b", "value": "c", "scope": "local", "path": path})
    assert call.daemon.get("/git/config", params={"key": "a.b", "scope": "local", "path": path}).json() == {"value": "c"}
    call(400, json={"key": "a.b"}, code="INVALID_REQUEST_BODY")
    call(400, json={"key": "a.b", "value": "c", "scope": "local"})


@case("POST /git/config/user")
def _(call):
    path = repository(call)
    call(200, json={"name": "Bea", "email": "bea@example.org", "scope": "local", "path": path})
    assert call.daemon.get("/git/config", params={"key": "user.name", "scope": "local", "path": path}).json() == {"value": "Bea"}
    call(400, json={"name": "Bea"}, code="INVALID_REQUEST_BODY")


@case("POST /git/credentials")
def _(call):
    call(200, json={"username": "u", "password": "p", "host": "git.example.org"})
    assert "git.example.org" in call.daemon.execute("cat ~/.git-credentials")["result"]
    call(400, json={"username": "u"}, code="INVALID_REQUEST_BODY")


# Language servers. One project serves all of them; each case starts the server, which is idempotent.

PROJECT = {"languageId": "python", "pathToProject": "/tmp/lsp-project"}
DOCUMENT = PROJECT | {"uri": "file:///tmp/lsp-project/a.py"}


def language_server(call):
    call.daemon.execute("mkdir -p /tmp/lsp-project; printf 'class Thing:\\n    pass\\n\\n\\nThing\\n' > /tmp/lsp-project/a.py")
    for path, body in [("start", PROJECT), ("did-open", DOCUMENT)]:
        answer = call.daemon.post(f"/lsp/{path}", body)
        assert answer.status_code == 200, answer.text


def never_started(call, **keywords: object) -> None:
    call(400, code="LSP_SERVER_NOT_INITIALIZED", **keywords)


@case("POST /lsp/start")
def _(call):
    language_server(call)
    call(200, json=PROJECT)
    call(400, json=PROJECT | {"languageId": "cobol"})
    call(400, json={"languageId": "python"})


@case("POST /lsp/did-open")
def _(call):
    language_server(call)
    call(200, json=DOCUMENT)
    call(400, json=DOCUMENT | {"uri": "file:///tmp/lsp-project/none.py"})
    call(400, json=PROJECT)
    never_started(call, json=DOCUMENT | {"pathToProject": "/tmp/other"})


@case("POST /lsp/did-close")
def _(call):
    language_server(call)
    call(200, json=DOCUMENT)
    call(400, json=PROJECT)
    never_started(call, json=DOCUMENT | {"pathToProject": "/tmp/other"})


@case("POST /lsp/completions")
def _(call):
    language_server(call)
    got = call(200, json=DOCUMENT | {"position": {"line": 4, "character": 5}})
    assert any(item["label"].startswith("Thing") for item in got["items"])
    call(200, json=DOCUMENT | {"position": {"line": 0, "character": 0}})
    call(400, json=DOCUMENT)
    never_started(call, json=DOCUMENT | {"pathToProject": "/tmp/other", "position": {"line": 4, "character": 5}})


@case("GET /lsp/document-symbols")
def _(call):
    language_server(call)
    assert "Thing" in [s["name"] for s in call(200, params=DOCUMENT)]
    call(400, params=PROJECT)
    never_started(call, params=DOCUMENT | {"pathToProject": "/tmp/other"})


@case("GET /lsp/workspacesymbols")
def _(call):
    language_server(call)
    assert "Thing" in [s["name"] for s in call(200, params=PROJECT | {"query": "thing"})]
    call(400, params=PROJECT)
    never_started(call, params={"languageId": "python", "pathToProject": "/tmp/other", "query": "x"})


@case("POST /lsp/stop")
def _(call):
    project = {"languageId": "python", "pathToProject": "/tmp/lsp-stopped"}
    call.daemon.execute("mkdir -p /tmp/lsp-stopped")
    assert call.daemon.post("/lsp/start", project).status_code == 200
    call(200, json=project)
    call(400, json={"languageId": "python"})


# Ports.


@case("GET /port")
def _(call):
    assert {2280, 22220} <= set(call(200)["ports"])


@case("GET /port/{port}/in-use")
def _(call):
    assert call(200, "3999") == {"isInUse": False}
    for bad in ["2999", "10000", "x"]:
        call(400, bad)


# Computer use: the part is not there, and that is what each route has to say (16.1). Recordings work as far as they can without ffmpeg (17).


@case(*(name for name in OPERATIONS if "/computeruse/" in name and "/recordings" not in name))
def _(call):
    code = "A11Y_UNAVAILABLE" if "/a11y/" in call.template else "SERVICE_UNAVAILABLE"
    keywords = {"json": {}} if call.method == "POST" else {}
    body = call(503, *(["xvfb"] if "{" in call.template else []), code=code, **keywords)
    assert body["details"] and body["solution"] and body["error"]


@case("GET /computeruse/recordings")
def _(call):
    identity = recording(call)
    assert identity in [r["id"] for r in call(200)["recordings"]]
    call.daemon.delete(f"/computeruse/recordings/{identity}")


@case("POST /computeruse/recordings/start")
def _(call):
    call(503, json={"label": "x"}, code="RECORDING_FFMPEG_NOT_FOUND")
    call(400, json={"label": "a/b"})


@case("POST /computeruse/recordings/stop")
def _(call):
    call(400, json={})
    call(404, json={"id": "none"})


def recording(call) -> str:
    """A finished recording, found again by its name."""
    identity = str(uuid.uuid4())
    path = f"/home/daytona/.daytona/recordings/{identity}_demo_20260504_101112.mp4"
    assert call.daemon.post("/files/upload-v2", params={"path": path}, content=b"film").status_code == 200
    return identity


@case("GET /computeruse/recordings/{id}")
def _(call):
    identity = recording(call)
    found = call(200, identity)
    assert (found["id"], found["status"], found["sizeBytes"]) == (identity, "completed", 4)
    call(404, "none")
    call.daemon.delete(f"/computeruse/recordings/{identity}")


@case("GET /computeruse/recordings/{id}/download")
def _(call):
    identity = recording(call)
    assert call(200, identity).content == b"film"
    call(404, "none")
    call.daemon.delete(f"/computeruse/recordings/{identity}")


@case("DELETE /computeruse/recordings/{id}")
def _(call):
    identity = recording(call)
    call(204, identity)
    call(404, identity)
