"""What the tests share: waiting for a condition, and reaching things the way users do."""

from __future__ import annotations

import ast
import json
import shlex
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")
REPO = Path(__file__).resolve().parent.parent


def eventually(condition: Callable[[], T], what: str, timeout: float = 60) -> T:
    """Waits until the condition is true and returns its value. Fails with what was awaited, and what was seen last.

    This is no retry of a failed check: it waits for something that another process does in its own time.
    """
    deadline = time.monotonic() + timeout
    while True:
        # Read before the condition: who stood still past the deadline still looks once more.
        late = time.monotonic() > deadline
        value = condition()
        if value:
            return value
        if late:
            raise AssertionError(f"waited {timeout:.0f} s for {what}; last seen: {value!r}")
        time.sleep(0.05)


def inspect(container: str) -> dict:
    """The engine's word on one container; a sandbox's container is named like the sandbox's id."""
    answer = subprocess.run(["docker", "inspect", "--type", "container", container], check=True, capture_output=True, text=True)
    return json.loads(answer.stdout)[0]


def docker(*arguments: str, timeout: float = 60, check: bool = True) -> str:
    """Runs the docker client and returns what it printed."""
    return subprocess.run(["docker", *arguments], check=check, capture_output=True, text=True, timeout=timeout).stdout


def busybox() -> str:
    """A small image with a shell and no agent, by a tag that is not `latest`: the contract refuses that for snapshots."""
    return subprocess.run([REPO / "images" / "build", "--tag", "busybox"], check=True, capture_output=True, text=True).stdout.strip()


def address(sandbox_id: str) -> str:
    """The address of a sandbox's container on the host."""
    networks = inspect(sandbox_id)["NetworkSettings"]["Networks"]
    return next(n["IPAddress"] for n in networks.values() if n["IPAddress"])


def reachable(sandbox, places: list[tuple[str, int]], timeout: float = 1.5) -> list[tuple[str, int]]:
    """Those places to which a TCP connection from inside the sandbox comes about. All are tried at once: refusals by silence take their time. Its own loopback is never silent, and
    has more of it on a busy machine."""
    probe = f"""
import concurrent.futures, socket
def reached(place):
    try:
        socket.create_connection(place, 30 if place[0] == "127.0.0.1" else {timeout}).close()
        return True
    except OSError:
        return False
places = {places!r}
with concurrent.futures.ThreadPoolExecutor(64) as pool:
    print([place for place, open in zip(places, pool.map(reached, places)) if open])
"""
    sandbox.fs.upload_file(probe.encode(), "/tmp/reachable.py")
    return ast.literal_eval(sandbox.process.exec("python3 /tmp/reachable.py", timeout=60).result)


def connects(sandbox, host: str, port: int, timeout: float = 2) -> bool:
    """Whether a TCP connection from inside the sandbox to that place comes about."""
    attempt = f"import socket; socket.create_connection(({host!r}, {port}), {timeout}).close()"
    return sandbox.process.exec(f"python3 -c {shlex.quote(attempt)}").exit_code == 0
