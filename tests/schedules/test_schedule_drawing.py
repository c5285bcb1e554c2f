"""Pictures of schedules: the lines are the schedule's functions."""

import numpy as np
import pytest

import fastgen
from fastgen import schedules

plt = pytest.importorskip("matplotlib.pyplot")
ALL = [
    *(schedules.CosineVP(), schedules.LinearVP(), schedules.SubVP(), schedules.Trig()),
    *(schedules.VE(), schedules.EDM(), schedules.Rectified(3.0), schedules.DiscreteVP.linear(50)),
    schedules.UserSchedule(lambda t: 1 - t**2, lambda t: t),
]


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


@pytest.mark.parametrize("schedule", ALL, ids=lambda s: type(s).__name__)
def test_lines_and_marks(schedule):
    times = np.linspace(1, 0, 5)
    figure = schedule.plot(times)
    upper, lower = figure.axes
    curves = {line.get_label(): line for line in upper.lines}
    for name in ("alpha", "sigma"):
        line = curves[rf"$\{name}$"]
        t = line.get_xdata()
        assert (t[0], t[-1]) == (0, 1)
        assert np.array_equal(line.get_ydata(), getattr(schedule, name)(t))
    log_snr, marks = lower.lines[:2]
    values = schedule.log_snr(log_snr.get_xdata())
    assert np.array_equal(
        log_snr.get_ydata(), np.where(np.isfinite(values), values, np.nan), equal_nan=True
    )
    assert marks.get_xdata().tolist() == times.tolist()
    figure.canvas.draw()


def test_large_scales_are_on_a_logarithmic_axis():
    assert schedules.EDM().plot().axes[0].get_yscale() == "log"
    assert schedules.CosineVP().plot().axes[0].get_yscale() == "linear"


def test_times_of_a_plan_and_axes_that_are_there():
    plan = fastgen.plan("heun", schedules.EDM(), 6)
    figure, axes = plt.subplots()
    assert plan.schedule.plot(plan.times, axes, linestyle="--") is figure
    assert figure.axes[1].lines[1].get_xdata().tolist() == plan.times.tolist()
    assert figure.axes[0].lines[0].get_linestyle() == "--"


def test_refusals():
    with pytest.raises(ValueError, match=r"times: expected \[N\] times in \[0, 1\]"):
        schedules.VE().plot([0.5, 2.0])
