"""Every operation of the API's public description, v0.190's and the newest, has an answer that says something: it is served, or refused in words.

The list of the newest is read from the newest official client as it is installed. What is refused is named here, so that a route that is lost and a
refusal that is added are both seen.
"""

from __future__ import annotations

import importlib.util
import json
import re
import uuid
from pathlib import Path

import pytest

from control_harness import Api, Process

# The beginnings of paths that are answered with 501, and what they are.
REFUSED = {
    "/admin/": "one user administers everything with the API itself",
    "/audit/": "no audit log",
    "/webhooks/": "no webhooks",
    "/users/": "one user (but /users/me)",
    "/organizations": "one organization: only it, its list and its usage can be read",
    "/regions": "one region, without services of its own: it can be read",
    "/sandbox/{}/telemetry/": "nothing is kept over time",
    "/sandbox/{}/organization": "asked by the original's own services only",
    "/sandbox/{}/region-quota": "no quotas",
    "/sandbox/{}/secrets": "no secrets",
    "/secret": "no secrets",
    "/docker-registry/registry-push-access": "no built-in registry",
}
SERVED_ALL_THE_SAME = {"GET /users/me", "GET /organizations", "GET /organizations/{}", "GET /organizations/{}/usage", "GET /regions", "GET /regions/{}"}
# What only virtual machines can do is 422 (control-plane contract 7).
FOR_MACHINES = {"POST /sandbox/{}/fork", "POST /sandbox/{}/pause"}


def operations() -> list[str]:
    recorded = (Path(__file__).parent / "operations.txt").read_text().splitlines()
    found = {line for line in recorded if not line.startswith("#")}
    spec = importlib.util.find_spec("daytona_api_client")
    assert spec is not None and spec.submodule_search_locations
    for path in Path(spec.submodule_search_locations[0]).glob("api/*.py"):
        for method, resource in re.findall(r"method='(\w+)',\s*resource_path='([^']+)'", path.read_text()):
            found.add(f"{method} {resource}")
    return sorted({re.sub(r"\{\w+\}", "{}", line) for line in found})


OPERATIONS = operations()


def test_the_lists_are_whole() -> None:
    assert len(OPERATIONS) > 190 and {"POST /sandbox", "GET /runners/me", "POST /jobs/{}/status"} <= set(OPERATIONS)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_every_operation_is_answered(api: Api, runner: Api, operation: str) -> None:
    method, pattern = operation.split()
    sandbox = str(uuid.uuid4())
    refused = any(pattern.startswith(beginning) for beginning in REFUSED) and operation not in SERVED_ALL_THE_SAME
    if pattern.startswith("/sandbox/{}/") and (refused or operation in FOR_MACHINES):
        sandbox = api.post("/sandbox", json={}).json()["id"]
    path = pattern.replace("{}", sandbox, 1).replace("{}", "1")
    caller = runner if pattern.startswith("/jobs") else api
    query = {"timeout": "0.1"} if pattern == "/jobs/poll" else {}
    answer = caller(method, path, params=query, **({} if method in ("GET", "DELETE") else {"json": {}}))
    said = answer.json().get("message", "") if answer.status_code >= 400 else ""
    assert answer.status_code != 405 and not said.startswith("Cannot "), f"nobody serves it: {answer.text}"
    assert answer.status_code < 500 or answer.status_code == 501, answer.text
    assert (answer.status_code == 501) == refused, f"{answer.status_code}: {answer.text[:200]}"
    if answer.status_code >= 400:
        assert len(said) > 10, f"a refusal is a sentence: {answer.text}"
    if operation in FOR_MACHINES:
        assert answer.status_code == 422
    if answer.status_code < 400 and method == "POST" and pattern in ("/sandbox", "/volumes"):
        api("DELETE", f"{pattern}/{json.loads(answer.content)['id']}")


# Answered without a key, and why.
OPEN = {
    "GET /config": "a client asks it before it has one",
    "GET /health": "for watchdogs",
    "GET /health/ready": "for watchdogs",
    "GET /preview/{}/access": "404 to whoever may not see it, as for what is not there",
}
# What is asked for first: without it the body is refused before the id is looked at.
BODIES = {
    "PATCH /runners/{}/draining": {"draining": False},
    "PATCH /runners/{}/scheduling": {"unschedulable": False},
    "PATCH /warm-pools/{}": {"pool": 1},
    "POST /jobs/{}/status": {"status": "COMPLETED"},
    "PUT /sandbox/{}/state": {"state": "started"},
}
OF_RUNNERS = ("/jobs", "/sandbox/{}/state")
SERVED = [op for op in OPERATIONS if op in SERVED_ALL_THE_SAME or not any(op.split()[1].startswith(beginning) for beginning in REFUSED)]


def foreign(operation: str) -> tuple[str, str]:
    """Method and path, with ids that are nobody's."""
    method, pattern = operation.split()
    return method, pattern.replace("{}", str(uuid.uuid4()), 1).replace("{}", "1")


def test_nothing_is_open_to_a_bad_key(control: Process) -> None:
    for key in ("nonsense", control.info["apiKey"][:-1]):
        stranger = Api(control.info["url"], key)
        for operation in SERVED:
            answer = stranger(*foreign(operation))
            assert answer.status_code == 401 or operation in OPEN, f"{operation}: {answer.status_code}: {answer.text[:200]}"


def test_ids_of_nobody_are_404(api: Api, runner: Api) -> None:
    for operation in (op for op in SERVED if "{}" in op and op not in FOR_MACHINES):
        caller = runner if operation.split()[1].startswith(OF_RUNNERS) else api
        method, path = foreign(operation)
        answer = caller(method, path, **({} if method in ("GET", "DELETE") else {"json": BODIES.get(operation, {})}))
        assert answer.status_code == 404, f"{operation}: {answer.status_code}: {answer.text[:200]}"


def test_bodies_of_no_length_or_with_unknown_fields_are_as_good_as_empty_ones(api: Api, runner: Api) -> None:
    """And nonsense is refused in words."""
    header = {"Content-Type": "application/json"}
    for operation in (op for op in SERVED if op.split()[0] not in ("GET", "DELETE")):
        caller = runner if operation.split()[1].startswith(OF_RUNNERS) else api
        path = foreign(operation)[1]

        def status(path: str = path, caller: Api = caller, operation: str = operation, **body: object) -> int:
            answer = caller(operation.split()[0], path, **body)
            if answer.status_code < 400 and answer.content and "id" in (made := answer.json()):
                api("DELETE", f"{path}/{made['id']}")
            return answer.status_code

        plain = status(json={})
        assert plain < 500, operation
        assert status(content=b"", headers=header) == plain, operation
        assert status(json={"someday": {"a": [1, None]}, "x": None}) == plain, operation
        for nonsense in (b'{"a', b"[1]", b'"x"', b"\xff\xfe", b"[" * 100_000):
            assert status(content=nonsense, headers=header) < 500, f"{operation}: {nonsense[:10]!r}"


def test_what_nobody_knows_is_404(api: Api) -> None:
    for path in ("/nowhere", "/sandbox/x/nowhere/y"):
        answer = api.get(path)
        assert answer.status_code == 404 and answer.json()["message"].startswith("Cannot GET "), path
