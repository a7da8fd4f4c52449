"""The toolbox's published API description and what an answer has to look like by it.

`description.json` is the vendor's own OpenAPI 2.0 description of the toolbox, minified and otherwise unchanged. It is under the Apache License 2.0, as
its `info.license` says, and so is this project.
"""

from __future__ import annotations

import json
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
    return described.get("schema")


def validate(body: Any, against: dict) -> None:
    """Raises unless the body is as the schema says."""
    jsonschema.Draft4Validator({**against, "definitions": DESCRIPTION["definitions"]}).validate(body)
