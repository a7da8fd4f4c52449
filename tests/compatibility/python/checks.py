"""What the calls of methods.py are checked with. A check that fails is kept, and does not keep the next from being tried."""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import daytona as sdk
from recorder import Absent

#: Which of the SDK's two kinds: "sync" or "async".
KIND = sys.argv[1]
WRONG: list[str] = []


def step(action: Callable[[], Any]) -> Any:
    """One thing; what goes wrong in it is kept and does not keep the next from being tried."""
    try:
        return action()
    except Absent:
        return None
    except BaseException as error:
        where = traceback.extract_tb(error.__traceback__)
        frame = next((frame for frame in reversed(where) if frame.filename != __file__), where[-1])
        WRONG.append(f"{Path(frame.filename).name}:{frame.lineno}: {type(error).__name__}: {str(error)[:400]}")
        if isinstance(error, KeyboardInterrupt):
            raise
        return None


def same(got: Any, wanted: Any) -> None:
    """Both are equal."""
    if got != wanted:
        raise AssertionError(f"got {got!r}, wanted {wanted!r}")


def holds(condition: Any, what: str) -> None:
    """It is so."""
    if not condition:
        raise AssertionError(what)


def raises(name: str, action: Callable[[], Any], generated: str = "") -> None:
    """The action raises this class of the SDK, or one below it.

    Some services let their generated client's exceptions through; `generated` is what that one is called.
    """
    wanted = getattr(sdk, name, sdk.DaytonaError)
    try:
        action()
    except (Absent, wanted):
        return
    except Exception as error:
        if type(error).__name__ == generated:
            return
        raise AssertionError(f"got {type(error).__name__}, wanted {wanted.__name__}: {str(error)[:200]}") from error
    raise AssertionError(f"nothing was raised, wanted {wanted.__name__}")


def if_there(action: Callable[[], Any]) -> Any:
    """What the action finds, or nothing as long as it is not there.

    `create_snapshot` waits for the sandbox's state by events. That of the start before it may come after its own request's answer, and then it returns too early.
    """
    try:
        return action()
    except sdk.DaytonaNotFoundError:
        return None


def until(condition: Callable[[], Any], what: str, seconds: float = 60) -> Any:
    """Waits for something that happens in its own time."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        holds(time.monotonic() < deadline, f"waited {seconds} s for {what}")
        time.sleep(0.05)
    return value
