#!/usr/bin/env python3
"""Starts the daemon again and again and prints JSON: milliseconds to ready, those of them in which its first thread waited for a processor, milliseconds
to the exit of a bare static process, MiB at rest.

Runs in a network namespace of its own (`unshare --net`), so that the daemon's fixed ports are free and nobody else is reached.
"""

from __future__ import annotations

import http.client
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def ready(deadline: float) -> None:
    """Asks until JSON comes, with pauses that leave the processor to the one who is asked."""
    while time.perf_counter() < deadline:
        connection = http.client.HTTPConnection("127.0.0.1", 2280, timeout=1)
        try:
            connection.request("GET", "/version")
            json.loads(connection.getresponse().read())
            return
        except (OSError, ValueError, http.client.HTTPException):
            time.sleep(0.0005)
        finally:
            connection.close()
    raise SystemExit("the daemon was not ready within 10 s")


def waited(pid: int) -> float:
    """Milliseconds for which a process's first thread was ready to run and did not (proc(5), schedstat); what it does to be ready, it does there."""
    return int(Path(f"/proc/{pid}/task/{pid}/schedstat").read_text().split()[1]) / 1e6


def main() -> None:
    binary, count = sys.argv[1], int(sys.argv[2])
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    home = tempfile.mkdtemp(prefix="pinfold-bench-")
    environment = {"HOME": home, "PATH": os.environ["PATH"], "DAYTONA_SANDBOX_ID": "bench", "DAYTONA_DAEMON_LOG_FILE_PATH": f"{home}/log"}
    busybox = shutil.which("busybox") or "/bin/true"
    result: dict[str, list[float]] = {"ready": [], "waited": [], "spawn": [], "resident": []}
    try:
        for _ in range(count):
            began = time.perf_counter()
            subprocess.run([busybox, "true"], check=True)
            result["spawn"].append((time.perf_counter() - began) * 1000)
            began = time.perf_counter()
            process = subprocess.Popen([binary], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=home)
            try:
                ready(began + 10)
                result["ready"].append((time.perf_counter() - began) * 1000)
                result["waited"].append(waited(process.pid))
                if len(result["resident"]) < 3:
                    time.sleep(1)  # at rest
                    status = Path(f"/proc/{process.pid}/status").read_text()
                    result["resident"].append(int(status.split("VmRSS:")[1].split()[0]) / 1024)
            finally:
                process.terminate()
                process.wait(20)
    finally:
        shutil.rmtree(home, ignore_errors=True)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
