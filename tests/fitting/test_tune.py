"""Fitted plans against closed forms: what is fitted, what is kept, what is refused."""

import functools
import math
import operator
import warnings

import pytest
import torch

import fastgen
from fastgen.fitting.least_squares import follow, ridge_solution
from fastgen.fitting.rows import Rows
from fastgen.fitting.study import Errors
from tests.support.fits import DATA_STD, SMALL, VP, gaussian, mixture, study_of
from tests.support.mixtures import Mixture


def test_one_step_on_gaussian_data_is_exact():
    base = fastgen.plan("ddim", VP, 1)
    model = gaussian()
    plan, found = fastgen.tune(model, (4,), base=base, teacher_steps=200, report=True, **SMALL)
    # The teacher's own flow is linear too, and one step has it to rounding.
    assert found.after[0] < 1e-12 < 1e-2 < found.before[0]
    z = fastgen.randn((50, 4), seed=1, dtype=torch.float64)
    start = float(plan.times[0])
    spread = math.hypot(VP.alpha(start) * DATA_STD, VP.sigma(start))
    x = fastgen.Sampler(model, plan, dtype=torch.float64)(z * VP.sigma(start))
    exact = z * VP.sigma(start) * DATA_STD / spread
    # What is left is the teacher's error, which it reports itself.
    error = Errors.between([x], [exact]).rms
    assert error < 3 * found.teacher[0].rms < 1e-3


@pytest.mark.parametrize("base", ["ddim", "dpmpp_2m", "heun", "ipndm", "unipc"])
def test_no_step_of_least_squares_is_worse_than_its_base(base):
    model = mixture()
    rows = Rows.of(fastgen.plan(base, VP, 4), model.parametrisation)
    study = study_of(model)
    batches = study.batches(64)
    study.teach(batches, rows)
    for ridge in (0.0, 1e-5, 1e-2, 10.0):
        found = follow(study, batches, rows, fit=True, ridge=ridge)
        for before, after in zip(found.before, found.after, strict=True):
            assert after <= before * (1 + 1e-9)
        # What is said of a step is what the run does.
        assert [e.rms for e in found.errors] == pytest.approx(found.after, rel=1e-6, abs=1e-9)


def test_no_ridge_is_the_least_square():
    generator = torch.Generator().manual_seed(1)
    columns = torch.randn(4, 200, generator=generator, dtype=torch.float64)
    columns[3] = 100 * columns[2]  # of no rank
    y = torch.randn(200, generator=generator, dtype=torch.float64)
    change = ridge_solution(columns @ columns.T, columns @ y, 0.0)
    expected = torch.linalg.lstsq(columns[:3].T, y[:, None]).solution[:, 0]
    torch.testing.assert_close(columns.T @ change, columns[:3].T @ expected)
    assert float(ridge_solution(columns @ columns.T, columns @ y, 1e9).abs().max()) < 1e-9


def test_the_teacher_knows_its_error():
    model = gaussian()
    rows = Rows.of(fastgen.plan("ddim", VP, 3), model.parametrisation)
    spread = [math.hypot(VP.alpha(t) * DATA_STD, VP.sigma(t)) for t in rows.times]
    for teacher in ("unipc", "heun", "dopri5"):
        study = study_of(model, teacher=teacher)
        batches = study.batches(32)
        reported = study.teach(batches, rows)
        (batch,) = batches
        for k, target in enumerate(batch.targets):
            exact = batch.z * VP.sigma(rows.times[0]) * spread[k + 1] / spread[0]
            error = Errors.between([target], [exact])
            assert error.rms < 6 * reported[k].rms < 0.05, (teacher, k)


def test_noise_of_a_fitted_plan_keeps_the_variance():
    model = gaussian()
    base = fastgen.plan("ddim", VP, 5, eta=1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plan, found = fastgen.tune(model, (64,), base=base, report=True, **SMALL)
    assert plan.draws == base.draws
    assert math.isnan(found.consistency[1])

    def spread(plan):
        x = fastgen.Sampler(model, plan, dtype=torch.float64)((2000, 64), seed=4)
        return float(x.square().mean().sqrt())

    # 128000 numbers: a deviation's standard error is 0.002 of it; training had 4096.
    assert abs(spread(base) / DATA_STD - 1) > 0.1
    assert abs(spread(plan) / DATA_STD - 1) < 0.03


def test_guidance_and_conditioning_are_in_the_fit():
    asked = []

    def net(x, t, shift):
        return (x - shift[:, None]).tanh() + shift[:, None]

    def conditioning(ids):
        asked.append(ids.tolist())
        return {"shift": (ids % 3).double()}

    model = fastgen.Model(net, VP, "data")
    guidance = fastgen.Guidance(2.0, {"shift": torch.zeros(32, dtype=torch.float64)})
    options = {"guidance": guidance, "net_kwargs": conditioning} | SMALL | {"samples": 256}
    plan, found = fastgen.tune(
        model, (4,), base=fastgen.plan("ddim", VP, 4), report=True, **options
    )
    assert functools.reduce(operator.iadd, asked, []) == list(range(288))
    assert found.held_out["least squares"].rms < found.held_out["base"].rms / 3
    assert found.held_out["gauss_newton"].rms < 0.5 * found.held_out["least squares"].rms

    ids = torch.arange(1000, 1032)
    sampler, teacher = (
        fastgen.Sampler(model, p, guidance=guidance, dtype=torch.float64)
        for p in (plan, fastgen.plan("unipc", VP, 200))
    )
    x, y = (s((32, 4), seed=5, shift=(ids % 3).double()) for s in (sampler, teacher))
    assert Errors.between([x], [y]).median < 2 * found.held_out["gauss_newton"].median


def test_a_fitted_plan_is_a_plan_like_any_other():
    model = mixture()
    plan = fastgen.tune(model, (2,), base=fastgen.plan("dpmpp_2m", VP, 4), **SMALL)
    again = fastgen.Plan.from_json(plan.to_json())
    assert again.to_json() == plan.to_json()
    assert plan.nfe == 4
    assert "fitted by gauss_newton" in plan.note
    x = fastgen.randn((3, 2), seed=1)
    eager = fastgen.Sampler(model, plan)
    expected = eager(x)
    for backend in ("reference", "auto"):
        found = fastgen.Sampler(model, again, backend=backend)(x)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    captured = eager.capture((3, 2))
    assert torch.equal(captured(x), expected)
    batch = eager.serve((3, 2))
    for k in range(3):
        batch.admit(x=x[k])
    served = []
    while len(served) < 3:
        served += batch.step()
    assert eager.plan is plan
    differentiable = eager(x, differentiable=True)
    torch.testing.assert_close(differentiable, expected, rtol=1e-5, atol=1e-6)


def test_a_fitted_plan_with_noise_has_log_densities():
    model = mixture()
    base = fastgen.plan("ddim", VP, 4, eta=1.0)
    plan = fastgen.tune(model, (2,), base=base, **SMALL)
    sampler = fastgen.Sampler(model, plan, dtype=torch.float64)
    _x, states = sampler((3, 2), seed=1, trajectory=True)
    found = fastgen.trajectory_log_probability(sampler, states)
    assert found.values.shape == (3, 3)  # the last of four steps draws nothing
    assert torch.isfinite(found.values).all()


def test_what_is_no_better_is_not_returned():
    base = fastgen.tune(gaussian(), (4,), base=fastgen.plan("ddim", VP, 1), **SMALL)

    def rough(x):  # in whose values the base is exact, and whatever moves is not
        return (x * 0).detach() + 0 * x

    with pytest.warns(UserWarning, match="returned as it was"):
        plan, found = fastgen.tune(
            mixture(), (2,), base=fastgen.plan("ddim", VP, 3), features=rough, report=True, **SMALL
        )
    assert found.chosen == "base"
    assert plan.solver == "ddim"
    assert base.nfe == 1


def noisy(x, t):
    return x + torch.randn_like(x)


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"samples": 16, "batch": 16, "shape": (1,)}, "samples=16: rows of"),
        ({"samples": 40}, "samples=40: expected a multiple of batch=32"),
        ({"nfe": 7}, "nfe=7: the base has 4"),
        ({"nfe": None, "base": None}, "nfe=None"),
        ({"what": "times"}, "what='times'"),
        ({"what": "grid", "iterations": 0}, "leave iterations out"),
        ({"optimiser": "newton"}, "optimiser='newton'"),
        ({"relaxation": 0.1}, "pass optimiser='adam'"),
        ({"loss": lambda x, y: (x - y).square().mean()}, "pass optimiser='adam'"),
        ({"loss": "logs"}, "loss='logs'"),
        ({"teacher": "dopri"}, "teacher='dopri'"),
        ({"teacher": "ddim", "teacher_steps": 6, "solver": "unipc"}, "is not well below"),
        ({"net": noisy}, r"net.eval\(\)"),
        ({"net": lambda x, t: x * math.nan}, "not finite"),
        ({"eta": 1.0, "iterations": 10}, "draws noise"),
        ({"shape": (0,)}, "without elements"),
        ({"time_dtype": torch.int64}, "a floating time_dtype"),
    ],
    ids=lambda v: "-".join(v) if isinstance(v, dict) else "",
)
def test_misuse_is_named(changed, says):
    changed = dict(changed)
    eta = {"eta": changed.pop("eta")} if "eta" in changed else {}
    base = fastgen.plan(changed.pop("solver", "ddim"), VP, 4, **eta)
    given = {"base": base} | SMALL | changed
    kind = given.pop("time_dtype", torch.float32)
    model = fastgen.Model(given.pop("net", Mixture(VP, "data")), VP, "data", time_dtype=kind)
    with pytest.raises(ValueError, match=says):
        fastgen.tune(model, given.pop("shape", (2,)), given.pop("nfe", None), **given)
