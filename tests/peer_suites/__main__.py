"""`python -m tests.peer_suites PEER PATH`: a peer's tests against the peer and against fastgen.

PATH is a copy of the peer's repository, or of a source distribution with its tests; nothing is
fetched, nothing written there. Each run is a process of its own; the second one finds the drop-in
where the peer is imported. Prints a row for each file of tests and, with --failures, each failure's
first line. The peer itself must be installed (--extra adds a folder to the path).
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import pathlib
import subprocess
import sys
import tempfile

# Where each peer keeps its tests, and which of them are not ours to pass.
SUITES = {
    "diffusers": "tests/schedulers/test_*.py",
    "flow_matching": "tests/*/test_*.py",
    "scipy": "test_linear_assignment.py",
    "torchcfm": "tests/test_*.py",
    "torchdiffeq": "tests/*_tests.py",
    "torchsde": "tests/test_*.py",
}
HERE = pathlib.Path(__file__).parent


def run(peer, path, swapped, files, extra, arguments, seconds):
    """Outcomes and reasons of one run."""
    with tempfile.TemporaryDirectory() as folder:
        out = pathlib.Path(folder) / "outcomes.json"
        paths = [str(HERE), str(HERE.parents[1]), *extra, os.environ.get("PYTHONPATH", "")]
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, paths)),
            "PYTHONDONTWRITEBYTECODE": "1",
            "FASTGEN_SWAP": peer if swapped else "",
            "FASTGEN_OUTCOMES": str(out),
        }
        # The suite's own configuration is not read: it may ask for plugins that are not here.
        command = [sys.executable, "-m", "pytest", "-q", "-p", "peer_swap"]
        command += ["-c", os.devnull, "--rootdir", str(path), "-p", "no:cacheprovider"]
        command += ["--continue-on-collection-errors"]
        subprocess.run(
            [*command, *arguments, *files],
            cwd=path,
            env=environment,
            stdout=subprocess.DEVNULL,
            timeout=seconds,
            check=False,
        )
        if not out.exists():
            raise SystemExit(f"{peer}: pytest ended without a result; run it by hand: {command}")
        found = json.loads(out.read_text())
    return found["outcomes"], found["reasons"]


def table(theirs, ours):
    """Rows (file, passed by the peer, of these passed by us, run); the sum is the last."""
    rows = collections.OrderedDict()
    for name, outcome in theirs.items():
        if outcome == "passed":
            row = rows.setdefault(name.split("::")[0], [0, 0])
            row[0] += 1
            row[1] += ours.get(name) == "passed"
    total = [sum(row[i] for row in rows.values()) for i in (0, 1)]
    return [*((file, *row) for file, row in rows.items()), ("all", *total)]


def main():
    """Parse, run twice, print."""
    parser = argparse.ArgumentParser(prog="python -m tests.peer_suites", description=__doc__)
    parser.add_argument("peer", choices=sorted(SUITES))
    parser.add_argument("path", type=pathlib.Path)
    parser.add_argument("--files", help="glob of test files below PATH")
    parser.add_argument("--extra", action="append", default=[], help="a folder for the path")
    parser.add_argument("--failures", action="store_true", help="print each failure")
    parser.add_argument("--seconds", type=float, default=3600, help="limit of one run")
    parser.add_argument("rest", nargs="*", help="arguments of pytest, after --")
    given = parser.parse_args()
    pattern = given.files or SUITES[given.peer]
    files = sorted(str(p.relative_to(given.path)) for p in given.path.glob(pattern))
    if not files:
        raise SystemExit(f"{given.path}: no file is {pattern}")
    common = (files, given.extra, given.rest, given.seconds)
    theirs, _ = run(given.peer, given.path, False, *common)
    ours, reasons = run(given.peer, given.path, True, *common)
    print(f"| {given.peer}'s tests | the peer passes | fastgen passes of these |\n|---|---|---|")
    for file, passed, also in table(theirs, ours):
        print(f"| {file} | {passed} | {also} |")
    if given.failures:
        for name, reason in reasons.items():
            # A file that cannot be imported stands for its tests.
            if theirs.get(name, "passed") == "passed":
                print(f"\n{name}\n    {reason}")


if __name__ == "__main__":
    main()
