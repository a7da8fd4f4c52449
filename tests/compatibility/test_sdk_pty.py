"""Terminals of the SDK: size, input, many clients, what an exit says."""

from __future__ import annotations

import contextlib
import uuid

import pytest
from daytona import DaytonaConflictError, DaytonaConnectionError, DaytonaNotFoundError, PtySize

from support import eventually


@pytest.fixture
def name(sandbox):
    name = f"pty-{uuid.uuid4()}"
    yield name
    with contextlib.suppress(DaytonaNotFoundError):
        sandbox.process.kill_pty_session(name)


def spoken(handle) -> str:
    seen = bytearray()
    handle.wait(on_data=seen.extend, timeout=30)
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


def test_detach_and_attach(sandbox, name):
    first = sandbox.process.create_pty_session(name)
    first.send_input("sleep 1; echo one-$((40+2))\n")
    first.disconnect()
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
