"""Figures of the runner that its own tests take: the same builds as `make test`, unoptimised, run by name."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

from stack import REPO, StackError
from table import Row

#: Milliseconds of the units in which Rust prints durations.
UNITS = {"ns": 1e-6, "µs": 1e-3, "ms": 1, "s": 1e3}


def said(test: str, name: str, **environment: str) -> str:
    """What one test prints."""
    command = ["cargo", "test", "--locked", "--workspace", "--features", "pinfold-runner/engine-tests", "--test", test, "--", "--include-ignored", "--nocapture", name]
    done = subprocess.run(command, cwd=REPO, env=os.environ | environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise StackError(f"{test} {name} failed: {done.stdout[-2000:]}{done.stderr[-2000:]}", 1)
    return done.stdout


def milliseconds(text: str, label: str) -> float:
    """The duration that follows a label."""
    number, unit = re.search(rf"{re.escape(label)} ([\d.]+)(ns|µs|ms|s)\b", text).groups()
    return float(number) * UNITS[unit]


def overhead(daemon: Path) -> list[Row]:
    """The runner's part of a create with this daemon: on the real engine, against the engine's own calls in turns; and on one that takes no time."""
    real = said("engine", "measure", PINFOLD_DAEMON_BINARY=str(daemon))
    floor, ours = (milliseconds(real, f"{what:32} median") for what in ("engine create+start alone", "runner create until ready"))
    return [
        Row("create in the runner until the daemon answers", "ms", [ours], [floor], "engine create+start"),
        Row("… above the floor", "ms", [ours - floor], limit=15),
        Row("create in the runner, engine that takes no time", "ms", [milliseconds(said("lifecycle", "overhead"), "median")], limit=15),
    ]


def policies() -> list[Row]:
    """One network policy of 200, installed or changed; needs root, and that nothing is up."""
    return [Row("network policy, one of 200", "ms", [milliseconds(said("kernel", "two_hundred_policies"), "a policy: p50")], limit=5)]


def fleet() -> list[Row]:
    """500 sandboxes at rest, the simulated engine included."""
    percent, resident = re.search(r"at rest: ([\d.]+) % of a core, (\d+) MiB", said("lifecycle", "five_hundred")).groups()
    return [
        Row("500 simulated sandboxes at rest", "% of a core", [float(percent)], limit=2),
        Row("500 simulated sandboxes, resident", "MiB", [float(resident)], limit=64),
    ]
