"""Every public method of the official SDKs, found by introspection, with success and with the error it must raise.

The newest Python SDK, synchronous and asynchronous, the newest of TypeScript, and v0.190's, each in an environment of its own (tools/setup --tests). The suite beside
this file tests the newest in depth; this one fails when a method of any of them was called by nobody.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from stack import STATE
from support import REPO, busybox

SUITES = REPO / "tests" / "compatibility"
NODE = STATE / "node" / "bin" / "node"


def python(sdk: str) -> Path:
    """The Python that has an SDK of earlier days."""
    return STATE / "sdk" / f"python-{sdk}" / "bin" / "python"


#: What runs: program, script, arguments, and where the SDK is if the program does not know.
RUNS: dict[str, tuple[str | Path, str, list[str], Path | None]] = {
    "newest, sync": (sys.executable, "python/methods.py", ["sync"], None),
    "newest, async": (sys.executable, "python/methods.py", ["async"], None),
    "newest, TypeScript": (NODE, "typescript/methods.mjs", [], STATE / "node"),
    "v0.190, sync": (python("0.190"), "python/methods.py", ["sync"], None),
    "v0.190, async": (python("0.190"), "python/methods.py", ["async"], None),
    "v0.190, TypeScript": (NODE, "typescript/methods.mjs", [], STATE / "sdk" / "node-0.190"),
    "2025, Python": (python("2025"), "python/flow_2025.py", [], None),
    "2025, TypeScript": (NODE, "typescript/flow_2025.mjs", [], STATE / "sdk" / "node-2025"),
}


@pytest.fixture(scope="module")
def started(stack, tmp_path_factory) -> Iterator[dict[str, subprocess.Popen[str]]]:
    """All of them at once: they wait more than they work."""
    processes = {}
    common = os.environ | stack.client_environment() | {"SMALL_IMAGE": busybox()}
    for number, (name, (program, script, arguments, root)) in enumerate(RUNS.items()):
        assert Path(program).exists() and (root is None or root.exists()), f"{root or program} is not set up; run tools/setup --tests"
        environment = common | {"SCRATCH": str(tmp_path_factory.mktemp(str(number))), "SDK_ROOT": str(root)}
        command = [program, SUITES / script, *arguments]
        processes[name] = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    yield processes
    for process in processes.values():
        process.kill()
        process.communicate()


@pytest.mark.parametrize("name", [name for name in RUNS if not name.startswith("2025")])
def test_every_method_succeeds_and_fails_as_it_must(started, name: str):
    out, err = started[name].communicate(timeout=170)
    assert out, err[-3000:]
    found = json.loads(out.splitlines()[-1])
    assert found["methods"] > 90, "the introspection finds the SDK's methods"
    assert not found["wrong"], "\n".join(found["wrong"])
    assert not found["untested"], "\n".join(found["untested"])
    assert not found["stale"], f"these succeed after all: {found['stale']}"


@pytest.mark.parametrize("name", [name for name in RUNS if name.startswith("2025")])
def test_the_flow_of_2025(started, name: str):
    out, err = started[name].communicate(timeout=100)
    assert started[name].returncode == 0, out + err[-3000:]
