"""Every public method of the official SDKs, found by introspection, with success and with the error it must raise.

The newest Python SDK, synchronous and asynchronous, and v0.190's, each in an environment of its own (tools/setup --tests). The suite beside
this file tests the newest in depth; this one fails when a method of any of them was called by nobody.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from stack import STATE
from support import REPO, busybox

HERE = REPO / "tests" / "compatibility" / "python"
PYTHONS = {"newest": sys.executable, "v0.190": STATE / "sdk" / "python-0.190" / "bin" / "python", "2025": STATE / "sdk" / "python-2025" / "bin" / "python"}


RUNS = {(python, kind): ("methods.py", kind) for python in ("newest", "v0.190") for kind in ("sync", "async")} | {("2025", "flow"): ("flow_2025.py",)}


@pytest.fixture(scope="module")
def started(stack, tmp_path_factory) -> Iterator[dict[tuple[str, str], subprocess.Popen[str]]]:
    """All of them at once, each with the SDK's own Python: they wait more than they work."""
    processes = {}
    for (python, kind), (script, *arguments) in RUNS.items():
        interpreter = PYTHONS[python]
        assert os.path.exists(interpreter), f"{interpreter} is not set up; run tools/setup --tests"
        scratch = tmp_path_factory.mktemp(f"{python}-{kind}")
        environment = os.environ | stack.client_environment() | {"SMALL_IMAGE": busybox(), "SCRATCH": str(scratch)}
        command = [interpreter, HERE / script, *arguments]
        processes[python, kind] = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    yield processes
    for process in processes.values():
        process.kill()
        process.communicate()


@pytest.mark.parametrize(("python", "kind"), [run for run in RUNS if run[1] != "flow"])
def test_every_method_succeeds_and_fails_as_it_must(started, python: str, kind: str):
    out, err = started[python, kind].communicate(timeout=170)
    assert out, err[-3000:]
    found = json.loads(out.splitlines()[-1])
    assert found["methods"] > 90, "the introspection finds the SDK's methods"
    assert not found["wrong"], "\n".join(found["wrong"])
    assert not found["untested"], "\n".join(found["untested"])
    assert not found["stale"], f"these succeed after all: {found['stale']}"


def test_the_flow_of_2025_in_python(started):
    process = started["2025", "flow"]
    out, err = process.communicate(timeout=100)
    assert process.returncode == 0, out + err[-3000:]
