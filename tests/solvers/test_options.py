"""Solvers, grids and error-controlled methods as objects that carry their options."""

import copy
import inspect
import pickle
import pydoc
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
import torch

import fastgen
from fastgen import solvers, timesteps
from fastgen.common.error_control import ROWS
from fastgen.common.options import keywords
from fastgen.ode import tableaus
from fastgen.plans import Plan
from fastgen.sampling import error_controlled
from fastgen.schedules import CosineVP
from fastgen.solvers import registry
from fastgen.timesteps import registry as grid_registry
from tests.typing import options as typed_calls

ROOT = Path(__file__).parents[2]
OBJECTS = [
    solvers.ddim,
    solvers.ddim(eta=0.5),
    solvers.ddpm(variance=[0.1, 0.2]),
    timesteps.karras(rho=5),
    timesteps.table(sigmas=np.array([3.0, 1.0, 0.1])),
    solvers.dopri5(rtol=1e-5),
]


def network(x, t):
    return torch.tanh(x) * t.reshape(-1, *[1] * (x.ndim - 1))


def model():
    return fastgen.Model(network, CosineVP(), "noise")


def draw(solver, steps=None, **options):
    return fastgen.sample(model(), (3, 4), solver, steps, seed=7, **options)


def built_in(table):
    return [n for n, row in table.items() if row.build.__module__.startswith("fastgen.")]


def test_every_name_is_an_attribute_in_all():
    for module, table in ((solvers, registry._SOLVERS), (timesteps, grid_registry._grids)):
        names = built_in(table)
        assert len(names) >= 17
        assert {n: getattr(module, n) for n in names} == {n: table[n] for n in names}
        assert set(names) <= set(module.__all__)
    assert set(ROWS) == set(error_controlled.SOLVERS) <= set(solvers.__all__)
    assert {name: getattr(solvers, name) for name in ROWS} == ROWS


def test_nothing_else_of_the_package_has_a_row_s_name():
    files = {p.stem for p in (ROOT / "fastgen" / "solvers").glob("*.py")}
    assert not files & set(solvers.names())
    assert not {p.stem for p in (ROOT / "fastgen" / "timesteps").glob("*.py")} & set(
        timesteps.names()
    )


@pytest.mark.parametrize("name", tableaus.ADAPTIVE)
def test_error_controlled_rows_say_what_their_tableaus_say(name):
    tableau, row = tableaus.find(name), ROWS[name]
    assert (row.order, row.evaluations) == (tableau.order, tableau.stages - 1)
    assert tableau.source.startswith(row.source)
    parameters = inspect.signature(fastgen.odeint).parameters
    for option, default in row.options.items():
        assert parameters[option].default == default, option


def test_dpm_adaptive_has_the_integrator_s_options():
    assert set(ROWS["dpm_adaptive"].options) <= set(error_controlled.options_of("dpm_adaptive"))


@pytest.mark.parametrize(
    ("with_options", "name", "options"),
    [
        (solvers.ddim(eta=0.5), "ddim", {"eta": 0.5}),
        (solvers.unipc(order=3, corrector=False), "unipc", {"order": 3, "corrector": False}),
        (solvers.ddpm(variance=[0.1] * 6), "ddpm", {"variance": [0.1] * 6}),
        (solvers.heun, "heun", {}),
    ],
    ids=["ddim", "unipc", "ddpm", "heun"],
)
def test_an_object_samples_what_its_name_and_options_do(with_options, name, options):
    assert torch.equal(draw(with_options, 6), draw(name, 6, **options))
    plan = fastgen.plan(with_options, CosineVP(), 6)
    assert plan.to_json() == fastgen.plan(name, CosineVP(), 6, **options).to_json()
    assert plan.solver == name
    assert set(plan.options) == set(options)
    assert Plan.from_json(plan.to_json()).to_json() == plan.to_json()


def test_grids_are_objects_too():
    wanted = draw("ddim", 6, timesteps="karras", rho=5)
    assert torch.equal(draw(solvers.ddim, 6, timesteps=timesteps.karras(rho=5)), wanted)
    times = timesteps.times(timesteps.karras(rho=5), CosineVP(), 6)
    np.testing.assert_array_equal(times, timesteps.times("karras", CosineVP(), 6, rho=5))
    levels = np.array([3.0, 1.0, 0.1])
    np.testing.assert_array_equal(
        timesteps.times(timesteps.table(sigmas=levels), CosineVP(), 3),
        timesteps.times("table", CosineVP(), 3, sigmas=levels),
    )


def test_an_option_that_solver_and_grid_both_know_can_be_given_to_each():
    restart = solvers.restart(rho=3.0)
    both = fastgen.plan(restart, CosineVP(), 8, timesteps=timesteps.karras(rho=5.0))
    alone = fastgen.plan("restart", CosineVP(), 8, timesteps="karras", rho=3.0)
    assert both.options["rho"] == alone.options["rho"] == 3.0
    np.testing.assert_array_equal(
        both.times, timesteps.times("karras", CosineVP(), 8, rho=5.0, start=CosineVP().t_max)
    )
    assert not np.array_equal(both.times, alone.times)


def test_error_controlled_methods_carry_options():
    assert torch.equal(draw(solvers.dopri5(rtol=1e-5)), draw("dopri5", rtol=1e-5))
    assert torch.equal(
        draw(solvers.dpm_adaptive(order=2, rtol=0.05)), draw("dpm_adaptive", order=2, rtol=0.05)
    )
    y0 = torch.ones(2, 1)
    with_options, by_name = (
        fastgen.odeint(lambda t, y: -y, y0, [0.0, 1.0], **given)
        for given in ({"method": solvers.bosh3(rtol=1e-3)}, {"method": "bosh3", "rtol": 1e-3})
    )
    assert torch.equal(with_options, by_name)
    x = torch.linspace(-1, 1, 6).reshape(2, 3)
    assert torch.equal(
        fastgen.log_likelihood(model(), x, method=solvers.tsit5(rtol=1e-3, max_steps=500)),
        fastgen.log_likelihood(model(), x, method="tsit5", rtol=1e-3, max_steps=500),
    )


def test_whatever_takes_a_solver_takes_an_object(tmp_path):
    x = torch.linspace(-1, 1, 6).reshape(2, 3)
    latent = fastgen.invert(model(), x, solvers.euler(variable="sigma"), 6).latent
    assert torch.equal(latent, fastgen.invert(model(), x, "euler", 6, variable="sigma").latent)
    given = {"source": x, "steps": 4}
    first = fastgen.training.reflow(
        model(), tmp_path, 2, solver=solvers.euler(variable="sigma"), **given
    )
    named = fastgen.training.reflow(
        model(), tmp_path, 2, solver="euler", options={"variable": "sigma"}, **given
    )
    assert torch.equal(first.x1, named.x1)  # and the shard counted as the same


def test_kept_plans_know_names_and_objects_as_one():
    plan = fastgen.plan("ddim", CosineVP(), 9, eta=0.25)
    assert fastgen.plan(solvers.ddim(eta=0.25), CosineVP(), 9) is plan
    assert fastgen.plan(solvers.ddim(eta=0.5), CosineVP(), 9) is not plan
    grid = fastgen.plan("ddim", CosineVP(), 9, timesteps="karras", rho=5)
    assert fastgen.plan("ddim", CosineVP(), 9, timesteps=timesteps.karras(rho=5)) is grid


def test_objects_are_values():
    assert solvers.ddim(eta=0.5) == solvers.ddim(eta=0.5) != solvers.ddim(eta=0.25)
    assert hash(solvers.ddim(eta=0.5)) == hash(solvers.ddim(eta=0.5))
    assert solvers.ddim() is solvers.ddim
    assert solvers.ddim != solvers.ddim(eta=0.0) != solvers.ddim_cfgpp(eta=0.0)
    assert len({solvers.ddim, solvers.ddim(eta=0.5), solvers.ddim(eta=0.5)}) == 2
    given = [0.1, 0.2]
    held = solvers.ddpm(variance=given)
    given[0] = 0.9
    assert held.given["variance"] == (0.1, 0.2)
    with pytest.raises(TypeError):
        held.given["variance"] = 0
    step_by_step = solvers.unipc(order=3)(corrector=False)
    assert step_by_step == solvers.unipc(corrector=False, order=3)


def test_reprs_are_what_was_written():
    shown = [repr(o) for o in (solvers.ddim, solvers.ddim(eta=0.5), timesteps.karras(rho=5))]
    assert shown == ["ddim", "ddim(eta=0.5)", "karras(rho=5)"]


def test_a_notebook_shows_a_table():
    page = solvers.ddim(eta=0.5)._repr_html_()
    for part in ("Solver", "ddim", "eta", "0.5", "order", "2010.02502"):
        assert part in page


@pytest.mark.parametrize("thing", OBJECTS, ids=repr)
def test_objects_are_copied_and_pickled(thing):
    again = pickle.loads(pickle.dumps(thing))
    assert again == thing
    assert repr(again) == repr(thing)
    for twin in (copy.copy(thing), copy.deepcopy(thing)):
        assert twin == thing
    if not thing.given:
        assert again is thing


def test_an_object_goes_to_another_process():
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        assert pool.submit(repr, solvers.ddim(eta=0.5)).result() == "ddim(eta=0.5)"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: solvers.ddim(etta=1), r"ddim\(\) has no option 'etta': did you mean 'eta'"),
        (lambda: solvers.ddim(0.5), r"given by name, such as ddim\(eta=...\)"),
        (lambda: solvers.ddim(eta="x"), "eta='x': expected a number"),
        (lambda: solvers.ddim(eta=0.5)(eta=1), "has been given 'eta' already; give it once"),
        (lambda: timesteps.uniform(rho=7), r"uniform\(\) has no option 'rho'"),
        (lambda: solvers.dopri5(tol=1), "did you mean 'rtol'"),
        (lambda: draw(solvers.ddim(eta=0.5), 4, eta=0.5), "given 'eta' already"),
        (lambda: draw(solvers.dopri5(rtol=0.1), rtol=0.1), "given 'rtol' already"),
        (
            lambda: draw("ddim", 4, timesteps=timesteps.karras(rho=5), rho=5),
            r"rho=5: karras\(rho=5\) has been given 'rho' already",
        ),
        (
            lambda: timesteps.times(timesteps.karras(rho=5), CosineVP(), 4, rho=5),
            "given 'rho' already",
        ),
        (
            lambda: fastgen.log_likelihood(
                model(), torch.zeros(1, 2), method=solvers.dopri5(rtol=0.1), rtol=0.1
            ),
            "given 'rtol' already",
        ),
        (
            lambda: fastgen.odeint(
                lambda t, y: -y, torch.ones(1, 1), [0, 1], method=solvers.dopri5(rtol=1), rtol=1
            ),
            "given 'rtol' already",
        ),
        (
            lambda: fastgen.odeint(lambda t, y: -y, torch.ones(1, 1), [0, 1], method=solvers.heun),
            "method=heun: a Solver is for fastgen.plan",
        ),
        (lambda: draw(solvers.ddim(eta=0.5), 4, etta=1), "unknown option 'etta'"),
        (lambda: draw(5, 4), "solver=5: expected a text"),
    ],
)
def test_what_is_wrong_is_named(call, message):
    with pytest.raises(TypeError, match=message):
        call()


def test_help_shows_the_options():
    text = pydoc.plain(pydoc.render_doc(solvers.ddim))
    assert "ddim(*, eta: float = 0.0)" in text
    for part in ("implicit models", "arXiv 2010.02502", "order 1"):
        assert part in text
    assert str(inspect.signature(solvers.ddim(eta=0.5))).startswith("(*, eta: float = 0.5")
    assert "rtol" in pydoc.plain(pydoc.render_doc(solvers.dopri5))
    assert "rho" in pydoc.plain(pydoc.render_doc(timesteps.karras))
    for function in (fastgen.sample, fastgen.plan):
        assert "help(fastgen.solvers.ddim)" in function.__doc__
    assert "One row of the solver table" in pydoc.plain(pydoc.render_doc(solvers.Solver))


@pytest.mark.parametrize("name", built_in(registry._SOLVERS) + built_in(grid_registry._grids))
def test_every_row_shows_every_option(name):
    row = registry._SOLVERS[name] if name in registry._SOLVERS else grid_registry._grids[name]
    head = row.__doc__.split("\n\n")[0]
    assert head.startswith(f"{name}(")
    for option in keywords(row.build):
        assert f"{option}: " in head
    assert list(inspect.signature(row).parameters) == list(keywords(row.build))


def test_a_user_s_solver_is_one_of_them(monkeypatch):
    monkeypatch.setattr(registry, "_SOLVERS", dict(registry._SOLVERS))

    @solvers.register("lazy", order=1, source="this test")
    def lazy(p, times, *, share=1.0):
        """Goes a share of the way."""
        x = p.initial()
        for s, t in pairwise(times):
            x = p.state(x + share * (t - s) * p.velocity(x, s), t)
        return x

    assert lazy is solvers.get("lazy")
    assert repr(lazy(share=0.5)) == "lazy(share=0.5)"
    options = {"end": 0.1}
    assert torch.equal(draw(lazy(share=0.5), 4, **options), draw("lazy", 4, share=0.5, **options))
    assert "lazy(*, share = 1.0)\n\nGoes a share of the way." in lazy.__doc__
    held = pickle.dumps(lazy(share=0.5))
    assert pickle.loads(held) == lazy(share=0.5)
    del registry._SOLVERS["lazy"]
    with pytest.raises(ValueError, match="solver='lazy'"):
        pickle.loads(held)
    assert draw(lazy, 4, **options).shape == (3, 4)  # a row works without its table


def test_names_are_listed_by_what_they_are():
    for name in solvers.names(order=2, stochastic=False):
        row = solvers.get(name)
        assert (row.order, row.stochastic) == (2, False)
    assert "dpmpp_2m" in solvers.names(order=2, stochastic=False, evaluations=1)
    assert "heun" not in solvers.names(order=2, evaluations="1")
    assert solvers.names(two_times=True) == ["mean_flow"]
    split = solvers.names(stochastic=True) + solvers.names(stochastic=False)
    assert sorted(split) == solvers.names() == sorted(registry._SOLVERS)
    assert timesteps.names(option="rho") == ("karras", "polyexponential")


@pytest.mark.parametrize("name", solvers.names(two_times=False))
def test_stochastic_says_whether_noise_is_drawn_by_default(name):
    plan = fastgen.plan(name, CosineVP(), 6, start=0.9, end=0.1)
    assert bool(plan.draws) == solvers.get(name).stochastic


@pytest.mark.parametrize("k", range(len(typed_calls.wrong())))
def test_what_mypy_refuses_is_refused_when_called(k):
    with pytest.raises(TypeError):
        typed_calls.wrong()[k]()


def test_what_mypy_accepts_runs(monkeypatch):
    monkeypatch.setattr(registry, "_SOLVERS", dict(registry._SOLVERS))
    typed_calls.right()
    assert typed_calls.of_ones_own().given == {"power": 2}


def test_mypy_checks_the_file_of_typed_calls():
    settings = (ROOT / "pyproject.toml").read_text().split("[tool.mypy]")[1].split("[")[1:]
    assert "tests/typing" in settings[0]


@pytest.mark.slow
def test_mypy_agrees():
    found = subprocess.run(
        [sys.executable, "-m", "mypy", "tests/typing"], cwd=ROOT, capture_output=True, text=True
    )
    assert found.returncode == 0, found.stdout
