"""`python -m benchmarks`, and the paths that its shell script names."""

import importlib
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

import benchmarks
from benchmarks.suites import SUITES
from benchmarks.tools.rows import read


def test_every_suite_is_a_module_with_rows():
    for name in SUITES:
        assert callable(importlib.import_module(f"benchmarks.suites.{name}").rows)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["kernel"], "unknown suite 'kernel'"),
        (["--quik"], "unrecognized arguments"),
        (["--quick", "--keep"], "whole runs"),
    ],
)
def test_the_command_line_refuses(arguments, message, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["benchmarks", *arguments])
    with pytest.raises(SystemExit) as stopped:
        runpy.run_module("benchmarks", run_name="__main__")
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_the_command_line_writes_rows_and_report(tmp_path):
    out = tmp_path / "rows.csv"
    command_line = [sys.executable, "-m", "benchmarks", "startup", "--quick", "--out", str(out)]
    run = subprocess.run(command_line, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    first, second, *_ = read(out)
    assert (first.suite, second.suite) == ("startup", "startup")
    assert (tmp_path / "report.html").exists()
    again = subprocess.run(
        [*command_line, "--resume", "--compare", str(out)], capture_output=True, text=True
    )
    assert "rows changed beyond noise" in again.stdout


def test_the_script_for_gpus_names_tests_that_are_there():
    folder = Path(benchmarks.__file__).parent
    named = re.findall(r"tests/\S+\.py", (folder / "gpu.sh").read_text())
    assert named
    assert [path for path in named if not (folder.parent / path).exists()] == []
