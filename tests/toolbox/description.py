"""The toolbox's published API description and what an answer has to look like by it.

The description is lenient: it requires few members and forbids none, so that a misspelt one would pass. Here every member is one that is described, or one
of ours that is named below, and what v0.190 always sends is required; `spoiled` makes answers that must not pass.

`description.json` is the vendor's own OpenAPI 2.0 description of the toolbox, minified and otherwise unchanged. It is under the Apache License 2.0, as
its `info.license` says, and so is this project.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema

DESCRIPTION = json.loads((Path(__file__).parent / "description.json").read_text())
# What the description has not, and the prose contract has (2.4, 16.1), or we add.
MORE_CODES = [
    "INVALID_FILE_PATH",
    "FILE_READ_FAILED",
    "RESOURCES_EXHAUSTED",
    "SERVICE_UNAVAILABLE",
]
DESCRIPTION["definitions"]["DaemonErrorCode"]["enum"] += MORE_CODES
_TEXT, _WHOLE, _YES, _LIST = {"type": "string"}, {"type": "integer"}, {"type": "boolean"}, {"type": "array"}
_RAN = {"pid": _WHOLE, "durationMs": _WHOLE, "signal": _TEXT, "stdout": _TEXT, "stderr": _TEXT, "truncated": _YES, "oomKilled": _YES}
# What we add to answers (docs/process-reference.md, docs/files.md), and what the prose contract has in errors (2.4, 5.9, 16.1).
MORE_MEMBERS = {
    "ExecuteResponse": _RAN,
    "CodeRunResponse": _RAN,
    "Command": {"timedOut": _YES, "oomKilled": _YES},
    "Session": {"ended": _WHOLE},
    "SessionCommandLogsResponse": {"nextOffset": _WHOLE},
    "FileInfo": {"ownerName": _TEXT, "groupName": _TEXT},
    "ErrorResponse": {"error": _TEXT, "details": _TEXT, "solution": _TEXT, "output": _TEXT, "cmdId": _TEXT, "errors": _LIST, "files": _LIST},
}
# What is always there, though the description does not say so.
ALWAYS = {
    "ExecuteResponse": ["exitCode"],
    "CodeRunResponse": ["exitCode", "result"],
    "PortList": ["ports"],
    "IsPortInUseResponse": ["isInUse"],
    "ReplaceResult": ["file", "success"],
    "SystemMetrics": ["cpuCount", "cpuUsedPct", "diskFree", "diskTotal", "diskUsed", "memTotal", "memUsed", "timestamp", "timestampUnix"],
}
for _name, _definition in DESCRIPTION["definitions"].items():
    if "properties" in _definition:
        _definition["properties"] |= MORE_MEMBERS.get(_name, {})
        _definition.setdefault("additionalProperties", False)
        if _name in ALWAYS:
            _definition["required"] = sorted({*_definition.get("required", []), *ALWAYS[_name]})
# Answers that are described as maps of anything, and the one member that each has.
MAPS = {
    "GET /version": "version",
    "POST /init": "message",
    "POST /env": "message",
    "DELETE /process/pty/{sessionId}": "message",
    "DELETE /process/interpreter/context/{id}": "message",
}
ERROR = {"$ref": "#/definitions/ErrorResponse"}
# "METHOD /path" of each operation.
OPERATIONS = [f"{method.upper()} {path}" for path, methods in DESCRIPTION["paths"].items() for method in methods]


def operation(name: str) -> dict:
    method, path = name.split(" ", 1)
    return DESCRIPTION["paths"][path][method.lower()]


def schema(name: str, status: int) -> dict | None:
    """The schema of the body of such an answer: the described one, the error object for errors that are not described, none for no body."""
    described = operation(name)["responses"].get(str(status))
    if described is None:
        return ERROR if status >= 400 else None
    if status < 400 and name in MAPS:
        return {"type": "object", "properties": {MAPS[name]: _TEXT}, "required": [MAPS[name]], "additionalProperties": False}
    return described.get("schema")


def validate(body: Any, against: dict) -> None:
    """Raises unless the body is as the schema says."""
    jsonschema.Draft4Validator({**against, "definitions": DESCRIPTION["definitions"]}).validate(body)


def spoiled(body: Any) -> Iterator[Any]:
    """Copies of an answer with one thing wrong: another type, a member misspelt, a member of another type."""
    yield 17 if isinstance(body, (dict, list, str)) else {}
    if isinstance(body, list):
        yield [17, *body]
        for wrong in spoiled(body[0]) if body else ():
            yield [wrong, *body[1:]]
    if isinstance(body, dict):
        for member, value in body.items():
            others = {name: other for name, other in body.items() if name != member}
            yield others | {f"{member}X": value}
            yield others | {member: 17 if isinstance(value, (dict, list, str)) else {}}
