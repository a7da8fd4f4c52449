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

from control_harness import Api

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


def test_what_nobody_knows_is_404(api: Api) -> None:
    for path in ("/nowhere", "/sandbox/x/nowhere/y"):
        answer = api.get(path)
        assert answer.status_code == 404 and answer.json()["message"].startswith("Cannot GET "), path
