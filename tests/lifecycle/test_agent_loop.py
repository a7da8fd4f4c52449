"""What agents do all day: make a sandbox, use it, delete it, four at a time, and nothing is left over."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from daytona import Daytona, DaytonaConfig, SessionExecuteRequest

from support import docker, eventually

COUNT, AT_ONCE = 200, 4


def one(daytona: Daytona, number: int) -> float:
    """One sandbox's life, as an agent leads it; how long it took."""
    began = time.monotonic()
    sandbox = daytona.create(timeout=120)
    try:
        assert sandbox.process.exec(f"echo {number}").result == f"{number}\n"
        sandbox.fs.upload_file(f"print({number} * 2)\n".encode(), "task.py")
        assert sandbox.process.exec("python3 task.py").result == f"{number * 2}\n"
        sandbox.process.create_session("agent")
        sandbox.process.execute_session_command("agent", SessionExecuteRequest(command=f"export N={number}"))
        answer = sandbox.process.execute_session_command("agent", SessionExecuteRequest(command="echo $N; exit 3"))
        assert (answer.stdout, answer.exit_code) == (f"{number}\n", 3)
        assert sandbox.fs.download_file("task.py") == f"print({number} * 2)\n".encode()
    finally:
        daytona.delete(sandbox, wait=True)
    return time.monotonic() - began


def descriptors(pid: int) -> int:
    """How many files a process has open."""
    return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())


@pytest.mark.timeout(600)
def test_two_hundred_sandboxes_four_at_a_time(stack, daytona):
    containers, networks = set(stack.containers()), docker("network", "ls", "-q").split()
    one(daytona, 0)
    open_before = descriptors(stack.process.pid)
    began = time.monotonic()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        clients = [Daytona(DaytonaConfig(api_key=stack.key, api_url=stack.api_url)) for _ in range(AT_ONCE)]
        took = list(pool.map(lambda n: one(clients[n % AT_ONCE], n), range(1, COUNT + 1)))
    total = time.monotonic() - began
    print(f"\n{COUNT} sandboxes, {AT_ONCE} at a time: {total:.1f} s, {COUNT / total:.2f}/s; one took {sorted(took)[COUNT // 2]:.2f} s in the middle, at most {max(took):.2f} s")
    eventually(lambda: set(stack.containers()) <= containers, "every container to be gone")
    assert docker("network", "ls", "-q").split() == networks
    assert not stack.mounts(), "a mount was left"
    assert not list((stack.data / "runner" / "sandboxes").glob("*")), "a record was left"
    # Connections that are kept for the next call are few; one for each sandbox that is gone would be many.
    eventually(lambda: descriptors(stack.process.pid) < open_before + 30, f"open files to go back to {open_before}")
