#!/usr/bin/env python3
"""Prints our figures beside their floors, both measured in this run on this machine, so that only their ratio is judged.

    make bench                     everything
    make bench ARGS="create exec"  only these
    make bench ARGS="--judge"      exit 1 when a goal is missed

A floor is what the same result costs without us: the engine's own API for the same container, a bare process, a plain TCP copy.
Samples of floor and figure alternate, so a change of the machine's mood meets both. SPECIFICATION.md has the goals.
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent / "tools")]

import measure  # noqa: E402
from stack import STATE, Background, Stack, StackError  # noqa: E402
from table import Row, print_table  # noqa: E402


@contextlib.contextmanager
def instance() -> Iterator[Stack]:
    """A fresh instance with a data directory of its own, removed afterwards with all it made."""
    if Background().pid() is not None:
        raise StackError("make up is running, and a host carries one instance at a time: make down first")
    (STATE / "tmp").mkdir(parents=True, exist_ok=True)
    directory = Path(tempfile.mkdtemp(prefix="bench-", dir=STATE / "tmp"))
    stack = Stack(directory)
    try:
        stack.start()
        yield stack
    finally:
        stack.remove_sandboxes()
        stack.stop()
        stack.sweep()
        shutil.copy(stack.log, STATE / "logs" / "bench-pinfold.log")
        shutil.rmtree(directory, ignore_errors=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"any of: {', '.join(measure.ALL)}")
    parser.add_argument("--judge", action="store_true", help="exit 1 when a goal is missed")
    arguments = parser.parse_args()
    unknown = set(arguments.names) - set(measure.ALL)
    if unknown:
        parser.error(f"no such benchmark: {', '.join(sorted(unknown))}")
    chosen = arguments.names or list(measure.ALL)
    rows: list[Row] = []
    try:
        for name in (n for n in chosen if n in measure.ALONE):
            print(f"bench: {name}", file=sys.stderr, flush=True)
            rows += measure.ALONE[name]()
        if needs := [n for n in chosen if n in measure.WITH_STACK]:
            with instance() as stack:
                for name in needs:
                    print(f"bench: {name}", file=sys.stderr, flush=True)
                    rows += measure.WITH_STACK[name](stack)
    except StackError as error:
        print(f"bench: {error}", file=sys.stderr)
        return error.status
    except KeyboardInterrupt:
        return 130
    print_table(rows)
    return 1 if arguments.judge and any(row.met() is False for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
