"""Calls of every method of the classes that speak with the control plane."""

from __future__ import annotations

import os
import uuid
from typing import Any

import daytona as sdk
from checks import KIND, holds, if_there, raises, same, step, until
from recorder import ENDS, Recorder, finish, has

IMAGE = os.environ["SMALL_IMAGE"]


def sandbox(daytona: Any, box: Any) -> None:
    """Sandbox: what it tells, what can be set, links, tokens; and Daytona's own methods."""
    step(lambda: same(box.get_user_home_dir(), "/home/daytona"))
    step(lambda: same(box.get_user_root_dir(), "/home/daytona"))
    step(lambda: same(box.get_work_dir(), "/home/daytona"))
    step(lambda: same(box.set_labels({"m": KIND})["m"], KIND))
    step(lambda: box.set_autostop_interval(30))
    step(lambda: box.set_auto_archive_interval(60))
    step(lambda: box.set_auto_delete_interval(-1))
    step(lambda: box.set_ttl(600))
    step(lambda: box.refresh_data())
    step(lambda: same(box.auto_stop_interval, 30))
    step(lambda: box.refresh_activity())
    step(lambda: box.set_public(False))
    step(lambda: box.update_env({"M": "n"}))
    step(lambda: box.update_network_settings(network_block_all=False))
    step(lambda: holds(box.get_metrics_latest().mem_total > 0, "it has memory"))
    step(lambda: holds(box.get_preview_link(8000).token, "a link has a token"))
    signed = step(lambda: box.create_signed_preview_url(8000, 60))
    step(lambda: box.expire_signed_preview_url(8000, signed.token))
    access = step(lambda: box.create_ssh_access(5))
    step(lambda: same(box.validate_ssh_access(access.token).valid, True))
    step(lambda: box.revoke_ssh_access(access.token))
    step(lambda: holds("http" in box.download_url("m/s"), "a link"))
    step(lambda: holds("http" in box.upload_url("m/s"), "a link"))
    step(lambda: box.rotate_signing_key())
    step(lambda: box.resize(sdk.Resources(cpu=box.cpu, memory=box.memory + 1)))
    step(lambda: box.wait_for_resize_complete())
    step(lambda: holds(box.id in [s.id for s in daytona.list()], "it is listed"))
    step(lambda: same(daytona.get(box.id).id, box.id))
    cannot = (
        lambda: box.fork(),
        lambda: box.pause(),
        lambda: box.set_auto_pause_interval(5),
        lambda: box.recover(),
        lambda: box.get_metrics(),
        lambda: box.update_secrets({"A": "b"}),
    )
    for call in cannot:
        step(lambda call=call: raises("DaytonaError", call))
    for call in (lambda: box.set_autostop_interval(-1), lambda: box.set_auto_archive_interval(-1), lambda: box.set_ttl(-5)):
        step(lambda call=call: raises("DaytonaError", call))


def entrypoint(daytona: Any, box: Any) -> None:
    """The followed log of an entrypoint ends when the entrypoint does, so it needs a sandbox whose entrypoint ends."""
    if not has(box.process, "get_entrypoint_logs_async"):
        return
    name = f"m-{uuid.uuid4()}"
    params = sdk.CreateSnapshotParams(name=name, image=IMAGE, entrypoint=["sh", "-c", "echo from the entrypoint"])
    snapshot = step(lambda: daytona.snapshot.create(params, timeout=60))
    made = step(lambda: daytona.create(sdk.CreateSandboxFromSnapshotParams(snapshot=name), timeout=60))
    out: list[str] = []
    step(lambda: made.process.get_entrypoint_logs_async(out.append, out.append))
    step(lambda: holds("from the entrypoint" in "".join(out), f"the entrypoint's log is {out}"))
    step(lambda: daytona.delete(made))
    step(lambda: daytona.snapshot.delete(snapshot))


def cycle(daytona: Any, box: Any) -> None:
    """Stop, start, archive, by the sandbox and by Daytona."""
    name = f"m-{uuid.uuid4()}"
    step(lambda: daytona.stop(box))
    step(lambda: box.wait_for_sandbox_stop())
    step(lambda: daytona.start(box))
    step(lambda: box.wait_for_sandbox_start())
    step(lambda: raises("DaytonaError", box.archive))
    step(lambda: box.create_snapshot(name, timeout=120))
    step(lambda: has(box, "create_snapshot") and daytona.snapshot.delete(until(lambda: if_there(lambda: daytona.snapshot.get(name)), "the snapshot")))
    step(lambda: box.stop())
    step(lambda: box.archive())
    step(lambda: until(lambda: (box.refresh_data(), str(getattr(box.state, "value", box.state)) == "archived")[1], "the archive", 60))
    step(lambda: box.start())


def resources(daytona: Any) -> None:
    """Snapshots, volumes, warm pools, secrets, images."""
    name, missing = f"m-{uuid.uuid4()}", "DaytonaNotFoundError"
    step(lambda: holds(daytona.snapshot.list().total > 0, "there is a snapshot"))
    snapshot = step(lambda: daytona.snapshot.create(sdk.CreateSnapshotParams(name=name, image=IMAGE), timeout=60))
    step(lambda: same(daytona.snapshot.get(name).name, name))
    step(lambda: raises("DaytonaConflictError", lambda: daytona.snapshot.create(sdk.CreateSnapshotParams(name=name, image=IMAGE), timeout=60)))
    step(lambda: activation(daytona, snapshot))
    step(lambda: daytona.snapshot.delete(snapshot))
    step(lambda: until(lambda: name not in [s.name for s in daytona.snapshot.list(limit=100).items], "the snapshot to be gone"))
    for call in (lambda: daytona.snapshot.get(name), lambda: daytona.snapshot.delete(snapshot), lambda: daytona.snapshot.activate(snapshot)):
        step(lambda call=call: raises(missing, call, "NotFoundException"))
    volume = step(lambda: daytona.volume.create(name))
    step(lambda: raises("DaytonaError", lambda: daytona.volume.create(name), "ConflictException"))
    step(lambda: until(lambda: "ready" in str(daytona.volume.get(name).state).lower(), "the volume to be ready"))
    step(lambda: holds(name in [v.name for v in daytona.volume.list()], "it is listed"))
    step(lambda: daytona.volume.delete(volume))
    step(lambda: until(lambda: name not in [v.name for v in daytona.volume.list()], "the volume to be gone"))
    for call in (lambda: daytona.volume.get(name), lambda: daytona.volume.delete(volume)):
        step(lambda call=call: raises(missing, call, "NotFoundException"))
    if has(daytona, "warm_pool"):
        pool = step(lambda: daytona.warm_pool.create("default", 1))
        step(lambda: same(daytona.warm_pool.update(pool.id, 2).pool, 2))
        step(lambda: holds(pool.id in [p.id for p in daytona.warm_pool.list()], "it is listed"))
        step(lambda: daytona.warm_pool.delete(pool.id))
        step(lambda: raises("DaytonaError", lambda: daytona.warm_pool.create("no-such-snapshot", 1), "BadRequestException"))
        for call in (lambda: daytona.warm_pool.update(pool.id, 1), lambda: daytona.warm_pool.delete(pool.id)):
            step(lambda call=call: raises(missing, call, "NotFoundException"))
    if has(daytona, "secret"):
        secret = daytona.secret
        for call in (
            lambda: secret.create(sdk.CreateSecretParams(name="a", value="b")),
            lambda: secret.get("a"),
            lambda: secret.delete("a"),
            lambda: secret.update("a", sdk.UpdateSecretParams(value="c")),
            lambda: secret.list(),
        ):
            step(lambda call=call: raises("DaytonaError", call, "ServiceException"))


def activation(daytona: Any, snapshot: Any) -> None:
    """An active snapshot is activated again without harm, or refused in words."""
    try:
        daytona.snapshot.activate(snapshot)
    except sdk.DaytonaError as error:
        holds("active" in str(error), str(error))
        ENDS["SnapshotService.activate"].append("ok")


def wrong_key() -> None:
    """Without a key that is ours nothing is told."""
    config = sdk.DaytonaConfig(api_key="dtn_wrong", api_url=os.environ["DAYTONA_API_URL"])
    other = Recorder((sdk.Daytona if KIND == "sync" else sdk.AsyncDaytona)(config))
    for call in (lambda: other.get("x"), lambda: other.list(), lambda: other.create(), lambda: other.snapshot.list(), lambda: other.volume.list()):
        step(lambda call=call: raises("DaytonaAuthenticationError", call, "UnauthorizedException"))
    if KIND == "async":
        finish(other._target.close())
