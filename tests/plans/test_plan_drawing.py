"""Pictures of plans: the table drawn is that of the instructions."""

import numpy as np
import pytest

import fastgen
from fastgen.plans.drawing import coefficients
from fastgen.plans.forms import Let, name

plt = pytest.importorskip("matplotlib.pyplot")
CASES = [
    ("dpmpp_3m", fastgen.schedules.CosineVP(), {"steps": 10}),
    ("heun", fastgen.schedules.EDM(), {"steps": 4}),
    ("ddpm", fastgen.schedules.LinearVP(), {"steps": 6}),
    ("unipc", fastgen.schedules.Rectified(), {"steps": 5}),
    ("annealed_langevin", fastgen.schedules.VE(), {"steps": 3}),
    ("predictor_corrector", fastgen.schedules.VE(), {"steps": 3}),
]


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def panels(figure):
    return figure.axes[0], next(axes for axes in figure.axes if axes.images)


@pytest.mark.parametrize(("solver", "schedule", "options"), CASES, ids=lambda v: str(v)[:24])
def test_every_factor_at_its_place(solver, schedule, options):
    plan = fastgen.plan(solver, schedule, **options)
    rows, columns, table = coefficients(plan)
    lets = [i for i in plan.instructions if isinstance(i, Let)]
    assert rows == [i.value for i in lets]
    assert np.count_nonzero(table) == sum(len(i.form.terms) for i in lets)
    for k, i in enumerate(lets):
        for symbol, c in i.form.terms.items():
            assert table[k, columns.index(symbol)] == c
    upper, lower = panels(plan.plot())
    assert np.array_equal(lower.images[0].get_array().filled(0.0), table)
    line = upper.lines[0]
    assert line.get_ydata().tolist() == [e.time for e in plan.evaluations]
    assert next(t.get_text() for t in lower.get_xticklabels()) == name(columns[0])
    lower.figure.canvas.draw()


def test_bands_of_a_multistep_solver():
    plan = fastgen.plan("dpmpp_3m", fastgen.schedules.CosineVP(), 10)
    _, columns, table = coefficients(plan)
    predictions = table[:, [k for k, c in enumerate(columns) if name(c).startswith("data")]]
    depth = [np.flatnonzero(row).size for row in predictions]
    assert depth[0] == 1
    assert max(depth) == 3


def test_over_the_log_snr_with_limits_at_the_edge():
    plan = fastgen.plan("dpmpp_2m", fastgen.schedules.CosineVP(), 6)
    (line,) = panels(plan.plot(over="log_snr"))[0].lines
    times = np.array([e.time for e in plan.evaluations])
    assert np.allclose(line.get_ydata(), plan.schedule.log_snr(times))
    flow = fastgen.plan("euler", fastgen.schedules.Rectified(), 6)
    line, edge = panels(flow.plot(over="log_snr"))[0].lines
    assert len(line.get_xdata()) == 5
    assert edge.get_xdata().tolist() == [0]
    assert edge.get_ydata()[0] == min(line.get_ydata())


def test_small_plans_have_their_numbers_and_large_ones_few_names():
    small = panels(fastgen.plan("euler", fastgen.schedules.Rectified(), 3).plot())[1]
    assert "-0.33" in [text.get_text() for text in small.texts]
    large = panels(fastgen.plan("ddpm", fastgen.schedules.LinearVP(), 100).plot())[1]
    assert len(large.get_xticklabels()) <= 32
    assert {t.get_text() for t in large.texts} == {"states", "predictions", "noise"}


def test_in_the_place_of_axes():
    figure, (left, right) = plt.subplots(1, 2)
    before = plt.get_fignums()
    assert fastgen.plan("euler", fastgen.schedules.Rectified(), 3).plot(right) is figure
    assert plt.get_fignums() == before
    assert left in figure.axes
    assert right not in figure.axes
    figure.canvas.draw()


def test_refusals():
    plan = fastgen.plan("euler", fastgen.schedules.Rectified(), 3)
    with pytest.raises(ValueError, match="over='sigma'"):
        plan.plot(over="sigma")
    with pytest.raises(ValueError, match="ax: expected axes made by subplots"):
        plan.plot(plt.figure().add_axes((0, 0, 1, 1)))
