"""What a hostile sandbox must not reach: the host, its neighbours, the runner's secrets, more rights than it was given."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from support import address, connects, inspect, reachable


@pytest.fixture(scope="module")
def neighbour(daytona):
    other = daytona.create()
    yield other
    daytona.delete(other)


def test_nothing_is_privileged(sandbox):
    host = inspect(sandbox.id)["HostConfig"]
    assert not host["Privileged"]
    assert not host["PidMode"]
    assert host["NetworkMode"] != "host"
    assert host["PidsLimit"] > 0
    capabilities = int(re.search(r"CapBnd:\s*(\w+)", sandbox.process.exec("cat /proc/1/status").result).group(1), 16)
    for name, bit in {"SYS_ADMIN": 21, "SYS_MODULE": 16, "SYS_PTRACE": 19, "NET_ADMIN": 12, "NET_RAW": 13, "SYS_TIME": 25}.items():
        assert not capabilities >> bit & 1, f"CAP_{name} is in the bounding set"
    assert "Seccomp:\t2" in sandbox.process.exec("cat /proc/1/status").result


def test_root_inside_is_denied_every_way_out(sandbox, neighbour):
    """Raw sockets, addresses of others, namespaces, mounts, devices, cgroups, what the kernel shows and takes, keys, and the calls behind escapes."""
    sandbox.fs.upload_file(Path(__file__).with_name("attempts.py").read_bytes(), "/tmp/attempts.py")
    answer = sandbox.process.exec(f"sudo python3 /tmp/attempts.py 198.51.100.10 {address(neighbour.id)}", timeout=60)
    outcome = json.loads(answer.result)
    assert outcome["tried"] > 60
    assert outcome["open"] == []


def test_sysctls_of_the_network_stay(sandbox):
    assert sandbox.process.exec("cat /proc/sys/net/ipv6/conf/eth0/disable_ipv6 2>/dev/null || echo 1").result.strip() == "1", "no IPv6 in a sandbox"


def test_ipv6_is_no_way_to_the_host(sandbox):
    """A listener on every address of the host, link-local ones on the sandboxes' bridge included."""
    import socket

    links = json.loads(subprocess.run(["ip", "-j", "-6", "addr"], check=True, capture_output=True, text=True).stdout)
    own = {a["local"] for link in links for a in link["addr_info"]} - {"::1"}
    with socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True) as listener:
        port = listener.getsockname()[1]
        socket.create_connection(("::1", port), 2).close()
        places = [(f"{host}%eth0" if host.startswith("fe80") else host, port) for host in own | {"::ffff:172.20.0.1"}]
        assert reachable(sandbox, places) == []


def test_the_daemon_is_mounted_read_only(sandbox):
    assert sandbox.process.exec("sudo sh -c 'echo x > /usr/local/bin/daytona'").exit_code != 0


def test_no_secret_of_ours_is_inside(stack, sandbox):
    places = "env; cat /proc/*/environ 2>/dev/null | tr '\\0' '\\n'; cat /proc/*/cmdline 2>/dev/null | tr '\\0' ' '; cat /proc/mounts"
    seen = sandbox.process.exec(f'sudo sh -c "{places}"').result
    assert stack.key not in seen
    configured = json.dumps(inspect(sandbox.id)["Config"])
    assert stack.key not in configured
    assert "RUNNER_TOKEN" not in configured
    assert "API_TOKEN" not in configured


def test_a_neighbours_toolbox_is_out_of_reach(sandbox, neighbour):
    places = [(address(neighbour.id), port) for port in (2280, 22220, 22222, 33333)]
    assert reachable(sandbox, [*places, ("127.0.0.1", 2280)]) == [("127.0.0.1", 2280)], "the sandbox's own toolbox alone"


def test_the_hosts_services_are_out_of_reach(stack, sandbox):
    """Every port of pinfold's (the API, the runner's API, the SSH gateways, the resolver) and usual ones, on every address that this host has."""
    listed = subprocess.run(["ss", "-Hltnp"], check=True, capture_output=True, text=True).stdout.splitlines()
    ports = {int(line.split()[3].rsplit(":", 1)[1]) for line in listed if f"pid={stack.process.pid}," in line}
    assert {stack.port, stack.ssh_port} < ports, "the runner's API and gateway are among them"
    assert len(ports) >= 4
    hosts = subprocess.run(["hostname", "-I"], check=True, capture_output=True, text=True).stdout.split()
    gateway = sandbox.process.exec("ip route | awk '/^default/ { print $3 }'").result.strip()
    assert gateway in hosts
    own = ("127.0.0.1", 2280)
    assert reachable(sandbox, [own, *((host, port) for host in hosts for port in ports | {22, 2375})]) == [own]


def test_every_listener_of_the_host_is_out_of_reach(sandbox):
    """A listener on all addresses, as a careless service has, is the real question; so we are one."""
    import socket

    with socket.create_server(("0.0.0.0", 0)) as listener:
        port = listener.getsockname()[1]
        gateway = sandbox.process.exec("ip route | awk '/^default/ { print $3 }'").result.strip()
        socket.create_connection(("127.0.0.1", port), 2).close()
        assert not connects(sandbox, gateway, port)


def test_link_local_metadata_is_out_of_reach(sandbox):
    assert not connects(sandbox, "169.254.169.254", 80)


def test_a_sandbox_cannot_take_another_address(sandbox, neighbour):
    answer = sandbox.process.exec(f"sudo ip addr add {address(neighbour.id)}/16 dev eth0")
    assert answer.exit_code != 0
