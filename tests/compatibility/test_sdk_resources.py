"""Volumes, snapshots, secrets and warm pools of the SDK."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import uuid

import pytest
from daytona import CreateSandboxFromImageParams, CreateSnapshotParams, DaytonaError, DaytonaNotFoundError, Image, SessionExecuteRequest, VolumeMount

from support import busybox, eventually


@pytest.fixture
def volume(daytona):
    volume = daytona.volume.create(f"vol-{uuid.uuid4()}")
    eventually(lambda: daytona.volume.get(volume.name).state == "ready", "the volume to be ready")
    yield daytona.volume.get(volume.name)
    with contextlib.suppress(DaytonaNotFoundError):
        daytona.volume.delete(daytona.volume.get(volume.name))


def test_a_volume_outlives_its_sandboxes(daytona, volume, make_sandbox):
    mount = [VolumeMount(volume_id=volume.id, mount_path="/home/daytona/shared")]
    first = make_sandbox(volumes=mount)
    first.fs.upload_file(b"kept", "shared/file")
    daytona.delete(first, wait=True)
    assert make_sandbox(volumes=mount).fs.download_file("shared/file") == b"kept"


def test_a_volume_below_a_path(volume, make_sandbox):
    inner = make_sandbox(volumes=[VolumeMount(volume_id=volume.id, mount_path="/data", subpath="a/b")])
    inner.fs.upload_file(b"deep", "/data/file")
    outer = make_sandbox(volumes=[VolumeMount(volume_id=volume.id, mount_path="/data")])
    assert outer.fs.download_file("/data/a/b/file") == b"deep"


def test_volumes_are_listed_found_and_deleted(daytona, volume):
    assert volume.name in [v.name for v in daytona.volume.list()]
    daytona.volume.delete(volume)
    eventually(lambda: volume.name not in [v.name for v in daytona.volume.list()], "the volume to be gone")
    with pytest.raises(DaytonaNotFoundError):
        daytona.volume.get(volume.name)
    again = daytona.volume.get(volume.name, create=True)
    eventually(lambda: daytona.volume.get(again.name).state == "ready", "the new volume to be ready")


def test_snapshots_are_listed_and_found(daytona):
    page = daytona.snapshot.list(page=1, limit=2)
    assert page.total > 0
    assert page.page == 1
    assert len(page.items) <= 2
    assert daytona.snapshot.get(page.items[0].name).id == page.items[0].id
    with pytest.raises(DaytonaNotFoundError):
        daytona.snapshot.get("no-such-snapshot")


def test_a_snapshot_of_a_local_image(daytona, make_sandbox):
    name = f"busybox-{uuid.uuid4()}"
    snapshot = daytona.snapshot.create(CreateSnapshotParams(name=name, image=busybox()), timeout=60)
    try:
        made = make_sandbox(snapshot=name)
        assert made.process.exec("busybox | head -1").result.startswith("BusyBox")
        daytona.delete(made, wait=True)
    finally:
        daytona.snapshot.delete(snapshot)
    eventually(lambda: name not in [s.name for s in daytona.snapshot.list(limit=100).items], "the snapshot to be gone")


def test_a_sandbox_from_an_image_by_name(daytona, make_sandbox):
    made = make_sandbox(CreateSandboxFromImageParams(image=busybox()))
    assert made.process.exec("ls /bin/busybox").result == "/bin/busybox\n"


def test_a_declarative_image(daytona, make_sandbox):
    logs: list[str] = []
    mark = uuid.uuid4().hex
    image = Image.base(busybox()).env({"MARK": mark}).run_commands("echo built > /built").workdir("/tmp")
    made = daytona.create(CreateSandboxFromImageParams(image=image), timeout=150, on_snapshot_create_logs=logs.append)
    try:
        assert made.process.exec('echo "$MARK"; cat /built; pwd').result == f"{mark}\nbuilt\n/tmp\n"
        assert logs
    finally:
        daytona.delete(made)


def test_a_build_that_fails_says_why(daytona):
    image = Image.base(busybox()).run_commands("echo reason-of-failure >&2; exit 3")
    with pytest.raises(DaytonaError, match=r"(?i)build|exit|code|3"):
        daytona.create(CreateSandboxFromImageParams(image=image), timeout=150)


def test_an_image_that_is_missing_names_itself(daytona):
    with pytest.raises(DaytonaError) as refused:
        daytona.create(CreateSandboxFromImageParams(image="registry.invalid/no-such-image:1"), timeout=120)
    # An SDK that hears of the end by an event raises without a reason; the record has it.
    sandbox = daytona.get(re.search(r"[0-9a-f-]{36}", str(refused.value)).group())
    assert "no-such-image" in sandbox.error_reason
    daytona.delete(sandbox)


def test_a_snapshot_of_a_sandbox(daytona, make_sandbox):
    made = make_sandbox()
    made.fs.upload_file(b"frozen", "kept.txt")
    name = f"from-sandbox-{uuid.uuid4()}"
    made.create_snapshot(name, timeout=120)
    # An event of the sandbox's own start that comes late makes the SDK return before the snapshot is there.
    eventually(lambda: daytona.snapshot.list(source_sandbox_id=made.id).total, "the snapshot", 60)
    copy = make_sandbox(snapshot=name)
    try:
        assert copy.fs.download_file("kept.txt") == b"frozen"
    finally:
        daytona.delete(copy, wait=True)
        daytona.snapshot.delete(name)


def test_a_warm_sandbox_has_the_environment_of_the_create(stack, daytona, make_sandbox):
    """It was started before anyone asked for it; whatever is started in it afterwards has the environment, and again after a stop."""
    pool = json.loads(stack.api("POST", "/warm-pools", {"snapshot": "default", "pool": 1})[1])["id"]
    try:
        eventually(lambda: json.loads(stack.api("GET", "/warm-pools")[1])[0]["currentSize"] == 1, "the pool to be full", 60)
        waiting = {item["id"] for item in json.loads(stack.api("GET", "/sandbox?includeWarm=true&name=warm-")[1])["items"]}
        made = make_sandbox(name=f"claimed-{uuid.uuid4()}", env_vars={"GREETING": "hello there"}, labels={"a": "b"})
        assert made.id in waiting and made.env == {"GREETING": "hello there"}

        def shown() -> list[str]:
            say = 'printf %s "$GREETING"'
            made.process.create_session("s")
            session = made.process.execute_session_command("s", SessionExecuteRequest(command=say)).output
            made.process.delete_session("s")
            seen = bytearray()
            terminal = made.process.create_pty_session("p")
            terminal.send_input(f"{say}; exit\n")
            terminal.wait(on_data=seen.extend, timeout=60)
            terminal.disconnect()
            access = made.create_ssh_access(expires_in_minutes=5)
            command = [*access.ssh_command.split(), say]
            command[1:1] = ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR", "-o", "BatchMode=yes"]
            over_ssh = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
            interpreted = made.process.code_run("import os; print(os.environ['GREETING'], end='')").result
            return [made.process.exec(say).result, session, over_ssh, interpreted, re.search("hello there", seen.decode()).group()]

        expected = ["hello there"] * 5
        assert shown() == expected
        made.stop()
        made.start()
        assert shown() == expected
    finally:
        assert stack.api("DELETE", f"/warm-pools/{pool}")[0] == 204
