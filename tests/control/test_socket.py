"""The event socket, frame by frame: Socket.IO 4 over a WebSocket (control-plane contract 12)."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from control_harness import PATIENCE, Api, Process, fetch


@contextlib.contextmanager
def opened(control: Process, path: str = "/api/socket.io/") -> Iterator[ClientConnection]:
    """A connection that has been greeted and has not said who it is."""
    # As the newest Python SDK asks.
    query = "EIO=4&transport=websocket&source=sdk-python&sdkVersion=0.226.1&t=abc"
    with connect(f"ws://127.0.0.1:{control.info['port']}{path}?{query}", max_size=None) as socket:
        frame = str(socket.recv(PATIENCE))
        assert frame[0] == "0"
        hello = json.loads(frame[1:])
        assert hello["sid"] and hello["upgrades"] == [] and (hello["pingInterval"], hello["pingTimeout"]) == (25_000, 20_000)
        yield socket


class Listener:
    """Events as a client hears them."""

    def __init__(self, socket: ClientConnection, key: str) -> None:
        self.socket = socket
        self.socket.send("40" + json.dumps({"token": key}))
        assert json.loads(str(self.socket.recv(PATIENCE)).removeprefix("40"))["sid"]

    def next(self, name: str, of: str) -> dict[str, Any]:
        """The next event of this name about a thing with this id or name; what is about others is passed over."""
        while True:
            frame = str(self.socket.recv(PATIENCE))
            if frame == "2":
                self.socket.send("3")
                continue
            assert frame.startswith("42["), frame
            event, payload = json.loads(frame[2:])
            thing = payload.get(event.split(".")[0], payload)
            if event == name and of in (thing["id"], thing["name"]):
                return dict(payload)


@pytest.fixture
def listener(control: Process) -> Iterator[Listener]:
    with opened(control) as socket:
        yield Listener(socket, control.info["apiKey"])


def test_a_sandboxs_life_is_told_as_it_goes(listener: Listener, api: Api) -> None:
    made = api.post("/sandbox", json={"name": "told"}).json()
    assert listener.next("sandbox.created", "told")["id"] == made["id"]

    def change() -> tuple[str, str, str]:
        told = listener.next("sandbox.state.updated", made["id"])
        assert told["sandbox"]["kvm"] is False, "a client parses the whole"
        return told["oldState"], told["newState"], told["sandbox"]["state"]

    assert change() == ("creating", "started", "started")
    api.post(f"/sandbox/{made['id']}/stop")
    wish = listener.next("sandbox.desired-state.updated", made["id"])
    assert (wish["oldDesiredState"], wish["newDesiredState"]) == ("started", "stopped")
    api("DELETE", f"/sandbox/{made['id']}")
    seen = []
    while not seen or seen[-1][1] != "destroyed":
        seen.append(change())
    assert all(state == new for _, new, state in seen), "the state in the sandbox is the one that clients see"
    assert [old for old, _, _ in seen[1:]] == [new for _, new, _ in seen[:-1]], "no step is left out"


def test_a_stop_is_told_before_the_runner_has_done_it(listener: Listener, api: Api) -> None:
    made = api.post("/sandbox", json={}).json()["id"]
    listener.next("sandbox.state.updated", made)
    api.post(f"/sandbox/{made}/stop")
    states = [listener.next("sandbox.state.updated", made)["newState"] for _ in range(2)]
    assert states == ["stopping", "stopped"]
    api("DELETE", f"/sandbox/{made}")


def test_snapshots_are_told(listener: Listener, api: Api) -> None:
    snapshot = api.post("/snapshots", json={"name": "told", "imageName": "registry.test/told:1"}).json()
    assert listener.next("snapshot.created", snapshot["id"])["name"] == "told"
    while listener.next("snapshot.state.updated", snapshot["id"])["newState"] != "active":
        pass
    api("DELETE", f"/snapshots/{snapshot['id']}")
    listener.next("snapshot.removed", snapshot["id"])


def test_volumes_are_told(listener: Listener, api: Api) -> None:
    volume = api.post("/volumes", json={"name": "told"}).json()
    assert listener.next("volume.created", volume["id"])["state"] == "ready"
    mounts = [{"volumeId": "told", "mountPath": path} for path in ("/a", "/b")]
    made = api.post("/sandbox", json={"volumes": mounts}).json()["id"]
    used = listener.next("volume.last-used-at.updated", volume["id"])
    assert used == api.get(f"/volumes/{volume['id']}").json() and used["lastUsedAt"] >= volume["createdAt"]
    api("DELETE", f"/sandbox/{made}")

    api("DELETE", f"/volumes/{volume['id']}")
    changes = [listener.next("volume.state.updated", volume["id"]) for _ in range(2)]
    assert [(told["oldState"], told["newState"]) for told in changes] == [("ready", "deleting"), ("deleting", "deleted")]
    assert [told["volume"]["state"] for told in changes] == ["deleting", "deleted"]


@pytest.mark.parametrize("who", ["nobody", "a stranger", "a runner"])
def test_only_users_hear(control: Process, who: str) -> None:
    token = {"nobody": {}, "a stranger": {"token": "dtn_no"}, "a runner": {"token": control.info["runnerToken"]}}[who]
    with opened(control) as socket:
        socket.send("40" + json.dumps(token))
        assert json.loads(str(socket.recv(PATIENCE)).removeprefix("44")) == {"message": "Unauthorized"}
        with pytest.raises(ConnectionClosed):
            socket.recv(PATIENCE)


def test_a_client_that_leaves_is_let_go(control: Process) -> None:
    with opened(control, "/api/socket.io") as socket:
        Listener(socket, control.info["apiKey"])

        def heard() -> str:
            """The next frame but for events: what earlier tests have left ends in its own time."""
            while (frame := str(socket.recv(PATIENCE))).startswith("42["):
                pass
            return frame

        socket.send("2")
        assert heard() == "3"
        socket.send("41")
        with pytest.raises(ConnectionClosed):
            heard()


def test_a_key_that_was_deleted_hears_no_more(control: Process, api: Api) -> None:
    key = api.post("/api-keys", json={"name": "hears", "permissions": []}).json()["value"]

    def tell(name: str) -> None:
        volume = api.post("/volumes", json={"name": name}).json()["id"]
        api("DELETE", f"/volumes/{volume}")

    with opened(control) as socket:
        listener = Listener(socket, key)
        tell("before-the-end")
        listener.next("volume.created", "before-the-end")
        assert api("DELETE", "/api-keys/hears").status_code == 204
        tell("after-the-end")
        frames: list[str] = []
        with pytest.raises(ConnectionClosed):
            while True:
                frames.append(str(socket.recv(PATIENCE)))
        assert not [frame for frame in frames if "after-the-end" in frame]


def test_only_websockets_are_spoken(control: Process) -> None:
    answer = fetch("GET", control.info["url"] + "/socket.io/", params={"EIO": "4", "transport": "polling"})
    assert answer.status_code == 400 and "WebSocket" in answer.json()["message"]
