"""What users of such a runner suffer from (`pains`, groups A: processes, sessions, terminals; C: files), one named test each.

Some of them live beside the tests of the same matter; `test_each_pain_has_a_test` finds those too.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import stat
import subprocess
import threading
import time
from pathlib import Path

import httpx
import pytest
from websockets.sync.client import connect

from conftest import BUSYBOX, SANDBOX, SDK_VERSION, Daemon
from sockets import BINARY, Raw, frame
from support import docker, eventually, inspect

PAINS = {
    "a1": "a session command is accepted and never runs",
    "a2": "interactive shells hang",
    "a3": "zombies and lost exit codes",
    "a4": "no pid, no control of what runs in the background",
    "a5": "deleting a session kills what was meant to stay, or leaves what was not",
    "a6": "an exit code before the last output",
    "a7": "characters split between chunks are broken",
    "a8": "timeouts are ignored, or leave children",
    "a9": "large commands and here-documents fail",
    "a10": "processor time while nothing happens",
    "a11": "idle commands are ended, standard input never ends",
    "a12": "sockets break: concurrent writes, pongs behind data",
    "a13": "a terminal cannot be attached again",
    "a14": "the entrypoint ends and nobody says so",
    "a15": "standard output and standard error are one",
    "a16": "a client's timeout kills, or does not kill",
    "c23": "uploads are held in memory, or fail on FUSE",
    "c24": "names beyond ASCII, slashes at the end, dates",
    "c25": "null for an empty list",
    "c26": "modes are lost, special files end a download",
    "c27": "git: memory, forced pushes, statuses",
}


def test_each_pain_has_a_test():
    sources = "\n".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py"))
    tested = set(re.findall(r"def test_pain_([a-z]\d+)_", sources))
    assert set(PAINS) - tested == set()


# A: processes, sessions, terminals.


def test_pain_a1_an_accepted_command_runs_or_is_refused(make_daemon, tmp_path, name):
    """Start-up files that read their input, a missing mkfifo, a shell that dies: nothing is accepted and then forgotten."""
    hungry = tmp_path / "zshenv"
    hungry.write_text("read -t 1 swallowed\ncat >/dev/null\n")
    shells = tmp_path / "shells"
    shells.write_text("/bin/zsh\n")
    daemon = make_daemon(
        SANDBOX, "-v", "/bin/zsh-static:/bin/zsh:ro", "-v", f"{shells}:/etc/shells:ro", "-v", f"{hungry}:/home/daytona/.zshenv:ro",
        environment={"BASH_ENV": "/home/daytona/.zshenv", "ENV": "/home/daytona/.zshenv"},
    )  # fmt: skip
    session = daemon.session(name)
    assert session.run("echo it ran", timeout=15)["stdout"] == "it ran\n"
    # The shell dies behind everybody's back while commands wait.
    running, waiting = session.start("sleep 60"), session.start("echo never")
    shell = int(session.daemon.execute("pgrep -of '^/bin/zsh /proc'")["result"].split()[0])
    daemon.execute(f"kill -9 {shell}")
    assert session.ended(running) == 137
    assert session.ended(waiting) != 0
    assert "ended before" in session.logs(waiting)["stderr"]
    refused = daemon.post(f"{session.path}/exec", {"command": "echo never", "runAsync": True})
    assert (refused.status_code, refused.json()["code"]) == (410, "SESSION_ENDED")


def test_pain_a4_processes_have_numbers_signals_and_a_tree(daemon, name):
    answer = daemon.execute("echo $$")
    assert answer["pid"] == int(answer["result"]) and answer["durationMs"] >= 0
    session = daemon.session(name)
    command = session.start("trap 'echo hit; exit 5' USR1; echo begun; sleep 300 & wait")
    eventually(lambda: "begun" in session.logs(command)["stdout"], "the command to begin")
    offset = session.logs(command)["nextOffset"]
    child = session.start("sh -c 'trap \"echo caught; exit 6\" TERM; echo ready; sleep 300 & wait'")
    assert session.exit_code(child) is None
    # The tree has parents, groups and states.
    sleeping = eventually(lambda: daemon.running("sleep"), "the child in the tree")
    assert all({"pid", "parent", "group", "session", "state", "name"} <= set(p) for p in sleeping)
    answer = daemon.post(f"{session.path}/command/{command}/signal", {"signal": "TERM"})
    assert answer.status_code == 204, answer.text
    assert session.ended(command) is not None
    eventually(lambda: "ready" in session.logs(child)["stdout"], "the next command to begin")
    assert daemon.post(f"{session.path}/command/{child}/signal", {"signal": "TERM"}).status_code == 204
    assert session.ended(child) == 6
    # Attached again from where one was.
    assert daemon.get(f"{session.path}/command/{command}/logs", params={"offset": offset}).json()["nextOffset"] >= offset
    assert "begun" not in daemon.get(f"{session.path}/command/{command}/logs", params={"offset": offset}).json()["stdout"]
    session.delete()


def test_pain_a5_deleting_a_session_does_what_was_asked_for(daemon, name):
    """By default nothing of it is left, whatever it did to get away; what has detached itself stays if that is asked for."""
    left = "setsid sleep 8501 >/dev/null 2>&1 </dev/null & nohup sleep 8502 >/dev/null 2>&1 & sleep 8503 & true"

    def sleeping() -> set[str]:
        # Each as itself: before that it is `setsid` or `nohup`, and not detached yet.
        return set(re.findall(r"\d+ sleep (\d+)", daemon.execute("pgrep -a -x -f 'sleep 850[123]'; true")["result"]))

    session = daemon.session(name)
    session.run(left)
    eventually(lambda: sleeping() == {"8501", "8502", "8503"}, "the three to run")
    session.delete()
    eventually(lambda: sleeping() == set(), "the three to end with their session")
    session = daemon.session(f"{name}-2")
    session.run(left)
    eventually(lambda: sleeping() == {"8501", "8502", "8503"}, "the three to run")
    assert daemon.delete(session.path, params={"keepDetached": "true"}).status_code == 204
    eventually(lambda: sleeping() == {"8501", "8502"}, "what stayed attached to end, and the rest to be kept")
    daemon.execute("pkill -9 -x -f 'sleep 850[12]'")


def test_pain_a6_the_last_byte_comes_before_the_exit_code(daemon, name):
    """Whoever sees the code sees all output: two hundred times, from another connection."""
    session = daemon.session(name)
    for number in range(200):
        size = 1 + number * 331 % 70_000
        command = session.start(f"head -c {size} /dev/zero | tr '\\0' x; exec 3>&-; echo end-{number}")
        while session.exit_code(command) is None:
            pass
        stdout = session.logs(command)["stdout"]
        assert len(stdout) == size + len(f"end-{number}\n") and stdout.endswith(f"end-{number}\n"), number
    session.delete()


def test_pain_a7_characters_split_between_writes_are_whole(daemon, name):
    """Each byte of the text is a write of its own, on both streams in turn."""
    text = "grün 日本語 🦀 e\u0301\n"
    script = f"import os, time\nfor b in {text.encode()!r}:\n for fd in (1, 2):\n  os.write(fd, bytes([b]))\n  time.sleep(0.002)\n"
    assert daemon.post("/files/upload-v2", params={"path": f"/tmp/{name}.py"}, content=script.encode()).status_code == 200
    session = daemon.session(name)
    answer = session.run(f"python3 /tmp/{name}.py")
    assert (answer["stdout"], answer["stderr"]) == (text, text)
    separate = daemon.execute(f"python3 /tmp/{name}.py", separateOutput=True)
    assert (separate["stdout"], separate["stderr"]) == (text, text)
    command = session.start(f"python3 /tmp/{name}.py 2>/dev/null")
    with connect(f"ws://{daemon.address}:2280{session.path}/command/{command}/logs?follow=true", additional_headers={"X-Daytona-SDK-Version": SDK_VERSION}) as ws:
        assert b"".join(ws).replace(b"\1\1\1", b"") == text.encode()
    session.delete()


def test_pain_a8_a_timeout_leaves_nobody(daemon):
    began = time.monotonic()
    script = "echo started; (setsid sleep 8801 &); nohup sleep 8802 & (sleep 8803 & ) ; trap '' TERM INT HUP; sleep 8804"
    answer = daemon.post("/process/execute", {"command": script, "timeout": 2})
    assert (answer.status_code, answer.json()["code"]) == (408, "PROCESS_EXECUTION_TIMEOUT")
    # The SDK waits five seconds more than the timeout.
    assert time.monotonic() - began < 2 + 5
    assert "timeout" in answer.json()["message"].lower() and "started\n" in answer.json()["output"]
    left = "cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' '\\n' | grep -x '880[1234]'; true"
    eventually(lambda: daemon.execute(left)["result"] == "", "all of them to be gone")


def test_pain_a9_large_commands_and_here_documents(daemon, name):
    text = "".join(f"line {n} with 'quotes' $dollars `ticks` and \\slashes\\ ünd\n" for n in range(40_000))
    assert len(text) > 2 << 20
    session = daemon.session(name)
    for run in (lambda c: daemon.execute(c)["result"], lambda c: session.run(c)["stdout"]):
        assert run(f"cat <<'END'\n{text}END\necho after") == text + "after\n"
        assert run("cat <<-A; cat <<B\n\tfirst\n\tA\nsecond $((1+1))\nB\n") == "first\nsecond 2\n"
    assert session.run("echo still here")["stdout"] == "still here\n"
    session.delete()


def _used(container: str) -> dict[str, tuple[int, int]]:
    """Of each thread of the daemon, nanoseconds on a processor and voluntary context switches, from outside."""
    pid, used = inspect(container)["State"]["Pid"], {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            spent = int((task / "schedstat").read_text().split()[0])
            switches = int(re.search(r"^voluntary_ctxt_switches:\s+(\d+)", (task / "status").read_text(), re.M)[1])
            used[task.name] = (spent, switches)
    return used


def _since(before: dict[str, tuple[int, int]], container: str) -> tuple[int, int]:
    """What was used since, by all threads that are still there."""
    now = _used(container)
    differences = [(used[0] - before.get(task, (0, 0))[0], used[1] - before.get(task, (0, 0))[1]) for task, used in now.items()]
    return sum(spent for spent, _ in differences), sum(switches for _, switches in differences)


def test_pain_a10_an_idle_daemon_is_idle(make_daemon, name):
    """With a session, a running command, a follower and a terminal attached: less than 0.1 % of a processor, and less than one wake a second.

    Counted from just after a wake for just less than 15 s: three of the samples taken every 5 s, and once the thread kept every 15 s.
    """
    daemon = make_daemon(SANDBOX, command=("sleep", "infinity"))
    session = daemon.session(name)
    command = session.start("sleep 300")
    follower = Raw(daemon.address, f"{session.path}/command/{command}/logs?follow=true")
    terminal = Raw(daemon.address, f"/process/pty/create-connect?id={name}")
    next(terminal.messages())
    daemon.get("/port")

    def quiet() -> bool:
        before = _used(daemon.container)
        time.sleep(0.5)
        return _since(before, daemon.container)[0] < 1_000_000

    eventually(quiet, "the daemon to come to rest", 30)
    before = _used(daemon.container)
    eventually(lambda: _since(before, daemon.container)[1] > 0, "the daemon to wake by itself", 10)
    time.sleep(0.3)
    before, length = _used(daemon.container), 14.7
    time.sleep(length)
    spent, switches = _since(before, daemon.container)
    share, wakes = spent / (length * 1e9), switches / length
    print(f"{share:.4%} of a processor, {wakes:.1f} wakes a second")
    assert share < 0.001, f"{share:.3%} of a processor while idle"
    assert wakes < 1, f"{wakes:.1f} wakes a second while idle"
    follower.close()
    terminal.close()


def test_pain_a11_standard_input_ends_when_it_should_and_not_before(daemon, name):
    assert daemon.execute("cat; echo over")["result"] == "over\n"
    session = daemon.session(name)
    assert session.run("cat; echo over", timeout=10)["stdout"] == "over\n"
    # What waits for input goes on waiting.
    command = session.start("cat; echo over", suppressInputEcho=True)
    tell = f"{session.path}/command/{command}/input"
    assert daemon.post(tell, {"data": "one"}).status_code == 204
    eventually(lambda: session.logs(command)["stdout"] == "one\n", "the first line")
    time.sleep(2)
    assert session.exit_code(command) is None
    assert daemon.post(tell, {"data": "two", "raw": True}).status_code == 204
    assert daemon.post(tell, {"eof": True}).status_code == 204
    assert session.ended(command) == 0
    assert session.logs(command)["stdout"] == "one\ntwoover\n"
    # The command ends of what is delivered, at once; that is no reason to say that it was not.
    for _ in range(100):
        command = session.start("cat", suppressInputEcho=True)
        tell = f"{session.path}/command/{command}/input"
        for body in ({"data": "more", "raw": True}, {"eof": True}):
            answer = daemon.post(tell, body)
            assert answer.status_code == 204, answer.text
        assert session.ended(command) == 0
    session.delete()


def test_pain_a12_many_write_to_one_socket(daemon, name):
    """Output, pings, resizes and three typing clients at once: every frame stays whole."""
    clients = [Raw(daemon.address, f"/process/pty/create-connect?id={name}&cols=80&rows=24")]
    clients += [Raw(daemon.address, f"/process/pty/{name}/connect") for _ in range(2)]
    streams = [client.messages() for client in clients]
    assert [next(stream) for stream in streams] == ['{"type":"control","status":"connected"}'] * 3

    def pester(client: Raw) -> None:
        for number in range(200):
            client.send(frame(9, str(number).encode()), frame(BINARY, b"echo %d; " % number))

    threads = [threading.Thread(target=pester, args=[client]) for client in clients]
    for thread in threads:
        thread.start()
    for size in range(60, 100):
        assert daemon.post(f"/process/pty/{name}/resize", {"cols": size, "rows": 24}).status_code == 200
    for thread in threads:
        thread.join()
    clients[0].send(frame(BINARY, b"\n"), frame(BINARY, b"exit 4\n"))
    for stream in streams:
        # wsproto refuses torn frames, and text beside the one control message would be one.
        *middle, end = stream
        assert not [m for m in middle if isinstance(m, str)]
        assert (end.code, json.loads(end.reason)["exitCode"]) == (1011, 4)


def test_pain_a13_a_terminal_is_attached_again_beside_a_dead_peer(daemon, name):
    """A peer that is half dead neither blocks the terminal nor the next client, who sees what went before."""
    dead = Raw(daemon.address, f"/process/pty/create-connect?id={name}")
    assert next(dead.messages()) == '{"type":"control","status":"connected"}'
    dead.send(frame(BINARY, b"echo be''fore\n"))
    # It reads nothing any more and says no goodbye, while there is much to read.
    with connect(f"ws://{daemon.address}:2280/process/pty/{name}/connect", max_size=None) as ws:
        assert json.loads(ws.recv())["status"] == "connected"
        dead.send(frame(BINARY, b"yes | head -c 3000000; echo af''ter\n"))
        seen = b""
        while b"y\r\ny\r\n" not in seen:
            seen += ws.recv(30)
        ws.send(b"echo to''uch\n")
        while b"touch" not in seen:
            seen += ws.recv(30)
    assert b"after" in seen
    with connect(f"ws://{daemon.address}:2280/process/pty/{name}/connect?replay=true", max_size=None) as ws:
        first = json.loads(ws.recv())
        assert first["status"] == "connected"
        replayed = b""
        while b"touch" not in replayed:
            replayed += ws.recv(10)
        assert b"after" in replayed and len(replayed) <= 256 << 10
    dead.close()
    assert daemon.delete(f"/process/pty/{name}").status_code == 200


def test_pain_a14_the_end_of_the_entrypoint_is_told(make_daemon):
    daemon = make_daemon(BUSYBOX, command=("sh", "-c", "echo bye; exit 9"))
    eventually(lambda: daemon.get("/process/session/entrypoint").json()["commands"][0].get("exitCode") == 9, "the entrypoint's status")
    eventually(lambda: "entrypoint" in daemon.log() and "9" in daemon.log(), "the log to say so")
    assert daemon.get("/process/session/entrypoint/logs").json()["stdout"] == "bye\n"
    ending = make_daemon(BUSYBOX, environment={"PINFOLD_EXIT_WITH_ENTRYPOINT": "true"}, command=("sh", "-c", "while [ ! -e /tmp/go ]; do sleep 0.1; done"))
    assert ending.get("/process/session/entrypoint").json()["commands"][0].get("exitCode") is None
    docker("exec", ending.container, "touch", "/tmp/go")
    eventually(lambda: not inspect(ending.container)["State"]["Running"], "the container to end with its entrypoint")


def test_pain_a15_streams_are_apart_when_asked_for(daemon):
    command = "echo out; echo err >&2; echo out2"
    assert daemon.execute(command)["result"] == "out\nerr\nout2\n"
    assert {"stdout", "stderr"} & set(daemon.execute(command)) == set()
    apart = daemon.execute(command, separateOutput=True)
    assert (apart["stdout"], apart["stderr"]) == ("out\nout2\n", "err\n")


def test_pain_a16_a_client_that_goes_away_kills_only_if_it_said_so(daemon):
    def leave(number: int, **members: object) -> None:
        with pytest.raises(httpx.ReadTimeout):
            daemon.post("/process/execute", {"command": f"sleep {number}"} | members, timeout=httpx.Timeout(60, read=0.5))

    def runs(number: int) -> bool:
        return daemon.execute(f"pgrep -x -f 'sleep {number}'")["exitCode"] == 0

    leave(8601)
    leave(8602, cancelOnDisconnect=True)
    eventually(lambda: not runs(8602), "the cancelled command to be killed")
    eventually(lambda: runs(8601), "the other to run")
    daemon.execute("pkill -9 -x -f 'sleep 8601'")


# C: files.


def resident(daemon: Daemon) -> int:
    """MiB of memory of the daemon, from outside; its peak since the last reset."""
    pid = inspect(daemon.container)["State"]["Pid"]
    return int(re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[1]) >> 10


def reset_peak(daemon: Daemon) -> int:
    pid = inspect(daemon.container)["State"]["Pid"]
    Path(f"/proc/{pid}/clear_refs").write_text("5")
    return resident(daemon)


def test_pain_c23_uploads_and_downloads_take_no_memory(make_daemon):
    daemon, piece, size = make_daemon(BUSYBOX), bytes(1 << 20), 1 << 30
    before = reset_peak(daemon)

    def body():
        for _ in range(size // len(piece)):
            yield piece

    answer = daemon.http.post("/files/upload-v2", params={"path": "/dev/null-copy"}, content=body(), timeout=100)
    # /dev is a small tmpfs: the error comes, in words, and nothing hangs.
    assert answer.status_code in (400, 500, 507) and re.search("no space", answer.json()["message"]), answer.text
    boundary = "b0undary"
    form = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="files[0].path"\r\n\r\n/tmp/big\r\n'.encode(),
        f'--{boundary}\r\nContent-Disposition: form-data; name="files[0].file"; filename="x"\r\n\r\n'.encode(),
    ]

    def multipart():
        yield from form
        yield from body()
        yield f"\r\n--{boundary}--\r\n".encode()

    answer = daemon.http.post("/files/bulk-upload", content=multipart(), headers={"Content-Type": f"multipart/form-data; boundary={boundary}"}, timeout=100)
    assert answer.json() == {"files": [{"path": "/tmp/big", "bytes": size}]}
    read = 0
    with daemon.http.stream("POST", "/files/bulk-download", json={"paths": ["/tmp/big"]}, timeout=100) as answer:
        for part in answer.iter_raw(1 << 20):
            read += len(part)
    assert read > size
    answer = daemon.post("/files/replace", {"files": ["/tmp/big"], "pattern": "what is not there", "newValue": ""}, timeout=100)
    assert answer.json() == [{"file": "/tmp/big", "success": True}]
    print(f"{resident(daemon) - before} MiB more at the peak for {size >> 20} MiB each way")
    assert resident(daemon) - before < 8, f"{resident(daemon) - before} MiB more at the peak"


def test_pain_c23_uploads_to_fuse(make_daemon, tmp_path, name):
    """A FUSE file system is written in place: it need not know how to rename, and its errors at closing are told."""
    store = make_daemon(SANDBOX)
    mount, key = tmp_path / "mount", tmp_path / "key"
    mount.mkdir()
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    options = f"port=22220,IdentityFile={key},StrictHostKeyChecking=no,UserKnownHostsFile=/dev/null,LogLevel=ERROR"
    subprocess.run(["sshfs", f"daytona@{store.address}:/home/daytona", mount, "-o", options], check=True, timeout=30)
    try:
        daemon = make_daemon(SANDBOX, "--user", "0", "-v", f"{mount}:/fuse", environment={"HOME": "/root"})
        content = os.urandom(3 << 20)
        for version in (content, content[:1000]):
            assert daemon.post("/files/upload-v2", params={"path": "/fuse/new/file"}, content=version).status_code == 200
            assert store.get("/files/download", params={"path": "new/file"}).content == version
        answer = daemon.post("/files/bulk-upload", data={"files[0].path": "/fuse/new/two"}, files={"files[0].file": content})
        assert answer.json() == {"files": [{"path": "/fuse/new/two", "bytes": len(content)}]}
        # Nothing temporary is left beside them.
        assert sorted(f["name"] for f in store.get("/files", params={"path": "new"}).json()) == ["file", "two"]
    finally:
        docker("rm", "-f", daemon.container, check=False)
        subprocess.run(["umount", "-l", mount], check=True)


def test_pain_c24_names_slashes_and_dates(daemon, name):
    names = ["grün.txt", "日本語", "🦀", "e\u0301", "white  space", "quote\"'", "percent%20", "a+b&c=d", "new\nline", "-dash", "back\\slash"]
    base = f"/tmp/{name}"
    for each in names:
        assert daemon.post("/files/upload-v2", params={"path": f"{base}/{each}"}, content=each.encode()).status_code == 200, each
    for path in ("/files", "/files/"):
        listed = daemon.get(path, params={"path": base}).json()
        assert sorted(f["name"] for f in listed) == sorted(names)
    for each in names:
        assert daemon.get("/files/download", params={"path": f"{base}/{each}"}).content == each.encode(), each
        info = daemon.get("/files/info", params={"path": f"{base}/{each}"}).json()
        assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(\.\d{1,9})? [+-]\d{4} \S+", info["modTime"]), info
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]\d\d:\d\d)", info["modifiedAt"]), info
    assert daemon.delete("/files/", params={"path": base, "recursive": "true"}).status_code == 204


def test_pain_c25_an_empty_list_is_a_list(daemon, name):
    base = f"/tmp/{name}"
    assert daemon.post("/files/folder", params={"path": base, "mode": "0755"}).status_code == 201
    assert daemon.get("/files", params={"path": base}).json() == []
    assert daemon.get("/files/find", params={"path": base, "pattern": "x"}).json() == []
    assert daemon.get("/files/search", params={"path": base, "pattern": "none"}).json() == {"files": []}
    assert daemon.post("/files/replace", {"files": [], "pattern": "x", "newValue": "y"}).json() == []
    session = daemon.session(name)
    assert daemon.get(session.path).json()["commands"] == []
    session.delete()
    daemon.post("/git/init", {"path": base})
    assert daemon.get("/git/branches", params={"path": base}).json()["branches"] == []
    assert daemon.get("/git/remotes", params={"path": base}).json() == {"remotes": []}


def test_pain_c26_modes_are_kept_and_special_files_are_told(daemon, name):
    base = f"/tmp/{name}"
    daemon.execute(f"mkdir {base}; cd {base}; echo a > run.sh; chmod 4751 run.sh; mkfifo pipe; ln -s none dangling; mkdir dir; echo b > plain")
    assert daemon.post("/files/upload-v2", params={"path": f"{base}/run.sh"}, content=b"new").status_code == 200
    assert daemon.get("/files/info", params={"path": f"{base}/run.sh"}).json()["permissions"] == "0751"
    listed = {f["name"]: f["mode"][0] for f in daemon.get("/files", params={"path": base}).json()}
    assert listed == {"dangling": "L", "dir": "d", "pipe": "p", "plain": "-", "run.sh": listed["run.sh"]}
    paths = [f"{base}/{each}" for each in ("pipe", "dangling", "dir", "plain")]
    answer = daemon.post("/files/bulk-download", {"paths": paths}, timeout=10)
    parts = answer.content.split(b"--" + answer.headers["content-type"].split("boundary=")[1].encode())
    assert len(parts) == 6 and parts[-1] == b"--\r\n", "four parts and the end"
    assert [b'name="error"' in part for part in parts[1:5]] == [True, True, True, False]
    assert daemon.get("/files/download", params={"path": f"{base}/pipe"}, timeout=10).status_code == 400
    assert daemon.delete("/files", params={"path": f"{base}/dangling"}).status_code == 204
    # The same over SFTP, where modes are the client's to set.
    mode = daemon.execute(f"stat -c %a {base}/run.sh")["result"].strip()
    assert stat.S_IMODE(int(mode, 8)) & 0o777 == 0o751


def test_pain_c27_git_takes_no_memory_of_the_daemon(make_daemon):
    """Clone, commit and push of 24 MB that do not compress run beside the daemon, which does not grow."""
    daemon, base = make_daemon(SANDBOX), "/tmp/git"
    files = "for i in 1 2; do head -c 12000000 /dev/urandom > f$i; done"
    script = f"git init -q -b main {base}/big; git init -q --bare {base}/hub; cd {base}/big; {files}; git add .; git -c user.name=A -c user.email=a@x commit -qm big"
    assert daemon.execute(script, timeout=100)["exitCode"] == 0
    before = reset_peak(daemon)
    answer = daemon.post("/git/clone", {"url": f"{base}/big", "path": f"{base}/clone"}, timeout=100)
    assert answer.status_code == 200, answer.text
    daemon.execute(f"cp {base}/big/f1 {base}/clone/new")
    assert daemon.post("/git/add", {"path": f"{base}/clone", "files": ["."]}).status_code == 200
    assert daemon.post("/git/commit", {"path": f"{base}/clone", "message": "m", "author": "A", "email": "a@x"}).status_code == 200
    assert daemon.post("/git/remotes", {"path": f"{base}/clone", "name": "hub", "url": f"{base}/hub"}).status_code == 201
    answer = daemon.post("/git/push", {"path": f"{base}/clone", "remote": "hub"}, timeout=100)
    assert answer.status_code == 200, answer.text
    grown = resident(daemon) - before
    print(f"{grown} MiB more at the peak")
    assert grown < 8, f"{grown} MiB more at the peak"


def test_pain_c27_git_forces_nothing_and_says_what_was_wrong(daemon, name):
    base = f"/tmp/{name}"
    bare = f"{base}/bare"
    daemon.post("/git/init", {"path": bare, "bare": True, "initial_branch": "main"})
    works = [f"{base}/one", f"{base}/two"]
    for work in works:
        answer = daemon.post("/git/clone", {"url": bare, "path": work})
        assert answer.status_code in (200, 404), answer.text
        if answer.status_code == 404:
            # An empty remote has nothing to clone; that is said and not an internal error.
            assert answer.json()["code"] == "GIT_REPO_NOT_FOUND"
            daemon.post("/git/init", {"path": work, "initial_branch": "main"})
            daemon.post("/git/remotes", {"path": work, "name": "origin", "url": bare})
        commit = {"path": work, "message": work, "author": "A", "email": "a@x", "allow_empty": True}
        assert daemon.post("/git/commit", commit).status_code == 200
    assert daemon.post("/git/push", {"path": works[0]}).status_code == 200
    refused = daemon.post("/git/push", {"path": works[1]})
    assert (refused.status_code, refused.json()["code"]) == (409, "GIT_PUSH_REJECTED"), refused.text
    # Nothing was forced.
    history = daemon.get("/git/history", params={"path": bare})
    assert [c["message"].strip() for c in history.json()] == [works[0]], history.text
    for body, status, code in [
        ({"path": works[0], "branch": "none"}, 404, "GIT_BRANCH_NOT_FOUND"),
        ({"path": f"{base}/nowhere"}, 404, "GIT_REPO_NOT_FOUND"),
        ({"path": works[0], "remote": "nowhere"}, 404, None),
    ]:
        answer = daemon.post("/git/push", body)
        assert answer.status_code == status and answer.json()["code"] == (code or answer.json()["code"]), answer.text
    tls = daemon.post("/git/clone", {"url": f"https://127.0.0.1:{2280}/x.git", "path": f"{base}/tls"})
    assert (tls.status_code, tls.json()["code"]) == (502, "GIT_TRANSPORT_FAILED"), tls.text
