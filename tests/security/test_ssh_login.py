"""Who may log in to a sandbox's SSH server: anybody who reaches it, by contract; the runner's key alone, if the operator wants that."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from support import address

OPTIONS = ["StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "LogLevel=ERROR", "IdentitiesOnly=yes", "NumberOfPasswordPrompts=1"]


@pytest.fixture
def ssh(tmp_path: Path):
    """OpenSSH's client, with a key that nobody knows and the password that everybody knows. Gives status and output."""
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "key"], check=True)
    ask = tmp_path / "ask"
    ask.write_text("#!/bin/sh\necho sandbox-ssh\n")
    ask.chmod(0o755)

    def run(user: str, host: str, port: int, method: str) -> tuple[int, str]:
        words = ["ssh", "-i", tmp_path / "key", "-p", str(port), *(w for option in OPTIONS for w in ("-o", option))]
        words += ["-o", f"PreferredAuthentications={method}", f"{user}@{host}", "echo in"]
        environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "SSH_ASKPASS": str(ask), "SSH_ASKPASS_REQUIRE": "force"}
        done = subprocess.run(words, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30, check=False)
        return done.returncode, done.stdout + done.stderr

    return run


def test_weakness_h1_the_well_known_password_and_the_runners_key(stack, restart, make_sandbox, ssh):
    def through_the_gateways(sandbox) -> tuple[int, str]:
        return ssh(sandbox.create_ssh_access(expires_in_minutes=5).token, "127.0.0.1", stack.ssh_port, "none,publickey")

    def directly(sandbox, method: str) -> tuple[int, str]:
        return ssh("daytona", address(sandbox.id), 22220, method)

    welcome = (0, "in\n")
    old = make_sandbox()
    assert through_the_gateways(old) == welcome
    # The contract: the password, and any key.
    assert [directly(old, method) for method in ("password", "publickey")] == [welcome] * 2

    restart(PINFOLD_SANDBOX_SSH="key")
    new = make_sandbox()
    assert through_the_gateways(new) == welcome
    for method in ("password", "publickey"):
        status, said = directly(new, method)
        # It does not even offer the password.
        assert status == 255 and "Permission denied (publickey)" in said, said
    assert "PINFOLD_SSH" not in new.process.exec("env").result
    assert through_the_gateways(old) == welcome
    key = stack.data / "runner/ssh_sandbox_key"
    assert key.stat().st_mode & 0o777 == 0o600

    # Back at the default, sandboxes that take the key alone are not lost.
    restart(PINFOLD_SANDBOX_SSH="password")
    assert through_the_gateways(new) == welcome
    assert through_the_gateways(old) == welcome
