"""Bulk data over the shipped daemon's SSH, with OpenSSH's client; `tests/ssh` has everything else."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

import pytest

GIGABYTE = 1 << 30
#: A gigabyte that nobody can guess or compress, the same each time.
STREAM = f"openssl enc -aes-128-ctr -pass pass:x -nosalt -pbkdf2 -in /dev/zero 2>/dev/null | head -c {GIGABYTE}"


@pytest.fixture
def ssh(daemon, tmp_path: Path) -> list[str]:
    """The beginning of a command line that leads into the sandbox, with new keys every 32 MiB."""
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "key"], check=True)
    options = [f"IdentityFile={tmp_path / 'key'}", "StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "LogLevel=ERROR", "RekeyLimit=32M"]
    return ["ssh", "-F", "none", "-p", "22220", *(word for option in options for word in ("-o", option)), f"daytona@{daemon.address}"]


def test_a_gigabyte_up(ssh):
    source = subprocess.Popen(["sh", "-c", f"{STREAM} | tee /dev/fd/2"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    there = subprocess.Popen([*ssh, "sha256sum"], stdin=source.stdout, stdout=subprocess.PIPE)
    source.stdout.close()
    digest = hashlib.file_digest(source.stderr, "sha256").hexdigest()
    assert there.communicate(timeout=240)[0].split()[0].decode() == digest
    assert (source.wait(10), there.returncode) == (0, 0)


def test_a_gigabyte_down(ssh):
    # What was sent is told over the other stream, when all of it has gone.
    command = f"mkfifo /tmp/sent; sha256sum < /tmp/sent >&2 & {STREAM} | tee /tmp/sent; wait; rm /tmp/sent"
    here = subprocess.Popen([*ssh, command], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    digest = hashlib.file_digest(here.stdout, "sha256").hexdigest()
    assert here.stderr.read().split()[0].decode() == digest
    assert here.wait(60) == 0
