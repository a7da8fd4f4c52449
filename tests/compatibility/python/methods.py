"""Every public method of a Python SDK: once with success, once with the error class that it must raise.

    python methods.py sync|async

Runs with the Python of an SDK's own environment, against DAYTONA_API_URL. Prints JSON: `wrong` has what was answered wrongly, `untested` the
methods, found by looking at the SDK's classes, that no call here has made succeed or fail. Run by test_sdk_every_method.py.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import json
import sys
from typing import Any

import daytona as sdk
from checks import KIND, WRONG, step, until
from control_calls import cycle, entrypoint, resources, sandbox, wrong_key
from gone_calls import gone
from image_calls import images
from recorder import ENDS, Recorder, finish, name_of
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
    "SecretService.list": "nothing to be wrong",
    "VolumeService.list": "needs no more than a key, see wrong_key",
    "SnapshotService.list": "needs no more than a key, see wrong_key",
    "WarmPoolService.list": "needs no more than a key, see wrong_key",
    "PtyHandle.is_connected": "says what is",
    "PtyHandle.disconnect": "ends what may have ended",
    "PtyHandle.wait_for_connection": "the error comes from connect_pty_session",
    "PtyHandle.wait": "an end is its answer, whatever the end",
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
    "Image.copy": "text",
}
#: Of the library, not for users, or not for containers.
NOT_FOR_USERS = {"SnapshotService.process_image_context", "Sandbox.backup_state_validate_enum", "Sandbox.var_class_validate_enum", "Sandbox.copy", "Image.copy"}


def public_methods() -> set[str]:
    """Every public method of the SDK's classes, by introspection."""
    package = f"daytona._{KIND}"
    names = ("daytona", "sandbox", "filesystem", "process", "git", "lsp_server", "code_interpreter", "snapshot", "volume", "secret", "warm_pool")
    modules = []
    for name in names:
        with contextlib.suppress(ImportError):
            modules.append(importlib.import_module(f"{package}.{name}"))
    handles = importlib.import_module("daytona.handle." + ("pty_handle" if KIND == "sync" else "async_pty_handle"))
    pydantic = importlib.import_module("pydantic").BaseModel
    generated = set(dir(pydantic)) | {"to_dict", "to_json", "to_str", "from_dict", "from_json", "close"}
    found = set()
    for module in [*modules, handles, importlib.import_module("daytona.common.image")]:
        for _, cls in inspect.getmembers(module, inspect.isclass):
            if cls.__module__ != module.__name__ or cls.__name__.startswith("_") or issubclass(cls, Exception):
                continue
            for name, value in inspect.getmembers(cls):
                if not name.startswith("_") and name not in generated and callable(value):
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
        finish(client.close())
    untested = []
    for method in sorted(public_methods()):
        ends = ENDS.get(method, [])
        if "ok" not in ends and method not in NEVER_OK:
            untested.append(f"{method}: never with success")
        if all(end == "ok" for end in ends) and method not in NEVER_WRONG:
            untested.append(f"{method}: never with an error")
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
