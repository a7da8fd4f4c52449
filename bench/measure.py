"""The benchmarks. Each returns rows for the table; those in WITH_STACK need a running instance, those in ALONE do not."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from control_plane import control
from daytona import Daytona, DaytonaConfig, Sandbox
from node_agent import fleet, overhead, policies

from engine import Engine
from stack import REPO, Stack
from table import Row, alternate, timed

TICKS = os.sysconf("SC_CLK_TCK")
MIB = 1 << 20


def client(stack: Stack) -> Daytona:
    """The official SDK against the instance."""
    return Daytona(DaytonaConfig(api_key=stack.key, api_url=stack.api_url))


class Toolbox:
    """One connection to a sandbox's toolbox through the whole chain: control plane, runner, daemon. No SDK in between."""

    def __init__(self, stack: Stack, sandbox: Sandbox) -> None:
        self.connection = http.client.HTTPConnection("127.0.0.1", stack.port, timeout=60)
        self.prefix = f"/toolbox/{sandbox.id}"
        self.headers = {"Authorization": f"Bearer {stack.key}", "Content-Type": "application/json"}

    def call(self, method: str, path: str, body: object | None = None) -> bytes:
        self.connection.request(method, self.prefix + path, None if body is None else json.dumps(body), self.headers)
        answer = self.connection.getresponse()
        text = answer.read()
        assert answer.status < 300, text
        return text


def create(stack: Stack, count: int = 20) -> list[Row]:
    """Create to first exec answered, image present, against the engine's create and start of the same container."""
    daytona, engine = client(stack), Engine()
    pattern = daytona.create()
    body = engine.like(pattern.id)
    daytona.delete(pattern, wait=True)

    def floor() -> float:
        made: list[str] = []
        took = timed(lambda: made.append(engine.create_and_start(body)))
        engine.remove(made[0])
        return took

    def ours() -> float:
        made: list[Sandbox] = []

        def until_answer() -> None:
            made.append(daytona.create())
            assert made[0].process.exec("echo ready").result == "ready\n"

        took = timed(until_answer)
        daytona.delete(made[0], wait=True)
        return took

    floor(), ours()
    floors, figures = alternate(count, floor, ours)
    return [Row("create → first exec answered, SDK", "ms", figures, floors, "engine create+start", ratio=1.25)]


def interactive(stack: Stack, count: int = 10) -> list[Row]:
    """Time to interactive by its public definition: create to the first `node -v` answered, against the engine's three calls for it."""
    daytona, engine = client(stack), Engine()
    pattern = daytona.create()
    body = engine.like(pattern.id)
    daytona.delete(pattern, wait=True)
    made: list[str] = []
    boxes: list[Sandbox] = []

    def floor() -> None:
        made.append(engine.create_and_start(body))
        assert engine.execute(made[-1], ["node", "-v"]) == 0

    def ours() -> None:
        boxes.append(daytona.create())
        assert boxes[-1].process.exec("node -v").result.startswith("v")

    def floor_sample() -> float:
        took = timed(floor)
        engine.remove(made[-1])
        return took

    def our_sample() -> float:
        took = timed(ours)
        daytona.delete(boxes[-1], wait=True)
        return took

    floor_sample(), our_sample()
    floors, figures = alternate(count, floor_sample, our_sample)
    return [Row("create → `node -v` answered, SDK", "ms", figures, floors, "engine create+start+exec", ratio=1.3)]


def warm(stack: Stack, count: int = 20) -> list[Row]:
    """Time to interactive from a warm pool: the same, of a snapshot that has sandboxes waiting. Each sample waits until the pool is full again."""
    daytona = client(stack)
    pool = daytona.warm_pool.create("default", 2)

    def full() -> bool:
        return next(p for p in daytona.warm_pool.list() if p.id == pool.id).current_size >= 2

    def sample() -> float:
        deadline = time.monotonic() + 60
        while not full():
            assert time.monotonic() < deadline, "waited 60 s for the pool to be full"
            time.sleep(0.05)
        boxes: list[Sandbox] = []

        def interactive() -> None:
            boxes.append(daytona.create())
            assert boxes[-1].process.exec("node -v").result.startswith("v")

        took = timed(interactive)
        daytona.delete(boxes[-1], wait=True)
        return took

    sample()
    figures = [sample() for _ in range(count)]
    daytona.warm_pool.delete(pool.id)
    stack.wait_until_empty(60)
    return [Row("create → `node -v` answered from a warm pool, SDK", "ms", figures, limit=60)]


def burst(stack: Stack, count: int = 30, widths: tuple[int, ...] = (1, 2, 4, 8)) -> list[Row]:
    """Many creates at once, against the engine alone at its best concurrency. An error of any of them fails the run."""
    daytona, engine = client(stack), Engine()
    pattern = daytona.create()
    body = engine.like(pattern.id)
    daytona.delete(pattern, wait=True)

    def all_of(action: Callable[[int], object], width: int) -> float:
        with ThreadPoolExecutor(width) as pool:
            return timed(lambda: list(pool.map(action, range(count))))

    def alone(_: int) -> str:
        return Engine().create_and_start(body)

    floors = []
    for width in widths:
        made: list[str] = []
        floors.append(all_of(lambda n, made=made: made.append(alone(n)), width))
        all_of(lambda n, made=made: Engine().remove(made[n]), 4)
    boxes: list[Sandbox] = []
    ours = all_of(lambda _: boxes.append(daytona.create(timeout=300)), count)
    for sandbox in boxes:
        daytona.delete(sandbox)
    stack.wait_until_empty(120)
    return [Row(f"{count} creates at once, SDK", "ms", [ours], [min(floors)], f"engine alone, best of {', '.join(map(str, widths))} at a time", ratio=1.2)]


def burst_100(stack: Stack) -> list[Row]:
    """A hundred creates at once."""
    return burst(stack, 100, (2, 4, 8))


def clients(stack: Stack, count: int = 50, calls: int = 20) -> list[Row]:
    """Fifty clients at once, each with its own connection, on one sandbox. An error of any of them fails the run."""
    daytona = client(stack)
    sandbox = daytona.create()

    def one(_: int) -> list[float]:
        toolbox = Toolbox(stack, sandbox)
        return [timed(lambda: toolbox.call("POST", "/process/execute", {"command": "true"})) for _ in range(calls)]

    with ThreadPoolExecutor(count) as pool:
        began = time.perf_counter()
        samples = [s for each in pool.map(one, range(count)) for s in each]
        rate = len(samples) / (time.perf_counter() - began)
    daytona.delete(sandbox, wait=True)
    return [Row(f"exec true, {count} clients at once", "ms", samples), Row(f"exec true, {count} clients at once, rate", "/s", [rate])]


def execute(stack: Stack, count: int = 300) -> list[Row]:
    """`exec true` through control plane and runner, against `docker exec true` through the engine's API."""
    daytona, engine = client(stack), Engine()
    sandbox = daytona.create()
    toolbox = Toolbox(stack, sandbox)

    def ours() -> None:
        assert json.loads(toolbox.call("POST", "/process/execute", {"command": "true"}))["exitCode"] == 0

    def floor() -> None:
        assert engine.execute(sandbox.id, ["true"]) == 0

    for _ in range(5):
        ours(), floor()
    floors, _ = alternate(count // 10, lambda: timed(floor), lambda: timed(ours))
    figures = [timed(ours) for _ in range(count)]
    sdk = [timed(lambda: sandbox.process.exec("true")) for _ in range(count)]
    daytona.delete(sandbox, wait=True)
    return [
        Row("exec true, through the runner's proxy", "ms", figures, floors, "docker exec true, API", ratio=0.2),
        Row("exec true, official SDK", "ms", sdk, floors, "docker exec true, API"),
    ]


def proxy(stack: Stack, count: int = 2000) -> list[Row]:
    """What each hop adds to a request that the daemon answers at once: straight to it, through the runner, through control plane and runner."""
    daytona = client(stack)
    sandbox = daytona.create()
    networks = Engine().call("GET", f"/containers/{sandbox.id}/json")["NetworkSettings"]["Networks"]
    address = next(n["IPAddress"] for n in networks.values())
    runner = json.loads(next(stack.data.rglob("runner.json")).read_text())
    host, port = runner["url"].removeprefix("http://").rsplit(":", 1)

    def asker(host: str, port: int, path: str, token: str) -> Callable[[], float]:
        # A bare socket and a request made beforehand: a client that costs next to nothing of its own.
        peer = socket.create_connection((host, port))
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        question = f"GET {path} HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer {token}\r\n\r\n".encode()

        def ask() -> float:
            began = time.perf_counter()
            peer.sendall(question)
            answer = peer.recv(65536)
            while not answer.endswith(b"}"):
                answer += peer.recv(65536)
            took = (time.perf_counter() - began) * 1000
            assert answer.startswith(b"HTTP/1.1 200"), answer
            return took

        return ask

    askers = [
        asker(address, 2280, "/version", "none"),
        asker(host, int(port), f"/sandboxes/{sandbox.id}/toolbox/version", runner["token"]),
        asker("127.0.0.1", stack.port, f"/toolbox/{sandbox.id}/version", stack.key),
    ]
    for ask in askers * 50:
        ask()
    direct, through, whole = zip(*([ask() for ask in askers] for _ in range(count)), strict=True)
    daytona.delete(sandbox, wait=True)
    return [
        Row("GET /version of the daemon", "ms", list(direct)),
        Row("added by the runner's proxy", "ms", [t - d for t, d in zip(through, direct, strict=True)], limit=0.3),
        Row("added by control plane and runner", "ms", [w - d for w, d in zip(whole, direct, strict=True)]),
    ]


def session(stack: Stack, count: int = 300) -> list[Row]:
    """A command in a session, and a key's echo in a terminal, both through the whole chain."""
    daytona = client(stack)
    sandbox = daytona.create()
    toolbox = Toolbox(stack, sandbox)
    toolbox.call("POST", "/process/session", {"sessionId": "bench"})

    def command() -> None:
        assert json.loads(toolbox.call("POST", "/process/session/bench/exec", {"command": "true"}))["exitCode"] == 0

    command()
    commands = [timed(command) for _ in range(count)]
    rows = [Row("session command", "ms", commands, limit=3)]

    handle = sandbox.process.create_pty_session(f"bench-{uuid.uuid4()}")
    handle.wait_for_connection()
    # From here on the terminal's own echo answers each key, and nothing else speaks. The quotes keep the echoed command from matching.
    handle.send_input("stty -icanon; printf 'be''gin'; exec cat >/dev/null\n")
    chunks = iter(handle)
    seen = b""
    while b"begin" not in seen:
        seen += next(chunks)

    def echo() -> None:
        handle.send_input("x")
        while b"x" not in next(chunks):
            pass

    for _ in range(20):
        echo()
    echoes = [timed(echo) for _ in range(count)]
    handle.kill()
    handle.disconnect()
    daytona.delete(sandbox, wait=True)
    return [*rows, Row("terminal echo", "ms", echoes, limit=1)]


def carry(path: Path, target: Path, relays: int) -> None:
    """A file over the loopback into another, each end and each relay a process that does nothing but read and write."""
    servers = [socket.create_server(("127.0.0.1", 0)) for _ in range(relays + 1)]
    children = []
    for number, server in enumerate(servers):
        if (child := os.fork()) == 0:
            try:
                peer, _ = server.accept()
                onward = servers[number + 1].getsockname() if number < relays else None
                out = socket.create_connection(onward).makefile("wb", 0) if onward else target.open("wb", 0)
                buffer = memoryview(bytearray(MIB))
                while got := peer.recv_into(buffer):
                    rest = buffer[:got]
                    while rest:
                        rest = rest[out.write(rest) :]
                os._exit(0)
            finally:
                os._exit(1)
        children.append(child)
    with socket.create_connection(servers[0].getsockname()) as out, path.open("rb") as file:
        out.sendfile(file)
    for child, server in zip(children, servers, strict=True):
        assert os.waitpid(child, 0)[1] == 0
        server.close()


def transfer(stack: Stack, size: int = 256 * MIB, count: int = 5) -> list[Row]:
    """Upload and download, against a TCP copy of the file that passes as many processes as ours does.

    The chain is control plane, runner and daemon, so two relays and an end. On two cores each copy in and out of a process is time that another hop
    does not have, whoever does it; a direct copy, which no chain can reach, stands beside it.
    """
    daytona = client(stack)
    sandbox = daytona.create()
    content = os.urandom(MIB) * (size // MIB)
    path = Path(stack.directory) / "transfer.bin"
    path.write_bytes(content)
    target = path.with_suffix(".back")

    def rate(action: Callable[[], object]) -> float:
        return size / MIB / (timed(action) / 1000)

    def copy() -> None:
        carry(path, target, relays=0)

    def relayed() -> None:
        carry(path, target, relays=2)

    def upload() -> None:
        sandbox.fs.upload_file(str(path), "bench.bin")

    def download() -> None:
        sandbox.fs.download_file("bench.bin", str(target))

    # What the chain does when the client costs little: the SDK is Python, and shares the machine's cores with what it measures.
    url = f"http://127.0.0.1:{stack.port}/toolbox/{sandbox.id}/files"
    curl = ["curl", "-sSf", "-H", f"Authorization: Bearer {stack.key}"]

    def plain_upload() -> None:
        fields = ["-F", "files[0].path=bench.bin", "-F", f"files[0].file=@{path}"]
        subprocess.run([*curl, "-H", "Expect:", *fields, f"{url}/bulk-upload"], check=True, capture_output=True)

    def plain_download() -> None:
        subprocess.run([*curl, "-o", str(target), f"{url}/download?path=bench.bin"], check=True, capture_output=True)

    floors, chains, uploads, downloads, plain_uploads, plain_downloads = [], [], [], [], [], []
    copy(), relayed(), upload(), download()
    for _ in range(count):
        floors.append(rate(copy))
        chains.append(rate(relayed))
        uploads.append(rate(upload))
        downloads.append(rate(download))
        plain_uploads.append(rate(plain_upload))
        plain_downloads.append(rate(plain_download))
    daytona.delete(sandbox, wait=True)
    name, floor = f"{size // MIB} MiB", "the same through two bare relays"
    return [
        Row(f"TCP copy of {name} through two relays", "MiB/s", chains, floors, "TCP copy of a file"),
        Row(f"upload {name}, SDK", "MiB/s", uploads, chains, floor, ratio=0.7, more=True),
        Row(f"download {name}, SDK", "MiB/s", downloads, chains, floor, ratio=0.7, more=True),
        Row(f"upload {name}, curl", "MiB/s", plain_uploads, chains, floor, ratio=0.7, more=True),
        Row(f"download {name}, curl", "MiB/s", plain_downloads, chains, floor, ratio=0.7, more=True),
    ]


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far (proc(5), stat fields 14 and 15)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def resident(pid: int) -> float:
    """Resident memory in MiB."""
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) / 1024


def idle(stack: Stack, sandboxes: int = 20, seconds: float = 20) -> list[Row]:
    """What the instance costs while nobody asks anything of it and of twenty sandboxes."""
    daytona = client(stack)
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda _: daytona.create(timeout=120), range(sandboxes)))
    assert stack.process is not None
    pid = stack.process.pid
    daemons = [Engine().call("GET", f"/containers/{s.id}/json")["State"]["Pid"] for s in made]
    time.sleep(3)  # the creates' own after-work
    before, daemons_before = cpu_seconds(pid), [cpu_seconds(p) for p in daemons]
    time.sleep(seconds)
    spent = (cpu_seconds(pid) - before) / seconds * 100
    by_daemon = sum(cpu_seconds(p) - b for p, b in zip(daemons, daemons_before, strict=True)) / sandboxes / seconds * 100
    rows = [
        Row(f"idle, {sandboxes} sandboxes: pinfold up", "% of a core", [spent], limit=1),
        Row(f"idle, {sandboxes} sandboxes: each daemon", "% of a core", [by_daemon], limit=0.1),
        Row("idle: pinfold up, resident", "MiB", [resident(pid)]),
        Row("idle: daemon in its sandbox, resident", "MiB", [resident(p) for p in daemons], limit=8),
    ]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda sandbox: daytona.delete(sandbox, wait=True), made))
    return rows


def daemon_binary() -> Path:
    """The static daemon: PINFOLD_DAEMON_BINARY, else the one that `make build` made."""
    if given := os.environ.get("PINFOLD_DAEMON_BINARY"):
        return Path(given)
    return sorted(REPO.glob("target/*-linux-musl/release/pinfold-daemon"))[0]


def daemon(count: int = 30) -> list[Row]:
    """The daemon alone: start to ready, memory at rest, size. In a network namespace of its own, since its ports are fixed."""
    script = Path(__file__).with_name("daemon_start.py")
    command = ["unshare", "--net", sys.executable, str(script), str(daemon_binary()), str(count)]
    measured = json.loads(subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout)
    return [
        Row("daemon: start → ready", "ms", measured["ready"], measured["spawn"], "static busybox true", limit=10),
        Row("daemon: resident at rest", "MiB", measured["resident"], limit=8),
        Row("daemon: stripped size", "MiB", [daemon_binary().stat().st_size / MIB], limit=16),
    ]


def alone(name: str) -> dict[str, list[float]]:
    """A measurement of the daemon alone, in a network namespace of its own."""
    script = Path(__file__).with_name("daemon_alone.py")
    command = ["unshare", "--net", sys.executable, str(script), str(daemon_binary()), name]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True, timeout=300).stdout)


def daemon_execute() -> list[Row]:
    """`execute true` in the daemon, against the same shell spawned and waited for with nothing in between."""
    measured = alone("execute")
    return [Row("daemon: execute true", "ms", measured["ours"], measured["floor"], "bare spawn and wait of the same shell", ratio=1.5)]


def daemon_find() -> list[Row]:
    """The lines with a word in a GiB of text."""
    if shutil.which("rg") is None:
        print("bench: daemon-find is left out: its floor is ripgrep (apt-get install ripgrep)", file=sys.stderr)
        return []
    measured = alone("find")
    return [Row("daemon: find in 1 GiB, 16384 files", "ms", measured["ours"], measured["floor"], "ripgrep", ratio=1.5)]


def daemon_git() -> list[Row]:
    """A clone of 1000 files from a local repository, and the status of the clone."""
    if shutil.which("git") is None:
        print("bench: daemon-git is left out: its floor is git (apt-get install git)", file=sys.stderr)
        return []
    measured = alone("git")
    return [
        Row("daemon: git clone, 1000 files", "ms", measured["clone"], measured["clone_floor"], "git clone --no-local"),
        Row("daemon: git status, 1000 files", "ms", measured["status"], measured["status_floor"], "git status"),
    ]


def daemon_transfer() -> list[Row]:
    """A GiB each way, and what it costs the daemon's memory."""
    measured = alone("transfer")
    floor = "TCP copy of a file"
    return [
        Row("daemon: upload 1 GiB, a form", "MiB/s", measured["up"], measured["up_floor"], floor, ratio=0.7, more=True),
        Row("daemon: upload 1 GiB, as it is", "MiB/s", measured["raw"], measured["up_floor"], floor, ratio=0.7, more=True),
        Row("daemon: download 1 GiB", "MiB/s", measured["down"], measured["down_floor"], floor, ratio=0.7, more=True),
        Row("daemon: more resident in these", "MiB", measured["grown"], limit=8),
    ]


def daemon_idle() -> list[Row]:
    """What a daemon does and holds when nobody asks it anything."""
    measured = alone("idle")
    return [
        Row("daemon: wake-ups, idle", "/s", measured["wakeups"], limit=1),
        Row("daemon: wake-ups, 200 idle sessions", "/s", measured["session_wakeups"]),
        Row("daemon: more resident with 200 idle sessions", "MiB", measured["sessions"], limit=20),
    ]


def daemon_terminals() -> list[Row]:
    """Two hundred terminals that somebody looks at and nobody types in."""
    return [Row("daemon: more resident with 200 idle terminals", "MiB", alone("terminals")["grown"], limit=20)]


def daemon_ssh() -> list[Row]:
    """300 MB through the daemon's SSH server, each way."""
    if not Path("/usr/sbin/sshd").exists() or shutil.which("ssh") is None:
        print("bench: daemon-ssh is left out: its floor is OpenSSH (apt-get install openssh-server openssh-client)", file=sys.stderr)
        return []
    measured = alone("ssh")
    floor = "OpenSSH's sshd, same client and cipher"
    return [
        Row("daemon: SSH upload, 300 MB, aes256-gcm", "MB/s", measured["up"], measured["up_floor"], floor, ratio=1, more=True),
        Row("daemon: SSH download, 300 MB, aes256-gcm", "MB/s", measured["down"], measured["down_floor"], floor, ratio=1, more=True),
    ]


def api(stack: Stack, count: int = 300) -> list[Row]:
    """The control plane's own answers, no sandbox involved."""
    connection = http.client.HTTPConnection("127.0.0.1", stack.port, timeout=30)
    headers = {"Authorization": f"Bearer {stack.key}"}

    def get(path: str) -> None:
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        answer.read()
        assert answer.status == 200

    urllib.request.urlopen(f"{stack.api_url}/health", timeout=5).read()
    return [
        Row("GET /health", "ms", [timed(lambda: get("/api/health")) for _ in range(count)]),
        Row("GET /sandbox, first page", "ms", [timed(lambda: get("/api/sandbox")) for _ in range(count)], limit=20),
    ]


ALONE: dict[str, Callable[[], list[Row]]] = {
    "control": control,
    "daemon": daemon,
    "daemon-exec": daemon_execute,
    "daemon-find": daemon_find,
    "daemon-git": daemon_git,
    "daemon-transfer": daemon_transfer,
    "daemon-idle": daemon_idle,
    "daemon-terminals": daemon_terminals,
    "daemon-ssh": daemon_ssh,
    "overhead": lambda: overhead(daemon_binary()),
    "policies": policies,
    "fleet": fleet,
}
WITH_STACK: dict[str, Callable[[Stack], list[Row]]] = {
    "create": create,
    "interactive": interactive,
    "warm": warm,
    "exec": execute,
    "proxy": proxy,
    "session": session,
    "transfer": transfer,
    "api": api,
    "clients": clients,
    "burst": burst,
    "burst-100": burst_100,
    "idle": idle,
    "idle-100": lambda stack: idle(stack, 100),
}
ALL = [*ALONE, *WITH_STACK]
