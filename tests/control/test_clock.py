"""The wall clock is set, or time goes by, while the control plane runs. A shim between it and the C library adds what the test wants to the real time."""

from __future__ import annotations

import contextlib
import sqlite3
import struct
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from control_harness import PATIENCE, Api, Split, Toolbox, fetch, free_port, wait_for

SHIM = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>

/* What is added: to the wall clock, and to every clock. */
static const volatile int64_t *added(void) {
    static const volatile int64_t *both;
    if (!both) {
        const char *path = getenv("CLOCK_STEP");
        int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
        void *at = file < 0 ? MAP_FAILED : mmap(0, 16, PROT_READ, MAP_SHARED, file, 0);
        static const int64_t none[2];
        both = at == MAP_FAILED ? none : at;
    }
    return both;
}

int clock_gettime(clockid_t clock, struct timespec *at) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    int result = real(clock, at);
    if (result == 0 && clock == CLOCK_REALTIME) at->tv_sec += added()[0] + added()[1];
    if (result == 0 && clock == CLOCK_MONOTONIC) at->tv_sec += added()[1];
    return result;
}
"""
MINUTE = 60
DAY = 86_400


class Stepped(Split):
    """A control plane whose clocks the test sets."""

    def __init__(self, directory: Path, **environment: str) -> None:
        source, shim = directory / "shim.c", directory / "shim.so"
        source.write_text(SHIM)
        subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", str(shim), str(source), "-ldl"], check=True)
        self.clock = directory / "step"
        self.clock.write_bytes(bytes(16))
        self.wall = self.passed = 0
        shimmed = {"LD_PRELOAD": str(shim), "CLOCK_STEP": str(self.clock)}
        super().__init__(directory, **shimmed, PINFOLD_SNAPSHOT_IDLE_DAYS="14", **environment)

    def set_clocks(self) -> None:
        # In place: the process has the file mapped.
        with self.clock.open("r+b") as file:
            file.write(struct.pack("=qq", self.wall, self.passed))

    def step(self, seconds: int) -> None:
        """Sets the wall clock, this far from the real one."""
        self.wall = seconds
        self.set_clocks()

    def let_pass(self, seconds: int) -> None:
        """Time goes by, on every clock. Connections that were idle for so long are closed, so new ones are made."""
        self.passed += seconds
        self.set_clocks()
        self.connect()

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
    answer = pending.result(PATIENCE)
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
    answer = pending.result(PATIENCE)
    assert answer is not None and answer.status_code == 200


def test_a_policy_that_could_not_be_applied_is_tried_again_after_half_a_minute(stepped: Stepped) -> None:
    stepped.healthcheck()
    box = stepped.started("box")
    call = stepped.background("POST", f"/sandbox/{box}/network-settings", json={"networkBlockAll": True})
    stepped.manual.do("UPDATE_SANDBOX_NETWORK_SETTINGS", "FAILED", errorMessage="the table is locked")
    answer = call.result(PATIENCE)
    assert answer is not None and answer.status_code == 500
    assert stepped.poll(0.2) == [], "not at once"
    stepped.let_pass(31)
    assert stepped.manual.do("UPDATE_SANDBOX_NETWORK_SETTINGS")["payload"] == {"networkBlockAll": True}
    stepped.let_pass(MINUTE)
    assert stepped.poll(0.2) == [], "it is in force"


def came(split: Split, *wanted: tuple[str, str]) -> dict[str, str]:
    """Waits for jobs of these kinds for these sandboxes, and for no others. Returns the jobs' ids by sandbox."""
    jobs: dict[tuple[str, str], str] = {}

    def look() -> bool:
        jobs.update({(job["type"], job["resourceId"]): job["id"] for job in split.poll(0.3)})
        return set(jobs) >= set(wanted)

    wait_for(str(wanted), look)
    assert set(jobs) == set(wanted) and split.poll(0.2) == []
    return {sandbox: job for (_, sandbox), job in jobs.items()}


def test_each_timer_fires_when_it_is_due_and_not_before(stepped: Stepped) -> None:
    stepped.healthcheck()
    stops = stepped.started("stops", autoStopInterval=15)
    short = stepped.started("short", autoStopInterval=15, autoDeleteInterval=0)
    lives = stepped.started("lives", ttlMinutes=20)
    never = stepped.started("never", autoStopInterval=0)
    deletes = stepped.stopped("deletes", autoDeleteInterval=30, autoArchiveInterval=60)
    archives = stepped.stopped("archives", autoArchiveInterval=60)
    stepped.let_pass(14 * MINUTE)
    assert stepped.api.state(stops) == "started" and stepped.poll(0.2) == []
    stepped.let_pass(2 * MINUTE)
    stepped.api.state(stops)
    jobs = came(stepped, ("STOP_SANDBOX", stops), ("DESTROY_SANDBOX", short))
    for job in jobs.values():
        stepped.finish(job)
    assert (stepped.api.state(stops), stepped.api.state(short)) == ("stopped", None)
    stepped.let_pass(5 * MINUTE)
    stepped.api.state(lives)
    stepped.finish(came(stepped, ("DESTROY_SANDBOX", lives))[lives])
    stepped.let_pass(10 * MINUTE)
    stepped.api.state(deletes)
    stepped.finish(came(stepped, ("DESTROY_SANDBOX", deletes))[deletes])
    stepped.let_pass(30 * MINUTE)
    stepped.api.state(archives)
    stepped.finish(came(stepped, ("CREATE_BACKUP", archives))[archives])
    stepped.finish(came(stepped, ("DESTROY_SANDBOX", archives))[archives])
    assert (stepped.api.state(archives), stepped.api.state(never)) == ("archived", "started")


def test_use_keeps_a_sandbox_awake_and_looking_at_it_does_not(stepped: Stepped, tmp_path: Path) -> None:
    toolbox = Toolbox()
    stepped.manual.healthcheck(proxyUrl=toolbox.url)
    boxes = {name: stepped.started(name, autoStopInterval=15, public=True) for name in ("toolbox", "preview", "told", "read", "watched")}
    root = f"http://127.0.0.1:{stepped.port}"

    def use() -> None:
        key = {"Authorization": f"Bearer {stepped.api.key}"}
        watching = {**key, "X-Daytona-Skip-Last-Activity-Update": "true"}
        by_host = {"Host": f"3000-{boxes['preview']}.proxy.localhost"}
        assert fetch("GET", f"{root}/toolbox/{boxes['toolbox']}/files", headers=key).status_code == 200
        assert fetch("GET", f"{root}/page", headers=by_host).status_code == 200
        assert stepped.api.post(f"/sandbox/{boxes['told']}/last-activity").status_code == 201
        assert fetch("GET", f"{root}/toolbox/{boxes['watched']}/files", headers=watching).status_code == 200
        assert stepped.api.state(boxes["read"]) == "started" and len(stepped.api.get("/sandbox").json()["items"]) == 5

    stepped.let_pass(10 * MINUTE)
    use()
    stepped.let_pass(10 * MINUTE)
    stepped.api.state(boxes["read"])
    for job in came(stepped, ("STOP_SANDBOX", boxes["read"]), ("STOP_SANDBOX", boxes["watched"])).values():
        stepped.finish(job)

    def stored() -> int:
        query = "SELECT count(*) FROM sandboxes WHERE state = 'started' AND last_activity_at - created_at >= 600000"
        with contextlib.closing(sqlite3.connect(f"file:{tmp_path}/data/control.db?mode=ro", uri=True)) as database:
            return int(database.execute(query).fetchone()[0])

    # Last activities are written down some time after they happened.
    wait_for("what was used to be stored", lambda: stored() == 3)
    stepped.control.kill()
    stepped.start_control()
    assert stepped.poll(0.2) == [], "what was used is remembered by its start, or by what was stored"


@pytest.mark.parametrize("counts", [True, False])
def test_what_a_session_runs_keeps_a_sandbox_awake_if_that_is_wanted(tmp_path: Path, counts: bool) -> None:
    split = Stepped(tmp_path, **({"PINFOLD_BUSY_IS_ACTIVE": "true"} if counts else {}))
    try:
        toolbox = Toolbox()
        toolbox.sessions = [{"sessionId": "s", "commands": [{"id": "c", "command": "make"}]}]
        split.manual.healthcheck(proxyUrl=toolbox.url)
        box = split.started("box", autoStopInterval=15)

        def active() -> str:
            return str(split.api.get(f"/sandbox/{box}").json()["lastActivityAt"])

        if counts:
            for asked in (1, 2):
                before = active()
                split.let_pass(16 * MINUTE)
                wait_for("the daemon to be asked", lambda asked=asked: split.api.state(box) and len(toolbox.read) == asked)
                wait_for("what it said to count", lambda before=before: active() > before)
                assert split.api.state(box) == "started" and split.poll(0.2) == []
            assert toolbox.read == [f"/sandboxes/{box}/toolbox/process/session"] * 2, "asked when it would be stopped, and only then"
            toolbox.sessions[0]["commands"][0]["exitCode"] = 0
        split.let_pass(16 * MINUTE)
        split.api.state(box)
        came(split, ("STOP_SANDBOX", box))
        assert len(toolbox.read) == (3 if counts else 0)
    finally:
        split.close()


def test_a_daemon_that_cannot_be_asked_keeps_no_sandbox_awake(tmp_path: Path) -> None:
    split = Stepped(tmp_path, PINFOLD_BUSY_IS_ACTIVE="true")
    try:
        split.manual.healthcheck(proxyUrl=f"http://127.0.0.1:{free_port()}")
        box = split.started("box", autoStopInterval=15)
        split.let_pass(16 * MINUTE)
        split.api.state(box)
        came(split, ("STOP_SANDBOX", box))
    finally:
        split.close()


def test_credentials_end_when_they_said(tmp_path: Path) -> None:
    stepped = Stepped(tmp_path, PINFOLD_SSH_PORT=str(free_port()))
    try:
        stepped.manual.healthcheck(proxyUrl=Toolbox().url)
        box = stepped.started("box")
        root = f"http://127.0.0.1:{stepped.port}"
        ssh = stepped.api.post(f"/sandbox/{box}/ssh-access", params={"expiresInMinutes": 5}).json()
        link = stepped.api.get(f"/sandbox/{box}/ports/3000/signed-preview-url", params={"expiresInSeconds": 240}).json()
        ends = (datetime.now(UTC) + timedelta(minutes=5)).isoformat()
        key = stepped.api.post("/api-keys", json={"name": "short", "permissions": [], "expiresAt": ends}).json()["value"]

        def good() -> list[bool]:
            valid = stepped.api.get("/sandbox/ssh-access/validate", params={"token": ssh["token"]}).json()
            return [
                valid == {"valid": True, "sandboxId": box},
                fetch("GET", root, headers={"Host": link["url"].removeprefix("http://")}).status_code == 200,
                Api(stepped.control.info["url"], key).get("/sandbox").status_code == 200,
            ]

        stepped.let_pass(3 * MINUTE)
        assert good() == [True] * 3
        stepped.let_pass(3 * MINUTE)
        assert good() == [False] * 3
        stepped.control.kill()
        stepped.start_control()
        assert good() == [False] * 3, "not after a restart either"
    finally:
        stepped.close()


def test_a_create_waits_for_a_runner_and_not_for_ever(stepped: Stepped) -> None:
    """Weakness 15: admission waits, within a bound."""
    pending = stepped.background("POST", "/sandbox", json={"name": "nowhere"})

    def answered() -> bool:
        stepped.let_pass(16)
        stepped.api.get("/health")
        return pending.done()

    wait_for("the create to be answered", answered)
    answer = pending.result()
    assert answer is not None and answer.status_code == 400 and answer.json()["code"] == "NO_RUNNER", answer and answer.text
    assert stepped.api.state("nowhere") is None


def test_a_pool_that_cannot_be_filled_is_tried_again_after_a_pause_and_holds_up_no_other(stepped: Stepped) -> None:
    stepped.healthcheck()

    def pool(at: int) -> dict[str, Any]:
        return dict(stepped.api.get("/warm-pools").json()[at])

    def fail(why: str) -> None:
        stepped.manual.do("CREATE_SANDBOX", "FAILED", errorMessage=why)
        stepped.manual.do("DESTROY_SANDBOX")
        wait_for("the failure to be told", lambda: why in (pool(0)["errorReason"] or ""))
        assert stepped.poll(0.5) == [], "it is not tried again at once"

    first = stepped.api.post("/warm-pools", json={"snapshot": "default", "pool": 1}).json()
    fail("disk full")
    assert stepped.api.post("/warm-pools", json={"snapshot": "default", "pool": 1}).status_code == 201
    stepped.manual.do("CREATE_SANDBOX")
    wait_for("the other pool", lambda: pool(1)["currentSize"] == 1)
    stepped.let_pass(31)
    stepped.healthcheck()
    fail("still full")
    assert stepped.api("PATCH", f"/warm-pools/{first['id']}", json={"pool": 1}).status_code == 200
    fail("as full as before")  # who changes a pool need not wait
    stepped.let_pass(31)
    stepped.healthcheck()
    stepped.manual.do("CREATE_SANDBOX")
    wait_for("the pool to be full", lambda: (pool(0)["currentSize"], pool(0)["errorReason"]) == (1, None))
    assert stepped.poll(0.2) == []


def answers(socket: ClientConnection) -> None:
    """Waits for the answer to a ping. With that the server has done all that what it sent before began: its timers run."""
    socket.send("2")
    while (frame := socket.recv(PATIENCE)) == "2":
        socket.send("3")
    assert frame == "3"


def test_an_event_socket_whose_key_has_expired_is_closed(stepped: Stepped) -> None:
    ends = (datetime.now(UTC) + timedelta(minutes=10)).isoformat()
    key = stepped.api.post("/api-keys", json={"name": "short", "permissions": [], "expiresAt": ends}).json()["value"]
    with connect(f"ws://127.0.0.1:{stepped.port}/api/socket.io/?EIO=4&transport=websocket") as socket:
        assert str(socket.recv(PATIENCE)).startswith("0{")
        socket.send(f'40{{"token":"{key}"}}')
        assert str(socket.recv(PATIENCE)).startswith("40{")
        answers(socket)
        stepped.let_pass(11 * MINUTE)
        stepped.api.get("/health")
        with pytest.raises(ConnectionClosed):
            # Only a ping would be due.
            assert socket.recv(PATIENCE) is None


def test_an_event_socket_whose_client_has_gone_is_closed(stepped: Stepped) -> None:
    url = f"ws://127.0.0.1:{stepped.port}/api/socket.io/?EIO=4&transport=websocket"

    with connect(url) as there, connect(url) as gone:
        for socket in (there, gone):
            assert str(socket.recv(PATIENCE)).startswith("0{")
            socket.send(f'40{{"token":"{stepped.api.key}"}}')
            assert str(socket.recv(PATIENCE)).startswith("40{")
            answers(socket)
        stepped.let_pass(26)
        stepped.api.get("/health")
        assert (there.recv(PATIENCE), gone.recv(PATIENCE)) == ("2", "2")
        there.send("3")
        answers(there)
        answers(gone)
        stepped.let_pass(21)
        stepped.api.get("/health")
        with pytest.raises(ConnectionClosed):
            gone.recv(PATIENCE)
        answers(there)
