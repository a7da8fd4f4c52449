"""Processes and clients for tests of the control plane alone: the example binary with a runner that has no engine.

Nothing here needs Docker or root. Build first: `cargo build -p pinfold-control --example with_simulated_runner`.
"""

from __future__ import annotations

import concurrent.futures
import hashlib
import hmac
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import httpx

ROOT = Path(__file__).parent.parent.parent
sys.path.append(str(ROOT / "tools"))

from stack import free_port  # noqa: E402

BINARY = Path(os.environ.get("PINFOLD_CONTROL_EXAMPLE", ROOT / "target/debug/examples/with_simulated_runner"))


POOL = concurrent.futures.ThreadPoolExecutor(16)


# How long anything here may take: the limit of a machine that others have, and not what is judged.
PATIENCE = 60.0


def wait_for(what: str, condition: Callable[[], Any], seconds: float = PATIENCE) -> Any:
    """Waits for a condition, and says what was awaited when it does not come."""
    deadline = time.monotonic() + seconds
    while True:
        if value := condition():
            return value
        assert time.monotonic() < deadline, f"waited {seconds} s for {what}"
        time.sleep(0.02)


def fetch(method: str, url: str, **options: Any) -> httpx.Response:
    """One call on a connection of its own."""
    # Nothing here is TLS unless it says so, and to read the host's authorities takes longer than most calls.
    return httpx.request(method, url, **{"timeout": PATIENCE, "verify": False, **options})


class Process:
    """The example binary: a control plane, a runner, or both."""

    def __init__(self, log: Path, **environment: str) -> None:
        keep = {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR") if name in os.environ}
        self.log = log.open("a")
        self.process = subprocess.Popen(
            [str(BINARY)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            env={**keep, "RUST_LOG": "warn,pinfold_control=info", **environment},
            text=True,
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"it did not start: {log.read_text()[-2000:]}"
        self.info: dict[str, Any] = json.loads(line)

    def kill(self) -> None:
        """Ends it as a power cut would."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(PATIENCE)
        self.log.close()

    def stop(self) -> int:
        """Ends it as an operator would, and returns its status."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        status = self.process.wait(PATIENCE)
        self.log.close()
        return status


class Api:
    """Plain HTTP with a key."""

    def __init__(self, url: str, key: str) -> None:
        self.url = url
        self.key = key
        self.http = httpx.Client(base_url=url, headers={"Authorization": f"Bearer {key}"}, timeout=PATIENCE, verify=False)

    def __call__(self, method: str, path: str, **options: Any) -> httpx.Response:
        return self.http.request(method, path, **options)

    def get(self, path: str, **options: Any) -> httpx.Response:
        return self("GET", path, **options)

    def post(self, path: str, **options: Any) -> httpx.Response:
        return self("POST", path, **options)

    def state(self, sandbox: str) -> str | None:
        answer = self.get(f"/sandbox/{sandbox}")
        return None if answer.status_code == 404 else str(answer.json()["state"])


class SignedStore:
    """Requests to the object store with the access that was handed out, signed as AWS Signature Version 4 has it."""

    def __init__(self, access: dict[str, Any], url: str | None = None, host: str | None = None) -> None:
        self.access = access
        self.base = url or access["storageUrl"]
        self.host = host or self.base.split("://")[1]
        self.bucket = access["bucket"]

    def sign(self, method: str, path: str, headers: dict[str, str], at: float) -> dict[str, str]:
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(at))
        named = {"host": self.host, "x-amz-date": stamp, **{k.lower(): v for k, v in headers.items()}}
        if self.access["sessionToken"]:
            named["x-amz-security-token"] = self.access["sessionToken"]
        named.setdefault("x-amz-content-sha256", "UNSIGNED-PAYLOAD")
        bare, _, query = path.partition("?")
        pairs = sorted((pair + "=").split("=")[:2] for pair in query.split("&") if pair)
        canonical = [method, bare, "&".join(f"{quote(k, '')}={quote(unquote(v), '')}" for k, v in pairs)]
        canonical += [f"{name}:{named[name]}" for name in sorted(named)]
        signed = ";".join(sorted(named))
        canonical += ["", signed, named["x-amz-content-sha256"]]
        scope = f"{stamp[:8]}/us-east-1/s3/aws4_request"
        digest = hashlib.sha256("\n".join(canonical).encode()).hexdigest()
        key = ("AWS4" + self.access["secret"]).encode()
        for part in [*scope.split("/"), f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{digest}"]:
            key = hmac.new(key, part.encode(), hashlib.sha256).digest()
        credential = f"Credential={self.access['accessKey']}/{scope}"
        named["authorization"] = f"AWS4-HMAC-SHA256 {credential}, SignedHeaders={signed}, Signature={key.hex()}"
        return named

    def put_in_chunks(self, path: str, pieces: list[bytes], spoil: int | None = None) -> httpx.Response:
        """Uploads in chunks of which each is signed; the content of the chunk `spoil` is changed after that."""
        at = time.time()
        sent = {"x-amz-content-sha256": "STREAMING-AWS4-HMAC-SHA256-PAYLOAD", "content-encoding": "aws-chunked"}
        signed = self.sign("PUT", f"/{self.bucket}{path}", sent, at)
        stamp = signed["x-amz-date"]
        scope = f"{stamp[:8]}/us-east-1/s3/aws4_request"
        key = ("AWS4" + self.access["secret"]).encode()
        for part in scope.split("/"):
            key = hmac.new(key, part.encode(), hashlib.sha256).digest()
        previous = signed["authorization"].split("Signature=")[1]
        body = b""
        for number, piece in enumerate([*pieces, b""]):
            hashes = f"{hashlib.sha256(b'').hexdigest()}\n{hashlib.sha256(piece).hexdigest()}"
            text = f"AWS4-HMAC-SHA256-PAYLOAD\n{stamp}\n{scope}\n{previous}\n{hashes}"
            previous = hmac.new(key, text.encode(), hashlib.sha256).hexdigest()
            content = piece[::-1] if number == spoil else piece
            body += f"{len(piece):x};chunk-signature={previous}\r\n".encode() + content + b"\r\n"
        return fetch("PUT", f"{self.base}/{self.bucket}{path}", headers=signed, content=body)

    def __call__(self, method: str, path: str, headers: dict[str, str] | None = None, at: float | None = None, **options: Any) -> httpx.Response:
        by_host = self.host.startswith(self.bucket + ".")
        target = path if by_host else f"/{self.bucket}{path}"
        signed = self.sign(method, target, headers or {}, at or time.time())
        return fetch(method, self.base + target, headers=signed, **options)


class ManualRunner:
    """A runner whose every step is the test's."""

    def __init__(self, api: Api) -> None:
        self.api = api
        self.waiting: list[dict[str, Any]] = []
        self.removed: list[str] = []

    def healthcheck(self, **more: Any) -> None:
        body = {"appVersion": "1", "domain": "127.0.0.1", "apiUrl": "http://127.0.0.1:9", "proxyUrl": "http://127.0.0.1:9"}
        assert self.api.post("/runners/healthcheck", json={**body, **more}).status_code == 201

    def poll(self, timeout: float = 30) -> list[dict[str, Any]]:
        answer = self.api.get("/jobs/poll", params={"timeout": timeout, "limit": 10})
        assert answer.status_code == 200, answer.text
        return list(answer.json()["jobs"])

    def finish(self, job: str, status: str = "COMPLETED", **more: str) -> httpx.Response:
        return self.api.post(f"/jobs/{job}/status", json={"status": status, **more})

    def take(self, kind: str) -> dict[str, Any]:
        """The next job, which has to be this one; its payload is decoded. Images are removed on the way and noted in `removed`."""
        while True:
            self.waiting = self.waiting or self.poll()
            assert self.waiting, f"no {kind} came"
            job = self.waiting.pop(0)
            if job["type"] == kind:
                payload = job.get("payload")
                return {**job, "payload": json.loads(payload) if payload else None}
            assert job["type"] == "REMOVE_SNAPSHOT", f"{job['type']} came, not {kind}"
            self.removed.append(job["resourceId"])
            self.finish(job["id"])

    def do(self, kind: str, status: str = "COMPLETED", **more: str) -> dict[str, Any]:
        """Takes the next job and ends it."""
        job = self.take(kind)
        assert self.finish(job["id"], status, **more).status_code == 201
        return job


class Toolbox:
    """What stands behind a runner's address: takes environments, or refuses them, tells of sessions, and answers anything else."""

    def __init__(self, status: int = 200) -> None:
        self.told: list[tuple[str, Any]] = []
        self.read: list[str] = []
        self.sessions: list[dict[str, Any]] = []
        behind = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                behind.told.append((self.path, json.loads(self.rfile.read(int(self.headers["content-length"])))))
                self.answer(status, {})

            def do_GET(self) -> None:
                behind.read.append(self.path)
                self.answer(200, behind.sessions if self.path.endswith("/process/session") else {})

            def answer(self, status: int, body: object) -> None:
                text = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("content-length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}"


class Split:
    """A control plane and a runner in processes of their own, so that either can be killed."""

    def __init__(self, directory: Path, **environment: str) -> None:
        self.directory = directory
        self.environment = environment
        self.port = free_port()
        self.control: Process
        self.runner: Process | None = None
        self.start_control()

    def start_control(self) -> None:
        self.control = Process(
            self.directory / "control.log",
            SIM_RUNNER="off",
            PINFOLD_BIND=f"127.0.0.1:{self.port}",
            PINFOLD_DATA_DIR=str(self.directory / "data"),
            **self.environment,
        )
        self.manual = ManualRunner(Api(self.control.info["url"], self.control.info["runnerToken"]))
        self.connect()

    def connect(self) -> None:
        """Clients with connections of their own."""
        self.api = Api(self.control.info["url"], self.control.info["apiKey"])
        self.as_runner = self.manual.api = Api(self.control.info["url"], self.control.info["runnerToken"])

    def start_runner(self) -> None:
        self.runner = Process(
            self.directory / "runner.log",
            SIM_RUNNER="only",
            SIM_API=f"127.0.0.1:{self.port}",
            SIM_TOKEN=self.control.info["runnerToken"],
            SIM_JOURNAL=str(self.directory / "journal"),
        )

    def second_runner(self, name: str = "second") -> ManualRunner:
        """Another runner, registered and ready."""
        made = self.api.post("/runners", json={"regionId": "us", "name": name})
        assert made.status_code == 201, made.text
        runner = ManualRunner(Api(self.control.info["url"], made.json()["apiKey"]))
        runner.healthcheck()
        return runner

    def background(self, method: str, path: str, **options: Any) -> concurrent.futures.Future[httpx.Response | None]:
        """A call that may block or be cut, in the background."""

        def call() -> httpx.Response | None:
            try:
                return self.api(method, path, **options)
            except httpx.TransportError:
                return None

        return POOL.submit(call)

    def healthcheck(self) -> None:
        self.manual.healthcheck()

    def poll(self, timeout: float = 30) -> list[dict[str, Any]]:
        return self.manual.poll(timeout)

    def finish(self, job: str, status: str = "COMPLETED", **more: str) -> httpx.Response:
        return self.manual.finish(job, status, **more)

    def started(self, name: str, runner: ManualRunner | None = None, **body: Any) -> str:
        """A started sandbox's id."""
        pending = self.background("POST", "/sandbox", json={"name": name, "autoStopInterval": 0, **body})
        (runner or self.manual).do("CREATE_SANDBOX")
        answer = pending.result(PATIENCE)
        assert answer is not None and answer.status_code == 200, answer and answer.text
        return str(answer.json()["id"])

    def stopped(self, name: str, runner: ManualRunner | None = None, **body: Any) -> str:
        """A stopped sandbox's id."""
        sandbox = self.started(name, runner, **body)
        assert self.api.post(f"/sandbox/{sandbox}/stop").status_code == 200
        (runner or self.manual).do("STOP_SANDBOX")
        return sandbox

    def close(self) -> None:
        for process in (self.runner, self.control):
            if process is not None and process.process.poll() is None:
                process.stop()
