"""What the tests of bad days share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from node import Node, in_place_of


@pytest.fixture(scope="module")
def node(stack) -> Iterator[Node]:
    """A runner of its own in the place of the instance under test."""
    with in_place_of(stack) as node:
        # Without a disk that can be resized there is nothing to kill it in the middle of.
        node.engine.disks = True
        node.start()
        yield node
