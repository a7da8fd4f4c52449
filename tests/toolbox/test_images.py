"""The daemon in images and under users that lack things: it starts, it serves what can be served, and it says what cannot."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from conftest import BUSYBOX, SANDBOX, Daemon
from sockets import BINARY, Ended, Raw, frame
from support import docker


def scratch() -> str:
    """An image with nothing in it but an empty file: an image needs a layer."""
    tag = "pf-toolbox-scratch:latest"
    script = f"d=$(mktemp -d) && : >$d/empty && tar -C $d -c empty | docker import - {tag} && rm -r $d"
    subprocess.run(["sh", "-c", script], check=True, capture_output=True)
    return tag


def built(tag: str, base: str, commands: str) -> str:
    """An image made from another one by commands of root's."""
    subprocess.run(["docker", "build", "-q", "-t", tag, "-"], input=f"FROM {base}\nUSER 0\nRUN {commands}\n", text=True, check=True, capture_output=True)
    return tag


@dataclass
class Kind:
    """One kind of image or user: how it is made, and what is to be expected of it."""

    image: Callable[[], str]
    options: tuple[str, ...] = ()
    shell: bool = True
    # Where files can be written.
    writable: str = "/tmp"
    # What the log has to say.
    lacks: tuple[str, ...] = ()
    refused: str | None = None
    home: str | None = None


HOME_LACKS = "the home directory cannot be written"
KINDS = {
    "scratch": Kind(scratch, shell=False, writable="/data", lacks=("this image has no shell",)),
    "busybox": Kind(lambda: BUSYBOX, home="/root"),
    "debian": Kind(lambda: SANDBOX, refused="/etc/file", home="/home/daytona"),
    "no-passwd": Kind(lambda: built("pf-toolbox-no-passwd:latest", SANDBOX, "rm /etc/passwd /etc/group /etc/shells"), ("-e", "HOME=/root")),
    "read-only-root": Kind(
        lambda: SANDBOX,
        ("--read-only", "--tmpfs", "/data:mode=1777"),
        writable="/data",
        lacks=(HOME_LACKS, "the log file cannot be written", "the temporary directory cannot be written"),
        refused="/tmp/file",
    ),
    "non-root": Kind(lambda: BUSYBOX, ("--user", "1000:1000", "-e", "HOME=/tmp/home"), refused="/etc/file", home="/tmp/home"),
    "user-without-home": Kind(lambda: SANDBOX, ("--user", "12345:12345"), lacks=(HOME_LACKS,), refused="/home/daytona/file"),
    "home-of-somebody-else": Kind(lambda: SANDBOX, ("-e", "HOME=/root"), lacks=(HOME_LACKS,), refused="/root/file"),
}


@pytest.fixture(scope="module", params=KINDS)
def kind(request) -> Kind:
    return KINDS[request.param]


@pytest.fixture(scope="module")
def daemon(kind, make_shared) -> Daemon:
    image = kind.image()
    started = make_shared(image, *kind.options)
    yield started
    if image.startswith("pf-toolbox-"):
        docker("rm", "-f", started.container)
        docker("rmi", image)


def test_it_is_pid_1_and_says_its_version(daemon, kind):
    assert daemon.get("/version").json()["version"].startswith("v")
    assert [p["name"] for p in daemon.processes() if p["pid"] == 1] == ["daytona"]
    if kind.home:
        assert daemon.get("/user-home-dir").json() == {"dir": kind.home}
    assert daemon.get("/system/metrics").json()["memUsed"] > 0
    assert {2280, 22220, 22222, 33333} <= set(daemon.get("/port").json()["ports"])


def test_the_log_says_what_is_lacking(daemon, kind):
    for lack in kind.lacks:
        daemon.says(lack)
    if not kind.lacks:
        log = daemon.says("listening")
        assert "WARN" not in log.split("listening")[0], log


def test_commands(daemon, kind):
    answer = daemon.post("/process/execute", {"command": "echo $((40+2)); exit 3"})
    assert answer.status_code == 200
    if kind.shell:
        assert (answer.json()["exitCode"], answer.json()["result"]) == (3, "42\n")
        # Beyond what is kept in memory.
        assert len(daemon.execute("head -c 3000000 /dev/zero")["result"]) == 3_000_000
    else:
        assert answer.json()["exitCode"] == -1
        assert re.search(r'could not start.*"?sh"?.*No such file or directory', answer.json()["result"]), answer.text


def test_files(daemon, kind):
    path = f"{kind.writable}/new/folder/file"
    content = bytes(range(256)) * 1000
    assert daemon.post("/files/upload-v2", params={"path": path}, content=content).status_code == 200
    assert daemon.get("/files/download", params={"path": path}).content == content
    (listed,) = daemon.get("/files", params={"path": f"{kind.writable}/new/folder"}).json()
    assert (listed["name"], listed["size"]) == ("file", len(content))
    assert re.fullmatch(r"\d+", listed["owner"])
    moved = {"source": path, "destination": f"{kind.writable}/new/moved"}
    assert daemon.post("/files/move", params=moved).status_code == 200
    assert daemon.get("/files/search", params={"path": kind.writable, "pattern": "mov*"}).json() == {"files": [moved["destination"]]}
    assert daemon.delete("/files", params={"path": f"{kind.writable}/new", "recursive": "true"}).status_code == 204
    if kind.refused:
        answer = daemon.post("/files/upload-v2", params={"path": kind.refused}, content=b"x")
        assert answer.status_code == 400
        assert kind.refused in answer.json()["message"] and re.search("[Pp]ermission denied|[Rr]ead-only", answer.json()["message"])


def test_sessions(daemon, kind, name):
    created = daemon.post("/process/session", {"sessionId": name})
    if not kind.shell:
        assert created.status_code == 500
        assert re.search(r"could not start.*No such file or directory", created.json()["message"]), created.text
        assert daemon.get("/process/session").json() == []
        return
    assert created.status_code == 201, created.text
    path = f"/process/session/{name}"
    for command, expected in [("cd /; x=kept", ""), ("pwd; echo $x; echo err >&2", "/\nkept\n")]:
        answer = daemon.post(f"{path}/exec", {"command": command}).json()
        assert (answer["exitCode"], answer["stdout"]) == (0, expected)
    assert answer["stderr"] == "err\n"
    logs = daemon.get(f"{path}/command/{answer['cmdId']}/logs").json()
    assert (logs["stdout"], logs["stderr"]) == ("/\nkept\n", "err\n")
    assert daemon.delete(path).status_code == 204


def test_terminals(daemon, kind, name):
    target = f"/process/pty/create-connect?id={name}&cols=90&rows=30"
    if not kind.shell:
        with pytest.raises(InvalidStatus) as refused:
            connect(f"ws://{daemon.address}:2280{target}")
        assert refused.value.response.status_code == 500
        assert b"No such file or directory" in refused.value.response.body
        assert daemon.get("/process/pty").json() == {"sessions": []}
        return
    raw = Raw(daemon.address, target)
    raw.send(frame(BINARY, b"stty size; exit 5\n"))
    first, *output, end = raw.messages()
    assert first == '{"type":"control","status":"connected"}'
    assert b"30 90" in b"".join(part for part in output if isinstance(part, bytes)), output
    assert end == Ended(1011, '{"exitCode":5,"exitReason":"non-zero exit"}')


def test_it_ends_in_order(daemon):
    """The last: nothing is left to ask."""
    docker("stop", "-t", "20", daemon.container)
    assert docker("inspect", "-f", "{{.State.ExitCode}}", daemon.container).strip() == "0"
    daemon.says("the daemon ends")
