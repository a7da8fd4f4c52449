"""A sandbox's states: what they mean, what survives them, and that nothing is left after the last."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from daytona import CreateSandboxFromSnapshotParams, DaytonaError, DaytonaNotFoundError, Sandbox, SessionExecuteRequest

from support import address, docker, eventually, inspect


def exists(sandbox_id: str) -> bool:
    return subprocess.run(["docker", "inspect", sandbox_id], check=False, capture_output=True).returncode == 0


class Idle:
    """Two sandboxes with the shortest interval there is, a minute: one in which nothing happens, and one in which a session's command runs."""

    def __init__(self, make: Callable[..., Sandbox]) -> None:
        self.busy, self.idle = make(auto_stop_interval=1), make(auto_stop_interval=1)
        self.busy.process.create_session("s")
        self.busy.process.execute_session_command("s", SessionExecuteRequest(command="sleep 1000", run_async=True))
        self.idle.process.create_session("s")
        before = time.monotonic()
        self.idle.process.execute_session_command("s", SessionExecuteRequest(command="true"))
        #: The last activity was between these.
        self.last = (before, time.monotonic())
        #: Seconds from the last activity to the end of its running, once that has come: at least, and at most.
        self.took: tuple[float, float] | None = None
        self.over = threading.Event()
        self.watch = threading.Thread(target=self._watch)
        self.watch.start()

    def _watch(self) -> None:
        ran = self.last[1]
        while not self.over.wait(0.1):
            asked = time.monotonic()
            self.idle.refresh_data()
            if self.idle.state.value != "started":
                self.took = (ran - self.last[1], time.monotonic() - self.last[0])
                return
            ran = asked

    def close(self) -> None:
        self.over.set()
        self.watch.join()


@pytest.fixture(scope="module", autouse=True)
def watched(restart_for_all, make_shared_sandbox) -> Iterator[Idle]:
    """The minute goes by beside this file's other tests; the last one has a look."""
    restart_for_all(PINFOLD_BUSY_IS_ACTIVE="true")
    idle = Idle(make_shared_sandbox)
    yield idle
    idle.close()


def test_stop_and_start_keep_the_files(make_sandbox):
    sandbox = make_sandbox()
    sandbox.fs.upload_file(b"kept", "kept.txt")
    sandbox.stop()
    assert sandbox.state.value == "stopped"
    assert not inspect(sandbox.id)["State"]["Running"]
    sandbox.start()
    assert sandbox.state.value == "started"
    assert sandbox.fs.download_file("kept.txt") == b"kept"


def test_a_stopped_sandbox_says_that_it_is_stopped(make_sandbox):
    sandbox = make_sandbox()
    sandbox.stop()
    with pytest.raises(DaytonaError, match=r"(?i)stopped|not started|not running"):
        sandbox.process.exec("true")


def test_stopping_and_starting_twice_are_harmless(make_sandbox):
    sandbox = make_sandbox()
    sandbox.start()
    sandbox.stop()
    sandbox.stop()
    sandbox.start()
    assert sandbox.process.exec("echo up").result == "up\n"


def checksum(sandbox) -> str:
    return sandbox.process.exec("sha256sum data log | sha256sum").result


def test_pain_54_five_stops_and_starts_lose_nothing(make_sandbox):
    sandbox = make_sandbox()
    sandbox.process.exec("head -c 5000000 /dev/urandom > data")
    for i in range(5):
        sandbox.process.exec(f"echo {i} >> log")
        before = checksum(sandbox)
        sandbox.stop()
        sandbox.start()
        assert checksum(sandbox) == before, f"after {i + 1} stops"
    assert sandbox.process.exec("cat log").result == "0\n1\n2\n3\n4\n"


def test_delete_removes_the_container(daytona):
    sandbox = daytona.create()
    daytona.delete(sandbox, wait=True)
    eventually(lambda: not exists(sandbox.id), "the container to be gone")
    with pytest.raises(DaytonaNotFoundError):
        daytona.get(sandbox.id)


def test_delete_of_a_stopped_sandbox(daytona):
    sandbox = daytona.create()
    sandbox.stop()
    daytona.delete(sandbox, wait=True)
    eventually(lambda: not exists(sandbox.id), "the container to be gone")


def test_an_ephemeral_sandbox_ends_with_its_stop(daytona):
    sandbox = daytona.create(CreateSandboxFromSnapshotParams(ephemeral=True))
    sandbox.stop()
    eventually(lambda: not exists(sandbox.id), "the container to be gone")


def test_pain_54_three_archives_and_restores_lose_nothing(make_sandbox):
    sandbox = make_sandbox()
    sandbox.process.exec("head -c 5000000 /dev/urandom > data")
    for i in range(3):
        sandbox.process.exec(f"echo {i} >> log")
        before = checksum(sandbox)
        sandbox.stop()
        sandbox.archive()
        eventually(lambda: (sandbox.refresh_data(), sandbox.state.value == "archived")[1], "the sandbox to be archived", 60)
        assert not exists(sandbox.id), "its container is gone"
        sandbox.start()
        assert checksum(sandbox) == before, f"after {i + 1} archives"
    assert sandbox.process.exec("cat log").result == "0\n1\n2\n"


def comes_to(sandbox, *states: str) -> str:
    """Waits for what happened behind our back to be told. It is told at once: before the next round of reports, which are ten seconds apart."""

    def state() -> str | None:
        sandbox.refresh_data()
        return sandbox.state.value if sandbox.state.value in states else None

    return eventually(state, f"the sandbox to be {' or '.join(states)}", 8)


def test_a_crash_is_noticed(make_sandbox):
    """What really happened comes to the user, who never asked: the container is killed behind our back."""
    sandbox = make_sandbox()
    docker("kill", sandbox.id)
    assert comes_to(sandbox, "stopped", "error") == "stopped"
    sandbox.start()
    assert sandbox.process.exec("echo back").result == "back\n"


@pytest.mark.parametrize("stopped", [False, True], ids=["started", "stopped"])
def test_a_container_that_vanishes_is_noticed(make_sandbox, stopped):
    sandbox = make_sandbox()
    if stopped:
        sandbox.stop()
    docker("rm", "-f", sandbox.id)
    comes_to(sandbox, "error", "destroyed")
    assert "no longer exists" in sandbox.error_reason


def test_a_container_that_somebody_starts_is_started(make_sandbox):
    sandbox = make_sandbox()
    sandbox.stop()
    docker("start", sandbox.id)
    comes_to(sandbox, "started")
    assert sandbox.process.exec("echo up").result == "up\n"
    sandbox.stop()
    assert not inspect(sandbox.id)["State"]["Running"]


def test_running_out_of_memory_is_named(make_sandbox):
    sandbox = make_sandbox()
    answer = sandbox.process.exec("python3 -c 'x = bytearray(64 << 30); x[::4096] = b\"x\" * len(x[::4096])' 2>&1", timeout=60)
    assert answer.exit_code != 0
    assert sandbox.process.exec("echo alive").result == "alive\n", "the daemon outlives its sandbox's hunger"


def test_twenty_at_once(stack, daytona):
    """Twenty creates at the same time, then as many deletes: no error, and nothing left over."""
    from concurrent.futures import ThreadPoolExecutor

    before = set(stack.containers())

    def life(number: int) -> str:
        sandbox = daytona.create(timeout=150)
        try:
            return sandbox.process.exec(f"echo {number}").result
        finally:
            daytona.delete(sandbox, wait=True)

    with ThreadPoolExecutor(20) as pool:
        assert list(pool.map(life, range(20))) == [f"{n}\n" for n in range(20)]
    eventually(lambda: set(stack.containers()) <= before, "every container to be gone")


def test_addresses_are_not_shared(make_sandbox):
    assert address(make_sandbox().id) != address(make_sandbox().id)


def test_an_idle_sandbox_is_stopped_and_a_busy_one_is_not_if_that_is_wanted(watched):
    """No activity at all: the timer is exact, not a tick's."""
    took = eventually(lambda: watched.took, "the idle sandbox to be stopped", 90)
    at_least, at_most = took
    assert at_most > 57 and at_least < 66, f"it was stopped after {at_least:.1f} to {at_most:.1f} s"
    eventually(lambda: (watched.idle.refresh_data(), watched.idle.state.value == "stopped")[1], "its container to end")
    watched.busy.refresh_data()
    assert watched.busy.state.value == "started", "it was idle for longer, but for its command"
