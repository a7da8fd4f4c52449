"""What must hold when things end at the wrong moment: no sandbox is lost, no create is repeated, no job is swallowed."""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
import select
import socket
import sqlite3
import time
from typing import Any

import httpx
import pytest

from control_harness import PATIENCE, Split, wait_for

POOL = concurrent.futures.ThreadPoolExecutor(8)


def create(split: Split, **body: Any) -> concurrent.futures.Future[httpx.Response | None]:
    """A create in the background: with nobody to do the job it blocks."""
    api = split.api

    def call() -> httpx.Response | None:
        try:
            return api.post("/sandbox", json=body)
        except httpx.TransportError:
            return None

    return POOL.submit(call)


def asking(split: Split, name: str) -> socket.socket:
    """A client that has asked for a sandbox, and can go away before it is answered."""
    body = json.dumps({"name": name}).encode()
    head = f"POST /api/sandbox HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {split.api.key}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    client = socket.create_connection(("127.0.0.1", split.port))
    client.sendall(head.encode() + body)
    return client


def only(jobs: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    assert [job["type"] for job in jobs] == [kind], jobs
    return jobs[0]


def test_killed_with_a_create_waiting_for_its_runner(split: Split) -> None:
    split.healthcheck()
    pending = create(split, name="waiting")
    wait_for("the row", lambda: split.api.state("waiting") == "creating")
    split.control.kill()
    pending.result(PATIENCE)
    split.start_control()
    split.healthcheck()
    job = only(split.poll(), "CREATE_SANDBOX")
    assert split.poll(0.2) == [], "one create makes one job"
    assert split.finish(job["id"]).status_code == 201
    assert split.api.state("waiting") == "started"


def test_killed_with_a_create_at_its_runner(split: Split) -> None:
    split.healthcheck()
    pending = create(split, name="running")
    job = only(split.poll(), "CREATE_SANDBOX")
    split.control.kill()
    pending.result(PATIENCE)
    split.start_control()
    listed = split.as_runner.get("/jobs", params={"status": "IN_PROGRESS"}).json()
    assert [item["id"] for item in listed["items"]] == [job["id"]]
    assert split.poll(0.2) == [], "a job that its runner has is not sent again"
    assert split.finish(job["id"], resultMetadata='{"daemonVersion":"9"}').status_code == 201
    record = split.api.get("/sandbox/running").json()
    assert (record["state"], record["daemonVersion"]) == ("started", "9")


def test_killed_right_after_a_result_was_acknowledged(split: Split) -> None:
    split.healthcheck()
    for number in range(5):
        pending = create(split, name=f"acknowledged-{number}")
        job = only(split.poll(), "CREATE_SANDBOX")
        assert split.finish(job["id"]).status_code == 201
        split.control.kill()
        pending.result(PATIENCE)
        split.start_control()
        assert split.api.state(f"acknowledged-{number}") == "started"
        assert split.finish(job["id"]).status_code == 201, "telling again is harmless"
        split.healthcheck()
    assert split.poll(0.2) == []


def test_killed_at_random_while_busy(split: Split) -> None:
    """Creates, stops and deletes go on while the control plane is killed again and again; afterwards everything is as it was asked."""
    split.start_runner()
    wait_for("the runner", lambda: split.as_runner.get("/runners/me").json().get("state") == "ready")
    names: list[str] = []
    for number in range(12):
        pending = [create(split, name=f"busy-{number}-{n}") for n in range(4)]
        time.sleep(0.004 * number)
        split.control.kill()
        answers = [future.result(PATIENCE) for future in pending]
        names += [a.json()["name"] for a in answers if a is not None and a.status_code == 200]
        split.start_control()
    for name in names:
        wait_for(f"{name} to be started", lambda name=name: split.api.state(name) == "started")
    everything = split.api.get("/sandbox", params={"limit": 200}).json()["items"]
    for item in everything:
        wait_for("every sandbox to settle", lambda item=item: split.api.state(item["id"]) == "started")
    assert len({item["name"] for item in everything}) == len(everything)
    done = (split.directory / "journal").read_text().splitlines()
    repeated = {line for line in done if line.startswith("CREATE_SANDBOX") and done.count(line) > 1}
    assert repeated == set(), "no create is repeated"
    made = {line.split()[1] for line in done if line.startswith("CREATE_SANDBOX")}
    assert made == {item["id"] for item in everything}, "no sandbox is lost, and none is nobody's"
    for item in everything:
        assert split.api("DELETE", f"/sandbox/{item['id']}").status_code == 200
    split.control.kill()
    split.start_control()
    for item in everything:
        wait_for("every sandbox to be gone", lambda item=item: split.api.state(item["id"]) is None)
    assert split.as_runner.get("/sandbox/for-runner").json() == []


def database(split: Split, statement: str) -> int:
    """Executes one statement behind the control plane's back, and returns how many rows it changed."""
    # Closed right after it: a lock that stays would keep the control plane from writing anything.
    with contextlib.closing(sqlite3.connect(split.directory / "data/control.db", timeout=PATIENCE)) as opened, opened:
        return opened.execute(statement).rowcount


FULL = "CREATE TRIGGER full BEFORE UPDATE ON sandboxes BEGIN SELECT RAISE(ABORT, 'no space left'); END"


def test_a_write_that_fails_once_at_the_start_leaves_nothing_undone(split: Split) -> None:
    split.healthcheck()
    pending = create(split, name="box")
    split.manual.take("CREATE_SANDBOX")
    split.control.kill()
    pending.result(PATIENCE)
    assert database(split, "DELETE FROM jobs WHERE kind = 'CREATE_SANDBOX'") == 1
    database(split, FULL)
    split.start_control()
    log = split.directory / "control.log"
    wait_for("the write that fails", lambda: "could not resume a sandbox" in log.read_text())
    database(split, "DROP TRIGGER full")
    split.healthcheck()
    split.manual.do("CREATE_SANDBOX")
    assert split.api.state("box") == "started"


def test_a_write_that_fails_once_does_not_make_a_build_wait_for_ever(split: Split) -> None:
    split.healthcheck()
    pending = create(split, name="built", buildInfo={"dockerfileContent": "FROM a:1\n"})
    pull = split.manual.take("PULL_SNAPSHOT")
    wait_for("the pull", lambda: split.api.state("built") == "pulling_snapshot")
    database(split, FULL)
    split.finish(pull["id"])
    log = split.directory / "control.log"
    wait_for("the write that fails", lambda: "could not store the state of an image" in log.read_text())
    database(split, "DROP TRIGGER full")
    split.manual.do("CREATE_SANDBOX")
    wait_for("the sandbox", lambda: split.api.state("built") == "started")
    answer = pending.result(PATIENCE)
    assert answer is not None and answer.status_code == 200


def test_killed_between_the_end_of_a_sandbox_and_of_one_linked_to_it(split: Split) -> None:
    split.healthcheck()
    parent = split.started("parent")
    wish = {"linkedSandbox": parent, "autoDeleteInterval": 0}
    linked = split.started("linked", **wish)
    split.control.kill()
    assert database(split, f"DELETE FROM sandboxes WHERE id = '{parent}'") == 1
    split.start_control()
    split.healthcheck()
    assert split.manual.do("DESTROY_SANDBOX")["resourceId"] == linked
    other = split.started("other")
    split.api("DELETE", f"/sandbox/{other}")
    refused = split.api.post("/sandbox", json={**wish, "linkedSandbox": other})
    assert refused.status_code == 409 and "being deleted" in refused.json()["message"]
    split.manual.do("DESTROY_SANDBOX")


def test_delete_wins_over_a_create_at_its_runner(split: Split) -> None:
    split.healthcheck()
    pending = create(split, name="unwanted")
    job = only(split.poll(), "CREATE_SANDBOX")
    assert split.api("DELETE", "/sandbox/unwanted").json()["state"] == "destroying"
    answer = pending.result(PATIENCE)
    assert answer is not None and answer.status_code == 409
    destroy = only(split.poll(), "DESTROY_SANDBOX")
    assert split.finish(job["id"]).status_code == 201, "the late create is acknowledged and changes nothing"
    assert split.api.state(destroy["resourceId"]) == "destroying"
    assert split.finish(destroy["id"]).status_code == 201
    assert split.api.state(destroy["resourceId"]) is None


def test_a_runner_that_starts_anew_does_not_make_what_was_deleted(split: Split) -> None:
    """It does again what it had in hand; what was given up is not among it, or the create came after the destroy and left a container."""
    split.healthcheck()
    pending = create(split, name="unwanted")
    job = only(split.poll(), "CREATE_SANDBOX")
    split.api("DELETE", "/sandbox/unwanted")
    pending.result(PATIENCE)
    in_hand = split.as_runner.get("/jobs", params={"status": "IN_PROGRESS"}).json()["items"]
    assert in_hand == [], "the create is given up with the delete"
    destroy = only(split.poll(), "DESTROY_SANDBOX")
    assert split.finish(destroy["id"]).status_code == 201
    for status in ("IN_PROGRESS", "COMPLETED"):
        assert split.finish(job["id"], status).status_code == 201, "what is late is taken in, and changes nothing"
    assert split.api.state(destroy["resourceId"]) is None and split.poll(0.2) == []


def test_delete_of_a_create_that_nobody_took_needs_no_runner(split: Split) -> None:
    split.healthcheck()
    pending = create(split, name="unclaimed")
    wait_for("the row", lambda: split.api.state("unclaimed") == "creating")
    split.api("DELETE", "/sandbox/unclaimed")
    pending.result(PATIENCE)
    assert split.api.state("unclaimed") is None
    assert split.poll(0.2) == []


def test_a_failed_destroy_is_tried_again(split: Split) -> None:
    split.healthcheck()
    pending = create(split, name="sticky")
    split.finish(only(split.poll(), "CREATE_SANDBOX")["id"])
    pending.result(PATIENCE)
    split.api("DELETE", "/sandbox/sticky")
    first = only(split.poll(), "DESTROY_SANDBOX")
    split.finish(first["id"], "FAILED", errorMessage="device busy")
    second = only(split.poll(), "DESTROY_SANDBOX")
    split.finish(second["id"])
    assert split.api.state(first["resourceId"]) is None


def test_deleting_a_failed_sandbox_destroys_it(split: Split) -> None:
    split.healthcheck()
    pending = create(split, name="broken")
    split.finish(only(split.poll(), "CREATE_SANDBOX")["id"], "FAILED", errorMessage="no")
    answer = pending.result(PATIENCE)
    assert answer is not None and answer.status_code == 400
    split.api("DELETE", "/sandbox/broken")
    only(split.poll(), "DESTROY_SANDBOX")


def test_stop_during_a_start_is_done_afterwards(split: Split) -> None:
    split.healthcheck()
    pending = create(split, name="both")
    job = only(split.poll(), "CREATE_SANDBOX")
    assert split.api.post("/sandbox/both/stop").status_code == 200
    split.finish(job["id"])
    pending.result(PATIENCE)
    split.finish(only(split.poll(), "STOP_SANDBOX")["id"])
    assert split.api.state("both") == "stopped"


def test_a_dropped_poll_swallows_nothing(split: Split) -> None:
    split.healthcheck()
    token = split.control.info["runnerToken"]
    head = f"GET /api/jobs/poll?timeout=30 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\r\n"
    for number in range(10):
        poll = socket.create_connection(("127.0.0.1", split.port))
        poll.sendall(head.encode())
        time.sleep(0.02)
        poll.close()
        pending = create(split, name=f"dropped-{number}")
        job = only(split.poll(), "CREATE_SANDBOX")
        split.finish(job["id"])
        answer = pending.result(PATIENCE)
        assert answer is not None and answer.status_code == 200


def test_overlapping_polls_share_no_job(split: Split) -> None:
    split.healthcheck()
    for number in range(10):
        pending = [create(split, name=f"shared-{number}-{n}") for n in range(3)]
        for n in range(3):
            wait_for("the rows", lambda n=n: split.api.state(f"shared-{number}-{n}") == "creating")
        polls = list(POOL.map(lambda _: split.poll(0.2), range(3)))
        jobs = [job["id"] for poll in polls for job in poll]
        assert len(jobs) == 3 and len(set(jobs)) == 3
        for job in jobs:
            split.finish(job)
        for future in pending:
            future.result(PATIENCE)


def test_transitions_of_jobs(split: Split) -> None:
    split.healthcheck()
    pending = create(split, name="transitions")
    waiting = wait_for("the job", lambda: split.as_runner.get("/jobs", params={"status": "PENDING"}).json()["items"])
    job = waiting[0]["id"]
    assert split.finish(job).status_code == 409, "PENDING cannot become COMPLETED"
    assert split.finish(job, "IN_PROGRESS").status_code == 201
    before = split.as_runner.get(f"/jobs/{job}").json()["updatedAt"]
    time.sleep(0.01)
    split.finish(job, "IN_PROGRESS")
    assert split.as_runner.get(f"/jobs/{job}").json()["updatedAt"] == before
    split.finish(job, "IN_PROGRESS", resultMetadata='{"beat":1}')
    assert split.as_runner.get(f"/jobs/{job}").json()["updatedAt"] != before
    assert split.finish(job).status_code == 201
    assert split.finish(job, "FAILED", errorMessage="late").status_code == 409
    assert split.as_runner.get("/jobs/nonsense").status_code == 404
    pending.result(PATIENCE)
    assert split.api.state("transitions") == "started"


def test_runner_reports(split: Split) -> None:
    split.healthcheck()
    pending = create(split, name="drift")
    split.finish(only(split.poll(), "CREATE_SANDBOX")["id"])
    answer = pending.result(PATIENCE)
    assert answer is not None
    path = f"/sandbox/{answer.json()['id']}/state"
    report = split.as_runner
    assert report("PUT", path, json={"state": "creating"}).status_code == 400
    assert report("PUT", path, json={"state": "nonsense"}).status_code == 400
    assert report("PUT", "/sandbox/drift/state", json={"state": "stopped"}).status_code == 404
    assert report("PUT", path, json={"state": "stopped"}).status_code == 200
    record = split.api.get("/sandbox/drift").json()
    assert (record["state"], record["desiredState"]) == ("stopped", "stopped")
    listed = report.get("/sandbox/for-runner", params={"states": "started,stopped", "skipReconcilingSandboxes": "true"})
    assert [item["name"] for item in listed.json()] == ["drift"]
    assert report.get("/sandbox/for-runner", params={"states": "creating"}).status_code == 400


def test_a_create_waits_for_a_runner_to_come(split: Split) -> None:
    pending = create(split, name="early")
    time.sleep(0.1)
    split.healthcheck()
    split.finish(only(split.poll(), "CREATE_SANDBOX")["id"])
    answer = pending.result(PATIENCE)
    assert answer is not None and answer.json()["state"] == "started"


def test_a_create_whose_client_went_away_before_there_was_a_runner_makes_nothing(split: Split) -> None:
    client = asking(split, "unwanted")

    def taken() -> bool:
        nonlocal client
        if select.select([client], [], [], 0)[0]:
            # Refused: the question below was read first, and the name was its own for a moment.
            client.close()
            client = asking(split, "unwanted")
        with contextlib.suppress(httpx.ReadTimeout):
            return split.api.post("/sandbox", json={"name": "unwanted"}, timeout=httpx.Timeout(60, read=0.2)).status_code == 409
        return False

    wait_for("the create to be waiting", taken)
    client.close()

    def free() -> bool:
        nonlocal client
        client = asking(split, "unwanted")
        # A refusal comes at once: after this second, and others have been answered who came later.
        refused = bool(select.select([client], [], [], 1)[0])
        for _ in range(5):
            assert split.api.get("/sandbox").status_code == 200
        refused = refused or bool(select.select([client], [], [], 0)[0])
        if refused:
            client.close()
        return not refused

    left = time.monotonic()
    wait_for("the name to be free", free)
    # A client that waits is refused after a quarter of a minute, and its name is free then.
    assert time.monotonic() - left < 12, "it is not noticed that the client went away"
    split.healthcheck()
    split.finish(only(split.poll(), "CREATE_SANDBOX")["id"])
    client.settimeout(PATIENCE)
    assert client.recv(15, socket.MSG_WAITALL) == b"HTTP/1.1 200 OK"
    client.close()
    assert [item["name"] for item in split.api.get("/sandbox").json()["items"]] == ["unwanted"] and split.poll(0.2) == []


def test_a_create_whose_client_went_away_later_goes_on(split: Split) -> None:
    """It has a row by then: the client may ask for it by its name, and nothing is left over that nobody can see."""
    split.healthcheck()
    client = asking(split, "late")
    wait_for("the row", lambda: split.api.state("late") == "creating")
    client.close()
    split.finish(only(split.poll(), "CREATE_SANDBOX")["id"])
    assert split.api.state("late") == "started"


def test_a_second_start_says_what_is_wrong(split: Split) -> None:
    with pytest.raises(AssertionError, match="is in use by another program.*PINFOLD_BIND"):
        split.start_control()
