"""The reference names every variable that the code reads, and no other."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from support import REPO

SOURCES = ["control/src/config.rs", "pinfold/src/up.rs", "runner/src/config/mod.rs", "runner/src/config/environment.rs", "otlp/src/settings.rs", "daemon/src/config.rs"]
# A name that a settings module reads: a string literal that looks like one.
NAME = re.compile(r'"([A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+|HOME|DISPLAY|ENVIRONMENT)"')
# A name that any other module reads: our own ones, and the original's switches.
OURS = re.compile(r'"(PINFOLD_[A-Z0-9_]+|DAYTONA_EXPERIMENTAL_[A-Z0-9_]+)"')
# Set by us, for a session's shell.
SET_BY_US = {"PINFOLD_COMMAND"}


def names_of_the_code(path: str) -> set[str]:
    return set(NAME.findall(without_tests(REPO / path)))


def names_anywhere() -> set[str]:
    crates = [path for path in REPO.glob("**/src/**/*.rs") if not {"target", "third_party"} & set(path.parts)]
    return set().union(*(OURS.findall(without_tests(path)) for path in crates)) - SET_BY_US


def without_tests(path: Path) -> str:
    # What the compiler is told is no variable of a running process.
    return path.read_text().split("#[cfg(test)]")[0].replace('env!("', "env!(")


def documented() -> set[str]:
    return set(re.findall(r"`([A-Z][A-Z0-9_]+)`", (REPO / "docs" / "configuration.md").read_text()))


@pytest.mark.parametrize("path", SOURCES)
def test_every_variable_is_documented(path):
    names = names_of_the_code(path)
    assert names, "the pattern found nothing"
    assert names <= documented()


def test_no_variable_is_read_in_a_corner_and_documented_nowhere():
    names = names_anywhere()
    assert "PINFOLD_GIT_TIMEOUT" in names, "the pattern found nothing"
    assert names <= documented()


def test_nothing_is_documented_that_is_not_read():
    reference = (REPO / "docs" / "configuration.md").read_text()
    tables = [line for line in reference.split("## The scripts behind")[0].splitlines() if line.startswith("| `")]
    names = {name for line in tables for name in re.findall(r"`([A-Z][A-Z0-9_]+)`", line.split("|")[1])}
    read = set().union(*(names_of_the_code(path) for path in SOURCES)) | names_anywhere() | {"LOG_LEVEL"}
    assert names <= read


def test_links_lead_somewhere():
    for page in [*REPO.glob("*.md"), *(REPO / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
