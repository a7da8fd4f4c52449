"""A sandbox at its limits of memory and processes: the daemon lives, answers within seconds, and says what happened (pains B17, B18 and E39)."""

from __future__ import annotations

import itertools
import re
import time
from pathlib import Path

import httpx
import pytest

from conftest import SANDBOX, Daemon
from support import eventually, inspect

MEMORY, TASKS = 256 << 20, 150


@pytest.fixture
def daemon(make_daemon) -> Daemon:
    return make_daemon(SANDBOX, "--memory", str(MEMORY), "--memory-swap", str(MEMORY), "--pids-limit", str(TASKS), "--cpus", "1")


@pytest.fixture(autouse=True)
def same_daemon(daemon):
    """Nothing here may end it, and it may not have been started again."""
    before = inspect(daemon.container)["State"]
    yield
    after = inspect(daemon.container)["State"]
    assert (after["Running"], after["StartedAt"], after["Pid"]) == (True, before["StartedAt"], before["Pid"])


def answers_at_once(daemon: Daemon, limit: float = 10) -> None:
    began = time.monotonic()
    assert daemon.get("/version", timeout=limit).status_code == 200
    assert time.monotonic() - began < limit


HOG = "python3 -c 'x = bytearray(1 << 30)'"
# Forks as fast as it can, and goes on when it cannot.
STORM = """python3 -c '
import os
while True:
    try:
        os.fork()
    except OSError:
        pass
'"""


def test_pain_b18_out_of_memory_is_told_from_other_failures(daemon, name):
    """The answer says it, the status is the one of SIGKILL, and the log names the limit."""
    answer = daemon.execute(f"{HOG}; exit $?")
    assert (answer["exitCode"], answer.get("oomKilled")) == (137, True), answer
    answers_at_once(daemon)
    log = daemon.says("for want of memory")
    assert str(MEMORY) in log, log[-1000:]
    # Killed by anything else is not out of memory, and neither is what fails next.
    killed = daemon.execute("sh -c 'kill -9 $$'; exit $?")
    assert (killed["exitCode"], killed.get("oomKilled", False)) == (137, False), killed
    # The shell itself as the victim.
    own = daemon.execute(f"exec {HOG}")
    assert (own["exitCode"], own["signal"], own.get("oomKilled")) == (-1, "SIGKILL", True), own
    # In a session, whose shell lives on.
    session = daemon.session(name)
    answer = session.run(HOG)
    assert answer["exitCode"] == 137
    command = daemon.get(f"{session.path}/command/{answer['cmdId']}").json()
    assert command.get("oomKilled") is True, command
    assert session.run("echo alive")["stdout"] == "alive\n"
    session.delete()


def test_many_hogs_at_once(daemon):
    """Memory runs out again and again while the daemon serves."""
    answer = daemon.execute(f"for i in 1 2 3 4; do {HOG} & done; wait; echo over", timeout=60)
    assert "over\n" in answer["result"]
    answers_at_once(daemon)
    assert daemon.execute("echo well")["result"] == "well\n"


def test_the_largest_is_the_victim(daemon, name):
    """Not a bystander, such as an interpreter's worker."""
    made = daemon.post("/process/interpreter/context", {}).json()
    session = daemon.session(name)
    assert session.run(HOG)["exitCode"] == 137
    assert [c["active"] for c in daemon.get("/process/interpreter/context").json()["contexts"] if c["id"] == made["id"]] == [True]
    daemon.delete(f"/process/interpreter/context/{made['id']}")
    session.delete()


def peak(daemon: Daemon) -> int:
    """MiB, the most that the daemon has had since its start."""
    pid = inspect(daemon.container)["State"]["Pid"]
    return int(re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[1]) >> 10


def test_pain_c27_git_without_memory_fails_alone(daemon, name):
    """A file that does not fit kills the operation's process: the error says so, nothing half is left, and the daemon has not even grown."""
    base = f"/tmp/{name}"
    script = f"git init -q -b main {base}/big; cd {base}/big; truncate -s 600M zeros; echo a >a; git -c core.bigFileThreshold=1m add ."
    made = daemon.execute(f"{script} && git -c user.name=A -c user.email=a@x commit -qm big", timeout=100)
    assert made["exitCode"] == 0, made
    before = peak(daemon)
    for _ in range(2):
        answer = daemon.post("/git/clone", {"url": f"{base}/big", "path": f"{base}/copy"}, timeout=100)
        assert (answer.status_code, answer.json()["code"]) == (500, "GIT_OUT_OF_MEMORY"), answer.text
        assert "no memory left" in answer.json()["message"] and str(MEMORY) in answer.json()["message"]
        answers_at_once(daemon)
    # Neither the clone nor what it grew in.
    assert daemon.execute(f"ls -A {base}")["result"] == "big\n"
    assert peak(daemon) - before < 8, f"the daemon grew by {peak(daemon) - before} MiB"
    # The repository is as it was, and the next operation has its turn.
    status = daemon.get("/git/status", params={"path": f"{base}/big"})
    assert status.json()["fileStatus"] == [], status.text
    eventually(lambda: daemon.running("pinfold-git") == [], "the last of git's processes to end")


def test_pain_b17_a_fork_storm_is_survived_and_named(daemon, name):
    """While the storm rages the daemon answers; a command has a reason for not starting; the storm's end is the end of it."""
    session = daemon.session(name)
    storm = session.start(STORM)
    eventually(lambda: len(daemon.processes()) > TASKS * 3 // 4, "the storm to rise")
    slowest, refused, rounds = 0.0, None, 0
    for _ in range(40):
        began = time.monotonic()
        assert daemon.get("/version").status_code == 200
        assert daemon.get("/files", params={"path": "/tmp"}).status_code == 200
        answer = daemon.post("/process/execute", {"command": "true", "timeout": 5})
        slowest = max(slowest, time.monotonic() - began)
        rounds += 1
        if answer.status_code == 503:
            refused = answer
        if refused is not None and rounds >= 8:
            break
    print(f"the slowest of {rounds} rounds took {slowest:.1f} s")
    # The storm does not end by itself: whoever had to wait for its end would wait for ever.
    assert slowest < 45, f"an answer took {slowest:.1f} s"
    assert refused is not None, "the storm left room for each command: it was no storm"
    assert refused.json()["code"] == "RESOURCES_EXHAUSTED" and refused.headers["retry-after"]
    assert re.search(rf"at most {TASKS} processes", refused.json()["message"]), refused.json()
    eventually(lambda: re.search(rf"the sandbox is full.*at most {TASKS} processes", daemon.log()), "the log to say so")
    assert session.exit_code(storm) is None
    began = time.monotonic()
    session.delete()
    assert time.monotonic() - began < 45
    eventually(lambda: len(daemon.processes()) < 10, "the storm to be over")
    assert daemon.execute("echo well")["result"] == "well\n"


def test_a_fork_storm_ends_with_its_timeout(daemon):
    answer = daemon.post("/process/execute", {"command": STORM, "timeout": 2})
    assert (answer.status_code, answer.json()["code"]) == (408, "PROCESS_EXECUTION_TIMEOUT")
    eventually(lambda: len(daemon.processes()) < 10, "the storm to be over")
    assert daemon.execute("echo well")["result"] == "well\n"


def refusal(daemon: Daemon, path: str, body: dict) -> httpx.Response | None:
    answer = daemon.post(path, body)
    return None if answer.status_code == 201 else answer


def test_files_and_sockets_when_no_process_can_start(daemon, name):
    """What needs no process works when there is no room for one."""
    session = daemon.session(name)
    # Threads count as well; each holds a place until the session goes.
    session.start("for i in $(seq 400); do sleep 300 & done 2>/dev/null; wait", suppressInputEcho=True)
    eventually(lambda: daemon.post("/process/execute", {"command": "true"}).status_code == 503, "the sandbox to be full")
    content = b"x" * (1 << 20)
    assert daemon.post("/files/upload-v2", params={"path": f"/tmp/{name}"}, content=content).status_code == 200
    assert daemon.get("/files/download", params={"path": f"/tmp/{name}"}).content == content
    assert daemon.get("/files/find", params={"path": f"/tmp/{name}", "pattern": "y"}).json() == []
    assert daemon.get("/system/metrics").status_code == 200
    for path, member in [("/process/session", "sessionId"), ("/process/pty", "id")]:
        # A thread of the daemon's may have ended and left its place: then this takes it, and there is none for the next.
        numbers = itertools.count()
        refused = eventually(lambda path=path, member=member, numbers=numbers: refusal(daemon, path, {member: f"{name}-{next(numbers)}"}), f"{path} to be refused")
        assert (refused.status_code, refused.json()["code"]) == (503, "RESOURCES_EXHAUSTED"), refused.text
    session.delete()
    eventually(lambda: daemon.post("/process/execute", {"command": "true"}).status_code == 200, "room again")
