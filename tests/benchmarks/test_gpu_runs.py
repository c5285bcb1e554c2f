"""What `benchmarks/gpu.sh` leaves to its next call."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import benchmarks.gpu.__main__ as gpu
from benchmarks.gpu.bench import Bench
from benchmarks.tools.harness import Provider
from benchmarks.tools.rows import read
from tests.support import without_hypothesis
from tests.support.assignments import shortest_paths


def test_measured_cases_are_kept_and_skipped_ones_tried_again(tmp_path):
    built = []

    def provider(name, fails=False):
        def build():
            built.append(name)
            if fails:
                raise RuntimeError("not now")
            return Provider("", lambda: None)

        return build

    def run(resume, fails):
        bench = Bench("cpu", tmp_path / "rows.csv", 100, quick=True, resume=resume)
        providers = {"first": provider("first"), "second": provider("second", fails)}
        return bench, bench.compare("suite", "case", (2, 3), torch.float32, providers)

    _, medians = run(False, True)
    assert set(medians) == {"first"}
    bench, again = run(True, False)
    assert built == ["first", "second", "second"]
    assert again["first"] == pytest.approx(medians["first"])
    assert {r.metric for r in bench.found} == {"time"}
    assert set(again) == {"first", "second"}


@pytest.mark.slow
def test_the_way_is_gone_without_a_gpu(tmp_path):
    """What a first hour on a device would stumble over; a second call finds nothing left to do."""
    root = Path(__file__).parents[2]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_XDIST")}
    environment |= {"DRY": "1", "OUT": str(tmp_path), "PYTHON": sys.executable}
    environment |= {"TEST_PROCESSES": "2", "SECONDS_IN_ALL": "900", "TEST_SECONDS": "300"}
    command = ["bash", str(root / "benchmarks/gpu.sh")]
    rows = []
    for call in range(2):
        run = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-1000:]
        for part in ("== build", "== tests", "== benchmarks", "== the longest tests", "in all"):
            assert part in run.stdout, part
        assert ("nothing left of" in run.stdout) == bool(call)
        rows.append([r for r in read(tmp_path / "gpu.csv") if r.metric != "skipped"])
    assert len(rows[0]) > 100
    assert rows[0] == rows[1]
    assert {r.suite for r in rows[0]} >= {"copy", "table", "loops", "ode", "coupling", "sinkhorn"}


@pytest.mark.parametrize("shape", [(1, 1), (7, 7), (5, 9), (9, 5), (60, 60)])
def test_assignments_without_scipy_are_those_of_scipy(shape):
    """On a machine that has none the kernels are compared with these."""
    optimize = pytest.importorskip("scipy.optimize")
    generator = np.random.default_rng(sum(shape))
    for costs in (generator.normal(size=shape), generator.integers(0, 4, shape)):
        rows, columns = shortest_paths(costs)
        wanted = costs[optimize.linear_sum_assignment(costs)].sum()
        assert costs[rows, columns].sum() == pytest.approx(wanted, abs=1e-12)
        assert len(set(rows)) == len(set(columns)) == len(rows) == min(shape)
        assert rows.tolist() == sorted(rows)


def test_a_suite_that_fails_leaves_the_others(tmp_path, monkeypatch):
    ran = []

    def fails(bench):
        raise RuntimeError("no such thing")

    monkeypatch.setattr(gpu, "copies", lambda bench: 1.0)
    monkeypatch.setattr(gpu, "loops", fails)
    monkeypatch.setattr(gpu, "integrate", ran.append)
    command = ["--device", "cpu", "--quick", "--out", str(tmp_path / "rows.csv")]
    command += ["--suite", "loops", "--suite", "ode"]
    monkeypatch.setattr(sys, "argv", ["benchmarks.gpu", *command])
    with pytest.raises(SystemExit, match="failed: loops"):
        gpu.main()
    assert len(ran) == 1


def test_passed_tests_are_left_out(tmp_path):
    (tmp_path / "test_two.py").write_text(
        "import pathlib\ndef test_good(): pass\n"
        "def test_bad(): assert pathlib.Path('mended').exists()\n"
    )
    root = str(Path(__file__).parents[2])
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    command += ["-p", "tests.support.resumed", "test_two.py"]
    environment = {"FASTGEN_PASSED": str(tmp_path / "passed"), "PYTHONPATH": root}

    def run():
        result = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        return result.returncode, result.stdout

    code, shown = run()
    assert code == 1
    assert "1 failed, 1 passed" in shown
    (tmp_path / "mended").touch()
    code, shown = run()
    assert code == 0
    assert "1 passed, 1 deselected" in shown
    assert run()[0] == 5  # nothing is left


def test_without_hypothesis_torch_is_whole(monkeypatch):
    """torch._dynamo asks which modules there are; a stand-in without a specification broke it."""
    before = {name: module for name, module in sys.modules.items() if "hypothesis" in name}
    for name in before:
        monkeypatch.delitem(sys.modules, name)
    without_hypothesis.install()
    try:
        assert importlib.util.find_spec("hypothesis").loader is None
    finally:
        for name in ("hypothesis", "hypothesis.strategies"):
            sys.modules.pop(name)
        sys.modules.update(before)
