"""Paramiko, as scripts use it."""

from __future__ import annotations

import io
import os
import socket
from collections.abc import Iterator

import paramiko
import pytest

from conftest import Server


@pytest.fixture
def client(server: Server) -> Iterator[paramiko.SSHClient]:
    client = paramiko.SSHClient()
    client.set_missing_host_key_policy(paramiko.AutoAddPolicy())
    client.connect("127.0.0.1", server.port, "daytona", password="sandbox-ssh", look_for_keys=False, allow_agent=False, timeout=20)
    yield client
    client.close()


def test_streams_status_and_half_close(client: paramiko.SSHClient) -> None:
    stdin, stdout, stderr = client.exec_command("cat; echo after; echo err >&2; exit 7", timeout=20)
    stdin.write("input\n")
    stdin.channel.shutdown_write()
    assert (stdout.read(), stderr.read(), stdout.channel.recv_exit_status()) == (b"input\nafter\n", b"err\n", 7)


def test_what_was_sent_before_closing_arrives(client: paramiko.SSHClient, server: Server) -> None:
    data = os.urandom(500_000)
    channel = client.get_transport().open_session()
    channel.exec_command("cat > sent; echo done > sent.done")
    channel.sendall(data)
    channel.close()
    from test_openssh import wait_for

    wait_for("all of the data", lambda: (server.work / "sent").exists() and (server.work / "sent").stat().st_size == len(data))
    assert (server.work / "sent").read_bytes() == data


def test_a_terminal_that_changes_size(client: paramiko.SSHClient) -> None:
    channel = client.invoke_shell(term="vt100", width=100, height=30)
    channel.settimeout(20)
    channel.sendall(b"PS1=; stty -echo; echo be''gin; stty size; echo $TERM; echo en''d\n")
    assert b"30 100" in (said := until(channel, b"end")) and b"vt100" in said
    channel.resize_pty(width=77, height=11)
    channel.sendall(b"stty size; echo en''d\n")
    assert b"11 77" in until(channel, b"end")
    channel.sendall(b"exit 4\n")
    assert channel.recv_exit_status() == 4


def until(channel: paramiko.Channel, mark: bytes) -> bytes:
    said = b""
    while mark not in said:
        part = channel.recv(4096)
        assert part, f"the shell ended: {said!r}"
        said += part
    return said


def test_files(client: paramiko.SSHClient, server: Server) -> None:
    data = os.urandom(3_000_000)
    with client.open_sftp() as sftp:
        sftp.putfo(io.BytesIO(data), "up")
        back = io.BytesIO()
        sftp.getfo("up", back)
        assert back.getvalue() == data == (server.work / "up").read_bytes()
        sftp.chmod("up", 0o604)
        sftp.utime("up", (1, 2))
        status = sftp.stat("up")
        assert (status.st_mode & 0o777, status.st_atime, status.st_mtime, status.st_size) == (0o604, 1, 2, len(data))
        with sftp.open("new", "wx") as file:
            file.write("one")
        with pytest.raises(OSError):
            sftp.open("new", "wx")
        with sftp.open("new", "a") as file:
            file.write("two")
        with sftp.open("new", "r+") as file:
            file.seek(1)
            file.write("NE")
        assert (server.work / "new").read_text() == "oNEtwo"
        with pytest.raises(OSError):
            sftp.rename("new", "up")
        sftp.posix_rename("new", "up")
        with pytest.raises(FileNotFoundError):
            sftp.stat("new")
        sftp.mkdir("dir", 0o750)
        for n in range(300):
            sftp.open(f"dir/{n}", "w").close()
        assert len(sftp.listdir("dir")) == 300
        assert sftp.normalize(".") == str(server.work.resolve())
        sftp.symlink("up", "soft")
        assert sftp.readlink("soft") == "up" and sftp.lstat("soft").st_mode & 0o170000 == 0o120000


def test_forwards(client: paramiko.SSHClient) -> None:
    transport = client.get_transport()
    port = transport.request_port_forward("127.0.0.1", 0)
    with socket.create_connection(("127.0.0.1", port)) as stream:
        channel = transport.accept(20)
        channel.sendall(b"hello")
        assert stream.recv(5, socket.MSG_WAITALL) == b"hello"
        channel.close()
        assert stream.recv(1) == b""
    transport.cancel_port_forward("127.0.0.1", port)
    assert socket.socket().connect_ex(("127.0.0.1", port)) != 0
    with pytest.raises(paramiko.ChannelException):
        transport.open_channel("direct-tcpip", ("127.0.0.1", 1), ("127.0.0.1", 1))


def test_keys_change_on_request(client: paramiko.SSHClient) -> None:
    data = os.urandom(2_000_000)
    stdin, stdout, _ = client.exec_command("cat", timeout=60)
    import threading

    def write() -> None:
        stdin.write(data)
        stdin.channel.shutdown_write()

    writer = threading.Thread(target=write)
    writer.start()
    client.get_transport().renegotiate_keys()
    assert stdout.read() == data
    writer.join()
