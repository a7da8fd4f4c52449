"""npm's ssh2, which editors' extensions and deployment tools use. SSH2_FROM names a file beside its node_modules."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from conftest import Server


def test_everything_it_does(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(os.urandom(3_000_000))
    script = Path(__file__).with_name("ssh2.mjs")
    words = ["node", script, str(server.port), server.key, server.work, tmp_path / "file"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    expected = ["exec", "shell", "signal", "sftp", "rename", "forwardOut", "forwardIn"]
    assert done.stdout.split() == expected, done.stderr
