"""The pages say what is: variables, links, files and commands exist, and the examples run as they are printed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from stack import BINARY
from support import REPO

PAGES = [*REPO.glob("*.md"), *(REPO / "docs").glob("*.md")]

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
    # Not the whole tree: where the instance under test has its data, directories go while they are read.
    folders = [folder for folder in REPO.iterdir() if folder.is_dir() and folder.name[0] != "." and folder.name not in ("target", "third_party")]
    sources = [path for folder in folders for path in folder.glob("**/src/**/*.rs")]
    return set().union(*(OURS.findall(without_tests(path)) for path in sources)) - SET_BY_US


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
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def quoted(pattern: str) -> set[str]:
    """What stands in backquotes or in a block of code and looks like this."""
    found: set[str] = set()
    for page in PAGES:
        text = page.read_text()
        code = re.findall(r"`([^`\n]+)`", text) + re.findall(r"^    (\S.*)$", text, re.MULTILINE)
        found |= {match for piece in code for match in re.findall(pattern, piece)}
    return found


def test_files_that_are_named_exist():
    named = quoted(r"^(?:tests|bench|tools|docs|daemon|runner|control|proxy|http|cgroup|ssh-relay|ssh-transport|systemd|images|fuzz)/[\w./-]*$")
    assert len(named) > 40, "the pattern found nothing"
    made = ("target/", "fuzz/artifacts")
    assert {name for name in named if not (REPO / name).exists() and not name.startswith(made)} == set()


def test_targets_of_make_exist():
    targets = re.findall(r"^([a-z0-9-]+):.*##", (REPO / "Makefile").read_text(), re.MULTILINE)
    named = quoted(r"^(?:.*&& )?make ([a-z0-9-]+)")
    assert named >= {"demo", "up", "test", "bench"}
    assert named <= set(targets)


def test_commands_of_the_program_exist():
    named = quoted(r"(?:^|[=\w] )pinfold((?: [\w-]+)+(?: --?[\w-]+)*)")
    assert named >= {" up", " run", " doctor", " sandbox logs -f"}
    for line in sorted(named):
        words = [word for word in line.split() if not word.startswith("-")]
        answer = subprocess.run([BINARY, *words, "--help"], capture_output=True, text=True, timeout=30, check=False)
        usage = re.search(r"Usage: pinfold((?: [a-z]+)*)(.*)", answer.stdout)
        assert answer.returncode == 0 and usage is not None, f"pinfold{line}: {answer.stderr}"
        command = usage[1].split()
        assert command and words[: len(command)] == command, f"pinfold{line} is no command"
        assert len(words) == len(command) or "<" in usage[2], f"pinfold{line}: it takes no more words"
        assert all(option in answer.stdout for option in line.split() if option.startswith("-")), f"pinfold{line}"


def test_requests_of_the_pages_are_answered(stack):
    """Each `curl` as it is printed, by a shell."""
    commands = []
    for page in PAGES:
        commands += re.findall(r"^    (curl (?:.*\\\n)*.*)$", page.read_text(), re.MULTILINE)
    assert len(commands) == 3, commands
    made = []
    try:
        for command in commands:
            answer = subprocess.run(["sh", "-c", f"{command} -sf"], env=os.environ | stack.client_environment(), capture_output=True, text=True, timeout=30, check=False)
            assert answer.returncode == 0, f"{command}: {answer.stderr}"
            path = re.search(r"\$DAYTONA_API_URL(/\S+)", command)
            assert path is not None
            made.append(f"{path[1]}/{httpx.Response(200, text=answer.stdout).json()['id']}")
    finally:
        for path in made:
            assert stack.api("DELETE", path)[0] == 204, path


def test_the_example_of_the_readme_runs(stack):
    code = re.search(r"```python\n(.*?)```", (REPO / "README.md").read_text(), re.DOTALL)
    assert code is not None
    environment = os.environ | stack.client_environment()
    done = subprocess.run([sys.executable, "-c", code[1]], env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("0 6") and "sheep,7" in done.stdout and "ssh -p" in done.stdout, done.stdout
