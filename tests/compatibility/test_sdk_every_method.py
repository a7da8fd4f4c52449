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
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from stack import STATE
from support import REPO, busybox

# Of a run that takes a minute where two processors are all there is.
pytestmark = pytest.mark.timeout(420)

SUITES = REPO / "tests" / "compatibility"
AT_ONCE = 4
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


Ended = subprocess.CompletedProcess[str]


@pytest.fixture(scope="module")
def ended(stack, tmp_path_factory) -> Iterator[dict[str, Future[Ended]]]:
    """The end of each. They run some at a time: they wait more than they work, but each also starts interpreters and language servers."""
    common = os.environ | stack.client_environment() | {"SMALL_IMAGE": busybox()}

    def run(name: str, scratch: Path) -> Ended:
        program, script, arguments, root = RUNS[name]
        assert Path(program).exists() and (root is None or root.exists()), f"{root or program} is not set up; run tools/setup --tests"
        environment = common | {"SCRATCH": str(scratch), "SDK_ROOT": str(root)}
        return subprocess.run([program, SUITES / script, *arguments], env=environment, capture_output=True, text=True, timeout=400, check=False)

    with ThreadPoolExecutor(AT_ONCE) as pool:
        yield {name: pool.submit(run, name, tmp_path_factory.mktemp("run")) for name in RUNS}
        pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize("name", [name for name in RUNS if not name.startswith("2025")])
def test_every_method_succeeds_and_fails_as_it_must(ended, name: str):
    end = ended[name].result()
    assert end.stdout, end.stderr[-3000:]
    found = json.loads(end.stdout.splitlines()[-1])
    assert found["methods"] > 90, "the introspection finds the SDK's methods"
    assert not found["wrong"], "\n".join(found["wrong"])
    assert not found["untested"], "\n".join(found["untested"])
    assert not found["stale"], f"these succeed after all: {found['stale']}"


@pytest.mark.parametrize("name", [name for name in RUNS if name.startswith("2025")])
def test_the_flow_of_2025(ended, name: str):
    end = ended[name].result()
    assert end.returncode == 0, end.stdout + end.stderr[-3000:]
