"""Network policy from inside: block all, allow lists by address and by name, changes while running, and from the first packet."""

from __future__ import annotations

import subprocess

import pytest
from daytona import CreateSandboxFromImageParams, Image

from support import connects, docker, eventually

# Addresses for documentation (RFC 5737): nobody answers there, so a router namespace of our own does.
OUTSIDE, OTHER = "198.51.100.10", "198.51.100.20"


@pytest.fixture(scope="module")
def outside(tmp_path_factory):
    """Two hosts beyond the bridge, in a network namespace behind a veth pair, each answering on port 8080."""
    namespace = "pf-e2e-outside"

    def ip(*arguments: str, check: bool = True) -> None:
        subprocess.run(["ip", *arguments], check=check, capture_output=True)

    ip("netns", "delete", namespace, check=False)
    ip("netns", "add", namespace)
    ip("link", "add", "pf-e2e0", "type", "veth", "peer", "name", "eth0", "netns", namespace)
    ip("addr", "add", "198.51.100.1/24", "dev", "pf-e2e0")
    ip("link", "set", "pf-e2e0", "up")
    for host in (OUTSIDE, OTHER):
        ip("-n", namespace, "addr", "add", f"{host}/24", "dev", "eth0")
    ip("-n", namespace, "link", "set", "eth0", "up")
    ip("-n", namespace, "link", "set", "lo", "up")
    ip("-n", namespace, "route", "add", "default", "via", "198.51.100.1")
    server = subprocess.Popen(
        ["ip", "netns", "exec", namespace, "python3", "-m", "http.server", "8080"],
        cwd=tmp_path_factory.mktemp("www"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    probe = ["python3", "-c", f"import socket; socket.create_connection(('{OUTSIDE}', 8080), 1)"]
    eventually(lambda: subprocess.run(probe, check=False, capture_output=True).returncode == 0, "the outside to answer")
    yield
    server.terminate()
    server.wait(10)
    ip("netns", "delete", namespace)


def reaches(sandbox, host: str = OUTSIDE) -> bool:
    return connects(sandbox, host, 8080)


def test_the_default_is_open(sandbox, outside):
    assert reaches(sandbox)


def test_block_all(make_sandbox, outside):
    sandbox = make_sandbox(network_block_all=True)
    assert not reaches(sandbox)
    assert sandbox.process.exec("echo toolbox still answers").exit_code == 0


def test_a_container_that_somebody_starts_has_its_policy(make_sandbox, outside):
    """Behind our back, and asked before anybody can have noticed."""
    sandbox = make_sandbox(network_block_all=True)
    sandbox.stop()
    docker("start", sandbox.id)
    attempt = f"import socket; socket.create_connection(('{OUTSIDE}', 8080), 2)"
    assert subprocess.run(["docker", "exec", sandbox.id, "python3", "-c", attempt], check=False, capture_output=True).returncode == 1


def test_an_allow_list(make_sandbox, outside):
    sandbox = make_sandbox(network_allow_list=f"{OUTSIDE}/32")
    assert reaches(sandbox)
    assert not reaches(sandbox, OTHER)


def test_changes_while_running(make_sandbox, outside):
    sandbox = make_sandbox()
    sandbox.update_network_settings(network_block_all=True)
    eventually(lambda: not reaches(sandbox), "the network to be closed", 10)
    sandbox.update_network_settings(network_block_all=False, network_allow_list=f"{OTHER}/32")
    eventually(lambda: reaches(sandbox, OTHER), "the listed host to be open", 10)
    assert not reaches(sandbox)


def test_a_policy_outlives_stop_and_start(make_sandbox, outside):
    sandbox = make_sandbox(network_block_all=True)
    sandbox.stop()
    sandbox.start()
    assert not reaches(sandbox)


def test_a_change_of_a_stopped_sandbox_is_kept(make_sandbox, outside):
    sandbox = make_sandbox()
    sandbox.stop()
    sandbox.update_network_settings(network_block_all=True)
    sandbox.start()
    assert not reaches(sandbox)


ATTEMPT = f"""#!/usr/bin/env python3
import socket, time
end = time.monotonic() + 3
while time.monotonic() < end:
    try:
        socket.create_connection(("{OUTSIDE}", 8080), 0.05).close()
        open("/tmp/reached", "w").close()
        break
    except OSError:
        pass
open("/tmp/tried", "w").close()
time.sleep(86400)
"""


@pytest.fixture(scope="module")
def eager(tmp_path_factory) -> str:
    """An image whose entrypoint tries to get out from the moment it runs, and writes down whether it did."""
    folder = tmp_path_factory.mktemp("eager")
    (folder / "attempt").write_text(ATTEMPT)
    (folder / "attempt").chmod(0o755)
    (folder / "Dockerfile").write_text('FROM pinfold/sandbox:latest\nCOPY attempt /usr/local/bin/attempt\nENTRYPOINT ["/usr/local/bin/attempt"]\n')
    docker("build", "--quiet", "--tag", "pf-e2e-eager:1", str(folder))
    return "pf-e2e-eager:1"


@pytest.mark.parametrize("closed", [True, False], ids=["blocked", "open"])
def test_closed_from_the_first_packet(make_sandbox, outside, eager, closed):
    """The open case shows that the attempt would have succeeded."""
    # A sandbox made from an image runs the Dockerfile's entrypoint, not the base image's (runner contract 17.3).
    image = Image.base(eager).entrypoint(["/usr/local/bin/attempt"])
    sandbox = make_sandbox(CreateSandboxFromImageParams(image=image, network_block_all=closed))
    eventually(lambda: sandbox.process.exec("test -e /tmp/tried").exit_code == 0, "the attempt to end")
    assert (sandbox.process.exec("test -e /tmp/reached").exit_code == 0) is not closed
