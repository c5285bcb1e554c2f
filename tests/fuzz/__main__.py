"""`python -m tests.fuzz [--minutes M] [--seed S] [--kind api]`: cases, counts and what is bad."""

import argparse
import sys

from tests.fuzz.engine import KINDS, counts, failures, run, unclear

parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
parser.add_argument("--minutes", type=float, default=15.0)
parser.add_argument("--examples", type=int, default=100_000)
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--kind", choices=list(KINDS), action="append")
arguments = parser.parse_args()
kinds = arguments.kind or list(KINDS)
bad = 0
for kind in kinds:
    report = run(kind, arguments.examples, arguments.seed, arguments.minutes / len(kinds))
    for line in [*failures(report), *unclear(report)]:
        print(line)
    print(f"{kind}: {len(report)} cases, {dict(counts(report))}", flush=True)
    bad += len(failures(report))
sys.exit(bad > 0)
