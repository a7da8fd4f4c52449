"""The object store as the SDKs' S3 clients use it."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from control_harness import Api, Process


class Store:
    """Requests with the access that was handed out."""

    def __init__(self, access: dict[str, Any]) -> None:
        self.root = f"{access['storageUrl']}/{access['bucket']}"
        credential = f"AWS4-HMAC-SHA256 Credential={access['accessKey']}/20260101/us-east-1/s3/aws4_request, Signature=0"
        self.headers = {"Authorization": credential, "X-Amz-Security-Token": access["sessionToken"]}

    def __call__(self, method: str, path: str, headers: dict[str, str] | None = None, **options: Any) -> httpx.Response:
        return httpx.request(method, self.root + path, headers={**self.headers, **(headers or {})}, **options)


@pytest.fixture
def access(api: Api) -> dict[str, Any]:
    answer = api.get("/object-storage/push-access")
    assert answer.status_code == 200
    return dict(answer.json())


@pytest.fixture
def store(access: dict[str, Any]) -> Store:
    return Store(access)


def test_access_names_everything(access: dict[str, Any]) -> None:
    assert access["region"] == "us-east-1" and access["organizationId"] and access["storageUrl"].startswith("http")


def test_single_uploads(store: Store, access: dict[str, Any]) -> None:
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
    framed = b"5;chunk-signature=0\r\nworld\r\n0;chunk-signature=0\r\n\r\n"
    sent = {"x-amz-content-sha256": "STREAMING-AWS4-HMAC-SHA256-PAYLOAD", "content-encoding": "aws-chunked"}
    assert store("PUT", key, headers=sent, content=framed).status_code == 200
    assert store("GET", key).content == b"world"
    assert store("PUT", key, headers=sent, content=b"5\r\nwor").status_code == 400
    assert store("GET", key).content == b"world", "half an upload changes nothing"


def test_uploads_in_parts(store: Store, access: dict[str, Any]) -> None:
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


def test_strangers_stay_out(store: Store, control: Process, access: dict[str, Any]) -> None:
    key = f"/{access['organizationId']}/89ab/context.tar"
    assert httpx.put(store.root + key, content=b"x").status_code == 403
    assert store("PUT", key, headers={"X-Amz-Security-Token": "wrong"}, content=b"x").status_code == 403
    for bad in ("/../../etc/x", "/a/..%2F..%2Fx/c", "/one", "/a/b/.hidden"):
        assert store("PUT", bad, content=b"x").status_code in (400, 403, 404), bad
    runner = f"AWS4-HMAC-SHA256 Credential={control.info['runnerToken']}/x"
    assert httpx.get(store.root + "/", headers={"Authorization": runner}).status_code == 200
