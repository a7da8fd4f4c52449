"""Every git method of the SDK, against remotes that live in the sandbox itself: a bare repository and a server with a password."""

from __future__ import annotations

import uuid

import pytest
from daytona import (
    DaytonaConflictError,
    DaytonaError,
    DaytonaGitAuthFailedError,
    DaytonaGitBranchExistsError,
    DaytonaGitBranchNotFoundError,
    DaytonaGitPushRejectedError,
    DaytonaGitRepoNotFoundError,
    DaytonaNotFoundError,
    SessionExecuteRequest,
)

from support import eventually

AUTHOR = ("Ada", "ada@example.org")

# git's own HTTP back end behind a password: what a private host does, without one.
SERVER = """
import base64, http.server, os
class Handler(http.server.CGIHTTPRequestHandler):
    protocol_version = "HTTP/1.0"
    def is_cgi(self):
        self.cgi_info = ("/usr/lib/git-core", "git-http-backend" + self.path.removeprefix("/git"))
        return True
    def run_cgi(self):
        wanted = "Basic " + base64.b64encode(b"ada:secret").decode()
        if self.headers.get("Authorization") != wanted:
            self.send_response(401); self.send_header("WWW-Authenticate", 'Basic realm="git"'); self.end_headers(); return
        os.environ.update(GIT_PROJECT_ROOT="/tmp/remotes", GIT_HTTP_EXPORT_ALL="1", REMOTE_USER="ada")
        if self.headers.get("Content-Encoding"): os.environ["HTTP_CONTENT_ENCODING"] = self.headers["Content-Encoding"]
        if self.headers.get("Git-Protocol"): os.environ["GIT_PROTOCOL"] = self.headers["Git-Protocol"]
        super().run_cgi()
http.server.ThreadingHTTPServer(("127.0.0.1", 8418), Handler).serve_forever()
"""


def sh(sandbox, command: str) -> str:
    answer = sandbox.process.exec(command)
    assert answer.exit_code == 0, answer.result
    return answer.result


@pytest.fixture(scope="module")
def remote(sandbox) -> str:
    """A bare repository with two branches and one commit on each."""
    sh(
        sandbox,
        "set -e; mkdir -p /tmp/remotes; git init -q --bare -b main /tmp/remotes/seed.git; git -C /tmp/remotes/seed.git config http.receivepack true; "
        "git init -q -b main /tmp/seed; cd /tmp/seed; git config user.name Ada; git config user.email a@b.c; "
        "echo hello > README; git add .; git commit -qm first; git checkout -qb test; echo t > T; git add .; git commit -qm second; "
        "git push -q /tmp/remotes/seed.git main test",
    )
    return "/tmp/remotes/seed.git"


@pytest.fixture
def work(sandbox, remote) -> str:
    """A fresh clone of a fresh remote, so that tests may push."""
    name = uuid.uuid4().hex
    sh(sandbox, f"cp -r {remote} /tmp/remotes/{name}.git")
    sandbox.git.clone(f"/tmp/remotes/{name}.git", f"work/{name}")
    return f"work/{name}"


@pytest.fixture(scope="module")
def server(sandbox, remote) -> str:
    sandbox.fs.upload_file(SERVER.encode(), "/tmp/server.py")
    sandbox.process.create_session("git-server")
    sandbox.process.execute_session_command("git-server", SessionExecuteRequest(command="cd / && python3 /tmp/server.py", run_async=True))
    probe = "curl -s -o /dev/null -w '%{http_code}' http://127.0.0.1:8418/git/seed.git/info/refs"
    eventually(lambda: sandbox.process.exec(probe).result == "401", "the git server to answer")
    sh(sandbox, f"cp -r {remote} /tmp/remotes/pushed.git")
    return "http://127.0.0.1:8418/git/seed.git"


def test_clone_and_status(sandbox, work):
    status = sandbox.git.status(work)
    assert (status.current_branch, status.ahead, status.behind, status.file_status) == ("main", 0, 0, [])
    assert sandbox.fs.download_file(f"{work}/README") == b"hello\n"


def test_clone_of_a_branch(sandbox, remote):
    sandbox.git.clone(remote, "work/branch", branch="test")
    assert sandbox.git.status("work/branch").current_branch == "test"
    with pytest.raises(DaytonaError):
        sandbox.git.clone(remote, "work/no-branch", branch="no-such-branch")


def test_clone_of_a_commit(sandbox, remote):
    commit = sh(sandbox, f"git -C {remote} rev-parse test").strip()
    sandbox.git.clone(remote, "work/commit", commit_id=commit)
    assert sh(sandbox, "git -C work/commit rev-parse HEAD").strip() == commit


def test_clone_over_http_with_a_password(sandbox, server):
    with pytest.raises(DaytonaGitAuthFailedError):
        sandbox.git.clone(server, "work/refused", username="ada", password="wrong")
    sandbox.git.clone(server, "work/http", username="ada", password="secret")
    assert sandbox.git.status("work/http").current_branch == "main"
    assert "secret" not in sh(sandbox, "cat work/http/.git/config")


def test_clone_of_what_is_missing(sandbox):
    with pytest.raises((DaytonaGitRepoNotFoundError, DaytonaError)):
        sandbox.git.clone("/tmp/remotes/no-such.git", "work/missing")


def test_add_commit_push_pull(sandbox, work):
    other = f"{work}-other"
    sandbox.git.clone(sandbox.git.remote_get(work, "origin"), other)
    sandbox.fs.upload_file(b"new\n", f"{work}/new.txt")
    status = sandbox.git.status(work)
    assert [(f.name, f.worktree.value) for f in status.file_status] == [("new.txt", "Untracked")]
    sandbox.git.add(work, ["new.txt"])
    assert sandbox.git.status(work).file_status[0].staging.value == "Added"
    commit = sandbox.git.commit(work, "add new", *AUTHOR)
    assert commit.sha == sh(sandbox, f"git -C {work} rev-parse HEAD").strip()
    assert sh(sandbox, f"git -C {work} log -1 --format=%an,%ae,%s").strip() == "Ada,ada@example.org,add new"
    assert sandbox.git.status(work).ahead == 1
    sandbox.git.push(work)
    sandbox.git.pull(other)
    assert sandbox.fs.download_file(f"{other}/new.txt") == b"new\n"


def test_push_over_http_with_a_password(sandbox, server):
    sandbox.git.clone(server.replace("seed", "pushed"), "work/push", username="ada", password="secret")
    sandbox.git.commit("work/push", "empty", *AUTHOR, allow_empty=True)
    with pytest.raises(DaytonaGitAuthFailedError):
        sandbox.git.push("work/push", username="ada", password="wrong")
    sandbox.git.push("work/push", username="ada", password="secret")
    assert sandbox.git.status("work/push").ahead == 0


def test_a_push_that_is_behind_is_rejected(sandbox, work):
    other = f"{work}-other"
    sandbox.git.clone(sandbox.git.remote_get(work, "origin"), other)
    for place in (work, other):
        sandbox.git.commit(place, f"from {place}", *AUTHOR, allow_empty=True)
    sandbox.git.push(other)
    with pytest.raises((DaytonaGitPushRejectedError, DaytonaConflictError)):
        sandbox.git.push(work)


def test_nothing_to_commit(sandbox, work):
    with pytest.raises(DaytonaError):
        sandbox.git.commit(work, "nothing", *AUTHOR)


def test_branches(sandbox, work):
    sandbox.git.create_branch(work, "feature")
    with pytest.raises((DaytonaGitBranchExistsError, DaytonaConflictError)):
        sandbox.git.create_branch(work, "feature")
    sandbox.git.checkout_branch(work, "feature")
    assert "feature" in sandbox.git.branches(work).branches
    assert sandbox.git.status(work).current_branch == "feature"
    sandbox.git.checkout_branch(work, "main")
    sandbox.git.delete_branch(work, "feature")
    assert "feature" not in sandbox.git.branches(work).branches
    with pytest.raises(DaytonaGitBranchNotFoundError):
        sandbox.git.checkout_branch(work, "feature")


def test_init_and_remotes(sandbox):
    sandbox.git.init("work/init", initial_branch="trunk")
    assert sandbox.fs.download_file("work/init/.git/HEAD") == b"ref: refs/heads/trunk\n"
    with pytest.raises(DaytonaNotFoundError, match="no commits"):
        sandbox.git.status("work/init")
    assert sandbox.git.remote_get("work/init", "origin") is None
    sandbox.git.remote_add("work/init", "origin", "/tmp/remotes/seed.git", fetch=True)
    assert [(r.name, r.url) for r in sandbox.git.remotes("work/init").remotes] == [("origin", "/tmp/remotes/seed.git")]
    with pytest.raises(DaytonaError):
        sandbox.git.remote_add("work/init", "origin", "/elsewhere")
    sandbox.git.remote_add("work/init", "origin", "/elsewhere", overwrite=True)
    assert sandbox.git.remote_get("work/init", "origin") == "/elsewhere"
    sandbox.git.init("work/bare", bare=True)
    assert sandbox.fs.get_file_info("work/bare/HEAD").size > 0


def test_reset_and_restore(sandbox, work):
    sandbox.fs.upload_file(b"changed\n", f"{work}/README")
    sandbox.git.restore(work, ["README"])
    assert sandbox.fs.download_file(f"{work}/README") == b"hello\n"
    sandbox.git.commit(work, "one more", *AUTHOR, allow_empty=True)
    sandbox.git.reset(work, mode="hard", target="HEAD~1")
    assert sh(sandbox, f"git -C {work} log -1 --format=%s").strip() == "first"


def test_configuration(sandbox, work):
    sandbox.git.configure_user("Grace", "grace@example.org")
    assert sandbox.git.get_config("user.name") == "Grace"
    sandbox.git.set_config("core.pager", "cat", scope="local", path=work)
    assert sandbox.git.get_config("core.pager", scope="local", path=work) == "cat"
    assert sandbox.git.get_config("no.such") is None


def test_stored_credentials(sandbox, server):
    sandbox.git.dangerously_authenticate("ada", "secret", host="127.0.0.1:8418", protocol="http")
    sandbox.git.clone(server, "work/stored")
    assert sandbox.git.status("work/stored").current_branch == "main"


def test_a_folder_that_is_no_repository(sandbox):
    sandbox.fs.create_folder("work/plain", "755")
    with pytest.raises((DaytonaGitRepoNotFoundError, DaytonaError)):
        sandbox.git.status("work/plain")
