"""The control plane is gone for a while: what runs goes on running, results are kept, and each is told once when it is back."""

from __future__ import annotations

import time
import uuid

import pytest

from node import Node
from support import eventually

pytestmark = [pytest.mark.faults, pytest.mark.timeout(240)]


def kept_results(node: Node) -> int:
    return len(list((node.data / "outbox").glob("*.json")))


@pytest.mark.parametrize(("seconds", "killed"), [(1, False), (120, True)], ids=["running on", "for minutes, killed meanwhile"])
def test_results_are_kept_and_told_once(node, seconds, killed):
    closed = node.sandbox(networkBlockAll=True)
    stopping = node.sandbox()
    rules = node.rules(closed)
    node.engine.reset()
    # It leaves when it has handed the jobs out.
    node.plane.on_claim = lambda _: node.plane.leave() is not None
    fresh = str(uuid.uuid4())
    with node.plane.changed:
        jobs = [node.plane.push("CREATE_SANDBOX", fresh, node.create_payload(fresh)), node.plane.push("STOP_SANDBOX", stopping, {})]
    left = time.monotonic()
    eventually(lambda: kept_results(node) == 2, "both results to be kept", 60)
    assert node.plane.told == {job: 1 for job in node.plane.told if job not in jobs}
    if killed:
        node.kill()
        node.buried()
        node.start()
    while time.monotonic() - left < seconds:
        assert node.run(closed, "echo up") == "up\n", "a sandbox does not need the control plane"
        assert node.rules(closed) == rules, "its network stays as it was"
        time.sleep(0.25)
    assert kept_results(node) == 2
    node.plane.leave(False)
    for job in jobs:
        assert node.plane.result(job, 40)["status"] == "COMPLETED"
    eventually(lambda: kept_results(node) == 0, "the results to be let go")
    assert [node.plane.told[job] for job in jobs] == [1, 1]
    assert sorted(node.engine.steps) == ["POST /containers/*/start", "POST /containers/*/stop", "POST /containers/create"], "each was done once"
    node.plane.on_claim = lambda _: False
    for sandbox in (closed, stopping, fresh):
        node.job("DESTROY_SANDBOX", sandbox)
    node.nothing_left()
