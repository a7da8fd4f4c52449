#!/usr/bin/env python3
"""A sandbox's life through the official Python SDK, with a time for each step.

Reads DAYTONA_API_URL and DAYTONA_API_KEY from the environment, as any program that uses the SDK does. Exits 0 only if every step's
answer was right; a step that fails says what it got, and the sandbox is deleted whatever happens.
"""

from __future__ import annotations

import asyncio
import http.client
import os
import shlex
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from urllib.parse import urlsplit

from daytona import CreateSandboxFromSnapshotParams, Daytona, DaytonaNotFoundError, PtySize, Sandbox, SessionExecuteRequest

PAGE = "hello from the sandbox\n"


def equal(got: object, wanted: object) -> None:
    """Fails with both values when they differ."""
    if got != wanted:
        raise AssertionError(f"got {got!r}, wanted {wanted!r}")


def contains(text: str, part: str) -> None:
    """Fails with the text when the part is not in it."""
    if part not in text:
        raise AssertionError(f"{part!r} is not in {text!r}")


def fetch(url: str, headers: dict[str, str]) -> tuple[int, str]:
    """GET that resolves names below localhost to the loopback, as browsers do (RFC 6761, section 6.3) and some resolvers do not."""
    parts = urlsplit(url)
    name = parts.hostname or ""
    host = "127.0.0.1" if name.endswith(".localhost") else name
    connection = http.client.HTTPConnection(host, parts.port or 80, timeout=60)
    try:
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        connection.request("GET", path, headers={"Host": parts.netloc, **headers})
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def ssh(command: str, *remote: str) -> subprocess.CompletedProcess[str]:
    """Runs the `ssh …` command line that the API gave, without asking anybody anything."""
    client, *arguments = shlex.split(command)
    options = ["-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR"]
    return subprocess.run([client, *options, *arguments, *remote], capture_output=True, text=True, timeout=60, check=False)


class Demo:
    """The steps, in order. Each returns what it has to show for itself."""

    def __init__(self) -> None:
        self.daytona = Daytona()
        self.sandbox: Sandbox | None = None

    def box(self) -> Sandbox:
        if self.sandbox is None:
            raise AssertionError("there is no sandbox")
        return self.sandbox

    def create(self) -> str:
        self.sandbox = self.daytona.create(CreateSandboxFromSnapshotParams(language="python", env_vars={"GREETING": "hello"}), timeout=120)
        equal(self.sandbox.state.value if self.sandbox.state else None, "started")
        return f"{self.sandbox.id}, {self.sandbox.cpu} CPU, {self.sandbox.memory} GiB"

    def run_command(self) -> str:
        answer = self.box().process.exec('echo "$GREETING from $(id -un)"; exit 3')
        equal((answer.exit_code, answer.result.strip()), (3, "hello from daytona"))
        return "'hello from daytona', exit code 3"

    def run_code(self) -> str:
        answer = self.box().process.code_run("import numpy, pandas\nprint(int(numpy.arange(101).sum()))")
        equal((answer.exit_code, answer.result.strip()), (0, "5050"))
        return "numpy says 5050"

    def transfer_file(self) -> str:
        content = os.urandom(1 << 20)
        self.box().fs.upload_file(content, "demo/random.bin")
        equal(self.box().fs.get_file_info("demo/random.bin").size, len(content))
        if self.box().fs.download_file("demo/random.bin") != content:
            raise AssertionError("the file came back changed")
        return "1 MiB there and back, the same"

    def session_command(self) -> str:
        process = self.box().process
        process.create_session("demo")
        command = 'for i in 1 2 3; do echo "line $i"; sleep 0.1; done; echo done >&2; exit 7'
        started = process.execute_session_command("demo", SessionExecuteRequest(command=command, run_async=True))
        out: list[str] = []
        err: list[str] = []
        asyncio.run(process.get_session_command_logs_async("demo", started.cmd_id, out.append, err.append))
        equal("".join(out), "line 1\nline 2\nline 3\n")
        equal("".join(err), "done\n")
        equal(process.get_session_command("demo", started.cmd_id).exit_code, 7)
        process.delete_session("demo")
        return "three lines followed as they came, stderr apart, exit code 7"

    def terminal(self) -> str:
        handle = self.box().process.create_pty_session(f"demo-{uuid.uuid4()}", pty_size=PtySize(cols=100, rows=30))
        seen = bytearray()
        handle.wait_for_connection()
        handle.send_input("stty size; exit 5\n")
        result = handle.wait(on_data=seen.extend, timeout=60)
        handle.disconnect()
        contains(seen.decode(errors="replace"), "30 100")
        equal(result.exit_code, 5)
        return "100 by 30, exit code 5"

    def preview(self) -> str:
        self.box().fs.upload_file(PAGE.encode(), "www/index.html")
        self.box().process.create_session("web")
        # Says when it listens, so that nobody has to guess: the socket is bound before the line is printed.
        serve = "cd www && python3 -u -m http.server 8000"
        self.box().process.execute_session_command("web", SessionExecuteRequest(command=serve, run_async=True))
        link = self.box().get_preview_link(8000)
        deadline = time.monotonic() + 60
        while True:
            status, body = fetch(link.url, {"X-Daytona-Preview-Token": link.token})
            if status == 200 or time.monotonic() > deadline:
                break
            time.sleep(0.05)
        equal((status, body), (200, PAGE))
        refused, _ = fetch(link.url, {})
        if refused < 300:
            raise AssertionError(f"without the token the page came too ({refused})")
        self.box().process.delete_session("web")
        return link.url

    def secure_shell(self) -> str:
        access = self.box().create_ssh_access(expires_in_minutes=5)
        answer = ssh(access.ssh_command, "echo hello over ssh; exit 9")
        if answer.returncode != 9:
            raise AssertionError(f"ssh ended with {answer.returncode}: {answer.stderr.strip()}")
        equal(answer.stdout, "hello over ssh\n")
        return "token as user name, exit status 9"

    def delete(self) -> str:
        identity = self.box().id
        self.daytona.delete(self.box(), timeout=60, wait=True)
        self.sandbox = None
        try:
            self.daytona.get(identity)
        except DaytonaNotFoundError:
            return "gone"
        raise AssertionError("it is still there")

    def steps(self) -> list[tuple[str, Callable[[], str]]]:
        """Every step with its name."""
        return [
            ("create a sandbox", self.create),
            ("run a command", self.run_command),
            ("run Python code", self.run_code),
            ("upload and download", self.transfer_file),
            ("async session command", self.session_command),
            ("terminal (PTY)", self.terminal),
            ("web server, preview link", self.preview),
            ("SSH login", self.secure_shell),
            ("delete the sandbox", self.delete),
        ]

    def close(self) -> None:
        """Leaves nothing behind, also after a Ctrl-C."""
        if self.sandbox is not None:
            self.daytona.delete(self.sandbox)


def main() -> int:
    for name in ("DAYTONA_API_URL", "DAYTONA_API_KEY"):
        if not os.environ.get(name):
            print(f"demo: {name} is not set; `set -a; . .pinfold/env` after make up", file=sys.stderr)
            return 2
    wrong = 0
    demo = Demo()
    began = time.monotonic()
    try:
        for name, step in demo.steps():
            started = time.monotonic()
            try:
                shown = step()
            except Exception as error:  # whatever went wrong is the step's answer; the next steps still say what they can
                wrong += 1
                shown = f"WRONG: {type(error).__name__}: {error}"
            print(f"{name:26} {time.monotonic() - started:7.3f} s   {shown}", flush=True)
            if demo.sandbox is None and name == "create a sandbox":
                break
    except KeyboardInterrupt:
        print("demo: interrupted, deleting the sandbox", file=sys.stderr)
        return 130
    finally:
        demo.close()
    print(f"{'all of it':26} {time.monotonic() - began:7.3f} s   {'every answer right' if not wrong else f'{wrong} wrong'}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
