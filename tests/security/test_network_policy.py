"""Network policy from inside: block all, allow lists by address and by name, changes while running, and from the first packet."""

from __future__ import annotations

import contextlib
import subprocess

import outside as beyond
import pytest
from daytona import CreateSandboxFromImageParams, DaytonaError, Image

from support import address, connects, docker, eventually, inspect, reachable

OUTSIDE, OTHER = beyond.OUTSIDE, beyond.OTHER


@pytest.fixture(scope="module")
def outside(tmp_path_factory):
    with beyond.outside(tmp_path_factory.mktemp("www")):
        yield


def reaches(sandbox, host: str = OUTSIDE) -> bool:
    """Asked where it should, so a busy machine has its time."""
    return connects(sandbox, host, 8080, 30)


def is_kept_in(sandbox, host: str = OUTSIDE) -> bool:
    """Two seconds are long for a connection that nothing stands in the way of."""
    return not connects(sandbox, host, 8080)


def test_the_default_is_open(sandbox, outside):
    assert reaches(sandbox)


def test_block_all(make_sandbox, outside):
    sandbox = make_sandbox(network_block_all=True)
    assert is_kept_in(sandbox)
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
    assert is_kept_in(sandbox, OTHER)


def test_changes_while_running(make_sandbox, outside):
    sandbox = make_sandbox()
    sandbox.update_network_settings(network_block_all=True)
    eventually(lambda: is_kept_in(sandbox), "the network to be closed")
    sandbox.update_network_settings(network_block_all=False, network_allow_list=f"{OTHER}/32")
    eventually(lambda: not is_kept_in(sandbox, OTHER), "the listed host to be open")
    assert is_kept_in(sandbox)


def test_a_policy_outlives_stop_and_start(make_sandbox, outside):
    sandbox = make_sandbox(network_block_all=True)
    sandbox.stop()
    sandbox.start()
    assert is_kept_in(sandbox)


def test_a_change_of_a_stopped_sandbox_is_kept(make_sandbox, outside):
    sandbox = make_sandbox()
    sandbox.stop()
    sandbox.update_network_settings(network_block_all=True)
    sandbox.start()
    assert is_kept_in(sandbox)


@pytest.fixture(scope="module")
def eager(tmp_path_factory) -> str:
    """An image whose entrypoint tries to get out from the moment it runs, and writes down at each start whether it did."""
    folder = tmp_path_factory.mktemp("eager")
    (folder / "attempt").write_text(beyond.ATTEMPT)
    (folder / "attempt").chmod(0o755)
    (folder / "Dockerfile").write_text('FROM pinfold/sandbox:latest\nCOPY attempt /usr/local/bin/attempt\nENTRYPOINT ["/usr/local/bin/attempt"]\n')
    docker("build", "--quiet", "--tag", "pf-e2e-eager:1", str(folder))
    return "pf-e2e-eager:1"


def test_closed_from_the_first_packet_of_every_start(stack, make_sandbox, outside, eager):
    """At create, start and restart, when the container is started behind pinfold's back, and while pinfold is killed. The open one shows that the attempt
    would have succeeded."""
    # A sandbox made from an image runs the Dockerfile's entrypoint, not the base image's (runner contract 17.3).
    image = Image.base(eager).entrypoint(["/usr/local/bin/attempt"])
    free = make_sandbox(CreateSandboxFromImageParams(image=image))
    closed = make_sandbox(CreateSandboxFromImageParams(image=image, network_block_all=True))
    assert (beyond.outcome(free.id, 1), beyond.outcome(closed.id, 1)) == ("True", "False"), "create"
    closed.stop()
    closed.start()
    assert beyond.outcome(closed.id, 2) == "False", "start"
    docker("restart", "-t", "0", closed.id)
    assert beyond.outcome(closed.id, 3) == "False", "restart by somebody else"
    stack.process.kill()
    stack.process.wait(10)
    docker("restart", "-t", "0", closed.id)
    assert beyond.outcome(closed.id, 4) == "False", "start while pinfold is dead"
    stack.start()
    assert beyond.outcome(closed.id, 4) == "False"
    eventually(lambda: answers(closed), "the sandbox to answer again")
    assert is_kept_in(closed), "pinfold came back"
    assert reaches(free)


def answers(sandbox) -> bool:
    with contextlib.suppress(DaytonaError):
        return sandbox.process.exec("true").exit_code == 0
    return False


RESOLVER = """
import socket
listener = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
listener.bind(("", 53))
print("ready", flush=True)
while True:
    print(listener.recv(4096), flush=True)
"""


def test_names_carry_nothing_out(make_sandbox, outside):
    """A tunnel through a name server is one through a policy. The engine's own resolver asks from where the sandbox is, never from the host."""
    server = beyond.there("python3", "-u", "-c", RESOLVER, stdout=subprocess.PIPE)
    try:
        assert server.stdout.readline() == "ready\n"

        def asks(sandbox, name: str) -> None:
            send = f"import socket; socket.socket(2, 2).sendto(bytes(12) + b'{name}', ('{beyond.OTHER}', 53))"
            sandbox.process.exec(f'python3 -c "{send}"')

        closed = make_sandbox(network_block_all=True)
        asks(closed, "closed")
        asks(make_sandbox(network_allow_list=f"{OUTSIDE}/32"), "listed")
        free = make_sandbox()
        asks(free, "free")
        # What the open one asks arrives after everything before it, and alone.
        assert "free" in server.stdout.readline()
    finally:
        server.kill()
        server.wait(10)
    for name_server in inspect(closed.id)["HostConfig"]["Dns"] or []:
        assert not name_server.startswith("127."), "the engine asks servers of the loopback for the sandbox, past its policy"


def test_other_bridges_and_published_ports_are_out_of_reach(sandbox):
    """Pain F42: the engine's published ports are redirected before the host's own rules see them, and lead to a bridge of any name."""
    serve = ["python3", "-m", "http.server", "8000"]
    docker("network", "create", "-o", "com.docker.network.bridge.name=pfe2eother", "pf-e2e-other")
    try:
        docker("run", "-d", "--rm", "--name", "pf-e2e-other", "--network", "pf-e2e-other", "-p", "0:8000", "--entrypoint", "", "pinfold/sandbox:latest", *serve)
        docker("run", "-d", "--rm", "--name", "pf-e2e-docker0", "--entrypoint", "", "pinfold/sandbox:latest", *serve)
        published = int(docker("port", "pf-e2e-other", "8000/tcp").splitlines()[0].rsplit(":", 1)[1])
        own = subprocess.run(["hostname", "-I"], check=True, capture_output=True, text=True).stdout.split()[0]
        places = [(address("pf-e2e-other"), 8000), (address("pf-e2e-docker0"), 8000), (own, published)]
        for host, port in places:
            probe = ["python3", "-c", f"import socket; socket.create_connection(('{host}', {port}), 1)"]
            eventually(lambda p=probe: subprocess.run(p, check=False, capture_output=True).returncode == 0, f"{host}:{port} to answer the host")
        assert reachable(sandbox, places) == []
    finally:
        docker("rm", "-f", "-v", "pf-e2e-other", "pf-e2e-docker0", check=False)
        docker("network", "rm", "pf-e2e-other", check=False)
