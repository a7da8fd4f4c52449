"""What users of such runners suffer from, in network and security (F40 to F46, H51, H55), one test each where no other has it.

Elsewhere: F42 and F44 in test_network_policy.py and runner/network/tests/kernel, F43 in the latter, G47 to G49 in tests/ssh, H50 and H51 in tests/vm and
runner/tests/engine/storage.rs.
"""

from __future__ import annotations

import json
import os
import subprocess
import urllib.error
import urllib.request

import pytest
from daytona import DaytonaError

from stack import BINARY
from support import inspect


def test_pain_f40_a_sandbox_is_one_by_default(sandbox):
    """No privileges, no view of the machine; who wants them has to name them (`PINFOLD_PRIVILEGED`, docs/threat-model.md)."""
    host = inspect(sandbox.id)["HostConfig"]
    assert not host["Privileged"] and host["CapDrop"] == ["ALL"]
    assert not {"NET_RAW", "MKNOD", "SYS_ADMIN", "NET_ADMIN"} & {name.removeprefix("CAP_") for name in host["CapAdd"]}
    assert "/sys/devices/virtual/dmi" in host["MaskedPaths"] and "/proc/kcore" in host["MaskedPaths"]
    seen = sandbox.process.exec("sudo sh -c 'cat /sys/class/dmi/id/* /sys/firmware/dmi/tables/* /proc/kcore 2>/dev/null | head -c 100 | wc -c'")
    assert seen.result.strip() == "0"


def test_pain_f41_lists_are_as_long_as_the_contract_has_them_and_no_name_is_open_unasked(make_sandbox):
    """Ten networks, and names beside them; nothing is essential but what is listed."""
    networks = ",".join(f"203.0.113.{16 * i}/28" for i in range(10))
    sandbox = make_sandbox(network_allow_list=networks, domain_allow_list="allowed.example,*.allowed.example")
    rules = subprocess.run(["nft", "list", "chain", "inet", "pinfold", f"sb_{sandbox.id.replace('-', '')}"], check=True, capture_output=True, text=True).stdout
    assert rules.count("203.0.113.") == 10
    assert rules.split("}")[0].split()[-1] == "drop"
    asked = "import socket; socket.getaddrinfo('{}', 443)"
    for name in ("pypi.org", "github.com", "notallowed.example"):
        assert sandbox.process.exec(f'python3 -c "{asked.format(name)}"', timeout=30).exit_code != 0, name


def test_pain_f45_doctor_says_why_there_is_no_network(tmp_path):
    """Forwarding and the packet filter are looked at, and what is missing has a remedy."""

    def findings(path: str) -> list[dict]:
        answer = subprocess.run([BINARY, "doctor", "--json"], check=False, capture_output=True, text=True, env=os.environ | {"PATH": path}, timeout=60)
        return json.loads(answer.stdout)

    here = {finding["check"]: finding for finding in findings(os.environ["PATH"])}
    assert here["forwarding"]["verdict"] == "ok"
    without_nft = [f for f in findings(str(tmp_path)) if f["verdict"] == "failed" and "nft" in json.dumps(f)]
    assert without_nft and all(finding["remedy"] for finding in without_nft)


def runner_of(stack) -> tuple[str, str]:
    """The address of the runner's own API, and what opens it."""
    listed = json.loads(stack.api("GET", "/runners")[1])
    return listed[0]["apiUrl"], (stack.data / "runner-token").read_text().strip()


def asked(url: str, token: str | None, body: dict | None = None) -> tuple[int, str]:
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})
    request = urllib.request.Request(url, headers=headers, data=None if body is None else json.dumps(body).encode())
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_pain_f46_metrics_need_the_token_and_ids_are_no_paths(stack):
    url, token = runner_of(stack)
    assert asked(f"{url}/metrics", None)[0] == 401
    status, figures = asked(f"{url}/metrics", token)
    assert status == 200 and token not in figures
    wanted = {"id": "5d6fbd3b-31a3-4a2b-8a4e-1f6f3a0b7c11", "userId": "u", "snapshot": stack.image, "osUser": "daytona"}
    for volume in ("../../etc", "/etc", "..", "5D6FBD3B-31A3-4A2B-8A4E-1F6F3A0B7C11"):
        status, answer = asked(f"{url}/sandboxes", token, wanted | {"volumes": [{"volumeId": volume, "mountPath": "/data"}]})
        assert status == 400, answer
    assert asked(f"{url}/sandboxes/..%2f..%2fetc/stop", token, {})[0] in (400, 404)


def test_pain_h55_commands_have_a_time_limit_and_terminals_are_there(sandbox):
    with pytest.raises(DaytonaError, match=r"(?i)time"):
        sandbox.process.exec("sleep 60", timeout=1)
    terminal = sandbox.process.create_pty_session("pain-55")
    terminal.send_input("echo six-$((6 * 7)); exit 3\n")
    said: list[bytes] = []
    terminal.wait(on_data=said.append, timeout=20)
    assert b"six-42" in b"".join(said) and terminal.exit_code == 3
    terminal.disconnect()
