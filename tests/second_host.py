"""Another host: a network namespace of its own with an engine of its own, which can be hurt without harm to the one that others use."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from stack import BINARY, TIED
from support import busybox, eventually

NAMESPACE = "pf-second"
HERE, THERE = "10.213.0.1", "10.213.0.2"
#: As on any host, what an engine needs only while it runs is not on its disk.
RUN = Path("/run/pf-second")


def run(*command: str | Path, **keywords) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60, **keywords).stdout


def unmount(directory: Path) -> None:
    """Whatever an engine left mounted below a directory, given by its real path."""
    points = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    for point in sorted((p for p in points if p.startswith(f"{directory}/")), reverse=True):
        subprocess.run(["umount", "-l", point], check=False, capture_output=True)


class SecondHost:
    """The other host: namespace, engine, runner. Leaves nothing."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.socket = f"unix://{directory}/docker.sock"
        # Not `ip netns exec`: that mounts a new /sys, and the engine needs the cgroups below this one.
        self.inside = ["nsenter", f"--net=/run/netns/{NAMESPACE}"]
        self.processes: list[subprocess.Popen[bytes]] = []
        self.dockerd: subprocess.Popen[bytes] | None = None

    def begin(self, *command: str | Path, **environment: str) -> subprocess.Popen[bytes]:
        log = (self.directory / f"{Path(command[0]).name}.log").open("ab")
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("DAYTONA_", "PINFOLD_"))}
        process = subprocess.Popen([*self.inside, *TIED, *command], stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=inherited | environment, start_new_session=True)
        self.processes.append(process)
        return process

    def network(self) -> None:
        # What a run that was killed has left.
        self.no_network()
        run("ip", "netns", "add", NAMESPACE)
        run("ip", "link", "add", "pf-here", "type", "veth", "peer", "name", "pf-there", "netns", NAMESPACE)
        run("ip", "addr", "add", f"{HERE}/30", "dev", "pf-here")
        run("ip", "link", "set", "pf-here", "up")
        for command in (["addr", "add", f"{THERE}/30", "dev", "pf-there"], ["link", "set", "pf-there", "up"], ["link", "set", "lo", "up"]):
            run(*self.inside, "ip", *command)

    def engine(self) -> None:
        """Starts the engine, for the first time or again."""
        RUN.mkdir(exist_ok=True)
        places = ["--data-root", self.directory / "docker", "--exec-root", RUN, "--pidfile", RUN / "docker.pid"]
        dockerd = self.dockerd = self.begin("dockerd", "-H", self.socket, *places)

        def answers() -> bool:
            assert dockerd.poll() is None, (self.directory / "dockerd.log").read_text()[-2000:]
            return subprocess.run(["docker", "-H", self.socket, "version"], check=False, capture_output=True).returncode == 0

        eventually(answers, "the second engine to answer", 60)

    def image(self) -> None:
        with subprocess.Popen(["docker", "save", busybox()], stdout=subprocess.PIPE) as saved:
            run("docker", "-H", self.socket, "load", stdin=saved.stdout)

    def end_engine(self) -> None:
        """As `systemctl stop docker` does: without live restore its containers end too."""
        assert self.dockerd is not None
        self.dockerd.terminate()
        self.dockerd.wait(40)

    def runner(self, port: int, token: str, **environment: str) -> subprocess.Popen[bytes]:
        return self.begin(
            BINARY,
            "run",
            DAYTONA_API_URL=f"http://{HERE}:{port}/api",
            DAYTONA_RUNNER_TOKEN=token,
            DOCKER_HOST=self.socket,
            API_PORT="8080",
            RUNNER_DOMAIN=THERE,
            PINFOLD_DATA_DIR=str(self.directory / "node"),
            **environment,
        )

    def containers(self) -> set[str]:
        return set(run("docker", "-H", self.socket, "ps", "-a", "--format", "{{.Names}}").split())

    def end(self) -> None:
        left = subprocess.run(["docker", "-H", self.socket, "ps", "-aq"], check=False, capture_output=True, text=True).stdout.split()
        if left:
            subprocess.run(["docker", "-H", self.socket, "rm", "-f", *left], check=False, capture_output=True)
        for process in reversed(self.processes):
            if process.poll() is None:
                process.terminate()
                try:
                    process.wait(30)
                except subprocess.TimeoutExpired:
                    process.kill()
        unmount(self.directory)
        unmount(RUN)
        shutil.rmtree(RUN, ignore_errors=True)
        self.no_network()

    @staticmethod
    def no_network() -> None:
        subprocess.run(["ip", "link", "del", "pf-here"], check=False, capture_output=True)
        subprocess.run(["ip", "netns", "del", NAMESPACE], check=False, capture_output=True)


@contextlib.contextmanager
def second_host(directory: Path) -> Iterator[SecondHost]:
    """A host in an empty directory, whose path has to be short for the sake of sockets; removed with everything on it."""
    host = SecondHost(directory)
    try:
        host.network()
        host.engine()
        host.image()
        yield host
    finally:
        host.end()
