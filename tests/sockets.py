"""Two WebSocket clients that share no code: `websockets`, and `wsproto` with frames made by hand, so that wrong ones can be sent."""

from __future__ import annotations

import os
import socket
import struct
from dataclasses import dataclass, field

import wsproto
from wsproto.events import AcceptConnection, BytesMessage, CloseConnection, Ping, Pong, RejectConnection, Request, TextMessage

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
NORMAL, PROTOCOL_ERROR, BAD_TEXT, TOO_BIG = 1000, 1002, 1007, 1009


def frame(opcode: int, payload: bytes = b"", *, fin: bool = True, reserved: int = 0, masked: bool = True, length: int | None = None) -> bytes:
    """One frame; `length` lies about the payload's."""
    size = len(payload) if length is None else length
    head = bytes([(0x80 if fin else 0) | reserved << 4 | opcode])
    mask_bit = 0x80 if masked else 0
    if size < 126:
        head += bytes([mask_bit | size])
    elif size < 1 << 16:
        head += bytes([mask_bit | 126]) + struct.pack("!H", size)
    else:
        head += bytes([mask_bit | 127]) + struct.pack("!Q", size)
    if not masked:
        return head + payload
    mask = os.urandom(4)
    repeated = (mask * (len(payload) // 4 + 1))[: len(payload)]
    return head + mask + (int.from_bytes(payload, "big") ^ int.from_bytes(repeated, "big")).to_bytes(len(payload), "big")


# What a client may not send.

WRONG = {
    "unmasked": [frame(BINARY, b"x", masked=False)],
    "reserved-bit": [frame(BINARY, b"x", reserved=4)],
    "reserved-data-opcode": [frame(3, b"x")],
    "reserved-control-opcode": [frame(11)],
    "fragmented-ping": [frame(PING, b"x", fin=False)],
    "long-ping": [frame(PING, b"x" * 126)],
    "continuation-of-nothing": [frame(CONTINUATION, b"x")],
    "message-inside-a-message": [frame(BINARY, b"x", fin=False), frame(BINARY, b"y")],
    "close-of-one-byte": [frame(CLOSE, b"\x03")],
    "close-999": [frame(CLOSE, struct.pack("!H", 999))],
    "close-1005": [frame(CLOSE, struct.pack("!H", 1005))],
    "close-1006": [frame(CLOSE, struct.pack("!H", 1006))],
    "close-5000": [frame(CLOSE, struct.pack("!H", 5000))],
}

BAD = {
    "one-frame": [frame(TEXT, b"caf\xe9")],
    "split": [frame(TEXT, b"\xc3", fin=False), frame(CONTINUATION, b"(")],
    "surrogate": [frame(TEXT, b"\xed\xa0\x80")],
    "truncated": [frame(TEXT, b"\xe2\x82")],
    "close-reason": [frame(CLOSE, struct.pack("!H", 1000) + b"\xff")],
}


@dataclass
class Ended:
    """How a socket ended: by a close frame, or without one."""

    code: int | None
    reason: str = ""


@dataclass
class Raw:
    """A client whose sending side is bytes, and whose receiving side is wsproto, which refuses wrong frames of the server's."""

    address: str
    target: str
    port: int = 2280
    protocols: list[str] = field(default_factory=list)
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    host: str = ""

    def __post_init__(self):
        self.sock = socket.create_connection((self.address, self.port), 60)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.protocol = wsproto.WSConnection(wsproto.ConnectionType.CLIENT)
        self.events = self._events()
        request = Request(host=self.host or self.address, target=self.target, subprotocols=self.protocols, extra_headers=self.headers)
        self.sock.sendall(self.protocol.send(request))
        first = next(self.events)
        assert not isinstance(first, RejectConnection), f"{first.status_code}"
        assert isinstance(first, AcceptConnection), first
        self.accepted = first

    def _events(self):
        while True:
            yield from self.protocol.events()
            try:
                data = self.sock.recv(1 << 16)
            except ConnectionResetError:
                return
            if not data:
                return
            self.protocol.receive_data(data)

    def send(self, *frames: bytes) -> None:
        self.sock.sendall(b"".join(frames))

    def messages(self):
        """Complete messages, pongs and the end; the end is last."""
        whole: bytes | str | None = None
        for event in self.events:
            if isinstance(event, (TextMessage, BytesMessage)):
                data = event.data if isinstance(event, TextMessage) else bytes(event.data)
                whole = data if whole is None else whole + data
                if event.message_finished:
                    yield whole
                    whole = None
            elif isinstance(event, (Ping, Pong)):
                yield event
            elif isinstance(event, CloseConnection):
                yield Ended(event.code, event.reason or "")
                return
        yield Ended(None)

    def until(self, wanted) -> object:
        """The first message for which `wanted` is true; fails at the end."""
        seen = []
        for message in self.messages():
            if wanted(message):
                return message
            seen.append(message)
            assert not isinstance(message, Ended), f"the socket ended: {seen[-5:]}"
        raise AssertionError("no end was told")

    def end(self) -> Ended:
        """Reads to the end."""
        *_, last = self.messages()
        assert isinstance(last, Ended)
        return last

    def close(self) -> None:
        self.sock.close()
