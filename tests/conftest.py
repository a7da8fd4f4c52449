"""The harness: one instance of `pinfold up` on the real engine for the whole run, and clients of it.

The network tables are one set for a host, so there is one instance at a time. Tests that need another environment restart this one
with it and put it back; a restart keeps the sandboxes, which is itself a promise.
"""

from __future__ import annotations

import contextlib
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent / "tools")]

from daytona import CreateSandboxFromSnapshotParams, Daytona, DaytonaConfig, DaytonaNotFoundError, Sandbox  # noqa: E402

from stack import STATE, Background, Stack, StackError, tables  # noqa: E402
from support import eventually  # noqa: E402

# A run in the background of a script, or under nohup, ignores these signals, and so would everything that it starts.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

# 143 is how a process says that SIGTERM asked it to end, and that it did so in order.
ENDED_IN_ORDER = (0, 143)


def _made_images() -> set[str]:
    """Images that builds and snapshots of sandboxes made. An instance that is gone with its database uses none of them again."""
    listed = subprocess.run(["docker", "images", "--format", "{{.Repository}}:{{.Tag}}", "daytona-*"], check=False, capture_output=True, text=True)
    return set(listed.stdout.split())


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    """The instance under test. Whatever it leaves behind at the end is a failure."""
    if Background().pid() is not None:
        pytest.exit("make up is running, and a host carries one instance at a time: make down first", 2)
    (STATE / "tmp").mkdir(parents=True, exist_ok=True)
    directory = Path(tempfile.mkdtemp(prefix="e2e-", dir=STATE / "tmp"))
    instance = Stack(directory)
    images = _made_images()
    try:
        instance.start()
    except StackError as error:
        shutil.rmtree(directory, ignore_errors=True)
        pytest.exit(f"pinfold up did not come up: {error}", error.status)
    yield instance
    instance.remove_sandboxes()
    left = instance.containers()
    status = instance.stop()
    swept = instance.sweep()
    for table in tables():
        subprocess.run(["nft", "delete", "table", *table.split()], check=False)
    if made := _made_images() - images:
        subprocess.run(["docker", "rmi", *made], check=False, capture_output=True)
    shutil.copy(instance.log, STATE / "logs" / "e2e-pinfold.log")
    shutil.rmtree(directory, ignore_errors=True)
    assert status in ENDED_IN_ORDER, f"pinfold ended with status {status}"
    assert not left, f"containers were left after deleting every sandbox: {left}"
    assert not swept, f"left behind: {swept}"


@pytest.fixture(scope="session")
def daytona(stack: Stack) -> Daytona:
    """The official SDK, set up as a user would."""
    return Daytona(DaytonaConfig(api_key=stack.key, api_url=stack.api_url))


@contextlib.contextmanager
def _deleting(daytona: Daytona) -> Iterator[Callable[..., Sandbox]]:
    made: list[Sandbox] = []

    def make(params: object | None = None, **keywords: object) -> Sandbox:
        if params is None:
            params = CreateSandboxFromSnapshotParams(**keywords)
        sandbox = daytona.create(params, timeout=120)
        made.append(sandbox)
        return sandbox

    try:
        yield make
    finally:
        for sandbox in made:
            with contextlib.suppress(DaytonaNotFoundError):
                daytona.delete(sandbox)
                eventually(lambda sandbox=sandbox: _is_gone(daytona, sandbox), f"{sandbox.id} to be deleted", 60)


def _is_gone(daytona: Daytona, sandbox: Sandbox) -> bool:
    """By the server's word: an SDK that waits for its delete by events takes a late one, of the failure that a test was about, for the delete's own."""
    try:
        daytona.get(sandbox.id)
    except DaytonaNotFoundError:
        return True
    return False


@pytest.fixture
def make_sandbox(daytona: Daytona) -> Iterator[Callable[..., Sandbox]]:
    """Makes sandboxes that are deleted when the test ends; keywords are those of CreateSandboxFromSnapshotParams."""
    with _deleting(daytona) as make:
        yield make


@pytest.fixture(scope="module")
def sandbox(daytona: Daytona) -> Iterator[Sandbox]:
    """One sandbox for the tests of a module that leave it as they found it."""
    with _deleting(daytona) as make:
        yield make()


@contextlib.contextmanager
def restarting(stack: Stack) -> Iterator[Callable[..., None]]:
    """Restarts the instance with other variables, and puts it back in the end."""
    before = dict(stack.extra)

    def again(**environment: str) -> None:
        stack.stop()
        stack.extra = before | environment
        stack.start()

    yield again
    if stack.extra != before or stack.process is None or stack.process.poll() is not None:
        stack.stop()
        stack.extra = before
        stack.start()


@pytest.fixture
def restart(stack: Stack) -> Iterator[Callable[..., None]]:
    """Restarts the instance with other variables for the length of one test."""
    with restarting(stack) as again:
        yield again


@pytest.fixture(scope="module")
def restart_for_all(stack: Stack) -> Iterator[Callable[..., None]]:
    """The same for the length of a module."""
    with restarting(stack) as again:
        yield again


@pytest.fixture(scope="module")
def make_shared_sandbox(daytona: Daytona) -> Iterator[Callable[..., Sandbox]]:
    """Makes sandboxes that are deleted when the module ends."""
    with _deleting(daytona) as make:
        yield make
