"""The store's SQL is PostgreSQL's, too: the migrations build the tables there, and every statement of the table modules is prepared against them.

What this decides: the schema and the statements can move as they are; the connection, the placeholders (`?` here, `$1` there) and the copy of the
database (`VACUUM INTO`, in `store/backup.rs`) are SQLite's. There is no PostgreSQL back end, and this claims none.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from control_harness import ROOT

STORE = ROOT / "control" / "src" / "store"
# Modules that are about SQLite's file and not about tables.
SQLITE = {"backup.rs", "migrate.rs"}
STATEMENT = re.compile(r'"((?:SELECT|INSERT|UPDATE|DELETE)\b[^"]*)"', re.DOTALL)


class Cluster:
    """A PostgreSQL of the test's own, on a socket only."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        found = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
        assert found, "PostgreSQL is not installed; tools/setup --tests does that"
        self.bin = found[-1]
        self.user: list[str] = []
        if os.geteuid() == 0:
            # It refuses to run as root.
            self.user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
            shutil.chown(directory, "postgres", "postgres")
        self.run(self.bin / "initdb", "-D", directory / "data", "-U", "store", "-A", "trust", "--no-sync", "--locale=C", "--encoding=UTF8")
        settings = f"-c listen_addresses='' -c unix_socket_directories='{directory}' -c fsync=off"
        self.run(self.bin / "pg_ctl", "-D", directory / "data", "-w", "-l", directory / "log", "-o", settings, "start")

    def run(self, *command: object, text: str = "") -> subprocess.CompletedProcess[str]:
        words = [*self.user, *(str(word) for word in command)]
        done = subprocess.run(words, input=text, capture_output=True, text=True, timeout=60, cwd="/", check=False)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done

    def psql(self, text: str) -> str:
        command = (self.bin / "psql", "-h", self.directory, "-U", "store", "-d", "postgres", "-v", "ON_ERROR_STOP=1", "-q")
        return self.run(*command, text=text).stdout

    def stop(self) -> None:
        self.run(self.bin / "pg_ctl", "-D", self.directory / "data", "-m", "immediate", "stop")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    # Below /tmp, because a socket's path is short, and pytest's own directories are closed to other users.
    directory = Path(subprocess.run(["mktemp", "-d", "/tmp/pinfold-pg-XXXXXX"], check=True, capture_output=True, text=True).stdout.strip())
    try:
        running = Cluster(directory)
        yield running
        running.stop()
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def statements() -> Iterator[tuple[str, str]]:
    """Every statement of the table modules, by its module."""
    for path in sorted(STORE.glob("*.rs")):
        if path.name in SQLITE:
            continue
        source = path.read_text().split("#[cfg(test)]")[0]
        for text in STATEMENT.findall(source):
            if "{columns}" in text:
                columns = re.findall(r'^    "(\w+)",$', source, re.MULTILINE)
                marks = ", ".join("?" * len(columns))
                sets = ", ".join(f"{column} = excluded.{column}" for column in columns[1:])
                text = text.replace("{columns}", ", ".join(columns)).replace("{marks}", marks).replace("{}", sets)
            yield path.name, text


def numbered(text: str) -> str:
    count = 0

    def number(found: re.Match[str]) -> str:
        nonlocal count
        if found.group(1):
            return f"${found.group(1)}"
        count += 1
        return f"${count}"

    return re.sub(r"\?(\d*)", number, text)


def test_postgresql_takes_every_table_and_statement(cluster: Cluster) -> None:
    for migration in sorted((ROOT / "control" / "migrations").glob("*.sql")):
        cluster.psql(migration.read_text())
    found = list(statements())
    # Each table module has some, or the pattern finds nothing any more.
    # `mirror.rs` runs what the modules with a small table give it.
    modules = {path.name for path in STORE.glob("*.rs") if "sqlx::query" in path.read_text()} - SQLITE - {"mod.rs", "mirror.rs"}
    assert {name for name, _ in found} >= modules, modules
    for at, (name, text) in enumerate(found):
        assert "{" not in text, f"{name}: {text}"
        cluster.psql(f"PREPARE s{at} AS {numbered(text)};")
