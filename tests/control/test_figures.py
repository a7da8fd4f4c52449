"""Figures of the control plane alone, with a runner that answers at once. They mean something in an optimised build only:

cargo build --profile quick -p pinfold-control --example with_simulated_runner
PINFOLD_CONTROL_EXAMPLE=target/quick/examples/with_simulated_runner pytest -c tests/control/pytest.ini tests/control/test_figures.py -s
"""

from __future__ import annotations

import sqlite3
import statistics
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from control_harness import BINARY, Api, Process

OPTIMISED = "debug" not in BINARY.parts
pytestmark = pytest.mark.skipif(not OPTIMISED, reason="a debug build says nothing of speed")


def median_ms(call: Callable[[], object], times: int) -> float:
    taken = []
    for _ in range(times):
        began = time.perf_counter()
        call()
        taken.append((time.perf_counter() - began) * 1000)
    return statistics.median(taken)


def test_the_first_page_of_ten_thousand_sandboxes(tmp_path: Path) -> None:
    environment = {"PINFOLD_DATA_DIR": str(tmp_path / "data")}
    process = Process(tmp_path / "log", SIM_RUNNER="off", **environment)
    process.stop()
    process = Process(tmp_path / "log", **environment)
    Api(process.info["url"], process.info["apiKey"]).post("/sandbox", json={"labels": {"a": "b"}, "env": {"K": "v"}})
    process.stop()
    with sqlite3.connect(tmp_path / "data/control.db") as database:
        names = [row[1] for row in database.execute("PRAGMA table_info(sandboxes)")]
        row = dict(zip(names, database.execute("SELECT * FROM sandboxes").fetchone(), strict=True))
        marks = ", ".join("?" * len(names))
        for n in range(9_999):
            one = {**row, "id": str(uuid.uuid4()), "name": f"box-{n}", "last_activity_at": row["last_activity_at"] + n}
            database.execute(f"INSERT INTO sandboxes ({', '.join(names)}) VALUES ({marks})", list(one.values()))
    began = time.perf_counter()
    process = Process(tmp_path / "log", **environment)
    start = time.perf_counter() - began
    try:
        api = Api(process.info["url"], process.info["apiKey"])
        floor = median_ms(lambda: api.get("/health"), 50)
        first = median_ms(lambda: api.get("/sandbox"), 50)
        by_label = median_ms(lambda: api.get("/sandbox", params={"labels": '{"a":"b"}', "sort": "name"}), 50)
        page = api.get("/sandbox").json()
        assert len(page["items"]) == 100 and page["nextCursor"]
        print(f"\n10 000 sandboxes: first page {first:.1f} ms, by label and name {by_label:.1f} ms, floor {floor:.1f} ms")
        print(f"start with them: {start:.1f} s")
        assert first <= 20
    finally:
        process.stop()


def test_the_control_planes_part_of_a_create(tmp_path: Path) -> None:
    process = Process(tmp_path / "log", PINFOLD_DATA_DIR=str(tmp_path / "data"))
    try:
        api = Api(process.info["url"], process.info["apiKey"])
        floor = median_ms(lambda: api.get("/health"), 50)
        create = median_ms(lambda: api.post("/sandbox", json={}), 200)
        print(f"\ncreate, everything but the engine: {create:.1f} ms, floor {floor:.1f} ms")
        assert create <= 10
    finally:
        process.stop()
