"""Processes and clients for tests of the control plane alone: the example binary with a runner that has no engine.

Nothing here needs Docker or root. Build first: `cargo build -p pinfold-control --example with_simulated_runner`.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

ROOT = Path(__file__).parent.parent.parent
BINARY = Path(os.environ.get("PINFOLD_CONTROL_EXAMPLE", ROOT / "target/debug/examples/with_simulated_runner"))


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def wait_for(what: str, condition: Callable[[], Any], seconds: float = 10.0) -> Any:
    """Waits for a condition, and says what was awaited when it does not come."""
    deadline = time.monotonic() + seconds
    while True:
        if value := condition():
            return value
        assert time.monotonic() < deadline, f"waited {seconds} s for {what}"
        time.sleep(0.02)


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
        self.process.wait(10)
        self.log.close()

    def stop(self) -> int:
        """Ends it as an operator would, and returns its status."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        status = self.process.wait(20)
        self.log.close()
        return status


class Api:
    """Plain HTTP with a key."""

    def __init__(self, url: str, key: str) -> None:
        self.url = url
        self.key = key
        self.http = httpx.Client(base_url=url, headers={"Authorization": f"Bearer {key}"}, timeout=60)

    def __call__(self, method: str, path: str, **options: Any) -> httpx.Response:
        return self.http.request(method, path, **options)

    def get(self, path: str, **options: Any) -> httpx.Response:
        return self("GET", path, **options)

    def post(self, path: str, **options: Any) -> httpx.Response:
        return self("POST", path, **options)

    def state(self, sandbox: str) -> str | None:
        answer = self.get(f"/sandbox/{sandbox}")
        return None if answer.status_code == 404 else str(answer.json()["state"])


class Split:
    """A control plane and a runner in processes of their own, so that either can be killed."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
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
        )
        self.api = Api(self.control.info["url"], self.control.info["apiKey"])
        self.as_runner = Api(self.control.info["url"], self.control.info["runnerToken"])

    def start_runner(self) -> None:
        self.runner = Process(
            self.directory / "runner.log",
            SIM_RUNNER="only",
            SIM_API=f"127.0.0.1:{self.port}",
            SIM_TOKEN=self.control.info["runnerToken"],
        )

    def healthcheck(self) -> None:
        body = {"appVersion": "1", "domain": "127.0.0.1", "apiUrl": "http://127.0.0.1:9", "proxyUrl": "http://127.0.0.1:9"}
        assert self.as_runner.post("/runners/healthcheck", json=body).status_code == 201

    def poll(self, timeout: float = 5) -> list[dict[str, Any]]:
        answer = self.as_runner.get("/jobs/poll", params={"timeout": timeout, "limit": 10})
        assert answer.status_code == 200, answer.text
        return list(answer.json()["jobs"])

    def finish(self, job: str, status: str = "COMPLETED", **more: str) -> httpx.Response:
        return self.as_runner.post(f"/jobs/{job}/status", json={"status": status, **more})

    def close(self) -> None:
        for process in (self.runner, self.control):
            if process is not None and process.process.poll() is None:
                process.stop()
