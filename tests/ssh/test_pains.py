"""What users of SSH into sandboxes suffer from (G47 to G49), against the daemon alone and through two gateways."""

from __future__ import annotations

import hashlib
import os
import re
import signal
import socket
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from conftest import Server
from stack import free_port


def awaited(condition, what: str, timeout: float = 60) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"waited {timeout:.0f} s for {what}"
        time.sleep(0.05)


def test_pain_g47_uploads_beside_commands_never_fail(server: Server, tmp_path: Path) -> None:
    """What IDEs do at once when they connect: sftp, both protocols of scp, and commands, on a shared connection and on others."""
    control = ["-o", f"ControlPath={tmp_path}/c", "-o", "ControlMaster=auto", "-o", "ControlPersist=60"]
    assert server.ssh(*control, "x@127.0.0.1", "true").returncode == 0
    folder = f"g47-{tmp_path.name}"
    (server.work / folder).mkdir()
    data = [os.urandom(300_000 + n) for n in range(8)]
    for n, content in enumerate(data):
        (tmp_path / f"f{n}").write_bytes(content)

    def one(n: int) -> None:
        shared = control if n % 2 else []
        way = ["scp", "-q", "-P", str(server.port), *server.options, *shared, *(["-O"] if n % 4 < 2 else [])]
        target = f"{folder}/f{n}"
        sent = subprocess.run([*way, str(tmp_path / f"f{n}"), f"x@127.0.0.1:{target}"], capture_output=True, timeout=120)
        assert sent.returncode == 0, sent.stderr
        batch = f"put {tmp_path}/f{n} {target}-sftp\nget {target} {tmp_path}/back{n}\n".encode()
        sftp = ["sftp", "-q", "-b", "-", "-P", str(server.port), *server.options, *shared, "x@127.0.0.1"]
        done = subprocess.run(sftp, input=batch, capture_output=True, timeout=120)
        assert done.returncode == 0, done.stderr
        said = server.ssh(*shared, "x@127.0.0.1", f"sha256sum < {target}; sha256sum < {target}-sftp; exit {n}")
        digest = hashlib.sha256(data[n]).hexdigest()
        assert (said.returncode, said.stdout.decode().split()[::2]) == (n, [digest, digest])
        assert (tmp_path / f"back{n}").read_bytes() == data[n]

    try:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(one, range(8)))
    finally:
        server.ssh(*control, "-O", "exit", "x@127.0.0.1")


def test_pain_g48_an_end_of_input_is_not_an_end_and_a_lost_client_is(server: Server, tmp_path: Path) -> None:
    """Half-closing keeps output and status (RFC 4254, 5.3); a client that is gone takes with it what it left, though that has read no end of input."""
    late = server.ssh("x@127.0.0.1", "cat; sleep 1; echo late; exit 3", input=b"early\n")
    assert (late.returncode, late.stdout) == (3, b"early\nlate\n")
    mark = server.work / f"g48-{tmp_path.name}"
    # An editor's server: it ignores the end of its input and writes nothing.
    left = f"trap '' PIPE; echo $$ > {mark}; while :; do sleep 0.2; done"
    # It tells of each packet. The two types that are looked for answer global requests, of which only keepalives come again and again.
    keepalive = ["-o", "LogLevel=DEBUG3", "-o", "ServerAliveInterval=1", "-o", "ServerAliveCountMax=60"]
    alive = ["ssh", "-p", str(server.port), *keepalive, *server.options, "x@127.0.0.1", left]
    said = tmp_path / "said"
    with said.open("wb") as log:
        client = subprocess.Popen(alive, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=log)
    try:
        awaited(lambda: mark.exists() and mark.read_text().strip(), "the command to run")
        pid = int(mark.read_text())
        awaited(lambda: len(re.findall(rb"receive packet: type 8[12]\b", said.read_bytes())) >= 3, "answers to keepalives")
        os.kill(pid, 0)
        client.send_signal(signal.SIGKILL)
        awaited(lambda: not Path(f"/proc/{pid}").exists(), "the command of a lost client to end")
    finally:
        client.kill()
        client.wait(10)


def test_pain_g49_ports_and_sockets_are_forwarded_both_ways(server: Server, tmp_path: Path) -> None:
    """What VS Code and JetBrains need: direct-tcpip, direct-streamlocal, tcpip-forward and streamlocal-forward, with OpenSSH's client."""
    far = server.work / f"g49-{tmp_path.name}"
    with socket.create_server(("127.0.0.1", 0)) as tcp, socket.socket(socket.AF_UNIX) as unix:
        unix.bind(str(tmp_path / "target"))
        unix.listen()
        port = free_port()
        target = f"127.0.0.1:{tcp.getsockname()[1]}"
        ways = ["-L", f"{tmp_path}/local:{target}", "-L", f"{port}:{tmp_path}/target", "-R", f"{far}:{target}", "-R", f"0:{tmp_path}/target"]
        command = ["ssh", "-N", "-p", str(server.port), "-o", "LogLevel=INFO", *server.options, "-o", "ExitOnForwardFailure=yes", *ways, "x@127.0.0.1"]
        client = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        try:
            line = client.stderr.readline()
            while "Allocated port" not in line:
                assert line, "no port was forwarded"
                line = client.stderr.readline()
            remote = int(line.split("Allocated port ")[1].split()[0])
            awaited(lambda: (tmp_path / "local").exists() and far.exists(), "the forwarded sockets")
            places = [(str(tmp_path / "local"), tcp), (("127.0.0.1", port), unix), (str(far), tcp), (("127.0.0.1", remote), unix)]
            for place, listener in places:
                with socket.socket(socket.AF_UNIX if isinstance(place, str) else socket.AF_INET) as asking:
                    asking.settimeout(60)
                    asking.connect(place)
                    listener.settimeout(60)
                    answering, _ = listener.accept()
                    with answering:
                        asking.sendall(b"question")
                        assert answering.recv(8, socket.MSG_WAITALL) == b"question"
                        answering.sendall(b"answer")
                        assert asking.recv(6, socket.MSG_WAITALL) == b"answer"
        finally:
            client.terminate()
            client.wait(10)
