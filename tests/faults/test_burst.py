"""A hundred at once: each create succeeds and is told once, each sandbox has rules of its own, and afterwards nothing is left."""

from __future__ import annotations

import uuid

import pytest

pytestmark = [pytest.mark.faults, pytest.mark.timeout(300)]


COUNT = 100


def test_a_hundred_creates_at_once(node):
    sandboxes = [str(uuid.uuid4()) for _ in range(COUNT)]
    with node.plane.changed:
        jobs = {s: node.plane.push("CREATE_SANDBOX", s, node.create_payload(s, networkBlockAll=True)) for s in sandboxes}
    ended = {s: node.plane.result(job, 240) for s, job in jobs.items()}
    assert {job["status"] for job in ended.values()} == {"COMPLETED"}, [job for job in ended.values() if job["status"] != "COMPLETED"]
    assert [node.plane.told[job] for job in jobs.values()] == [1] * COUNT
    assert node.containers() == dict.fromkeys(sandboxes, "running")
    assert len(node.judged()) == COUNT, "an address and its rules each"
    assert all("drop" in node.rules(sandbox) for sandbox in sandboxes)
    with node.plane.changed:
        jobs = {s: node.plane.push("DESTROY_SANDBOX", s) for s in sandboxes}
    assert all(node.plane.result(job, 240)["status"] == "COMPLETED" for job in jobs.values())
    node.nothing_left()
