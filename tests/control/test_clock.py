"""The wall clock is set while the control plane runs. A shim between it and the C library adds what the test wants to the real time."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from control_harness import Split, wait_for

SHIM = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

int clock_gettime(clockid_t clock, struct timespec *at) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    int result = real(clock, at);
    const char *path = getenv("CLOCK_STEP");
    if (clock == CLOCK_REALTIME && result == 0 && path) {
        long seconds = 0;
        FILE *file = fopen(path, "r");
        if (file) {
            if (fscanf(file, "%ld", &seconds) != 1) seconds = 0;
            fclose(file);
        }
        at->tv_sec += seconds;
    }
    return result;
}
"""
DAY = 86_400


class Stepped(Split):
    """A control plane whose wall clock the test sets."""

    def __init__(self, directory: Path) -> None:
        source, shim = directory / "shim.c", directory / "shim.so"
        source.write_text(SHIM)
        subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", str(shim), str(source), "-ldl"], check=True)
        self.clock = directory / "step"
        self.step(0)
        super().__init__(directory, LD_PRELOAD=str(shim), CLOCK_STEP=str(self.clock), PINFOLD_SNAPSHOT_IDLE_DAYS="14")

    def step(self, seconds: int) -> None:
        partial = self.clock.with_suffix(".partial")
        partial.write_text(str(seconds))
        partial.replace(self.clock)

    def skew(self, moment: str) -> float:
        """How far a time of the API is from the real one, in days."""
        return round((datetime.fromisoformat(moment) - datetime.now(UTC)).total_seconds() / DAY)


@pytest.fixture
def stepped(tmp_path: Path) -> Iterator[Stepped]:
    pair = Stepped(tmp_path)
    yield pair
    pair.close()


@pytest.mark.parametrize("days", [2, -2])
def test_a_step_stops_nothing_and_loses_no_runner(stepped: Stepped, days: int) -> None:
    stepped.healthcheck()
    box = stepped.started("box", autoStopInterval=15, autoDeleteInterval=60)
    idle = stepped.stopped("idle", autoDeleteInterval=60, autoArchiveInterval=30)
    pending = stepped.background("POST", "/sandbox", json={"name": "during"})
    during = stepped.manual.take("CREATE_SANDBOX")
    stepped.step(days * DAY)
    assert stepped.api.post(f"/sandbox/{box}/autostop/15").json()["state"] == "started"
    assert stepped.api.post(f"/sandbox/{idle}/autodelete/60").json()["state"] == "stopped"
    assert stepped.poll(0.2) == [], "nobody was idle for days"
    assert stepped.api.get("/runners").json()[0]["state"] == "ready"
    assert stepped.skew(stepped.api.get(f"/sandbox/{box}").json()["lastActivityAt"]) == days, "times are the clock's"
    assert stepped.finish(during["id"]).status_code == 201
    answer = pending.result(10)
    assert answer is not None and answer.json()["state"] == "started"
    late = stepped.started("late")
    assert stepped.skew(stepped.api.get(f"/sandbox/{late}").json()["createdAt"]) == days
    stepped.step(0)
    assert stepped.api.post(f"/sandbox/{box}/autostop/15").json()["state"] == "started"
    assert {item["name"] for item in stepped.api.get("/sandbox").json()["items"]} == {"box", "idle", "during", "late"}
    stepped.api("DELETE", f"/sandbox/{late}")
    stepped.manual.do("DESTROY_SANDBOX")


def test_a_snapshot_that_nobody_uses_for_two_weeks_becomes_inactive(stepped: Stepped) -> None:
    stepped.healthcheck()
    for name in ("used", "idle"):
        assert stepped.api.post("/snapshots", json={"name": name, "imageName": f"{name}:1"}).status_code == 200
        stepped.manual.do("PULL_SNAPSHOT")
    stepped.stopped("box", snapshot="used", autoArchiveInterval=0)
    stepped.control.kill()
    stepped.step(15 * DAY)
    stepped.start_control()
    stepped.healthcheck()
    removed = stepped.manual.do("REMOVE_SNAPSHOT")
    assert removed["resourceId"] == "idle:1", "its space is freed"
    states = {s["name"]: s["state"] for s in stepped.api.get("/snapshots").json()["items"]}
    assert states == {"default": "active", "used": "active", "idle": "inactive"}
    refused = stepped.api.post("/sandbox", json={"snapshot": "idle"})
    assert refused.status_code == 400 and "inactive" in refused.json()["message"]
    assert stepped.api.post("/snapshots/idle/activate").json()["state"] == "pending"
    stepped.manual.do("PULL_SNAPSHOT")
    wait_for("the snapshot to be active again", lambda: stepped.api.get("/snapshots/idle").json()["state"] == "active")
    pending = stepped.background("POST", "/sandbox", json={"snapshot": "idle"})
    stepped.manual.do("CREATE_SANDBOX")
    answer = pending.result(10)
    assert answer is not None and answer.status_code == 200
