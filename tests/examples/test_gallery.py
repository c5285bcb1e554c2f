"""The gallery's examples are short, begin with a title and use the public API; a few are run.

`make docs` runs all of them, and an example that fails fails the build.
"""

import ast
import importlib
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
FILES = sorted(EXAMPLES.glob("plot_*.py"))
LINES = 125
# Rooms that are no part of what a user is told to import.
INTERNAL = {"common", "demo", "cli", "kernels"}

# What an example needs beyond the gallery's own requirements; it is left out where that is missing.
NEEDS = {
    "plot_accelerate": "accelerate",
    "plot_digits_http": "starlette",
    "plot_lightning": "lightning",
}

every = pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)


def tree_of(file):
    return ast.parse(file.read_text("utf8"))


def test_there_are_many_and_each_stands_alone():
    assert len(FILES) >= 20
    assert sorted(EXAMPLES.glob("*.py")) == FILES


@every
def test_begins_with_a_title_and_says_what_one_sees(file):
    title, underline, blank, *rest = ast.get_docstring(tree_of(file)).splitlines()
    assert re.fullmatch("=+", underline)
    assert len(underline) == len(title) <= 60
    assert blank == ""
    assert len(" ".join(rest).split()) >= 30


def test_titles_differ():
    titles = [ast.get_docstring(tree_of(file)).splitlines()[0] for file in FILES]
    assert len(set(titles)) == len(titles)


@every
def test_is_short_and_in_cells(file):
    text = file.read_text("utf8")
    assert len(text.splitlines()) <= LINES
    assert text.count("\n# %%") >= 1
    assert text.rstrip().endswith("plt.show()")


@every
def test_imports_what_is_public(file):
    if file.stem in NEEDS:
        pytest.importorskip(NEEDS[file.stem])
    for node in ast.walk(tree_of(file)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
            assert "sys" not in names
            assert all(name == "fastgen" or not name.startswith("fastgen.") for name in names)
        if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] == "fastgen":
            assert not INTERNAL & set(node.module.split("."))
            module = importlib.import_module(node.module)
            for alias in node.names:
                assert alias.name in module.__all__, f"{node.module}.{alias.name}"


@every
def test_names_of_fastgen_exist(file):
    if file.stem in NEEDS:
        pytest.importorskip(f"fastgen.integrations.{NEEDS[file.stem]}")
    for chain in set(re.findall(r"\bfastgen((?:\.[A-Za-z_]\w*)+)", file.read_text("utf8"))):
        value, path = importlib.import_module("fastgen"), "fastgen"
        for name in chain.strip(".").split("."):
            assert not name.startswith("_")
            assert name not in INTERNAL
            path += f".{name}"
            if not hasattr(value, name):  # a drop-in is imported by its name
                importlib.import_module(path)
            value = getattr(value, name)


def test_the_network_of_the_digits_is_the_same_wherever_it_is_shared():
    block = re.compile(r"^digits = load_digits\(\).train\n.*?^model = [^\n]*$", re.M | re.S)
    sharing = [file for file in FILES if "out/digits.safetensors" in file.read_text("utf8")]
    assert len(sharing) >= 5
    assert len({block.search(file.read_text("utf8"))[0] for file in sharing}) == 1


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Runs an example by its name, in another folder, and gives its variables."""
    matplotlib = pytest.importorskip("matplotlib")
    pyplot = pytest.importorskip("matplotlib.pyplot")
    backend = matplotlib.get_backend()
    matplotlib.use("Agg")
    monkeypatch.setattr(pyplot, "show", lambda: None)
    monkeypatch.chdir(tmp_path)
    yield lambda name: runpy.run_path(str(EXAMPLES / f"plot_{name}.py"))
    pyplot.close("all")
    matplotlib.use(backend)


def test_orders_are_those_that_the_table_states(run):
    from fastgen import solvers

    slopes = run("solver_orders")["slopes"]
    assert len(slopes) == 5
    for name, slope in slopes.items():
        assert abs(slope - solvers.get(name).order) < 0.2, name


def test_implicit_methods_and_adaptive_steps_pay(run):
    values = run("equation_stiff")
    assert values["field"].calls == values["before"]  # asking took no evaluation
    dearest, cheapest = max(values["steps"]), min(values["explicit"])
    assert dearest[0] < cheapest[0] / 2  # Radau's evaluations beside the explicit method's
    assert dearest[1] < 1e-6
    (calls, error), (most, best) = values["chosen"][0], values["fixed"][-1]
    assert calls < most
    assert error < best / 2


def test_bounces_are_found_where_they_are(run):
    values = run("equation_bouncing_ball")
    assert len(values["bounces"]) > 8
    assert values["found"] == pytest.approx((4 / values["GRAVITY"]) ** 0.5, abs=2e-9)


def test_parametrisations_give_one_sample(run):
    found = run("solver_parametrisations")["found"]
    assert len(found) == 6
    for x in found.values():
        assert float((x - found["data"]).abs().max()) < 1e-12


def test_as_a_program(tmp_path):
    pytest.importorskip("matplotlib")
    command = [sys.executable, str(EXAMPLES / "plot_solver_schedules_and_grids.py")]
    environment = {"MPLBACKEND": "Agg", "PYTHONPATH": str(EXAMPLES.parent)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
