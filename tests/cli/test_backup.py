"""`pinfold backup` and `pinfold restore`: the control plane's database is lost, and the sandboxes are found again."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable

import pytest

from stack import BINARY
from support import inspect

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def pinfold(stack) -> Run:
    def run(*arguments: str | os.PathLike[str]) -> subprocess.CompletedProcess[str]:
        environment = os.environ | {"PINFOLD_DATA_DIR": str(stack.data)}
        return subprocess.run([BINARY, *arguments], env=environment, capture_output=True, text=True, timeout=60, check=False)

    return run


def test_a_backup_brings_the_sandboxes_back(stack, daytona, pinfold, make_sandbox, tmp_path):
    running, stopped = make_sandbox(labels={"kept": "yes"}), make_sandbox()
    running.fs.upload_file(b"kept", "file")
    stopped.stop()
    file = tmp_path / "backup.db"
    made = pinfold("backup", file)
    assert made.returncode == 0, made.stderr
    assert file.stat().st_mode & 0o777 == 0o600
    assert pinfold("backup", file).returncode == 2, "a file is not replaced without being told"
    assert pinfold("backup", "--force", file).returncode == 0
    refused = pinfold("restore", "--force", file)
    assert refused.returncode == 5, "not below a running instance"
    assert "running" in refused.stderr
    started_at = inspect(running.id)["State"]["StartedAt"]

    stack.kill()
    try:
        for lost in [*stack.data.glob("control.db*"), stack.data / "api-key", stack.data / "runner-token"]:
            lost.unlink(missing_ok=True)
        restored = pinfold("restore", file)
        assert restored.returncode == 0, restored.stderr
        assert pinfold("restore", file).returncode == 2, "a database is not replaced without being told"
    finally:
        stack.start()
    assert {s.id for s in daytona.list()} >= {running.id, stopped.id}
    again = daytona.get(running.id)
    assert (again.state.value, again.labels["kept"]) == ("started", "yes")
    assert inspect(running.id)["State"]["StartedAt"] == started_at, "what ran was not disturbed"
    assert again.fs.download_file("file") == b"kept"
    stopped.start()
    assert stopped.process.exec("echo back").result == "back\n"


def test_what_is_no_backup_is_refused_in_one_sentence(tmp_path):
    environment = os.environ | {"PINFOLD_DATA_DIR": str(tmp_path / "data")}
    (tmp_path / "other").write_text("no database " * 100)

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([BINARY, *arguments], env=environment, capture_output=True, text=True, timeout=30, check=False)

    for arguments in (["backup", str(tmp_path / "file")], ["restore", str(tmp_path / "none")], ["restore", str(tmp_path / "other")]):
        answer = run(*arguments)
        assert answer.returncode == 5, answer
        assert len(answer.stderr.strip().splitlines()) == 1
        assert str(tmp_path) in answer.stderr
    assert not list((tmp_path / "data").glob("control.db*"))


def test_one_instance_for_a_data_directory(stack, tmp_path):
    """A second one would write into the first one's database."""
    environment = stack.environment() | {"PINFOLD_BIND": "127.0.0.1:0", "PINFOLD_SSH_PORT": "0"}
    answer = subprocess.run([BINARY, "up"], env=environment, capture_output=True, text=True, timeout=30, check=False)
    assert answer.returncode == 5
    assert str(stack.data) in answer.stderr.strip().splitlines()[-1]
