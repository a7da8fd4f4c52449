"""The sandbox class of the SDK: what it tells, and what can be set."""

from __future__ import annotations

import http.client
import time
from urllib.parse import urlsplit

import httpx
import pytest
from daytona import (
    Daytona,
    DaytonaAuthenticationError,
    DaytonaConfig,
    DaytonaError,
    DaytonaNotFoundError,
    ListSandboxesQuery,
    Resources,
    SessionExecuteRequest,
)

from support import eventually


def fetch(url: str, headers: dict[str, str] | None = None) -> tuple[int, str]:
    """GET that resolves names below localhost to the loopback, as browsers do."""
    parts = urlsplit(url)
    host = "127.0.0.1" if (parts.hostname or "").endswith(".localhost") else parts.hostname
    connection = http.client.HTTPConnection(host, parts.port, timeout=60)
    try:
        connection.request("GET", (parts.path or "/") + (f"?{parts.query}" if parts.query else ""), headers={"Host": parts.netloc, **(headers or {})})
        answer = connection.getresponse()
        return answer.status, answer.read().decode(errors="replace")
    finally:
        connection.close()


@pytest.fixture(scope="module")
def page(sandbox) -> str:
    """A web server on port 8000 of the sandbox, and what it says."""
    sandbox.fs.upload_file(b"a page\n", "www/index.html")
    sandbox.process.create_session("www")
    sandbox.process.execute_session_command("www", SessionExecuteRequest(command="cd www; python3 -m http.server 8000", run_async=True))
    eventually(lambda: sandbox.process.exec("curl -sf 127.0.0.1:8000").exit_code == 0, "the web server to answer")
    return "a page\n"


def test_what_it_tells(sandbox):
    assert sandbox.id
    assert sandbox.name
    assert sandbox.organization_id
    assert sandbox.state.value == "started"
    assert min(sandbox.cpu, sandbox.memory, sandbox.disk) > 0
    assert sandbox.created_at
    assert sandbox.updated_at


def test_directories(sandbox):
    assert sandbox.get_user_home_dir() == "/home/daytona"
    assert sandbox.get_work_dir() == "/home/daytona"


def test_get_by_id_and_by_name(daytona, make_sandbox):
    made = make_sandbox(name="named-sandbox")
    assert daytona.get(made.id).name == "named-sandbox"
    assert daytona.get("named-sandbox").id == made.id


def test_labels_and_listing(daytona, sandbox):
    assert sandbox.set_labels({"team": "blue", "n": "1"})["team"] == "blue"
    sandbox.refresh_data()
    assert sandbox.labels["n"] == "1"
    assert [s.id for s in daytona.list(ListSandboxesQuery(labels={"team": "blue"}))] == [sandbox.id]
    assert list(daytona.list(ListSandboxesQuery(labels={"team": "red"}))) == []
    assert sandbox.id in [s.id for s in daytona.list(ListSandboxesQuery(limit=1))]


def test_intervals(sandbox):
    sandbox.set_autostop_interval(30)
    sandbox.set_auto_archive_interval(60)
    sandbox.set_auto_delete_interval(120)
    sandbox.refresh_data()
    assert (sandbox.auto_stop_interval, sandbox.auto_archive_interval, sandbox.auto_delete_interval) == (30, 60, 120)
    sandbox.set_auto_delete_interval(-1)
    sandbox.set_autostop_interval(0)
    sandbox.refresh_data()
    assert (sandbox.auto_stop_interval, sandbox.auto_delete_interval) == (0, -1)


def test_environment_of_a_sandbox_and_its_update(make_sandbox):
    made = make_sandbox(env_vars={"A": "one", "B": "with space"})
    assert made.process.exec('echo "$A,$B"').result == "one,with space\n"
    made.update_env({"A": "two", "C": "three"}, unset=["B"])
    assert made.process.exec('echo "$A,$B,$C"').result == "two,,three\n"


def test_resources_are_the_sandboxs_own(sandbox):
    assert int(sandbox.process.exec("nproc").result) >= 1
    limit = "cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null | head -1"
    assert int(sandbox.process.exec(limit).result) == sandbox.memory << 30


def test_metrics(sandbox):
    metrics = sandbox.get_metrics_latest()
    assert metrics.mem_total == sandbox.memory << 30
    assert 0 < metrics.mem_used < metrics.mem_total
    assert 0 <= metrics.cpu_used_pct <= 100


def test_preview_links(sandbox, page):
    link = sandbox.get_preview_link(8000)
    assert fetch(link.url, {"X-Daytona-Preview-Token": link.token}) == (200, page)
    status, body = fetch(link.url)
    assert status >= 300
    assert page not in body
    assert fetch(link.url, {"X-Daytona-Preview-Token": "wrong"})[0] >= 300


def test_signed_preview_links(sandbox, page):
    signed = sandbox.create_signed_preview_url(8000, expires_in_seconds=60)
    assert fetch(signed.url) == (200, page)
    sandbox.expire_signed_preview_url(8000, signed.token)
    eventually(lambda: fetch(signed.url)[0] >= 300, "the link to be refused")


def test_public(sandbox, page):
    link = sandbox.get_preview_link(8000)
    sandbox.set_public(True)
    eventually(lambda: fetch(link.url) == (200, page), "a public sandbox's page to come without a token")
    toolbox = sandbox.get_preview_link(2280)
    assert fetch(toolbox.url)[0] >= 300, "the toolbox itself stays closed"
    sandbox.set_public(False)
    eventually(lambda: fetch(link.url)[0] >= 300, "the page to be closed again")


def test_signed_file_links(sandbox):
    sandbox.fs.upload_file(b"by link", "linked.txt")
    assert httpx.get(sandbox.download_url("linked.txt"), timeout=60).content == b"by link"
    answer = httpx.post(sandbox.upload_url("came.txt"), content=b"raw body", timeout=60)
    assert answer.status_code == 200, answer.text
    assert sandbox.fs.download_file("came.txt") == b"raw body"
    old = sandbox.download_url("linked.txt")
    sandbox.rotate_signing_key()
    assert httpx.get(old, timeout=60).status_code in (401, 403)


def test_ssh_tokens(sandbox):
    access = sandbox.create_ssh_access(expires_in_minutes=5)
    assert access.token in access.ssh_command
    answer = sandbox.validate_ssh_access(access.token)
    assert (answer.valid, answer.sandbox_id) == (True, sandbox.id)
    sandbox.revoke_ssh_access(access.token)
    assert not sandbox.validate_ssh_access(access.token).valid
    assert not sandbox.validate_ssh_access("no-such-token").valid


def test_activity(sandbox):
    sandbox.refresh_data()
    before = sandbox.last_activity_at
    time.sleep(0.01)
    sandbox.refresh_activity()
    sandbox.refresh_data()
    assert sandbox.last_activity_at != before


def test_resize(make_sandbox):
    made = make_sandbox()
    made.resize(Resources(cpu=made.cpu, memory=made.memory + 1))
    made.refresh_data()
    limit = "cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null | head -1"
    assert int(made.process.exec(limit).result) == made.memory << 30


def test_what_is_missing_is_not_found(daytona):
    with pytest.raises(DaytonaNotFoundError):
        daytona.get("no-such-sandbox")


def test_a_wrong_key(stack):
    with pytest.raises(DaytonaAuthenticationError):
        Daytona(DaytonaConfig(api_key="dtn_wrong", api_url=stack.api_url)).get("anything")


def test_a_name_twice(make_sandbox):
    make_sandbox(name="taken-name")
    with pytest.raises(DaytonaError, match=r"(?i)taken-name|exists|already|in use"):
        make_sandbox(name="taken-name")


@pytest.mark.parametrize("call", ["fork", "pause"])
def test_what_containers_cannot_do_is_refused_in_words(sandbox, call):
    with pytest.raises(DaytonaError, match=r"(?i)support|not available|cannot"):
        getattr(sandbox, call)()
    assert sandbox.process.exec("true").exit_code == 0
