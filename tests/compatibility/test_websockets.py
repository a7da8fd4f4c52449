"""RFC 6455 through everything that stands between a client and a sandbox, for each WebSocket there is, with two clients that share no code.

The daemon's own behaviour is proved in `tests/toolbox/test_websocket.py`; here it has to survive the edge proxy, the previews and the runner. Where a
sandbox's own server decides, the proxies must not.
"""

from __future__ import annotations

import socket
import struct
import uuid
from dataclasses import dataclass
from urllib.parse import urlsplit

import httpx
import pytest
from websockets.sync.client import connect
from wsproto.events import Ping, Pong

from sockets import BAD, BAD_TEXT, BINARY, CLOSE, CONTINUATION, NORMAL, PING, PROTOCOL_ERROR, TEXT, TOO_BIG, WRONG, Ended, Raw, frame


@dataclass
class Door:
    """One way into a sandbox."""

    port: int
    host: str
    prefix: str
    header: tuple[str, str]

    def raw(self, path: str) -> Raw:
        headers = [(self.header[0].encode(), self.header[1].encode())]
        return Raw("127.0.0.1", self.prefix + path, self.port, headers=headers, host=self.host)

    def library(self, path: str):
        # The names of previews need not resolve.
        sock = socket.create_connection(("127.0.0.1", self.port), 60)
        return connect(f"ws://{self.host}{self.prefix}{path}", sock=sock, additional_headers=dict([self.header]), open_timeout=60, close_timeout=60)


@pytest.fixture(params=["toolbox", "older", "preview"])
def door(request, stack, sandbox) -> Door:
    key = ("Authorization", f"Bearer {stack.key}")
    host = f"127.0.0.1:{stack.port}"
    if request.param == "toolbox":
        return Door(stack.port, host, f"/toolbox/{sandbox.id}", key)
    if request.param == "older":
        return Door(stack.port, host, f"/api/toolbox/{sandbox.id}/toolbox", key)
    link = sandbox.get_preview_link(2280)
    url = urlsplit(link.url)
    return Door(url.port or 80, url.netloc, "", ("X-Daytona-Preview-Token", link.token))


@pytest.fixture
def toolbox(stack, sandbox):
    with httpx.Client(base_url=f"http://127.0.0.1:{stack.port}/toolbox/{sandbox.id}", headers={"Authorization": f"Bearer {stack.key}"}, timeout=30) as client:
        yield client


@pytest.fixture(params=["terminal", "log", "interpreter", "web"])
def path(request, toolbox):
    """Each kind of WebSocket."""
    name = f"ws-{uuid.uuid4()}"
    match request.param:
        case "terminal":
            assert toolbox.post("/process/pty", json={"id": name, "envs": {"PS1": ""}}).status_code == 201
            yield f"/process/pty/{name}/connect"
            toolbox.delete(f"/process/pty/{name}")
        case "log":
            assert toolbox.post("/process/session", json={"sessionId": name}).status_code == 201
            made = toolbox.post(f"/process/session/{name}/exec", json={"command": "echo begun; read line", "runAsync": True}).json()
            yield f"/process/session/{name}/command/{made['cmdId']}/logs?follow=true"
            toolbox.delete(f"/process/session/{name}")
        case "interpreter":
            yield "/process/interpreter/execute"
        case "web":
            yield "/proxy/22222/ws"


def test_pings_inside_a_message_are_answered(door, path):
    raw = door.raw(path)
    raw.send(frame(BINARY, b"echo a-", fin=False), frame(PING, b"between"))
    assert bytes(raw.until(lambda m: isinstance(m, Pong)).payload) == b"between"
    raw.send(frame(CONTINUATION, b"$((40+2))\n"))
    raw.close()
    with door.library(path) as ws:
        assert ws.ping().wait(60)


def test_fragments_arrive_as_one_message(door, toolbox):
    name = f"ws-{uuid.uuid4()}"
    raw = door.raw(f"/process/pty/create-connect?id={name}&cols=80&rows=24")
    raw.send(frame(TEXT, b"echo \xe2\x82", fin=False), frame(CONTINUATION, b"", fin=False), frame(CONTINUATION, b"\xac-$((40+7))\n"))
    seen = b""
    for message in raw.messages():
        assert not isinstance(message, Ended), seen
        seen += message if isinstance(message, bytes) else b""
        if "€-47".encode() in seen:
            break
    raw.close()
    assert toolbox.delete(f"/process/pty/{name}").status_code == 200


@pytest.mark.parametrize("code", [1000, 4999])
def test_a_close_is_answered_with_its_code(door, path, code):
    raw = door.raw(path)
    raw.send(frame(CLOSE, struct.pack("!H", code) + b"bye"))
    assert raw.end().code == code
    assert raw.sock.recv(1) == b""
    with door.library(path) as ws:
        ws.close(code, "bye")
    assert ws.close_code == code


@pytest.mark.parametrize("wrong", ["unmasked", "reserved-bit", "fragmented-ping", "continuation-of-nothing", "close-999"])
def test_wrong_frames(door, path, wrong):
    raw = door.raw(path)
    raw.send(*WRONG[wrong])
    assert raw.end().code == PROTOCOL_ERROR


@pytest.mark.parametrize("bad", ["one-frame", "split"])
def test_text_that_is_not_utf8(door, path, bad):
    raw = door.raw(path)
    raw.send(*BAD[bad])
    assert raw.end().code == BAD_TEXT


@pytest.mark.parametrize("announced", [64 << 20, 1 << 62])
def test_a_frame_that_is_too_large(door, path, announced):
    raw = door.raw(path)
    raw.send(frame(BINARY, b"x" * 1000, length=announced))
    assert raw.end().code == TOO_BIG


def test_a_clients_end_of_file_is_the_end(door, path, toolbox):
    raw = door.raw(path)
    raw.sock.shutdown(1)
    raw.end()
    assert toolbox.get("/version").status_code == 200


def test_an_end_of_the_servers_passes(door, toolbox):
    name = f"ws-{uuid.uuid4()}"
    assert toolbox.post("/process/session", json={"sessionId": name}).status_code == 201
    made = toolbox.post(f"/process/session/{name}/exec", json={"command": "echo over", "runAsync": True}).json()
    *messages, end = door.raw(f"/process/session/{name}/command/{made['cmdId']}/logs?follow=true").messages()
    assert b"over\n" in b"".join(m for m in messages if not isinstance(m, (Ping, Pong))) and end == Ended(NORMAL, "")
    assert toolbox.delete(f"/process/session/{name}").status_code == 204
