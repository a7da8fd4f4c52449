"""What a user of the official Python SDK does, against the control plane with a runner that has no engine."""

from __future__ import annotations

import itertools
import time

import pytest
from daytona import (
    CreateSandboxFromImageParams,
    CreateSandboxFromSnapshotParams,
    CreateSnapshotParams,
    Daytona,
    DaytonaError,
    DaytonaNotFoundError,
    Image,
    Resources,
    Sandbox,
    VolumeMount,
)

from control_harness import Api, Process, wait_for


@pytest.fixture
def sandbox(sdk: Daytona):
    made = sdk.create()
    yield made
    try:
        sdk.delete(made)
    except DaytonaNotFoundError:
        pass


def word(state: object) -> str:
    return str(getattr(state, "value", state))


def settled(sandbox: Sandbox, state: str) -> bool:
    """Whether it is in this state. The SDK's event thread may still be telling of the way there, so it is asked again."""
    return bool(wait_for(f"the SDK to say {state}", lambda: sandbox.refresh_data() or word(sandbox.state) == state))


def test_create_answers_with_a_started_sandbox(sandbox: Sandbox) -> None:
    assert settled(sandbox, "started")
    assert sandbox.name == sandbox.id
    assert sandbox.labels["code-toolbox-language"] == "python"
    assert (sandbox.cpu, sandbox.memory, sandbox.disk, sandbox.gpu) == (1, 1, 3, 0)
    assert sandbox.created_at and sandbox.updated_at and sandbox.organization_id
    assert sandbox.process.exec("echo hi").result == "echo hi"


def test_get_list_and_labels(sdk: Daytona, sandbox: Sandbox) -> None:
    assert sdk.get(sandbox.id).id == sandbox.id
    sandbox.set_labels({"suite": "labels"})
    found = [item.id for item in sdk.list()]
    assert sandbox.id in found
    sandbox.refresh_data()
    assert sandbox.labels == {"suite": "labels"}


def test_intervals(sandbox: Sandbox) -> None:
    sandbox.set_autostop_interval(30)
    sandbox.set_auto_archive_interval(60)
    sandbox.set_auto_delete_interval(120)
    sandbox.set_auto_delete_interval(-1)
    sandbox.refresh_data()
    assert (sandbox.auto_stop_interval, sandbox.auto_archive_interval, sandbox.auto_delete_interval) == (30, 60, -1)
    with pytest.raises(DaytonaError):
        sandbox.set_autostop_interval(-5)


def test_stop_and_start(sandbox: Sandbox) -> None:
    token = sandbox.get_preview_link(3000).token
    sandbox.stop()
    assert settled(sandbox, "stopped")
    sandbox.start()
    assert settled(sandbox, "started")
    assert sandbox.get_preview_link(3000).token != token, "a start makes a new token"


def test_archive_and_start(sandbox: Sandbox) -> None:
    sandbox.stop()
    sandbox.archive()
    wait_for("the archive", lambda: sandbox.refresh_data() or word(sandbox.state) == "archived")
    sandbox.start()
    assert settled(sandbox, "started")


def test_delete_means_gone(sdk: Daytona, api: Api) -> None:
    sandbox = sdk.create(CreateSandboxFromSnapshotParams(name="to-be-deleted"))
    sdk.delete(sandbox)
    wait_for("the sandbox to be gone", lambda: api.state(sandbox.id) is None)
    with pytest.raises(DaytonaNotFoundError):
        sdk.get(sandbox.id)
    again = sdk.create(CreateSandboxFromSnapshotParams(name="to-be-deleted"))
    sdk.delete(again)


def test_stopping_an_ephemeral_sandbox_deletes_it(sdk: Daytona, api: Api) -> None:
    sandbox = sdk.create(CreateSandboxFromSnapshotParams(ephemeral=True))
    sandbox.stop()
    wait_for("the sandbox to be gone", lambda: api.state(sandbox.id) is None)


def test_a_failed_create_raises_and_leaves_the_reason(sdk: Daytona, api: Api) -> None:
    with pytest.raises(DaytonaError, match="boom"):
        sdk.create(CreateSandboxFromSnapshotParams(name="fails", env_vars={"SIM_FAIL": "boom"}))
    record = api.get("/sandbox/fails").json()
    assert record["state"] == "error" and record["errorReason"] == "boom"
    sdk.delete(sdk.get("fails"))


def test_a_string_image_is_pulled_once(sdk: Daytona) -> None:
    lines: list[str] = []
    params = CreateSandboxFromImageParams(image="registry.test/sdk:1.0", resources=Resources(cpu=2, memory=2))
    first = sdk.create(params, on_snapshot_create_logs=lines.append)
    assert "registry.test/sdk:1.0" in "".join(lines)
    assert settled(first, "started") and (first.cpu, first.memory) == (2, 2)
    lines.clear()
    second = sdk.create(params, on_snapshot_create_logs=lines.append)
    assert lines == [], "an image that is there makes a blocking create, which has no log"
    sdk.delete(first)
    sdk.delete(second)


def test_a_declarative_build_shows_its_log(sdk: Daytona) -> None:
    lines: list[str] = []
    image = Image.base("registry.test/base:1").run_commands("echo built").env({"UNIQUE": str(time.time_ns())})
    sandbox = sdk.create(CreateSandboxFromImageParams(image=image), on_snapshot_create_logs=lines.append)
    assert "FROM base" in "".join(lines)
    sdk.delete(sandbox)
    bad = Image.base("registry.test/base:1").run_commands("false")
    with pytest.raises(DaytonaError, match="exit status 1"):
        sdk.create(CreateSandboxFromImageParams(image=bad), on_snapshot_create_logs=lines.append)


def test_the_socket_wakes_waits(sdk: Daytona, api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """Events alone end a wait: the SDK looks by itself as well, at once and then each second, and sees nothing here after its first look."""
    first = sdk.create()

    def hears() -> bool:
        """Whether the SDK's socket stands: only an event tells this object that it was stopped."""
        for verb in ("start", "stop"):
            assert api.post(f"/sandbox/{first.id}/{verb}").status_code == 200
        until = time.monotonic() + 0.2
        while word(first.state) == "started" and time.monotonic() < until:
            time.sleep(0.005)
        return word(first.state) != "started"

    wait_for("the SDK to hear events", hears)
    look, looks = Sandbox.refresh_data, itertools.count()
    monkeypatch.setattr(Sandbox, "refresh_data", lambda sandbox: None if next(looks) else look(sandbox))
    image = Image.base("registry.test/base:1").env({"UNIQUE": str(time.time_ns())})
    params = CreateSandboxFromImageParams(image=image, env_vars={"SIM_DELAY_MS": "300"})
    sdk.delete(sdk.create(params, timeout=30))
    assert next(looks) >= 1, "it did not wait"
    sdk.delete(first)


def test_volumes(sdk: Daytona, api: Api) -> None:
    volume = sdk.volume.create("sdk-volume")
    assert word(volume.state) == "ready"
    assert sdk.volume.get("sdk-volume").id == volume.id
    assert volume.id in [item.id for item in sdk.volume.list()]
    mount = VolumeMount(volume_id="sdk-volume", mount_path="/data", subpath="a/b")
    sandbox = sdk.create(CreateSandboxFromSnapshotParams(volumes=[mount]))
    assert api.get(f"/sandbox/{sandbox.id}").json()["volumes"][0]["volumeId"] == volume.id
    with pytest.raises(DaytonaError):
        sdk.volume.delete(volume)
    sdk.delete(sandbox)
    wait_for("the sandbox to be gone", lambda: api.state(sandbox.id) is None)
    sdk.volume.delete(volume)
    assert "sdk-volume" not in [item.name for item in sdk.volume.list()]
    remade = sdk.volume.get("sdk-volume", create=True)
    sdk.volume.delete(remade)


def test_snapshots(sdk: Daytona) -> None:
    page = sdk.snapshot.list(page=1, limit=2)
    assert page.page == 1 and page.total >= 1 and len(page.items) <= 2
    name = page.items[0].name
    assert sdk.snapshot.get(name).name == name
    made = sdk.snapshot.create(CreateSnapshotParams(name="team/tools:1", image="registry.test/tools:1.2"), timeout=20)
    assert word(made.state) == "active"
    sandbox = sdk.create(CreateSandboxFromSnapshotParams(snapshot="team/tools:1"))
    assert sandbox.snapshot == "team/tools:1"
    sdk.delete(sandbox)
    sdk.snapshot.delete(sdk.snapshot.get("team/tools:1"))
    with pytest.raises(DaytonaNotFoundError):
        sdk.snapshot.get("team/tools:1")
    with pytest.raises(DaytonaError, match="missing"):
        sdk.snapshot.create(CreateSnapshotParams(name="bad", image="registry.test/missing:1"), timeout=20)


def test_a_snapshot_of_a_sandbox(sdk: Daytona, sandbox: Sandbox) -> None:
    sandbox.create_snapshot("of-a-sandbox")
    wait_for("the snapshot", lambda: [s for s in sdk.snapshot.list(limit=200).items if s.name == "of-a-sandbox"])
    copy = sdk.create(CreateSandboxFromSnapshotParams(snapshot="of-a-sandbox"))
    assert settled(copy, "started")
    sdk.delete(copy)


def test_resize(sandbox: Sandbox) -> None:
    sandbox.resize(Resources(cpu=2, memory=3))
    sandbox.refresh_data()
    assert (sandbox.cpu, sandbox.memory) == (2, 3)
    with pytest.raises(DaytonaError):
        sandbox.resize(Resources(cpu=1))


def test_ssh_access(sdk: Daytona, control: Process, sandbox: Sandbox) -> None:
    access = sandbox.create_ssh_access(expires_in_minutes=5)
    assert access.ssh_command == f"ssh -p {control.info['sshPort']} {access.token}@localhost"
    assert sandbox.validate_ssh_access(access.token).valid
    assert not sandbox.validate_ssh_access("nonsense").valid
    sandbox.revoke_ssh_access(access.token)
    assert not sandbox.validate_ssh_access(access.token).valid


def test_links_and_activity(sandbox: Sandbox) -> None:
    link = sandbox.get_preview_link(3000)
    assert link.url.startswith(f"http://3000-{sandbox.id}.proxy.localhost:") and len(link.token) == 32
    signed = sandbox.create_signed_preview_url(3000, 120)
    assert signed.port == 3000 and signed.token in signed.url
    sandbox.refresh_activity()


def test_warm_pools(sdk: Daytona, api: Api) -> None:
    pool = api.post("/warm-pools", json={"snapshot": "default", "pool": 2})
    assert pool.status_code == 201
    path = f"/warm-pools/{pool.json()['id']}"

    def ready() -> int:
        return int(api.get("/warm-pools").json()[0]["currentSize"])

    wait_for("two waiting sandboxes", lambda: ready() == 2)
    assert not [item for item in sdk.list() if item.name.startswith("warm-")], "what waits is not listed"
    sandbox = sdk.create(CreateSandboxFromSnapshotParams(name="from-the-pool", labels={"a": "b"}, auto_stop_interval=7))
    assert settled(sandbox, "started") and (sandbox.name, sandbox.auto_stop_interval) == ("from-the-pool", 7)
    assert sandbox.labels["a"] == "b" and api.get("/sandbox/from-the-pool").json().get("warmPoolId") is None
    wait_for("the pool to be full again", lambda: ready() == 2)
    waiting = {item["id"] for item in api.get("/sandbox", params={"includeWarm": "true", "name": "warm-"}).json()["items"]}
    late = sdk.create(CreateSandboxFromSnapshotParams(env_vars={"A": "b"}))
    assert late.id in waiting and late.env == {"A": "b"}
    wait_for("the pool to be full again", lambda: ready() == 2)
    waiting = {item["id"] for item in api.get("/sandbox", params={"includeWarm": "true", "name": "warm-"}).json()["items"]}
    other = sdk.create(CreateSandboxFromSnapshotParams(env_vars={"PINFOLD_MAX_PTYS": "3"}))
    assert other.id not in waiting, "the daemon reads its own settings at its start, so this one is made anew"
    for made in (sandbox, late, other):
        sdk.delete(made)
    assert api("PATCH", path, json={"pool": 1}).json()["pool"] == 1
    wait_for("a smaller pool", lambda: ready() == 1)
    assert api("DELETE", path).status_code == 204
    wait_for("nothing to wait any more", lambda: not api.get("/sandbox", params={"includeWarm": "true", "name": "warm-"}).json()["items"])
