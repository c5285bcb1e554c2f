"""The fit of the whole run: its derivatives, what it moves, how it stops and goes on."""

import math

import pytest
import torch

import fastgen
from fastgen.fitting.adam import Adam
from fastgen.fitting.gauss_newton import GaussNewton
from fastgen.fitting.moving import Moving, Replanned
from fastgen.fitting.rows import Rows
from fastgen.fitting.whole_run import Descent
from tests.support.fits import SMALL, VP, mixture, study_of


class Run:
    """A small study of one base, for an optimiser."""

    def __init__(self, base, what, optimiser=Adam, **descent):
        self.model = mixture()
        self.rows = Rows.of(base, self.model.parametrisation)
        self.study = study_of(self.model)
        self.batches = self.study.batches(32)
        self.study.teach(self.batches, self.rows)
        directions = [torch.eye(k + 2, dtype=torch.float64) for k in range(self.rows.nfe)]
        replanned = Replanned(base, self.model.parametrisation)
        self.moving = Moving(self.rows, self.rows, replanned, directions, what)
        self.descent = Descent(**descent)
        error = (1.0,) if optimiser is Adam else ()
        given = self.study, self.moving, self.descent, self.batches
        self.search = optimiser(*given, *error)

    def loss_from(self, start):
        """Of the recorded run, from initial states."""
        (batch,) = self.batches
        return self.descent.error(self.search.run(batch, start), batch.targets[-1]).item()

    @torch.no_grad()
    def loss(self):
        """Of the plan that the numbers make now, run by a sampler."""
        (batch,) = self.batches
        x = self.study.run(self.moving.to_rows().to_plan(), batch)
        return float(self.descent.error(x, batch.targets[-1]))


@pytest.mark.parametrize(
    ("what", "loss"), [("both", "log"), ("coefficients", "norm"), ("grid", "squared")]
)
def test_gradients_are_those_of_the_plan_that_is_run(what, loss):
    run = Run(fastgen.plan("dpmpp_2m", VP, 3), what, loss=loss)
    (batch,) = run.batches
    start = batch.z * VP.sigma(run.rows.times[0])
    for checkpoint in (False, True):
        run.search.run.descent = Descent(loss=loss, checkpoint=checkpoint)
        end = run.search.run(batch, start)
        free = run.search.free
        gradients = torch.autograd.grad(run.descent.error(end, batch.targets[-1]), free)
        for parameter, gradient in zip(free, gradients, strict=True):
            direction = torch.linspace(0.5, 1.5, len(parameter), dtype=torch.float64)
            losses = []
            for sign in (1, -1, -1, 1):
                with torch.no_grad():
                    parameter += sign * 1e-5 * direction
                losses.append(run.loss())
            expected = (losses[0] - losses[2]) / 2e-5
            assert float(gradient @ direction) == pytest.approx(expected, rel=2e-3, abs=1e-6)


def test_gradients_help_and_go_on_where_they_stopped(tmp_path):
    model, base = mixture(), fastgen.plan("dpmpp_2m", VP, 4)
    options = {"base": base, "report": True, "rate": 0.3, "optimiser": "adam"} | SMALL
    whole, found = fastgen.tune(
        model, (2,), iterations=60, resume=tmp_path / "whole", progress=False, **options
    )
    assert found.iterations == 60
    assert found.chosen == "adam"
    assert found.losses["adam"] < 0.95 * found.losses["least squares"]
    again, resumed = fastgen.tune(model, (2,), iterations=60, resume=tmp_path / "whole", **options)
    assert again.to_json() == whole.to_json()
    assert resumed.iterations == 60

    calls = []

    def stopping(x, y):
        calls.append(1)
        if len(calls) > 30:
            raise KeyboardInterrupt
        return (x - y).square().mean(1).sqrt().mean()

    halves = tmp_path / "halves"
    with pytest.raises(KeyboardInterrupt):
        fastgen.tune(model, (2,), iterations=60, resume=halves, loss=stopping, **options)
    assert halves.exists()
    after, _ = fastgen.tune(model, (2,), iterations=60, resume=halves, **options)
    x = fastgen.randn((8, 2), seed=1, dtype=torch.float64)
    ends = [fastgen.Sampler(model, p, dtype=torch.float64)(x) for p in (whole, after)]
    torch.testing.assert_close(*ends, rtol=1e-4, atol=1e-6)

    other = options | {"base": fastgen.plan("ddim", VP, 4)}
    with pytest.raises(ValueError, match="another base"):
        fastgen.tune(model, (2,), iterations=60, resume=halves, **other)
    halves.write_bytes(b"nothing")
    with pytest.raises(ValueError, match="no state of a fit"):
        fastgen.tune(model, (2,), iterations=60, resume=halves, **options)


@pytest.mark.parametrize(("optimiser", "count"), [("adam", 40), ("gauss_newton", 4)])
@pytest.mark.parametrize("what", ["coefficients", "grid"])
def test_what_is_not_asked_for_does_not_move(what, optimiser, count):
    base = fastgen.plan("dpmpp_2m", VP, 4)
    plan, found = fastgen.tune(
        mixture(), (2,), base=base, what=what, optimiser=optimiser, iterations=count, report=True,
        **SMALL,
    )  # fmt: skip
    assert found.chosen == optimiser
    moved = plan.times - base.times
    if what == "coefficients":
        assert not moved.any()
    else:
        assert moved[1:-1].all()
        assert not moved[[0, -1]].any()
        again = fastgen.plan("dpmpp_2m", VP, timesteps=plan.times)
        given = Rows.of(again, mixture().parametrisation)
        own = Rows.of(plan, mixture().parametrisation)
        for a, b in zip(own.rows, given.rows, strict=True):
            assert a.coefficients == pytest.approx(b.coefficients, rel=1e-8, abs=1e-10)


def test_relaxed_starts_stay_within_their_ball():
    run = Run(fastgen.plan("dpmpp_2m", VP, 3), "coefficients", relaxation=0.05, rate=1e-9)
    (start,) = run.search.starts
    first = run.loss_from(start)
    for _ in range(25):
        assert run.search.advance()
    (offset,) = run.search.offsets
    assert (offset.norm(dim=1) <= 0.05 * start.norm(dim=1) * (1 + 1e-9)).all()
    assert float(offset.norm()) > 0
    last = run.loss_from(start + offset)
    assert last < first


def test_starts_of_images_move_too():
    model = fastgen.Model(lambda x, t: x.tanh(), VP, "data")
    base = fastgen.plan("dpmpp_2m", VP, 3)
    small = SMALL | {"iterations": 5, "relaxation": 0.05, "optimiser": "adam"}
    _, found = fastgen.tune(model, (1, 2, 2), base=base, report=True, **small)
    assert found.losses["adam"] < found.losses["base"]


@pytest.mark.parametrize(
    "options",
    [{"optimiser": "adam", "iterations": 80, "rate": 0.1}, {"optimiser": "gauss_newton"}],
    ids=["adam", "gauss_newton"],
)
def test_features_are_what_is_compared(options):
    def first_only(x):
        return x[:, :1]

    _plan, found = fastgen.tune(
        mixture(), (2,), base=fastgen.plan("ddim", VP, 3), what="coefficients", features=first_only,
        report=True, samples=256, held_out=64, dtype=torch.float64, **options,
    )  # fmt: skip
    assert found.losses[options["optimiser"]] < found.losses["least squares"]


def test_nan_keeps_the_best_so_far():
    def net(x, t):
        return x.tanh() + torch.where(x.detach().abs() > 1e6, math.nan, 0.0)

    seen = []

    def breaking(x, y):
        seen.append(1)
        loss = (x - y).square().mean(1).sqrt().mean()
        return loss * math.nan if len(seen) > 40 and x.requires_grad else loss

    model = fastgen.Model(net, VP, "data")
    base = fastgen.plan("ddim", VP, 3)
    with pytest.warns(UserWarning, match="not finite at iteration"):
        _plan, found = fastgen.tune(
            model, (4,), base=base, what="coefficients", iterations=100, loss=breaking,
            optimiser="adam", report=True, **SMALL,
        )  # fmt: skip
    assert 0 < found.iterations < 100
    assert found.losses[found.chosen] <= found.losses["least squares"] < found.losses["base"]


@pytest.mark.parametrize(
    ("what", "loss"), [("both", "log"), ("coefficients", "norm"), ("grid", "squared")]
)
def test_right_hand_side_is_the_gradient(what, loss):
    run = Run(fastgen.plan("dpmpp_2m", VP, 3), what, GaussNewton, loss=loss)
    (batch,) = run.batches
    _gram, slope, squares = run.search.normal_equations()
    before = float(run.search.of.f(squares).mean())
    assert before == pytest.approx(run.loss(), rel=1e-9)
    for parameter in run.search.free:
        parameter.requires_grad_(True)
    end = run.search.run(batch, run.search.start(batch))
    error = run.descent.error(end, batch.targets[-1])
    gradients = torch.autograd.grad(error, run.search.free)
    # s = |r|^2 / D: the right-hand side leaves out its 2 / D, and the mean's 1 / B.
    expected = torch.cat(gradients) * batch.z[0].numel() / 2 * len(batch.z)
    torch.testing.assert_close(slope, expected, rtol=2e-3, atol=2e-3 * float(expected.abs().max()))


def test_one_step_finds_the_least_square_of_a_linear_run():
    # One row: the end is linear in it, and "squared" is quadratic.
    run = Run(fastgen.plan("ddim", VP, 1), "coefficients", GaussNewton, loss="squared")
    (batch,) = run.batches
    run.search.damping = 1e-12
    assert run.search.advance()
    x = run.search.start(batch)
    u = run.study.prediction(run.rows.quantity, x, run.rows.times[0], batch, None)
    columns = torch.stack([x, u]).flatten(1).T
    wanted = batch.targets[-1].flatten()
    left = wanted - columns @ torch.linalg.lstsq(columns, wanted[:, None]).solution[:, 0]
    assert run.loss() == pytest.approx(float(left.square().mean()), rel=1e-6)


def test_the_whole_run_needs_no_gradients_and_goes_on_where_it_stopped(tmp_path):
    class Opaque(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.tanh()

    exact = mixture()

    def net(x, t):
        assert not torch.is_grad_enabled()
        return exact.net(x, t) + 0 * Opaque.apply(x)

    model = fastgen.Model(net, VP, "data", time_dtype=torch.float64)
    options = {"base": fastgen.plan("dpmpp_2m", VP, 4), "report": True} | SMALL
    whole, found = fastgen.tune(model, (2,), iterations=6, **options)
    assert found.chosen == "gauss_newton"
    assert found.losses["gauss_newton"] < 0.5 * found.losses["least squares"]
    path = tmp_path / "fit"
    fastgen.tune(model, (2,), iterations=3, resume=path, **options)
    again, resumed = fastgen.tune(model, (2,), iterations=6, resume=path, **options)
    assert resumed.iterations == 6
    assert again.to_json() == whole.to_json()
    with pytest.raises(ValueError, match="another base"):
        fastgen.tune(model, (2,), optimiser="adam", iterations=1, resume=path, **options)


def test_a_network_that_rounds_more_than_its_dtype_says_is_fitted_too():
    exact = mixture()

    def net(x, t):
        return exact.net(x.bfloat16().float(), t).bfloat16().float()

    model = fastgen.Model(net, VP, "data")
    small = SMALL | {"dtype": torch.float32, "samples": 128}
    base = fastgen.plan("dpmpp_2m", VP, 4)
    _, found = fastgen.tune(model, (2,), base=base, report=True, **small)
    assert found.losses["gauss_newton"] < found.losses["least squares"]


def test_what_cannot_get_better_settles():
    run = Run(fastgen.plan("ddim", VP, 1), "coefficients", GaussNewton, loss="squared")
    for _ in range(20):
        if not run.search.look(run.batches):
            break
        assert run.search.advance()
    assert run.search.settled
    assert run.search.iteration < 20


def test_schedules_with_large_scales_are_fitted_too():
    # Columns of a row that hardly differ take no steps of hundreds, which a diagonal would allow.
    schedule = fastgen.schedules.EDM()
    model = mixture(schedule)
    base = fastgen.plan("dpmpp_2m", schedule, 5)
    _, found = fastgen.tune(model, (2,), base=base, iterations=8, report=True, **SMALL)
    assert found.losses["gauss_newton"] < 0.7 * found.losses["least squares"]


def test_adam_follows_gradients_wherever_it_is_called():
    options = {"base": fastgen.plan("ddim", VP, 3), "optimiser": "adam", "iterations": 2} | SMALL
    plans = [fastgen.tune(mixture(), (2,), **options)]
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            plans.append(fastgen.tune(mixture(), (2,), **options))
    assert len({plan.to_json() for plan in plans}) == 1
