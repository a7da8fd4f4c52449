"""RFC 6455 against every WebSocket of the daemon, with two clients that share no code, directly and through the daemon's port proxy.

`proxied` reaches the same routes through `/proxy/2280`; a server that is not ours stands behind the proxy in the last tests.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
import socket
import struct
import time
from pathlib import Path

import pytest
import websockets
from websockets.sync.client import connect
from wsproto.events import Pong

from conftest import SANDBOX
from sockets import BAD, BAD_TEXT, BINARY, CLOSE, CONTINUATION, NORMAL, PING, PONG, PROTOCOL_ERROR, TEXT, TOO_BIG, WRONG, Ended, Raw, frame
from support import eventually

CONNECTED = '{"type":"control","status":"connected"}'


@pytest.fixture(params=["direct", "proxied"])
def prefix(request) -> str:
    return "" if request.param == "direct" else "/proxy/2280"


@pytest.fixture
def terminal(daemon, name):
    """The path of a terminal without echo, whose prompt is empty."""
    assert daemon.post("/process/pty", {"id": name, "envs": {"PS1": ""}}).status_code == 201
    yield f"/process/pty/{name}/connect"
    daemon.delete(f"/process/pty/{name}")


@pytest.fixture
def log(daemon, name):
    """The path of the log of a command that runs until it is told to end."""
    session = daemon.session(name)
    command = session.start("echo begun; read line; echo over", suppressInputEcho=True)
    yield f"{session.path}/command/{command}/logs?follow=true"
    session.delete()


@pytest.fixture
def interpreter() -> str:
    return "/process/interpreter/execute"


@pytest.fixture
def web() -> str:
    """The web terminal, which listens on the loopback alone."""
    return "/proxy/22222/ws"


@pytest.fixture(params=["terminal", "log", "interpreter", "web"])
def path(request) -> str:
    """Each kind of WebSocket there is."""
    return request.getfixturevalue(request.param)


def output(messages) -> bytes:
    return b"".join(m for m in messages if isinstance(m, bytes))


def read_until(receive, wanted: bytes, limit: float = 60) -> bytes:
    """Binary output up to the text that is wanted."""
    got, deadline = b"", time.monotonic() + limit
    while wanted not in got:
        assert time.monotonic() < deadline, f"waited for {wanted!r}, got {got[-300:]!r}"
        message = receive()
        assert not isinstance(message, Ended), f"ended: {message}, got {got[-300:]!r}"
        got += message if isinstance(message, bytes) else b""
    return got


# Messages and control frames that are in order.


def test_fragments_with_pings_between_them_by_hand(daemon, terminal, prefix):
    raw = Raw(daemon.address, prefix + terminal)
    messages = raw.messages()
    assert next(messages) == CONNECTED
    raw.send(frame(BINARY, b"echo a-", fin=False), frame(PING, b"between"))
    # The pong does not wait for the end of the message.
    assert bytes(raw.until(lambda m: isinstance(m, Pong)).payload) == b"between"
    raw.send(frame(CONTINUATION, b"", fin=False), frame(PONG, b"unasked"), frame(CONTINUATION, b"$((40+2))\n"))
    read_until(lambda: next(messages), b"a-42")
    raw.send(frame(TEXT, b"echo b-$((4", fin=False), frame(PING), frame(CONTINUATION, b"0+3))\n"))
    read_until(lambda: next(messages), b"b-43")
    raw.close()


def test_fragments_with_pings_between_them_by_library(daemon, terminal, prefix):
    with connect(f"ws://{daemon.address}:2280{prefix}{terminal}") as ws:
        assert ws.recv() == CONNECTED
        pongs = []

        def fragments():
            for part in [b"echo ", b"", b"c-$((40", b"+4))\n"]:
                pongs.append(ws.ping())
                yield part

        ws.send(fragments())
        assert all(pong.wait(10) for pong in pongs)
        read_until(ws.recv, b"c-44")


def test_frames_that_come_byte_by_byte(daemon, terminal):
    raw = Raw(daemon.address, terminal)
    for byte in frame(PING, b"x" * 125) + frame(BINARY, b"echo d-$((40+5))\n"):
        raw.send(bytes([byte]))
    assert bytes(raw.until(lambda m: isinstance(m, Pong)).payload) == b"x" * 125
    messages = raw.messages()
    read_until(lambda: next(messages), b"d-45")
    raw.close()


def test_pain_a12_pings_are_answered_while_output_flows(daemon, terminal):
    """Pain A12: a pong that starves behind data ends the clients' connections."""
    sock = socket.socket()
    # What the kernel holds for a client that is slow comes before any pong, and can be 32 MiB if it may choose.
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 18)
    sock.connect((daemon.address, 2280))
    with connect(f"ws://{daemon.address}:2280{terminal}", sock=sock, max_size=None, close_timeout=0) as ws:
        ws.send(b"yes | head -c 50000000; echo e-$((40+6))\n")
        read_until(ws.recv, b"y\r\ny")
        pong, began = ws.ping(), time.monotonic()
        received = 0
        while not pong.is_set():
            received += len(ws.recv())
            assert time.monotonic() - began < 60
        assert received < 8 << 20, "the pong came behind megabytes of output"


@pytest.mark.parametrize("code", [1000, 1001, 1011, 3000, 4999])
def test_a_close_is_answered_with_its_code(daemon, path, prefix, code):
    raw = Raw(daemon.address, prefix + path)
    raw.send(frame(CLOSE, struct.pack("!H", code) + b"bye"))
    assert raw.end().code == code
    # After the closing handshake the server closes the connection.
    assert raw.sock.recv(1) == b""
    with connect(f"ws://{daemon.address}:2280{prefix}{path}") as ws:
        ws.close(code, "bye")
    assert ws.close_code == code


def test_a_close_without_a_code(daemon, path):
    raw = Raw(daemon.address, path)
    raw.send(frame(CLOSE))
    assert raw.end().code in (1000, 1005)
    assert raw.sock.recv(1) == b""


def test_a_megabyte_in_one_message(daemon, terminal, interpreter, prefix):
    """Pastes are not refused (weakness P5), and neither is code."""
    size = 1 << 20
    with connect(f"ws://{daemon.address}:2280{prefix}{terminal}", max_size=None) as ws:
        assert ws.recv() == CONNECTED
        ws.send(b"stty raw -echo; echo re''ady; head -c %d | sha256sum; stty sane; echo do''ne\n" % size)
        read_until(ws.recv, b"ready")
        paste = b"0123456789abcdef" * (size // 16)
        ws.send(paste)
        assert hashlib.sha256(paste).hexdigest().encode() in read_until(ws.recv, b"done")
    raw = Raw(daemon.address, prefix + interpreter)
    raw.send(frame(TEXT, json.dumps({"code": f"x = '{'é' * size}'\nprint(len(x))"}, ensure_ascii=False).encode()))
    texts = [json.loads(m) for m in raw.messages() if isinstance(m, str)]
    assert "".join(t["text"] for t in texts if t["type"] == "stdout") == f"{size}\n"


# What a client may not send. Each is told by a close frame, not by a connection that is gone.


@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_frames(daemon, path, wrong):
    raw = Raw(daemon.address, path)
    raw.send(*WRONG[wrong])
    assert raw.end().code == PROTOCOL_ERROR


@pytest.mark.parametrize("wrong", ["unmasked", "close-999"])
def test_wrong_frames_through_the_proxy(daemon, path, wrong):
    raw = Raw(daemon.address, "/proxy/2280" + path)
    raw.send(*WRONG[wrong])
    assert raw.end().code == PROTOCOL_ERROR


@pytest.mark.parametrize("bad", BAD)
def test_text_that_is_not_utf8(daemon, path, bad):
    raw = Raw(daemon.address, path)
    raw.send(*BAD[bad])
    # RFC 6455 leaves open whether a reason that is no text is a wrong text or a wrong frame.
    assert raw.end().code in ({BAD_TEXT, PROTOCOL_ERROR} if bad == "close-reason" else {BAD_TEXT})


def test_text_that_is_not_utf8_by_library(daemon, path, prefix):
    with connect(f"ws://{daemon.address}:2280{prefix}{path}") as ws:
        ws.send(b"caf\xe9", text=True)
        with pytest.raises(websockets.ConnectionClosed):
            while True:
                ws.recv(10)
        assert ws.close_code == BAD_TEXT


def test_characters_split_between_fragments_are_whole(daemon, terminal):
    raw = Raw(daemon.address, terminal)
    raw.send(frame(TEXT, b"echo \xe2\x82", fin=False), frame(CONTINUATION, b"\xac-$((40+7))\n"))
    messages = raw.messages()
    read_until(lambda: next(messages), "€-47".encode())
    raw.close()


@pytest.mark.parametrize("announced", [64 << 20, 1 << 62])
def test_a_frame_that_is_too_large(daemon, path, announced):
    """It is refused by what its head says: nobody waits for it or makes room for it."""
    raw = Raw(daemon.address, path)
    raw.send(frame(BINARY, b"x" * 1000, length=announced))
    assert raw.end().code == TOO_BIG


def test_a_message_that_is_too_large_in_pieces(daemon, path):
    raw = Raw(daemon.address, path)
    piece = b"x" * (1 << 20)
    raw.send(frame(BINARY, piece, fin=False))
    ended = None
    raw.sock.settimeout(20)
    for _ in range(64):
        try:
            raw.send(frame(CONTINUATION, piece, fin=False))
        except OSError as error:
            ended = error
            break
    assert ended is not None, "64 MiB were taken as one message"
    assert daemon.get("/version").status_code == 200


# Ends that are no closing handshake.


def sockets_of(daemon) -> set[str]:
    return set(re.findall(r"socket:\[\d+\]", daemon.execute("ls -l /proc/1/fd 2>/dev/null")["result"]))


def test_a_client_that_only_sends_no_more(daemon, path, prefix):
    """Its end of file is the end: there is no WebSocket without a way back."""
    raw = Raw(daemon.address, prefix + path)
    raw.sock.shutdown(socket.SHUT_WR)
    raw.end()


def test_clients_that_vanish_leave_nothing(daemon, path, prefix):
    # Which, and not how many: those of earlier clients may go meanwhile.
    before = sockets_of(daemon)
    raws = [Raw(daemon.address, prefix + path) for _ in range(20)]
    assert len(sockets_of(daemon) - before) >= 20
    for index, raw in enumerate(raws):
        if index % 2:
            # A reset instead of an end of file.
            raw.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        raw.close()
    eventually(lambda: len(sockets_of(daemon) - before) <= 2, "the sockets of vanished clients to go")


def test_a_log_ends_with_1000_and_no_reason(daemon, log, prefix):
    session, command = re.match(r"/process/session/(.+)/command/(.+)/logs", log).groups()
    tell = f"/process/session/{session}/command/{command}/input"
    raw = Raw(daemon.address, prefix + log, protocols=["X-Daytona-SDK-Version~0.226.1"])
    with connect(f"ws://{daemon.address}:2280{prefix}{log}") as ws:
        read_until(ws.recv, b"begun\n")
        assert daemon.post(tell, {"data": "go"}).status_code == 204
        rest = b"".join(ws)
    # A client without a version gets no markers, the newest ones get them.
    assert (rest, ws.close_code, ws.close_reason) == (b"over\n", NORMAL, "")
    *messages, end = raw.messages()
    assert (output(messages), end) == (b"\1\1\1begun\nover\n", Ended(NORMAL, ""))
    # The server waits for the answer to its close, then closes the connection.
    raw.send(frame(CLOSE, struct.pack("!H", NORMAL)))
    assert raw.sock.recv(1) == b""


# The handshake.


def handshake(daemon, path: str, **changes: str | None) -> tuple[int, dict[str, str]]:
    headers = {
        "Host": "x", "Connection": "keep-alive, Upgrade", "Upgrade": "WebSocket", "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    }  # fmt: skip
    headers |= {key.replace("_", "-"): value for key, value in changes.items()}
    lines = [f"GET {path} HTTP/1.1", *(f"{k}: {v}" for k, v in headers.items() if v is not None)]
    with socket.create_connection((daemon.address, 2280), 10) as sock:
        sock.sendall("\r\n".join([*lines, "", ""]).encode())
        stream = sock.makefile("rb")
        status = int(stream.readline().split()[1])
        answer = {}
        while line := stream.readline().strip().decode():
            key, value = line.split(":", 1)
            answer[key.lower()] = value.strip()
        return status, answer


def test_the_handshake(daemon, path, prefix):
    status, headers = handshake(daemon, prefix + path, Sec_WebSocket_Extensions="permessage-deflate; client_max_window_bits")
    assert (status, headers["upgrade"].lower()) == (101, "websocket")
    # The example of RFC 6455, section 1.3.
    assert headers["sec-websocket-accept"] == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
    assert "sec-websocket-extensions" not in headers and "sec-websocket-protocol" not in headers
    offers = {
        "a, b": "a",
        "X-Daytona-Pty-Envs~e30, X-Daytona-Pty-Exit-Control": "X-Daytona-Pty-Exit-Control",
        "X-Daytona-Pty-Exit-Control, X-Daytona-SDK-Version~0.226.1": "X-Daytona-SDK-Version~0.226.1",
        "X-Daytona-Pty-Envs~e30": "X-Daytona-Pty-Envs~e30",
    }
    for offered, expected in offers.items():
        assert handshake(daemon, prefix + path, Sec_WebSocket_Protocol=offered)[1]["sec-websocket-protocol"] == expected


def test_handshakes_that_are_none(daemon, terminal, interpreter):
    for path in (terminal, interpreter):
        assert handshake(daemon, path, Sec_WebSocket_Version="8")[0] in (400, 426)
        assert handshake(daemon, path, Sec_WebSocket_Key=None)[0] == 400
        assert handshake(daemon, path, Upgrade=None)[0] == 400
        assert handshake(daemon, path, Connection="close")[0] == 400


# A server that is not ours behind the proxy.

SERVER = """
import asyncio, sys
sys.path.insert(0, "/opt")
from websockets.asyncio.server import serve

async def echo(ws):
    async for message in ws:
        await ws.send(message)

async def main():
    async with serve(echo, "127.0.0.1", 8765, max_size=None, subprotocols=["chat"]):
        print("ready", flush=True)
        await asyncio.Future()

asyncio.run(main())
"""


@pytest.fixture(scope="module")
def foreign(make_shared):
    """A daemon beside a server made with `websockets`."""
    package = Path(importlib.util.find_spec("websockets").origin).parent
    daemon = make_shared(SANDBOX, "-v", f"{package}:/opt/websockets:ro", command=("python3", "-c", SERVER))
    eventually(lambda: "ready" in daemon.get("/process/session/entrypoint/logs").json()["stdout"], "the server to listen")
    return daemon


def test_a_foreign_server_through_the_proxy(foreign):
    with connect(f"ws://{foreign.address}:2280/proxy/8765/", max_size=None, subprotocols=["chat"]) as ws:
        assert ws.subprotocol == "chat"
        # Extensions are the ends' own affair: this one compresses through the proxy.
        assert "permessage-deflate" in ws.response.headers["Sec-WebSocket-Extensions"]
        for message in ["", "é" * 10, b"", bytes(range(256)) * 100, b"y" * (20 << 20)]:
            ws.send(message)
            assert ws.recv() == message
        assert ws.ping().wait(10)
        ws.close(4321, "enough")
    assert ws.close_code == 4321


def test_a_foreign_servers_judgement_passes_the_proxy(foreign):
    for frames, code in [(WRONG["unmasked"], PROTOCOL_ERROR), (BAD["one-frame"], BAD_TEXT), (WRONG["reserved-bit"], PROTOCOL_ERROR)]:
        raw = Raw(foreign.address, "/proxy/8765/", protocols=["chat"])
        raw.send(*frames)
        assert raw.end().code == code
    raw = Raw(foreign.address, "/proxy/8765/", protocols=["chat"])
    raw.send(frame(TEXT, b"a", fin=False), frame(PING, b"p"), frame(CONTINUATION, b"b"))
    assert bytes(raw.until(lambda m: isinstance(m, Pong)).payload) == b"p"
    assert next(raw.messages()) == "ab"
    # Half-closed: what is under way still arrives.
    raw.send(frame(TEXT, b"last"))
    raw.sock.shutdown(socket.SHUT_WR)
    assert next(raw.messages()) == "last"
    raw.close()
