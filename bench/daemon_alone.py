#!/usr/bin/env python3
"""Measures one daemon at work, without control plane and runner, and prints JSON. Floors are what the same work costs without it.

    daemon_alone.py BINARY execute|find|git|transfer|idle|terminals|ssh

Runs in a network namespace of its own (`unshare --net`), so that the daemon's fixed ports are free and nobody else is reached. The
client is a bare socket with a request that was made beforehand: its own cost is not the daemon's.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

ADDRESS = ("127.0.0.1", 2280)
MIB = 1 << 20
BOUNDARY = "pinfold-bench"


class Client:
    """One connection to the daemon that stays open."""

    def __init__(self) -> None:
        # Without a timeout, as the floor's: with one Python polls before every call. Whoever runs this has a deadline.
        self.socket = socket.create_connection(ADDRESS)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def send(self, method: str, path: str, body: bytes = b"", kind: str = "application/json") -> None:
        """A request with its whole body."""
        self.socket.sendall(request(method, path, len(body), kind) + body)

    def answer(self, into: Callable[[memoryview], object] | None = None) -> bytes:
        """The body of a 2xx answer; with `into` its parts go there, and nothing is returned."""
        buffer = memoryview(bytearray(MIB))
        head = b""
        while b"\r\n\r\n" not in head:
            more = self.socket.recv(65536)
            assert more, "the daemon closed the connection"
            head += more
        head, rest = head.split(b"\r\n\r\n", 1)
        lines = head.lower().split(b"\r\n")
        assert lines[0].split()[1].startswith(b"2"), head + rest
        length = next(int(line.split(b":")[1]) for line in lines if line.startswith(b"content-length:"))
        if into is None:
            while len(rest) < length:
                rest += self.socket.recv(65536)
            return rest
        into(memoryview(rest))
        length -= len(rest)
        while length:
            got = self.socket.recv_into(buffer)
            assert got, "the answer ended early"
            into(buffer[:got])
            length -= got
        return b""

    def call(self, method: str, path: str, body: object | None = None) -> bytes:
        """A request and its answer."""
        self.send(method, path, b"" if body is None else json.dumps(body).encode())
        return self.answer()


def request(method: str, path: str, length: int, kind: str) -> bytes:
    """The head of a request."""
    return f"{method} {path} HTTP/1.1\r\nHost: bench\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\r\n".encode()


@contextlib.contextmanager
def daemon(binary: str, home: Path) -> Iterator[int]:
    """A daemon that answers; its pid."""
    environment = {
        "HOME": str(home),
        "PATH": os.environ["PATH"],
        "DAYTONA_SANDBOX_ID": "bench",
        "DAYTONA_DAEMON_LOG_FILE_PATH": f"{home}/log",
    }
    process = subprocess.Popen([binary], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=home)
    try:
        deadline = time.monotonic() + 10
        while True:
            try:
                Client().call("GET", "/version")
                break
            except OSError:
                if time.monotonic() > deadline:
                    raise SystemExit("the daemon was not ready within 10 s") from None
                time.sleep(0.02)
        yield process.pid
    finally:
        process.terminate()
        process.wait(30)


def milliseconds(action: Callable[[], object]) -> float:
    """How long it takes."""
    began = time.perf_counter()
    action()
    return (time.perf_counter() - began) * 1000


def status(pid: int, field: str) -> int:
    """A number of /proc/<pid>/status; kilobytes where it has a unit."""
    text = Path(f"/proc/{pid}/status").read_text()
    return int(text.split(f"\n{field}:")[1].split()[0])


def execute(_: int, __: Path, count: int = 400) -> dict[str, list[float]]:
    """`true` through execute, against a bare spawn-and-wait of the same shell with the same command."""
    client = Client()
    said = json.loads(client.call("POST", "/process/execute", {"command": "readlink /proc/$$/exe; true"}))["result"]
    shell = said.strip()

    def bare() -> None:
        child = os.posix_spawn(shell, [shell, "-c", "true"], os.environ)
        assert os.waitpid(child, 0)[1] == 0

    def ours() -> None:
        assert json.loads(client.call("POST", "/process/execute", {"command": "true"}))["exitCode"] == 0

    result: dict[str, list[float]] = {"ours": [], "floor": []}
    for _ in range(20):
        bare(), ours()
    for _ in range(count):
        result["floor"].append(milliseconds(bare))
        result["ours"].append(milliseconds(ours))
    return result


def find(_: int, home: Path, size: int = 1 << 30, count: int = 5) -> dict[str, list[float]]:
    """The lines with a word in a tree of text, against ripgrep in the same tree, both from the page cache."""
    tree = home / "tree"
    line = "The quick brown fox jumps over the lazy dog, and then again over another one.\n"
    page = (line * (65536 // len(line) + 1))[:65536]
    files = size // len(page)
    for number in range(files):
        directory = tree / str(number % 64)
        if number < 64:
            directory.mkdir(parents=True)
        # One file in a hundred has what is looked for.
        (directory / f"{number}.txt").write_text(page if number % 100 else page[: len(page) // 2] + "a needle here\n" + page[len(page) // 2 :])
    connection = http.client.HTTPConnection(*ADDRESS, timeout=300)

    def floor() -> None:
        found = subprocess.run(["rg", "--no-ignore", "--hidden", "--line-number", "-F", "needle", str(tree)], check=True, capture_output=True)
        assert len(found.stdout.splitlines()) == (files + 99) // 100

    def ours() -> None:
        connection.request("GET", f"/files/find?path={tree}&pattern=needle")
        assert len(json.loads(connection.getresponse().read())) == (files + 99) // 100

    result: dict[str, list[float]] = {"ours": [], "floor": []}
    floor(), ours()
    for _ in range(count):
        result["floor"].append(milliseconds(floor))
        result["ours"].append(milliseconds(ours))
    return result


def git(_: int, home: Path, files: int = 1000, count: int = 5) -> dict[str, list[float]]:
    """A clone of a local repository and the status of the clone, against git itself, which copies objects as it would from elsewhere."""
    source, clone = home / "source", home / "clone"
    source.mkdir()
    words = {name: f"{name}@bench" for name in ("GIT_AUTHOR_NAME", "GIT_AUTHOR_EMAIL", "GIT_COMMITTER_NAME", "GIT_COMMITTER_EMAIL")}
    environment = os.environ | words | {"GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_SYSTEM": "/dev/null"}

    def run(*arguments: str, at: Path = source) -> None:
        subprocess.run(["git", "-C", str(at), *arguments], check=True, capture_output=True, env=environment)

    run("init", "-q", "-b", "main")
    for number in range(files):
        directory = source / str(number % 64)
        directory.mkdir(exist_ok=True)
        (directory / f"{number}.txt").write_text("".join(f"line {line} of {number}: {os.urandom(24).hex()}\n" for line in range(60)))
    for part in range(4):
        run("add", *(str(n) for n in range(part * 16, part * 16 + 16)))
        run("commit", "-q", "-m", f"part {part}")
    run("gc", "-q")
    connection = http.client.HTTPConnection(*ADDRESS, timeout=300)

    def ask(method: str, path: str, body: object = None) -> bytes:
        connection.request(method, path, None if body is None else json.dumps(body), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        said = answer.read()
        assert answer.status < 300, said
        return said

    result: dict[str, list[float]] = {"clone": [], "clone_floor": [], "status": [], "status_floor": []}
    for number in range(count + 1):
        shutil.rmtree(clone, ignore_errors=True)
        floor = milliseconds(lambda: run("clone", "-q", "--no-local", str(source), str(clone), at=home))
        shutil.rmtree(clone)
        ours = milliseconds(lambda: ask("POST", "/git/clone", {"url": str(source), "path": str(clone)}))
        assert len(list(clone.glob("*/*.txt"))) == files
        status_floor = milliseconds(lambda: run("status", "--porcelain=v2", "--branch", at=clone))
        status = milliseconds(lambda: ask("GET", f"/git/status?path={clone}"))
        if number:  # the first warms both up
            for name, value in {"clone": ours, "clone_floor": floor, "status": status, "status_floor": status_floor}.items():
                result[name].append(value)
    return result


def serve_copy(source: Path, target: Path, port: int) -> None:
    """The other end of the floor: a process that takes a file from the socket, then sends one, until the connection ends."""
    with socket.create_server(("127.0.0.1", port)) as server:
        print("ready", flush=True)
        while True:
            peer, _ = server.accept()
            with peer:
                match peer.recv(1):
                    case b"u":
                        buffer = memoryview(bytearray(MIB))
                        with target.open("wb") as file:
                            while got := peer.recv_into(buffer):
                                file.write(buffer[:got])
                        peer.send(b".")
                    case b"d":
                        with source.open("rb") as file:
                            peer.sendfile(file)
                    case _:
                        return


def transfer(pid: int, home: Path, size: int = 1 << 30, count: int = 5) -> dict[str, list[float]]:
    """Upload and download of a file, against the same file through a bare TCP connection; MiB/s, and the daemon's growth in MiB.

    Each is done twice, and the second time counts: on a virtual machine whose free pages go back to its host, whoever writes a file after somebody
    who freed pages of another size waits for the host, up to three times as long, whichever of the two it is.
    """
    source, target, back = home / "source", home / "target", home / "back"
    block = os.urandom(MIB)
    with source.open("wb") as file:
        for _ in range(size // MIB):
            file.write(block)
    copier = subprocess.Popen([sys.executable, __file__, "--serve-copy", str(source), str(target), "2299"], stdout=subprocess.PIPE)
    assert copier.stdout is not None
    copier.stdout.readline()
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="target"\r\n\r\n'.encode()
    tail = f"\r\n--{BOUNDARY}--\r\n".encode()

    def bare(word: bytes) -> None:
        with socket.create_connection(("127.0.0.1", 2299)) as peer:
            peer.send(word)
            if word == b"u":
                with source.open("rb") as file:
                    peer.sendfile(file)
                peer.shutdown(socket.SHUT_WR)
                assert peer.recv(1) == b"."
            else:
                buffer = memoryview(bytearray(MIB))
                with back.open("wb") as file:
                    while got := peer.recv_into(buffer):
                        file.write(buffer[:got])

    def raw() -> None:
        client = Client()
        client.socket.sendall(request("POST", f"/files/upload-v2?path={target}", size, "application/octet-stream"))
        with source.open("rb") as file:
            client.socket.sendfile(file)
        client.answer()

    def upload() -> None:
        client = Client()
        kind = f"multipart/form-data; boundary={BOUNDARY}"
        client.socket.sendall(request("POST", f"/files/upload?path={target}", len(head) + size + len(tail), kind) + head)
        with source.open("rb") as file:
            client.socket.sendfile(file)
        client.socket.sendall(tail)
        client.answer()

    def download() -> None:
        client = Client()
        client.send("GET", f"/files/download?path={source}")
        with back.open("wb") as file:
            client.answer(file.write)

    def rate(action: Callable[[], object]) -> float:
        for _ in range(2):
            for path in (target, back):
                path.unlink(missing_ok=True)
            took = milliseconds(action)
        return size / MIB / (took / 1000)

    result: dict[str, list[float]] = {"up": [], "raw": [], "up_floor": [], "down": [], "down_floor": [], "grown": []}
    rate(upload), rate(download)  # what the daemon needs once is not what a transfer needs
    for _ in range(count):
        resting = status(pid, "VmRSS")
        Path(f"/proc/{pid}/clear_refs").write_text("5")  # the high-water mark begins anew: proc(5)
        result["up_floor"].append(rate(lambda: bare(b"u")))
        result["up"].append(rate(upload))
        result["raw"].append(rate(raw))
        result["down_floor"].append(rate(lambda: bare(b"d")))
        result["down"].append(rate(download))
        result["grown"].append((status(pid, "VmHWM") - resting) / 1024)
    with socket.create_connection(("127.0.0.1", 2299)) as peer:
        peer.send(b"x")
    copier.wait(10)
    return result


def wakeups(pid: int, seconds: float) -> float:
    """How often in a second any thread of a process goes to sleep by itself; each time it was woken before. Threads that end meanwhile do not count."""

    def slept() -> dict[str, int]:
        return {thread.name: status(int(thread.name), "voluntary_ctxt_switches") for thread in Path(f"/proc/{pid}/task").iterdir()}

    before = slept()
    time.sleep(seconds)
    return sum(times - before.get(thread, 0) for thread, times in slept().items()) / seconds


def idle(pid: int, _: Path, sessions: int = 200, seconds: float = 20) -> dict[str, list[float]]:
    """Wake-ups a second of a daemon that nobody asks anything, and what two hundred idle sessions cost it, their shells left out."""
    client = Client()
    client.call("GET", "/version")
    time.sleep(3)  # what the start and the first request leave behind
    quiet = wakeups(pid, seconds)

    def session(number: int) -> None:
        own = Client()
        own.call("POST", "/process/session", {"sessionId": f"s{number}"})
        assert json.loads(own.call("POST", f"/process/session/s{number}/exec", {"command": "true"}))["exitCode"] == 0

    session(0)
    resting = status(pid, "VmRSS")
    workers = [threading.Thread(target=lambda first=first: [session(n) for n in range(first, sessions, 4)]) for first in range(1, 5)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    time.sleep(1)
    grown = (status(pid, "VmRSS") - resting) / 1024
    return {"wakeups": [quiet], "sessions": [grown], "session_wakeups": [wakeups(pid, seconds / 2)]}


def terminals(pid: int, _: Path, count: int = 200) -> dict[str, list[float]]:
    """What idle terminals cost the daemon, each with a client that looks at it."""

    def attach(number: int) -> socket.socket:
        client = Client()
        head = f"GET /process/pty/create-connect?id=t{number} HTTP/1.1\r\nHost: bench\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        client.socket.sendall(f"{head}Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n".encode())
        seen = b""
        while b'"connected"' not in seen:
            more = client.socket.recv(65536)
            assert more, seen
            seen += more
        return client.socket

    first = attach(0)
    resting = status(pid, "VmRSS")
    others = [attach(number) for number in range(1, count)]
    time.sleep(2)  # the shells' prompts
    grown = (status(pid, "VmRSS") - resting) / 1024
    for client in (first, *others):
        client.close()
    return {"grown": [grown]}


def ssh(_: int, home: Path, size: int = 300 << 20, count: int = 5, cipher: str = "aes256-gcm@openssh.com") -> dict[str, list[float]]:
    """Bytes through a command's standard streams, both ways, against OpenSSH's server with the same client and cipher; MB/s."""
    key, host, settings, source = home / "key", home / "host", home / "sshd_config", home / "source"
    for path in (key, host):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path], check=True)
    settings.write_text(f"Port 2222\nListenAddress 127.0.0.1\nHostKey {host}\nAuthorizedKeysFile {key}.pub\nStrictModes no\nUsePAM no\nPidFile none\n")
    source.write_bytes(os.urandom(MIB) * (size // MIB))
    Path("/run/sshd").mkdir(exist_ok=True)
    server = subprocess.Popen([shutil.which("sshd") or "/usr/sbin/sshd", "-D", "-f", settings], stderr=subprocess.DEVNULL)
    options = ["BatchMode=yes", "IdentitiesOnly=yes", "StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "LogLevel=ERROR", f"Ciphers={cipher}"]

    def run(port: int, command: str, **streams: object) -> float:
        words = ["ssh", "-p", str(port), "-i", str(key), *(w for o in options for w in ("-o", o)), "root@127.0.0.1", command]
        return size / 1e3 / milliseconds(lambda: subprocess.run(words, check=True, timeout=60, **streams))

    def up(port: int) -> float:
        with source.open("rb") as file:
            return run(port, "exec cat >/dev/null", stdin=file)

    def down(port: int) -> float:
        return run(port, f"exec cat {source}", stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)

    result: dict[str, list[float]] = {"up": [], "up_floor": [], "down": [], "down_floor": []}
    try:
        deadline = time.monotonic() + 10
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", 2222)):
                break
            assert time.monotonic() < deadline, "sshd did not listen within 10 s"
            time.sleep(0.02)
        up(2222), up(22220)
        for _ in range(count):
            result["up_floor"].append(up(2222))
            result["up"].append(up(22220))
            result["down_floor"].append(down(2222))
            result["down"].append(down(22220))
    finally:
        server.terminate()
        server.wait(10)
    return result


def main() -> None:
    if sys.argv[1] == "--serve-copy":
        serve_copy(Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]))
        return
    binary, name = sys.argv[1:3]
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    home = Path(tempfile.mkdtemp(prefix="pinfold-bench-", dir=os.environ.get("TMPDIR")))
    try:
        measures = {"execute": execute, "find": find, "git": git, "transfer": transfer, "idle": idle, "terminals": terminals, "ssh": ssh}
        with daemon(binary, home) as pid:
            print(json.dumps(measures[name](pid, home)))
    finally:
        shutil.rmtree(home, ignore_errors=True)


if __name__ == "__main__":
    main()
