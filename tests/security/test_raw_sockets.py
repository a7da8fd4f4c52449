"""What holds where an operator granted raw sockets, and where a container was made anew: a real runner on settings of its own."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import outside as beyond
import pytest

from node import Node, in_place_of
from support import address, docker

IMAGE = "pinfold/sandbox:latest"
EVERYTHING = {"osUser": "daytona", "snapshot": IMAGE}
BRIDGE = "pinfold0"

EARS = """
import socket, sys
ears = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
ears.bind(("", int(sys.argv[1])))
print("ready", flush=True)
while True:
    print(ears.recv(2048).decode(), flush=True)
"""


@pytest.fixture(scope="module")
def node(stack, tmp_path_factory) -> Iterator[Node]:
    with in_place_of(stack, PINFOLD_CAPABILITIES="NET_RAW") as node, beyond.outside(tmp_path_factory.mktemp("www")):
        node.engine.disks = True
        node.start()
        yield node
        for sandbox in node.made:
            node.job("DESTROY_SANDBOX", sandbox)
        node.nothing_left()


def ears(port: int, there: bool) -> subprocess.Popen[str]:
    """Somebody who writes down what arrives: out there, or on this host."""
    command = ("python3", "-c", EARS, str(port))
    process = beyond.there(*command, stdout=subprocess.PIPE) if there else subprocess.Popen(command, text=True, stdout=subprocess.PIPE)
    assert process.stdout.readline() == "ready\n"
    return process


def test_raw_frames_of_a_closed_sandbox_go_nowhere(node):
    """Forged hardware addresses, the sources of others, a neighbour's two addresses together, and every kind of packet, by a sandbox that may send any frame. Its open
    neighbour shows that they would arrive."""
    closed, neighbour = node.sandbox(networkBlockAll=True, **EVERYTHING), node.sandbox(**EVERYTHING)
    gate = Path(f"/sys/class/net/{BRIDGE}/address").read_text().strip()
    far, near = ears(9999, True), ears(9998, False)
    script = Path(__file__).with_name("frames.py").read_bytes()

    def sends(sandbox: str, other: str, marker: str) -> int:
        words = [gate, address(other), beyond.OUTSIDE, "172.20.0.1", marker]
        done = subprocess.run(["docker", "exec", "-i", "-u", "0", sandbox, "python3", "-", *words], input=script, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr.decode()
        return json.loads(done.stdout)["sent"]

    try:
        assert sends(closed, neighbour, "closed") > 100
        assert sends(neighbour, closed, "open") > 100
        heard = []
        while "open-own-own-last" not in heard:
            heard.append(far.stdout.readline().strip())
        assert "open-own-own-udp" in heard
        assert [marker for marker in heard if not marker.startswith("open-own-own-")] == [], "the neighbour's own packets alone"
        # The host hears of none of it; what it says to itself arrives after all that.
        subprocess.run(["python3", "-c", "import socket; socket.socket(2, 2).sendto(b'the end', ('127.0.0.1', 9998))"], check=True)
        assert near.stdout.readline() == "the end\n"
        # And nobody took it for the gateway or the neighbour.
        assert node.run(neighbour, f"ip neigh show 172.20.0.1 | grep -c {gate}").strip() == "1"
        assert node.run(neighbour, "echo up") == "up\n"
    finally:
        for process in (far, near):
            process.kill()
            process.wait(10)


def test_a_container_made_anew_is_closed_from_its_first_packet(node):
    """After a recovery, after a resize of the disk, and when somebody else starts it then. The open one shows that the attempt would have succeeded.
    Pain D32: what is sparse stays so, or the copy would fill the quota that it was made for."""
    eager = EVERYTHING | {"entrypoint": ["python3", "-c", beyond.ATTEMPT]}
    free, closed = node.sandbox(**eager), node.sandbox(networkBlockAll=True, **eager)
    assert (beyond.outcome(free, 1), beyond.outcome(closed, 1)) == ("True", "False"), "create"
    node.run(closed, "truncate -s 1G /tmp/sparse; echo end >> /tmp/sparse")
    made, rules = docker("inspect", "-f", "{{.Id}}", closed), node.rules(closed)
    for sandbox in (free, closed):
        node.job("RECOVER_SANDBOX", sandbox, {"errorReason": "write: no space left on device", "storageQuota": 3})
        node.job("START_SANDBOX", sandbox, {"authToken": "t"})
    assert docker("inspect", "-f", "{{.Id}}", closed) != made, "it is another container"
    assert (beyond.outcome(free, 2), beyond.outcome(closed, 2)) == ("True", "False"), "recovery"
    assert node.run(closed, "stat -c %s /tmp/sparse; tail -c 4 /tmp/sparse") == f"{(1 << 30) + 4}\nend\n"
    assert int(node.run(closed, "du -k /tmp/sparse | cut -f1")) < 1024, "the hole was filled"
    node.job("STOP_SANDBOX", closed, {})
    node.job("RESIZE_SANDBOX", closed, {"disk": 5})
    docker("start", closed)
    assert beyond.outcome(closed, 3) == "False", "resize"
    assert node.rules(closed) == rules
