"""Every method of the SDK's file system class, right and wrong."""

from __future__ import annotations

import os
import threading
from pathlib import PurePosixPath

import pytest
from daytona import DaytonaError, DaytonaNotFoundError, FileDownloadRequest, FileUpload

BINARY = bytes(range(256)) * 64


@pytest.fixture
def folder(sandbox, request) -> str:
    """A folder of the test's own, relative to the working directory."""
    name = f"files/{request.node.name.split('[')[0]}"
    sandbox.fs.create_folder(name, "755")
    return name


def names(sandbox, path: str) -> list[str]:
    return sorted(entry.name for entry in sandbox.fs.list_files(path))


def test_create_folder_with_its_parents(sandbox, folder):
    sandbox.fs.create_folder(f"{folder}/a/b/c", "750")
    info = sandbox.fs.get_file_info(f"{folder}/a/b/c")
    assert info.is_dir
    assert info.permissions.endswith("750")


@pytest.mark.parametrize("name", ["plain.txt", "with space.txt", "ünïcødé-文件.txt", 'quo"te.txt', "semi;colon&.txt", "-dash", "new\nline"])
def test_bytes_come_back_whatever_the_name(sandbox, folder, name):
    sandbox.fs.upload_file(BINARY, f"{folder}/{name}")
    assert sandbox.fs.download_file(f"{folder}/{name}") == BINARY
    assert name in names(sandbox, folder)


def test_empty_file(sandbox, folder):
    sandbox.fs.upload_file(b"", f"{folder}/empty")
    assert sandbox.fs.get_file_info(f"{folder}/empty").size == 0
    assert sandbox.fs.download_file(f"{folder}/empty") == b""


def test_upload_makes_missing_folders(sandbox, folder):
    sandbox.fs.upload_file(b"deep", f"{folder}/x/y/z.txt")
    assert sandbox.fs.download_file(f"{folder}/x/y/z.txt") == b"deep"


def test_upload_replaces(sandbox, folder):
    sandbox.fs.upload_file(b"a long first version", f"{folder}/f")
    sandbox.fs.upload_file(b"short", f"{folder}/f")
    assert sandbox.fs.download_file(f"{folder}/f") == b"short"


def test_from_and_to_local_files(sandbox, folder, tmp_path):
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(BINARY)
    sandbox.fs.upload_file(str(source), f"{folder}/f")
    sandbox.fs.download_file(f"{folder}/f", str(target))
    assert target.read_bytes() == BINARY


def test_batches(sandbox, folder, tmp_path):
    sandbox.fs.upload_files([FileUpload(f"content {i}".encode(), f"{folder}/{i}.txt") for i in range(20)])
    wanted = [FileDownloadRequest(f"{folder}/{i}.txt") for i in range(20)]
    sandbox.fs.upload_file(b"to a file", f"{folder}/local")
    wanted.append(FileDownloadRequest(f"{folder}/local", str(tmp_path / "local")))
    wanted.append(FileDownloadRequest(f"{folder}/missing"))
    got = sandbox.fs.download_files(wanted)
    assert [r.result for r in got[:20]] == [f"content {i}".encode() for i in range(20)]
    assert (tmp_path / "local").read_bytes() == b"to a file"
    assert got[-1].result is None
    assert "missing" in got[-1].error


def test_streams_report_progress(sandbox, folder):
    content = os.urandom(3 << 20)
    sent, received = [], []
    sandbox.fs.upload_file_stream(content, f"{folder}/big", on_progress=lambda p: sent.append(p.bytes_sent))
    got = b"".join(sandbox.fs.download_file_stream(f"{folder}/big", on_progress=received.append))
    assert got == content
    assert sent[-1] >= len(content)
    assert received[-1].bytes_received == len(content)
    assert {p.total_bytes for p in received} == {len(content)}


def test_a_cancelled_download_leaves_the_sandbox_well(sandbox, folder):
    sandbox.fs.upload_file(os.urandom(8 << 20), f"{folder}/big")
    cancel = threading.Event()
    stream = sandbox.fs.download_file_stream(f"{folder}/big", cancel_event=cancel)
    next(stream)
    cancel.set()
    with pytest.raises(DaytonaError):
        for _ in stream:
            pass
    assert sandbox.fs.get_file_info(f"{folder}/big").size == 8 << 20


def test_list_with_depth(sandbox, folder):
    sandbox.fs.upload_file(b"1", f"{folder}/one")
    sandbox.fs.upload_file(b"2", f"{folder}/sub/two")
    assert names(sandbox, folder) == ["one", "sub"]
    deeper = {entry.path or entry.name for entry in sandbox.fs.list_files(folder, depth=2)}
    assert any(path.endswith("sub/two") for path in deeper), deeper


def test_list_of_an_empty_folder_is_a_list(sandbox, folder):
    assert sandbox.fs.list_files(folder) == []


def test_info(sandbox, folder):
    sandbox.fs.upload_file(b"12345", f"{folder}/f")
    info = sandbox.fs.get_file_info(f"{folder}/f")
    assert (info.name, info.size, info.is_dir) == ("f", 5, False)
    assert (info.owner, info.group) == ("1000", "1000")
    assert info.modified_at


def test_find_search_and_replace(sandbox, folder):
    sandbox.fs.upload_files(
        [
            FileUpload(b"import os\nneedle = 1\n", f"{folder}/a.py"),
            FileUpload(b"nothing here\n", f"{folder}/b.py"),
            FileUpload(b"x\ny\nneedle again\n", f"{folder}/sub/c.txt"),
        ]
    )
    found = sandbox.fs.find_files(folder, "needle")
    assert sorted((PurePosixPath(m.file).name, m.line) for m in found) == [("a.py", 2), ("c.txt", 3)]
    assert sorted(PurePosixPath(f).name for f in sandbox.fs.search_files(folder, "*.py").files) == ["a.py", "b.py"]
    results = sandbox.fs.replace_in_files([f"{folder}/a.py", f"{folder}/sub/c.txt"], "needle", "pin")
    assert [r.success for r in results] == [True, True]
    assert sandbox.fs.download_file(f"{folder}/a.py") == b"import os\npin = 1\n"
    assert sandbox.fs.find_files(folder, "needle") == []


def test_move(sandbox, folder):
    sandbox.fs.upload_file(b"moved", f"{folder}/from")
    sandbox.fs.move_files(f"{folder}/from", f"{folder}/to")
    assert names(sandbox, folder) == ["to"]


def test_permissions(sandbox, folder):
    sandbox.fs.upload_file(b"#!/bin/sh\necho ran\n", f"{folder}/script")
    sandbox.fs.set_file_permissions(f"{folder}/script", "755", owner="daytona", group="daytona")
    assert sandbox.process.exec(f"./{folder}/script").result == "ran\n"


def test_delete(sandbox, folder):
    sandbox.fs.upload_file(b"x", f"{folder}/d/f")
    with pytest.raises(DaytonaError):
        sandbox.fs.delete_file(f"{folder}/d")
    sandbox.fs.delete_file(f"{folder}/d/f")
    sandbox.fs.delete_file(f"{folder}/d", recursive=True)
    assert names(sandbox, folder) == []


@pytest.mark.parametrize(
    "call",
    [
        lambda fs: fs.download_file("missing/file"),
        lambda fs: b"".join(fs.download_file_stream("missing/file")),
        lambda fs: fs.get_file_info("missing/file"),
        lambda fs: fs.list_files("missing/folder"),
        lambda fs: fs.delete_file("missing/file"),
        lambda fs: fs.move_files("missing/file", "elsewhere"),
    ],
    ids=["download", "stream", "info", "list", "delete", "move"],
)
def test_what_is_missing_is_not_found(sandbox, call):
    with pytest.raises(DaytonaNotFoundError, match=r"missing|no such|not found"):
        call(sandbox.fs)


def test_two_sandboxes_transfer_at_once(sandbox, make_sandbox):
    other = make_sandbox()
    failures = []

    def transfer(box, name: str) -> None:
        content = os.urandom(1 << 20)
        try:
            for _ in range(5):
                box.fs.upload_file(content, f"race/{name}")
                assert box.fs.download_file(f"race/{name}") == content
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=transfer, args=(box, name)) for box in (sandbox, other) for name in ("one", "two")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
