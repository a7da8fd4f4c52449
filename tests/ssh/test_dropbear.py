"""Dropbear's client."""

from __future__ import annotations

import os
import socket
import subprocess
import threading
from pathlib import Path

import pytest

from conftest import Server
from stack import free_port
from test_openssh import wait_for


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("dropbear") / "key"
    subprocess.run(["dropbearkey", "-t", "ed25519", "-f", path], check=True, capture_output=True)
    return path


def client(server: Server, key: Path, *words: str) -> list[str]:
    return ["dbclient", "-y", "-y", "-i", str(key), "-p", str(server.port), *words]


def test_streams_and_status(server: Server, key: Path) -> None:
    data = os.urandom(3 << 20)
    done = subprocess.run(client(server, key, "x@127.0.0.1", "cat; echo err >&2; exit 6"), input=data, capture_output=True, timeout=60)
    assert (done.stdout, done.returncode) == (data, 6)
    assert b"err" in done.stderr


def test_a_terminal(server: Server, key: Path) -> None:
    # It insists on a terminal of its own.
    line = " ".join(client(server, key, "-t", "x@127.0.0.1", "'tty; exit 5'"))
    done = subprocess.run(["script", "-qec", line, "/dev/null"], stdin=subprocess.DEVNULL, capture_output=True, timeout=60)
    assert b"/dev/pts/" in done.stdout and done.returncode == 5


def test_forwards(server: Server, key: Path) -> None:
    target = socket.create_server(("127.0.0.1", 0))

    def answer() -> None:
        while True:
            stream, _ = target.accept()
            stream.sendall(b"hello")
            stream.close()

    threading.Thread(target=answer, daemon=True).start()
    there = f"127.0.0.1:{target.getsockname()[1]}"
    here, far = free_port(), free_port()
    process = subprocess.Popen(client(server, key, "-N", "-L", f"{here}:{there}", "-R", f"{far}:{there}", "x@127.0.0.1"), stdin=subprocess.DEVNULL)
    try:
        for port in (here, far):
            wait_for("the forward", lambda port=port: socket.socket().connect_ex(("127.0.0.1", port)) == 0)
            with socket.create_connection(("127.0.0.1", port)) as stream:
                assert stream.recv(5, socket.MSG_WAITALL) == b"hello"
    finally:
        process.kill()
        process.wait()
