"""The newest official TypeScript SDK. Its tests are in typescript/suite.mjs; this runs them with Node's own test runner."""

from __future__ import annotations

import os
import subprocess

import pytest

from stack import STATE
from support import REPO, busybox


@pytest.mark.timeout(300)
def test_the_typescript_suite(stack):
    node = STATE / "node" / "bin" / "node"
    assert node.exists(), "Node.js is not set up; run tools/setup --tests"
    suite = REPO / "tests" / "compatibility" / "typescript" / "suite.mjs"
    environment = os.environ | stack.client_environment() | {"SDK_ROOT": str(STATE / "node"), "SMALL_IMAGE": busybox()}
    command = [node, "--test", "--test-timeout=120000", suite]
    answer = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280, check=False)
    assert answer.returncode == 0, answer.stdout[-8000:] + answer.stderr[-2000:]
