"""Events are found to their tolerance, each sample's its own."""

import math

import pytest
import torch

import fastgen
from fastgen.ode import Event, Execution, Status

Y0 = torch.tensor([[0.0, 1.0], [0.5, 0.0], [0.0, -2.0]], dtype=torch.float64)
TIGHT = {"rtol": 1e-10, "atol": 1e-12, "return_solution": True, "max_step": 0.4}


def oscillator(t, y):
    return torch.stack([y[:, 1], -y[:, 0]], 1)


@pytest.mark.parametrize("compact", [False, True])
def test_terminal(compact, backend):
    """y'' = -y: the first zero of y0 cos t + v0 sin t + 0.25."""
    found = fastgen.odeint(
        oscillator,
        Y0,
        torch.linspace(0, 10, 21).double(),
        event=lambda t, y: y[:, 0] + 0.25,
        execution=Execution(compact=compact),
        backend=backend,
        **TIGHT,
    )
    exact = [
        math.pi + math.asin(0.25),
        math.acos(-0.5),
        math.asin(0.125),
    ]
    assert found.reached.tolist() == pytest.approx(exact, abs=1e-8)
    assert found.status.tolist() == [Status.EVENT] * 3
    assert found.success.all()
    assert sorted(e.sample for e in found.events) == [0, 1, 2]
    for e in found.events:
        assert e.time == pytest.approx(exact[e.sample], abs=1e-8)
        assert e.state[0].item() == pytest.approx(-0.25, abs=1e-8)
        late = torch.linspace(0, 10, 21).double() > e.time
        assert torch.equal(found.ys[late, e.sample], e.state.expand(int(late.sum()), 2))
    early = found.ys[3, 0]
    assert early.tolist() == pytest.approx([math.sin(1.5), math.cos(1.5)], abs=1e-8)


def test_all_crossings_backwards():
    found = fastgen.odeint(
        oscillator, Y0[:1], [0.0, -10.0], event=Event(lambda t, y: y, terminal=False), **TIGHT
    )
    assert found.status.tolist() == [Status.DONE]
    zeros = {0: [-k * math.pi for k in (1, 2, 3)], 1: [-(k + 0.5) * math.pi for k in range(3)]}
    for index, expected in zeros.items():
        times = [e.time for e in found.events if e.index == index]
        assert times == pytest.approx(expected, abs=1e-8)


def test_event_that_depends_on_time_and_never_comes():
    found = fastgen.odeint(
        oscillator, Y0, [0.0, 2.0], event=lambda t, y: t - 1.25 + 0 * y[:, 0], **TIGHT
    )
    assert found.reached.tolist() == pytest.approx([1.25] * 3, abs=1e-9)
    found = fastgen.odeint(oscillator, Y0, [0.0, 2.0], event=lambda t, y: y[:, 0] + 9, **TIGHT)
    assert found.events == ()
    assert found.reached.tolist() == [2.0] * 3


def test_joint_steps_and_nested_states():
    found = fastgen.odeint(
        lambda t, y: {"x": y["v"], "v": -9.81 * torch.ones((), dtype=torch.float64)},
        {"x": torch.tensor(10.0).double(), "v": torch.tensor(0.0).double()},
        [0.0, 5.0],
        step="joint",
        event=lambda t, y: y["x"],
        **TIGHT,
    )
    assert found.reached.item() == pytest.approx(math.sqrt(20 / 9.81), abs=1e-8)
    assert found.events[0].state["v"].item() == pytest.approx(-math.sqrt(20 * 9.81), abs=1e-7)


def test_errors():
    with pytest.raises(TypeError, match="event: expected a callable"):
        fastgen.odeint(oscillator, Y0, [0.0, 1.0], event=3)
    with pytest.raises(ValueError, match=r"tolerance=-1\.0: expected a finite"):
        Event(oscillator, tolerance=-1.0)
    with pytest.raises(ValueError, match="varying steps"):
        fastgen.odeint(oscillator, Y0, [0.0, 1.0], method="rk4", event=lambda t, y: y)
    with pytest.raises(ValueError, match="event: expected values"):
        fastgen.odeint(oscillator, Y0, [0.0, 1.0], event=lambda t, y: y[0, 0])
    with pytest.raises(ValueError, match="gradient='none'"):
        fastgen.odeint(oscillator, Y0.clone().requires_grad_(), [0.0, 1.0], event=lambda t, y: y)


def rising(t, y):
    return torch.ones_like(y)


def crossings(event, times=(0.0, 3.0), step=0.5, rows=1, terminal=False):
    """What dy/dt = 1 from -1 meets in steps of one size."""
    found = fastgen.odeint(
        rising,
        torch.full((rows, 1), -1.0, dtype=torch.float64),
        list(times),
        event=Event(event, terminal=terminal),
        first_step=step,
        max_step=step,
        return_solution=True,
    )
    return [(e.sample, e.index, round(e.time, 8)) for e in found.events]


@pytest.mark.parametrize("step", [0.25, 0.5, 1.0, 0.3, 3.0])
@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("terminal", [False, True])
def test_an_event_on_a_steps_end_is_one_event(step, rows, terminal):
    for event in (lambda t, y: t - 1.0 + 0 * y[:, 0], lambda t, y: 3 * y[:, 0]):
        found = crossings(event, step=step, rows=rows, terminal=terminal)
        assert found == [(b, 0, 1.0) for b in range(rows)]
    back = crossings(lambda t, y: t - 1.0, (3.0, 0.0), step=step)
    assert back == [(0, 0, 1.0)]


def test_events_on_the_ends_of_many_steps_and_several_at_once():
    event = lambda t, y: torch.stack([t - 1, t - 2, 1.5 - t, 2 - t, t - 3], 1)  # noqa: E731
    found = crossings(event)
    assert found == [(0, 0, 1.0), (0, 2, 1.5), (0, 1, 2.0), (0, 3, 2.0), (0, 4, 3.0)]


def test_an_event_function_that_is_zero_at_the_start_or_for_a_while():
    """The start is no event, and neither is leaving 0; a value that becomes 0 has one."""
    assert crossings(lambda t, y: t * (t - 2.25), terminal=True) == [(0, 0, 2.25)]
    assert crossings(lambda t, y: t) == []
    assert crossings(lambda t, y: 0 * t) == []
    assert crossings(lambda t, y: (t - 1) ** 2) == [(0, 0, 1.0)]
    assert crossings(lambda t, y: (t - 1) * (t - 2), step=1.0) == [(0, 0, 1.0), (0, 0, 2.0)]
    for step in (1.0, 2.0, 3.0):  # back at 0, or beyond it, within the step that left it
        assert crossings(lambda t, y: t * (t - 2), step=step) == [(0, 0, 2.0)]
    assert crossings(lambda t, y: (1 - t) * (t - 1.75), step=1.0) == [(0, 0, 1.0), (0, 0, 1.75)]
    flat = crossings(lambda t, y: torch.where((t - 1).abs() < 0.3, 0 * t, t - 1), step=0.1)
    assert len(flat) == 1
    assert 0.6 <= flat[0][2] <= 0.8


def test_small_values_are_no_events_and_nan_is_none():
    """Their products are 0 in float64 where the values are not."""
    assert crossings(lambda t, y: 1e-200 * (t + 1)) == []
    assert crossings(lambda t, y: 1e-200 * (t - 1)) == [(0, 0, 1.0)]
    assert crossings(lambda t, y: torch.full_like(t, math.nan)) == []


@pytest.mark.parametrize(
    ("function", "says"),
    [
        (lambda t, y: y[:, 0] > 0, r"event: expected a tensor of real numbers.*got torch\.bool"),
        (lambda t, y: y[:, 0].long(), r"got torch\.int64"),
        (lambda t, y: 1.0, r"got float"),
    ],
)
def test_values_without_a_sign_that_changes_are_refused(function, says):
    """Of which none would ever have been found."""
    with pytest.raises(TypeError, match=says):
        crossings(function)


def test_an_event_leaves_the_state_as_it_is():
    with pytest.raises(ValueError, match="event: it changed its input in place"):
        crossings(lambda t, y: y.sub_(0.5)[:, 0])
