"""The control plane alone, in an optimised build, with a runner that has no engine and answers at once."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path

from table import Row, timed

REPO = Path(__file__).parent.parent
sys.path.append(str(REPO / "tests" / "control"))

#: How many sandboxes are listed.
MANY = 10_000


def _build() -> None:
    """Makes the program that is measured, unless PINFOLD_CONTROL_EXAMPLE names one. The harness reads that variable when it is imported."""
    if "PINFOLD_CONTROL_EXAMPLE" in os.environ:
        return
    command = ["cargo", "build", "--locked", "--quiet", "--release", "-p", "pinfold-control", "--example", "with_simulated_runner"]
    subprocess.run(command, check=True, cwd=REPO)
    target = Path(os.environ.get("CARGO_TARGET_DIR", REPO / "target"))
    os.environ["PINFOLD_CONTROL_EXAMPLE"] = str(target / "release" / "examples" / "with_simulated_runner")


def _samples(call: Callable[[], object], times: int) -> list[float]:
    return [timed(call) for _ in range(times)]


def _fill(database: Path) -> None:
    """Copies the one sandbox in it until there are many."""
    with sqlite3.connect(database) as connection:
        names = [row[1] for row in connection.execute("PRAGMA table_info(sandboxes)")]
        row = dict(zip(names, connection.execute("SELECT * FROM sandboxes").fetchone(), strict=True))
        marks = ", ".join("?" * len(names))
        for n in range(MANY - 1):
            one = {**row, "id": str(uuid.uuid4()), "name": f"box-{n}", "last_activity_at": row["last_activity_at"] + n}
            connection.execute(f"INSERT INTO sandboxes ({', '.join(names)}) VALUES ({marks})", list(one.values()))


def control() -> list[Row]:
    """The control plane's part of a create, and lists of ten thousand sandboxes. The floor is its own GET /health on the same connection."""
    _build()
    from control_harness import Api, Process

    with tempfile.TemporaryDirectory(prefix="pinfold-bench-") as directory:
        log, environment = Path(directory) / "log", {"PINFOLD_DATA_DIR": f"{directory}/data"}
        process = Process(log, **environment)
        api = Api(process.info["url"], process.info["apiKey"])
        create, floor = [], []
        for _ in range(200):
            floor.append(timed(lambda: api.get("/health")))
            create.append(timed(lambda: api.post("/sandbox", json={})))
        process.stop()

        environment["PINFOLD_DATA_DIR"] = f"{directory}/many"
        process = Process(log, **environment)
        api = Api(process.info["url"], process.info["apiKey"])
        api.post("/sandbox", json={"labels": {"a": "b"}, "env": {"K": "v"}})
        process.stop()
        _fill(Path(directory) / "many" / "control.db")
        began = time.perf_counter()
        process = Process(log, **environment)
        start = time.perf_counter() - began
        api = Api(process.info["url"], process.info["apiKey"])
        first = _samples(lambda: api.get("/sandbox"), 100)
        query = {"labels": '{"a":"b"}', "sort": "name"}
        by_label = _samples(lambda: api.get("/sandbox", params=query), 100)
        page = api.get("/sandbox").json()
        assert len(page["items"]) == 100 and page["nextCursor"], "there are many"
        process.stop()
    health = "GET /health"
    return [
        Row("control: a create without an engine", "ms", create, floor, health, limit=10),
        Row(f"control: first of {MANY} sandboxes", "ms", first, floor, health, limit=20),
        Row(f"control: of {MANY}, by label and name", "ms", by_label, floor, health, limit=20),
        Row(f"control: start with {MANY} sandboxes", "s", [start]),
    ]
