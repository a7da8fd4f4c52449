"""A file system that fills up while files are uploaded or moved (weaknesses F2, F7 and F12 of the original): nothing is lost, nothing half is left."""

from __future__ import annotations

import socket

import pytest

from conftest import SANDBOX, Daemon
from support import eventually

MIB = 1 << 20
BOUNDARY = "b0undary"


@pytest.fixture(scope="module")
def daemon(make_shared) -> Daemon:
    return make_shared(SANDBOX, "--tmpfs", "/small:size=2m,mode=777")


@pytest.fixture(autouse=True)
def _empty(daemon):
    yield
    daemon.execute("rm -rf /small/* /small/.[!.]*")


def left(daemon: Daemon) -> list[str]:
    return [entry["name"] for entry in daemon.get("/files", params={"path": "/small"}).json()]


def test_f12_a_part_without_room_is_given_up_at_once(daemon):
    """Its space is free again while it is still being sent, so that the part after it finds room."""

    def part(field: str, content: bytes) -> bytes:
        return f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{field}"\r\n\r\n'.encode() + content + b"\r\n"

    large = part("files[0].path", b"/small/large") + part("files[0].file", bytes(64 * MIB))
    rest = part("files[1].path", b"/small/fits") + part("files[1].file", b"x" * (MIB + MIB // 2)) + f"--{BOUNDARY}--\r\n".encode()
    head = f"POST /files/bulk-upload HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary={BOUNDARY}\r\n"
    with socket.create_connection((daemon.address, 2280), timeout=60) as client:
        client.sendall(f"{head}Content-Length: {len(large) + len(rest)}\r\n\r\n".encode())
        # Sockets hold a few MiB: when so much is sent, far more has been read than there is room for.
        client.sendall(large[: 60 * MIB])
        eventually(lambda: left(daemon) == [], "the unfinished file to be gone while its part is still coming")
        client.sendall(large[60 * MIB :] + rest)
        answer = b""
        while b"\r\n\r\n" not in answer or b"}" not in answer:
            more = client.recv(65536)
            assert more, answer
            answer += more
    assert answer.startswith(b"HTTP/1.1 400 "), answer
    assert b'"/small/large: write: no space left on device' in answer, answer
    assert b'"bytes":1572864' in answer and b'"path":"/small/fits"' in answer, answer
    assert left(daemon) == ["fits"]


@pytest.mark.parametrize("route", ["/files/upload-v2", "/files/replace"])
def test_f2_what_is_overwritten_stays_whole_without_room(daemon, route):
    old = b"old" * (MIB // 3)
    assert daemon.post("/files/upload-v2", params={"path": "/small/f"}, content=old).status_code == 200
    if route == "/files/replace":
        answer = daemon.post(route, {"files": ["/small/f"], "pattern": "old", "newValue": "newer" * 4})
        reason = answer.json()[0].get("error", "")
    else:
        answer = daemon.post(route, params={"path": "/small/f"}, content=bytes(4 * MIB))
        assert answer.status_code == 400, answer.text
        reason = answer.json()["message"]
    assert "no space left on device" in reason, answer.text
    assert daemon.get("/files/download", params={"path": "/small/f"}).content == old
    assert left(daemon) == ["f"]


def test_f7_a_move_without_room_leaves_the_source_and_nothing_else(daemon, name):
    base = f"/tmp/{name}"
    daemon.execute(f"mkdir -p {base}/sub; echo a >{base}/a; head -c 4M /dev/zero >{base}/sub/large; echo z >{base}/z")
    answer = daemon.post("/files/move", params={"source": base, "destination": "/small/moved"})
    assert answer.status_code == 400 and "no space left on device" in answer.json()["message"], answer.text
    assert daemon.execute(f"cd {base}; find . -type f | sort; stat -c %s sub/large")["result"] == "./a\n./sub/large\n./z\n4194304\n"
    assert left(daemon) == []
