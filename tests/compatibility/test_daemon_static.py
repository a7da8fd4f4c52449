"""The daemon runs in any image, so it may not need anything of one: no loader, no library. `tests/toolbox/test_images.py` runs it in them."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from support import REPO

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
