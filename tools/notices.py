#!/usr/bin/env python3
"""Prints what the host binary and the daemon inside it are linked with: each crate with its licence, then each licence text once.

From cargo's own metadata and the crates' sources, which a build has fetched; nothing is downloaded.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent
TEXTS = ("LICENSE", "LICENCE", "COPYING", "NOTICE", "COPYRIGHT")


def linked(metadata: dict) -> list[dict]:
    """The packages that the two binaries need to run: normal dependencies, from their crates on."""
    nodes = {node["id"]: node for node in metadata["resolve"]["nodes"]}
    packages = {package["id"]: package for package in metadata["packages"]}
    todo = [p["id"] for p in packages.values() if p["name"] in ("pinfold", "pinfold-daemon") and p["source"] is None]
    seen: set[str] = set()
    while todo:
        current = todo.pop()
        if current in seen:
            continue
        seen.add(current)
        todo += [d["pkg"] for d in nodes[current]["deps"] if any(kind["kind"] is None for kind in d["dep_kinds"])]
    return sorted((packages[i] for i in seen if packages[i]["source"] is not None), key=lambda p: (p["name"], p["version"]))


def main() -> int:
    target = subprocess.run(["rustc", "-vV"], check=True, capture_output=True, text=True).stdout.split("host: ")[1].split()[0]
    command = ["cargo", "metadata", "--locked", "--offline", "--format-version", "1", "--filter-platform", target]
    metadata = json.loads(subprocess.run(command, check=True, capture_output=True, text=True, cwd=REPO).stdout)
    texts: dict[str, tuple[str, list[str]]] = {}
    for package in linked(metadata):
        name = f"{package['name']} {package['version']}"
        print(f"{name}: {package['license'] or 'see its text below'}; {package['repository'] or ''}".rstrip("; "))
        for file in sorted(Path(package["manifest_path"]).parent.iterdir()):
            if file.is_file() and file.name.upper().startswith(TEXTS):
                text = file.read_text(errors="replace").strip()
                texts.setdefault(hashlib.sha256(text.encode()).hexdigest(), (text, []))[1].append(name)
    for text, names in texts.values():
        print(f"\n{'=' * 100}\n{', '.join(dict.fromkeys(names))}\n\n{text}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
