"""Every public method of a Python SDK: once with success, once with the error class that it must raise.

    python methods.py sync|async

Runs with the Python of an SDK's own environment, against DAYTONA_API_URL. Prints JSON: `wrong` has what was answered wrongly, `untested` the
methods, found by looking at the SDK's classes, that no call here has made succeed or fail. Run by test_sdk_every_method.py.
"""

from __future__ import annotations

import importlib
import inspect
import json
import pkgutil
import sys
from importlib.metadata import version
from typing import Any

import daytona as sdk
from checks import KIND, WRONG, step, until
from control_calls import cycle, entrypoint, resources, sandbox, wrong_key
from gone_calls import gone
from image_calls import images
from recorder import ABSENT, ENDS, Recorder, name_of
from toolbox_calls import files, git, interpreter, language_server, processes, terminals

#: Methods that cannot succeed, or cannot fail, and why.
NEVER_OK = {
    "Sandbox.fork": "containers cannot be forked; the contract has 422",
    "Sandbox.pause": "containers cannot be paused; the contract has 422",
    "Sandbox.set_auto_pause_interval": "containers cannot be paused; the contract has 422",
    "Sandbox.get_metrics": "a history of figures is kept by telemetry back ends",
    "Sandbox.update_secrets": "there is no store of secrets",
    "Sandbox.recover": "only a sandbox whose disk is full can be recovered, and this file system has no quotas; tests/lifecycle, runner/tests",
    "SecretService.create": "there is no store of secrets",
    "SecretService.get": "there is no store of secrets",
    "SecretService.update": "there is no store of secrets",
    "SecretService.delete": "there is no store of secrets",
    "SecretService.list": "there is no store of secrets",
}
NEVER_WRONG = {
    "Sandbox.create_lsp_server": "makes an object and asks nobody",
    "Sandbox.download_url": "signs by itself once it has the key",
    "Sandbox.upload_url": "signs by itself once it has the key",
    "Sandbox.validate_ssh_access": "that a token is not valid is its answer",
    "Sandbox.wait_for_resize_complete": "what is gone is no longer resized",
    "Sandbox.wait_for_sandbox_stop": "what is gone has stopped",
    "VolumeService.list": "needs no more than a key, see wrong_key",
    "SnapshotService.list": "needs no more than a key, see wrong_key",
    "WarmPoolService.list": "needs no more than a key, see wrong_key",
    "PtyHandle.is_connected": "says what is",
    "PtyHandle.disconnect": "ends what may have ended",
    "PtyHandle.wait_for_connection": "the error comes from connect_pty_session",
    "PtyHandle.wait": "an end is its answer, whatever the end",
    "Daytona.close": "lets go of what is its own",
    "Image.base": "text",
    "Image.debian_slim": "text",
    "Image.env": "text",
    "Image.workdir": "text",
    "Image.run_commands": "text",
    "Image.pip_install": "text",
    "Image.add_local_file": "text",
    "Image.add_local_dir": "text",
    "Image.dockerfile": "text",
    "Image.dockerfile_commands": "text",
    "Image.entrypoint": "text",
    "Image.cmd": "text",
}
#: Of the library, not for users, or not for containers.
NOT_FOR_USERS = {"SnapshotService.process_image_context", *(f"{data}.from_dto" for data in ("Secret", "Snapshot", "Volume", "WarmPool"))}
#: Classes that are not called, and why.
LEFT_OUT = {
    "ObjectStorage": "what builds upload with; test_sdk_stores.py has it at work",
    "CancelEvent": "says what a user's own event must have",
    **dict.fromkeys(("ComputerUse", "Mouse", "Keyboard", "Screenshot", "Display", "Accessibility", "RecordingService"), "there is no screen"),
}
#: What earlier versions do not have yet of what is called here. A name too few and a name too many are both wrong.
EARLIER = {
    "0.190.": {
        "Daytona": "secret warm_pool",
        "Git": "configure_user dangerously_authenticate get_config init remote_add remote_get remotes reset restore set_config",
        "Sandbox": "create_snapshot download_url fork get_metrics get_metrics_latest rotate_signing_key set_auto_pause_interval set_public set_ttl update_env "
        "update_secrets upload_url",
    },
}


def public_methods() -> set[str]:
    """Every public method of every class that the SDK itself defines, by introspection: what a class has from its generated client or from pydantic is not among them."""
    handles = importlib.import_module("daytona.handle." + ("pty_handle" if KIND == "sync" else "async_pty_handle"))
    modules = [handles]
    for name in (f"daytona._{KIND}", "daytona.common"):
        modules += (importlib.import_module(f"{name}.{found.name}") for found in pkgutil.iter_modules(importlib.import_module(name).__path__))
    found = set()
    for module in modules:
        for _, cls in inspect.getmembers(module, inspect.isclass):
            if cls.__module__ != module.__name__ or cls.__name__.startswith("_") or name_of(cls) in LEFT_OUT:
                continue
            for name, value in vars(cls).items():
                if not name.startswith(("_", "model_")) and (inspect.isfunction(value) or isinstance(value, classmethod | staticmethod)):
                    found.add(f"{name_of(cls)}.{name}")
    return found - NOT_FOR_USERS


def main() -> int:
    client = (sdk.Daytona if KIND == "sync" else sdk.AsyncDaytona)()
    daytona = Recorder(client)
    box = daytona.create(timeout=60)
    try:
        for part in (files, processes, terminals, interpreter, git, language_server):
            part(box)
        sandbox(daytona, box)
        entrypoint(daytona, box)
        resources(daytona)
        images(daytona)
        wrong_key()
        cycle(daytona, box)
    finally:
        step(lambda: daytona.delete(box))
    other = daytona.create(timeout=60)
    step(lambda: other.delete())
    step(lambda: until(lambda: not alive(daytona, box.id), "the sandbox to be gone"))
    gone(daytona, box)
    if KIND == "async":
        daytona.close()
    untested = []
    for method in sorted(public_methods()):
        ends = ENDS.get(method, [])
        if "ok" not in ends and method not in NEVER_OK:
            untested.append(f"{method}: never with success")
        if all(end == "ok" for end in ends) and method not in NEVER_WRONG:
            untested.append(f"{method}: never with an error")
    known = {f"{cls}.{name}" for earlier, classes in EARLIER.items() if version("daytona").startswith(earlier) for cls, names in classes.items() for name in names.split()}
    WRONG.extend(f"{name} is called and not in this version" for name in sorted(ABSENT - known))
    WRONG.extend(f"{name} is in this version after all" for name in sorted(known - ABSENT))
    stale = sorted({m for m in (*NEVER_OK,) if "ok" in ENDS.get(m, [])})
    print(json.dumps({"methods": len(public_methods()), "wrong": WRONG, "untested": untested, "stale": stale}))
    return 1 if WRONG or untested else 0


def alive(daytona: Any, identity: str) -> bool:
    """Whether the API still knows the sandbox."""
    try:
        daytona.get(identity)
    except sdk.DaytonaError:
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
