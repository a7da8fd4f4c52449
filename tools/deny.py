#!/usr/bin/env python3
"""Checks licences, banned crates and sources by deny.toml, from what cargo itself knows.

For hosts without cargo-deny, which also knows advisories and duplicates. Prints what is wrong; exits 1 if anything is.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent
REGISTRY = "registry+https://github.com/rust-lang/crates.io-index"


def allowed(expression: str, licences: set[str]) -> bool:
    """Whether an SPDX expression can be met with these licences: one side of each OR, both of each AND, `/` as OR of old manifests."""
    words = re.findall(r"\(|\)|[^\s()]+", expression.replace("/", " OR "))
    # An exception belongs to the licence before it: `Apache-2.0 WITH LLVM-exception` is one name.
    tokens: list[str] = []
    for word in words:
        if word == "WITH" or (tokens and tokens[-1].endswith(" WITH")):
            tokens[-1] += f" {word}"
        else:
            tokens.append(word)

    def either() -> bool:
        value = both()
        while tokens and tokens[0] == "OR":
            tokens.pop(0)
            right = both()
            value = value or right
        return value

    def both() -> bool:
        value = one()
        while tokens and tokens[0] == "AND":
            tokens.pop(0)
            right = one()
            value = value and right
        return value

    def one() -> bool:
        token = tokens.pop(0)
        if token == "(":
            value = either()
            tokens.pop(0)
            return value
        return token in licences

    return either()


def main() -> int:
    rules = tomllib.loads((REPO / "deny.toml").read_text())
    licences, banned = set(rules["licenses"]["allow"]), {entry["crate"] for entry in rules["bans"]["deny"]}
    triples = [argument for target in rules["graph"]["targets"] for argument in ("--filter-platform", target)]
    command = ["cargo", "metadata", "--locked", "--format-version", "1", *triples]
    packages = json.loads(subprocess.run(command, check=True, capture_output=True, text=True, cwd=REPO).stdout)["packages"]
    wrong = []
    for package in packages:
        name = f"{package['name']} {package['version']}"
        if package["source"] not in (None, REGISTRY):
            wrong.append(f"{name}: from {package['source']}")
        if package["name"] in banned:
            wrong.append(f"{name}: banned")
        if not package["license"] and not package["license_file"]:
            wrong.append(f"{name}: no licence")
        elif package["license"] and not allowed(package["license"], licences):
            wrong.append(f"{name}: licence {package['license']}")
    for line in wrong:
        print(line, file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
