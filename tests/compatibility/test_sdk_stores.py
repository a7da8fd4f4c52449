"""Where files of builds, volumes, built snapshots and backups go: the built-in object store over TLS, an object store of the operator's, a registry.

The stores are real ones of the test's own: moto's S3 server with its token service, s3rver over TLS, and Debian's `docker-registry`, all on the loopback.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path

import bcrypt
import pytest
from daytona import CreateSandboxFromSnapshotParams, CreateSnapshotParams, DaytonaError, DaytonaNotFoundError, Image, VolumeMount

from authority import issue
from stack import STATE, free_port
from support import REPO, busybox, eventually


def fetch(url: str, headers: dict[str, str] | None = None, method: str = "GET") -> tuple[int, bytes, dict[str, str]]:
    request = urllib.request.Request(url, method=method, headers=headers or {})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.read(), dict(answer.headers)
    except urllib.error.HTTPError as error:
        return error.code, error.read(), dict(error.headers)
    except OSError:
        return 0, b"", {}


@pytest.fixture
def object_store() -> Iterator[str]:
    """An S3 server; its address."""
    port = free_port()
    command = [STATE / "venv" / "bin" / "moto_server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        url = f"http://127.0.0.1:{port}"
        eventually(lambda: fetch(f"{url}/moto-api/data.json")[0] == 200, "the S3 server to answer", 60)
        yield url
    finally:
        server.terminate()
        server.wait(10)


class Registry:
    """A registry that wants a password and deletes when it is asked to."""

    user, password = "pf", "pf-password"

    def __init__(self, directory: Path) -> None:
        self.host = f"127.0.0.1:{free_port()}"
        (directory / "users").write_text(f"{self.user}:{bcrypt.hashpw(self.password.encode(), bcrypt.gensalt(4)).decode()}\n")
        lines = (
            "version: 0.1",
            f"storage: {{filesystem: {{rootdirectory: {directory}/data}}, delete: {{enabled: true}}}}",
            f"http: {{addr: '{self.host}'}}",
            f"auth: {{htpasswd: {{realm: pf, path: {directory}/users}}}}",
        )
        (directory / "config.yml").write_text("\n".join(lines))
        self.process = subprocess.Popen(["docker-registry", "serve", directory / "config.yml"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        eventually(lambda: self.ask("/v2/")[0] == 200, "the registry to answer")

    def ask(self, path: str, method: str = "GET") -> tuple[int, bytes, dict[str, str]]:
        key = base64.b64encode(f"{self.user}:{self.password}".encode()).decode()
        kinds = "application/vnd.docker.distribution.manifest.v2+json"
        return fetch(f"http://{self.host}{path}", {"Authorization": f"Basic {key}", "Accept": kinds}, method)

    def images(self) -> set[str]:
        """Every image that it has, by repository and tag."""
        found = set()
        for name in json.loads(self.ask("/v2/_catalog?n=1000")[1])["repositories"]:
            tags = json.loads(self.ask(f"/v2/{name}/tags/list")[1]).get("tags") or []
            found |= {f"{name}:{tag}" for tag in tags if self.ask(f"/v2/{name}/manifests/{tag}", "HEAD")[0] == 200}
        return found

    def remove(self, image: str) -> None:
        name, tag = image.rsplit(":", 1)
        digest = self.ask(f"/v2/{name}/manifests/{tag}", "HEAD")[2]["Docker-Content-Digest"]
        assert self.ask(f"/v2/{name}/manifests/{digest}", "DELETE")[0] == 202

    def end(self) -> None:
        self.process.terminate()
        self.process.wait(10)


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    running = Registry(tmp_path)
    yield running
    running.end()


def state_of(sandbox) -> str:
    sandbox.refresh_data()
    return sandbox.state.value


def forget(*images: str) -> None:
    """Removes images from this host's engine, as another host never had them."""
    for image in images:
        subprocess.run(["docker", "rmi", "-f", image], check=False, capture_output=True)


PYTHON_SDKS = """
import asyncio, pathlib, sys
from daytona import AsyncDaytona, CreateSandboxFromImageParams, Daytona, DaytonaConfig, Image
key, url, small, scratch = sys.argv[1:]
config = DaytonaConfig(api_key=key, api_url=url)
scratch = pathlib.Path(scratch)
(scratch / "tree/deep").mkdir(parents=True)
(scratch / "tree/deep/leaf").write_text("leaf\\n")

def image(text):
    (scratch / text).write_text(text + "\\n")
    return Image.base(small).add_local_file(scratch / text, "/added").add_local_dir(scratch / "tree", "/tree")

def params(text):
    return CreateSandboxFromImageParams(image=image(text))

sync = Daytona(config)
made = sync.create(params("synchronous"), timeout=100)
print(made.process.exec("cat /added /tree/deep/leaf").result.split())
sync.delete(made)

async def main():
    async with AsyncDaytona(config) as daytona:
        made = await daytona.create(params("asynchronous"), timeout=100)
        print((await made.process.exec("cat /added /tree/deep/leaf")).result.split())
        await daytona.delete(made)

asyncio.run(main())
"""


TRUSTED = Path("/etc/ssl/certs/ca-certificates.crt")


def upload_with_python(stack, authority: Path, directory: Path) -> None:
    """Local files of builds with both Python SDKs. They upload over TLS only; their machine trusts the authority, here in a mount namespace of the test's own."""
    bundle = directory / "bundle.crt"
    bundle.write_bytes(TRUSTED.read_bytes() + authority.read_bytes())
    script = directory / "upload.py"
    script.write_text(PYTHON_SDKS)
    inside = f'mount --bind {bundle} {TRUSTED} && exec "$@"'
    command = ["unshare", "--mount", "sh", "-c", inside, "sh", sys.executable, script, stack.key, stack.api_url, busybox(), directory]
    done = subprocess.run(command, capture_output=True, text=True, timeout=150, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines() == ["['synchronous', 'leaf']", "['asynchronous', 'leaf']"]


def upload_with_typescript(stack, **environment: str) -> None:
    """A local file of a build with the TypeScript SDK."""
    suite = REPO / "tests" / "compatibility" / "typescript" / "suite.mjs"
    known = os.environ | stack.client_environment() | {"SDK_ROOT": str(STATE / "node"), "SMALL_IMAGE": busybox()}
    command = [STATE / "node" / "bin" / "node", "--test", "--test-name-pattern", "local file", suite]
    done = subprocess.run(command, env=known | environment, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-1000:]


def test_local_files_of_a_build_with_both_python_sdks(stack, tmp_path):
    upload_with_python(stack, stack.data / "storage-ca.pem", tmp_path)


class OtherStore:
    """An S3 server of another make than moto, s3rver, over TLS with an authority of the test's own. It has a key, and no token service."""

    key = secret = "S3RVER"

    def __init__(self, directory: Path) -> None:
        self.authority, certificate, private = issue(directory)
        self.objects = directory / "objects"
        self.objects.mkdir()
        port = free_port()
        self.url = f"https://127.0.0.1:{port}"
        program = STATE / "sdk" / "node-s3rver" / "node_modules" / "s3rver" / "bin" / "s3rver.js"
        assert program.exists(), "s3rver is not set up; run tools/setup --tests"
        command = [STATE / "node" / "bin" / "node", program, "-d", self.objects, "-a", "127.0.0.1", "-p", str(port), "--key", private, "--cert", certificate, "--silent"]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        eventually(lambda: connects(port), "the S3 server to answer", 60)

    def buckets(self) -> set[str]:
        return {path.name for path in self.objects.iterdir()}


def connects(port: int) -> bool:
    with contextlib.suppress(OSError):
        socket.create_connection(("127.0.0.1", port), 1).close()
        return True
    return False


@pytest.fixture
def other_store(tmp_path: Path) -> Iterator[OtherStore]:
    running = OtherStore(tmp_path)
    yield running
    running.process.terminate()
    running.process.wait(10)


def kept_contexts(stack) -> set[Path]:
    """Build contexts in the data directory. What goes while it is looked at is no failure, as it is with `rglob`."""
    return {Path(folder, "context.tar") for folder, _, files in os.walk(stack.data) if "context.tar" in files}


def test_builds_and_volumes_use_another_store_over_tls(stack, daytona, restart, other_store, tmp_path):
    before = kept_contexts(stack)
    bundle = tmp_path / "trusted.crt"
    bundle.write_bytes(TRUSTED.read_bytes() + other_store.authority.read_bytes())
    restart(
        PINFOLD_S3_ENDPOINT=other_store.url,
        PINFOLD_S3_ACCESS_KEY=other_store.key,
        PINFOLD_S3_SECRET_KEY=other_store.secret,
        PINFOLD_S3_BUCKET="pf-contexts",
        SSL_CERT_FILE=str(bundle),
    )

    def contexts() -> int:
        return len([path for path in other_store.objects.glob("pf-contexts/**/context.tar*") if path.name.endswith("_object")])

    upload_with_typescript(stack, NODE_EXTRA_CA_CERTS=str(other_store.authority))
    assert contexts() == 1, "the TypeScript SDK put it there"
    upload_with_python(stack, other_store.authority, tmp_path)
    assert contexts() > 1, "so did Python's"
    assert kept_contexts(stack) == before, "and nobody into the built-in one"
    volume = daytona.volume.create(f"vol-{uuid.uuid4()}")
    assert f"daytona-volume-{volume.id}" in other_store.buckets()
    daytona.volume.delete(volume)
    eventually(lambda: f"daytona-volume-{volume.id}" not in other_store.buckets(), "the volume's bucket to be gone")


def test_builds_and_volumes_use_the_operators_object_store(stack, daytona, restart, object_store, make_sandbox):
    mounts = set(stack.mounts())
    restart(
        PINFOLD_S3_ENDPOINT=object_store,
        PINFOLD_S3_ACCESS_KEY="pf-access-key",
        PINFOLD_S3_SECRET_KEY="pf-secret-key",
        PINFOLD_S3_BUCKET="pf-contexts",
        PINFOLD_S3_ROLE="arn:aws:iam::123456789012:role/pf-uploads",
    )
    access = json.loads(stack.api("GET", "/object-storage/push-access")[1])
    assert access["storageUrl"] == object_store and access["bucket"] == "pf-contexts"
    assert access["sessionToken"] and access["accessKey"] != "pf-access-key" and access["secret"] != "pf-secret-key"
    # The TypeScript SDK, because Python's takes no plain HTTP.
    upload_with_typescript(stack)
    listed = fetch(f"{object_store}/pf-contexts?list-type=2")[1].decode()
    assert f"<Key>{access['organizationId']}/" in listed and "/context.tar</Key>" in listed, "the build read it from there"
    assert not kept_contexts(stack) or "pf-contexts" in listed

    volume = daytona.volume.create(f"vol-{uuid.uuid4()}")
    bucket = f"{object_store}/daytona-volume-{volume.id}"
    assert volume.state == "ready" and fetch(bucket)[0] == 200
    try:
        mount = [VolumeMount(volume_id=volume.id, mount_path="/home/daytona/shared")]
        first = make_sandbox(volumes=mount)
        first.fs.upload_file(b"kept", "shared/a file")
        first.process.exec("mkdir -p shared/deep && echo more > shared/deep/er")
        second = make_sandbox(volumes=mount)
        assert second.fs.download_file("shared/a file") == b"kept"
        with pytest.raises(DaytonaError, match="in use"):
            daytona.volume.delete(volume)
        for sandbox in (first, second):
            daytona.delete(sandbox, wait=True)
        objects = fetch(f"{bucket}?list-type=2")[1].decode()
        assert "<Key>a file</Key>" in objects and "<Key>deep/er</Key>" in objects
        third = make_sandbox(volumes=mount)
        assert third.process.exec("cat shared/deep/er").result == "more\n"
        daytona.delete(third, wait=True)
        daytona.volume.delete(volume)
        assert volume.name not in [v.name for v in daytona.volume.list()]
        eventually(lambda: fetch(bucket)[0] == 404, "the volume's bucket to be gone")
    finally:
        # The runner gives a mount back two minutes after its last use; the test does not wait for that.
        for point in set(stack.mounts()) - mounts:
            # It may have done so after all, in this moment.
            subprocess.run(["umount", "-l", point], check=False)


def test_a_deleted_volume_is_gone_from_the_disk(stack, daytona, make_sandbox):
    volume = daytona.volume.create(f"vol-{uuid.uuid4()}")
    made = make_sandbox(volumes=[VolumeMount(volume_id=volume.id, mount_path="/data")])
    made.fs.upload_file(b"x" * 100_000, "/data/file")
    directory = stack.data / "runner" / "volumes" / volume.id
    assert (directory / "file").stat().st_size == 100_000
    daytona.delete(made, wait=True)
    daytona.volume.delete(volume)
    eventually(lambda: not directory.exists(), "the volume's directory to be gone")


def test_a_registry_holds_what_is_made_and_only_while_it_is_needed(stack, daytona, restart, registry):
    """Built snapshots and backups go there and come back from there; deleted, they are gone from there. One that is gone is said to be gone."""
    restart(PINFOLD_REGISTRY=f"{registry.host}/boxes", PINFOLD_REGISTRY_USERNAME=registry.user, PINFOLD_REGISTRY_PASSWORD=registry.password)

    def backups_here() -> str:
        filters = ("--filter", f"reference={registry.host}/boxes/backup-*")
        return subprocess.run(["docker", "images", "-q", *filters], check=True, capture_output=True, text=True).stdout

    name, mark = f"built-{uuid.uuid4()}", uuid.uuid4().hex
    image = Image.base(busybox()).run_commands(f"echo {mark} > /built")
    snapshot = daytona.snapshot.create(CreateSnapshotParams(name=name, image=image), timeout=100)
    (built,) = registry.images()
    assert built.startswith("boxes/daytona-") and snapshot.ref == f"{registry.host}/{built}"
    forget(snapshot.ref, built.removeprefix("boxes/"))
    assert subprocess.run(["docker", "image", "inspect", snapshot.ref], check=False, capture_output=True).returncode != 0
    sandbox = daytona.create(CreateSandboxFromSnapshotParams(snapshot=name), timeout=60)
    try:
        assert sandbox.process.exec("cat /built").result == f"{mark}\n", "it was pulled"

        def archive() -> str:
            sandbox.stop()
            sandbox.archive()
            eventually(lambda: state_of(sandbox) == "archived", "the sandbox to be archived", 60)
            eventually(lambda: len(registry.images() - {built}) == 1, "one backup to be in the registry, and no older one")
            (backup,) = registry.images() - {built}
            assert backup.startswith(f"boxes/backup-{sandbox.id}:")
            forget(f"{registry.host}/{backup}")
            return backup

        sandbox.fs.upload_file(b"first", "/work")
        first = archive()
        sandbox.start(timeout=60)
        assert sandbox.fs.download_file("/work") == b"first", "restored from the registry"
        sandbox.fs.upload_file(b"second", "/work")
        second = archive()
        assert second != first, "the older backup is gone when the newer one is there"
        registry.remove(second)
        began = time.monotonic()
        with pytest.raises(DaytonaError, match=re.escape(second.split("/")[1])):
            sandbox.start(timeout=60)
        assert time.monotonic() - began < 30, "a failed restore is told, not waited for"
        assert state_of(sandbox) == "error" and sandbox.recoverable, "nothing older comes up in its place"
        daytona.delete(sandbox)
        sandbox = daytona.create(CreateSandboxFromSnapshotParams(snapshot=name), timeout=60)
        archive()
        daytona.delete(sandbox)
        eventually(lambda: registry.images() == {built}, "the backup of a deleted sandbox to be gone from the registry")
        eventually(lambda: not backups_here(), "the backups that were pulled to be gone from the host", 60)
    finally:
        with contextlib.suppress(DaytonaNotFoundError):
            daytona.delete(sandbox)
        daytona.snapshot.delete(snapshot)
    eventually(lambda: registry.images() == set(), "the deleted snapshot to be gone from the registry")
