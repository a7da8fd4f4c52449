"""A sandbox's SSH server in a process of its own, alone and behind two gateways, for clients that are not ours.

Self-contained: `pytest tests/ssh` builds the two example binaries, or takes them from the directory PINFOLD_SSH_BIN.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "tools"))
# What OpenSSH's programs are told, so that nobody is asked anything.
OPTIONS = ["BatchMode=yes", "IdentitiesOnly=yes", "StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "LogLevel=ERROR"]


@dataclass
class Server:
    """Where it listens, where it works, and the key that opens it."""

    port: int
    work: Path
    key: Path

    @property
    def options(self) -> list[str]:
        return ["-i", str(self.key), *(word for option in OPTIONS for word in ("-o", option))]

    def ssh(self, *words: str, **keywords: object) -> subprocess.CompletedProcess[bytes]:
        """Runs OpenSSH's client with these options and words."""
        command = ["ssh", "-p", str(self.port), *self.options, *words]
        return subprocess.run(command, capture_output=True, timeout=240, **keywords)  # type: ignore[call-overload]

    @property
    def transport(self) -> str:
        """For programs that run ssh themselves."""
        return " ".join(["ssh", "-p", str(self.port), *self.options])


@pytest.fixture(scope="session")
def binaries() -> Path:
    given = os.environ.get("PINFOLD_SSH_BIN")
    if given:
        return Path(given)
    for package, example in [("pinfold-ssh", "ssh_serve"), ("pinfold-ssh-relay", "ssh_chain")]:
        subprocess.run(["cargo", "build", "--locked", "--release", "-p", package, "--example", example], cwd=ROOT, check=True)
    return ROOT / "target/release/examples"


@pytest.fixture(scope="session", params=["direct", "gateways"])
def server(request: pytest.FixtureRequest, binaries: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    base = tmp_path_factory.mktemp(request.param)
    for name in ("home", "work"):
        (base / name).mkdir()
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", base / "key"], check=True)
    words = [binaries / "ssh_serve"] if request.param == "direct" else [binaries / "ssh_chain"]
    words += ["127.0.0.1:0", base / "work"] + ([] if request.param == "direct" else ["2"])
    process = subprocess.Popen(words, env=os.environ | {"HOME": str(base / "home")}, stderr=subprocess.PIPE, text=True)
    try:
        line = process.stderr.readline()
        assert "listening on" in line, line
        yield Server(int(line.rsplit(":", 1)[1]), base / "work", base / "key")
        assert process.poll() is None, f"the server ended with {process.returncode}"
    finally:
        process.kill()
        process.wait()
