"""Git in a sandbox of its own: what the unit tests, which have a stand-in for the ssh client, cannot show."""

from __future__ import annotations


def test_git_over_a_real_ssh_client(daemon, name):
    """Clone, push and pull with the image's own client, to a server that speaks the real protocol: the sandbox's own."""
    base = f"/tmp/{name}"
    made = daemon.execute(
        f"mkdir -p {base} ~/.ssh; ssh-keygen -q -t ed25519 -N '' -f {base}/key; git init -q --bare -b main {base}/hub; git init -q -b main {base}/seed; "
        f"cd {base}/seed; echo one > a.txt; git add .; git -c user.name=A -c user.email=a@x commit -qm first; git push -q {base}/hub main"
    )
    assert made["exitCode"] == 0, made
    ssh = f"ssh -i {base}/key -o IdentitiesOnly=yes -o StrictHostKeyChecking=no -o UserKnownHostsFile={base}/known -o BatchMode=yes"
    assert daemon.post("/env", {"set": {"GIT_SSH_COMMAND": ssh}}).status_code == 200
    try:
        url = f"ssh://daytona@127.0.0.1:22220{base}/hub"
        for copy in ("one", "two"):
            answer = daemon.post("/git/clone", {"url": url, "path": f"{base}/{copy}"})
            assert answer.status_code == 200, answer.text
        daemon.execute(f"echo two > {base}/one/b.txt")
        assert daemon.post("/git/add", {"path": f"{base}/one", "files": ["b.txt"]}).status_code == 200
        assert daemon.post("/git/commit", {"path": f"{base}/one", "message": "m", "author": "A", "email": "a@x"}).status_code == 200
        answer = daemon.post("/git/push", {"path": f"{base}/one"})
        assert answer.status_code == 200, answer.text
        answer = daemon.post("/git/pull", {"path": f"{base}/two"})
        assert answer.status_code == 200, answer.text
        assert daemon.get("/files/download", params={"path": f"{base}/two/b.txt"}).content == b"two\n"
        # The server's key was checked and kept by the client, so it was a client.
        assert "ssh-ed25519" in daemon.execute(f"cat {base}/known")["result"]
        missing = daemon.post("/git/clone", {"url": f"{url}-none", "path": f"{base}/three"})
        assert (missing.status_code, missing.json()["code"]) == (404, "GIT_REPO_NOT_FOUND"), missing.text
    finally:
        daemon.post("/env", {"unset": ["GIT_SSH_COMMAND"]})
