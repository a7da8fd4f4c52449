"""Language servers of the SDK, Python and TypeScript, with the relative paths that SDKs send."""

from __future__ import annotations

import pytest
from daytona import DaytonaError, LspCompletionPosition, LspLanguageId

from support import eventually

PYTHON = 'class Greeter:\n    def greet(self) -> str:\n        return "hi"\n\n\nGreeter().gr\n'
TYPESCRIPT = "export class Counter {\n  count = 0;\n  increment() { this.count++; }\n}\n\nnew Counter().incr\n"


@pytest.fixture(
    scope="module",
    params=[
        (LspLanguageId.PYTHON, "proj/main.py", PYTHON, "Greeter", "greet"),
        (LspLanguageId.TYPESCRIPT, "proj/main.ts", TYPESCRIPT, "Counter", "increment"),
    ],
    ids=["python", "typescript"],
)
def case(sandbox, request):
    language, path, source, name, member = request.param
    sandbox.fs.upload_file(source.encode(), path)
    server = sandbox.create_lsp_server(language, "proj")
    server.start()
    server.did_open(path)
    yield server, path, name, member
    server.did_close(path)
    server.stop()


def test_document_symbols(case):
    server, path, name, _ = case
    eventually(lambda: name in [s.name for s in server.document_symbols(path)], "the class among the document's symbols", 60)


def test_workspace_symbols(case):
    server, _, name, _ = case
    eventually(lambda: name in [s.name for s in server.sandbox_symbols(name)], "the class among the workspace's symbols", 60)


def test_completions(case):
    server, path, _, member = case
    # Line 6 of both sources ends in the middle of the member's name; lines count from 0.
    column = 12 if path.endswith(".py") else 18

    def labels() -> list[str]:
        return [i.label for i in server.completions(path, LspCompletionPosition(line=5, character=column)).items]

    eventually(lambda: any(label.startswith(member) for label in labels()), "the method among the completions", 60)


def test_starting_twice_is_harmless(case):
    case[0].start()


def test_a_server_that_was_not_started(sandbox):
    with pytest.raises(DaytonaError):
        sandbox.create_lsp_server(LspLanguageId.PYTHON, "elsewhere").document_symbols("elsewhere/x.py")
