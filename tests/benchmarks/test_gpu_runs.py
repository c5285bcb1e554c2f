"""What `benchmarks/gpu.sh` leaves to its next call."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.gpu.bench import Bench
from benchmarks.tools.harness import Provider


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
