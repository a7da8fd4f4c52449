"""A way to the engine on which each call is seen, and on which somebody may step in before or after it."""

from __future__ import annotations

import http.client
import json
import re
import socket
import socketserver
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path

ENGINE = "/var/run/docker.sock"
#: Of a step's name: identifiers differ from run to run.
UNSTABLE = re.compile(r"[0-9a-f]{8}-[0-9a-f-]{27}|[0-9a-f]{64}|127\.0\.0\.1:\d+/[^?]*|\d{6,}")


class _Connection(http.client.HTTPConnection):
    def __init__(self, engine: str) -> None:
        super().__init__("docker")
        self.engine = engine

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(self.engine)


class WatchedEngine:
    """A socket in front of the engine's. Calls that only read pass unseen."""

    def __init__(self, path: Path, engine: str = ENGINE) -> None:
        self.path = path
        self.engine = engine
        #: The calls that changed something, in order.
        self.steps: list[str] = []
        #: Called with a step's name before the engine hears of it; returns whether it may.
        self.before: Callable[[str], bool] = lambda _: True
        #: Called with a step's name when the engine has done it and the caller does not know; returns whether it may hear.
        self.after: Callable[[str], bool] = lambda _: True
        #: Its disks can be resized, it says: layers on xfs, and sizes that it takes and does not enforce. Everything else is true, so a resize is
        #: the one by a new container and a copy, which it would be where a layer has no quota of its own.
        self.disks = False
        path.unlink(missing_ok=True)
        self.server = _Server(str(path), type("Handler", (_Handler,), {"watch": self}))
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def reset(self) -> None:
        self.steps = []
        self.before = self.after = lambda _: True


class _Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True
    # A runner with a hundred jobs connects as often at once, and a socket of this kind refuses whoever finds its queue full (connect(2), EAGAIN).
    request_queue_size = 4096


def step_of(method: str, path: str) -> str | None:
    """What a call is named when it changes something: `POST /containers/*/start`."""
    path = re.sub(r"^/v[0-9.]+", "", path)
    if method in ("GET", "HEAD") or path.startswith("/auth"):
        return None
    return f"{method} {UNSTABLE.sub('*', path.split('?')[0])}"


class _Handler(BaseHTTPRequestHandler):
    watch: WatchedEngine
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def address_string(self) -> str:
        return "runner"

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except (OSError, http.client.HTTPException):
            self.close_connection = True

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        whole = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            whole += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return whole

    def sized(self, body: bytes) -> bytes:
        """A create as this engine's disk can take it."""
        spec = json.loads(body)
        spec.get("HostConfig", {}).pop("StorageOpt", None)
        return json.dumps(spec).encode()

    def on_xfs(self, said: bytes) -> bytes:
        """The engine's word on itself."""
        told = json.loads(said)
        told["DriverStatus"] = [[key, "xfs" if key == "Backing Filesystem" else value] for key, value in told["DriverStatus"]]
        return json.dumps(told).encode()

    def relay(self) -> None:
        body = self.body()
        if self.watch.disks and step_of(self.command, self.path) == "POST /containers/create":
            body = self.sized(body)
        step = step_of(self.command, self.path)
        if step:
            self.watch.steps.append(step)
            if not self.watch.before(step):
                self.close_connection = True
                return
        engine = _Connection(self.watch.engine)
        headers = {k: v for k, v in self.headers.items() if k.lower() not in ("transfer-encoding", "content-length", "connection")}
        engine.request(self.command, self.path, body, headers | {"Content-Length": str(len(body))})
        answer = engine.getresponse()
        about = self.watch.disks and self.path.endswith("/info")
        if step or about:
            # Nothing of the answer is heard before it is whole.
            whole = self.on_xfs(answer.read()) if about else answer.read()
            engine.close()
            if step and not self.watch.after(step):
                self.close_connection = True
                return
            self.head(answer)
            self.send_header("Content-Length", str(len(whole)))
            self.end_headers()
            self.wfile.write(whole)
            return
        self.stream(engine, answer)

    do_GET = do_POST = do_DELETE = do_PUT = do_HEAD = relay

    def head(self, answer: http.client.HTTPResponse) -> None:
        self.send_response_only(answer.status, answer.reason)
        for name, value in answer.getheaders():
            if name.lower() not in ("transfer-encoding", "content-length", "connection"):
                self.send_header(name, value)

    def stream(self, engine: _Connection, answer: http.client.HTTPResponse) -> None:
        """The engine's events never end, so an answer is passed on as it comes."""
        self.head(answer)
        if self.command == "HEAD" or answer.status in (204, 304):
            self.end_headers()
            return
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        while data := answer.read1(65536):
            self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self.wfile.write(b"0\r\n\r\n")
        engine.close()
