"""Recorded traffic of a v0.190.0 control plane, replayed against ours: the same requests get the same statuses, and answers and jobs of the same shape.

Compared are status codes, members and JSON types, not values. An answer of ours may have more members (the newest clients demand some), never fewer;
a job's payload has exactly the recorded ones. Where ours differs on purpose, `EXCEPTIONS` says so and why.
"""

from __future__ import annotations

import concurrent.futures
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from control_harness import POOL, Api, Split, free_port, wait_for

RECORDINGS = Path(__file__).parent / "golden"
UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")

# (recording, when) -> (status here, why)
EXCEPTIONS: dict[tuple[str, float], tuple[int, str]] = {
    ("04-network-update", 4.348): (500, "a policy that the runner could not apply is no success"),
    ("06-recover", 0.593): (200, "a failed sandbox that is deleted is there until its container is gone"),
    ("06-recover", 42.886): (400, "a recovery that failed is told at once, not by a wait that times out"),
    ("11-ssh-preview-toolbox", 0.057): (200, "a user may ask whether an SSH token is valid"),
    ("11-ssh-preview-toolbox", 0.46): (404, "a start ends the old preview token at once, not after ten seconds"),
    ("15-state-sync", 0.335): (400, "a state that a runner cannot report is the runner's mistake"),
}

# What is not in jobs or answers here, and why.
LESS = {
    "CREATE_SANDBOX.registry": "the default snapshot is in the engine's own store, so that there is nothing to open",
    "UPDATE_SANDBOX_NETWORK_SETTINGS.domainAllowList": "block-all blocks all: it ends the domains' list, too",
    "START_SANDBOX.metadata.domainAllowList": "the same",
    "/start.domainAllowList": "the same",
}

# Jobs that come here and not there, and why.
MORE = {
    "DESTROY_SANDBOX": "a failed sandbox that is deleted is destroyed, and does not leak",
}


def kind(value: Any) -> str:
    return "number" if isinstance(value, (int, float)) and not isinstance(value, bool) else type(value).__name__


def differences(recorded: Any, ours: Any, at: str, exact: bool = False) -> Iterator[str]:
    if recorded is None:
        return
    if ours is None or kind(recorded) != kind(ours):
        yield f"{at}: {kind(recorded)} there, {kind(ours)} here"
    elif isinstance(recorded, dict):
        for name, value in recorded.items():
            if value is not None and name not in ours:
                yield f"{at}.{name} is missing here"
            elif name in ours and not at.endswith((".env", ".labels", ".metadata")):
                yield from differences(value, ours[name], f"{at}.{name}", exact)
        if exact:
            yield from (f"{at}.{name} is only here" for name in ours if name not in recorded)
    elif isinstance(recorded, list) and recorded and ours:
        yield from differences(recorded[0], ours[0], f"{at}[0]", exact)


class Replay:
    """One recording against one control plane. Recorded ids are known by ours as they come up."""

    def __init__(self, split: Split, name: str) -> None:
        self.split = split
        self.name = name
        self.ids: dict[str, str] = {}
        self.found: list[str] = []
        self.open: list[tuple[dict[str, Any], concurrent.futures.Future[httpx.Response]]] = []
        url = split.control.info["url"]
        runner = Api(url, split.control.info["runnerToken"])
        stranger = Api(url, "nonsense")
        self.callers = {"<RUNNER_TOKEN>": runner, "<USER_KEY>": split.api, "<UNKNOWN_KEY>": stranger}

    def ours(self, text: str) -> str:
        for theirs, here in self.ids.items():
            text = text.replace(theirs, here)
        return text

    def learn(self, theirs: Any, here: Any) -> None:
        if isinstance(theirs, dict) and isinstance(here, dict):
            for name in theirs.keys() & here.keys():
                self.learn(theirs[name], here[name])
        elif isinstance(theirs, list) and isinstance(here, list):
            for one, other in zip(theirs, here, strict=False):
                self.learn(one, other)
        elif isinstance(theirs, str) and isinstance(here, str) and (UUID.fullmatch(theirs) or theirs.startswith("<")):
            self.ids.setdefault(theirs, here)

    def send(self, event: dict[str, Any]) -> httpx.Response:
        # Keys of the proxy and of the SSH gateway are users' keys here.
        caller = self.callers.get(event["key"].removeprefix("Bearer "), self.split.api)
        body = {} if event["body"] is None else {"json": json.loads(self.ours(json.dumps(event["body"])))}
        path = self.ours(event["path"].removeprefix("/api"))
        query = {name: self.ours(value) if isinstance(value, str) else value for name, value in event["query"].items()}
        return caller(event["method"], path, params=query, **body)

    def compare(self, event: dict[str, Any], answer: httpx.Response) -> None:
        what = f"{event['at']} {event['method']} {UUID.sub('<id>', event['path'])}"
        expected, _ = EXCEPTIONS.get((self.name, event["at"]), (event["status"], ""))
        if answer.status_code != expected:
            self.found.append(f"{what}: {event['status']} there, {answer.status_code} here: {answer.text[:150]}")
            return
        if expected == event["status"] and event["response"] is not None:
            body = answer.json() if answer.content else None
            self.learn(event["response"], body)
            self.note(differences(event["response"], body, what))

    def poll(self, event: dict[str, Any]) -> None:
        expected = event["response"]["jobs"]
        jobs: list[dict[str, Any]] = []
        wanted = [job["type"] for job in expected]

        def come() -> bool:
            for job in self.split.poll(0.5):
                if job["type"] in MORE and job["type"] not in wanted:
                    self.split.finish(job["id"])
                else:
                    jobs.append(job)
            return len(jobs) >= len(wanted)

        wait_for(str(wanted), come, 5)
        kinds = ([job["type"] for job in expected], [job["type"] for job in jobs])
        assert kinds[0] == kinds[1], f"{event['at']}: {kinds}, and so far: {self.found}"
        for theirs, here in zip(expected, jobs, strict=True):
            self.learn({"id": theirs["id"], "resourceId": theirs["resourceId"]}, here)
            what = f"{event['at']} {theirs['type']}"
            missing = set(theirs["keys"]) ^ set(here)
            if missing - {"traceContext"}:
                self.found.append(f"{what}: members of the job: {missing}")
            payload = json.loads(here["payload"]) if here.get("payload") else None
            self.learn(theirs["payload"], payload)
            self.note(differences(theirs["payload"], payload, what, exact=True))

    def note(self, found: Iterator[str]) -> None:
        self.found += [line for line in found if not any(f"{known} is missing" in line for known in LESS)]

    def settle(self, wait: float) -> None:
        for event, future in list(self.open):
            if concurrent.futures.wait([future], wait).done:
                self.open.remove((event, future))
                self.compare(event, future.result())

    def run(self) -> list[str]:
        events = [json.loads(line) for line in (RECORDINGS / f"{self.name}.jsonl").read_text().splitlines()]
        sent: set[int] = set()
        for index, event in enumerate(events):
            if event["path"] == "/api/jobs/poll":
                # What was asked before the job came is asked now: it may be what makes the job.
                for later in range(index + 1, len(events)):
                    other = events[later]
                    begun = other["from"] == "sdk" and other["at"] - other["ms"] / 1000 < event["at"]
                    if begun and later not in sent and other["method"] != "GET":
                        sent.add(later)
                        self.open.append((other, POOL.submit(self.send, other)))
                self.poll(event)
            elif index not in sent:
                if event["from"] == "sdk" and event["method"] != "GET":
                    self.open.append((event, POOL.submit(self.send, event)))
                else:
                    self.settle(0.2)
                    self.compare(event, self.send(event))
            self.settle(0.03)
        self.settle(5)
        assert self.open == [], "every call is answered"
        return self.found


@pytest.mark.parametrize("name", sorted(path.stem for path in RECORDINGS.glob("*.jsonl")))
def test_recorded_traffic(tmp_path: Path, name: str) -> None:
    split = Split(
        tmp_path,
        PINFOLD_REGISTRY="registry.test:6000",
        PINFOLD_REGISTRY_USERNAME="user",
        PINFOLD_REGISTRY_PASSWORD="password",
        PINFOLD_SSH_PORT=str(free_port()),
    )
    try:
        split.healthcheck()
        assert Replay(split, name).run() == []
    finally:
        split.close()
