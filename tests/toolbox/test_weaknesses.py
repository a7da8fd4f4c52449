"""Weaknesses of the original that no other test of this tier covers (toolbox contract 26: E1, S3, S12, S13, R2, R4, G11, H5, I11)."""

from __future__ import annotations

import concurrent.futures
import json
import socket
import time

import httpx
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from conftest import BUSYBOX
from support import eventually


def test_weakness_e1_s3_a_command_is_one_process(make_daemon, name):
    """No helper chooses a shell, copies output or writes a status: the numbers of processes follow one another. Threads of the daemon take numbers, too."""
    daemon, rounds, slack = make_daemon(BUSYBOX), 30, 12
    session = daemon.session(name)
    for run in (lambda: daemon.execute("echo $$")["result"], lambda: session.run("sh -c 'echo $$'")["stdout"]):
        run()
        numbers = [int(run()) for _ in range(rounds)]
        assert numbers[-1] - numbers[0] <= rounds - 1 + slack, numbers


def test_weakness_s12_a_delete_goes_on_without_its_client(daemon, name):
    """And of two at once one is the delete."""
    stubborn = "trap '' TERM HUP; echo begun; sleep 1212 & wait; sleep 1212"
    session = daemon.session(name)
    command = session.start(stubborn)
    eventually(lambda: "begun" in session.logs(command)["stdout"], "the command to begin")
    with pytest.raises(httpx.ReadTimeout):
        daemon.delete(session.path, timeout=0.2)
    # The name is free at once.
    again = daemon.session(name)
    command = again.start(stubborn)
    eventually(lambda: "begun" in again.logs(command)["stdout"], "the command to begin")
    began = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        answers = sorted(answer.status_code for answer in pool.map(lambda _: daemon.delete(again.path), range(4)))
    assert answers == [204, 404, 404, 404] and time.monotonic() - began < 8
    eventually(lambda: daemon.execute("pgrep -x -f 'sleep 1212'")["exitCode"] == 1, "both sessions' processes to end")


def test_weakness_s12_a_session_that_ends_at_once_is_deleted_at_once(daemon, name):
    session = daemon.session(name)
    began = time.monotonic()
    session.delete()
    assert time.monotonic() - began < 0.1, "the original waits for its next look"


def test_weakness_s13_one_of_many_makes_the_session(daemon, name):
    shells = len(daemon.processes())
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        made = list(pool.map(lambda _: daemon.post("/process/session", {"sessionId": name}).status_code, range(16)))
    assert sorted(made) == [201] + [409] * 15
    eventually(lambda: len(daemon.processes()) == shells + 1, "one shell to be left")
    assert daemon.delete(f"/process/session/{name}").status_code == 204


def test_weakness_r2_looking_at_ports_leaves_no_socket(daemon):
    def descriptors() -> int:
        return int(daemon.execute("ls /proc/1/fd | wc -l")["result"])

    before = descriptors()
    for port in range(5000, 5050):
        assert daemon.get(f"/port/{port}/in-use").json() == {"isInUse": False}
    assert descriptors() <= before + 3


def test_weakness_r4_a_loop_of_previews_ends(daemon):
    """The daemon's own ports are reached through the proxy, but not for ever."""
    assert daemon.get("/proxy/2280/version").status_code == 200
    answer = daemon.get("/proxy/2280" * 40 + "/version")
    assert answer.status_code == 508, answer.text


def test_weakness_g11_reasons_fit_into_a_close_frame(daemon):
    """One that does not is no close frame at all: clients see 1006."""
    with connect(f"ws://{daemon.address}:2280/process/pty/{'%C3%A9' * 200}/connect") as ws:
        assert json.loads(ws.recv())["status"] == "error"
        with pytest.raises(ConnectionClosed):
            ws.recv(10)
    assert ws.close_code == 1011 and 0 < len(ws.close_reason.encode()) <= 123


def test_weakness_i11_closing_with_4000_interrupts(daemon):
    """The state stays, and what comes next does not wait."""

    def execute(code: str, until: str) -> list[str]:
        """Texts of standard output, up to the one after which it is closed."""
        with connect(f"ws://{daemon.address}:2280/process/interpreter/execute") as ws:
            ws.send(json.dumps({"code": code}))
            texts = []
            for message in map(json.loads, ws):
                if message["type"] == "stdout":
                    texts.append(message["text"])
                    if until in message["text"]:
                        ws.close(4000)
                        break
            return texts

    began = time.monotonic()
    assert execute("i11 = 5\nprint('on', flush=True)\nimport time\ntime.sleep(60)", "on")
    assert "".join(execute("print(i11)", "nothing")) == "5\n" and time.monotonic() - began < 15


def test_weakness_h5_ssh_serves_so_many_and_no_more(daemon):
    """The 513th connection is closed before a byte; the others are served, and places are given back."""
    strangers = [socket.create_connection((daemon.address, 22220), 10) for _ in range(512)]
    try:
        assert all(stranger.recv(4) == b"SSH-" for stranger in strangers)
        with socket.create_connection((daemon.address, 22220), 10) as late:
            assert late.recv(4) == b""
    finally:
        for stranger in strangers:
            stranger.close()

    def served() -> bool:
        with socket.create_connection((daemon.address, 22220), 10) as next_one:
            return next_one.recv(4) == b"SSH-"

    eventually(served, "the places to be free again")
