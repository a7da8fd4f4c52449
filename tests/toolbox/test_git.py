"""Git in a sandbox of its own: what the unit tests, which have a stand-in for the ssh client, cannot show."""

from __future__ import annotations

from conftest import SANDBOX


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


def test_a_repository_larger_than_the_memory(make_daemon):
    """Cloned, committed to and pushed in a sandbox that has much less memory than that, and no swap: what holds it whole is killed."""
    daemon = make_daemon(SANDBOX, "--memory", "96m", "--memory-swap", "96m")
    files = "openssl enc -aes-128-ctr -pass pass:{seed} -nosalt -pbkdf2 -in /dev/zero 2>/dev/null | head -c 160M | split -b 4M - {where}/"
    ssh = "ssh -i /tmp/key -o IdentitiesOnly=yes -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR -o BatchMode=yes"
    made = daemon.execute(
        f"set -e; cd /tmp; ssh-keygen -q -t ed25519 -N '' -f key; mkdir seed; {files.format(seed='one', where='seed')}; git config --global core.bigFileThreshold 1m; "
        "git init -q -b main seed; git -C seed add .; git -C seed -c user.name=A -c user.email=a@x commit -qm first; git clone -q --bare seed hub; rm -r seed",
        timeout=100,
    )
    assert made["exitCode"] == 0, made
    assert daemon.post("/env", {"set": {"GIT_SSH_COMMAND": ssh}}).status_code == 200
    answer = daemon.post("/git/clone", {"url": "ssh://daytona@127.0.0.1:22220/tmp/hub", "path": "/tmp/one"}, timeout=100)
    assert answer.status_code == 200, answer.text
    made = daemon.execute(f"mkdir /tmp/one/more; {files.format(seed='two', where='/tmp/one/more')}; ls /tmp/one/more | wc -l", timeout=100)
    assert made["result"] == "40\n", made
    for route, body in {"add": {"files": ["."]}, "commit": {"message": "m", "author": "A", "email": "a@x"}, "push": {}}.items():
        answer = daemon.post(f"/git/{route}", {"path": "/tmp/one"} | body, timeout=170)
        assert answer.status_code == 200, (route, answer.text)
    same = daemon.execute("test $(git -C /tmp/one rev-parse HEAD) = $(git -C /tmp/hub rev-parse main) && git -C /tmp/hub fsck --connectivity-only")
    assert same["exitCode"] == 0, same
