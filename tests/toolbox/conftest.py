"""The real daemon in containers of the real engine, without a runner or a control plane: what it promises, it promises alone.

`PINFOLD_DAEMON_BINARY` names the static binary. Containers are named `pf-toolbox-*` and removed when their tests are over.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import httpx
import pytest

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "tests"), str(Path(__file__).parent)]

from support import docker, eventually, inspect  # noqa: E402

# What the newest SDK says of itself; answers have their newest shapes then.
SDK_VERSION = "0.226.1"
SANDBOX, BUSYBOX = "pinfold/sandbox:latest", "pinfold/busybox:latest"
BINARY = "/usr/local/bin/daytona"
_numbers = itertools.count()


class Daemon:
    """A daemon that is PID 1 of a container, and a client of it."""

    def __init__(self, container: str):
        self.container = container
        self.address = inspect(container)["NetworkSettings"]["IPAddress"]
        self.url = f"http://{self.address}:2280"
        self.http = httpx.Client(base_url=self.url, headers={"X-Daytona-SDK-Version": SDK_VERSION}, timeout=60)

    def wait_until_ready(self) -> Daemon:
        def answers() -> bool:
            assert inspect(self.container)["State"]["Running"], f"the daemon has ended:\n{self.log()}"
            with contextlib.suppress(httpx.TransportError):
                return self.http.get("/version", timeout=2).status_code == 200
            return False

        eventually(answers, "the daemon to answer /version", 60)
        return self

    def log(self) -> str:
        """Standard output and standard error of the container."""
        answer = subprocess.run(["docker", "logs", self.container], capture_output=True, text=True, errors="replace", timeout=60, check=False)
        return answer.stdout + answer.stderr

    def says(self, words: str) -> str:
        """The log, once these words are in it: the engine writes it down in its own time."""
        return eventually(lambda: words in (log := self.log()) and log, f"the log to say {words!r}")

    def get(self, path: str, **keywords: object) -> httpx.Response:
        return self.http.get(path, **keywords)

    def post(self, path: str, body: object = None, **keywords: object) -> httpx.Response:
        return self.http.post(path, json=body, **keywords) if body is not None else self.http.post(path, **keywords)

    def delete(self, path: str, **keywords: object) -> httpx.Response:
        return self.http.delete(path, **keywords)

    def execute(self, command: str, **members: object) -> dict:
        """The answer of one command; anything but 200 is a failure. Waited for a minute longer than the command may take."""
        answer = self.post("/process/execute", {"command": command} | members, timeout=members.get("timeout", 0) + 60)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def session(self, name: str) -> Session:
        answer = self.post("/process/session", {"sessionId": name})
        assert answer.status_code == 201, answer.text
        return Session(self, name)

    def processes(self) -> list[dict]:
        return self.get("/process/tree").json()

    def running(self, name: str) -> list[dict]:
        """The processes with that name, the dead that nobody waited for included."""
        return [process for process in self.processes() if process["name"] == name]


class Session:
    """A session of a daemon."""

    def __init__(self, daemon: Daemon, name: str):
        self.daemon, self.name, self.path = daemon, name, f"/process/session/{name}"

    def run(self, command: str, **keywords: object) -> dict:
        """The answer of a synchronous command; anything but 200 is a failure."""
        answer = self.daemon.post(f"{self.path}/exec", {"command": command}, **keywords)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def start(self, command: str, **members: object) -> str:
        """Starts a command and gives its id."""
        answer = self.daemon.post(f"{self.path}/exec", {"command": command, "runAsync": True} | members)
        assert answer.status_code == 202, answer.text
        return answer.json()["cmdId"]

    def exit_code(self, command: str) -> int | None:
        return self.daemon.get(f"{self.path}/command/{command}").json().get("exitCode")

    def ended(self, command: str, timeout: float = 60) -> int:
        eventually(lambda: self.exit_code(command) is not None, f"command {command} to end", timeout)
        return self.exit_code(command)

    def logs(self, command: str, **keywords: object) -> dict:
        return self.daemon.get(f"{self.path}/command/{command}/logs", **keywords).json()

    def delete(self) -> None:
        answer = self.daemon.delete(self.path)
        assert answer.status_code == 204, answer.text


@pytest.fixture(scope="session")
def binary() -> Path:
    given = os.environ.get("PINFOLD_DAEMON_BINARY")
    assert given, "PINFOLD_DAEMON_BINARY has to name the static daemon"
    return Path(given).resolve(strict=True)


def run(binary: Path, image: str, *options: str, environment: Mapping[str, str] | None = None, command: tuple[str, ...] = ()) -> str:
    """Starts a container with the daemon as PID 1 and gives its name."""
    name = f"pf-toolbox-{os.getpid()}-{next(_numbers)}"
    variables = {"DAYTONA_SANDBOX_ID": "toolbox"} | dict(environment or {})
    words = [word for key, value in variables.items() for word in ("-e", f"{key}={value}")]
    docker("run", "-d", "--name", name, "-v", f"{binary}:{BINARY}:ro", "--entrypoint", BINARY, *words, *options, image, *command)
    return name


@contextlib.contextmanager
def _removing(binary: Path) -> Iterator[Callable[..., Daemon]]:
    names: list[str] = []

    def make(image: str = SANDBOX, *options: str, environment: Mapping[str, str] | None = None, command: tuple[str, ...] = ()) -> Daemon:
        names.append(run(binary, image, *options, environment=environment, command=command))
        return Daemon(names[-1]).wait_until_ready()

    try:
        yield make
    finally:
        for name in names:
            docker("rm", "-f", name, check=False)


@pytest.fixture
def make_daemon(binary: Path) -> Iterator[Callable[..., Daemon]]:
    """Starts daemons: image, options of `docker run`, environment, and the command that becomes the entrypoint's session."""
    with _removing(binary) as make:
        yield make


@pytest.fixture(scope="module")
def make_shared(binary: Path) -> Iterator[Callable[..., Daemon]]:
    """The same for what a module's tests share."""
    with _removing(binary) as make:
        yield make


@pytest.fixture(scope="session")
def daemon(binary: Path) -> Iterator[Daemon]:
    """One daemon in the sandbox image, for tests that leave it as they found it; its entrypoint says something and stays."""
    with _removing(binary) as make:
        yield make(command=("sh", "-c", "echo begun; echo bad >&2; exec sleep infinity"))


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """A name that no other test has used."""
    return f"{request.node.name.translate(str.maketrans('[]/ ', '----'))[:60]}-{time.monotonic_ns()}"
