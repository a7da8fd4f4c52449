#!/usr/bin/env python3
"""Brings `pinfold up` up and down.

    tools/stack.py up       start it in the background, wait until it is ready, write .pinfold/env
    tools/stack.py down     end it and remove what it made: sandboxes, network tables, mounts
    tools/stack.py status   exit 0 if it is up

The end-to-end tests and the benchmarks use the class `Stack` for instances of their own. Standard library only, because it runs
before any Python environment exists.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import random
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent
STATE = Path(os.environ.get("PINFOLD_STATE", REPO / ".pinfold"))
BINARY = Path(os.environ.get("PINFOLD_BINARY", Path(os.environ.get("CARGO_TARGET_DIR", REPO / "target")) / "release" / "pinfold"))

NOT_READY = 8

# A command behind this is asked to end when the thread that started it is gone, however that came about.
TIED = ("setpriv", "--pdeathsig", "TERM", "--")

# Variables of these scripts, and where `make up` keeps its state; the rest of the caller's PINFOLD_* is for the instance.
OURS = {"PINFOLD_STATE", "PINFOLD_BINARY", "PINFOLD_DATA_DIR"}


class StackError(Exception):
    """Why an instance is not up, in one sentence, with the exit status of its class."""

    def __init__(self, message: str, status: int = NOT_READY):
        super().__init__(message)
        self.status = status


# What was given to somebody here, who may not listen yet, or not at the moment.
GIVEN: set[int] = set()


def free_port() -> int:
    """A TCP port that nobody uses, below those that the kernel gives to connections: a server finds it free at its next start as well."""
    first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    while True:
        port = random.randrange(first - 12_000, first)
        if port in GIVEN:
            continue
        with socket.socket() as sock, contextlib.suppress(OSError):
            sock.bind(("", port))
            GIVEN.add(port)
            return port


def default_image() -> str:
    """The tag of the sandbox image in its present state."""
    return subprocess.run([REPO / "images" / "build", "--tag"], check=True, capture_output=True, text=True).stdout.strip()


def process_birth(pid: int) -> str | None:
    """When a process was born, in clock ticks: a pid alone may have been given to another since."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[19]
    except (OSError, IndexError):
        return None


@contextlib.contextmanager
def interrupts_held_back() -> Iterator[None]:
    """A Ctrl-C during the block comes at its end: what was begun is known by then, and can be ended. Only the main thread hears of any."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came = False

    def remember(*_: object) -> None:
        nonlocal came
        came = True

    # A handler, and not a mask, which a process that is started in the block would inherit.
    handler = signal.signal(signal.SIGINT, remember)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        if came:
            signal.raise_signal(signal.SIGINT)


class Stack:
    """One instance of `pinfold up` with a data directory, a key and ports of its own."""

    def __init__(
        self,
        directory: Path,
        *,
        port: int | None = None,
        ssh_port: int | None = None,
        image: str | None = None,
        environment: Mapping[str, str] | None = None,
        pid_file: Path | None = None,
    ):
        self.directory = directory
        self.log = directory / "logs" / "pinfold.log"
        #: What it prints for people; the API key is among it.
        self.shown = directory / "logs" / "pinfold.out"
        self.port = port or free_port()
        self.ssh_port = ssh_port or free_port()
        self.image = image or default_image()
        self.extra = dict(environment or {})
        #: Where its pid and birth are kept, if it outlives the process that started it, as `make up` wants it.
        self.pid_file = pid_file
        self.key_file = directory / "key"
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def data(self) -> Path:
        """The data directory."""
        return Path(self.extra.get("PINFOLD_DATA_DIR", self.directory / "data"))

    @property
    def api_url(self) -> str:
        """The base that SDKs are given."""
        return f"http://127.0.0.1:{self.port}/api"

    @property
    def key(self) -> str:
        """The user's API key; made once for a data directory."""
        if not self.key_file.exists():
            self.directory.mkdir(parents=True, exist_ok=True)
            self.key_file.touch(mode=0o600)
            self.key_file.write_text(f"dtn_{secrets.token_hex(32)}\n")
        return self.key_file.read_text().strip()

    def environment(self) -> dict[str, str]:
        """The environment `pinfold up` is started with. Nothing of the caller's Daytona settings leaks in."""
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("DAYTONA_", "PINFOLD_"))}
        return (
            inherited
            | {
                "PINFOLD_DATA_DIR": str(self.data),
                "PINFOLD_API_KEY": self.key,
                "PINFOLD_BIND": f"127.0.0.1:{self.port}",
                "PINFOLD_SSH_PORT": str(self.ssh_port),
                "PINFOLD_SNAPSHOT_IMAGE": self.image,
            }
            | self.extra
        )

    def client_environment(self) -> dict[str, str]:
        """What a client's environment needs to reach this instance."""
        return {
            "DAYTONA_API_URL": self.api_url,
            "DAYTONA_API_KEY": self.key,
            "PINFOLD_API_PORT": str(self.port),
            "PINFOLD_SSH_PORT": str(self.ssh_port),
            "PINFOLD_PID": str(self.process.pid) if self.process else "",
        }

    def spawn(self) -> subprocess.Popen[bytes]:
        """Starts the process and does not wait for it."""
        if not BINARY.exists():
            raise StackError(f"{BINARY} is not built; run make build", 6)
        self.data.mkdir(parents=True, exist_ok=True)
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self.shown.unlink(missing_ok=True)
        self.shown.touch(mode=0o600)
        with self.log.open("ab") as log, self.shown.open("ab") as shown:
            # A session of its own: a Ctrl-C at the terminal is for whoever started us, who then ends it in order.
            command = [*(() if self.pid_file else TIED), BINARY, "up"]
            environment = self.environment()
            with interrupts_held_back():
                self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=shown, stderr=log, env=environment, start_new_session=True)
                if self.pid_file:
                    self.pid_file.write_text(f"{self.process.pid} {process_birth(self.process.pid)}\n")
        return self.process

    def start(self, timeout: float = 60) -> None:
        """Starts the process and waits until it answers.

        Raises StackError with the process's own last words, and its exit status, if it ends or is not ready in time.
        """
        offset = self.log.stat().st_size if self.log.exists() else 0
        deadline = time.monotonic() + timeout
        try:
            process = self.spawn()
            # It says that it is up when its runner has registered; the API answers before that.
            while not (self.shown.read_bytes() and self.ready()):
                if (status := process.poll()) is not None:
                    raise StackError(self.last_words(offset) or f"pinfold ended with status {status} and said nothing", status or NOT_READY)
                if time.monotonic() > deadline:
                    raise StackError(f"pinfold was not ready within {timeout:.0f} s; see {self.log}")
                time.sleep(0.02)
        except BaseException:
            self.stop()
            raise

    def ready(self) -> bool:
        """The API answers."""
        try:
            # Where nobody listens that is told at once; a busy machine is given its time.
            with urllib.request.urlopen(f"{self.api_url}/health", timeout=15) as answer:
                return answer.status == 200
        except (OSError, http.client.HTTPException):
            return False

    def last_words(self, offset: int = 0) -> str:
        """The last line the process wrote since `offset`."""
        with contextlib.suppress(OSError):
            lines = self.log.read_bytes()[offset:].decode(errors="replace").strip().splitlines()
            return lines[-1] if lines else ""
        return ""

    def stop(self, timeout: float = 60) -> int | None:
        """Ends the process in order, and by force after `timeout`. Returns its exit status."""
        if self.process is None:
            return None
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(timeout)
            except subprocess.TimeoutExpired:
                self.kill()
        return self.process.returncode

    def kill(self) -> None:
        """kill -9, as an accident would."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(10)

    def api(self, method: str, path: str, body: object | None = None, key: str | None = None, timeout: float = 60) -> tuple[int, bytes]:
        """One call of the REST API: status and body, errors included."""
        request = urllib.request.Request(self.api_url + path, method=method)
        request.add_header("Authorization", f"Bearer {key if key is not None else self.key}")
        if body is not None:
            request.data = json.dumps(body).encode()
            request.add_header("Content-Type", "application/json")
        try:
            with urllib.request.urlopen(request, timeout=timeout) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    def containers(self) -> list[str]:
        """Ids of the engine's containers that carry this instance's daemon, running or not."""
        ids = subprocess.run(["docker", "ps", "-aq", "--no-trunc"], check=True, capture_output=True, text=True).stdout.split()
        if not ids:
            return []
        # A container may vanish between the two calls: inspect then fails for that one, and still prints the others.
        listed = subprocess.run(["docker", "inspect", *ids], check=False, capture_output=True, text=True).stdout
        mine = f"{self.data.resolve()}/"
        return [c["Id"] for c in json.loads(listed or "[]") if any(bind.startswith(mine) for bind in c["HostConfig"].get("Binds") or [])]

    def mounts(self) -> list[str]:
        """Mount points below the data directory, deepest first."""
        root = f"{self.data.resolve()}/"
        points = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
        return sorted((p for p in points if p.startswith(root)), key=len, reverse=True)

    def remove_sandboxes(self) -> None:
        """Deletes every sandbox through the API, then whatever container is left."""
        if self.ready():
            status, body = self.api("GET", "/sandbox/paginated?page=1&limit=100")
            if status == 200:
                for item in json.loads(body).get("items", []):
                    self.api("DELETE", f"/sandbox/{item['id']}")
                self.wait_until_empty()

    def wait_until_empty(self, timeout: float = 60) -> list[str]:
        """Waits until no container is left; returns those that are after all."""
        deadline = time.monotonic() + timeout
        while (left := self.containers()) and time.monotonic() < deadline:
            time.sleep(0.1)
        return left

    def sweep(self) -> list[str]:
        """Removes what is left of a stopped instance. Returns what it had to remove, which in order is nothing."""
        swept = []
        for container in self.containers():
            subprocess.run(["docker", "rm", "-f", "-v", container], check=False, capture_output=True)
            swept.append(f"container {container[:12]}")
        for point in self.mounts():
            subprocess.run(["umount", "-l", point], check=False, capture_output=True)
            swept.append(f"mount {point}")
        return swept


def tables() -> list[str]:
    """Network tables of ours on this host. They are one set for all instances of a host."""
    listed = subprocess.run(["nft", "list", "tables"], check=False, capture_output=True, text=True).stdout
    return [line.removeprefix("table ") for line in listed.splitlines() if line.split()[-1:] and line.split()[-1].startswith("pinfold")]


class Background:
    """The instance of `make up`: one for a state directory, found again by its pid file."""

    def __init__(self) -> None:
        self.pid_file = STATE / "pinfold.pid"
        self.env_file = STATE / "env"

    def pid(self) -> int | None:
        """The pid of the running instance, if that very process still lives."""
        try:
            pid, birth = self.pid_file.read_text().split()
        except (OSError, ValueError):
            return None
        return int(pid) if process_birth(int(pid)) == birth else None

    def stack(self) -> Stack:
        """The instance, running or not."""
        return Stack(
            STATE,
            port=int(os.environ.get("PINFOLD_BIND", ":3000").rpartition(":")[2]),
            ssh_port=int(os.environ.get("PINFOLD_SSH_PORT", "2222")),
            environment={k: v for k, v in os.environ.items() if k.startswith("PINFOLD_") and k not in OURS},
            pid_file=self.pid_file,
        )

    def up(self) -> None:
        stack = self.stack()
        if self.pid() is not None:
            if stack.ready():
                return
            raise StackError(f"pinfold runs as pid {self.pid()} but does not answer; see {stack.log}, or make down")
        stack.start()
        self.env_file.touch(mode=0o600)
        self.env_file.write_text("".join(f"{k}={v}\n" for k, v in stack.client_environment().items()))

    def down(self) -> list[str]:
        stack = self.stack()
        pid = self.pid()
        if pid is not None:
            stack.remove_sandboxes()
            os.kill(pid, signal.SIGTERM)
            deadline = time.monotonic() + 60
            while process_birth(pid) is not None and Path(f"/proc/{pid}/exe").exists():
                if time.monotonic() > deadline:
                    os.kill(pid, signal.SIGKILL)
                    break
                time.sleep(0.05)
        swept = stack.sweep()
        for table in tables():
            subprocess.run(["nft", "delete", "table", *table.split()], check=False)
        self.pid_file.unlink(missing_ok=True)
        self.env_file.unlink(missing_ok=True)
        return swept


def main() -> int:
    command = sys.argv[1] if len(sys.argv) == 2 else ""
    background = Background()
    try:
        match command:
            case "up":
                background.up()
                stack = background.stack()
                print(f"pinfold is up: {stack.api_url}, SSH on port {stack.ssh_port}; settings in {background.env_file}", file=sys.stderr)
            case "down":
                for what in background.down():
                    print(f"removed {what}", file=sys.stderr)
            case "status":
                return 0 if background.pid() is not None and background.stack().ready() else NOT_READY
            case _:
                print((__doc__ or "").strip(), file=sys.stderr)
                return 2
    except StackError as error:
        print(f"pinfold: {error}", file=sys.stderr)
        return error.status
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
