"""`pinfold up` is killed again and again in the middle of creates and deletes, on the real engine: no sandbox is lost, none is made twice.

`-m slow` does it forty times, `-m "not slow"` three times.
"""

from __future__ import annotations

import http.client
import json
import random
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from support import eventually

WORKERS = 3


class Life:
    """Makes and deletes sandboxes for as long as it is let, and notes what it was told."""

    def __init__(self, stack) -> None:
        self.stack = stack
        self.over = threading.Event()
        self.lock = threading.Lock()
        self.count = 0
        #: Names by what was answered: a create of it (or that it got through before), a delete of it; and those of which a delete was sent.
        self.made: set[str] = set()
        self.found: set[str] = set()
        self.gone: set[str] = set()
        self.doomed: set[str] = set()
        self.threads = [threading.Thread(target=self.run) for _ in range(WORKERS)]
        for thread in self.threads:
            thread.start()

    def call(self, method: str, path: str, body: object | None = None) -> int:
        """The status, or 0 when the server went away."""
        try:
            return self.stack.api(method, path, body, timeout=60)[0]
        except (OSError, http.client.HTTPException):
            time.sleep(0.02)
            return 0

    def run(self) -> None:
        while not self.over.is_set():
            with self.lock:
                self.count += 1
                name = f"kill-{self.count}"
            while (status := self.call("POST", "/sandbox", {"name": name, "autoStopInterval": 0})) == 0 and not self.over.is_set():
                # As a script would: asked again, by the same name.
                pass
            if status == 200:
                self.made.add(name)
            if status == 409:
                # The first try got through, and only its answer was lost.
                self.found.add(name)
            assert status in (0, 200, 409), (name, status)
            if random.random() < 0.6:
                self.doomed.add(name)
                if self.call("DELETE", f"/sandbox/{name}") == 200:
                    self.gone.add(name)

    def end(self) -> None:
        self.over.set()
        for thread in self.threads:
            thread.join(90)
            assert not thread.is_alive()


def listed(stack) -> dict[str, dict]:
    items = json.loads(stack.api("GET", "/sandbox/paginated?page=1&limit=200")[1])["items"]
    ours = [item for item in items if item["name"].startswith("kill-")]
    assert len({item["name"] for item in ours}) == len(ours), "no name is there twice"
    return {item["name"]: item for item in ours}


@pytest.fixture
def creates(tmp_path: Path) -> Iterator[Callable[[], list[str]]]:
    """The names of the containers that the engine has made since; listened to, because it remembers few."""
    log = tmp_path / "events"
    command = ["docker", "events", "--since", datetime.now(UTC).isoformat(), "--filter", "event=create", "--format", "{{.Actor.Attributes.name}}"]
    with log.open("w") as out, subprocess.Popen(command, stdout=out) as listening:
        yield lambda: log.read_text().split()
        listening.terminate()


@pytest.mark.parametrize("kills", [3, pytest.param(40, marks=[pytest.mark.slow, pytest.mark.timeout(600)])])
def test_killed_at_many_points(stack, creates, kills):
    containers = set(stack.containers())
    life = Life(stack)
    try:
        for number in range(kills):
            # Spread over the length of a create and a delete, and a little by chance.
            time.sleep(1.5 * (number % 5) / 5 + random.random() * 0.3)
            stack.kill()
            stack.start()
    finally:
        life.end()
    assert len(life.made | life.found) >= kills, "there was something to kill"

    def settled() -> bool:
        return all(item["state"] == "started" for item in listed(stack).values())

    eventually(settled, "every sandbox to be started", 60)
    there = listed(stack)
    assert (life.made | life.found) - life.doomed <= there.keys(), "what was answered as made is there"
    assert not life.gone & there.keys(), "what was answered as deleted is not"
    eventually(lambda: set(stack.containers()) - containers == {container_of(item["id"]) for item in there.values()}, "a container for each sandbox, and none besides")
    ids = {item["id"] for item in there.values()}
    eventually(lambda: ids <= set(creates()), "the engine to have told of each container")
    seen = creates()
    assert [name for name in seen if seen.count(name) > 1] == [], "no container is made twice"
    for item in there.values():
        status, answer = stack.api("POST", f"/toolbox/{item['id']}/toolbox/process/execute", {"command": "echo alive"})
        assert (status, json.loads(answer)["result"]) == (200, "alive\n"), item["name"]
        assert stack.api("DELETE", f"/sandbox/{item['id']}")[0] == 200
    eventually(lambda: set(stack.containers()) <= containers, "every container to be gone", 60)


def container_of(sandbox_id: str) -> str:
    return subprocess.run(["docker", "inspect", "-f", "{{.Id}}", sandbox_id], check=False, capture_output=True, text=True).stdout.strip()
