"""The solver table is true: read off the plans, and the page in the docs is the current one."""

import subprocess
import sys
from pathlib import Path

import pytest

import fastgen
from fastgen import schedules
from fastgen.cli import main
from fastgen.cli import solver_table as table
from fastgen.solvers import registry

NAMES = fastgen.solvers.names()


def test_page_in_the_docs_is_current():
    page = Path(__file__).parents[2] / "docs" / "solvers.md"
    assert page.read_text() == table.markdown(), "run: fastgen solvers --markdown > docs/solvers.md"


def test_what_is_listed_without_plans_is_what_they_tell():
    written = Path(table.__file__).with_name("solver_facts.py")
    remedy = "run: fastgen solvers --facts > facts, and move it to fastgen/cli/solver_facts.py"
    assert written.read_text() == table.facts_module(), remedy


@pytest.mark.parametrize(
    "line", ["", "--order 2", "--no-stochastic --evaluations 2", "--two-times", "--order 9"]
)
def test_the_command_prints_the_same_without_loading_a_solver(line, capsys):
    command = ["solvers", *line.split()]
    assert main(command) == 0
    expected = capsys.readouterr().out
    program = (
        "import sys; from fastgen.cli import main; code = main(sys.argv[1:]); "
        "assert not {'torch', 'numpy', 'fastgen.solvers'} & set(sys.modules); sys.exit(code)"
    )
    found = subprocess.run(
        [sys.executable, "-c", program, *command], check=True, capture_output=True, text=True
    )
    assert found.stdout == expected


def test_solvers_of_a_program_are_listed(capsys, monkeypatch):
    monkeypatch.setattr(registry, "_SOLVERS", dict(registry._SOLVERS))
    registry.register("mine", order=1, source="this test")(fastgen.solvers.get("euler").build)
    assert main(["solvers", "--order", "1"]) == 0
    assert "this test" in capsys.readouterr().out


def test_rows_of_known_solvers():
    row = table.row("ddim")
    assert (row.order, row.evaluations, row.history, row.bytes) == (1, 1, 0, 12)
    assert row.stochastic == "eta > 0"
    assert table.row("heun").evaluations == 2
    assert table.row("ddpm").stochastic == "yes"
    assert table.row("rk4").stochastic == "no"
    assert table.row("mean_flow").cells()[1] == "-"


def test_more_steps_tell_no_more():
    assert [table.row(row.name, (8, 16)) for row in table.rows()] == table.rows()


def test_the_command_lists_a_part(capsys):
    assert main(["solvers", "--order", "2", "--no-stochastic", "--evaluations", "2"]) in (0, None)
    lines = capsys.readouterr().out.splitlines()
    listed = [line.split()[0] for line in lines if line.split() and line.split()[0] in NAMES]
    assert listed == fastgen.solvers.names(order=2, stochastic=False, evaluations=2)
    assert "heun" in listed
    assert main(["solvers", "--two-times"]) in (0, None)
    assert "mean_flow" in capsys.readouterr().out
    assert main(["solvers", "--markdown", "--order", "2"]) not in (0, None)
    assert "leave out order" in capsys.readouterr().err


@pytest.mark.parametrize("name", fastgen.solvers.names())
def test_every_solver_has_a_docstring_and_a_source(name):
    entry = fastgen.solvers.get(name)
    assert entry.source
    assert entry.build.__doc__
    assert len(entry.build.__doc__.split()) > 5


@pytest.mark.parametrize("name", fastgen.solvers.names())
@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize(
    "schedule",
    [
        schedules.Rectified(),
        schedules.LinearVP(),
        schedules.CosineVP(),
        schedules.EDM(),
        schedules.VE(),
        schedules.DiscreteVP.linear(100).rescale_zero_terminal_snr(),
    ],
    ids=lambda s: type(s).__name__,
)
def test_one_and_two_steps_to_data_on_every_schedule(name, steps, schedule):
    """With a network that is determined everywhere: velocity on flows, v elsewhere."""
    predicts = "velocity" if isinstance(schedule, schedules.Rectified) else "v"
    entry = fastgen.solvers.get(name)
    if entry.two_times:
        predicts = "average_velocity"
    needs_alpha = schedule.alpha(schedule.t_max) == 0 and name == "annealed_langevin"
    model = fastgen.Model(lambda x, t, *_: 0.3 * x, schedule, predicts)
    options = {"start": 0.95} if needs_alpha else {}
    x = fastgen.sample(model, (2, 3), name, steps, check_finite=True, **options)
    assert x.isfinite().all()


def test_command_line_prints_the_table(capsys):
    assert main(["solvers"]) == 0
    printed = capsys.readouterr().out
    for name in fastgen.solvers.names():
        assert f"\n{name} " in printed
