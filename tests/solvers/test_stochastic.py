"""SDE solvers, churn, restart and few-step samplers: exact laws, weak orders, limits, equalities.

For Gaussian data mean and variance of a plan's result are computed without sampling
(`closed_forms.propagate`). A deviation of the mean from the marginal's decays as
sqrt(v_t / v_s) exp(-integral of eps / v) under dx = (u - eps score) dt + sqrt(2 eps) dW, one of the
variance as its square; eps = tau^2 g^2 / 2.
"""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.integrate import quad

import fastgen
from fastgen import solvers
from fastgen.model.parametrisation import Parametrisation
from fastgen.plans.forms import Let, Normal
from fastgen.schedules import EDM, VE, CosineVP, DiscreteVP, LinearVP, Rectified, SubVP, Trig
from fastgen.solvers import flow_sdes, stochastic, stochastic_multistep
from fastgen.solvers.stochastic_multistep import LOG_SCALES, moments
from tests.support.closed_forms import Gaussian, network, propagate, slope

GAUSSIAN = Gaussian()
SETTINGS = {
    "linear_vp": (LinearVP(), "log_snr", 1.0, 0.05),
    "rectified": (Rectified(), "log_snr", 0.95, 0.05),
    "cosine_vp": (CosineVP(), "log_snr", 0.95, 0.05),
    "sub_vp": (SubVP(), "log_snr", 1.0, 0.05),
    "edm": (EDM(0.1, 10.0), "karras", 1.0, 0.02),
    "ve": (VE(0.1, 10.0), "uniform", 1.0, 0.05),
}
FAST = ("linear_vp", "rectified")


def settings(default):
    """All settings, only one of them unless slow tests are asked for."""
    return [s if s == default else pytest.param(s, marks=pytest.mark.slow) for s in SETTINGS]


MODULES = (
    "stochastic",
    "stochastic_multistep",
    "seeds",
    "flow_sdes",
    "few_step",
    "policies",
    "restarts",
)
NAMES = [n for n in solvers.names() if solvers.get(n).build.__module__.split(".")[-1] in MODULES]
COUNTS = (24, 40, 66, 108)
# Where terms of higher order are still as large as the leading one at 108 steps.
FINE = (100, 160, 256)


def constant(tau2):
    """tau^2 constant: eps = tau^2 g^2 / 2."""
    return lambda schedule: lambda t: tau2 * schedule.diffusion_squared(t) / 2


def grown(scale):
    """The eps of an ER-SDE: eps = sigma^2 d log q(r) / dt with q = phi(r) / r."""

    def of(schedule):
        def eps(t):
            step = 1e-5 * min(t, 1 - t)
            rise = LOG_SCALES[scale](schedule.ratio(t + step)) - LOG_SCALES[scale](
                schedule.ratio(t - step)
            )
            return schedule.sigma(t) ** 2 * rise / (2 * step)

        return eps

    return of


def form(name, norm=1.0):
    class Of:
        def __init__(self, schedule):
            self.schedule, self.sigma = schedule, schedule.sigma

    return lambda schedule: lambda t: flow_sdes.FORMS[name](Of(schedule), t, norm)


def law(schedule, eps, shift, excess, s, t):
    """Mean and variance at t from N(mean_s + shift, v_s + excess) at s."""
    mean, v = GAUSSIAN.marginal(schedule, t)
    _, v_s = GAUSSIAN.marginal(schedule, s)
    faded = [
        quad(lambda u, j=j: eps(u) / GAUSSIAN.marginal(schedule, u)[1][j], t, s)[0]
        for j in range(len(v))
    ]
    decay = np.sqrt(v / v_s) * np.exp(-np.array(faded))
    return mean + decay * shift, v + decay**2 * excess


def errors(name, setting, eps, counts, **options):
    """Errors of mean and variance, in units of the marginal, for each number of steps."""
    schedule, grid, start, end = SETTINGS[setting]
    mean, variance = GAUSSIAN.marginal(schedule, start)
    shift, excess = 0.5 * np.sqrt(variance), 0.4 * variance
    wanted_mean, wanted = law(schedule, eps(schedule), shift, excess, start, end)
    scale = GAUSSIAN.marginal(schedule, end)[1]
    of_mean, of_variance = [], []
    for n in counts:
        plan = fastgen.plan(name, schedule, n, timesteps=grid, start=start, end=end, **options)
        m, v = propagate(plan, GAUSSIAN, mean + shift, variance + excess)
        of_mean.append(np.sqrt(np.mean((m - wanted_mean) ** 2 / scale)))
        of_variance.append(np.sqrt(np.mean(((v - wanted) / scale) ** 2)))
    return np.array(of_mean), np.array(of_variance)


def check_weak_order(name, setting, eps, order, counts=COUNTS, higher=False, **options):
    """The lower one of both slopes is the order; a mean that carries no error has no slope.

    With ``higher`` the slope may exceed the order (leading terms that nearly cancel).
    """
    found = errors(name, setting, eps, counts, **options)
    slopes = [slope(counts, e) for e in found if max(e) > 1e-8]
    assert found[1][-1] < 0.1, found
    assert min(slopes) > order - 0.25, (slopes, found)
    assert higher or min(slopes) < order + 0.25, (slopes, found)


# (solver, options, tau^2 of the limit, measured order, step counts, may the slope be higher?)
CONSTANT = [
    ("dpm_2_ancestral", {"eta": 1.0}, 1.0, 1, COUNTS, False),
    ("dpm_2_ancestral", {"eta": 0.5}, 0.25, 1, COUNTS, False),
    ("dpmpp_2s_ancestral", {"eta": 1.0}, 1.0, 1, COUNTS, False),
    ("dpmpp_2s_ancestral", {"eta": 0.5}, 0.25, 1, FINE, False),
    ("dpmpp_sde", {}, 1.0, 1, COUNTS, False),
    ("dpmpp_sde", {"eta": 0.5, "r": 0.7}, 0.25, 1, COUNTS, False),
    ("dpmpp_2m_sde", {}, 1.0, 2, COUNTS, False),
    ("dpmpp_2m_sde", {"eta": 0.5}, 0.5, 2, COUNTS, False),
    ("dpmpp_2m_sde", {"eta": 0.5, "solver_type": "heun"}, 0.5, 2, COUNTS, False),
    ("dpmpp_3m_sde", {}, 1.0, 2, FINE, False),
    ("dpmpp_3m_sde", {"eta": 0.5}, 0.5, 2, FINE, True),
    ("dpmpp_3m_sde", {"compat": "k_diffusion"}, 1.0, 2, FINE, False),
    ("seeds_1", {}, 1.0, 1, COUNTS, False),
    ("seeds_1", {"eta": 0.5, "prediction": "noise"}, 0.5, 1, FINE, False),
    ("seeds_2", {}, 1.0, 2, COUNTS, False),
    ("seeds_2", {"eta": 0.5}, 0.5, 2, COUNTS, False),
    ("seeds_2", {"prediction": "noise"}, 1.0, 2, FINE, True),
    ("seeds_3", {}, 1.0, 2, FINE, False),
    ("seeds_3", {"eta": 0.5, "prediction": "noise"}, 0.5, 2, FINE, False),
    ("er_sde_1", {"noise_scale": "sde"}, 1.0, 1, COUNTS, False),
    ("er_sde_2", {"noise_scale": "sde"}, 1.0, 2, FINE, False),
    ("er_sde_3", {"noise_scale": "sde"}, 1.0, 2, FINE, False),
    ("sa_solver", {"predictor_order": 1, "corrector_order": 0}, 1.0, 1, COUNTS, False),
    ("sa_solver", {"predictor_order": 2, "corrector_order": 0}, 1.0, 2, COUNTS, False),
    ("sa_solver", {}, 1.0, 2, COUNTS, True),
    ("sa_solver", {"tau": 0.8, "predictor_order": 3, "corrector_order": 3}, 0.64, 2, FINE, False),
    ("sa_solver", {"mode": "PECE", "corrector_order": 3}, 1.0, 2, FINE, False),
    ("sa_solver", {"compat": "diffusers"}, 1.0, 2, FINE, False),
    ("sa_solver", {"lower_order_final": True}, 1.0, 2, COUNTS, True),
    ("euler_maruyama", {}, 1.0, 1, COUNTS, False),
    ("euler_maruyama", {"eta": 0.5}, 0.25, 1, COUNTS, False),
    ("stochastic_heun", {}, 1.0, 2, COUNTS, False),
    ("stochastic_heun", {"eta": 0.5}, 0.25, 2, COUNTS, False),
    ("flow_grpo", {}, 0.245, 1, COUNTS, False),
    ("precise", {}, 1.125, 1, COUNTS, False),
    ("precise", {"eta": 0.7}, 0.245, 1, COUNTS, False),
]


def named(case):
    name, options = case[:2]
    shown = {k: "function" if callable(v) else v for k, v in options.items()}
    return "-".join([name, *(f"{k}={v}" for k, v in shown.items())])


@pytest.mark.parametrize("setting", settings("linear_vp"))
@pytest.mark.parametrize("case", CONSTANT, ids=named)
def test_weak_order_for_constant_tau(case, setting):
    name, options, tau2, order, counts, higher = case
    check_weak_order(name, setting, constant(tau2), order, counts, higher, **options)


def test_registered_orders_are_the_measured_ones():
    for name, options, _, order, _, _ in CONSTANT:
        if not options:
            assert solvers.get(name).order == order, name


@pytest.mark.parametrize("setting", settings("rectified"))
@pytest.mark.parametrize(("name", "order"), [("er_sde_1", 1), ("er_sde_2", 2), ("er_sde_3", 2)])
def test_weak_order_of_er_sde_with_its_own_noise_scale(name, order, setting):
    assert solvers.get(name).order == order
    check_weak_order(name, setting, grown("er"), order, FINE if order == 2 else COUNTS)


@pytest.mark.parametrize("setting", settings("rectified"))
@pytest.mark.parametrize("diffusion", flow_sdes.FORMS)
@pytest.mark.parametrize("solver", ["flow_sde", "flow_sde_heun"])
def test_every_diffusion_form_has_the_marginals_of_the_flow(solver, diffusion, setting):
    """From a law off the marginal; `law` from zero shift and excess is the flow's own marginal."""
    order = solvers.get(solver).order
    check_weak_order(
        solver, setting, form(diffusion), order, FINE, higher=True, diffusion=diffusion
    )


def test_sa_solver_with_tau_in_an_interval_of_time():
    """Grids whose times hold both ends of the interval: the order is not disturbed."""
    schedule, start, end, low, high = LinearVP(), 0.95, 0.05, 0.35, 0.65

    def eps(t):
        return constant(1.0)(schedule)(t) if low < t < high else 0.0

    mean, variance = GAUSSIAN.marginal(schedule, start)
    between = law(schedule, lambda t: 0.0, 0.3, 0.2, start, high)
    for s, t, e in ((high, low, constant(1.0)(schedule)), (low, end, lambda t: 0.0)):
        m, v = GAUSSIAN.marginal(schedule, s)
        between = law(schedule, e, between[0] - m, between[1] - v, s, t)
    counts, found = (60, 96, 150, 240), []
    for n in counts:
        plan = fastgen.plan(
            "sa_solver",
            schedule,
            n,
            timesteps="uniform",
            start=start,
            end=end,
            tau_interval=(low + 1e-9, high + 1e-9),
        )
        assert plan.draws == n // 3
        m, v = propagate(plan, GAUSSIAN, mean + 0.3, variance + 0.2)
        found.append(np.abs(v - between[1]).max() + np.abs(m - between[0]).max())
    assert slope(counts, found) > 1.75, found


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize(
    "name",
    ["dpm_2_ancestral", "dpmpp_2s_ancestral", "dpmpp_sde", "dpmpp_2m_sde", "dpmpp_3m_sde",
     "seeds_1", "seeds_2", "seeds_3", "sa_solver", "euler_maruyama", "stochastic_heun"],
)  # fmt: skip
def test_the_marginal_is_kept_for_every_eta(name, eta):
    option = {"tau" if name == "sa_solver" else "eta": eta}
    for setting in FAST if eta == 0.5 else ["rectified"]:
        schedule, grid, start, end = SETTINGS[setting]
        plan = fastgen.plan(name, schedule, 100, timesteps=grid, start=start, end=end, **option)
        m, v = propagate(plan, GAUSSIAN, *GAUSSIAN.marginal(schedule, start))
        wanted_mean, wanted = GAUSSIAN.marginal(schedule, end)
        # Euler and Heun in t make an error in alpha too; the others are exact for it.
        in_time = name in ("euler_maruyama", "stochastic_heun")
        np.testing.assert_allclose(m, wanted_mean, atol=2e-2 if in_time else 1e-11)
        np.testing.assert_allclose(v, wanted, rtol=0.08 if solvers.get(name).order == 1 else 4e-3)


def net(x, t):
    return torch.tanh(1.1 * x + 0.3) * (0.4 + t[:, None]) - 0.2 * x


def draw(name, schedule, **options):
    options.setdefault("steps", 6)
    model = fastgen.Model(net, schedule, "velocity", time_dtype=torch.float64)
    return fastgen.sample(model, (3, 5), name, seed=4, dtype=torch.float64, **options)


EQUAL = [
    # eta = 0 is the deterministic counterpart
    (("dpm_2_ancestral", {"eta": 0.0}), ("dpm_2_churn", {})),
    (("dpmpp_2s_ancestral", {"eta": 0.0}), ("seeds_2", {"eta": 0.0})),
    (("dpmpp_sde", {"eta": 0.0}), ("seeds_2", {"eta": 0.0})),
    (("dpmpp_2m_sde", {"eta": 0.0}), ("dpmpp_2m", {})),
    (("seeds_1", {"eta": 0.0}), ("ddim", {})),
    (("seeds_1", {"eta": 0.0, "prediction": "noise"}), ("ddim", {})),
    (("er_sde_1", {"noise_scale": "ode"}), ("ddim", {})),
    (("er_sde_1", {"noise_scale": lambda r: 1.0}), ("ddim", {})),
    (("sa_solver", {"tau": 0.0, "predictor_order": 1, "corrector_order": 0}), ("ddim", {})),
    (("sa_solver", {"tau": 0.0, "corrector_order": 0}),
     ("dpmpp_2m_sde", {"eta": 0.0, "solver_type": "heun"})),
    (("sa_solver", {"tau": 0.0, "predictor_order": 3, "corrector_order": 0}),
     ("dpmpp_3m_sde", {"eta": 0.0})),
    (("sa_solver", {"tau": 0.0}), ("sa_solver", {"tau_interval": (-1.0, -1.0)})),
    (("sa_solver", {"tau": lambda t: 0.7 * (0.3 <= t <= 0.6)}),
     ("sa_solver", {"tau": 0.7, "tau_interval": (0.3, 0.6)})),
    (("euler_maruyama", {"eta": 0.0, "end": 0.02}), ("euler", {"end": 0.02})),
    (("stochastic_heun", {"eta": 0.0, "end": 0.02}), ("heun", {"end": 0.02})),
    (("flow_sde", {"diffusion_norm": 0.0, "end": 0.02}), ("euler", {"end": 0.02})),
    (("flow_grpo", {"a": 0.0, "end": 0.02}), ("euler", {"end": 0.02})),
    (("euler_churn", {}), ("ddim", {})),
    (("restart", {"intervals": ()}), ("heun_churn", {})),
    (("restart", {"intervals": (), "base": "euler"}), ("ddim", {})),
    (("restart", {"steps": 1}), ("heun_churn", {"steps": 1})),
    (("tcd", {"gamma": 0.0}), ("ddim", {})),
    # tau = 1: the same process, the same first-order step
    (("seeds_1", {}), ("ddim", {"eta": 1.0})),
    (("er_sde_1", {"noise_scale": "sde"}), ("ddim", {"eta": 1.0})),
    (("er_sde_1", {"noise_scale": lambda r: 3 * r}), ("ddim", {"eta": 1.0})),
    (("sa_solver", {"predictor_order": 1, "corrector_order": 0}), ("ddim", {"eta": 1.0})),
    (("dpmpp_2m_sde", {"solver_type": "heun"}), ("sa_solver", {"corrector_order": 0})),
    (("dpmpp_3m_sde", {}), ("sa_solver", {"predictor_order": 3, "corrector_order": 0})),
    (("flow_sde", {}), ("euler_maruyama", {})),
    (("flow_sde_heun", {}), ("stochastic_heun", {})),
    (("flow_sde", {"diffusion": lambda t: t, "diffusion_norm": 0.3}),
     ("flow_sde", {"diffusion": "linear", "diffusion_norm": 0.3})),
    (("tcd", {"gamma": 1.0}), ("consistency", {})),
    (("flow_grpo", {"a": math.sqrt(2.0), "last_step": "mean"}), ("euler_maruyama", {})),
    (("cps", {"eta": 0.0}), ("ddim", {})),
    (("cps", {"eta": 1.0}), ("consistency", {})),
    (("precise", {"eta": 0.0}), ("ddim", {})),
    (("precise", {"eta": 0.8}), ("seeds_1", {"eta": 0.32})),
    (("precise", {"eta": math.sqrt(2.0)}), ("ddim", {"eta": 1.0})),
    (("flow_grpo", {"window": (0, 6)}), ("flow_grpo", {})),
]  # fmt: skip


@pytest.mark.parametrize("schedule", [Rectified(), LinearVP(), EDM()], ids=repr)
@pytest.mark.parametrize("pair", EQUAL, ids=lambda p: "=".join(named(c) for c in p))
def test_special_cases_are_the_same_solver(pair, schedule):
    """From t = 1, where alpha = 0 on rectified flows, to t = 0."""
    (one, first), (other, second) = pair
    a, b = draw(one, schedule, **first), draw(other, schedule, **second)
    torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-11)


ENDS = [
    (Rectified(), "velocity"),
    (DiscreteVP.scaled_linear(1000).rescale_zero_terminal_snr(), "v"),
    (CosineVP(), "velocity"),
    (Trig(), "v"),
    (LinearVP(), "noise"),
    (SubVP(), "score"),
    (VE(), "noise"),
    (EDM(), "edm"),
]
VARIANTS = [
    {},
    {"eta": 0.5},
    {"eta": 0.0},
    {"solver_type": "heun"},
    {"prediction": "noise"},
    {"noise_scale": "sde"},
    {"noise_scale": "ode"},
    {"mode": "PECE", "predictor_order": 3, "corrector_order": 4},
    {"lower_order_final": True, "compat": "diffusers", "predictor_order": 3},
    {"base": "euler"},
    {"last_step": "none"},
    {"last_step": "tweedie"},
    {"last_step": "euler"},
    *({"diffusion": name} for name in flow_sdes.FORMS),
    {"first_step": "next"},
    {"gamma": 1.0},
    {"s_churn": 1.0, "s_tmax": 5.0},
]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("schedule", "predicts"), ENDS, ids=lambda v: repr(v)[:30])
def test_from_noise_alone_to_data_in_one_two_or_more_steps(name, schedule, predicts):
    """alpha = 0 at t = 1 or not, sigma = 0 at the end: finite, and no evaluation at t = 0."""
    for options in VARIANTS:
        if not set(options) <= set(solvers.get(name).options):
            continue
        for steps in (1, 2, 3):
            plan = fastgen.plan(name, schedule, steps, start=1.0, predicts=predicts, **options)
            assert min(e.time for e in plan.evaluations) > 0
            program = plan.lower(Parametrisation(schedule, predicts))
            tables = [s.table for s in program.stages if s is not None]
            assert all(np.isfinite(t).all() for t in tables), (options, steps)
            assert len(program.stages) == plan.nfe + 1
            assert [s.time for s in plan.states] == plan.times[1:].tolist()


@pytest.mark.parametrize("name", NAMES)
def test_one_step_from_pure_noise_is_the_mean_of_the_data(name):
    """At alpha = 0 the ideal data prediction is the mean, and one step must return it."""
    schedule = Rectified()
    model = fastgen.Model(network(GAUSSIAN, schedule, "velocity"), schedule, "velocity")
    x = fastgen.sample(model, (5, 4), name, 1, dtype=torch.float64)
    wanted = torch.tensor(GAUSSIAN.mean, dtype=torch.float64).expand(5, 4)
    torch.testing.assert_close(x, wanted, rtol=1e-6, atol=1e-6)


# Exact for their own networks only; of cps each step loses what D leaves open, however short.
NOT_CONVERGENT = {"consistency", "cps", "lcm", "tcd"}


@pytest.mark.parametrize("name", sorted(set(NAMES) - NOT_CONVERGENT))
def test_from_pure_noise_to_data_the_law_is_that_of_the_data(name):
    """The whole way, with both infinite steps: first order in variance or better."""
    schedule, found = Rectified(), []
    options = {
        "restart": {"intervals": ((0.06, 0.3, 40, 2),)},
        "flow_grpo": {"last_step": "mean"},
        "repaint": {"repetitions": 2},  # each repetition adds the error of a step
    }
    for n in (40, 160):
        plan = fastgen.plan(name, schedule, n, **options.get(name, {}))
        m, v = propagate(plan, GAUSSIAN, 0.0, 1.0)
        np.testing.assert_allclose(m, GAUSSIAN.mean, atol=1e-9)
        found.append(np.abs(v / np.square(GAUSSIAN.std) - 1).max())
    assert found[1] < 0.12, found
    assert found[1] < 0.5 * found[0] or found[1] < 1e-3, found


@pytest.mark.parametrize("setting", ["rectified", "edm"])
@pytest.mark.parametrize("name", ["euler_churn", "heun_churn", "dpm_2_churn"])
def test_churn_keeps_the_marginal_and_forgets_the_past(name, setting):
    """s_churn = 8: errors fall with the steps; a wrong initial mean decays by the noise added."""
    schedule, grid, _, end = SETTINGS[setting]
    start = schedule.time_at_ratio(5.0)
    mean, variance = GAUSSIAN.marginal(schedule, start)
    scale, found, shifts = GAUSSIAN.marginal(schedule, end)[1], [], []
    for churn, n in ((8.0, 40), (8.0, 160), (0.0, 160)):
        plan = fastgen.plan(
            name, schedule, n, timesteps=grid, start=start, end=end, s_churn=churn, s_tmax=3.0
        )
        m, v = propagate(plan, GAUSSIAN, mean, variance)
        np.testing.assert_allclose(m, GAUSSIAN.marginal(schedule, end)[0], atol=1e-11)
        found.append(np.abs(v / scale - 1).max())
        m, _ = propagate(plan, GAUSSIAN, mean + 1.0, variance)
        shifts.append(np.abs(m - GAUSSIAN.marginal(schedule, end)[0]))
        assert (plan.draws > 0) == (churn > 0)
    assert found[1] < 0.35 * found[0], found
    assert (shifts[1] < 0.9 * shifts[2]).all()


def test_churn_follows_the_paper_on_edm():
    """Karras et al., Algorithm 2, written out in sigma for a point mass at 0."""
    schedule, times = EDM(), [0.5, 0.2, 0.05, 0.0]
    plan = fastgen.plan(
        "heun_churn", schedule, timesteps=times, s_churn=0.9, s_tmin=5.0, s_noise=1.01
    )
    sigmas = schedule.sigma(np.array(times))
    variance = 100.0
    for s, t in pairwise(sigmas):
        hat = s * (1 + min(0.9 / 3, math.sqrt(2) - 1)) if s >= 5 else s
        variance = (variance + 1.01**2 * (hat**2 - s**2)) * (t / hat) ** 2
    _, v = propagate(plan, Gaussian((0.0,), (0.0,)), 0.0, 100.0)
    np.testing.assert_allclose(v, variance, rtol=1e-12)
    assert plan.draws == 2


def test_churn_beyond_the_schedule_is_refused():
    with pytest.raises(ValueError, match=r"s_churn: it raises the noise from .* = 80 to 96"):
        fastgen.plan("euler_churn", EDM(), 5, s_churn=1.0)
    fastgen.plan("euler_churn", EDM(), 5, s_churn=1.0, s_tmax=50.0)
    fastgen.plan("euler_churn", Rectified(), 5, s_churn=1.0)  # alpha = 0: nothing to be added


def test_restart_refuses_intervals_that_make_no_sense():
    for bad in ((0.3, 0.06, 2, 2), (0.1, 0.2, 0, 1)):
        with pytest.raises(ValueError, match="intervals: "):
            fastgen.plan("restart", EDM(), 9, intervals=(bad,))
    with pytest.raises(ValueError, match="beyond 80"):
        fastgen.plan("restart", EDM(), 9, intervals=((1.0, 500.0, 2, 1),))


def test_restart_counts_as_in_the_paper():
    """18 steps with [N, K] = [3, 2]: 35 + 8 = 43 evaluations."""
    plan = fastgen.plan("restart", EDM(), 18)
    assert (plan.nfe, plan.draws) == (43, 2)


def intervals(plan):
    """The intervals of a plan's noises in the order of their draws."""
    found = {s for i in plan.instructions if isinstance(i, Let) for s in i.form.terms}
    return [(z.start, z.end) for z in sorted(s for s in found if isinstance(s, Normal))]


def test_noises_name_the_interval_of_their_increments():
    times = [0.9, 0.6, 0.3]
    schedule = Rectified()
    pairs = list(pairwise(times))
    for name in ("dpm_2_ancestral", "dpmpp_2m_sde", "dpmpp_3m_sde", "er_sde_3", "sa_solver",
                 "seeds_1", "euler_maruyama", "stochastic_heun", "flow_grpo", "cps", "precise",
                 "lcm"):  # fmt: skip
        found = intervals(fastgen.plan(name, schedule, timesteps=times))
        assert found == (pairs[:1] if name == "lcm" else pairs), name
    nested = intervals(fastgen.plan("dpmpp_sde", schedule, timesteps=times))
    assert [n for n in nested if n in pairs] == pairs
    assert len(nested) == 4
    assert all(nested[k][0] == nested[k + 1][0] for k in (0, 2))
    for name, parts in (("seeds_2", 2), ("seeds_3", 3)):
        found = intervals(fastgen.plan(name, schedule, timesteps=times))
        assert [a for a, _ in found[1:]] == [b for _, b in found[:-1]]
        assert (found[0][0], found[parts - 1][1], len(found)) == (0.9, 0.6, 2 * parts)
    up = intervals(fastgen.plan("euler_churn", schedule, timesteps=times, s_churn=1.0))
    assert [low for _, low in up] == times[:-1]
    assert all(high > low for high, low in up)


def test_last_steps_of_the_flow_sde():
    """To sigma = 0: "tweedie" is D; the others are steps of the SDE, its mean, or the flow."""
    schedule, s = Rectified(), 0.1
    mean, variance = GAUSSIAN.marginal(schedule, s)
    gain, offset = GAUSSIAN.affine(schedule, s)

    def result(last, **options):
        plan = fastgen.plan("flow_sde", schedule, timesteps=[s, 0.0], last_step=last, **options)
        return propagate(plan, GAUSSIAN, mean, variance)

    m, v = result("tweedie")
    np.testing.assert_allclose(m, gain * mean + offset)
    np.testing.assert_allclose(v, gain**2 * variance)
    eps = s / (1 - s)
    _, with_noise = result("none")
    _, without = result("mean")
    np.testing.assert_allclose(with_noise - without, 2 * eps * s)
    _, flow = result("euler")
    _, still = result("mean", diffusion_norm=0.0)
    np.testing.assert_allclose(flow, still)
    np.testing.assert_allclose(flow, gain**2 * variance, rtol=1e-12)  # straight: Euler is exact


def test_flow_grpo_is_its_formula():
    """x + (t - s)(u + sigma^2/(2s) (x + (1 - s) u)) + sigma sqrt(s - t) z of the paper."""
    schedule, s, t, a = Rectified(), 0.7, 0.5, 0.7
    model = fastgen.Model(net, schedule, "velocity", time_dtype=torch.float64)
    x = fastgen.randn((3, 5), seed=1, dtype=torch.float64)
    mine = fastgen.sample(model, x, "flow_grpo", timesteps=[s, t], a=a, seed=9, dtype=torch.float64)
    u = net(x, torch.full((3,), s, dtype=torch.float64))
    sigma = a * math.sqrt(s / (1 - s))
    z = fastgen.randn(
        (3, 5), seed=9, draw=1, stream=fastgen.kernels.Stream.SOLVER, dtype=torch.float64
    )
    wanted = x + (t - s) * (u + sigma**2 / (2 * s) * (x + (1 - s) * u))
    torch.testing.assert_close(mine, wanted + sigma * math.sqrt(s - t) * z, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["cps", "precise"])
def test_policies_are_their_formulas(name):
    """(1 - t) D + t k eps + t sqrt(1 - k^2) z on rectified flows, with k of each paper."""
    schedule, s, t, eta = Rectified(), 0.7, 0.5, 0.6
    model = fastgen.Model(net, schedule, "velocity", time_dtype=torch.float64)
    x = fastgen.randn((3, 5), seed=1, dtype=torch.float64)
    times = {"timesteps": [s, t], "eta": eta}
    mine = fastgen.sample(model, x, name, seed=9, dtype=torch.float64, **times)
    u = net(x, torch.full((3,), s, dtype=torch.float64))
    data, eps = x - s * u, x + (1 - s) * u
    ratio = t * (1 - s) / (s * (1 - t))
    k = {"cps": math.cos(eta * math.pi / 2), "precise": ratio ** (eta**2 / 2)}[name]
    stream = fastgen.kernels.Stream.SOLVER
    z = fastgen.randn((3, 5), seed=9, draw=1, stream=stream, dtype=torch.float64)
    wanted = (1 - t) * data + t * k * eps + t * math.sqrt(1 - k * k) * z
    torch.testing.assert_close(mine, wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("eta", [0.3, 0.7, 1.0])
def test_the_limit_of_cps_misses_a_known_part_of_the_variance(eta):
    """A step loses (1 - k)^2 (alpha sigma c)^2 / v and forgets 2 (1 - k) sigma^2 / v of what is
    missing, to first order in sigma^2: in the limit (1 - k) / 2 of c^2 is."""
    missing = [
        1 - propagate(fastgen.plan("cps", Rectified(), n, eta=eta), GAUSSIAN, 0.0, 1.0)[1]
        / np.square(GAUSSIAN.std)
        for n in (160, 640)
    ]  # fmt: skip
    limit = (1 - math.cos(eta * math.pi / 2)) / 2
    off = [np.abs(m - limit).max() for m in missing]
    assert off[1] < 0.016
    assert off[1] < 0.5 * off[0]


@pytest.mark.parametrize("schedule", [Rectified(), LinearVP()], ids=repr)
@pytest.mark.parametrize(
    ("name", "still"), [("flow_grpo", {"a": 0.0}), ("cps", {"eta": 0.0}), ("precise", {"eta": 0})]
)
def test_steps_outside_of_a_window_are_the_flows(name, still, schedule):
    """MixGRPO: the run up to the window is the flow's, and only the window's steps draw noise."""
    grid = {"timesteps": "uniform", "end": 0.1}
    plan = fastgen.plan(name, schedule, 8, window=[2, 5], **grid)
    assert plan.draws == 3
    model = fastgen.Model(net, schedule, "velocity", time_dtype=torch.float64)
    states = [
        fastgen.Sampler(model, p, dtype=torch.float64)((3, 5), seed=4, trajectory=True)[1]
        for p in (plan, fastgen.plan(name, schedule, 8, **still, **grid))
    ]
    same = (states[0] - states[1]).abs().amax((1, 2)) < 1e-12
    assert same.tolist() == [True] * 3 + [False] * 6
    found = fastgen.sampled_log_probability(plan, (3, 5), seed=4)
    assert found.steps == (2, 3, 4)
    again = fastgen.plan(name, schedule, 8, window=(2, 5), **grid)
    assert fastgen.Plan.from_json(again.to_json()).to_json() == again.to_json()
    # After the window every step is the flow's again.
    tail = fastgen.plan(name, schedule, timesteps=plan.times[5:].tolist(), **still)
    rest = fastgen.Sampler(model, tail, dtype=torch.float64)(states[0][5])
    torch.testing.assert_close(rest, states[0][-1], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("z", [1e-9, 1e-3, 0.5, 1.0, 3.9, 4.1, 30.0, 1e3, math.inf])
def test_moments_are_the_integrals(z):
    for k, found in enumerate(moments(z, 4)):
        if z == math.inf:
            assert found == 1.0
            continue
        wanted = quad(lambda u, k=k: z * math.exp(-z * (1 - u)) * u**k, max(0, 1 - 60 / z), 1)[0]
        assert found == pytest.approx(wanted, rel=1e-9)


def test_er_integrals_are_exact_for_known_scales():
    for name, primitive in (("ode", math.log), ("sde", lambda r: -1 / r)):
        flat, linear = stochastic_multistep.er_integrals(LOG_SCALES[name], 20.0, 0.01)
        phi = 0.01 if name == "ode" else 0.01**2
        whole = primitive(20.0) - primitive(0.01)
        assert flat == pytest.approx(phi * whole, rel=1e-8)
        first = 19.99 if name == "ode" else math.log(20.0 / 0.01)
        assert linear == pytest.approx(phi * (first - 20.0 * whole), rel=1e-8)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("dpmpp_2m_sde", {"solver_type": "huen"}, "solver_type='huen'"),
        ("dpmpp_2m_sde", {"eta": -1}, "eta=-1"),
        ("dpmpp_3m_sde", {"compat": "diffusers"}, "compat"),
        ("dpmpp_sde", {"r": 0}, "r=0"),
        ("seeds_2", {"prediction": "score"}, "prediction='score'"),
        ("er_sde_2", {"noise_scale": "erm"}, "did you mean 'er'"),
        ("er_sde_2", {"noise_scale": lambda r: 1 / (1 + r)}, "falls from"),
        ("sa_solver", {"predictor_order": 0}, "predictor_order=0"),
        ("sa_solver", {"corrector_order": 5}, "corrector_order=5"),
        ("sa_solver", {"mode": "PCE"}, "mode='PCE'"),
        ("flow_sde", {"diffusion": "sigmas"}, "did you mean 'sigma'"),
        ("flow_sde", {"diffusion": lambda t: -1.0}, "must not be negative"),
        ("flow_sde", {"last_step": "median"}, "did you mean 'mean'"),
        ("flow_grpo", {"first_step": "clamp"}, "first_step='clamp'"),
        ("cps", {"eta": 1.2}, "eta=1.2: expected 0 <= eta <= 1"),
        ("precise", {"eta": -0.1}, "eta=-0.1"),
        ("flow_grpo", {"window": (2, 5)}, r"window=\(2, 5\): expected 0 <= first < last <= 4"),
        ("cps", {"window": (2, 2)}, r"window=\(2, 2\)"),
        ("restart", {"base": "huen"}, "did you mean 'heun'"),
        ("tcd", {"gamma": 1.5}, "gamma=1.5"),
        ("lcm", {"sigma_data": 0.0}, "sigma_data"),
        ("heun_churn", {"s_churn": -1}, "s_churn=-1"),
    ],
)
def test_refusals(name, options, message):
    with pytest.raises(ValueError, match=message):
        fastgen.plan(name, LinearVP(), 4, **options)


def test_any_one_step_method_can_churn(monkeypatch):
    monkeypatch.setattr(solvers.registry, "_SOLVERS", dict(solvers.registry._SOLVERS))
    solvers.register("own_churn", order=1, source="this test")(
        solvers.with_churn(stochastic.euler_step)
    )
    options = {"steps": 5, "s_churn": 1.5, "s_tmax": 2.0}
    a, b = (draw(n, Rectified(), **options) for n in ("own_churn", "euler_churn"))
    assert torch.equal(a, b)


MONTE_CARLO = [
    ("seeds_3", {}),
    ("seeds_2", {"prediction": "noise"}),
    ("sa_solver", {"predictor_order": 3, "corrector_order": 3, "mode": "PECE"}),
    ("dpmpp_3m_sde", {"eta": 0.7, "s_noise": 1.1}),
    ("er_sde_3", {}),
    ("dpmpp_sde", {}),
    ("restart", {"intervals": ((0.5, 1.5, 2, 2),)}),
    ("heun_churn", {"s_churn": 1.0}),
    ("flow_sde_heun", {"diffusion": "increasing_decreasing"}),
    ("tcd", {"gamma": 0.4}),
    ("lcm", {}),
]


@pytest.mark.parametrize("case", MONTE_CARLO, ids=named)
def test_the_sampler_draws_what_the_algebra_says(case):
    """1e5 samples through the real sampler: mean and std within 4.5 standard errors."""
    name, options = case
    two = Gaussian((0.5, -1.0), (1.5, 0.3))
    schedule, n = LinearVP(), 100_000
    plan = fastgen.plan(name, schedule, timesteps=[0.9, 0.6, 0.35, 0.1], **options)
    exact, variance = propagate(plan, two, 0.0, schedule.sigma(0.9) ** 2)
    model = fastgen.Model(network(two, schedule, "noise"), schedule, "noise")
    x = fastgen.Sampler(model, plan)((n, 2), seed=11).double()
    assert np.abs((x.mean(0).numpy() - exact) / np.sqrt(variance / n)).max() < 4.5
    spread = (x.std(0).numpy() - np.sqrt(variance)) / np.sqrt(variance / (2 * n))
    assert np.abs(spread).max() < 4.5, spread


@pytest.mark.parametrize("name", NAMES)
def test_stages_do_not_write_before_the_first_evaluation(name):
    """One kernel call per evaluation; only churn at the first time needs one before it."""
    plan = fastgen.plan(name, LinearVP(), steps=5, start=0.9)
    program = plan.lower(Parametrisation(LinearVP(), "noise"))
    assert program.stages[0] is None
    assert None not in program.stages[1:]
