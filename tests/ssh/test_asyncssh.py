"""AsyncSSH, which speaks more of the protocol than most."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import asyncssh
import pytest

from conftest import Server


def run(server: Server, work: Callable[[asyncssh.SSHClientConnection], Awaitable[None]]) -> None:
    async def connected() -> None:
        options = {"known_hosts": None, "username": "x", "client_keys": [str(server.key)], "config": None}
        async with asyncssh.connect("127.0.0.1", server.port, **options) as connection:
            await asyncio.wait_for(work(connection), 60)

    asyncio.run(connected())


@pytest.mark.parametrize("signal", ["INT", "TERM", "HUP", "USR1", "KILL"])
def test_signals_reach_the_group_and_come_back(server: Server, signal: str) -> None:
    async def work(connection: asyncssh.SSHClientConnection) -> None:
        # The shell waits for a child: the signal must reach both. The child says that it is there, for between its fork and its exec
        # it has the shell's own handlers, and an INT is lost on it.
        process = await connection.create_process("sh -c 'echo ready; exec sleep 1000'; echo not reached")
        assert await process.stdout.readline() == "ready\n"
        process.send_signal(signal)
        done = await process.wait()
        assert done.exit_signal[0] == signal and done.stdout == ""

    run(server, work)


def test_many_sessions_at_once(server: Server) -> None:
    async def work(connection: asyncssh.SSHClientConnection) -> None:
        results = await asyncio.gather(*(connection.run(f"echo {n}; exit {n}") for n in range(60)))
        assert [(r.stdout, r.exit_status) for r in results] == [(f"{n}\n", n) for n in range(60)]

    run(server, work)


def test_files_in_parallel_and_extensions(server: Server, tmp_path: Path) -> None:
    data = os.urandom(4_000_000)
    (tmp_path / "file").write_bytes(data)

    async def work(connection: asyncssh.SSHClientConnection) -> None:
        async with connection.start_sftp_client() as sftp:
            await sftp.put(str(tmp_path / "file"), "async", max_requests=128)
            await sftp.get("async", str(tmp_path / "back"), max_requests=128)
            assert (tmp_path / "back").read_bytes() == data
            assert (await sftp.statvfs(".")).blocks > 0
            await sftp.link("async", "async-hard")
            assert (await sftp.stat("async-hard")).nlink in (None, 2)
            async with sftp.open("async", "r+b") as file:
                await file.fsync()
            await sftp.symlink("async", "async-soft")
            await sftp.setstat("async-soft", asyncssh.SFTPAttrs(atime=5, mtime=6), follow_symlinks=False)
            assert int((server.work / "async-soft").lstat().st_mtime) == 6
            assert sftp.limits.max_read_len >= 32768
            await sftp.posix_rename("async-hard", "async")
            name = b"\xff\xfe odd"
            async with sftp.open(name, "wb") as file:
                await file.write(b"x")
            assert os.path.exists(os.fsencode(server.work) + b"/" + name)
            await asyncio.gather(*(sftp.stat("async") for _ in range(200)))

    run(server, work)


def test_forwards_of_every_kind(server: Server, tmp_path: Path) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write((await reader.read())[::-1])
        writer.close()

    async def ask(connect: Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]) -> bytes:
        reader, writer = await connect
        writer.write(b"abc")
        writer.write_eof()
        said = await reader.read()
        writer.close()
        return said

    async def work(connection: asyncssh.SSHClientConnection) -> None:
        target = await asyncio.start_server(answer, "127.0.0.1", 0)
        port = target.sockets[0].getsockname()[1]
        path = str(tmp_path / "target")
        await asyncio.start_unix_server(answer, path)
        local = await connection.forward_local_port("127.0.0.1", 0, "127.0.0.1", port)
        remote = await connection.forward_remote_port("127.0.0.1", 0, "127.0.0.1", port)
        await connection.forward_local_path(str(tmp_path / "local"), path)
        far = str(server.work / f"far-{tmp_path.name}")
        await connection.forward_remote_path(far, path)
        for port in (local.get_port(), remote.get_port()):
            assert await ask(asyncio.open_connection("127.0.0.1", port)) == b"cba"
        for path in (str(tmp_path / "local"), far):
            assert await ask(asyncio.open_unix_connection(path)) == b"cba"
        with pytest.raises(asyncssh.ChannelOpenError):
            await connection.open_connection("127.0.0.1", 1)

    run(server, work)
