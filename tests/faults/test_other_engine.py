"""What an engine's bad days do to a runner: it restarts under load, and its disk is full. The engine is another one, on a small disk of its own."""

from __future__ import annotations

import subprocess
import threading
import uuid
from collections.abc import Iterator

import pytest

from node import Node
from second_host import second_host, unmount
from stack import STATE
from support import eventually

pytestmark = [pytest.mark.faults, pytest.mark.timeout(170)]

DISK = 400 << 20


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    """A runner on a host whose engine, and whose own data, are on one small loop device."""
    # Mounts are listed by their real paths.
    place = (STATE / "tmp" / "second").resolve()
    place.mkdir(parents=True, exist_ok=True)
    # A run that was killed may have left its disk.
    unmount(place)
    subprocess.run(["umount", "-l", str(place)], check=False, capture_output=True)
    disk = STATE / "tmp" / "second.img"
    with disk.open("wb") as file:
        file.truncate(DISK)
    subprocess.run(["mkfs.ext4", "-q", "-m", "0", str(disk)], check=True)
    subprocess.run(["mount", "-o", "loop", str(disk), str(place)], check=True)
    try:
        with second_host(place) as host:
            node = Node(host)
            try:
                node.start()
                yield node
            finally:
                node.close()
    finally:
        subprocess.run(["umount", str(place)], check=False)
        disk.unlink()


def believed(node: Node, *sandboxes: str) -> None:
    node.plane.sandboxes = [{"id": s, "state": "started", "desiredState": "started"} for s in sandboxes]


def test_an_engine_that_restarts_under_load(node):
    """Without live restore its sandboxes end with it: that is told within seconds, jobs end with reasons, and no network is open at any time."""
    running = [node.sandbox(networkBlockAll=True), node.sandbox(networkAllowList="192.0.2.0/24"), node.sandbox()]
    believed(node, *running)
    rules = {sandbox: node.rules(sandbox) for sandbox in running}
    node.engine.reset()
    cut_off, gone = threading.Event(), threading.Event()

    def before(step: str) -> bool:
        """One start is under way when the engine goes, however fast the others are, and the engine never hears of it."""
        if not step.endswith("/start") or cut_off.is_set():
            return True
        cut_off.set()
        gone.wait(60)
        return False

    node.engine.before = before
    fresh = [str(uuid.uuid4()) for _ in range(8)]
    jobs = {s: node.plane.push("CREATE_SANDBOX", s, node.create_payload(s, networkBlockAll=True)) for s in fresh}
    eventually(lambda: cut_off.is_set() and len(node.engine.steps) > 4, "the engine to be in the middle of creates")
    assert node.host is not None
    node.host.end_engine()
    gone.set()
    node.host.engine()
    # Seconds: the listing that would find it without the engine's events comes every two minutes.
    eventually(lambda: {s for s, _ in node.plane.states} >= set(running), "what has ended to be told", 30)
    assert all(body["state"] == "stopped" for s, body in node.plane.states if s in running), node.plane.states
    done = {s: node.plane.result(job) for s, job in jobs.items()}
    for sandbox, job in done.items():
        if job["status"] == "FAILED":
            assert any(step in job["errorMessage"] for step in ("creating the container", "starting the container", "waiting for the daemon", "preparing", "inspecting")), job
            node.job("CREATE_SANDBOX", sandbox, node.create_payload(sandbox, networkBlockAll=True))
    assert any(job["status"] == "FAILED" for job in done.values()), "one start was cut off"
    for sandbox in running:
        assert node.rules(sandbox) == rules[sandbox], "its rules outlive the engine"
        node.job("START_SANDBOX", sandbox, {"authToken": "t"})
        assert node.rules(sandbox) == rules[sandbox]
    for sandbox in [*running, *(s for s, job in done.items() if job["status"] == "FAILED")]:
        assert node.run(sandbox, "echo up") == "up\n"
    node.plane.sandboxes = []
    for sandbox in [*running, *fresh]:
        node.job("DESTROY_SANDBOX", sandbox)
    node.nothing_left()


def test_a_full_disk_below_engine_and_runner(node):
    """Jobs fail with a reason, a step, and what the control plane needs to call it recoverable; what runs goes on; space cures it."""
    kept = node.sandbox(networkBlockAll=True)
    assert node.run(kept, "echo precious > /work; cat /work") == "precious\n"
    rules = node.rules(kept)
    filler = node.directory / "filler"
    with pytest.raises(OSError, match="No space"), filler.open("wb", buffering=0) as file:
        while True:
            file.write(b"\0" * 4096)
    fresh = str(uuid.uuid4())
    refused = [
        node.plane.result(node.plane.push("CREATE_SANDBOX", fresh, node.create_payload(fresh))),
        node.plane.result(node.plane.push("CREATE_BACKUP", kept, {"snapshot": "daytona-backup-pf:1", "registry": None})),
    ]
    for job in refused:
        assert job["status"] == "FAILED", job
        assert "no space left on device" in job["errorMessage"].lower(), job
        assert '"recoverable":true' in job["errorMessage"], job
        assert node.plane.told[job["id"]] == 1, "told although it could not be kept"
    assert "failed after" in refused[0]["errorMessage"], "it names its step"
    assert node.run(kept, "cat /work") == "precious\n"
    assert node.rules(kept) == rules
    node.job("STOP_SANDBOX", kept, {})
    filler.unlink()
    node.job("START_SANDBOX", kept, {"authToken": "t"})
    assert node.run(kept, "cat /work") == "precious\n"
    assert node.rules(kept) == rules
    node.job("CREATE_SANDBOX", fresh, node.create_payload(fresh))
    for sandbox in (kept, fresh):
        node.job("DESTROY_SANDBOX", sandbox)
    node.nothing_left()
