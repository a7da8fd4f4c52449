"""Ctrl-C during anything cleans up, and who may not start it is told so in one sentence."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from stack import BINARY, STATE, Stack, free_port, process_birth, tables
from support import REPO, docker, eventually

pytestmark = pytest.mark.faults

NOBODY = 65534


@pytest.fixture
def strangers_directory() -> Iterator[Path]:
    """A directory that belongs to a user without any rights, below one that everybody may enter."""
    directory = Path(tempfile.mkdtemp(prefix="pf-nobody-", dir="/tmp"))
    os.chown(directory, NOBODY, NOBODY)
    yield directory
    shutil.rmtree(directory)


def as_nobody(command: list[str | Path], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    # Whoever runs the tests may keep the repository where a stranger cannot look.
    drop = ["setpriv", "--reuid", str(NOBODY), "--regid", str(NOBODY), "--clear-groups"]
    return subprocess.run([*drop, *command], env=environment, capture_output=True, text=True, timeout=60, check=False)


def test_no_engine_and_no_root(strangers_directory):
    binary = strangers_directory / "pinfold"
    shutil.copy(BINARY, binary)
    instance = Stack(strangers_directory, image="none", environment={"DOCKER_HOST": f"unix://{strangers_directory}/none.sock"})
    environment = instance.environment() | {"PINFOLD_API_KEY": "dtn_x"}
    answer = as_nobody([binary, "up"], environment)
    assert answer.returncode == 4, answer.stderr
    said = answer.stderr.strip().splitlines()[-1]
    assert "root" in said
    assert "panicked" not in answer.stderr


def test_the_scripts_without_an_engine_and_without_root(strangers_directory):
    shutil.copytree(REPO / "tools", strangers_directory / "tools", ignore=shutil.ignore_patterns("__pycache__"))
    # A stranger's path has a docker client, no engine, and no sudo that asks nothing.
    programs = strangers_directory / "bin"
    programs.mkdir()
    (programs / "docker").write_text("#!/bin/sh\nexit 1\n")
    (programs / "docker").chmod(0o755)
    (programs / "sudo").write_text("#!/bin/sh\nexit 1\n")
    (programs / "sudo").chmod(0o755)
    environment = {"PATH": f"{programs}:/usr/bin:/bin", "PINFOLD_STATE": str(strangers_directory / "state"), "HOME": str(strangers_directory)}
    answer = as_nobody([strangers_directory / "tools" / "engine", "up"], environment)
    assert answer.returncode == 4, answer.stderr
    assert len(answer.stderr.strip().splitlines()) == 1
    assert "root" in answer.stderr or "group docker" in answer.stderr


def test_ctrl_c_during_sandbox_create(stack, daytona, make_sandbox):
    """The request is held up until the interrupt has come, so that it falls into the middle of the create."""
    before = set(stack.containers())
    name = f"interrupted-{uuid.uuid4()}"
    with Slow(stack.port) as slow:
        environment = os.environ | stack.client_environment() | {"DAYTONA_API_URL": f"http://127.0.0.1:{slow.port}/api"}
        creating = subprocess.Popen([BINARY, "sandbox", "create", "--name", name], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert slow.arrived.wait(60), "the create did not come"
        creating.send_signal(signal.SIGINT)
        out, err = creating.communicate(timeout=60)
    assert creating.returncode == 130, err
    assert out == ""
    assert name in err
    assert len(err.strip().splitlines()) == 1
    eventually(lambda: name not in [s.name for s in daytona.list()], "the sandbox to be gone")
    eventually(lambda: set(stack.containers()) <= before, "its container to be gone")
    # One that was there before is nobody's to delete.
    mine = make_sandbox(name=f"mine-{uuid.uuid4()}")
    twice = subprocess.run([BINARY, "sandbox", "create", "--name", mine.name], env=os.environ | stack.client_environment(), capture_output=True, text=True, check=False)
    assert twice.returncode == 11
    assert daytona.get(mine.id).state.value == "started"


class Slow:
    """A way to the API on which answers to a create wait until the client has gone on."""

    def __init__(self, port: int) -> None:
        self.target = port
        self.arrived = threading.Event()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]

    def __enter__(self) -> Slow:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self.listener.accept()
                server = socket.create_connection(("127.0.0.1", self.target))
                held = threading.Event()
                threading.Thread(target=self._requests, args=(client, server, held), daemon=True).start()
                threading.Thread(target=self._answers, args=(server, client, held), daemon=True).start()

    def _requests(self, client: socket.socket, server: socket.socket, held: threading.Event) -> None:
        with contextlib.suppress(OSError):
            while data := client.recv(65536):
                create = data.startswith(b"POST /api/sandbox ")
                if create:
                    # Before the server has it: its answer may be quicker than this thread.
                    held.set()
                server.sendall(data)
                if create:
                    self.arrived.set()
        with contextlib.suppress(OSError):
            server.shutdown(socket.SHUT_WR)

    def _answers(self, server: socket.socket, client: socket.socket, held: threading.Event) -> None:
        with contextlib.suppress(OSError):
            while data := server.recv(65536):
                if not held.is_set():
                    client.sendall(data)


def children_gone(group: int) -> bool:
    """No process of that process group lives."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    return False


@pytest.fixture
def elsewhere(stack, tmp_path) -> Iterator[dict[str, str]]:
    """An environment for the scripts with a state directory of its own; the instance under test is down meanwhile, as a host carries one."""
    state = tmp_path / "state"
    state.mkdir()
    for shared in ("venv", "venv.stamp", "node"):
        if (STATE / shared).exists():
            (state / shared).symlink_to(STATE / shared)
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("DAYTONA_", "PINFOLD_"))}
    stack.stop()
    port = free_port()
    yield inherited | {
        "PINFOLD_STATE": str(state),
        "PINFOLD_BINARY": str(BINARY),
        "PINFOLD_BIND": f"127.0.0.1:{port}",
        "PINFOLD_SSH_PORT": str(free_port()),
        "PINFOLD_SNAPSHOT_IMAGE": stack.image,
    }
    stack.start()


def left_of(state: Path) -> list[str]:
    """What an instance with that state directory has left: processes, containers, mounts, tables."""
    other = Stack(state, image="none")
    pid_file = state / "pinfold.pid"
    left = [f"container {c}" for c in other.containers()] + [f"mount {m}" for m in other.mounts()] + [f"table {t}" for t in tables()]
    if pid_file.exists() and process_birth(int(pid_file.read_text().split()[0])):
        left.append("process")
    return left


def test_make_up_and_make_down_leave_nothing(elsewhere):
    state = Path(elsewhere["PINFOLD_STATE"])
    tool = [sys.executable, REPO / "tools" / "stack.py"]

    def run(command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*tool, command], env=elsewhere, capture_output=True, text=True, timeout=150, check=False)

    def client() -> dict[str, str]:
        return os.environ | dict(line.split("=", 1) for line in (state / "env").read_text().splitlines())

    assert run("up").returncode == 0
    assert (state / "env").stat().st_mode & 0o777 == 0o600
    assert run("status").returncode == 0
    assert run("up").returncode == 0, "up is what it is already"
    for _ in range(2):
        made = subprocess.run([BINARY, "sandbox", "create", "--json"], env=client(), capture_output=True, text=True, timeout=60, check=False)
        assert made.returncode == 0, made.stderr
    identity = json.loads(made.stdout)["id"]
    session = f"from daytona import Daytona; Daytona().get({identity!r}).process.create_session('s')"
    assert subprocess.run([sys.executable, "-c", session], env=client(), timeout=60, check=False).returncode == 0
    volumes = "from daytona import Daytona; Daytona().volume.create('v')"
    assert subprocess.run([sys.executable, "-c", volumes], env=client(), timeout=60, check=False).returncode == 0
    assert left_of(state), "there is something to take down"
    down = run("down")
    assert down.returncode == 0, down.stderr
    assert "removed" not in down.stderr, f"what ended in order leaves nothing to sweep: {down.stderr}"
    assert left_of(state) == []
    assert not (state / "env").exists()
    assert run("status").returncode != 0
    assert run("down").returncode == 0, "down is what it is already"


def test_ctrl_c_during_the_demo(elsewhere):
    state = Path(elsewhere["PINFOLD_STATE"])
    demo = subprocess.Popen([REPO / "tools" / "demo"], env=elsewhere, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True)
    # What comes before is the scripts' own.
    said = [demo.stdout.readline()]
    while said[-1] and not said[-1].startswith("create a sandbox"):
        said.append(demo.stdout.readline())
    assert said[-1], f"it ended: {said}"
    assert left_of(state), "it is in the middle of something"
    # As a terminal does it: the whole foreground group hears of it.
    os.killpg(demo.pid, signal.SIGINT)
    rest = demo.communicate(timeout=120)[0]
    # One that was over before it heard of the interrupt cleans up all the same.
    assert demo.returncode == (0 if "every answer right" in rest else 130), rest
    assert left_of(state) == []
    eventually(lambda: children_gone(demo.pid), "every process of the demo to be gone")


def test_ctrl_c_while_it_comes_up(elsewhere):
    state = Path(elsewhere["PINFOLD_STATE"])
    up = subprocess.Popen([sys.executable, REPO / "tools" / "stack.py", "up"], env=elsewhere, stderr=subprocess.PIPE, text=True, start_new_session=True)
    eventually(lambda: (state / "logs" / "pinfold.log").exists(), "it to begin")
    os.killpg(up.pid, signal.SIGINT)
    up.communicate(timeout=100)
    assert up.returncode in (0, 130)
    subprocess.run([sys.executable, REPO / "tools" / "stack.py", "down"], env=elsewhere, check=True, capture_output=True, timeout=120)
    assert left_of(state) == []


def test_ctrl_c_in_the_moment_of_its_start(tmp_path):
    """The process is there and nobody knows it yet, when the interrupt comes: it ends as well. What is started here is a sleep in pinfold's place."""
    (tmp_path / "pinfold").write_text("#!/bin/sh\nexec sleep 600\n")
    (tmp_path / "pinfold").chmod(0o755)
    run = """
import signal, subprocess, sys, stack
class Interrupted(subprocess.Popen):
    def __init__(self, command, **keywords):
        super().__init__(command, **keywords)
        if command[-1] == "up":
            print(self.pid, flush=True)
            signal.raise_signal(signal.SIGINT)
subprocess.Popen = Interrupted
sys.argv[1:] = ["up"]
sys.exit(stack.main())
"""
    paths = {"PINFOLD_BINARY": str(tmp_path / "pinfold"), "PINFOLD_STATE": str(tmp_path / "state"), "PYTHONPATH": str(REPO / "tools")}
    environment = os.environ | paths | {"PINFOLD_SNAPSHOT_IMAGE": "none"}
    up = subprocess.run([sys.executable, "-c", run], env=environment, capture_output=True, text=True, timeout=100, check=False)
    assert up.returncode == 130, up.stderr
    assert not Path(f"/proc/{int(up.stdout)}").exists()


@pytest.mark.parametrize("instance", ["stack.Stack(pathlib.Path(sys.argv[1]), image='none')", "node.Node()"])
def test_an_instance_ends_with_the_run_that_started_it(tmp_path, instance):
    """A test that runs into its time ends the whole run at once, with no fixture's end. What the harness starts, here a sleep in pinfold's place, ends too."""
    (tmp_path / "pinfold").write_text("#!/bin/sh\nexec sleep 600\n")
    (tmp_path / "pinfold").chmod(0o755)
    run = f"""
import os, pathlib, sys, {instance.split(".")[0]}
print({instance}.spawn().pid, flush=True)
input()
os._exit(1)
"""
    # Sockets have short names.
    with tempfile.TemporaryDirectory(prefix="pf-") as state:
        paths = {"PINFOLD_BINARY": str(tmp_path / "pinfold"), "PINFOLD_STATE": state, "PYTHONPATH": f"{REPO / 'tools'}:{REPO / 'tests'}"}
        began = subprocess.Popen([sys.executable, "-c", run, tmp_path], env=os.environ | paths, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        pid = int(began.stdout.readline())
        eventually(lambda: Path(f"/proc/{pid}/comm").read_text() == "sleep\n", "it to run")
        began.communicate("\n", timeout=60)
    eventually(lambda: not Path(f"/proc/{pid}").exists(), "it to end, too")


def test_ctrl_c_during_an_image_build(tmp_path):
    """The image that is there is not built again, so the recipe is another: a copy with a comment more."""
    copy = tmp_path / "repo"
    for part in ("images", "tools"):
        shutil.copytree(REPO / part, copy / part, ignore=shutil.ignore_patterns("__pycache__"))
    with (copy / "images" / "sandbox" / "packages.txt").open("a") as packages:
        packages.write(f"# {uuid.uuid4()}\n")
    images = set(docker("images", "-q", "--no-trunc").split())
    environment = os.environ | {"PINFOLD_STATE": str(tmp_path / "state"), "PINFOLD_IMAGE_BASE": "debian"}
    build = subprocess.Popen([copy / "images" / "build"], env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True)
    scratch = tmp_path / "state" / "tmp"
    eventually(lambda: list(scratch.glob("image.*/mmdebstrap.*")), "the build to be in its middle", 60)
    inner = subprocess.run(["pgrep", "-f", str(scratch)], check=False, capture_output=True, text=True).stdout.split()
    assert inner
    os.killpg(build.pid, signal.SIGINT)
    build.communicate(timeout=60)
    assert build.returncode == 130
    eventually(lambda: subprocess.run(["pgrep", "-f", str(scratch)], check=False, capture_output=True).returncode == 1, "its processes to be gone")
    assert list(scratch.glob("image.*")) == []
    assert str(tmp_path) not in Path("/proc/self/mounts").read_text()
    assert set(docker("images", "-q", "--no-trunc").split()) <= images
