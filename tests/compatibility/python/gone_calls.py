"""Calls of every method that asks a server, of a sandbox that somebody else has deleted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import daytona as sdk
from checks import KIND, raises, same, step
from recorder import has


def gone(daytona: Any, box: Any) -> None:
    """A sandbox that somebody else has deleted: everything that asks the server says that it is not found."""
    run, size = sdk.SessionExecuteRequest(command="true"), sdk.PtySize(cols=80, rows=24)
    more = {} if KIND == "sync" else {"on_data": lambda _: None}
    server = box.create_lsp_server("python", "proj")
    quiet = lambda _: None  # noqa: E731
    context = type("Context", (), {"id": "none", "cwd": "/"})()
    calls: list[Callable[[], Any]] = [
        lambda: daytona.get(box.id),
        lambda: daytona.start(box),
        lambda: daytona.stop(box),
        lambda: box.start(),
        lambda: box.stop(),
        lambda: box.archive(),
        lambda: box.recover(),
        lambda: box.refresh_data(),
        lambda: box.refresh_activity(),
        lambda: box.set_labels({"a": "b"}),
        lambda: box.set_autostop_interval(5),
        lambda: box.set_auto_archive_interval(5),
        lambda: box.set_auto_delete_interval(5),
        lambda: box.set_ttl(5),
        lambda: box.set_public(True),
        lambda: box.update_network_settings(network_block_all=True),
        lambda: box.get_preview_link(8000),
        lambda: box.create_signed_preview_url(8000, 60),
        lambda: box.expire_signed_preview_url(8000, "x"),
        lambda: box.create_ssh_access(5),
        lambda: box.revoke_ssh_access("x"),
        lambda: box.rotate_signing_key(),
        lambda: box.create_snapshot("x"),
        lambda: box.resize(sdk.Resources(cpu=1, memory=3)),
        lambda: box.update_env({"a": "b"}),
        lambda: box.get_metrics_latest(),
        lambda: box.get_user_home_dir(),
        lambda: box.get_work_dir(),
        lambda: box.fs.create_folder("x", "755"),
        lambda: box.fs.find_files(".", "x"),
        lambda: box.fs.search_files(".", "x"),
        lambda: box.fs.replace_in_files(["x"], "a", "b"),
        lambda: box.fs.list_files("."),
        lambda: box.process.exec("true"),
        lambda: box.process.create_session("x"),
        lambda: box.process.list_sessions(),
        lambda: box.process.get_entrypoint_session(),
        lambda: box.process.get_entrypoint_logs(),
        lambda: box.process.execute_session_command("x", run),
        lambda: box.process.list_pty_sessions(),
        lambda: box.process.create_pty_session("x", **more),
        lambda: box.process.resize_pty_session("x", size),
        lambda: server.start(),
        lambda: server.stop(),
        lambda: server.did_open("x"),
        lambda: server.did_close("x"),
        lambda: box.git.init("x"),
        lambda: box.git.configure_user("a", "b"),
        lambda: box.git.get_config("a.b"),
        lambda: box.git.set_config("a.b", "c"),
        lambda: box.git.dangerously_authenticate("a", "b"),
        lambda: box.git.status("x"),
        lambda: box.wait_for_sandbox_start(30),
        lambda: box.get_user_root_dir(),
        lambda: box.delete(),
        lambda: daytona.delete(box),
    ]
    if has(box, "code_interpreter"):
        calls += [lambda: box.code_interpreter.create_context(), lambda: box.code_interpreter.list_contexts(), lambda: box.code_interpreter.delete_context(context)]
    for call in calls:
        step(lambda call=call: raises("DaytonaNotFoundError", call))
    # Transfers have one class for every status.
    transfers = (
        lambda: box.fs.upload_file(b"x", "x"),
        lambda: box.fs.upload_files([sdk.FileUpload(b"x", "x")]),
        lambda: box.fs.upload_file_stream(b"x", "x"),
        lambda: box.fs.download_files([sdk.FileDownloadRequest("x")]),
    )
    for call in transfers:
        step(lambda call=call: raises("DaytonaError", call))
    streams = [lambda: box.process.get_session_command_logs_async("x", "y", quiet, quiet)]
    if has(box.process, "get_entrypoint_logs_async"):
        streams.append(lambda: box.process.get_entrypoint_logs_async(quiet, quiet))
    if has(box, "code_interpreter"):
        streams.append(lambda: box.code_interpreter.run_code("1"))
    for call in streams:
        step(lambda call=call: raises("DaytonaError", call))
    step(lambda: raises("DaytonaNotFoundError", lambda: box.process.code_run("1"), "NotFoundException"))
    # What is gone has stopped, and is resized no longer; no token opens it.
    step(lambda: box.wait_for_sandbox_stop(30))
    step(lambda: box.wait_for_resize_complete(30))
    step(lambda: same(box.validate_ssh_access("x").valid, False))
