"""Weaknesses of the original that no other test covers (toolbox contract 26: G3, G4, G5, G11, E1, E11, E12, E14, S3, S12, S13, P7, I8, I9, I11, L1, L2, R1 to R4, H5)."""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
import re
import socket
import time

import paramiko
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from conftest import BUSYBOX, SANDBOX, Daemon, run
from sockets import TEXT, Raw, frame
from support import docker, eventually, inspect


def test_weakness_e1_s3_a_command_is_one_process(make_daemon, name):
    """No helper chooses a shell, copies output or writes a status: the numbers of processes follow one another. Threads of the daemon take numbers, too."""
    daemon, rounds, slack = make_daemon(BUSYBOX), 30, 12
    session = daemon.session(name)
    for own in (lambda: daemon.execute("echo $$")["result"], lambda: session.run("sh -c 'echo $$'")["stdout"]):
        own()
        numbers = [int(own()) for _ in range(rounds)]
        assert numbers[-1] - numbers[0] <= rounds - 1 + slack, numbers


def test_weakness_s12_a_delete_goes_on_without_its_client(make_daemon, name):
    """And of two at once one is the delete."""
    daemon = make_daemon(SANDBOX, environment={"DAYTONA_TERMINATION_GRACE_PERIOD": "1s"})
    stubborn = "trap '' TERM HUP; echo begun; sleep 1212 & wait; sleep 1212"
    session = daemon.session(name)
    command = session.start(stubborn)
    eventually(lambda: "begun" in session.logs(command)["stdout"], "the command to begin")
    with socket.create_connection((daemon.address, 2280), 10) as client:
        client.sendall(f"DELETE {session.path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        # The name is free as soon as the daemon has read that. The answer, which comes after a second, is not waited for.
        eventually(lambda: daemon.get(session.path).status_code == 404, "the delete to arrive")
    again = daemon.session(name)
    command = again.start(stubborn)
    eventually(lambda: "begun" in again.logs(command)["stdout"], "the command to begin")
    began = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        answers = sorted(answer.status_code for answer in pool.map(lambda _: daemon.delete(again.path), range(4)))
    assert answers == [204, 404, 404, 404] and 1 <= time.monotonic() - began < 30
    eventually(lambda: daemon.execute("pgrep -x -f 'sleep 1212'")["exitCode"] == 1, "both sessions' processes to end")


def test_weakness_s12_a_session_that_ends_at_once_is_deleted_at_once(daemon, name):
    took = []
    # The original waits 100 ms for its first look; how long the quickest of some takes is not the machine's affair.
    while len(took) < 20 and min(took, default=1) >= 0.1:
        session = daemon.session(f"{name}-{len(took)}")
        began = time.monotonic()
        session.delete()
        took.append(time.monotonic() - began)
    assert min(took) < 0.1, f"the original waits for its next look: {took}"


def test_weakness_s13_one_of_many_makes_the_session(daemon, name):
    before = {process["pid"] for process in daemon.processes()}
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        made = list(pool.map(lambda _: daemon.post("/process/session", {"sessionId": name}).status_code, range(16)))
    assert sorted(made) == [201] + [409] * 15
    eventually(lambda: len({process["pid"] for process in daemon.processes()} - before) == 1, "one shell to be left")
    assert daemon.delete(f"/process/session/{name}").status_code == 204


def test_weakness_r2_looking_at_ports_leaves_no_socket(daemon):
    def descriptors() -> int:
        return int(daemon.execute("ls /proc/1/fd | wc -l")["result"])

    before = descriptors()
    for port in range(5000, 5050):
        assert daemon.get(f"/port/{port}/in-use").json() == {"isInUse": False}
    # The command that counted first may still have its pipes.
    eventually(lambda: descriptors() <= before + 3, "no more descriptors than before")


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
    assert "".join(execute("print(i11)", "nothing")) == "5\n" and time.monotonic() - began < 45


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


def test_weakness_g3_strangers_are_kept_out(binary):
    """With `PINFOLD_DAEMON_PEERS` nobody else is served, on any port; the sandbox itself is."""
    container = run(binary, BUSYBOX, environment={"PINFOLD_DAEMON_PEERS": "203.0.113.7"})
    try:
        daemon = Daemon(container)
        inside = ["exec", container, "wget", "-qO-", "http://127.0.0.1:2280/version"]
        eventually(lambda: "version" in docker(*inside, check=False), "the daemon to answer the sandbox itself")
        refused = daemon.get("/version")
        assert (refused.status_code, refused.json()["code"]) == (403, "FORBIDDEN"), refused.text
        with socket.create_connection((daemon.address, 22220), 10) as stranger:
            assert stranger.recv(4) == b""
    finally:
        docker("rm", "-f", container)


def test_weakness_g3_terminal_and_dashboard_are_on_the_loopback(daemon):
    """The network has no way to them but through the toolbox's port, where the others are judged."""
    for port in (22222, 33333):
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((daemon.address, port), 10)
        assert daemon.get(f"/proxy/{port}/").status_code == 200


def test_weakness_g4_a_foreign_page_opens_no_socket(daemon, name):
    """Neither by its own origin nor as one that an attacker's name makes ours, until the platform's proxy brings it."""
    daemon.session(name)
    path = f"ws://{daemon.address}:2280/process/pty/create-connect?id={name}"
    with pytest.raises(InvalidStatus) as refused, connect(path, origin="http://evil.example"):
        pass
    assert refused.value.response.status_code == 403
    with connect(path, origin="http://app.example", additional_headers={"X-Forwarded-Host": "app.example"}) as ws:
        assert json.loads(ws.recv())["status"] == "connected"
    daemon.delete(f"/process/pty/{name}")
    daemon.delete(f"/process/session/{name}")


def test_weakness_g5_requests_are_not_logged(daemon, name):
    """Neither what succeeds nor what is refused; what fails inside is."""
    before = len(daemon.log().splitlines())
    for _ in range(100):
        assert daemon.get("/version").status_code == 200
        assert daemon.get("/files/info", params={"path": f"/tmp/{name}"}).status_code == 404
        assert daemon.get("/no-such-route").status_code == 404
    # Something may be told of what earlier tests have left; a kind of request that is logged would add a hundred lines.
    assert len(daemon.log().splitlines()) < before + 100


def test_weakness_e14_i8_nothing_lies_where_others_could_wait_for_it(make_daemon, name):
    """Scripts, programs, workers and sessions leave no file in a shared directory, not even while they run."""
    daemon = make_daemon(SANDBOX)
    places = "/tmp /var/tmp /dev/shm /run/lock"
    look = f"find {places} -mindepth 1 ! -path '/tmp/daytona-daemon.log' 2>/dev/null | sort"
    before = daemon.execute(look)["result"]
    session = daemon.session(name)
    command = session.start("echo begun; cat")
    eventually(lambda: "begun" in session.logs(command)["stdout"], "the command to begin")
    # Too long for an argument, in both: the script that looks, and the program.
    assert daemon.execute(f"{look}\n: {'x' * 200_000}")["result"] == before
    for language in ("python", "javascript"):
        code = {
            "python": "import os; print(os.popen(os.environ['LOOK']).read(), end='')",
            "javascript": "process.stdout.write(require('child_process').execSync(process.env.LOOK))",
        }
        answer = daemon.post("/process/code-run", {"code": code[language] + "\n" * 150_000, "language": language, "envs": {"LOOK": look}}).json()
        assert (answer["exitCode"], answer["result"]) == (0, before), answer
    with connect(f"ws://{daemon.address}:2280/process/interpreter/execute") as ws:
        ws.send(json.dumps({"code": f"import os\nprint(os.popen({look!r}).read(), end='')"}))
        assert "".join(m["text"] for m in map(json.loads, ws) if m["type"] == "stdout") == before


CHARTS = """
import datetime as dt, matplotlib.pyplot as plt
plt.plot([1, 2, 3], [1, float('nan'), 9], label='gap'); plt.title('NaN'); plt.show()
plt.plot([dt.datetime(2026, 1, day) for day in (1, 2, 3)], [1, 2, 3]); plt.title('dates'); plt.show()
plt.bar([0, 1], [7, 7]); plt.xticks([0, 1], ['u', 'v']); plt.title('equal bars'); plt.show()
figure, axes = plt.subplots(1, 2); figure.suptitle('both'); axes[0].plot([1, 2], [3, 4]); axes[1].bar(['a'], [1]); plt.show()
print('no newline', end='')
"""


def test_weakness_e11_e12_charts_that_the_original_drops(daemon):
    """NaN, dates, bars and subplots come back, and none of it in the output."""
    answer = daemon.post("/process/code-run", {"code": CHARTS, "language": "python"}, timeout=100).json()
    assert (answer["exitCode"], answer["result"]) == (0, "no newline"), answer
    gap, dates, bars, both = answer["artifacts"]["charts"]
    assert (gap["type"], gap["elements"][0]["points"]) == ("line", [[1.0, 1.0], [3.0, 9.0]])
    assert (dates["x_scale"], len(dates["elements"][0]["points"])) == ("datetime", 3)
    assert dates["x_tick_labels"][0].startswith("2026-01-0")
    assert (bars["type"], [(bar["label"], bar["value"]) for bar in bars["elements"]]) == ("bar", [("u", "7"), ("v", "7")])
    assert (both["type"], [chart["type"] for chart in both["elements"]]) == ("composite_chart", ["line", "bar"])


def test_weakness_l1_l2_language_servers_are_one_each_and_come_back(daemon, name):
    """The real one for Python: started once whoever asks, alone, killed and started anew with its documents; line 0 is a line, and files may change behind its back."""
    base = f"/tmp/{name}"
    server = {"languageId": "python", "pathToProject": base}
    document = server | {"uri": f"file://{base}/a.py"}

    def all_servers() -> list[int]:
        return [int(pid) for pid in daemon.execute("pgrep -f '[p]ylsp|[t]ypescript-language-server'")["result"].split()]

    # Of other projects.
    others = all_servers()

    def servers() -> list[int]:
        return [pid for pid in all_servers() if pid not in others]

    def symbols() -> list[str]:
        answer = daemon.get("/lsp/document-symbols", params=document)
        assert answer.status_code == 200, answer.text
        return [symbol["name"] for symbol in answer.json()]

    assert daemon.post("/files/upload-v2", params={"path": f"{base}/a.py"}, content=b"import os\nclass First: pass\n").status_code == 200
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        started = list(pool.map(lambda _: daemon.post("/lsp/start", server), range(4)))
    assert {answer.status_code for answer in started} == {200}, [answer.text for answer in started]
    assert len(servers()) == 1
    assert daemon.post("/lsp/did-open", document).status_code == 200
    assert "First" in symbols()
    daemon.execute(f"sed -i s/First/Second/ {base}/a.py")
    assert "Second" in symbols()
    (old,) = servers()
    daemon.execute(f"kill -9 {old}")
    # A question that meets it as it dies is told so; the next one starts it.
    eventually(lambda: daemon.get("/lsp/document-symbols", params=document).status_code == 200, "another server")
    assert "Second" in symbols()
    (new,) = servers()
    assert new != old
    completed = daemon.post("/lsp/completions", document | {"position": {"line": 0, "character": 8}})
    assert completed.status_code == 200 and any(item["label"] == "os" for item in completed.json()["items"]), completed.text
    assert daemon.post("/lsp/stop", server).status_code == 200
    assert servers() == []


def test_weakness_p7_attaching_and_killing_at_once(daemon, name):
    """A terminal that waits for its first client is attached to and deleted at the same time: every socket ends, and nobody stays."""
    shells = {p["pid"] for p in daemon.processes()}
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        for number in range(25):
            terminal = f"{name}-{number}"
            assert daemon.post("/process/pty", {"id": terminal, "lazyStart": True}).status_code == 201
            attached = pool.submit(lambda path=f"/process/pty/{terminal}/connect": Raw(daemon.address, path).end())
            deleted = pool.submit(daemon.delete, f"/process/pty/{terminal}")
            assert deleted.result(20).status_code == 200
            assert attached.result(20).code == 1011
    assert not [s for s in daemon.get("/process/pty").json()["sessions"] if s["id"].startswith(name)]
    eventually(lambda: {p["pid"] for p in daemon.processes()} <= shells, "the shells to end")


def test_weakness_i9_a_slow_client_loses_nothing_and_costs_nothing(make_daemon):
    """The worker waits for a client that does not read: no frame is dropped, and the daemon holds little of them."""
    daemon, size = make_daemon(SANDBOX), 64 << 20

    def resident() -> int:
        return int(re.search(r"VmRSS:\s+(\d+) kB", daemon.execute("cat /proc/1/status")["result"])[1]) >> 10

    # So that what a first use costs is not counted.
    with connect(f"ws://{daemon.address}:2280/process/interpreter/execute") as ws:
        ws.send(json.dumps({"code": "line = 'x' * 1023"}))
        list(ws)
    raw, before = Raw(daemon.address, "/process/interpreter/execute"), resident()
    raw.send(frame(TEXT, json.dumps({"code": f"for _ in range({size} // 1024): print(line)"}).encode()))
    seen, pause, most = 0, 0, 0
    for message in map(json.loads, (m for m in raw.messages() if isinstance(m, str))):
        seen += len(message["text"]) if message["type"] == "stdout" else 0
        if seen >= pause:
            pause += size // 5
            time.sleep(0.3)
            most = max(most, resident())
    assert seen == size and most - before < 16, f"{seen} of {size} bytes, {most - before} MiB more"


def test_weakness_r3_servers_on_any_address_of_the_sandbox(make_daemon):
    """On all, on either family's loopback, and on the container's own address alone."""
    daemon = make_daemon(SANDBOX, "--sysctl", "net.ipv6.conf.all.disable_ipv6=0")
    server = """python3 -c '
import http.server, socket, sys
class V6(http.server.HTTPServer): address_family = socket.AF_INET6
host = sys.argv[1]
(V6 if ":" in host else http.server.HTTPServer)((host, int(sys.argv[2])), http.server.SimpleHTTPRequestHandler).serve_forever()
'"""
    places = {8101: "127.0.0.1", 8102: "::1", 8103: "0.0.0.0", 8104: daemon.address}
    for port, host in places.items():
        daemon.execute(f"cd /etc; setsid {server} {host} {port} >/dev/null 2>&1 </dev/null &")
    for port, host in places.items():
        # Weakness R1: the listing is of now, in both families.
        eventually(lambda port=port: port in daemon.get("/port").json()["ports"], f"the server on {host}")
        answer = daemon.get(f"/proxy/{port}/hostname")
        assert (answer.status_code, answer.text.strip()) == (200, inspect(daemon.container)["Config"]["Hostname"]), (host, answer.text)


def logged_in(daemon: Daemon) -> paramiko.Transport:
    transport = paramiko.Transport((daemon.address, 22220))
    transport.connect(username="daytona", password="sandbox-ssh")
    return transport


def test_weakness_h5_a_connection_has_so_many_channels_and_listeners(daemon):
    """Those beyond are refused, and the connection goes on; what was given back can be had again."""
    transport = logged_in(daemon)
    try:
        channels = [transport.open_session(timeout=20) for _ in range(512)]
        with pytest.raises(paramiko.ChannelException) as refused:
            transport.open_session(timeout=20)
        # RFC 4254, 5.1: SSH_OPEN_RESOURCE_SHORTAGE.
        assert refused.value.code == 4
        for channel in channels[1:]:
            channel.close()
        channels[0].exec_command("echo here")
        assert channels[0].recv(5) == b"here\n"

        def one_more() -> bool:
            with contextlib.suppress(paramiko.ChannelException):
                transport.open_session(timeout=20).close()
                return True
            return False

        eventually(one_more, "a place for another channel")
        ports = [transport.request_port_forward("127.0.0.1", 0) for _ in range(128)]
        with pytest.raises(paramiko.SSHException, match="denied"):
            transport.request_port_forward("127.0.0.1", 0)
        transport.cancel_port_forward("127.0.0.1", ports[0])
        assert transport.request_port_forward("127.0.0.1", 0) > 0
    finally:
        transport.close()


def test_weakness_h5_so_many_attempts_to_log_in(daemon):
    """Each wrong password is answered, and may be followed by the right one; after the twelfth the connection is over."""
    transport, answered = paramiko.Transport((daemon.address, 22220)), 0
    transport.start_client(timeout=20)
    try:
        for number in range(20):
            with pytest.raises(paramiko.AuthenticationException, match="failed"):
                transport.auth_password("daytona", f"guess-{number}")
            if not transport.is_active():
                break
            answered += 1
    finally:
        transport.close()
    assert answered == 12, f"{answered} attempts were answered"
    forgiven = paramiko.Transport((daemon.address, 22220))
    forgiven.start_client(timeout=20)
    with pytest.raises(paramiko.AuthenticationException, match="failed"):
        forgiven.auth_password("daytona", "guess")
    assert forgiven.auth_password("daytona", "sandbox-ssh") == []
    forgiven.close()
