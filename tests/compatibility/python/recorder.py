"""Stands before the objects of a Python SDK, synchronous or not: calls them all the same way, and keeps how each call ended.

Only the standard library and the SDK, because it runs with the Python of an SDK's own environment.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from typing import Any

#: How calls ended, by "Class.method" as the synchronous SDK has it: "ok", or the names of the error's classes.
ENDS: dict[str, list[str]] = defaultdict(list)
#: What was called and is not in this version of the SDK, as "Class.method".
ABSENT: set[str] = set()
LOOP = asyncio.new_event_loop()


class Absent(Exception):
    """This version of the SDK has no such method."""


def absent(cls: type, name: str) -> Absent:
    """Notes that a class has no such member."""
    missing = f"{name_of(cls)}.{name}"
    ABSENT.add(missing)
    return Absent(missing)


def has(holder: Any, name: str) -> bool:
    """Whether what stands behind a recorder has this member; that it has not is noted."""
    there = hasattr(plain(holder), name)
    if not there:
        absent(type(plain(holder)), name)
    return there


def name_of(cls: type) -> str:
    """A class's name in the synchronous SDK."""
    return cls.__name__.removeprefix("Async")


def finish(value: Any) -> Any:
    """Waits for what has to be waited for, and reads streams to their end."""
    if inspect.isawaitable(value):
        value = LOOP.run_until_complete(_await(value))
    if isinstance(value, AsyncIterator):
        return LOOP.run_until_complete(_collect(value))
    return list(value) if isinstance(value, Iterator) else value


async def _await(value: Any) -> Any:
    return await value


async def _collect(items: AsyncIterator[Any]) -> list[Any]:
    return [item async for item in items]


def plain(value: Any) -> Any:
    """What stands behind a recorder."""
    if isinstance(value, Recorder):
        return value._target
    return type(value)(plain(item) for item in value) if isinstance(value, list | tuple) else value


def recorded(value: Any) -> Any:
    """A recorder before an object with methods of the SDK; anything else as it is."""
    if isinstance(value, list):
        return [recorded(item) for item in value]
    methods = name_of(type(value)) in {"Sandbox", "FileSystem", "Process", "Git", "LspServer", "CodeInterpreter", "PtyHandle"}
    return Recorder(value) if methods or type(value).__name__.endswith("Service") else value


class Recorder:
    """One object. Attributes and calls go through."""

    def __init__(self, target: Any) -> None:
        object.__setattr__(self, "_target", target)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._target, name, value)

    def __getattr__(self, name: str) -> Any:
        target = self._target
        if not hasattr(target, name):
            raise absent(type(target), name)
        value = getattr(target, name)
        if not callable(value) or isinstance(value, type):
            return recorded(value)
        ends = ENDS[f"{name_of(type(target))}.{name}"]

        @functools.wraps(value)
        def call(*arguments: Any, **keywords: Any) -> Any:
            try:
                result = finish(value(*plain(arguments), **{k: plain(v) for k, v in keywords.items()}))
            except Exception as error:
                ends.append(" ".join(c.__name__ for c in type(error).__mro__ if issubclass(c, Exception)))
                raise
            ends.append("ok")
            return recorded(result)

        return call
