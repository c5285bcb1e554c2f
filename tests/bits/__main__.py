"""`python -m tests.bits record|compare FILE.json [--only PREFIX ...]`."""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
from collections import Counter, defaultdict
from pathlib import Path

import torch

from tests.bits import (  # noqa: F401 (each registers its groups)
    couplings,
    drop_ins,
    equations,
    integration,
    noise,
    plans,
    sampling,
    schedulers,
    training,
)
from tests.bits.registry import outcomes

# Of every kind of difference in a group; --only PREFIX looks at some groups.
SHOWN = 8


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bits", description=__doc__)
    parser.add_argument("command", choices=["record", "compare"])
    parser.add_argument("file", type=Path)
    parser.add_argument("--only", nargs="*", default=[], metavar="PREFIX", help="of case names")
    options = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)  # diffusers
    found: dict[str, str] = {}
    seconds: Counter[str] = Counter()
    begin = time.process_time()
    for name, outcome in outcomes(tuple(options.only)):
        if name in found:
            raise ValueError(f"two cases are called {name!r}")
        found[name] = outcome
        begin, last = time.process_time(), begin
        seconds[name.split("/")[0]] += begin - last
    for group, spent in seconds.items():
        own = [outcome for name, outcome in found.items() if name.startswith(f"{group}/")]
        raised = sum(":" in outcome for outcome in own)
        print(f"{group:14} {len(own):6} cases {raised:6} of them errors {spent:6.1f} s")
    print(f"{len(found)} cases in {seconds.total():.0f} s of CPU time")
    if options.command == "record":
        options.file.write_text(json.dumps(found, indent=0) + "\n")
        return 0
    return compare(json.loads(options.file.read_text()), found, tuple(options.only))


def kind(before: str, now: str | None) -> str:
    """What became of a case."""
    if now is None:
        return "missing"
    if ":" in now:
        return "message" if ":" in before else "an error now"
    return "no error now" if ":" in before else "bits"


def compare(before: dict[str, str], now: dict[str, str], prefixes: tuple[str, ...]) -> int:
    """Print what differs, some of every kind in every group; 1 if anything does."""
    if prefixes:
        before = {name: value for name, value in before.items() if name.startswith(prefixes)}
    differing: dict[tuple[str, str], list[str]] = defaultdict(list)
    for name, value in before.items():
        if now.get(name) != value:
            differing[kind(value, now.get(name)), name.split("/")[0]].append(name)
    for (what, group), names in sorted(differing.items()):
        print(f"\n{what}: {len(names)} of {group}")
        for name in names[:SHOWN]:
            print(f"  {name}: {before[name]} before, {now.get(name)} now")
    count = sum(map(len, differing.values()))
    new = sum(name not in before for name in now)
    print(f"{count} differ or are missing, {new} are new")
    return int(count > 0)


sys.exit(main())
