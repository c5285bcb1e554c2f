"""The kernel suite for pytest-benchmark: `pytest benchmarks --benchmark-only`."""

from typing import Any

import pytest

from benchmarks.suites import kernels
from benchmarks.tools import harness
from fastgen.common.threads import threads

CASES = {f"{case.name}, {case.shape[-1]}": case for case in kernels.cases(quick=True)}
PAIRS = [(case, p.name) for case in CASES for p in CASES[case].providers]


@pytest.mark.parametrize(("case", "provider"), PAIRS, ids=str)
def test_kernel(benchmark: Any, case: str, provider: str) -> None:
    """Time one provider of a case, after the check that it computes the same."""
    work = CASES[case]
    harness.check(work)
    with threads(work.threads):
        benchmark.group = case
        benchmark(next(p.run for p in work.providers if p.name == provider))
