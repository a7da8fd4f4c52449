"""OpenSSH's client, and programs that run it."""

from __future__ import annotations

import hashlib
import os
import socket
import subprocess
import time
from pathlib import Path

import pytest

from conftest import Server
from stack import free_port

GIGABYTE = int(os.environ.get("PINFOLD_SSH_BULK", 1 << 30))


def wait_for(what: str, condition, seconds: float = 60):
    until = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < until, f"waited in vain for {what}"
        time.sleep(0.01)
    return value


def tree(base: Path) -> None:
    for n in range(200):
        directory = base / f"d{n % 7}"
        directory.mkdir(parents=True, exist_ok=True)
        (directory / f"f {n}").write_bytes(os.urandom(n * 97))
    (base / "link").symlink_to("d1")


def test_rsync_both_ways(server: Server, tmp_path: Path) -> None:
    tree(tmp_path / "tree")
    there = f"x@127.0.0.1:{server.work}/rsync"
    for source, target in [(f"{tmp_path}/tree/", there), (f"{there}/", f"{tmp_path}/back")]:
        subprocess.run(["rsync", "-a", "--delete", "-e", server.transport, source, target], check=True, timeout=120)
    subprocess.run(["diff", "-r", tmp_path / "tree", tmp_path / "back"], check=True)
    again = subprocess.run(["rsync", "-ai", "--checksum", "-e", server.transport, f"{tmp_path}/tree/", there], check=True, capture_output=True, timeout=120)
    assert again.stdout == b"", "a second run had something to do"


def test_git(server: Server, tmp_path: Path) -> None:
    def git(*words: object, cwd: Path = tmp_path) -> bytes:
        settings = {"GIT_SSH_COMMAND": server.transport, "GIT_CONFIG_GLOBAL": "/dev/null"}
        identity = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "init.defaultBranch=main"]
        return subprocess.run(["git", *identity, *words], cwd=cwd, env=os.environ | settings, check=True, capture_output=True, timeout=120).stdout

    git("init", "--bare", server.work / f"{tmp_path.name}.git")
    url = f"ssh://x@127.0.0.1:{server.port}{server.work}/{tmp_path.name}.git"
    git("clone", url, "one")
    tree(tmp_path / "one/tree")
    git("add", "-A", cwd=tmp_path / "one")
    git("commit", "-q", "-m", "all", cwd=tmp_path / "one")
    git("push", "origin", "HEAD:main", cwd=tmp_path / "one")
    git("clone", "-b", "main", url, "two")
    subprocess.run(["diff", "-r", "-x", ".git", tmp_path / "one", tmp_path / "two"], check=True)


@pytest.mark.skipif(not os.path.exists("/dev/fuse"), reason="no FUSE here")
def test_sshfs(server: Server, tmp_path: Path) -> None:
    mount, there = tmp_path / "mount", server.work / "sshfs"
    mount.mkdir()
    there.mkdir()
    options = [word for option in ["BatchMode=yes", "StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null"] for word in ("-o", option)]
    command = ["sshfs", "-p", str(server.port), "-o", f"IdentityFile={server.key}", *options, f"x@127.0.0.1:{there}", mount]
    subprocess.run(command, check=True, timeout=60)
    try:
        data = os.urandom(5 << 20)
        (mount / "file").write_bytes(data)
        assert (there / "file").read_bytes() == data and (mount / "file").read_bytes() == data
        (mount / "other").write_text("x")
        os.replace(mount / "other", mount / "file")
        (mount / "file").chmod(0o640)
        os.utime(mount / "file", (1_000_000_000, 1_000_000_000))
        os.link(mount / "file", mount / "hard")
        (mount / "soft").symlink_to("file")
        assert sorted(p.name for p in there.iterdir()) == ["file", "hard", "soft"]
        status = (there / "file").stat()
        assert (status.st_mode & 0o777, int(status.st_mtime), status.st_nlink) == (0o640, 1_000_000_000, 2)
        assert os.statvfs(mount).f_blocks > 0
        with (mount / "file").open("r+b") as file:
            file.truncate(0)
            os.fsync(file.fileno())
        assert (there / "file").stat().st_size == 0
    finally:
        subprocess.run(["fusermount", "-u", mount], check=True)


@pytest.mark.parametrize(
    "option",
    [
        "Compression=yes",
        "Ciphers=aes128-gcm@openssh.com",
        "Ciphers=aes256-ctr",
        "MACs=hmac-sha2-512-etm@openssh.com",
        "KexAlgorithms=curve25519-sha256",
        "KexAlgorithms=ecdh-sha2-nistp256",
        "KexAlgorithms=diffie-hellman-group14-sha256",
    ],
)
def test_algorithms(server: Server, option: str) -> None:
    data = os.urandom(1 << 20)
    done = server.ssh("-o", option, "-o", "Ciphers=aes256-ctr" if "MACs" in option else "RekeyLimit=100K", "x@127.0.0.1", "cat", input=data)
    assert done.stdout == data, done.stderr


def test_the_agent_comes_along(server: Server, tmp_path: Path) -> None:
    """`ssh -A`: what runs there asks the agent here, which signs; without it there is none."""
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "carried along", "-f", tmp_path / "other"], check=True)
    path = str(tmp_path / "agent")
    agent = subprocess.Popen(["ssh-agent", "-D", "-a", path], stdout=subprocess.DEVNULL)
    try:
        # The socket's file is there a moment before anyone listens.
        wait_for("the agent", lambda: socket.socket(socket.AF_UNIX).connect_ex(path) == 0)
        environment = os.environ | {"SSH_AUTH_SOCK": path}
        subprocess.run(["ssh-add", "-q", tmp_path / "other"], env=environment, check=True, capture_output=True)
        (server.work / "agent.pub").write_bytes((tmp_path / "other.pub").read_bytes())
        signs = "ssh-add -L && ssh-add -T agent.pub && echo it signs"
        done = server.ssh("-A", "x@127.0.0.1", signs, env=environment)
        assert b"carried along" in done.stdout and b"it signs" in done.stdout, (done.stdout, done.stderr)
        assert server.ssh("-a", "x@127.0.0.1", "ssh-add -L", env=environment).returncode != 0
    finally:
        agent.kill()
        agent.wait()


@pytest.mark.parametrize("kind", ["rsa", "ecdsa"])
def test_other_keys(server: Server, tmp_path: Path, kind: str) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", kind, "-N", "", "-f", tmp_path / "key"], check=True)
    done = subprocess.run(["ssh", "-p", str(server.port), *server.options[2:], "-i", tmp_path / "key", "x@127.0.0.1", "echo in"], capture_output=True, timeout=60)
    assert done.stdout == b"in\n", done.stderr


def test_socks(server: Server) -> None:
    port, target = free_port(), socket.create_server(("127.0.0.1", 0))
    ssh = subprocess.Popen(["ssh", "-p", str(server.port), *server.options, "-N", "-D", str(port), "x@127.0.0.1"])
    try:
        wait_for("the proxy", lambda: socket.socket().connect_ex(("127.0.0.1", port)) == 0)
        url = f"http://127.0.0.1:{target.getsockname()[1]}/"
        curl = subprocess.Popen(["curl", "-s", "--socks5", f"127.0.0.1:{port}", url], stdout=subprocess.PIPE)
        stream, _ = target.accept()
        stream.recv(65536)
        stream.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello")
        stream.close()
        assert curl.communicate(timeout=60)[0] == b"hello"
    finally:
        ssh.kill()
        ssh.wait()


def test_a_thousand_short_sessions_on_one_connection(server: Server, tmp_path: Path) -> None:
    control = ["-o", f"ControlPath={tmp_path}/control"]
    master = subprocess.Popen(["ssh", "-p", str(server.port), *server.options, *control, "-o", "ControlMaster=yes", "-N", "x@127.0.0.1"])
    try:
        wait_for("the shared connection", (tmp_path / "control").exists)
        script = f"for i in $(seq 1000); do ssh {' '.join(control)} x@127.0.0.1 'exit 3' </dev/null; [ $? = 3 ] || exit 1; done"
        assert subprocess.run(["sh", "-c", script], timeout=240).returncode == 0
    finally:
        master.kill()
        master.wait()


@pytest.mark.slow
def test_a_gigabyte_up(server: Server) -> None:
    source = subprocess.Popen(["openssl", "enc", "-aes-128-ctr", "-pass", "pass:x", "-nosalt", "-pbkdf2", "-in", "/dev/zero"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    command = f"ssh -o RekeyLimit=32M -p {server.port} {' '.join(server.options)} x@127.0.0.1 sha256sum"
    ssh = subprocess.Popen(command.split(), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    digest, left = hashlib.sha256(), GIGABYTE
    while left:
        data = source.stdout.read(min(left, 1 << 20))
        digest.update(data)
        ssh.stdin.write(data)
        left -= len(data)
    source.kill()
    source.wait()
    assert ssh.communicate(timeout=240)[0].split()[0].decode() == digest.hexdigest()


@pytest.mark.slow
def test_a_gigabyte_down(server: Server) -> None:
    line = f"openssl enc -aes-128-ctr -pass pass:x -nosalt -pbkdf2 -in /dev/zero 2>/dev/null | head -c {GIGABYTE} > big; sha256sum < big >&2; cat big; rm big"
    command = f"ssh -o RekeyLimit=32M -p {server.port} {' '.join(server.options)} x@127.0.0.1".split()
    ssh = subprocess.Popen([*command, line], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    digest = hashlib.sha256()
    while data := ssh.stdout.read(1 << 20):
        digest.update(data)
    assert ssh.stderr.read().split()[0].decode() == digest.hexdigest()
    assert ssh.wait(timeout=60) == 0
