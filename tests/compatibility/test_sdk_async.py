"""The asynchronous SDK: the same server, many calls at once, and every method of every group of the toolbox."""

from __future__ import annotations

import asyncio
import inspect
import uuid
from collections.abc import Awaitable, Callable

import pytest
from daytona import (
    AsyncDaytona,
    AsyncSandbox,
    CreateSandboxFromSnapshotParams,
    DaytonaConfig,
    DaytonaConflictError,
    DaytonaError,
    DaytonaNotFoundError,
    DaytonaTimeoutError,
    FileDownloadRequest,
    FileUpload,
    LspCompletionPosition,
    LspLanguageId,
    PtySize,
    SessionExecuteRequest,
)


def test_ten_sandboxes_at_once(stack):
    async def life(daytona: AsyncDaytona, number: int) -> str:
        sandbox = await daytona.create()
        try:
            await sandbox.fs.upload_file(f"number {number}".encode(), "number.txt")
            answers = await asyncio.gather(*(sandbox.process.exec(f"cat number.txt; echo -{i}") for i in range(5)))
            return "|".join(a.result.strip() for a in answers)
        finally:
            await daytona.delete(sandbox)

    async def main() -> list[str]:
        async with AsyncDaytona(DaytonaConfig(api_key=stack.key, api_url=stack.api_url)) as daytona:
            return await asyncio.gather(*(life(daytona, n) for n in range(10)))

    got = asyncio.run(asyncio.wait_for(main(), 150))
    assert got == ["|".join(f"number {n}-{i}" for i in range(5)) for n in range(10)]


class Recorder:
    """Stands before an object of the SDK's and notes which of its methods are called."""

    def __init__(self, target: object):
        self._target, self._called = target, set()

    def __getattr__(self, name: str) -> object:
        self._called.add(name)
        return getattr(self._target, name)

    def not_called(self) -> set[str]:
        """Public methods that nobody asked for."""
        public = {name for name, _ in inspect.getmembers(type(self._target), callable) if not name.startswith("_")}
        return public - self._called


async def eventually(condition: Callable[[], Awaitable[object]], what: str) -> object:
    """Waits for a condition that something else brings about in its own time."""
    for _ in range(600):
        if value := await condition():
            return value
        await asyncio.sleep(0.05)
    raise AssertionError(f"waited 30 s for {what}")


async def files(sandbox: AsyncSandbox, tmp_path) -> Recorder:
    fs = Recorder(sandbox.fs)
    content = bytes(range(256)) * 5000
    await fs.create_folder("af/sub", "755")
    await fs.upload_file(content, "af/a.bin")
    (tmp_path / "local").write_text("needle\nhay\n")
    await fs.upload_files([FileUpload(source=str(tmp_path / "local"), destination="af/b.txt"), FileUpload(source=b"hay\n", destination="af/sub/ü.txt")])
    progress = []

    async def pieces():
        for start in range(0, len(content), 100_000):
            yield content[start : start + 100_000]

    await fs.upload_file_stream(pieces(), "af/stream.bin", on_progress=progress.append)
    assert progress
    assert await fs.download_file("af/stream.bin") == content
    got = b"".join([piece async for piece in await fs.download_file_stream("af/a.bin")])
    assert got == content
    (several,) = [r for r in await fs.download_files([FileDownloadRequest(source="af/sub/ü.txt"), FileDownloadRequest(source="af/none")]) if not r.error]
    assert several.result == b"hay\n"
    assert {f.name for f in await fs.list_files("af")} == {"a.bin", "b.txt", "stream.bin", "sub"}
    assert "ü.txt" in {f.name for f in await fs.list_files("af", depth=2)}
    assert (await fs.get_file_info("af/a.bin")).size == len(content)
    assert [(m.line, m.content) for m in await fs.find_files("af", "needle")] == [(1, "needle")]
    assert len((await fs.search_files("af", "*.txt")).files) == 2
    assert [r.success for r in await fs.replace_in_files(["af/b.txt"], "needle", "pin")] == [True]
    await fs.set_file_permissions("af/b.txt", mode="600", owner="daytona")
    await fs.move_files("af/b.txt", "af/c.txt")
    assert await fs.download_file("af/c.txt") == b"pin\nhay\n"
    await fs.delete_file("af", recursive=True)
    with pytest.raises(DaytonaNotFoundError):
        await fs.get_file_info("af")
    return fs


async def processes(sandbox: AsyncSandbox) -> Recorder:
    process, name = Recorder(sandbox.process), uuid.uuid4().hex
    answer = await process.exec('echo "$A"; pwd; exit 3', cwd="/tmp", env={"A": "b c"})
    assert (answer.exit_code, answer.result) == (3, "b c\n/tmp\n")
    with pytest.raises(DaytonaTimeoutError):
        await process.exec("sleep 60", timeout=1)
    assert (await process.code_run("print(6 * 7)")).result == "42\n"
    # Sessions.
    await process.create_session(name)
    with pytest.raises(DaytonaConflictError):
        await process.create_session(name)
    await process.execute_session_command(name, SessionExecuteRequest(command="export A=kept"))
    answer = await process.execute_session_command(name, SessionExecuteRequest(command="echo $A; echo err >&2; (exit 4)"))
    assert (answer.exit_code, answer.stdout, answer.stderr) == (4, "kept\n", "err\n")
    logs = await process.get_session_command_logs(name, answer.cmd_id)
    assert (logs.stdout, logs.stderr) == ("kept\n", "err\n")
    started = await process.execute_session_command(name, SessionExecuteRequest(command="read x; echo got $x; echo e >&2", run_async=True, suppress_input_echo=True))
    out, err = [], []
    following = asyncio.create_task(process.get_session_command_logs_async(name, started.cmd_id, out.append, err.append))
    await process.send_session_command_input(name, started.cmd_id, "this")
    await asyncio.wait_for(following, 20)
    assert ("".join(out), "".join(err)) == ("got this\n", "e\n")
    assert (await process.get_session_command(name, started.cmd_id)).exit_code == 0
    assert len((await process.get_session(name)).commands) == 3
    assert name in [s.session_id for s in await process.list_sessions()]
    await process.delete_session(name)
    with pytest.raises(DaytonaNotFoundError):
        await process.get_session(name)
    # The entrypoint. Its command runs on, so following it has no end of its own.
    assert (await process.get_entrypoint_session()).session_id == "entrypoint"
    assert isinstance((await process.get_entrypoint_logs()).output, str)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(process.get_entrypoint_logs_async(out.append, err.append), 0.5)
    # Terminals.
    seen = bytearray()
    handle = await process.create_pty_session(name, seen.extend, cwd="/tmp", envs={"B": "x y"}, pty_size=PtySize(cols=100, rows=30))
    await handle.wait_for_connection()
    await handle.send_input('stty size; pwd; echo "<$B>"\n')
    await eventually(lambda: answered(b"<x y>" in seen and b"30 100" in seen and b"/tmp" in seen), "the terminal's words")
    with pytest.raises(DaytonaConflictError):
        await process.create_pty_session(name, seen.extend)
    assert (await process.resize_pty_session(name, PtySize(cols=90, rows=20))).cols == 90
    assert (await process.get_pty_session_info(name)).rows == 20
    assert name in [s.id for s in await process.list_pty_sessions()]
    await handle.disconnect()
    again = bytearray()
    handle = await process.connect_pty_session(name, again.extend)
    await handle.wait_for_connection()
    await handle.send_input("echo two-$((40+3)); exit 5\n")
    assert (await asyncio.wait_for(handle.wait(), 20)).exit_code == 5
    assert b"two-43" in again
    handle = await process.create_pty_session(name, seen.extend)
    await process.kill_pty_session(name)
    assert (await asyncio.wait_for(handle.wait(), 20)).exit_code == 137
    return process


async def answered(value: object) -> object:
    return value


async def interpreter(sandbox: AsyncSandbox) -> Recorder:
    python, out = Recorder(sandbox.code_interpreter), []
    await python.run_code("kept = 41")
    result = await python.run_code("import sys; print(kept + 1); print('e', file=sys.stderr)", on_stdout=lambda m: out.append(m.output))
    assert (result.stdout, result.stderr, "".join(out)) == ("42\n", "e\n", "42\n")
    assert (await python.run_code("raise ValueError('no')")).error.name == "ValueError"
    context = await python.create_context(cwd="/tmp")
    assert context.id in [c.id for c in await python.list_contexts()]
    apart = await python.run_code("import os; print(os.getcwd(), 'kept' in globals(), os.environ['E'])", context=context, envs={"E": "1"})
    assert apart.stdout == "/tmp False 1\n"
    with pytest.raises(DaytonaTimeoutError):
        await python.run_code("import time; time.sleep(60)", context=context, timeout=1)
    await python.delete_context(context)
    return python


async def repositories(sandbox: AsyncSandbox) -> Recorder:
    git, base = Recorder(sandbox.git), f"/tmp/{uuid.uuid4().hex}"
    work, bare, other = f"{base}/work", f"{base}/bare", f"{base}/other"
    author = ("Ada", "ada@example.org")
    await git.init(bare, bare=True, initial_branch="main")
    await git.init(work, initial_branch="main")
    await git.configure_user(*author, scope="local", path=work)
    assert await git.get_config("user.name", scope="local", path=work) == "Ada"
    await git.set_config("a.b", "c", scope="local", path=work)
    assert await git.get_config("a.none", scope="local", path=work) is None
    await sandbox.fs.upload_file(b"one\n", f"{work}/f")
    await git.add(work, ["f"])
    first = await git.commit(work, "first", *author)
    await git.remote_add(work, "origin", bare)
    assert [r.name for r in (await git.remotes(work)).remotes] == ["origin"]
    assert await git.remote_get(work, "origin") == bare
    await git.push(work, set_upstream=True)
    await git.clone(bare, other, branch="main")
    await sandbox.fs.upload_file(b"two\n", f"{work}/f")
    assert [(f.name, f.worktree.value) for f in (await git.status(work)).file_status] == [("f", "Modified")]
    await git.restore(work, ["f"])
    assert await sandbox.fs.download_file(f"{work}/f") == b"one\n"
    second = await git.commit(work, "second", *author, allow_empty=True)
    await git.push(work)
    await git.pull(other)
    await git.reset(other, mode="hard", target=first.sha)
    assert (await git.status(other)).behind == 1
    await git.create_branch(work, "side")
    await git.checkout_branch(work, "main")
    await git.delete_branch(work, "side")
    assert (await git.branches(work)).branches == ["main"]
    assert first.sha != second.sha
    await git.dangerously_authenticate("u", "p", host="git.example.org")
    return git


async def language_server(sandbox: AsyncSandbox) -> Recorder:
    await sandbox.fs.upload_file(b"class Greeter:\n    def greet(self):\n        return 1\n\n\nGreeter().gr\n", "alsp/main.py")
    server = Recorder(sandbox.create_lsp_server(LspLanguageId.PYTHON, "alsp"))
    await server.start()
    await server.did_open("alsp/main.py")

    async def named(call: Awaitable[list]) -> bool:
        return "Greeter" in [symbol.name for symbol in await call]

    await eventually(lambda: named(server.document_symbols("alsp/main.py")), "the class among the document's symbols")
    await eventually(lambda: named(server.sandbox_symbols("Greeter")), "the class among the workspace's symbols")
    assert await named(server.workspace_symbols("Greeter"))
    found = await server.completions("alsp/main.py", LspCompletionPosition(line=5, character=12))
    assert any(item.label.startswith("greet") for item in found.items)
    await server.did_close("alsp/main.py")
    await server.stop()
    return server


async def desktop(sandbox: AsyncSandbox) -> None:
    """There is none in this image, and each group says so by an error of the SDK's own."""
    computer = sandbox.computer_use
    for call in [
        computer.start, computer.get_status, computer.stop, computer.mouse.get_position, computer.screenshot.take_full_screen, computer.display.get_info,
        lambda: computer.keyboard.type("x"), computer.accessibility.get_tree, computer.recording.start,
    ]:  # fmt: skip
        with pytest.raises(DaytonaError, match=r"computer use|ffmpeg"):
            await call()
    assert (await computer.recording.list()).recordings == []


async def rest(sandbox: AsyncSandbox) -> None:
    assert await sandbox.get_work_dir() == await sandbox.get_user_home_dir() == "/home/daytona"
    metrics = await sandbox.get_metrics_latest()
    assert metrics.mem_total > metrics.mem_used > 0
    await sandbox.update_env({"ASYNC_A": "1", "ASYNC_B": "2"}, unset=["ASYNC_A"])
    assert (await sandbox.process.exec("echo $ASYNC_A$ASYNC_B")).result in ("12\n", "2\n")


def test_every_toolbox_method(stack, tmp_path):
    async def main() -> dict[str, set[str]]:
        async with AsyncDaytona(DaytonaConfig(api_key=stack.key, api_url=stack.api_url)) as daytona:
            sandbox = await daytona.create(CreateSandboxFromSnapshotParams(language="python"))
            try:
                groups = await asyncio.gather(files(sandbox, tmp_path), processes(sandbox), interpreter(sandbox), repositories(sandbox), language_server(sandbox))
                await desktop(sandbox)
                await rest(sandbox)
                return {type(group._target).__name__: group.not_called() for group in groups}
            finally:
                await daytona.delete(sandbox)

    left = asyncio.run(asyncio.wait_for(main(), 120))
    assert left == {"AsyncFileSystem": set(), "AsyncProcess": set(), "AsyncCodeInterpreter": set(), "AsyncGit": set(), "AsyncLspServer": set()}
