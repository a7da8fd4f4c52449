"""Several runners: placement, draining, loss."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from control_harness import PATIENCE, Api, ManualRunner, Split, Toolbox, wait_for

METRICS = {
    "currentCpuLoadAverage": 0.1,
    "currentCpuUsagePercentage": 5.0,
    "currentMemoryUsagePercentage": 10.0,
    "currentDiskUsagePercentage": 10.0,
    "currentAllocatedCpu": 0,
    "currentAllocatedMemoryGiB": 0,
    "currentAllocatedDiskGiB": 0,
    "currentSnapshotCount": 1,
    "currentStartedSandboxes": 0,
    "cpu": 8,
    "memoryGiB": 16,
    "diskGiB": 100,
}


def runner_id(split: Split, name: str) -> str:
    return str(next(runner["id"] for runner in split.api.get("/runners").json() if runner["name"] == name))


def local_id(split: Split) -> str:
    return str(split.as_runner.get("/runners/me").json()["id"])


def test_new_sandboxes_are_spread_between_healthchecks(split: Split) -> None:
    second = split.second_runner()
    split.manual.healthcheck(metrics=METRICS)
    second.healthcheck(metrics=METRICS)
    pending = [split.background("POST", "/sandbox", json={"name": f"spread-{n}"}) for n in range(10)]
    for n in range(10):
        wait_for("the rows", lambda n=n: split.api.state(f"spread-{n}"))
    placed = Counter(s["runnerId"] for s in split.api.get("/sandbox").json()["items"])
    assert sorted(placed.values()) == [5, 5], placed
    for runner in (split.manual, second):
        for job in runner.poll():
            runner.finish(job["id"])
    for future in pending:
        future.result(PATIENCE)


def test_the_better_runner_is_chosen(split: Split) -> None:
    second = split.second_runner()
    split.manual.healthcheck(metrics={**METRICS, "currentMemoryUsagePercentage": 90.0})
    second.healthcheck(metrics=METRICS)
    for n in range(3):
        split.started(f"better-{n}", second)


def test_a_drained_runner_gets_nothing_new(split: Split) -> None:
    split.healthcheck()
    second = split.second_runner()
    drained = split.api("PATCH", f"/runners/{local_id(split)}/draining", json={"draining": True})
    assert drained.json()["draining"] is True
    for n in range(3):
        split.started(f"new-{n}", second)
    assert split.poll(0.2) == []


@pytest.fixture
def with_registry(tmp_path: Path):
    pair = Split(tmp_path, PINFOLD_REGISTRY="registry.test:5000")
    pair.healthcheck()
    yield pair
    pair.close()


def moved(split: Split, box: str, second: ManualRunner) -> None:
    backup = split.manual.do("CREATE_BACKUP")["payload"]
    create = second.take("CREATE_SANDBOX")
    assert create["payload"]["snapshot"] == backup["snapshot"] and create["payload"]["skipStart"] is True
    assert split.poll(0.2) == [], "nothing is destroyed before the copy is there"
    second.finish(create["id"])
    assert split.manual.do("DESTROY_SANDBOX")["resourceId"] == box
    record = split.api.get(f"/sandbox/{box}").json()
    assert (record["state"], record["desiredState"], record["runnerId"]) == ("stopped", "stopped", runner_id(split, "second"))


def test_draining_moves_what_is_stopped(with_registry: Split) -> None:
    split = with_registry
    box = split.stopped("box")
    second = split.second_runner()
    split.api("PATCH", f"/runners/{local_id(split)}/draining", json={"draining": True})
    moved(split, box, second)
    pending = split.background("POST", f"/sandbox/{box}/start")
    second.do("START_SANDBOX")
    answer = pending.result(PATIENCE)
    assert answer is not None and answer.json()["state"] == "started"


def test_what_runs_on_a_drained_runner_moves_when_it_stops(with_registry: Split) -> None:
    split = with_registry
    box = split.started("box")
    second = split.second_runner()
    split.api("PATCH", f"/runners/{local_id(split)}/draining", json={"draining": True})
    assert split.poll(0.2) == [] and split.api.state(box) == "started"
    split.api.post(f"/sandbox/{box}/stop")
    split.manual.do("STOP_SANDBOX")
    moved(split, box, second)


def test_draining_can_stop_what_runs(with_registry: Split) -> None:
    split = with_registry
    box = split.started("box")
    short = split.started("short", autoDeleteInterval=0)
    second = split.second_runner()
    answer = split.api("PATCH", f"/runners/{local_id(split)}/draining", json={"draining": True, "stop": True})
    assert answer.status_code == 200
    split.manual.do("STOP_SANDBOX")
    moved(split, box, second)
    assert split.api.state(short) == "started", "a stop would have been the end of an ephemeral one"


def test_a_failed_move_leaves_it_where_it_is(with_registry: Split) -> None:
    split = with_registry
    box = split.stopped("box")
    second = split.second_runner()
    first = local_id(split)
    split.api("PATCH", f"/runners/{first}/draining", json={"draining": True})
    split.manual.do("CREATE_BACKUP")
    second.do("CREATE_SANDBOX", "FAILED", errorMessage="manifest unknown")
    record = split.api.get(f"/sandbox/{box}").json()
    assert (record["state"], record["runnerId"]) == ("stopped", first)
    assert "could not move" in record["errorReason"]
    pending = split.background("POST", f"/sandbox/{box}/start")
    split.manual.do("START_SANDBOX")
    pending.result(PATIENCE)
    assert split.api.state(box) == "started"


def test_a_runner_that_is_not_well_is_noticed(split: Split) -> None:
    split.healthcheck()
    box = split.started("box")
    ill = [{"serviceName": "docker", "healthy": False, "errorReason": "no answer"}]
    split.manual.healthcheck(serviceHealth=ill)
    assert split.api.get("/runners").json()[0]["state"] == "unresponsive"
    assert "is not well: docker" in split.api.get(f"/sandbox/{box}").json()["errorReason"]
    assert "is not well" in split.api.get("/sandbox").json()["items"][0]["errorReason"]
    split.healthcheck()
    assert "errorReason" not in split.api.get(f"/sandbox/{box}").json(), "and forgiven when it is well again"


def test_a_lost_runner_can_be_given_up(with_registry: Split) -> None:
    split = with_registry
    second = split.second_runner()
    split.api("PATCH", f"/runners/{local_id(split)}/scheduling", json={"unschedulable": True})
    running = split.started("running", second)
    saved = split.stopped("saved", second)
    split.api.post(f"/sandbox/{saved}/backup")
    second.do("CREATE_BACKUP")
    deleted = split.started("deleted", second)
    split.api("DELETE", f"/sandbox/{deleted}")
    gone = runner_id(split, "second")
    refused = split.api("DELETE", f"/runners/{gone}")
    assert refused.status_code == 409 and "force" in refused.json()["message"]
    assert split.api("DELETE", f"/runners/{gone}", params={"force": "true"}).status_code == 204
    assert second.api.get("/jobs/poll").status_code == 401
    lost = split.api.get(f"/sandbox/{running}").json()
    assert lost["state"] == "error" and "was removed" in lost["errorReason"]
    kept = split.api.get(f"/sandbox/{saved}").json()
    assert kept["state"] == "archived" and "its backup is what is left" in kept["errorReason"]
    assert split.api.state(deleted) is None
    assert split.api("DELETE", f"/sandbox/{running}").status_code == 200 and split.api.state(running) is None
    split.api("PATCH", f"/runners/{local_id(split)}/scheduling", json={"unschedulable": False})
    split.api.post(f"/sandbox/{saved}/start")
    split.manual.do("CREATE_SANDBOX")
    assert split.api.state(saved) == "started"


def test_gpus(split: Split) -> None:
    split.healthcheck()
    build = {"buildInfo": {"dockerfileContent": "FROM a:1\n"}, "gpu": 1}
    assert split.api.post("/sandbox", json={**build, "autoDeleteInterval": -1}).status_code == 400
    none = split.api.post("/sandbox", json={**build, "autoDeleteInterval": 0})
    assert none.status_code == 400 and "GPU" in none.json()["message"]
    unknown = split.api.post("/sandbox", json={**build, "autoDeleteInterval": 0, "gpuType": ["Z80"]})
    assert unknown.status_code == 400 and "Z80" in unknown.json()["message"]
    second = split.second_runner()
    second.healthcheck(metrics={**METRICS, "gpu": 2, "gpuType": "H100"})
    body = {**build, "autoDeleteInterval": 0, "gpuType": ["H200", "H100"], "name": "gpu"}
    answer = split.api.post("/sandbox", json=body)
    assert answer.status_code == 200 and answer.json()["gpuType"] == "H100" and answer.json()["gpu"] == 1
    second.do("PULL_SNAPSHOT")
    create = second.do("CREATE_SANDBOX")
    assert create["payload"]["gpuQuota"] == 1


def test_a_runners_token_is_for_those_who_may_change_runners(split: Split) -> None:
    split.healthcheck()
    box = split.started("box")

    token, me = split.control.info["runnerToken"], local_id(split)

    def key(name: str, *permissions: str) -> Api:
        made = split.api.post("/api-keys", json={"name": name, "permissions": permissions})
        return Api(split.control.info["url"], made.json()["value"])

    reader, gateway = key("reader", "read:runners"), key("gateway", "read:runners", "write:runners")
    for path in (f"/runners/by-sandbox/{box}", f"/runners/{me}", "/runners"):
        shown = reader.get(path)
        assert shown.status_code == 200 and me in shown.text and token not in shown.text, path
    assert reader.get(f"/runners/{me}/full").status_code == 403
    assert gateway.get(f"/runners/by-sandbox/{box}").json()["apiKey"] == token


def test_foreign_jobs_are_404(split: Split) -> None:
    split.healthcheck()
    second = split.second_runner()
    split.api("PATCH", f"/runners/{runner_id(split, 'second')}/scheduling", json={"unschedulable": True})
    pending = split.background("POST", "/sandbox", json={"name": "mine"})
    job = split.manual.take("CREATE_SANDBOX")
    assert second.api.get(f"/jobs/{job['id']}").status_code == 404
    assert second.finish(job["id"]).status_code == 404
    sandbox = job["resourceId"]
    assert second.api("PUT", f"/sandbox/{sandbox}/state", json={"state": "stopped"}).status_code == 404
    assert second.api.get("/sandbox/for-runner").json() == []
    split.finish(job["id"])
    pending.result(PATIENCE)


def test_registries(split: Split) -> None:
    split.healthcheck()
    api: Api = split.api
    body = {"name": "team", "url": "https://registry.test:5000", "username": "u", "password": "secret-1", "project": "team"}
    made = api.post("/docker-registry", json=body)
    assert made.status_code == 201 and "secret" not in made.text
    registry = made.json()
    assert registry["registryType"] == "organization" and registry["project"] == "team"
    assert api.post("/docker-registry", json=body).status_code == 409
    assert api.post("/docker-registry", json={**body, "name": "b", "password": ""}).status_code == 400
    assert api.get("/docker-registry").json() == [registry]
    path = f"/docker-registry/{registry['id']}"
    changed = api("PATCH", path, json={"name": "team", "url": body["url"], "username": "u2"})
    assert changed.status_code == 200 and changed.json()["username"] == "u2" and changed.json()["project"] == "team"
    api.post("/snapshots", json={"name": "private", "imageName": "registry.test:5000/team/app:1"})
    pull = split.manual.do("PULL_SNAPSHOT")["payload"]
    expected = {"url": "registry.test:5000", "project": "team", "username": "u2", "password": "secret-1"}
    assert pull["registry"] == expected
    wait_for("the snapshot", lambda: api.get("/snapshots/private").json()["state"] == "active")
    pending = split.background("POST", "/sandbox", json={"snapshot": "private"})
    assert split.manual.do("CREATE_SANDBOX")["payload"]["registry"] == expected, "another runner would have to pull it"
    pending.result(PATIENCE)
    api.post("/snapshots", json={"name": "public", "imageName": "registry.test:5000/other/app:1"})
    assert "registry" not in split.manual.do("PULL_SNAPSHOT")["payload"], "the password is for its own project"
    api.post("/snapshots", json={"name": "built", "buildInfo": {"dockerfileContent": "FROM registry.test:5000/team/app:1\nRUN x\n"}})
    assert split.manual.do("BUILD_SNAPSHOT")["payload"]["sourceRegistries"] == [expected]
    reader = api.post("/api-keys", json={"name": "reader", "permissions": []}).json()["value"]
    stranger = Api(split.control.info["url"], reader)
    assert stranger.post("/docker-registry", json=body).status_code == 403
    assert stranger("DELETE", path).status_code == 403
    assert api("DELETE", path).status_code == 204 and api.get(path).status_code == 404


def warm_pool(split: Split, size: int) -> list[str]:
    """Started sandboxes that wait in a pool."""
    assert split.api.post("/warm-pools", json={"snapshot": "default", "pool": size}).status_code == 201
    waiting = [str(split.manual.do("CREATE_SANDBOX")["resourceId"]) for _ in range(size)]
    wait_for("the pool", lambda: split.api.get("/warm-pools").json()[0]["currentSize"] == size)
    return waiting


def warm(split: Split) -> str:
    """A started sandbox that waits in a pool."""
    return warm_pool(split, 1)[0]


def test_creates_at_once_get_a_waiting_sandbox_each(split: Split) -> None:
    split.healthcheck()
    waiting = warm_pool(split, 6)
    pending = [split.background("POST", "/sandbox", json={}) for _ in waiting]
    answers = [future.result(PATIENCE) for future in pending]
    assert [answer and answer.status_code for answer in answers] == [200] * 6, [answer and answer.text for answer in answers]
    made = [answer.json() for answer in answers if answer]
    assert sorted(box["id"] for box in made) == sorted(waiting), "each is given to one, and none is made anew"
    assert all(box["name"] == box["id"] for box in made)
    named = [split.background("POST", "/sandbox", json={"name": made[0]["id"]}) for _ in range(2)]
    assert [answer and answer.status_code for answer in (future.result(PATIENCE) for future in named)] == [409, 409], "a name that was given is not another's"


def test_a_policy_is_in_force_before_a_warm_sandbox_is_handed_out(split: Split) -> None:
    split.healthcheck()
    waiting = warm(split)
    body = {"name": "guarded", "networkBlockAll": True, "labels": {"a": "b"}, "autoStopInterval": 7}
    pending = split.background("POST", "/sandbox", json=body)
    seen: list[dict[str, object]] = []
    wait_for("the policy's job", lambda: seen.extend(split.poll(0.5)) or any("NETWORK" in str(job["type"]) for job in seen))
    assert not pending.done()
    for job in seen:
        split.finish(str(job["id"]))
    answer = pending.result(PATIENCE)
    assert answer is not None
    made = answer.json()
    assert (made["id"], made["name"], made["state"], made["networkBlockAll"]) == (waiting, "guarded", "started", True)
    assert (made["labels"], made["autoStopInterval"]) == ({"a": "b"}, 7)


def test_what_waits_on_a_drained_runner_is_made_elsewhere(split: Split) -> None:
    split.healthcheck()
    waiting = warm(split)
    second = split.second_runner()
    split.api("PATCH", f"/runners/{local_id(split)}/draining", json={"draining": True})
    assert split.manual.do("DESTROY_SANDBOX")["resourceId"] == waiting
    second.do("CREATE_SANDBOX")
    wait_for("the pool", lambda: split.api.get("/warm-pools").json()[0]["currentSize"] == 1)


def test_what_a_warm_sandbox_cannot_become_is_made_anew(split: Split) -> None:
    split.healthcheck()
    waiting = warm(split)
    for number, wish in enumerate(({"env": {"DAYTONA_OTEL_ENDPOINT": "http://c"}}, {"user": "root"})):
        pending = split.background("POST", "/sandbox", json={"name": f"other-{number}", **wish})
        job = split.manual.do("CREATE_SANDBOX")
        assert job["resourceId"] != waiting
        pending.result(PATIENCE)


def test_a_warm_sandbox_that_does_not_take_its_policy_is_replaced(split: Split) -> None:
    split.healthcheck()
    waiting = warm(split)
    pending = split.background("POST", "/sandbox", json={"name": "guarded", "networkBlockAll": True})
    open_kinds: dict[str, str] = {}

    def work() -> bool:
        for job in split.poll(0.2):
            open_kinds[str(job["resourceId"])] = str(job["type"])
            failed = "NETWORK" in job["type"]
            split.finish(job["id"], **({"status": "FAILED", "errorMessage": "nft: busy"} if failed else {}))
        return pending.done()

    wait_for("the create", work)
    answer = pending.result()
    assert answer is not None and answer.status_code == 200, answer and answer.text
    assert answer.json()["id"] != waiting and answer.json()["networkBlockAll"] is True
    assert open_kinds[waiting] == "DESTROY_SANDBOX"


def test_a_warm_sandbox_has_its_environment_before_it_is_handed_out_and_after_each_start(split: Split) -> None:
    toolbox = Toolbox()
    split.manual.healthcheck(proxyUrl=toolbox.url)
    waiting = warm(split)
    answer = split.api.post("/sandbox", json={"name": "late", "env": {"A": "1"}})
    assert answer.json()["id"] == waiting and answer.json()["env"] == {"A": "1"}
    told = (f"/sandboxes/{waiting}/toolbox/env", {"set": {"A": "1"}})
    assert toolbox.told == [told]
    split.manual.do("CREATE_SANDBOX")  # fills the pool again
    split.api.post(f"/sandbox/{waiting}/stop")
    split.manual.do("STOP_SANDBOX")
    pending = split.background("POST", f"/sandbox/{waiting}/start")
    job = split.manual.take("START_SANDBOX")
    assert toolbox.told == [told]
    split.finish(job["id"])
    pending.result(PATIENCE)
    assert toolbox.told == [told, told], "its container was made without, so each start needs it again"
    split.control.kill()
    split.start_control()
    split.manual.healthcheck(proxyUrl=toolbox.url)
    wait_for("what the end may have cut off", lambda: toolbox.told == [told] * 3)


def test_a_warm_sandbox_that_does_not_take_its_environment_is_replaced(split: Split) -> None:
    toolbox = Toolbox(404)
    split.manual.healthcheck(proxyUrl=toolbox.url)
    waiting = warm(split)
    pending = split.background("POST", "/sandbox", json={"name": "late", "env": {"A": "1"}})
    seen: dict[str, str] = {}

    def work() -> bool:
        for job in split.poll(0.2):
            seen[str(job["resourceId"])] = str(job["type"])
            split.finish(job["id"])
        return pending.done()

    wait_for("the create", work)
    answer = pending.result()
    assert answer is not None and answer.status_code == 200, answer and answer.text
    assert answer.json()["id"] != waiting and answer.json()["env"] == {"A": "1"}
    assert seen[waiting] == "DESTROY_SANDBOX" and len(toolbox.told) == 1


def test_a_warm_sandbox_grows_to_what_was_asked_for(split: Split) -> None:
    split.healthcheck()
    waiting = warm(split)
    pending = split.background("POST", "/sandbox", json={"name": "grown", "cpu": 2, "memory": 4})
    seen: list[dict[str, object]] = []
    wait_for("the job", lambda: seen.extend(split.poll(0.5)) or any(job["type"] == "RESIZE_SANDBOX" for job in seen))
    assert not pending.done()
    resize = next(job for job in seen if job["type"] == "RESIZE_SANDBOX")
    assert json.loads(str(resize["payload"])) == {"cpu": 2, "memory": 4}
    for job in seen:
        split.finish(str(job["id"]))
    answer = pending.result(PATIENCE)
    assert answer is not None
    made = answer.json()
    assert (made["id"], made["cpu"], made["memory"], made["state"]) == (waiting, 2, 4, "started")
    pending = split.background("POST", "/sandbox", json={"name": "larger", "disk": 50})
    wait_for("the job", lambda: seen.extend(split.poll(0.5)) or "larger" in str(seen))
    assert not any(job["type"] == "RESIZE_SANDBOX" for job in seen[2:]), "a started sandbox's disk cannot grow"
    for job in seen[2:]:
        split.finish(str(job["id"]))
    pending.result(PATIENCE)
