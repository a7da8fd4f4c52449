"""A real `pinfold run` between a simulated control plane and a watched engine, and what it may have left behind."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

from plane import Plane
from second_host import HERE, THERE, SecondHost
from stack import BINARY, STATE, TIED, Stack, free_port
from support import busybox, docker, eventually
from watched_engine import WatchedEngine

TOKEN = "runner-token"


class Registry:
    """Debian's `docker-registry`, for what is pushed and pulled."""

    def __init__(self, directory: Path) -> None:
        self.host = f"127.0.0.1:{free_port()}"
        settings = directory / "registry.yml"
        # JSON is YAML.
        settings.write_text(json.dumps({"version": 0.1, "storage": {"filesystem": {"rootdirectory": str(directory / "registry")}}, "http": {"addr": self.host}}))
        self.process = subprocess.Popen([*TIED, "docker-registry", "serve", settings], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        eventually(self.answers, "the registry to answer")

    def answers(self) -> bool:
        with contextlib.suppress(OSError):
            connection = http.client.HTTPConnection(self.host, timeout=5)
            connection.request("GET", "/v2/")
            return connection.getresponse().status == 200
        return False

    def account(self) -> dict:
        return {"url": self.host, "project": "p", "username": "", "password": ""}

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(10)


@contextlib.contextmanager
def in_place_of(stack: Stack, **environment: str) -> Iterator[Node]:
    """A runner, not started yet, in the place of the instance under test: there is one on a host."""
    stack.stop()
    node = Node(**environment)
    try:
        yield node
    finally:
        node.close()
        stack.start()


class Node:
    """The runner. It outlives any number of kills, and its directory and sandboxes with it."""

    def __init__(self, host: SecondHost | None = None, **environment: str) -> None:
        (STATE / "tmp").mkdir(parents=True, exist_ok=True)
        # Sockets have short names.
        self.directory = Path(tempfile.mkdtemp(prefix="node-", dir=host.directory if host else STATE / "tmp")).resolve()
        self.host = host
        self.address = THERE if host else "127.0.0.1"
        self.data = self.directory / "data"
        self.log = self.directory / "pinfold.log"
        self.plane = Plane(HERE if host else "127.0.0.1")
        self.engine = WatchedEngine(self.directory / "docker.sock", *([host.socket.removeprefix("unix://")] if host else []))
        self.image = busybox()
        self.port = free_port()
        self.extra = environment
        self.process: subprocess.Popen[bytes] | None = None
        self.dead = threading.Event()
        #: Every sandbox that was asked for.
        self.made: set[str] = set()

    def environment(self) -> dict[str, str]:
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("DAYTONA_", "PINFOLD_"))}
        ours = {
            "DAYTONA_API_URL": self.plane.url,
            "DAYTONA_RUNNER_TOKEN": TOKEN,
            "DOCKER_HOST": f"unix://{self.engine.path}",
            "API_PORT": str(self.port),
            "PINFOLD_LISTEN": self.address,
            "RUNNER_DOMAIN": self.address,
            "PINFOLD_DATA_DIR": str(self.data),
            "POLL_TIMEOUT": "2s",
            # BuildKit speaks over a connection of its own, on which no single step can be seen.
            "BUILD_ENGINE": "legacy",
        }
        return inherited | ours | self.extra

    def inside(self) -> list[str]:
        """What a command begins with that runs on the runner's host."""
        return self.host.inside if self.host else []

    def docker(self, *arguments: str, check: bool = True) -> str:
        return docker(*(["-H", self.host.socket] if self.host else []), *arguments, check=check)

    def nft(self, *arguments: str) -> str:
        return subprocess.run([*self.inside(), "nft", *arguments], check=False, capture_output=True, text=True).stdout

    def spawn(self) -> subprocess.Popen[bytes]:
        """Starts it and does not wait for it."""
        self.dead.clear()
        with self.log.open("ab") as log:
            command = [*self.inside(), *TIED, BINARY, "run"]
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self.environment(), start_new_session=True)
        return self.process

    def start(self) -> None:
        """Starts it and waits until it has repaired what it found, and serves."""
        self.spawn()
        eventually(self.answers, "the runner to answer")

    def answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log.read_text()[-2000:]
        with contextlib.suppress(OSError):
            return self.ask("GET", "/", timeout=10)[0] == 200
        return False

    def kill(self) -> None:
        """kill -9; harmless when it is dead already."""
        assert self.process is not None
        self.process.kill()
        self.dead.set()

    def buried(self) -> None:
        """Waits for the end of a kill."""
        assert self.process is not None
        assert self.process.wait(10) == -signal.SIGKILL

    def stop(self) -> int:
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(60)

    def ask(self, method: str, path: str, body: object = None, timeout: float = 60) -> tuple[int, str]:
        """A request as the pushing generation's control plane, or the edge proxy, makes it."""
        connection = http.client.HTTPConnection(self.address, self.port, timeout=timeout)
        headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
        connection.request(method, path, None if body is None else json.dumps(body), headers)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()

    def run(self, sandbox: str, command: str) -> str:
        """Runs a command in a sandbox through its daemon."""
        status, text = self.ask("POST", f"/sandboxes/{sandbox}/toolbox/process/execute", {"command": f"sh -c '{command}'"})
        assert status == 200, text
        return json.loads(text)["result"]

    def create_payload(self, sandbox: str, **more: object) -> dict:
        """What a control plane sends, nulls included."""
        self.made.add(sandbox)
        return {
            "id": sandbox, "name": "box", "userId": "o", "organizationId": "o", "regionId": "us", "snapshot": self.image, "osUser": "root",
            "cpuQuota": 1, "memoryQuota": 1, "storageQuota": 3, "gpuQuota": 0, "env": {}, "volumes": [], "entrypoint": ["sleep", "infinity"],
            "networkBlockAll": False, "networkAllowList": None, "domainAllowList": None, "metadata": None, "authToken": "t", "registry": None,
        } | more  # fmt: skip

    def job(self, kind: str, resource: str, payload: dict | None = None) -> dict:
        """Has a job done that must succeed."""
        ended = self.plane.result(self.plane.push(kind, resource, payload))
        assert ended["status"] == "COMPLETED", ended
        return ended

    def sandbox(self, **more: object) -> str:
        """A sandbox that runs."""
        sandbox = str(uuid.uuid4())
        self.job("CREATE_SANDBOX", sandbox, self.create_payload(sandbox, **more))
        return sandbox

    def containers(self) -> dict[str, str]:
        """Our containers on the engine, by name, with their state."""
        listed = [line.split() for line in self.docker("ps", "-a", "--format", "{{.Names}} {{.State}}").splitlines()]
        return {name: state for name, state in listed if name[:36] in self.made}

    def judged(self) -> set[str]:
        """The addresses that have rules in the kernel."""
        return {word for word in self.nft("list", "map", "inet", "pinfold", "sandboxes").split() if word.count(".") == 3}

    def rules(self, sandbox: str) -> str:
        """The rules that judge one sandbox's packets, without their counts."""
        return self.nft("-s", "list", "chain", "inet", "pinfold", f"sb_{sandbox.replace('-', '')}")

    def left(self) -> list[str]:
        """Whatever there is of sandboxes in the engine, the kernel and the data directory."""
        chains = [line.strip() for line in self.nft("list", "ruleset").splitlines() if "chain sb_" in line or "set sb_" in line]
        networks = [n for n in self.docker("network", "ls", "--format", "{{.Name}}").split() if n.startswith("daytona-link-")]
        mounts = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines() if f"{self.data}/" in line]
        files = [str(f.relative_to(self.data)) for folder in ("sandboxes", "outbox") for f in (self.data / folder).glob("*")]
        images = [i for i in self.docker("images", "--format", "{{.Repository}}:{{.Tag}}").split() if i.startswith("daytona-from-sandbox-")]
        return [*self.containers(), *self.judged(), *chains, *networks, *mounts, *files, *images]

    def nothing_left(self) -> None:
        """A result's file goes a moment after its acknowledgement, everything else before it."""
        with contextlib.suppress(AssertionError):
            eventually(lambda: not self.left(), "nothing to be left", 30)
        left = self.left()
        assert not left, f"left: {left}"

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.kill()
            self.process.wait(10)
        for name in self.containers():
            self.docker("rm", "-f", "-v", name, check=False)
        self.plane.close()
        self.engine.close()
        shutil.rmtree(self.directory, ignore_errors=True)
