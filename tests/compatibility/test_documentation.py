"""The reference names every variable that the code reads, and no other."""

from __future__ import annotations

import re

import pytest

from support import REPO

SOURCES = ["control/src/config.rs", "pinfold/src/up.rs", "runner/src/config.rs", "daemon/src/config.rs"]
# A name that a settings module reads: a string literal that looks like one.
NAME = re.compile(r'"([A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+|HOME|DISPLAY|ENVIRONMENT)"')


def names_of_the_code(path: str) -> set[str]:
    source = (REPO / path).read_text().split("#[cfg(test)]")[0]
    return set(NAME.findall(source))


@pytest.mark.parametrize("path", SOURCES)
def test_every_variable_is_documented(path):
    reference = (REPO / "docs" / "configuration.md").read_text()
    documented = set(re.findall(r"`([A-Z][A-Z0-9_]+)`", reference))
    names = names_of_the_code(path)
    assert names, "the pattern found nothing"
    assert names <= documented


def test_nothing_is_documented_that_is_not_read():
    reference = (REPO / "docs" / "configuration.md").read_text()
    tables = [line for line in reference.split("## The scripts behind")[0].splitlines() if line.startswith("| `")]
    documented = {name for line in tables for name in re.findall(r"`([A-Z][A-Z0-9_]+)`", line.split("|")[1])}
    read = set().union(*(names_of_the_code(path) for path in SOURCES)) | {"LOG_LEVEL"}
    assert documented <= read


def test_links_lead_somewhere():
    for page in [*REPO.glob("*.md"), *(REPO / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
