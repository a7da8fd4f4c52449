"""Bad days: each ends in one clear sentence that says what to do, an exit status of its own, and nothing left half made."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import threading
import uuid
from pathlib import Path

import pytest
from daytona import DaytonaError, SessionExecuteRequest

from stack import BINARY, Stack
from support import REPO, eventually, inspect

pytestmark = pytest.mark.faults


def up(tmp_path: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs `pinfold up` in a way that must fail at once."""
    instance = Stack(tmp_path, environment=environment)
    return subprocess.run([BINARY, "up"], env=instance.environment(), capture_output=True, text=True, timeout=60, check=False)


def one_sentence(text: str) -> str:
    """The last line of what it said: no backtrace, no debug output."""
    assert "panicked" not in text
    assert "RUST_BACKTRACE" not in text
    return text.strip().splitlines()[-1]


def test_a_taken_port(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        answer = up(tmp_path, PINFOLD_BIND=f"127.0.0.1:{port}")
    assert answer.returncode not in (0, 101, 134)
    said = one_sentence(answer.stderr)
    assert str(port) in said
    assert "use" in said.lower()


@pytest.fixture(scope="module")
def without_engine(tmp_path_factory):
    """One run for all who ask. An engine may be late, so pinfold would give it a minute."""
    folder = tmp_path_factory.mktemp("no-engine")
    return up(folder, DOCKER_HOST=f"unix://{folder}/no-docker.sock", PINFOLD_ENGINE_WAIT="1s")


def test_no_engine(without_engine):
    assert without_engine.returncode not in (0, 101, 134)
    said = one_sentence(without_engine.stderr)
    assert "no-docker.sock" in said or "docker" in said.lower()


def test_every_mistake_in_the_settings_at_once(tmp_path):
    answer = up(tmp_path, PINFOLD_BIND="nonsense", PINFOLD_SSH_PORT="99999999", PINFOLD_SNAPSHOT_CPU="-3")
    assert answer.returncode == 2
    for name in ("PINFOLD_BIND", "PINFOLD_SSH_PORT", "PINFOLD_SNAPSHOT_CPU"):
        assert name in answer.stderr


def test_the_classes_have_statuses_of_their_own(tmp_path, without_engine):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = up(tmp_path / "port", PINFOLD_BIND=f"127.0.0.1:{taken.getsockname()[1]}").returncode
    settings = up(tmp_path / "settings", PINFOLD_BIND="nonsense").returncode
    assert len({port, without_engine.returncode, settings, 0}) == 4


def test_a_data_directory_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("in the way")
    answer = up(tmp_path, PINFOLD_DATA_DIR=str(tmp_path / "file"))
    assert answer.returncode not in (0, 101, 134)
    assert str(tmp_path / "file") in one_sentence(answer.stderr)


def test_unknown_commands_and_help():
    assert subprocess.run([BINARY, "no-such-command"], check=False, capture_output=True).returncode == 2
    shown = subprocess.run([BINARY, "--help"], check=True, capture_output=True, text=True).stdout
    assert "up" in shown
    assert "run" in shown
    assert subprocess.run([BINARY, "--version"], check=True, capture_output=True, text=True).stdout.startswith("pinfold ")


def test_a_missing_image_names_itself_and_leaves_nothing(stack, restart, daytona):
    restart(PINFOLD_SNAPSHOT=f"missing-{uuid.uuid4()}", PINFOLD_SNAPSHOT_IMAGE="registry.invalid/no-such-image:1")
    before = set(stack.containers())
    with pytest.raises(DaytonaError, match="no-such-image"):
        daytona.create(timeout=120)
    assert set(stack.containers()) == before


def test_kill_9_keeps_the_sandboxes_and_their_sessions(stack, daytona, make_sandbox):
    """kill -9, and a new start: the sandboxes are found running, with their sessions, and what runs in them was not disturbed."""
    sandbox = make_sandbox()
    sandbox.process.create_session("lasting")
    sandbox.process.execute_session_command("lasting", SessionExecuteRequest(command="KEPT=yes"))
    begun = sandbox.process.execute_session_command("lasting", SessionExecuteRequest(command="sleep 2; echo finished", run_async=True))
    started_at = inspect(sandbox.id)["State"]["StartedAt"]
    stack.kill()
    stack.start()
    again = daytona.get(sandbox.id)
    assert again.state.value == "started"
    assert inspect(sandbox.id)["State"]["StartedAt"] == started_at

    def output() -> str:
        return again.process.get_session_command_logs("lasting", begun.cmd_id).stdout

    eventually(lambda: "finished" in (output() or ""), "the command to finish")
    answer = again.process.execute_session_command("lasting", SessionExecuteRequest(command="echo $KEPT"))
    assert answer.stdout == "yes\n"


def test_kill_9_in_the_middle_of_creates(stack, daytona):
    """Whatever was half made is finished or gone after the next start, and nothing is made twice."""
    before, containers = {s.id for s in daytona.list()}, set(stack.containers())

    def create() -> None:
        # The server is killed meanwhile; what matters is what is left.
        with contextlib.suppress(DaytonaError):
            daytona.create(timeout=60)

    threads = [threading.Thread(target=create) for _ in range(6)]
    for thread in threads:
        thread.start()
    eventually(lambda: set(stack.containers()) - containers, "a create to have got somewhere")
    stack.kill()
    stack.start()
    for thread in threads:
        thread.join(70)

    def unsettled() -> list[str]:
        made = [s for s in daytona.list() if s.id not in before]
        return [f"{s.id} is {s.state.value}" for s in made if s.state.value not in ("started", "error", "stopped")]

    with contextlib.suppress(AssertionError):
        eventually(lambda: not unsettled(), "every sandbox to settle", 90)
    assert unsettled() == []
    listed = {s.id for s in daytona.list()}
    for sandbox in list(daytona.list()):
        if sandbox.id not in before:
            daytona.delete(sandbox, wait=True)
    eventually(lambda: set(stack.containers()) <= containers, f"no container without a sandbox ({len(listed)} were listed)")


def test_sigterm_ends_it_in_order(tmp_path, stack):
    """A restart is what an upgrade does: it ends with status 0, and the next start finds everything."""
    assert stack.stop() in (0, 143)
    stack.start()


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_ended_during_start(stack, name):
    """A signal at any moment of the start ends it, and the next start works."""
    stack.stop()
    process = stack.spawn()
    os.kill(process.pid, getattr(signal, name))
    assert process.wait(60) in (0, -getattr(signal, name), 130, 143)
    stack.start()


class Cut:
    """A socket in front of the engine's that can be cut: an engine that dies, without harm to the one that others use."""

    def __init__(self, path: Path) -> None:
        self.path = path
        #: What is taken while it is cut is cut as well, however the two meet.
        self.changing = threading.Lock()
        self.open = True
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(path))
        self.listener.listen(64)
        self.pairs: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            with self.changing:
                if not self.open:
                    client.close()
                    continue
                engine = socket.socket(socket.AF_UNIX)
                engine.connect("/var/run/docker.sock")
                self.pairs += [client, engine]
            for source, target in ((client, engine), (engine, client)):
                threading.Thread(target=self._copy, args=(source, target), daemon=True).start()

    @staticmethod
    def _copy(source: socket.socket, target: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                target.sendall(data)
        except OSError:
            pass
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_WR)

    def cut(self) -> None:
        with self.changing:
            self.open = False
            for end in self.pairs:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
            self.pairs.clear()

    def mend(self) -> None:
        self.open = True


def test_an_engine_that_dies_in_the_middle(tmp_path, restart, daytona, make_sandbox):
    engine = Cut(tmp_path / "docker.sock")
    restart(DOCKER_HOST=f"unix://{engine.path}")
    sandbox = make_sandbox()
    engine.cut()
    assert sandbox.process.exec("echo no engine needed").exit_code == 0, "a running sandbox does not need the engine"
    with pytest.raises(DaytonaError, match=r"(?i)engine|docker|runner"):
        daytona.create(timeout=60)
    engine.mend()

    def works() -> bool:
        try:
            made = daytona.create(timeout=30)
        except DaytonaError:
            return False
        daytona.delete(made, wait=True)
        return True

    eventually(works, "creates to work again", 60)


def test_a_full_disk(stack, restart, tmp_path, daytona):
    """The data directory on a small file system that is full: reads go on, writes say why, and space cures it."""
    mount = tmp_path / "small"
    mount.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=48m", "none", str(mount)], check=True)
    try:
        restart(PINFOLD_DATA_DIR=str(mount))
        sandbox = daytona.create(timeout=60)
        filler = mount / "filler"
        with filler.open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(b"\0" * 4096)
            except OSError:
                pass
        assert sandbox.process.exec("echo still here").result == "still here\n"
        with pytest.raises(DaytonaError, match=r"(?i)space|disk|full|storage"):
            daytona.create(timeout=60)
        filler.unlink()
        daytona.delete(daytona.create(timeout=60), wait=True)
        daytona.delete(sandbox, wait=True)
        stack.stop()
    finally:
        subprocess.run(["umount", "-l", str(mount)], check=False)


def test_the_scripts_say_what_is_missing(tmp_path):
    """`make up` without an engine and without the means to start one."""
    environment = os.environ | {"DOCKER_HOST": f"unix://{tmp_path}/none.sock"}
    answer = subprocess.run([REPO / "tools" / "engine", "up"], env=environment, capture_output=True, text=True, check=False)
    assert answer.returncode == 3
    assert "DOCKER_HOST" in one_sentence(answer.stderr)
