"""Hosts beyond the sandboxes' bridge: a network namespace behind a veth pair, with addresses for documentation (RFC 5737), where nobody else answers."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from support import eventually

OUTSIDE, OTHER = "198.51.100.10", "198.51.100.20"
NAMESPACE = "pf-e2e-outside"

#: What a sandbox runs to try to get out from the moment it runs. At each start it writes down whether it did.
ATTEMPT = f"""#!/usr/bin/env python3
import pathlib, socket, time
boot = len(list(pathlib.Path("/tmp").glob("tried-*"))) + 1
end = time.monotonic() + 1.5
reached = False
tries = 0
# By time and by number: on a busy machine the time may go by with hardly a try.
while (time.monotonic() < end or tries < 30) and not reached:
    tries += 1
    try:
        socket.create_connection(("{OUTSIDE}", 8080), 0.05).close()
        reached = True
    except OSError:
        pass
pathlib.Path(f"/tmp/tried-{{boot}}").write_text(str(reached))
time.sleep(86400)
"""


def outcome(sandbox: str, start: int) -> str:
    """Whether the attempt of that start got out, asked of the engine: pinfold may be down."""
    reading = ["docker", "exec", sandbox, "cat", f"/tmp/tried-{start}"]
    return eventually(lambda: subprocess.run(reading, check=False, capture_output=True, text=True).stdout, f"the attempt of start {start} to end")


def _ip(*arguments: str, check: bool = True) -> None:
    subprocess.run(["ip", *arguments], check=check, capture_output=True)


def there(*command: str, **keywords: object) -> subprocess.Popen[str]:
    """Starts a program out there."""
    return subprocess.Popen(["ip", "netns", "exec", NAMESPACE, *command], text=True, **keywords)  # type: ignore[call-overload]


@contextmanager
def outside(www: Path) -> Iterator[None]:
    """Two hosts that answer on port 8080."""
    _ip("netns", "delete", NAMESPACE, check=False)
    _ip("netns", "add", NAMESPACE)
    _ip("link", "add", "pf-e2e0", "type", "veth", "peer", "name", "eth0", "netns", NAMESPACE)
    _ip("addr", "add", "198.51.100.1/24", "dev", "pf-e2e0")
    _ip("link", "set", "pf-e2e0", "up")
    for host in (OUTSIDE, OTHER):
        _ip("-n", NAMESPACE, "addr", "add", f"{host}/24", "dev", "eth0")
    _ip("-n", NAMESPACE, "link", "set", "eth0", "up")
    _ip("-n", NAMESPACE, "link", "set", "lo", "up")
    _ip("-n", NAMESPACE, "route", "add", "default", "via", "198.51.100.1")
    server = there("python3", "-m", "http.server", "8080", cwd=www, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    probe = ["python3", "-c", f"import socket; socket.create_connection(('{OUTSIDE}', 8080), 1)"]
    eventually(lambda: subprocess.run(probe, check=False, capture_output=True).returncode == 0, "the outside to answer")
    yield
    server.terminate()
    server.wait(10)
    # A namespace goes in its own time, and its link with it: this goes at once, for who makes it anew.
    _ip("link", "delete", "pf-e2e0")
    _ip("netns", "delete", NAMESPACE)
