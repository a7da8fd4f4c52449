"""What programs of 2025 do with the Python SDK of their time (0.111). Run by test_sdk_every_method.py."""

from __future__ import annotations

import os
import time
import urllib.request
from urllib.parse import urlsplit

from daytona import CreateSandboxFromImageParams, CreateSandboxFromSnapshotParams, Daytona, DaytonaError, Resources, SessionExecuteRequest

daytona = Daytona()
box = daytona.create(CreateSandboxFromImageParams(image=os.environ["SMALL_IMAGE"], resources=Resources(cpu=1, memory=1)), timeout=60)
try:
    answer = box.process.exec("echo $A; exit 3", cwd="/tmp", env={"A": "image"}, timeout=60)
    assert (answer.exit_code, answer.result) == (3, "image\n"), answer
finally:
    box.delete()

box = daytona.create(CreateSandboxFromSnapshotParams(language="python", labels={"flow": "2025"}), timeout=60)
try:
    assert box.process.code_run("print(6 * 7)").result.strip() == "42"
    box.process.create_session("s1")
    box.fs.upload_file(b"a page\n", "www/index.html")
    started = box.process.execute_session_command("s1", SessionExecuteRequest(command="cd www && python3 -m http.server 3000", run_async=True))
    assert started.cmd_id
    assert started.exit_code is None
    link = box.get_preview_link(3000)
    parts = urlsplit(link.url)
    headers = {"Host": parts.netloc, "x-daytona-preview-token": link.token}
    deadline = time.monotonic() + 60
    while True:
        try:
            page = urllib.request.urlopen(urllib.request.Request(f"http://127.0.0.1:{parts.port}/", headers=headers), timeout=30).read()
            break
        except OSError:
            assert time.monotonic() < deadline, "waited 60 s for the page"
            time.sleep(0.1)
    assert page == b"a page\n", page
    done = box.process.execute_session_command("s1", SessionExecuteRequest(command="true", run_async=True))
    assert box.process.get_session_command("s1", started.cmd_id).exit_code is None, "the server goes on"
    assert done.cmd_id
    assert box.fs.download_file("www/index.html") == b"a page\n"
    assert [s.id for s in daytona.list({"flow": "2025"}).items] == [box.id]
    box.stop()
    assert box.state.value == "stopped", box.state
    box.start()
    assert box.process.exec("cat www/index.html").result == "a page\n"
    for call in (lambda: daytona.get("nope"), lambda: box.fs.download_file("none"), lambda: box.process.get_session("none")):
        try:
            call()
        except DaytonaError:
            continue
        raise AssertionError("no error was raised")
finally:
    box.delete()
