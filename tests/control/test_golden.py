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

from control_harness import POOL, Api, ManualRunner, Split, free_port, wait_for

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
    ("18-second-runner-draining", 0.08): (201, "a new runner's first healthcheck may have everything"),
}

_QUEUED = "what contradicts an operation under way is done after it, not refused"
EXCEPTIONS |= {
    ("16-conflicts", 0.141): (200, _QUEUED),
    ("16-conflicts", 0.154): (200, _QUEUED),
    ("16-conflicts", 0.187): (400, "archive needs a stopped sandbox, and says so the same way in every state"),
    ("16-conflicts", 0.234): (200, _QUEUED),
}

# Calls and jobs that have no counterpart here: what comes of them would be another story than the recorded one. (recording, when) -> why
_DELETE = "delete is never refused: test_faults has what happens instead"
_UNASKED = "nothing is backed up unasked, and a failed backup is not tried again by itself"
SKIPPED: dict[tuple[str, float], str] = {
    ("16-conflicts", 0.172): _DELETE,
    ("16-conflicts", 0.846): _DELETE,
    ("16-conflicts", 0.858): "a stop during a create is done after it: test_faults",
    ("16-conflicts", 17.278): _UNASKED,
    ("16-conflicts", 17.291): _UNASKED,
    ("18-second-runner-draining", 66.389): _UNASKED,
    ("18-second-runner-draining", 66.398): _UNASKED,
    ("18-second-runner-draining", 86.441): "the create pulls: it has the registry",
    ("18-second-runner-draining", 86.461): "the same",
    ("22-backups", 99.607): _UNASKED,
    ("22-backups", 99.616): _UNASKED,
}

# Paths that are others here: administration is a part of the API itself.
ELSEWHERE = {"/admin/runners": "/runners"}

# What an operator did meanwhile that is not in the recording. (recording, when) -> what, and the body; {first} is the runner that was there before.
_DRAIN = ("/runners/{first}/draining", {"draining": True})
_SECOND = "/runners/b1dde34b-6299-42c6-9a57-1772ce5d8498/scheduling"
MEANWHILE: dict[tuple[str, float], tuple[str, dict[str, Any]]] = {
    ("18-second-runner-draining", 0.222): (_SECOND, {"unschedulable": True}),
    ("18-second-runner-draining", 6.61): _DRAIN,
    ("18-second-runner-draining", 65.15): (_SECOND, {"unschedulable": False}),
    ("18-second-runner-draining", 76.395): _DRAIN,
}

# What comes later here, and why. (recording, when) -> (when here, why)
_COPY = "nothing is destroyed before the copy is there"
_REAL = "a foreign job has to exist before it can be refused"
LATER: dict[tuple[str, float], tuple[float, str]] = {
    ("18-second-runner-draining", 106.455): (118.925, _COPY),
    ("18-second-runner-draining", 106.471): (118.926, _COPY),
    ("18-second-runner-draining", 0.148): (0.2571, _REAL),
    ("18-second-runner-draining", 0.158): (0.2572, _REAL),
    ("18-second-runner-draining", 0.168): (0.2573, _REAL),
}

# What an operator had done before the recording began.
BEFORE = {"24-warm-pool": ("/warm-pools", {"snapshot": "default", "pool": 1})}

# What is not in jobs or answers here, and why.
LESS = {
    "/status.traceContext": "the control plane does no tracing of its own",
    "CREATE_SANDBOX.otelEndpoint": "there is no collector that sandboxes could be pointed at",
    "UPDATE_SANDBOX_NETWORK_SETTINGS.networkLimitEgress": "there are no organizations whose egress is limited",
    "CREATE_SANDBOX.registry": "the default snapshot is in the engine's own store, so that there is nothing to open",
    "UPDATE_SANDBOX_NETWORK_SETTINGS.domainAllowList": "block-all blocks all: it ends the domains' list, too",
    "START_SANDBOX.metadata.domainAllowList": "the same",
    "/start.domainAllowList": "the same",
    "/sandbox/dr-2.backupCreatedAt": _UNASKED,
}

# What is in jobs only here, and why.
ALSO = {
    "24-warm-pool": (".metadata.", "a sandbox of a pool is of the only organization, like any other"),
}

# Jobs that come here and not there, and why.
MORE = {
    "DESTROY_SANDBOX": "a failed sandbox that is deleted is destroyed, and does not leak",
    "UPDATE_SANDBOX_NETWORK_SETTINGS": "settings that were asked for during another operation are applied after it",
    "CREATE_BACKUP": "a sandbox that ran on has changed since its last backup",
    "CREATE_SANDBOX": "a pool is filled as soon as a sandbox was taken from it, and again when that one could not be made into what was asked for",
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
        self.early: dict[str, list[dict[str, Any]]] = {}
        self.later: list[dict[str, Any]] = []
        self.found: list[str] = []
        self.open: list[tuple[dict[str, Any], concurrent.futures.Future[httpx.Response]]] = []
        self.waited: set[int] = set()
        url = split.control.info["url"]
        self.first = split.as_runner.get("/runners/me").json()["id"]
        self.callers = {"<RUNNER_TOKEN>": split.as_runner, "<USER_KEY>": split.api, "<UNKNOWN_KEY>": Api(url, "nonsense")}

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

    def caller(self, event: dict[str, Any]) -> Api:
        # Keys of the proxy and of the SSH gateway are users' keys here. A runner that the recording registers has the key that ours gave it.
        key = event["key"].removeprefix("Bearer ")
        if key not in self.callers and key.startswith("<RUNNER_TOKEN") and key in self.ids:
            self.callers[key] = Api(self.split.control.info["url"], self.ids[key])
        return self.callers.get(key, self.split.api)

    def send(self, event: dict[str, Any]) -> httpx.Response:
        caller = self.caller(event)
        body = {} if event["body"] is None else {"json": json.loads(self.ours(json.dumps(event["body"])))}
        path = self.ours(event["path"].removeprefix("/api"))
        path = ELSEWHERE.get(path, path)
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

    def fits(self, theirs: dict[str, Any], here: dict[str, Any]) -> bool:
        """Whether a job of ours is the counterpart of a recorded one, as far as its sandbox is known by now."""
        known = self.ids.get(theirs["resourceId"])
        name = (theirs["payload"] or {}).get("name")
        mine = json.loads(here.get("payload") or "{}").get("name")
        same = known == here["resourceId"] if known else here["resourceId"] not in self.ids.values()
        return theirs["type"] == here["type"] and same and (not name or name == mine)

    def poll(self, event: dict[str, Any]) -> None:
        expected = event["response"]["jobs"]
        runner, early = ManualRunner(self.caller(event)), self.early.setdefault(event["key"], [])
        jobs: list[dict[str, Any] | None] = [None] * len(expected)

        def come() -> bool:
            fresh = [*early, *runner.poll(0 if early else 0.5)]
            early.clear()
            for job in fresh:
                at = next((n for n, theirs in enumerate(expected) if jobs[n] is None and self.fits(theirs, job)), None)
                if at is not None:
                    jobs[at] = job
                elif any(self.fits(theirs, job) for theirs in self.later):
                    early.append(job)
                elif job["type"] in MORE:
                    runner.finish(job["id"])
                else:
                    self.found.append(f"{event['at']}: {job['type']} is only here")
            return None not in jobs

        wait_for(f"{[job['type'] for job in expected]} of {event['at']}; so far: {self.found}", come)
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
        also = ALSO.get(self.name, ("nothing", ""))[0]
        lines = [line for line in found if not any(f"{known} is missing" in line for known in LESS)]
        self.found += [line for line in lines if not (line.endswith("is only here") and also in line)]

    def settle(self, wait: float = 0, at: float = 0) -> None:
        """Compares what has been answered. A call whose answer came before this moment there gets a while for it here, once: it may have to wait for a job."""
        for event, future in list(self.open):
            first = event["at"] < at and id(future) not in self.waited
            self.waited |= {id(future)} if first else set()
            if concurrent.futures.wait([future], 0.6 if first else wait).done:
                self.open.remove((event, future))
                self.compare(event, future.result())

    def run(self) -> list[str]:
        events = [json.loads(line) for line in (RECORDINGS / f"{self.name}.jsonl").read_text().splitlines()]
        events = [event for event in events if (self.name, event["at"]) not in SKIPPED]
        events.sort(key=lambda event: LATER.get((self.name, event["at"]), (event["at"], ""))[0])
        if self.name in BEFORE:
            path, body = BEFORE[self.name]
            assert self.split.api.post(path, json=body).status_code == 201
        sent: set[int] = set()
        for index, event in enumerate(events):
            if asked := MEANWHILE.get((self.name, event["at"])):
                path, body = asked
                assert self.split.api("PATCH", self.ours(path).format(first=self.first), json=body).status_code == 200
            if event["path"] == "/api/jobs/poll":
                # What was asked before the job came is asked now: it may be what makes the job.
                for later in range(index + 1, len(events)):
                    other = events[later]
                    begun = other["from"] == "sdk" and other["at"] - other["ms"] / 1000 < event["at"]
                    if begun and later not in sent and other["method"] != "GET":
                        sent.add(later)
                        self.open.append((other, POOL.submit(self.send, other)))
                polls = [other for other in events[index + 1 :] if other["path"] == "/api/jobs/poll" and other["key"] == event["key"]]
                self.later = [job for other in polls for job in other["response"]["jobs"]]
                self.poll(event)
            elif index not in sent:
                if event["from"] == "sdk" and event["method"] != "GET":
                    self.open.append((event, POOL.submit(self.send, event)))
                else:
                    self.settle(0.2, event["at"])
                    self.compare(event, self.send(event))
            self.settle(0.03, event["at"])
        self.settle(30)
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
