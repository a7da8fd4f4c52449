"""The engine's own API over its socket, as bare as it gets: the floor of what a runner can reach."""

from __future__ import annotations

import http.client
import json
import os
import socket
from typing import Any


class Connection(http.client.HTTPConnection):
    """HTTP over the engine's socket. It stays open between calls."""

    def __init__(self) -> None:
        super().__init__("engine", timeout=60)
        self.path = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock").removeprefix("unix://")

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


class Engine:
    """The few calls that the floors need."""

    def __init__(self) -> None:
        self.connection = Connection()

    def call(self, method: str, path: str, body: object | None = None) -> Any:
        """One call; the answer's JSON, or None. Raises RuntimeError with the engine's words."""
        data = None if body is None else json.dumps(body)
        self.connection.request(method, f"/v1.41{path}", data, {"Content-Type": "application/json"} if data else {})
        answer = self.connection.getresponse()
        text = answer.read()
        if answer.status >= 400:
            raise RuntimeError(f"{method} {path}: {answer.status} {text.decode(errors='replace')}")
        return json.loads(text) if text and "json" in (answer.headers.get("Content-Type") or "") else None

    def like(self, sandbox_id: str) -> dict[str, Any]:
        """What creates a container equal to a sandbox's: same image, command, limits, binds, rights and network, but for its addresses."""
        found = self.call("GET", f"/containers/{sandbox_id}/json")
        keep = ("Image", "Entrypoint", "Cmd", "Env", "WorkingDir", "User", "Labels")
        body = {key: found["Config"].get(key) for key in keep}
        body["Labels"] = {"dev.pinfold.bench": "floor"}
        body["HostConfig"] = found["HostConfig"] | {"CgroupParent": ""}
        return body

    def create_and_start(self, body: dict[str, Any]) -> str:
        """The two calls that every container costs."""
        made = self.call("POST", "/containers/create", body)["Id"]
        self.call("POST", f"/containers/{made}/start")
        return made

    def remove(self, container: str) -> None:
        """Kills and removes it."""
        self.call("DELETE", f"/containers/{container}?force=1&v=1")

    def execute(self, container: str, command: list[str]) -> int:
        """`docker exec` with output and exit status: create, start, read to the end, inspect."""
        made = self.call("POST", f"/containers/{container}/exec", {"Cmd": command, "AttachStdout": True, "AttachStderr": True})["Id"]
        # The start call's answer is a raw stream that ends with its connection, so it needs one of its own.
        stream = Connection()
        stream.request("POST", f"/v1.41/exec/{made}/start", json.dumps({"Detach": False, "Tty": False}), {"Content-Type": "application/json"})
        stream.getresponse().read()
        stream.close()
        return self.call("GET", f"/exec/{made}/json")["ExitCode"]
