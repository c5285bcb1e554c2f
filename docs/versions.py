"""The site of several versions beside each other: `python docs/versions.py [--tags v0.1.0 ...]`.

Builds the site of every tag v* (or those named) and of the working tree, "dev", each into
docs/_build/html/<version>, and writes what the version switcher reads. Nothing is downloaded.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
DEV = "dev"
REDIRECT = (
    "<!doctype html><title>fastgen</title>"
    '<meta http-equiv="refresh" content="0; url={0}/index.html">'
)
LINK = '<a href="{0}/index.html">fastgen {0}</a>\n'


def git(*words: str) -> str:
    """What git prints."""
    return subprocess.run(
        ("git", "-C", str(ROOT), *words), check=True, capture_output=True, text=True
    ).stdout.strip()


def released() -> list[str]:
    """Tags v*, the newest first, with pre-releases before what they lead to."""
    return git("tag", "--list", "v*", "--sort=-version:refname").split()


def switcher(versions: list[str]) -> list[dict[str, object]]:
    """Entries of the switcher, the first release being the one that is recommended.

    Addresses are relative to the file; docs/_static/offline.js completes them.
    """
    stable = next((v for v in versions if re.fullmatch(r"\d+(\.\d+)*", v)), versions[0])
    return [
        {"name": v + " (stable)" * (v == stable != DEV), "version": v, "url": f"{v}/"}
        | ({"preferred": True} if v == stable else {})
        for v in versions
    ]


def build(tree: Path, version: str, out: Path) -> None:
    """The site of one tree."""
    environment = {**os.environ, "FASTGEN_DOCS_VERSION": version, "PYTHONPATH": str(tree)}
    command = (sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q")
    subprocess.run(
        (*command, str(tree / "docs"), str(out / version)), check=True, env=environment, cwd=tree
    )


def build_tag(tag: str, out: Path) -> None:
    """The site of a tag, from a checkout of it with its own kernels."""
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / tag
        git("worktree", "add", "--detach", str(tree), tag)
        try:
            extension = (sys.executable, "setup.py", "-q", "build_ext", "--inplace")
            subprocess.run(extension, check=True, cwd=tree)
            build(tree, tag.removeprefix("v"), out)
        finally:
            git("worktree", "remove", "--force", str(tree))


def write_switcher(versions: list[str], out: Path) -> None:
    """switcher.json, the same as a script for pages on disk, and a first page that leads on."""
    entries = switcher(versions)
    text = json.dumps(entries, indent=1)
    (out / "switcher.json").write_text(text + "\n")
    (out / "switcher.js").write_text(f"window.fastgenVersions = {text};\n")
    first = next(str(e["version"]) for e in entries if e.get("preferred"))
    (out / "index.html").write_text((REDIRECT + LINK).format(first))


def main() -> None:
    """Build them all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tags", nargs="*", default=None, help="default: every tag v*")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "_build" / "html")
    arguments = parser.parse_args()
    out: Path = arguments.out.resolve()
    tags = released() if arguments.tags is None else arguments.tags
    with_site = [tag for tag in tags if git("ls-tree", "--name-only", tag, "docs/conf.py")]
    for tag in with_site:
        build_tag(tag, out)
    build(ROOT, DEV, out)
    write_switcher([*(tag.removeprefix("v") for tag in with_site), DEV], out)


if __name__ == "__main__":
    main()
