"""The commands for people: tables for them, JSON for programs, exit statuses for scripts."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import threading
import time
import uuid
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from stack import BINARY
from support import REPO

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def pinfold(stack) -> Run:
    def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        everything = os.environ | stack.client_environment() | environment
        return subprocess.run([BINARY, *arguments], env=everything, capture_output=True, text=True, timeout=90, check=False)

    return run


def test_a_sandboxs_life(pinfold: Run):
    name = f"cli-{uuid.uuid4()}"
    made = pinfold("sandbox", "create", "--name", name, "-e", "A=b c", "-l", "team=blue", "--json")
    assert made.returncode == 0, made.stderr
    sandbox = json.loads(made.stdout)
    assert (sandbox["name"], sandbox["state"]) == (name, "started")
    try:
        listed = pinfold("sandbox", "ls")
        assert name in listed.stdout
        assert sandbox["id"] in [s["id"] for s in json.loads(pinfold("sandbox", "ls", "--json").stdout)]
        ran = pinfold("sandbox", "exec", name, 'echo "$A"; echo err >&2; exit 7')
        assert ran.returncode == 7
        assert "b c\n" in ran.stdout
        assert pinfold("sandbox", "stop", name).returncode == 0
        assert pinfold("sandbox", "exec", name, "true").returncode not in (0, 101)
        assert pinfold("sandbox", "start", name).returncode == 0
        assert pinfold("sandbox", "exec", name, "echo back").stdout == "back\n"
    finally:
        assert pinfold("sandbox", "rm", name).returncode == 0
    assert pinfold("sandbox", "exec", name, "true").returncode == 13


@pytest.mark.parametrize("arguments", [("completion", "bash"), ("key", "ls"), ("key", "ls", "--json")])
def test_who_reads_no_further_is_no_failure(stack, arguments: tuple[str, ...]):
    """As `pinfold key ls | head -1` does, when it is quick."""
    reader, writer = os.pipe()
    os.close(reader)
    environment = os.environ | stack.client_environment()
    ended = subprocess.run([BINARY, *arguments], env=environment, stdout=writer, stderr=subprocess.PIPE, text=True, timeout=90, check=False)
    os.close(writer)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_keys(pinfold: Run):
    name = f"key-{uuid.uuid4()}"
    made = pinfold("key", "create", name)
    assert made.returncode == 0, made.stderr
    key = made.stdout.strip()
    assert key.startswith("dtn_")
    sandbox = pinfold("sandbox", "create", DAYTONA_API_KEY=key)
    assert sandbox.returncode == 0, f"it may do what the key may that made it: {sandbox.stderr}"
    assert pinfold("sandbox", "rm", sandbox.stdout.strip(), DAYTONA_API_KEY=key).returncode == 0
    listed = pinfold("key", "ls").stdout
    assert name in listed
    assert key not in listed, "a key is shown once, when it is made"
    assert [k["lastUsedAt"] is not None for k in json.loads(pinfold("key", "ls", "--json").stdout) if k["name"] == name] == [True]
    assert pinfold("key", "rm", name).returncode == 0
    assert pinfold("sandbox", "ls", DAYTONA_API_KEY=key).returncode == 12


def test_a_key_may_be_for_one_thing_alone(pinfold: Run):
    name = f"key-{uuid.uuid4()}"
    made = json.loads(pinfold("key", "create", name, "--permission", "read:volumes", "--expires-at", "2100-01-01T00:00:00Z", "--json").stdout)
    assert (made["permissions"], made["expiresAt"]) == (["read:volumes"], "2100-01-01T00:00:00.000Z")
    refused = pinfold("sandbox", "create", DAYTONA_API_KEY=made["value"])
    assert refused.returncode == 12, refused
    assert "write:sandboxes" in refused.stderr
    assert pinfold("key", "rm", name).returncode == 0


def test_snapshots(pinfold: Run):
    assert "default" in pinfold("snapshot", "ls").stdout
    assert any(s["name"] == "default" for s in json.loads(pinfold("snapshot", "ls", "--json").stdout))
    default = next(s for s in json.loads(pinfold("snapshot", "ls", "--json").stdout) if s["name"] == "default")
    name = f"cli-{uuid.uuid4()}"
    # The default snapshot's image is in the engine's own store under a name with a tag.
    made = pinfold("snapshot", "create", name, default["ref"], "--json")
    assert made.returncode == 0, made.stderr
    try:
        assert (json.loads(made.stdout)["name"], json.loads(made.stdout)["imageName"]) == (name, default["ref"])
        assert name in pinfold("snapshot", "ls").stdout
    finally:
        assert pinfold("snapshot", "rm", name).returncode == 0
    assert name not in pinfold("snapshot", "ls").stdout
    assert pinfold("snapshot", "rm", name).returncode == 13


@pytest.mark.parametrize("what", ["sandbox", "snapshot"])
def test_long_lists_are_whole(pinfold: Run, what: str):
    """Page by page; the pages are those of the API, here of a server that has 450 things."""
    things = [{"id": str(n), "name": f"thing-{n}", "state": "active"} for n in range(450)]

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            query = {name: int(value[0]) for name, value in parse_qs(urlsplit(self.path).query).items()}
            limit = query["limit"]
            begin = query.get("cursor", (query.get("page", 1) - 1) * limit)
            more = begin + limit < len(things)
            page = {"items": things[begin : begin + limit], "nextCursor": str(begin + limit) if more else None, "totalPages": -(-len(things) // limit)}
            body = json.dumps(page).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        listed = pinfold(what, "ls", "--json", DAYTONA_API_URL=f"http://127.0.0.1:{server.server_port}/api")
        assert [thing["id"] for thing in json.loads(listed.stdout)] == [thing["id"] for thing in things], listed.stderr
    finally:
        server.shutdown()


def test_ssh_opens_a_shell(pinfold: Run, make_sandbox, tmp_path: Path):
    """With the user's own client, which is found on the path; here one that takes any host's key."""
    client = tmp_path / "ssh"
    client.write_text('#!/bin/sh\nexec /usr/bin/ssh -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null "$@" "echo in $((6*7)); exit 3"\n')
    client.chmod(0o755)
    done = pinfold("sandbox", "ssh", make_sandbox().name, PATH=f"{tmp_path}:{os.environ['PATH']}")
    assert (done.returncode, done.stdout) == (3, "in 42\n"), done.stderr
    assert pinfold("sandbox", "ssh", "no-such-sandbox").returncode == 13


def test_statuses_of_failures(pinfold: Run):
    assert pinfold("sandbox", "ls", DAYTONA_API_URL="http://127.0.0.1:9/api").returncode == 10
    assert pinfold("sandbox", "ls", DAYTONA_API_KEY="dtn_wrong").returncode == 12
    missing = pinfold("sandbox", "stop", "no-such-sandbox")
    assert missing.returncode == 13
    assert len(missing.stderr.strip().splitlines()) == 1
    assert pinfold("sandbox", "no-such-command").returncode == 2


def test_doctor_finds_this_host_fit(pinfold: Run):
    answer = pinfold("doctor", "--json")
    findings = json.loads(answer.stdout)
    # Our own instance holds its ports; everything else has to be well, since the other tests run here.
    wrong = [f for f in findings if f["verdict"] == "failed" and "port" not in f["check"]]
    assert not wrong
    assert all(f["remedy"] for f in findings if f["verdict"] != "ok")
    looked_at = {f["check"] for f in findings}
    assert looked_at >= {"kernel", "cgroup", "volumes", "engine", "disk quota", "disk", "firewall", "port", "control plane", "registry", "clock"}


class OtherTimes(BaseHTTPRequestHandler):
    """A registry that wants to know who asks, and whose clock is an hour and half a minute behind."""

    def date_time_string(self, timestamp: float | None = None) -> str:
        return super().date_time_string((timestamp or time.time()) - 3630)

    def do_GET(self) -> None:
        self.send_response(401 if self.path == "/v2/" else 404)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def test_doctor_asks_the_registry_and_compares_clocks(pinfold: Run):
    def found(place: str) -> dict[str, dict]:
        answer = pinfold("doctor", "--json", PINFOLD_REGISTRY=place, DAYTONA_API_URL="")
        return {f["check"]: f for f in json.loads(answer.stdout)}

    with ThreadingHTTPServer(("127.0.0.1", 0), OtherTimes) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        host = f"127.0.0.1:{server.server_port}"
        findings = found(f"http://{host}/project")
        server.shutdown()
    assert findings["registry"]["verdict"] == "ok"
    assert host in findings["registry"]["detail"]
    assert findings["clock"]["verdict"] == "warning"
    assert 3600 <= int(findings["clock"]["detail"].split(" s apart")[0]) <= 3660
    findings = found(f"http://{host}")
    assert (findings["registry"]["verdict"], findings["clock"]["verdict"]) == ("warning", "warning")
    assert host in findings["registry"]["detail"]


def test_doctor_names_what_is_wrong_and_what_to_do(stack):
    """Without rights, programs, an engine, a free port or a control plane: each is told by itself."""
    with socket.create_server(("0.0.0.0", 0)) as taken:
        wrong = {
            "PATH": "/nonexistent",
            "DOCKER_HOST": "unix:///nonexistent/engine.sock",
            "API_PORT": str(taken.getsockname()[1]),
            # Any, so that no finding about it hides the other's.
            "SSH_GATEWAY_PORT": "0",
            "DAYTONA_API_URL": "http://127.0.0.1:9/api",
        }
        powerless = [shutil.which("setpriv"), "--bounding-set=-net_admin,-sys_admin", BINARY, "doctor", "--json"]
        answer = subprocess.run(powerless, env=wrong, capture_output=True, text=True, timeout=60, check=False)
    assert answer.returncode == 1
    found = [f for f in json.loads(answer.stdout) if f["verdict"] != "ok"]
    told = {(f["check"], f["verdict"]): f"{f['detail']} → {f['remedy']}" for f in found}
    for finding, words in {
        ("privileges", "failed"): ("CAP_NET_ADMIN and CAP_SYS_ADMIN", "root"),
        ("volumes", "warning"): ("no S3 mount client", "s3fs"),
        ("engine", "failed"): ("/nonexistent/engine.sock", "docker.io"),
        ("firewall", "failed"): ("nft", "install nftables"),
        ("port", "warning"): (wrong["API_PORT"], "API_PORT"),
        ("control plane", "failed"): ("http://127.0.0.1:9/api/health", "refused", "DAYTONA_API_URL"),
    }.items():
        assert all(word in told[finding] for word in words), told[finding]


def test_doctor_asks_for_the_runtime_and_the_way_to_the_control_plane(pinfold: Run, stack):
    answer = pinfold("doctor", "--json", CONTAINER_RUNTIME="no-such-runtime", DAYTONA_API_URL=f"{stack.api_url}/nowhere")
    found = {f["check"]: f for f in json.loads(answer.stdout)}
    assert answer.returncode == 1
    assert found["runtime"]["verdict"] == "failed"
    assert "no-such-runtime" in found["runtime"]["detail"]
    assert "daemon.json" in found["runtime"]["remedy"]
    assert found["control plane"]["verdict"] == "warning"
    assert "404" in found["control plane"]["detail"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(pinfold: Run, shell: str):
    script = pinfold("completion", shell).stdout
    # What the program itself says it can do, so that nothing is left out.
    commands = re.findall(r"^  (\w+) ", pinfold("--help").stdout.split("Commands:")[1], re.MULTILINE)
    assert {"up", "sandbox", "top", "status", "backup", "restore"} <= set(commands)
    assert not [command for command in commands if command not in script]


@pytest.mark.parametrize(("typed", "offered"), [("sa", {"sandbox"}), ("sandbox cr", {"create"}), ("ba", {"backup"}), ("sandbox ls --j", {"--json"})])
def test_bash_completes(pinfold: Run, tmp_path: Path, typed: str, offered: set[str]):
    """Not only what the script says: what a shell makes of it."""
    script = tmp_path / "completion"
    script.write_text(pinfold("completion", "bash").stdout)
    words = ["pinfold", *typed.split()]
    ask = f"source {script}; COMP_WORDS=({' '.join(words)}); COMP_CWORD={len(words) - 1}; _pinfold pinfold {words[-1]} {words[-2]}; echo ${{COMPREPLY[@]}}"
    answer = subprocess.run(["bash", "--norc", "-c", ask], check=True, capture_output=True, text=True)
    assert set(answer.stdout.split()) == offered, answer.stderr


def test_up_shows_every_setting_at_its_start(stack):
    shown = dict(re.findall(r"^  (PINFOLD_\w+) +(.*)$", stack.shown.read_text(), re.MULTILINE))
    page = (REPO / "docs" / "configuration.md").read_text()
    documented = re.findall(r"`(PINFOLD_\w+)`", page.split("## `pinfold up`")[1].split("\n## ")[0])
    secrets = {"PINFOLD_REGISTRY_USERNAME", "PINFOLD_REGISTRY_PASSWORD"}
    assert set(documented) - secrets <= set(shown)
    assert shown["PINFOLD_SNAPSHOT_IMAGE"] == stack.image
    assert shown["PINFOLD_PROXY_DOMAIN"] == "proxy.localhost", "a default is shown as well as what was set"
    assert stack.key not in shown.values()
