"""States as a client sees them, step by step, with a runner whose every step is the test's."""

from __future__ import annotations

import itertools
import json
import random
import socket
import sqlite3
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest

from control_harness import PATIENCE, Api, Split, wait_for

FULL = json.dumps({"errorReason": "no space left on device", "recoverable": True})


@pytest.fixture
def ready(split: Split) -> Split:
    split.healthcheck()
    return split


def failed(split: Split, reason: str) -> str:
    """A sandbox whose start failed."""
    pending = split.background("POST", "/sandbox", json={"name": "failed"})
    job = split.manual.do("CREATE_SANDBOX", "FAILED", errorMessage=reason)
    answer = pending.result(PATIENCE)
    assert answer is not None and answer.status_code == 400
    return str(job["resourceId"])


def test_a_sandbox_that_has_failed_recoverably_is_recovered_and_started(ready: Split) -> None:
    box = failed(ready, FULL)
    record = ready.api.get(f"/sandbox/{box}").json()
    assert (record["state"], record["recoverable"], record["errorReason"]) == ("error", True, "no space left on device")
    assert [item["id"] for item in ready.api.get("/sandbox", params={"isRecoverable": "true"}).json()["items"]] == [box]
    refused = ready.api.post(f"/sandbox/{box}/start")
    assert refused.status_code == 400 and "recover it first" in refused.json()["message"]
    pending = ready.background("POST", f"/sandbox/{box}/recover")
    assert ready.manual.do("RECOVER_SANDBOX")["payload"]["errorReason"] == "no space left on device"
    ready.manual.do("START_SANDBOX")
    answer = pending.result(PATIENCE)
    assert answer is not None and answer.status_code == 200
    assert (answer.json()["state"], answer.json()["recoverable"], answer.json().get("errorReason")) == ("started", False, None)
    again = ready.api.post(f"/sandbox/{box}/recover")
    assert again.status_code == 400, "nothing is wrong with it"


def test_a_recovered_sandbox_can_stay_stopped(ready: Split) -> None:
    box = failed(ready, FULL)
    pending = ready.background("POST", f"/sandbox/{box}/recover", params={"skipStart": "true"})
    assert ready.manual.do("RECOVER_SANDBOX")["payload"]["skipStart"] is True
    answer = pending.result(PATIENCE)
    assert answer is not None and answer.json()["state"] == "stopped" and ready.poll(0.2) == []


def test_what_cannot_be_recovered_is_refused_and_a_failed_recovery_is_told_at_once(ready: Split) -> None:
    box = failed(ready, "the image is broken")
    refused = ready.api.post(f"/sandbox/{box}/recover")
    assert refused.status_code == 400 and "cannot" not in ready.api.get(f"/sandbox/{box}").json()["errorReason"]
    ready.api("DELETE", f"/sandbox/{box}")
    ready.manual.do("DESTROY_SANDBOX")
    box = failed(ready, FULL)
    began = time.monotonic()
    pending = ready.background("POST", f"/sandbox/{box}/recover")
    ready.manual.do("RECOVER_SANDBOX", "FAILED", errorMessage="the disk is still full")
    answer = pending.result(PATIENCE)
    assert answer is not None and answer.status_code == 400 and "still full" in answer.json()["message"]
    # A wait for an end that nobody tells of takes half a minute.
    assert time.monotonic() - began < 25 and ready.api.state(box) == "error"


class Log:
    """A runner's build log, of which the test writes each line."""

    def __init__(self) -> None:
        self.lines = ["step 1\n"]
        self.more = threading.Condition()
        self.over = False
        self.sent = threading.Event()
        log = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                if not self.path.startswith("/snapshots/logs"):
                    self.send_response(404)
                    self.send_header("content-length", "0")
                    self.end_headers()
                    return
                self.send_response(200)
                self.send_header("transfer-encoding", "chunked")
                self.end_headers()
                sent = 0
                while True:
                    with log.more:
                        log.more.wait_for(lambda sent=sent: log.over or len(log.lines) > sent, 10)
                        fresh, sent, over = log.lines[sent:], len(log.lines), log.over
                    for line in fresh:
                        self.wfile.write(f"{len(line):x}\r\n{line}\r\n".encode())
                    if over:
                        self.wfile.write(b"0\r\n\r\n")
                        log.sent.set()
                        return

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def write(self, line: str, over: bool = False) -> None:
        with self.more:
            self.lines.append(line)
            self.over = over
            self.more.notify_all()


def lines_of(split: Split, url: str) -> Iterator[str]:
    with httpx.stream("GET", url, params={"follow": "true"}, headers={"Authorization": f"Bearer {split.api.key}"}, timeout=PATIENCE) as log:
        assert log.status_code == 200
        yield from log.iter_lines()


def test_a_builds_log_is_streamed_while_it_is_built(ready: Split) -> None:
    """Weakness 23: the log opens at once, before a runner has the build, and each line comes when it is written."""
    split, log = ready, Log()
    split.manual.healthcheck(apiUrl=log.url)
    pending = split.background("POST", "/sandbox", json={"buildInfo": {"dockerfileContent": "FROM a:1\nRUN b\n"}})
    answer = pending.result(PATIENCE)
    assert answer is not None and answer.json()["state"] == "pending_build"
    box = answer.json()["id"]
    url = split.api.get(f"/sandbox/{box}/build-logs-url").json()["url"]
    job = split.manual.take("BUILD_SNAPSHOT")
    wait_for("the build", lambda: split.api.state(box) == "building_snapshot")
    lines = lines_of(split, url)
    assert next(lines) == "step 1"
    log.write("step 2\n")
    assert next(lines) == "step 2" and split.api.state(box) == "building_snapshot"
    log.write("done\n", over=True)
    # A control plane does not wait long for the rest of a log.
    assert log.sent.wait(PATIENCE), "waited for the log to be sent"
    split.finish(job["id"])
    assert list(lines) == ["done"]
    split.manual.do("CREATE_SANDBOX")
    wait_for("the sandbox", lambda: split.api.state(box) == "started")


def test_an_image_that_is_only_pulled_says_so(ready: Split) -> None:
    split = ready
    pending = split.background("POST", "/sandbox", json={"buildInfo": {"dockerfileContent": "FROM a:1\n"}})
    answer = pending.result(PATIENCE)
    assert answer is not None and answer.json()["state"] == "pending_build"
    box = answer.json()["id"]
    job = split.manual.take("PULL_SNAPSHOT")
    wait_for("the pull", lambda: split.api.state(box) == "pulling_snapshot")
    assert split.api.post(f"/sandbox/{box}/network-settings", json={"networkBlockAll": True}).json()["networkBlockAll"] is True
    split.finish(job["id"])
    create = split.manual.do("CREATE_SANDBOX")
    assert create["payload"]["networkBlockAll"] is True, "there was no container to tell of it, so its create does"
    wait_for("the sandbox", lambda: split.api.state(box) == "started")
    assert split.poll(0.2) == []


def test_a_pull_that_fails_says_why(ready: Split) -> None:
    pending = ready.background("POST", "/sandbox", json={"buildInfo": {"dockerfileContent": "FROM a:1\n"}})
    answer = pending.result(PATIENCE)
    assert answer is not None
    ready.manual.do("PULL_SNAPSHOT", "FAILED", errorMessage="manifest unknown")
    record = wait_for("the failure", lambda: (r := ready.api.get(f"/sandbox/{answer.json()['id']}").json())["state"] == "build_failed" and r)
    assert record["errorReason"] == "manifest unknown"


def test_each_of_two_that_wait_for_one_start_is_told(ready: Split) -> None:
    """Weakness 2: no waiter replaces another."""
    box = ready.stopped("box")
    pending = [ready.background("POST", f"/sandbox/{box}/start") for _ in range(3)]
    ready.manual.do("START_SANDBOX")
    assert [future.result(PATIENCE).json()["state"] for future in pending] == ["started"] * 3
    assert ready.poll(0.2) == []


def test_a_kill_that_is_taken_back_is_not_remembered(ready: Split) -> None:
    created = ready.background("POST", "/sandbox", json={"name": "box"})
    job = ready.manual.take("CREATE_SANDBOX")
    box = job["resourceId"]
    assert ready.api.post(f"/sandbox/{box}/stop", params={"force": "true"}).status_code == 200
    started = ready.background("POST", f"/sandbox/{box}/start")
    wait_for("the start", lambda: ready.api.get(f"/sandbox/{box}").json()["desiredState"] == "started")
    ready.finish(job["id"])
    for call in (created, started):
        call.result(PATIENCE)
    assert ready.api.post(f"/sandbox/{box}/stop").status_code == 200
    assert ready.manual.do("STOP_SANDBOX")["payload"] == {}, "it is stopped gently"


def test_a_name_is_its_own_until_the_end(ready: Split) -> None:
    """Weakness 25: what is being deleted keeps its name in answers, and the name is free for another."""
    box = ready.started("mine")
    assert ready.api("DELETE", "/sandbox/mine").json()["name"] == "mine"
    job = ready.manual.take("DESTROY_SANDBOX")
    going = ready.api.get(f"/sandbox/{box}").json()
    assert (going["name"], going["state"]) == ("mine", "destroying")
    second = ready.started("mine")
    assert ready.api.get("/sandbox/mine").json()["id"] == second
    ready.finish(job["id"])
    assert ready.api.state(box) is None and ready.api.get("/sandbox/mine").json()["id"] == second


def test_lists_win_over_block_all_in_a_create_as_in_a_change(ready: Split) -> None:
    for wish in ({"networkAllowList": "10.0.0.0/8"}, {"domainAllowList": "example.com"}):
        pending = ready.background("POST", "/sandbox", json={"networkBlockAll": True, **wish})
        payload = ready.manual.do("CREATE_SANDBOX")["payload"]
        assert payload["networkBlockAll"] is False and wish.items() <= payload.items()
        answer = pending.result(PATIENCE)
        assert answer is not None and answer.json()["networkBlockAll"] is False


def test_a_policy_that_changes_while_one_is_set_is_sent_and_waited_for(ready: Split) -> None:
    box = ready.started("box")
    path = f"/sandbox/{box}/network-settings"
    first = ready.background("POST", path, json={"networkAllowList": "10.0.0.0/8"})
    job = ready.manual.take("UPDATE_SANDBOX_NETWORK_SETTINGS")
    assert job["payload"] == {"networkBlockAll": False, "networkAllowList": "10.0.0.0/8"}
    second = ready.background("POST", path, json={"networkBlockAll": True})
    wait_for("the second policy", lambda: ready.api.get(f"/sandbox/{box}").json()["networkBlockAll"])
    ready.finish(job["id"])
    job = ready.manual.take("UPDATE_SANDBOX_NETWORK_SETTINGS")
    assert job["payload"] == {"networkBlockAll": True}
    assert not second.done(), "it is not in force yet"
    ready.finish(job["id"])
    for call in (first, second):
        answer = call.result(PATIENCE)
        assert answer is not None and (answer.status_code, answer.json()["networkBlockAll"]) == (200, True)
    assert ready.poll(0.2) == [], "it is in force"


def test_a_policy_that_could_not_be_applied_is_tried_again(ready: Split) -> None:
    box = ready.stopped("box")
    call = ready.background("POST", f"/sandbox/{box}/network-settings", json={"networkBlockAll": True})
    ready.manual.do("UPDATE_SANDBOX_NETWORK_SETTINGS", "FAILED", errorMessage="it has no address")
    answer = call.result(PATIENCE)
    assert answer is not None and answer.status_code == 500 and "it has no address" in answer.json()["message"]
    assert ready.poll(0.2) == [], "not at once"
    start = ready.background("POST", f"/sandbox/{box}/start")
    ready.manual.do("START_SANDBOX")
    for _ in range(2):
        job = ready.manual.do("UPDATE_SANDBOX_NETWORK_SETTINGS", "FAILED", errorMessage="the table is locked")
        assert job["payload"] == {"networkBlockAll": True}
        ready.control.kill()
        start.result(PATIENCE)
        ready.start_control()
        ready.healthcheck()
    ready.manual.do("UPDATE_SANDBOX_NETWORK_SETTINGS")
    assert ready.poll(0.2) == [], "it is in force"


def test_the_database_opens_nothing_that_a_user_holds(ready: Split) -> None:
    box = ready.started("box")
    secrets = {
        "first key": ready.control.info["apiKey"],
        "key": ready.api.post("/api-keys", json={"name": "other", "permissions": []}).json()["value"],
        "link": ready.api.get(f"/sandbox/{box}/ports/3000/signed-preview-url").json()["token"],
    }
    files = [path.read_bytes() for path in (ready.directory / "data").glob("control.db*")]
    assert any(box.encode() in content for content in files)
    assert [name for name, secret in secrets.items() if any(secret.encode() in content for content in files)] == []


def test_a_key_tells_when_it_was_used(ready: Split) -> None:
    made = ready.api.post("/api-keys", json={"name": "other", "permissions": []}).json()
    assert made["lastUsedAt"] is None

    def used() -> str | None:
        return ready.api.get("/api-keys/other").json()["lastUsedAt"]

    assert used() is None
    assert Api(ready.control.info["url"], made["value"]).get("/sandbox").status_code == 200
    at = used()
    assert at is not None and at >= made["createdAt"]
    assert ready.control.stop() == 0
    ready.start_control()
    assert used() == at


def test_what_a_client_that_went_away_asked_for_is_done_whole(ready: Split) -> None:
    """What is committed is known at once, and not only after the next start: also when its client goes away in the middle of the commit."""
    dice = random.Random(5)

    def stored() -> set[str]:
        with sqlite3.connect(f"file:{ready.directory}/data/control.db?mode=ro", uri=True) as database:
            return {name for (name,) in database.execute("SELECT name FROM volumes")}

    def leave(number: int) -> None:
        body = f'{{"name":"v{number}"}}'.encode()
        head = f"POST /api/volumes HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {ready.api.key}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        with socket.create_connection(("127.0.0.1", ready.port)) as client:
            client.sendall(head.encode() + body)
            time.sleep(dice.random() * min(0.003 * 1.02 ** max(number - 300, 0), 0.3))
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")

    for number in range(300):
        leave(number)
    # How many were read before they were taken back is the machine's affair; it has to be enough to tell something, so a slow one gets more time.
    more = itertools.count(300)
    wait_for("a hundred that were stored", lambda: len(stored()) > 100 or leave(next(more)))

    def same() -> bool:
        return {volume["name"] for volume in ready.api.get("/volumes").json()} == stored()

    wait_for("the API to know what the database has", same)
