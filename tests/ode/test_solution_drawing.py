"""Pictures of solutions, and the record of steps that they show."""

import math

import numpy as np
import pytest
import torch

import fastgen
from fastgen.ode import Adjoint, Event, Execution

plt = pytest.importorskip("matplotlib.pyplot")
RECORDED = Execution(record_steps=True)
Y0 = torch.tensor([[2.0, 0.0], [1.0, 0.0], [0.5, 0.0]], dtype=torch.float64)


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def oscillator(t, y):
    """Van der Pol's, stiff enough for rejected steps."""
    return torch.stack([y[:, 1], 10 * (1 - y[:, 0] ** 2) * y[:, 1] - y[:, 0]], 1)


def solve(t=(0.0, 2.0, 5.0, 20.0), y0=Y0, f=oscillator, **options):
    return fastgen.odeint(f, y0, t, return_solution=True, **options)


class TestRecord:
    @pytest.mark.parametrize("t", [(0.0, 5.0, 20.0), (20.0, 15.0, 0.0)], ids=["up", "down"])
    def test_steps_follow_one_another(self, t):
        found = solve(t, execution=RECORDED, f=lambda t, y: torch.cos(3 * t)[:, None] - y)
        steps, direction = found.steps, math.copysign(1, t[-1] - t[0])
        for k in range(len(Y0)):
            own = steps.sample == k
            taken = own & steps.accepted
            assert int(taken.sum()) == int(found.stats.accepted[k])
            assert int((own & ~steps.accepted).sum()) == int(found.stats.rejected[k])
            ends = steps.time[taken] + direction * steps.size[taken]
            assert torch.allclose(ends[:-1], steps.time[taken][1:], rtol=1e-12, atol=1e-12)
            assert ends[-1].item() == pytest.approx(t[-1])

    def test_nothing_of_the_result_changes(self):
        plain, recorded = solve(), solve(execution=RECORDED)
        assert int(plain.stats.rejected.sum()) > 0
        assert torch.equal(plain.ys, recorded.ys)
        assert torch.equal(plain.stats.accepted, recorded.stats.accepted)
        assert plain.steps is None

    @pytest.mark.parametrize(
        "options",
        [
            {"gradient": "through"},
            {"gradient": Adjoint(), "f": lambda t, y: torch.cos(9 * t)[:, None] - y},
            {"gradient": "none", "event": Event(lambda t, y: y[:, 0], terminal=False)},
            {"step": "joint", "f": lambda t, y: oscillator(t, y)},
        ],
        ids=["through", "adjoint", "event", "joint"],
    )
    def test_beside_other_observers(self, options):
        needs = options.get("gradient") in ("through", Adjoint())
        y0 = Y0.clone().requires_grad_(needs)
        found = solve((0.0, 6.0), y0, execution=RECORDED, **options)
        assert int(found.steps.accepted.sum()) == int(found.stats.accepted.sum())
        if needs:
            found.ys[-1].sum().backward()
            assert y0.grad is not None

    def test_functions_that_turn_out_to_need_gradients(self):
        rate = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
        found = solve((0.0, 1.0), f=lambda t, y: -rate * y, execution=RECORDED)
        assert int(found.steps.accepted.sum()) == int(found.stats.accepted.sum())

    def test_no_samples_and_no_interval(self):
        for y0, t in ((Y0[:0], (0.0, 1.0)), (Y0, (1.0, 1.0))):
            found = solve(t, y0, execution=RECORDED)
            assert len(found.steps.sample) == 0
            found.plot().canvas.draw()

    def test_refusals(self):
        for options in ({"method": "rk4"}, {"capture": True, "gradient": "none"}):
            with pytest.raises(ValueError, match="record_steps=True is for"):
                solve(execution=RECORDED, **options)
        with pytest.raises(ValueError, match="record_steps=True is for"):
            fastgen.odeint(oscillator, Y0, [0.0, 1.0], execution=RECORDED)


class TestPicture:
    def test_states_and_steps(self):
        found = solve(execution=RECORDED)
        upper, lower = found.plot().axes
        drawn = [line.get_ydata() for line in upper.lines]
        expected = found.ys.permute(1, 2, 0).flatten(0, 1)
        assert np.array_equal(np.stack(drawn), expected)
        assert upper.lines[0].get_xdata().tolist() == [0, 2, 5, 20]
        kinds = {gid: [x for x in lower.lines if x.get_gid() == gid] for gid in GIDS}
        assert sum(len(x.get_xdata()) for x in kinds["accepted"]) == int(found.stats.accepted.sum())
        assert sum(len(x.get_xdata()) for x in kinds["rejected"]) == int(found.stats.rejected.sum())
        assert lower.get_yscale() == "log"
        assert f"{int(found.stats.rejected.sum())} rejected" in lower.get_title(loc="left")

    def test_without_a_record(self):
        figure = solve().plot()
        assert len(figure.axes) == 1
        assert figure.axes[0].get_xlabel() == "t"

    def test_few_lines_of_many_samples(self):
        found = solve((0.0, 1.0), torch.randn(300, 2), f=lambda t, y: -y, execution=RECORDED)
        upper, lower = found.plot(lines=10).axes
        assert len(upper.lines) == 10
        assert len(lower.lines) == 2 * 5

    def test_times_of_each_sample_trees_joint_steps_and_fixed_ones(self):
        own = torch.tensor([[0.0, 1.0], [0.0, 2.0], [0.0, 3.0]])
        lines = solve(own).plot().axes[0].lines
        assert [line.get_xdata()[-1] for line in lines] == [1, 1, 2, 2, 3, 3]
        tree = {"a": torch.ones(2, 3), "b": torch.ones(2, 1)}
        both = solve((0.0, 1.0), tree, f=lambda t, y: {k: -v for k, v in y.items()})
        assert len(both.plot().axes[0].lines) == 2 * 4
        assert solve(step="joint").plot().axes[0].lines
        assert len(solve(method="rk4", step_size=0.01).plot().axes[0].lines) == 6

    def test_gradients_half_failed_solves_and_axes_that_are_there(self):
        found = solve((0.0, 1.0), Y0.clone().requires_grad_())
        figure, axes = plt.subplots()
        assert found.plot(axes, color="black") is figure
        assert axes.lines[0].get_color() == "black"
        assert plt.get_fignums() == [figure.number]
        failed = solve(max_steps=3, on_failure="return", execution=RECORDED)
        failed.plot().canvas.draw()


GIDS = ("accepted", "rejected")
