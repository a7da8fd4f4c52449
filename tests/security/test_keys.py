"""Who may ask: the right key, and no other."""

from __future__ import annotations

import contextlib
import json
import subprocess
import urllib.error
import urllib.request
from urllib.parse import urlsplit

import pytest

GUARDED = [
    ("GET", "/sandbox"),
    ("POST", "/sandbox"),
    ("GET", "/sandbox/paginated"),
    ("GET", "/sandbox/some-id"),
    ("DELETE", "/sandbox/some-id"),
    ("GET", "/snapshots"),
    ("GET", "/volumes"),
    ("GET", "/jobs/poll"),
    ("POST", "/runners/healthcheck"),
    ("GET", "/api-keys"),
]


@pytest.mark.parametrize(("method", "path"), GUARDED)
@pytest.mark.parametrize("key", ["", "dtn_wrong", "x" * 10_000], ids=["none", "wrong", "huge"])
def test_a_wrong_key_gets_nothing(stack, method, path, key):
    status, body = stack.api(method, path, key=key)
    assert status in (401, 431), body
    if status == 401:
        answer = json.loads(body)
        assert answer["statusCode"] == 401
        assert answer["message"]


def test_a_users_key_is_no_runners_key(stack):
    assert stack.api("GET", "/jobs/poll?timeout=1")[0] in (401, 403)


def test_the_toolbox_needs_a_credential_too(stack, sandbox):
    for header in ({}, {"Authorization": "Bearer dtn_wrong"}, {"X-Daytona-Preview-Token": "wrong"}):
        request = urllib.request.Request(f"http://127.0.0.1:{stack.port}/toolbox/{sandbox.id}/work-dir", headers=header)
        with pytest.raises(urllib.error.HTTPError) as error:
            urllib.request.urlopen(request, timeout=10)
        assert error.value.code in (401, 403)


def test_secrets_are_not_in_the_log(stack, sandbox):
    access = sandbox.create_ssh_access(expires_in_minutes=1)
    link = sandbox.get_preview_link(8000)
    # Used, and not only made.
    options = ["StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "BatchMode=yes"]
    login = ["ssh", "-p", str(stack.ssh_port), *(word for option in options for word in ("-o", option)), f"{access.token}@127.0.0.1", "echo in"]
    assert subprocess.run(login, check=True, capture_output=True, text=True, timeout=30).stdout == "in\n"
    preview = urlsplit(link.url)
    request = urllib.request.Request(f"http://127.0.0.1:{preview.port}/?DAYTONA_SANDBOX_AUTH_KEY={link.token}", headers={"Host": preview.netloc})
    with contextlib.suppress(urllib.error.HTTPError):
        urllib.request.urlopen(request, timeout=10)
    log = stack.log.read_text(errors="replace")
    for secret in (stack.key, access.token, link.token):
        assert secret not in log


def test_the_keys_of_the_data_directory_are_private(stack):
    for path in stack.data.rglob("*"):
        if path.is_file() and ("key" in path.name or path.suffix in (".db", ".sqlite")):
            assert path.stat().st_mode & 0o077 == 0, f"{path} is readable by others"
