"""Terminals of the SDK: size, input, many clients, what an exit says."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path

import pytest
from daytona import DaytonaConflictError, DaytonaConnectionError, DaytonaNotFoundError, PtySize

from stack import STATE
from support import REPO, eventually


@pytest.fixture
def name(sandbox):
    name = f"pty-{uuid.uuid4()}"
    yield name
    with contextlib.suppress(DaytonaNotFoundError):
        sandbox.process.kill_pty_session(name)


def spoken(handle) -> str:
    seen = bytearray()
    handle.wait(on_data=seen.extend, timeout=60)
    return seen.decode(errors="replace")


def test_size_environment_directory_and_exit_code(sandbox, name):
    handle = sandbox.process.create_pty_session(name, cwd="/tmp", envs={"A": "b c"}, pty_size=PtySize(cols=120, rows=40))
    handle.send_input('stty size; pwd; echo "<$A>"; exit 7\n')
    text = spoken(handle)
    assert "40 120" in text
    assert "/tmp" in text
    assert "<b c>" in text
    assert handle.exit_code == 7
    handle.disconnect()


def test_resize(sandbox, name):
    handle = sandbox.process.create_pty_session(name)
    info = handle.resize(PtySize(cols=100, rows=30))
    assert (info.cols, info.rows) == (100, 30)
    info = sandbox.process.resize_pty_session(name, PtySize(cols=101, rows=31))
    assert (info.cols, info.rows) == (101, 31)
    handle.send_input("stty size; exit\n")
    assert "31 101" in spoken(handle)
    handle.disconnect()


def waiting(step: str, then: str) -> str:
    """Shell text that tells by a file that it has begun, and goes on when it is let (below)."""
    return f"touch /tmp/{step}; until [ -e /tmp/{step}-go ]; do sleep 0.05; done; {then}"


def begun(sandbox, step: str) -> None:
    eventually(lambda: sandbox.process.exec(f"test -e /tmp/{step}").exit_code == 0, f"{step} to begin")


def let(sandbox, step: str) -> None:
    assert sandbox.process.exec(f"touch /tmp/{step}-go").exit_code == 0


def test_detach_and_attach(sandbox, name):
    first = sandbox.process.create_pty_session(name)
    first.send_input(waiting(name, f"echo one-$((40+2)); touch /tmp/{name}-written\n"))
    begun(sandbox, name)
    first.disconnect()
    let(sandbox, name)
    begun(sandbox, f"{name}-written")
    info = sandbox.process.get_pty_session_info(name)
    assert (info.id, info.active) == (name, True)
    assert name in [s.id for s in sandbox.process.list_pty_sessions()]
    second = sandbox.process.connect_pty_session(name)
    second.wait_for_connection()
    second.send_input("echo two-$((40+3)); exit 0\n")
    text = spoken(second)
    assert "two-43" in text
    assert "one-42" in text, "what was written while nobody was attached is given to whoever attaches next"
    assert second.exit_code == 0
    second.disconnect()


def test_kill(sandbox, name):
    handle = sandbox.process.create_pty_session(name)
    handle.kill()
    handle.disconnect()
    eventually(lambda: name not in [s.id for s in sandbox.process.list_pty_sessions() if s.active], "the session to end")


def test_a_name_twice(sandbox, name):
    handle = sandbox.process.create_pty_session(name)
    with pytest.raises(DaytonaConflictError):
        sandbox.process.create_pty_session(name)
    handle.disconnect()


def test_what_is_missing_is_not_found(sandbox):
    for call in (sandbox.process.get_pty_session_info, sandbox.process.kill_pty_session):
        with pytest.raises(DaytonaNotFoundError):
            call("no-such-pty")
    # The contract lets the socket open, and says it there.
    with pytest.raises(DaytonaConnectionError, match="no-such-pty"):
        sandbox.process.connect_pty_session("no-such-pty")


@contextlib.contextmanager
def client(stack, *words: object):
    """A client in a process of its own, whose output is a file."""
    environment = os.environ | stack.client_environment() | {"SDK_ROOT": str(STATE / "node")}
    with tempfile.NamedTemporaryFile() as output:
        process = subprocess.Popen([str(word) for word in words], env=environment, stdin=subprocess.PIPE, stdout=output, stderr=subprocess.STDOUT)
        try:
            yield process, lambda: Path(output.name).read_text(errors="replace")
        finally:
            process.kill()
            process.wait()


@pytest.mark.parametrize("sdk", ["python", "typescript"])
def test_pain_a13_what_a_frozen_client_swallowed_the_next_one_gets(stack, sandbox, name, sdk):
    """The first client stops in the middle, with its connection open: the kernel goes on taking what the terminal prints. The next asks for nothing special."""
    scripts = REPO / "tests" / "compatibility"
    python = [sys.executable, scripts / "python/attach.py"]
    typed = "stty -echo; echo be''fore; " + waiting(name, "echo swal''lowed\n")
    with client(stack, *python, "create", sandbox.id, name, typed) as (first, printed):
        eventually(lambda: "before" in printed(), "the first client to see the terminal")
        first.send_signal(signal.SIGSTOP)
        eventually(lambda: Path(f"/proc/{first.pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "T", "the first client to stand still")
        begun(sandbox, name)
        let(sandbox, name)
        words = [*python, "connect", sandbox.id, name, ""] if sdk == "python" else [STATE / "node/bin/node", scripts / "typescript/attach.mjs", sandbox.id, name]

        def got_it() -> bool:
            """Whether one that attaches now gets it; it is killed, which leaves things as they were."""
            with client(stack, *words) as (_, seen):
                eventually(lambda: "attached" in seen(), "the next client to be attached", 60)
                end = time.monotonic() + 1.5
                while "swallowed" not in seen() and time.monotonic() < end:
                    time.sleep(0.05)
                return "swallowed" in seen()

        eventually(got_it, "the next client to get what the first never saw", 60)
        assert "swallowed" not in printed()
