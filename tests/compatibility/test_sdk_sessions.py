"""Sessions of the SDK: state that lasts, logs apart and followed, input, the entrypoint."""

from __future__ import annotations

import asyncio
import contextlib
import uuid

import pytest
from daytona import DaytonaError, DaytonaNotFoundError, SessionExecuteRequest

from support import eventually


@pytest.fixture
def session(sandbox):
    name = f"s-{uuid.uuid4()}"
    sandbox.process.create_session(name)
    yield name
    with contextlib.suppress(DaytonaNotFoundError):
        sandbox.process.delete_session(name)


def run(sandbox, session: str, command: str, **keywords):
    return sandbox.process.execute_session_command(session, SessionExecuteRequest(command=command, **keywords), timeout=60)


def finished(sandbox, session: str, command: str) -> int:
    def code() -> tuple[int] | None:
        value = sandbox.process.get_session_command(session, command).exit_code
        return None if value is None else (value,)

    return eventually(code, "the command to end")[0]


def follow(sandbox, session: str, command: str) -> tuple[str, str]:
    out: list[str] = []
    err: list[str] = []
    asyncio.run(asyncio.wait_for(sandbox.process.get_session_command_logs_async(session, command, out.append, err.append), 60))
    return "".join(out), "".join(err)


def test_state_lasts_between_commands(sandbox, session):
    run(sandbox, session, "cd /tmp; export A=kept; shy=too; f() { echo function; }")
    assert run(sandbox, session, 'pwd; echo "$A $shy"; f').stdout == "/tmp\nkept too\nfunction\n"


def test_output_and_errors_are_apart(sandbox, session):
    answer = run(sandbox, session, "echo out; echo err >&2; (exit 3)")
    assert (answer.stdout, answer.stderr, answer.exit_code) == ("out\n", "err\n", 3)
    logs = sandbox.process.get_session_command_logs(session, answer.cmd_id)
    assert (logs.stdout, logs.stderr) == ("out\n", "err\n")


def test_follow_a_running_command(sandbox, session):
    started = run(sandbox, session, "for i in 1 2 3; do echo $i; echo e$i >&2; sleep 0.1; done; (exit 9)", run_async=True)
    assert started.exit_code is None
    assert follow(sandbox, session, started.cmd_id) == ("1\n2\n3\n", "e1\ne2\ne3\n")
    assert finished(sandbox, session, started.cmd_id) == 9


def test_unicode_survives_the_stream(sandbox, session):
    started = run(sandbox, session, "for i in $(seq 500); do printf 'ünïcødé 文件 🐑 '; done", run_async=True)
    assert follow(sandbox, session, started.cmd_id)[0] == "ünïcødé 文件 🐑 " * 500


def test_input(sandbox, session):
    started = run(sandbox, session, 'read -r line; echo "got $line"', run_async=True)
    sandbox.process.send_session_command_input(session, started.cmd_id, "some text\n")
    assert finished(sandbox, session, started.cmd_id) == 0
    assert sandbox.process.get_session_command_logs(session, started.cmd_id).stdout.endswith("got some text\n")


def test_listing(sandbox, session):
    answer = run(sandbox, session, "true")
    assert session in [s.session_id for s in sandbox.process.list_sessions()]
    assert [(c.id, c.command, c.exit_code) for c in sandbox.process.get_session(session).commands] == [(answer.cmd_id, "true", 0)]


def test_delete_leaves_no_process(sandbox):
    sandbox.process.create_session("doomed")
    run(sandbox, "doomed", "sleep 9876 & sleep 9876", run_async=True)
    eventually(lambda: sandbox.process.exec("pgrep -fc 'sleep 987[6]'").result == "2\n", "both to run")
    sandbox.process.delete_session("doomed")
    eventually(lambda: sandbox.process.exec("pgrep -fc 'sleep 987[6]'").result == "0\n", "both to be gone")
    with pytest.raises(DaytonaNotFoundError):
        sandbox.process.get_session("doomed")


def test_a_session_whose_shell_exits_does_not_hang(sandbox, session):
    assert run(sandbox, session, "exit 4").exit_code == 4
    with pytest.raises(DaytonaError):
        run(sandbox, session, "echo anybody there")


def test_a_name_twice(sandbox, session):
    with pytest.raises(DaytonaError, match=r"\S"):
        sandbox.process.create_session(session)


def test_what_is_missing_is_not_found(sandbox, session):
    with pytest.raises(DaytonaNotFoundError):
        sandbox.process.get_session("no-such-session")
    with pytest.raises(DaytonaNotFoundError):
        run(sandbox, "no-such-session", "true")
    with pytest.raises(DaytonaNotFoundError):
        sandbox.process.get_session_command(session, "no-such-command")


def test_the_entrypoint_has_a_session(sandbox):
    entry = sandbox.process.get_entrypoint_session()
    assert entry.commands
    assert "sleep" in entry.commands[0].command
    assert sandbox.process.get_entrypoint_logs().output is not None
