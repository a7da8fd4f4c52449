"""Calls of every method of the classes that speak with a sandbox's daemon."""

from __future__ import annotations

from typing import Any

import daytona as sdk
from checks import KIND, holds, raises, same, step, until
from recorder import has

# Earlier SDKs tell fewer errors apart.
TIMEOUT = "DaytonaTimeoutError" if hasattr(sdk, "DaytonaProcessExecutionTimeoutError") else "DaytonaError"


def files(box: Any) -> None:
    """FileSystem."""
    fs = box.fs
    step(lambda: fs.create_folder("m/d", "755"))
    step(lambda: fs.upload_file(b"needle\n", "m/a.txt"))
    step(lambda: fs.upload_files([sdk.FileUpload(b"hay\n", "m/b.txt")]))
    step(lambda: fs.upload_file_stream(b"streamed", "m/s"))
    step(lambda: same(fs.download_file("m/a.txt"), b"needle\n"))
    step(lambda: same(b"".join(fs.download_file_stream("m/s")), b"streamed"))
    step(lambda: same(fs.download_files([sdk.FileDownloadRequest("m/b.txt")])[0].result, b"hay\n"))
    step(lambda: same(sorted(f.name for f in fs.list_files("m"))[:2], ["a.txt", "b.txt"]))
    step(lambda: same(fs.get_file_info("m/a.txt").size, 7))
    step(lambda: same([m.line for m in fs.find_files("m", "needle")], [1]))
    step(lambda: same(len(fs.search_files("m", "*.txt").files), 2))
    step(lambda: same([r.success for r in fs.replace_in_files(["m/a.txt"], "needle", "pin")], [True]))
    step(lambda: fs.set_file_permissions("m/a.txt", mode="600", owner="daytona", group="daytona"))
    step(lambda: fs.move_files("m/a.txt", "m/c.txt"))
    step(lambda: fs.delete_file("m/c.txt"))
    missing = "DaytonaNotFoundError"
    for call in (
        lambda: fs.download_file("m/none"),
        lambda: fs.download_file_stream("m/none"),
        lambda: fs.list_files("m/none"),
        lambda: fs.get_file_info("m/none"),
        lambda: fs.move_files("m/none", "m/x"),
        lambda: fs.delete_file("m/none"),
        lambda: fs.set_file_permissions("m/none", mode="600"),
    ):
        step(lambda call=call: raises(missing, call))


def processes(box: Any) -> None:
    """Process: commands, sessions, the entrypoint."""
    process = box.process
    step(lambda: same(process.exec("echo $A; exit 3", env={"A": "b"}).exit_code, 3))
    step(lambda: raises(TIMEOUT, lambda: process.exec("sleep 60", timeout=1)))
    step(lambda: same(process.code_run("print(6 * 7)").result.strip(), "42"))
    step(lambda: process.create_session("m"))
    step(lambda: raises("DaytonaConflictError", lambda: process.create_session("m")))
    run = sdk.SessionExecuteRequest
    done = step(lambda: process.execute_session_command("m", run(command="echo out; echo err >&2")))
    step(lambda: same(process.get_session_command("m", done.cmd_id).exit_code, 0))
    step(lambda: holds("out" in str(process.get_session_command_logs("m", done.cmd_id)), "the log has the output"))
    out: list[str] = []
    err: list[str] = []
    step(lambda: process.get_session_command_logs_async("m", done.cmd_id, out.append, err.append))
    step(lambda: same(("".join(out), "".join(err)), ("out\n", "err\n")))
    asks = step(lambda: process.execute_session_command("m", run(command='read -r x; echo "got $x"', run_async=True)))
    step(lambda: process.send_session_command_input("m", asks.cmd_id, "it\n"))
    step(lambda: until(lambda: process.get_session_command("m", asks.cmd_id).exit_code == 0, "the command to read its input"))
    step(lambda: holds("m" in [s.session_id for s in process.list_sessions()], "the session is listed"))
    step(lambda: holds(process.get_session("m").commands, "the session has commands"))
    step(lambda: holds(process.get_entrypoint_session().commands, "the entrypoint is a session"))
    step(lambda: process.get_entrypoint_logs())
    missing = "DaytonaNotFoundError"
    for call in (
        lambda: process.get_session("none"),
        lambda: process.get_session_command("m", "none"),
        lambda: process.get_session_command_logs("m", "none"),
        lambda: process.execute_session_command("none", run(command="true")),
        lambda: process.send_session_command_input("m", "none", "x"),
        lambda: process.delete_session("none"),
    ):
        step(lambda call=call: raises(missing, call))
    step(lambda: process.delete_session("m"))


def terminals(box: Any) -> None:
    """PTY sessions and their handles."""
    process, size = box.process, sdk.PtySize(cols=100, rows=30)
    is_sync = KIND == "sync"
    seen = bytearray()
    more = {} if is_sync else {"on_data": seen.extend}
    handle = step(lambda: process.create_pty_session("m", pty_size=size, **more))
    step(lambda: handle.wait_for_connection())
    step(lambda: holds(handle.is_connected(), "it is connected"))
    step(lambda: same(handle.resize(sdk.PtySize(cols=90, rows=20)).cols, 90))
    step(lambda: same(process.resize_pty_session("m", sdk.PtySize(cols=91, rows=21)).rows, 21))
    step(lambda: same(process.get_pty_session_info("m").id, "m"))
    step(lambda: holds("m" in [s.id for s in process.list_pty_sessions()], "it is listed"))
    step(lambda: raises("DaytonaConflictError", lambda: process.create_pty_session("m", **more)))
    step(lambda: handle.disconnect())
    again = step(lambda: process.connect_pty_session("m", **more))
    step(lambda: again.wait_for_connection())
    step(lambda: again.send_input("stty size; exit 5\n"))
    ended = step(lambda: again.wait(on_data=seen.extend, timeout=20) if is_sync else again.wait())
    step(lambda: same(ended.exit_code, 5))
    step(lambda: holds(b"21 91" in bytes(seen), f"the size is in {bytes(seen)!r}"))
    step(lambda: again.disconnect())
    for call in (lambda: again.send_input("x"), lambda: again.resize(size), lambda: again.kill()):
        step(lambda call=call: raises("DaytonaError", call))
    other = step(lambda: process.create_pty_session("m2", **more))
    step(lambda: other.kill())
    step(lambda: other.disconnect())
    third = step(lambda: process.create_pty_session("m3", **more))
    step(lambda: process.kill_pty_session("m3"))
    step(lambda: third.disconnect())
    missing = "DaytonaNotFoundError"
    for call in (lambda: process.get_pty_session_info("none"), lambda: process.kill_pty_session("none")):
        step(lambda call=call: raises(missing, call))
    for call in (lambda: process.connect_pty_session("none", **more), lambda: process.resize_pty_session("none", size)):
        step(lambda call=call: raises("DaytonaError", call))


def interpreter(box: Any) -> None:
    """CodeInterpreter."""
    if not has(box, "code_interpreter"):
        return
    interpreter = box.code_interpreter
    context = step(lambda: interpreter.create_context(cwd="/tmp"))
    step(lambda: same(interpreter.run_code("print(6 * 7)", context=context).stdout, "42\n"))
    step(lambda: raises("DaytonaTimeoutError", lambda: interpreter.run_code("import time; time.sleep(60)", context=context, timeout=1)))
    step(lambda: holds(context.id in [c.id for c in interpreter.list_contexts()], "it is listed"))
    step(lambda: interpreter.delete_context(context))
    step(lambda: raises("DaytonaNotFoundError", lambda: interpreter.delete_context(context)))
    step(lambda: raises("DaytonaError", lambda: interpreter.create_context(cwd="/no/such/directory")))


def git(box: Any) -> None:
    """Git, with a remote in the sandbox itself."""
    git, sh = box.git, box.process.exec
    author = ("Ada", "ada@example.org")
    remote = "/tmp/m.git"
    step(
        lambda: same(
            sh(
                f"set -e; git init -q --bare -b main {remote}; git init -q -b main /tmp/ms; cd /tmp/ms; git config user.name A; git config user.email a@b.c; "
                f"echo hello > README; git add .; git commit -qm first; git push -q {remote} main"
            ).exit_code,
            0,
        )
    )
    step(lambda: git.clone(remote, "g"))
    step(lambda: same(git.status("g").current_branch, "main"))
    step(lambda: box.fs.upload_file(b"x\n", "g/x"))
    step(lambda: git.add("g", ["x"]))
    step(lambda: same(len(git.commit("g", "second", *author).sha), 40))
    step(lambda: git.push("g"))
    step(lambda: git.pull("g"))
    step(lambda: git.create_branch("g", "feature"))
    step(lambda: git.checkout_branch("g", "feature"))
    step(lambda: same(sorted(git.branches("g").branches), ["feature", "main"]))
    step(lambda: git.checkout_branch("g", "main"))
    step(lambda: git.delete_branch("g", "feature"))
    step(lambda: git.init("gi"))
    step(lambda: git.remote_add("gi", "origin", remote))
    step(lambda: same(git.remote_get("gi", "origin"), remote))
    step(lambda: same([r.name for r in git.remotes("gi").remotes], ["origin"]))
    step(lambda: box.fs.upload_file(b"changed\n", "g/README"))
    step(lambda: git.restore("g", ["README"]))
    step(lambda: git.reset("g", mode="hard"))
    step(lambda: git.configure_user("Grace", "grace@example.org"))
    step(lambda: same(git.get_config("user.name"), "Grace"))
    step(lambda: git.set_config("core.pager", "cat"))
    step(lambda: git.dangerously_authenticate("ada", "secret", host="git.invalid"))
    step(lambda: box.fs.create_folder("plain", "755"))
    calls = (
        lambda: git.clone("/tmp/none.git", "gx"),
        lambda: git.status("plain"),
        lambda: git.add("plain", ["x"]),
        lambda: git.commit("plain", "m", *author),
        lambda: git.push("plain"),
        lambda: git.pull("plain"),
        lambda: git.create_branch("plain", "b"),
        lambda: git.checkout_branch("plain", "b"),
        lambda: git.branches("plain"),
        lambda: git.delete_branch("plain", "b"),
        lambda: git.remote_add("plain", "o", remote),
        lambda: git.remote_get("plain", "o"),
        lambda: git.remotes("plain"),
        lambda: git.restore("plain", ["x"]),
        lambda: git.reset("plain"),
    )
    for call in calls:
        step(lambda call=call: raises("DaytonaError", call))


def language_server(box: Any) -> None:
    """LspServer."""
    step(lambda: box.fs.upload_file(b"class Greeter:\n    def greet(self):\n        pass\n\n\nGreeter().gr\n", "proj/main.py"))
    server = step(lambda: box.create_lsp_server("python", "proj"))
    path = "proj/main.py"
    step(lambda: raises("DaytonaError", lambda: server.document_symbols(path)))
    step(lambda: server.start())
    step(lambda: server.did_open(path))
    step(lambda: until(lambda: "Greeter" in [s.name for s in server.document_symbols(path)], "the document's symbols"))
    step(lambda: server.workspace_symbols("Greeter"))
    step(lambda: server.sandbox_symbols("Greeter"))
    step(lambda: server.completions(path, sdk.LspCompletionPosition(line=5, character=12)))
    step(lambda: server.did_close(path))
    step(lambda: server.stop())
    position = sdk.LspCompletionPosition(line=0, character=0)
    for call in (lambda: server.did_open(path), lambda: server.workspace_symbols("x"), lambda: server.sandbox_symbols("x"), lambda: server.completions(path, position)):
        step(lambda call=call: raises("DaytonaError", call))
