"""`top`, `status` and `sandbox logs`: what is going on, for people at a terminal and for programs."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import termios
import time
import uuid
from collections.abc import Callable

import pytest
from daytona import CreateSandboxFromSnapshotParams, CreateSnapshotParams

from stack import BINARY
from support import busybox, eventually

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def environment(stack) -> dict[str, str]:
    return os.environ | stack.client_environment() | {"PINFOLD_DATA_DIR": str(stack.data)}


@pytest.fixture
def pinfold(environment) -> Run:
    def run(*arguments: str, **changed: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([BINARY, *arguments], env=environment | changed, capture_output=True, text=True, timeout=60, check=False)

    return run


class Terminal:
    """A command on a terminal, and what it has drawn."""

    def __init__(self, environment: dict[str, str], *arguments: str) -> None:
        pid, self.fd = pty.fork()
        if pid == 0:
            os.execve(BINARY, [str(BINARY), *arguments], environment)
        termios.tcsetwinsize(self.fd, (50, 200))
        self.pid = pid
        self.text = ""

    def wait_for(self, wanted: Callable[[str], object], what: str, seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while not wanted(self.text):
            assert time.monotonic() < deadline, f"waited {seconds} s for {what}; seen: {self.text[-2000:]!r}"
            if select.select([self.fd], [], [], 0.1)[0]:
                self.text += os.read(self.fd, 65536).decode(errors="replace")

    def interrupt(self) -> int:
        """Ctrl-C, and the exit status."""
        os.write(self.fd, b"\x03")
        self.wait_for(lambda text: text.endswith("\x1b[?1049l"), "the terminal to be given back")
        status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        os.close(self.fd)
        return status


def test_top_shows_runners_and_sandboxes(pinfold, make_sandbox):
    sandbox = make_sandbox()
    stopped = make_sandbox()
    stopped.stop()
    shown = json.loads(pinfold("top", "--json").stdout)
    runner = next(r for r in shown["runners"] if r["name"] == "local")
    assert runner["state"] == "ready"
    assert runner["cpu"] > 0
    by_id = {s["id"]: s for s in shown["sandboxes"]}
    metrics = by_id[sandbox.id]["metrics"]
    assert metrics["memTotal"] == sandbox.memory << 30
    assert 0 < metrics["memUsed"] < metrics["memTotal"]
    assert metrics["diskUsed"] > 0
    assert "metrics" not in by_id[stopped.id]
    lines = pinfold("top").stdout.splitlines()
    assert any(line.startswith("local ") and "ready" in line for line in lines)
    assert any(line.startswith(sandbox.name) and "local" in line and "of 1.0" in line for line in lines)
    assert any(line.startswith(stopped.name) and "–" in line for line in lines)


def test_watching_keeps_no_sandbox_awake(pinfold, make_sandbox):
    sandbox = make_sandbox()
    sandbox.refresh_data()
    before = sandbox.last_activity_at
    assert "metrics" in next(s for s in json.loads(pinfold("top", "--json").stdout)["sandboxes"] if s["id"] == sandbox.id)
    sandbox.refresh_data()
    assert sandbox.last_activity_at == before


def test_top_is_live_in_a_terminal(environment, make_sandbox):
    sandbox = make_sandbox()
    terminal = Terminal(environment, "top", "--interval", "1")
    terminal.wait_for(lambda text: sandbox.id in text, "the sandbox")
    sandbox.stop()
    row = re.compile(re.escape(sandbox.id) + r"\s+stopped")
    terminal.wait_for(row.search, "the sandbox's new state")
    assert terminal.interrupt() == 0


def test_status_is_what_the_runner_reports(stack, pinfold, make_sandbox):
    make_sandbox()
    answer = pinfold("status", "--json")
    assert answer.returncode == 0, answer.stderr
    told = json.loads(answer.stdout)
    assert all(service["healthy"] for service in told["serviceHealth"])
    figures = told["metrics"]
    assert figures["currentStartedSandboxes"] >= 1
    assert 0 < figures["currentMemoryUsagePercentage"] < 100
    shown = json.loads(stack.api("GET", "/runners")[1])[0]
    assert (figures["cpu"], figures["diskGiB"]) == (shown["cpu"], shown["disk"]), "what it says of itself is what it reports"
    text = pinfold("status").stdout
    assert re.search(r"^docker +well$", text, re.MULTILINE), text
    names = {service["serviceName"] for service in told["serviceHealth"]}
    assert names >= {"docker", "container-runtime", "network-policy", "volumes", "disk", "disk-quota", "registry"}
    for service in told["serviceHealth"]:
        assert f"well, but {service['errorReason']}" in text if "errorReason" in service else True, "what is missing is shown, too"
    assert re.search(r"^memory +\d+ % of [\d.]+ GiB$", text, re.MULTILINE), text


def test_status_is_live_and_says_when_the_runner_has_gone(stack, environment, pinfold):
    terminal = Terminal(environment, "status", "--interval", "1")
    terminal.wait_for(lambda text: "docker" in text, "the services")
    try:
        stack.stop()
        terminal.wait_for(lambda text: "no runner of this host" in text or "does not answer" in text, "the end to be seen")
        gone = pinfold("status", "--json")
        assert gone.returncode == 10
        assert "pinfold up" in gone.stderr
    finally:
        stack.start()
    drawn = len(terminal.text)
    terminal.wait_for(lambda text: "docker" in text[drawn:], "the new instance to be seen")
    assert terminal.interrupt() == 0


def test_status_says_what_is_missing(pinfold, tmp_path):
    answer = pinfold("status", PINFOLD_DATA_DIR=str(tmp_path))
    assert answer.returncode == 10
    assert str(tmp_path) in answer.stderr


@pytest.fixture
def speaking(daytona, make_sandbox):
    """A sandbox whose entrypoint writes to both streams, then a line whenever a file called `more` comes, until one called `end` does."""
    loop = "while [ ! -e /tmp/end ]; do [ -e /tmp/more ] && rm /tmp/more && echo another; sleep 0.1; done; echo over"
    name = f"speaking-{uuid.uuid4()}"
    params = CreateSnapshotParams(name=name, image=busybox(), entrypoint=["sh", "-c", f"echo to stdout; echo to stderr >&2; {loop}"])
    snapshot = daytona.snapshot.create(params, timeout=60)
    sandbox = make_sandbox(CreateSandboxFromSnapshotParams(snapshot=name))
    yield sandbox
    daytona.delete(sandbox, wait=True)
    daytona.snapshot.delete(snapshot)


def test_logs_of_the_entrypoint(pinfold, environment, speaking):
    # The second of the two is written a moment after the first, and comes another way.
    eventually(lambda: "to stderr" in pinfold("sandbox", "logs", speaking.name).stderr, "both lines")
    answer = pinfold("sandbox", "logs", speaking.name)
    assert (answer.returncode, answer.stdout, answer.stderr) == (0, "to stdout\n", "to stderr\n")
    command = [BINARY, "sandbox", "logs", "--follow", speaking.id]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as following:
        assert following.stdout.readline() == "to stdout\n"
        speaking.process.exec("touch /tmp/more")
        assert following.stdout.readline() == "another\n"
        speaking.process.exec("touch /tmp/end")
        assert following.stdout.read() == "over\n"
        assert following.wait(60) == 0, "following ends with the entrypoint"


def test_logs_that_are_followed_end_with_ctrl_c(environment, make_sandbox):
    sandbox = make_sandbox()
    command = [BINARY, "sandbox", "logs", "-f", sandbox.id]
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as following:
        try:
            with pytest.raises(subprocess.TimeoutExpired):
                following.wait(1)
            following.send_signal(signal.SIGINT)
            assert following.wait(60) in (-signal.SIGINT, 130)
            assert following.stderr.read() == ""
        finally:
            following.kill()


def test_logs_of_what_is_missing_or_stopped(pinfold, make_sandbox):
    assert pinfold("sandbox", "logs", "no-such-sandbox").returncode == 13
    sandbox = make_sandbox()
    sandbox.stop()
    answer = pinfold("sandbox", "logs", sandbox.id)
    assert answer.returncode == 11
    assert "stopped" in answer.stderr or "not started" in answer.stderr
