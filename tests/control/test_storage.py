"""The object store as the SDKs' S3 clients use it."""

from __future__ import annotations

import hashlib
import os
import ssl
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from control_harness import Api, Process, SignedStore, fetch, free_port


@pytest.fixture
def access(api: Api) -> dict[str, Any]:
    answer = api.get("/object-storage/push-access")
    assert answer.status_code == 200
    return dict(answer.json())


@pytest.fixture
def store(access: dict[str, Any]) -> SignedStore:
    return SignedStore(access)


def test_access_names_everything(access: dict[str, Any]) -> None:
    assert access["region"] == "us-east-1" and access["organizationId"] and access["storageUrl"].startswith("http")


def test_single_uploads(store: SignedStore, access: dict[str, Any]) -> None:
    key = f"/{access['organizationId']}/0123abcd/context.tar"
    assert store("HEAD", key).status_code == 404
    put = store("PUT", key, content=b"hello")
    assert put.status_code == 200 and put.headers["etag"]
    head = store("HEAD", key)
    assert head.status_code == 200 and head.headers["content-length"] == "5"
    assert store("GET", key).content == b"hello"
    listed = store("GET", f"/?list-type=2&max-keys=1&prefix={access['organizationId']}/0123abcd/")
    assert "<KeyCount>1</KeyCount>" in listed.text
    empty = store("GET", "/?list-type=2&prefix=none/")
    assert "<KeyCount>0</KeyCount>" in empty.text


def test_uploads_in_chunks_are_verified_chunk_by_chunk(store: SignedStore, access: dict[str, Any]) -> None:
    """As minio's and Amazon's older clients upload over plain HTTP."""
    key = f"/{access['organizationId']}/c4a9/context.tar"
    pieces = [b"hello " * 20_000, b"world"]
    assert store.put_in_chunks(key, pieces).status_code == 200
    assert store("GET", key).content == b"".join(pieces)
    for spoiled in (0, 1):
        refused = store.put_in_chunks(key, pieces, spoiled)
        assert refused.status_code == 403 and "SignatureDoesNotMatch" in refused.text
    sent = {"x-amz-content-sha256": "STREAMING-AWS4-HMAC-SHA256-PAYLOAD", "content-encoding": "aws-chunked"}
    unsigned = b"5;chunk-signature=0\r\nwords\r\n0;chunk-signature=0\r\n\r\n"
    assert store("PUT", key, headers=sent, content=unsigned).status_code == 403
    assert store("PUT", key, headers=sent, content=b"5\r\nwords\r\n0\r\n\r\n").status_code == 403
    other = {**sent, "x-amz-content-sha256": "STREAMING-AWS4-ECDSA-P256-SHA256-PAYLOAD"}
    assert store("PUT", key, headers=other, content=unsigned).status_code == 501
    assert store("GET", key).content == b"".join(pieces), "what is refused changes nothing"
    trailing = {**sent, "x-amz-content-sha256": "STREAMING-UNSIGNED-PAYLOAD-TRAILER"}
    body = b"5\r\nwords\r\n0\r\nx-amz-checksum-crc32:AAAAAA==\r\n\r\n"
    assert store("PUT", key, headers=trailing, content=body).status_code == 200
    assert store("GET", key).content == b"words"
    assert store("PUT", key, headers=trailing, content=b"5\r\nwor").status_code == 400
    assert store("GET", key).content == b"words", "half an upload changes nothing"


def test_uploads_in_parts(store: SignedStore, access: dict[str, Any]) -> None:
    key = f"/{access['organizationId']}/4567cdef/context.tar"
    begun = store("POST", key + "?uploads=").text
    upload = begun.split("<UploadId>")[1].split("<")[0]
    for number, content in ((2, b"second"), (1, b"first-")):
        assert store("PUT", f"{key}?partNumber={number}&uploadId={upload}", content=content).status_code == 200
    parts = "".join(f"<Part><PartNumber>{n}</PartNumber><ETag>x</ETag></Part>" for n in (1, 2))
    done = store("POST", f"{key}?uploadId={upload}", content=f"<CompleteMultipartUpload>{parts}</CompleteMultipartUpload>")
    assert done.status_code == 200 and "ETag" in done.text
    assert store("GET", key).content == b"first-second"
    assert store("PUT", f"{key}?partNumber=1&uploadId={upload}", content=b"x").status_code == 404


def test_strangers_stay_out(store: SignedStore, control: Process, access: dict[str, Any]) -> None:
    key = f"/{access['organizationId']}/89ab/context.tar"
    assert fetch("PUT", f"{store.base}/daytona{key}", content=b"x").status_code == 403
    for changed in ({"sessionToken": "wrong"}, {"secret": "wrong"}, {"accessKey": "wrong"}):
        assert SignedStore({**access, **changed})("PUT", key, content=b"x").status_code == 403, changed
    for bad in ("/../../etc/x", "/a/..%2F..%2Fx/c", "/one", "/a/b/.hidden"):
        assert store("PUT", bad, content=b"x").status_code in (400, 403, 404), bad
    token = control.info["runnerToken"]
    runner = SignedStore({**access, "accessKey": token, "secret": token, "sessionToken": ""})
    assert runner("GET", "/").status_code == 200
    assert SignedStore({**access, "accessKey": token, "secret": "x", "sessionToken": ""})("GET", "/").status_code == 403


def test_a_signature_is_for_one_request_and_some_minutes(store: SignedStore, access: dict[str, Any]) -> None:
    key = f"/{access['organizationId']}/5191/context.tar"
    headers = store.sign("GET", f"/daytona{key}", {}, time.time())
    assert fetch("GET", f"{store.base}/daytona{key}", headers=headers).status_code == 404, "as it was signed"
    other = fetch("GET", f"{store.base}/daytona{key}x", headers=headers)
    assert other.status_code == 403 and "SignatureDoesNotMatch" in other.text
    assert fetch("DELETE", f"{store.base}/daytona{key}", headers=headers).status_code == 403
    for late in (-3600, 3600):
        skewed = store("GET", key, at=time.time() + late)
        assert skewed.status_code == 403 and "RequestTimeTooSkewed" in skewed.text


def test_a_body_has_to_be_the_one_that_was_signed(store: SignedStore, access: dict[str, Any]) -> None:
    key = f"/{access['organizationId']}/b0d7/context.tar"
    told = {"x-amz-content-sha256": hashlib.sha256(b"hello").hexdigest()}
    assert store("PUT", key, headers=told, content=b"hello").status_code == 200
    other = store("PUT", key, headers=told, content=b"HELLO")
    assert other.status_code == 400 and "XAmzContentSHA256Mismatch" in other.text
    assert store("GET", key).content == b"hello"


def test_the_bucket_may_be_in_the_host(store: SignedStore, access: dict[str, Any]) -> None:
    by_host = SignedStore(access, host="daytona." + store.host)
    key = f"/{access['organizationId']}/0057/context.tar"
    assert by_host("PUT", key, content=b"by host").status_code == 200
    assert store("GET", key).content == b"by host"
    assert "<KeyCount>1</KeyCount>" in by_host("GET", f"/?list-type=2&prefix={access['organizationId']}/0057/").text


PYTHON_SDK = """
import sys
from daytona import CreateSandboxFromImageParams, Daytona, DaytonaConfig, Image
daytona = Daytona(DaytonaConfig(api_key=sys.argv[1], api_url=sys.argv[2]))
lines = []
image = Image.base("base:1").add_local_file(sys.argv[3], "/opt/file")
box = daytona.create(CreateSandboxFromImageParams(image=image), on_snapshot_create_logs=lines.append)
again = daytona.create(CreateSandboxFromImageParams(image=image))
print(box.state.value, again.state.value, len(box.build_info.context_hashes))
"""


def test_the_python_sdk_uploads_local_files(tmp_path: Path) -> None:
    """It refuses plain HTTP, so the store speaks TLS; the client's machine has to trust our authority, here in a mount namespace of the test's own."""
    environment = {"PINFOLD_DATA_DIR": str(tmp_path / "data"), "PINFOLD_STORAGE_PORT": str(free_port())}
    process = Process(tmp_path / "log", **environment)
    try:
        local = tmp_path / "file"
        local.write_bytes(b"x" * 6_000_000)
        trusted = Path("/etc/ssl/certs/ca-certificates.crt")
        bundle = tmp_path / "bundle.crt"
        bundle.write_bytes(trusted.read_bytes() + (tmp_path / "data/storage-ca.pem").read_bytes())
        script = tmp_path / "upload.py"
        script.write_text(PYTHON_SDK)
        user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
        inside = f'mount --bind {bundle} {trusted} && exec "$@"'
        told = [process.info["apiKey"], process.info["url"], str(local)]
        command = ["unshare", "--mount", *user, "sh", "-c", inside, "sh", sys.executable, str(script), *told]
        done = subprocess.run(command, capture_output=True, text=True, timeout=150)
        assert done.returncode == 0, done.stderr[-3000:]
        assert done.stdout.split() == ["started", "started", "1"]
        objects = list((tmp_path / "data").rglob("context.tar"))
        assert len(objects) == 1 and objects[0].stat().st_size > 6_000_000
    finally:
        process.stop()


def test_the_authority_stays_and_its_key_is_ours_alone(tmp_path: Path) -> None:
    port = free_port()
    seen = []
    for _ in range(2):
        process = Process(tmp_path / "log", PINFOLD_DATA_DIR=str(tmp_path / "data"), PINFOLD_STORAGE_PORT=str(port))
        authority = tmp_path / "data/storage-ca.pem"
        context = ssl.create_default_context(cafile=str(authority))
        assert fetch("GET", f"https://127.0.0.1:{port}/daytona/", verify=context).status_code == 403
        assert fetch("GET", f"https://localhost:{port}/daytona/", verify=context).status_code == 403
        seen.append(authority.read_bytes())
        process.stop()
    assert seen[0] == seen[1]
    assert (tmp_path / "data/storage-ca.key").stat().st_mode & 0o777 == 0o600


def test_clients_get_the_address_that_they_can_use(tmp_path: Path) -> None:
    port = free_port()
    process = Process(tmp_path / "log", PINFOLD_DATA_DIR=str(tmp_path / "data"), PINFOLD_STORAGE_PORT=str(port))
    try:
        api = Api(process.info["url"], process.info["apiKey"])

        def url(source: str) -> str:
            return str(api.get("/object-storage/push-access", headers={"X-Daytona-Source": source}).json()["storageUrl"])

        for python in ("sdk-python", "sdk-python-async"):
            assert url(python) in (f"https://127.0.0.1:{port}", f"https://localhost:{port}")
        assert url("sdk-typescript").startswith("http://")
    finally:
        process.stop()
