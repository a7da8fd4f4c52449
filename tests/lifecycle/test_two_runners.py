"""Two runners on one control plane. The second lives in a network namespace of its own with an engine of its own, as on another host."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import uuid
from collections.abc import Iterator

import pytest
from daytona import CreateSandboxFromSnapshotParams, CreateSnapshotParams, DaytonaError, VolumeMount

from second_host import SecondHost, second_host, unmount
from stack import STATE
from support import busybox, eventually

# How long a runner may be silent here, in seconds: both report three times in it, and a minute of waiting proves no more.
SILENCE = 6
# Scores that are no further apart are as good as each other to the scheduler.
CLOSE = 10


@pytest.fixture(scope="module")
def second() -> Iterator[SecondHost]:
    directory = STATE.resolve() / "tmp" / "second"
    # A run that was killed may have left both.
    unmount(directory)
    subprocess.run(["rm", "-rf", str(directory)], check=True)
    directory.mkdir(parents=True)
    with second_host(directory) as host:
        yield host
    subprocess.run(["rm", "-rf", str(directory)], check=False)


class Fleet:
    """Both runners as the API shows them."""

    def __init__(self, stack, second: SecondHost) -> None:
        self.stack = stack
        self.second = second
        made = json.loads(stack.api("POST", "/runners", {"name": "second"})[1])
        self.id = made["id"]
        self.process = second.runner(stack.port, made["apiKey"], HEALTHCHECK_INTERVAL=f"{SILENCE // 3}s")
        eventually(self.ready, "the second runner to be ready")

    def ready(self) -> bool:
        assert self.process.poll() is None, (self.second.directory / "pinfold.log").read_text()[-2000:]
        return self.state() == "ready"

    def state(self) -> str:
        return self.show()["state"]

    def show(self) -> dict:
        return json.loads(self.stack.api("GET", f"/runners/{self.id}")[1])

    def alike(self) -> bool:
        """Whether the scheduler counts both as good as each other. They measure one machine, but not at the same time: at the end of a busy moment one knows of it, and the other
        does not."""
        runners = json.loads(self.stack.api("GET", "/runners")[1])
        scores = [runner["availabilityScore"] for runner in runners]
        return len(scores) == 2 and max(scores) - min(scores) <= CLOSE

    def runner_of(self, sandbox) -> str:
        return json.loads(self.stack.api("GET", f"/sandbox/{sandbox.id}")[1])["runnerId"]


@pytest.fixture(scope="module")
def fleet(stack, second: SecondHost, daytona) -> Iterator[Fleet]:
    before = dict(stack.extra)
    stack.stop()
    stack.extra = before | {"PINFOLD_BIND": f"0.0.0.0:{stack.port}", "PINFOLD_RUNNER_SILENCE": f"{SILENCE}s"}
    stack.start()
    try:
        daytona.snapshot.create(CreateSnapshotParams(name="everywhere", image=busybox()), timeout=60)
        fleet = Fleet(stack, second)
        yield fleet
        daytona.snapshot.delete(daytona.snapshot.get("everywhere"))
        assert stack.api("DELETE", f"/runners/{fleet.id}")[0] in (204, 409)
    finally:
        stack.stop()
        stack.extra = before
        stack.start()


def make(daytona, count: int) -> list:
    return [daytona.create(CreateSandboxFromSnapshotParams(snapshot="everywhere"), timeout=60) for _ in range(count)]


def make_on_both(daytona, fleet: Fleet, made: list, least: int, params: CreateSandboxFromSnapshotParams | None = None) -> None:
    """Adds sandboxes until there are `least`, and some on each runner."""
    while len(made) < least or len({fleet.runner_of(s) for s in made}) < 2:
        assert len(made) < 10, f"all went to one runner: {fleet.show()}"
        eventually(fleet.alike, "both runners to be as good as each other")
        made.append(daytona.create(params or CreateSandboxFromSnapshotParams(snapshot="everywhere"), timeout=60))


def test_sandboxes_are_placed_on_both_and_reached_on_both(stack, daytona, fleet):
    made: list = []
    try:
        make_on_both(daytona, fleet, made, 6)
        by_runner: dict[str, list] = {}
        for sandbox in made:
            by_runner.setdefault(fleet.runner_of(sandbox), []).append(sandbox)
        there = {s.id for s in by_runner[fleet.id]}
        assert there <= fleet.second.containers()
        assert not there & set(stack.containers())
        for sandbox in made:
            assert sandbox.process.exec(f"echo {sandbox.id}").result == f"{sandbox.id}\n"
            sandbox.fs.upload_file(b"x" * 100_000, "/tmp/f")
            assert sandbox.fs.download_file("/tmp/f") == b"x" * 100_000
        closed = stack.api("PATCH", f"/runners/{fleet.id}/scheduling", {"unschedulable": True})
        assert closed[0] == 200, closed
        more = make(daytona, 2)
        made += more
        assert fleet.id not in {fleet.runner_of(s) for s in more}, "an unschedulable runner gets nothing"
        sandbox = by_runner[fleet.id][0]
        sandbox.stop()
        sandbox.start()
        assert fleet.runner_of(sandbox) == fleet.id
        assert stack.api("PATCH", f"/runners/{fleet.id}/scheduling", {"unschedulable": False})[0] == 200
    finally:
        for sandbox in made:
            daytona.delete(sandbox, wait=True)
    eventually(lambda: not fleet.second.containers(), "the second engine to be empty")


def test_a_deleted_volume_is_gone_from_both(stack, daytona, fleet):
    """Volumes are directories of each runner here. One that a runner never heard of, and one that is there, stay."""
    roots = (stack.data / "runner" / "volumes", fleet.second.directory / "node" / "volumes")
    gone, kept = (daytona.volume.create(f"vol-{uuid.uuid4()}") for _ in range(2))
    mounts = [VolumeMount(volume_id=gone.id, mount_path="/gone"), VolumeMount(volume_id=kept.id, mount_path="/kept")]
    params = CreateSandboxFromSnapshotParams(snapshot="everywhere", volumes=mounts)
    made: list = []
    try:
        make_on_both(daytona, fleet, made, 2, params)
        for sandbox in made:
            sandbox.fs.upload_file(b"x", "/gone/file")
            sandbox.fs.upload_file(b"x", "/kept/file")
    finally:
        for sandbox in made:
            daytona.delete(sandbox, wait=True)
    assert all((root / gone.id / "file").exists() for root in roots)
    daytona.volume.delete(gone)
    eventually(lambda: not any((root / gone.id).exists() for root in roots), "the volume's directories to be gone")
    assert all((root / kept.id / "file").exists() for root in roots)
    daytona.volume.delete(kept)
    eventually(lambda: not any((root / kept.id).exists() for root in roots), "the other's to be gone, too")


def test_a_runner_that_was_killed_is_noticed_and_its_sandboxes_say_so(daytona, fleet):
    """A runner that is silent for too long counts as lost; its next healthcheck brings it back."""
    made: list = []
    try:
        make_on_both(daytona, fleet, made, 2)
        lost = next(s for s in made if fleet.runner_of(s) == fleet.id)
        os.killpg(fleet.process.pid, signal.SIGKILL)
        fleet.process.wait(10)
        with pytest.raises(DaytonaError, match="second"):
            lost.process.exec("true")
        eventually(lambda: fleet.state() == "unresponsive", "the loss to be noticed", SILENCE + 15)
        with pytest.raises(DaytonaError, match="second"):
            lost.process.exec("true")
        lost.refresh_data()
        assert "second" in (lost.error_reason or ""), "the sandbox says what has become of its runner"
        more = make(daytona, 3)
        made += more
        assert fleet.id not in {fleet.runner_of(s) for s in more}
        key = json.loads(fleet.stack.api("GET", f"/runners/{fleet.id}/full")[1])["apiKey"]
        fleet.process = fleet.second.runner(fleet.stack.port, key, HEALTHCHECK_INTERVAL=f"{SILENCE // 3}s")
        eventually(fleet.ready, "the runner to come back")
        assert lost.process.exec("echo back").result == "back\n", "its container ran on"
    finally:
        for sandbox in made:
            daytona.delete(sandbox, wait=True)
