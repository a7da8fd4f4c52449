"""The daemon runs in any image, so it may not need anything of one: no loader, no library, no passwd file."""

from __future__ import annotations

import struct
import subprocess
import time
import urllib.request
from pathlib import Path

import pytest

from support import REPO, docker, eventually, inspect

PT_DYNAMIC, PT_INTERP, DT_NEEDED = 2, 3, 1


@pytest.fixture(scope="module")
def daemon() -> Path:
    built = sorted(REPO.glob("target/*-linux-musl/release/pinfold-daemon"))
    assert built, "the daemon is not built; run make build"
    return built[0]


def program_headers(binary: bytes) -> list[tuple[int, int, int]]:
    """(type, offset, size in the file) of each program header of a 64-bit little-endian ELF file (System V ABI, ELF-64 object file format)."""
    assert binary[:6] == b"\x7fELF\x02\x01"
    (offset,) = struct.unpack_from("<Q", binary, 32)
    size, count = struct.unpack_from("<HH", binary, 54)
    found = []
    for index in range(count):
        kind, _, start, _, _, length = struct.unpack_from("<IIQQQQ", binary, offset + index * size)
        found.append((kind, start, length))
    return found


def test_needs_no_loader_and_no_library(daemon):
    binary = daemon.read_bytes()
    headers = program_headers(binary)
    assert headers, "no program headers were read"
    assert all(kind != PT_INTERP for kind, _, _ in headers)
    for _, start, length in (h for h in headers if h[0] == PT_DYNAMIC):
        tags = {tag for tag, _ in struct.iter_unpack("<qQ", binary[start : start + length])}
        assert DT_NEEDED not in tags


def test_is_small(daemon):
    assert daemon.stat().st_size <= 16 << 20


def scratch() -> str:
    """An image with nothing in it but an empty file: an image needs a layer."""
    tag = "pf-e2e-scratch:latest"
    script = f"d=$(mktemp -d) && : >$d/empty && tar -C $d -c empty | docker import - {tag} && rm -r $d"
    subprocess.run(["sh", "-c", script], check=True, capture_output=True)
    return tag


IMAGES = {"scratch": scratch, "busybox": lambda: "pinfold/busybox:latest", "debian": lambda: "pinfold/sandbox:latest"}


@pytest.mark.parametrize("image", IMAGES)
def test_runs_as_pid_1(daemon, image):
    """Alone as PID 1, with the variables the runner sets, it answers, and it ends in order."""
    name = f"pf-e2e-static-{image}"
    docker("rm", "-f", name, check=False)
    # fmt: off
    docker(
        "run", "-d", "--name", name, "-v", f"{daemon}:/usr/local/bin/daytona:ro", "--entrypoint", "/usr/local/bin/daytona",
        "-e", "DAYTONA_SANDBOX_ID=static", "-e", "HOME=/tmp", IMAGES[image](),
    )
    # fmt: on
    try:
        def version() -> bytes | None:
            assert inspect(name)["State"]["Running"], docker("logs", name)
            try:
                with urllib.request.urlopen(f"http://{inspect(name)['NetworkSettings']['IPAddress']}:2280/version", timeout=2) as answer:
                    return answer.read()
            except OSError:
                return None

        assert b"version" in eventually(version, "the daemon to answer")
        started = time.monotonic()
        docker("stop", "-t", "20", name)
        assert time.monotonic() - started < 15, "SIGTERM did not end it"
        assert inspect(name)["State"]["ExitCode"] == 0
    finally:
        docker("rm", "-f", name, check=False)
        if image == "scratch":
            docker("rmi", "pf-e2e-scratch:latest", check=False)
