"""Backups, archives and restores: each job that the runner gets, and what the sandbox says meanwhile."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from control_harness import PATIENCE, Split, wait_for


@pytest.fixture
def ready(split: Split) -> Split:
    split.healthcheck()
    return split


@pytest.fixture
def with_registry(tmp_path: Path) -> Iterator[Split]:
    pair = Split(
        tmp_path,
        PINFOLD_REGISTRY="registry.test:5000/boxes",
        PINFOLD_REGISTRY_USERNAME="user",
        PINFOLD_REGISTRY_PASSWORD="password",
    )
    pair.healthcheck()
    yield pair
    pair.close()


def record(split: Split, sandbox: str) -> dict[str, Any]:
    return dict(split.api.get(f"/sandbox/{sandbox}").json())


def archive(split: Split, sandbox: str) -> dict[str, Any]:
    """Archives a stopped sandbox, and returns what the runner was given for its backup."""
    assert split.api.post(f"/sandbox/{sandbox}/archive").json()["state"] == "archiving"
    backup = dict(split.manual.do("CREATE_BACKUP")["payload"])
    assert split.manual.do("DESTROY_SANDBOX")["resourceId"] == sandbox
    assert split.api.state(sandbox) == "archived"
    return backup


def test_a_backup_on_demand(ready: Split) -> None:
    box = ready.started("box")
    assert record(ready, box)["backupState"] == "None"
    asked = ready.api.post(f"/sandbox/{box}/backup")
    assert asked.status_code == 201 and asked.json()["backupState"] == "InProgress"
    assert ready.api.post(f"/sandbox/{box}/backup").status_code == 409
    job = ready.manual.take("CREATE_BACKUP")
    assert job["payload"]["snapshot"].startswith(f"backup-{box}:20") and "registry" not in job["payload"]
    assert (record(ready, box)["state"], record(ready, box)["backupState"]) == ("started", "InProgress")
    ready.finish(job["id"])
    done = record(ready, box)
    assert done["backupState"] == "Completed" and done["backupCreatedAt"]
    held = ready.as_runner.get("/runners/me/snapshots").json()
    assert job["payload"]["snapshot"] in held, "the runner is told to keep it"
    again = ready.api.post(f"/sandbox/{box}/backup").json()
    assert again["backupState"] == "InProgress", "a running sandbox has changed since"
    second = ready.manual.do("CREATE_BACKUP")
    assert ready.manual.do("REMOVE_SNAPSHOT")["resourceId"] == job["payload"]["snapshot"], "only the newest is kept"
    ready.api("DELETE", f"/sandbox/{box}")
    ready.manual.do("DESTROY_SANDBOX")
    assert ready.manual.do("REMOVE_SNAPSHOT")["resourceId"] == second["payload"]["snapshot"]


def test_a_failed_backup_says_why_and_harms_nothing(ready: Split) -> None:
    box = ready.started("box")
    ready.api.post(f"/sandbox/{box}/backup")
    ready.manual.do("CREATE_BACKUP", "FAILED", errorMessage="no space left on device")
    assert (record(ready, box)["state"], record(ready, box)["backupState"]) == ("started", "Error")
    assert ready.api.post(f"/sandbox/{box}/backup").status_code == 201, "it can be tried again"


def test_stop_and_delete_do_not_wait_for_a_backup(ready: Split) -> None:
    box = ready.started("box")
    ready.api.post(f"/sandbox/{box}/backup")
    backup = ready.manual.take("CREATE_BACKUP")
    ready.api.post(f"/sandbox/{box}/stop")
    ready.manual.do("STOP_SANDBOX")
    assert (record(ready, box)["state"], record(ready, box)["backupState"]) == ("stopped", "None")
    ready.manual.do("REMOVE_SNAPSHOT")
    ready.finish(backup["id"])
    removed = ready.manual.do("REMOVE_SNAPSHOT")
    assert removed["resourceId"] == backup["payload"]["snapshot"], "a backup that comes too late is not left over"
    ready.api.post(f"/sandbox/{box}/backup")
    ready.manual.take("CREATE_BACKUP")
    assert ready.api("DELETE", f"/sandbox/{box}").status_code == 200
    ready.manual.do("DESTROY_SANDBOX")
    assert ready.api.state(box) is None


def test_archive_and_restore(ready: Split) -> None:
    box = ready.stopped("box", env={"K": "v"})
    backup = archive(ready, box)["snapshot"]
    archived = record(ready, box)
    assert (archived["state"], archived["backupState"], "runnerId" in archived) == ("archived", "Completed", False)
    assert ready.api.post(f"/sandbox/{box}/start").json()["state"] == "restoring"
    restore = ready.manual.do("CREATE_SANDBOX")["payload"]
    assert restore["snapshot"] == backup and restore["id"] == box and restore["env"] == {"K": "v"}
    assert "entrypoint" not in restore and "registry" not in restore
    back = record(ready, box)
    assert (back["state"], back["backupState"], back["backupCreatedAt"]) == ("started", "None", archived["backupCreatedAt"])
    assert ready.poll(0.2) == [], "the image stays while the container that came of it does"
    ready.api("DELETE", f"/sandbox/{box}")
    ready.manual.do("DESTROY_SANDBOX")
    assert ready.manual.do("REMOVE_SNAPSHOT")["resourceId"] == backup


def test_a_restore_ends_old_preview_links_as_a_start_does(ready: Split) -> None:
    box = ready.stopped("box")

    def token() -> str:
        return str(ready.api.get(f"/sandbox/{box}/ports/3000/preview-url").json()["token"])

    old = token()
    archive(ready, box)
    ready.api.post(f"/sandbox/{box}/start")
    restore = ready.manual.do("CREATE_SANDBOX")["payload"]
    assert ready.api.state(box) == "started"
    assert restore["authToken"] == token() != old


def test_an_archive_uses_the_backup_that_is_there(ready: Split) -> None:
    box = ready.stopped("box")
    ready.api.post(f"/sandbox/{box}/backup")
    ready.manual.do("CREATE_BACKUP")
    assert ready.api.post(f"/sandbox/{box}/backup").json()["backupState"] == "Completed", "nothing has changed since"
    ready.api.post(f"/sandbox/{box}/archive")
    ready.manual.do("DESTROY_SANDBOX")
    assert ready.api.state(box) == "archived"
    assert ready.api("DELETE", f"/sandbox/{box}").status_code == 200
    assert ready.api.state(box) is None
    ready.manual.do("REMOVE_SNAPSHOT")


def test_a_backup_of_what_ran_is_not_what_is_archived_after_it_stopped_by_itself(ready: Split) -> None:
    box = ready.started("box")
    ready.api.post(f"/sandbox/{box}/backup")
    old = ready.manual.do("CREATE_BACKUP")["payload"]["snapshot"]
    assert record(ready, box)["backupState"] == "Completed"
    assert ready.as_runner("PUT", f"/sandbox/{box}/state", json={"state": "stopped"}).status_code == 200
    assert (record(ready, box)["state"], record(ready, box)["backupState"]) == ("stopped", "None")
    assert archive(ready, box)["snapshot"] != old, "what it did since would be lost"


def test_a_start_aborts_the_archiving(ready: Split) -> None:
    box = ready.stopped("box")
    ready.api.post(f"/sandbox/{box}/archive")
    backup = ready.manual.take("CREATE_BACKUP")
    pending = ready.background("POST", f"/sandbox/{box}/start")
    ready.manual.do("START_SANDBOX")
    ready.finish(backup["id"], "FAILED", errorMessage="the backup was cancelled by a start")
    answer = pending.result(PATIENCE)
    assert answer is not None and answer.json()["state"] == "started"
    assert "errorReason" not in record(ready, box)


def test_a_failed_archive_leaves_it_stopped(ready: Split) -> None:
    box = ready.stopped("box")
    ready.api.post(f"/sandbox/{box}/archive")
    ready.manual.do("CREATE_BACKUP", "FAILED", errorMessage="push failed: unauthorized")
    left = record(ready, box)
    assert (left["state"], left["desiredState"], left["backupState"]) == ("stopped", "stopped", "Error")
    assert "could not archive: push failed" in left["errorReason"]
    archive(ready, box)


def test_a_failed_restore_keeps_the_archive(ready: Split) -> None:
    box = ready.stopped("box")
    archive(ready, box)
    ready.api.post(f"/sandbox/{box}/start")
    restore = ready.manual.do("CREATE_SANDBOX", "FAILED", errorMessage="manifest unknown")

    def failed() -> bool:
        seen = record(ready, box)
        return (seen["state"], seen["errorReason"], seen["recoverable"]) == ("error", "manifest unknown", True)

    assert failed(), record(ready, box)
    ready.control.kill()
    ready.start_control()
    ready.healthcheck()
    assert failed(), record(ready, box)
    for again in ("start", "recover"):
        assert ready.api.post(f"/sandbox/{box}/{again}").json()["state"] == "restoring"
        job = ready.manual.do("CREATE_SANDBOX", "FAILED", errorMessage="manifest unknown")
        assert job["payload"]["snapshot"] == restore["payload"]["snapshot"] and failed()
    kept = ready.api.post(f"/sandbox/{box}/recover", params={"skipStart": "true"}).json()
    assert kept["state"] == "archived" and "errorReason" not in kept
    assert ready.api.post(f"/sandbox/{box}/start").json()["state"] == "restoring"
    ready.manual.do("CREATE_SANDBOX")
    assert ready.api.state(box) == "started"


def test_what_could_not_be_restored_can_be_deleted(ready: Split) -> None:
    box = ready.stopped("box")
    archive(ready, box)
    ready.api.post(f"/sandbox/{box}/start")
    ready.manual.do("CREATE_SANDBOX", "FAILED", errorMessage="manifest unknown")
    assert ready.api.state(box) == "error"
    assert ready.api("DELETE", f"/sandbox/{box}").status_code == 200
    wait_for("the row to be gone", lambda: ready.api.state(box) is None)


def test_what_cannot_be_backed_up(ready: Split) -> None:
    pending = ready.background("POST", "/sandbox", json={"name": "slow"})
    wait_for("the row", lambda: ready.api.state("slow") == "creating")
    assert ready.api.post("/sandbox/slow/backup").status_code == 400
    ready.manual.do("CREATE_SANDBOX")
    pending.result(PATIENCE)
    ready.api("DELETE", "/sandbox/slow")
    assert ready.api.post("/sandbox/slow/backup").status_code in (404, 409)
    assert ready.api.post("/sandbox/none/backup").status_code == 404


def test_killed_while_archiving(ready: Split) -> None:
    box = ready.stopped("box")
    ready.api.post(f"/sandbox/{box}/archive")
    ready.control.kill()
    ready.start_control()
    ready.healthcheck()
    backup = ready.manual.take("CREATE_BACKUP")
    ready.control.kill()
    ready.start_control()
    assert ready.finish(backup["id"]).status_code == 201, "the runner still tells how it ended"
    ready.healthcheck()
    ready.manual.do("DESTROY_SANDBOX")
    assert ready.api.state(box) == "archived"


def test_backups_go_to_the_configured_registry(with_registry: Split) -> None:
    box = with_registry.stopped("box")
    payload = archive(with_registry, box)
    assert payload["snapshot"].startswith(f"registry.test:5000/boxes/backup-{box}:20")
    registry = {"url": "registry.test:5000", "project": "boxes", "username": "user", "password": "password"}
    assert payload["registry"] == registry
    other = with_registry.second_runner()
    local = with_registry.api.get("/runners").json()[0]["id"]
    with_registry.api("PATCH", f"/runners/{local}/scheduling", json={"unschedulable": True})
    with_registry.api.post(f"/sandbox/{box}/start")
    restore = other.do("CREATE_SANDBOX")["payload"]
    assert (restore["snapshot"], restore["registry"]) == (payload["snapshot"], registry), "any runner can restore it"
    assert with_registry.api.state(box) == "started"


def test_a_snapshot_of_a_sandbox_goes_to_the_registry(with_registry: Split) -> None:
    box = with_registry.started("box")
    with_registry.api.post(f"/sandbox/{box}/snapshot", json={"name": "saved"})
    reference = "registry.test:5000/boxes/daytona-ab:daytona"
    result = f'{{"ref":"{reference}","hash":"ab","sizeGB":0.5}}'
    payload = with_registry.manual.do("SNAPSHOT_SANDBOX", resultMetadata=result)["payload"]
    assert payload["registry"]["url"] == "registry.test:5000"
    saved = with_registry.api.get("/snapshots/saved").json()
    assert (saved["state"], saved["ref"], "initialRunnerId" in saved) == ("active", reference, False)


def test_backups_on_stop_by_configuration(tmp_path: Path) -> None:
    pair = Split(tmp_path, PINFOLD_BACKUP_ON_STOP="true")
    try:
        pair.healthcheck()
        box = pair.stopped("box")
        pair.manual.do("CREATE_BACKUP")
        assert (pair.api.state(box), record(pair, box)["backupState"]) == ("stopped", "Completed")
    finally:
        pair.close()
