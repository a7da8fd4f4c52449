"""The demo is the first thing a stranger sees, so it is a test like any other."""

from __future__ import annotations

import os
import subprocess
import sys

from support import REPO


def run(stack, **changed: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | stack.client_environment() | changed
    return subprocess.run([sys.executable, REPO / "tools" / "demo.py"], env=environment, capture_output=True, text=True, timeout=170, check=False)


def test_every_step_of_the_demo_answers_right(stack):
    answer = run(stack)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert "every answer right" in answer.stdout


def test_the_demo_fails_with_a_wrong_key(stack):
    answer = run(stack, DAYTONA_API_KEY="dtn_wrong")
    assert answer.returncode == 1, answer.stdout + answer.stderr
    assert "DaytonaAuthenticationError" in answer.stdout


def test_the_demo_needs_its_settings(stack):
    assert run(stack, DAYTONA_API_URL="").returncode == 2
