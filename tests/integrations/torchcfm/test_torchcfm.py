"""torchcfm's matchers and samplers beside the originals, and what the originals do not have."""

import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import fastgen
from fastgen.integrations import torchcfm as mine

METHODS = ("exact", "sinkhorn", "unbalanced", "partial")
MATCHERS = {
    "ConditionalFlowMatcher": (0, 0.3),
    "ExactOptimalTransportConditionalFlowMatcher": (0.0, 0.3),
    "TargetConditionalFlowMatcher": (0.0, 0.3),
    "SchrodingerBridgeConditionalFlowMatcher": (0.5, 1.0),
    "VariancePreservingConditionalFlowMatcher": (0.0, 0.3),
}
CASES = [(name, sigma) for name, sigmas in MATCHERS.items() for sigma in sigmas]


@pytest.fixture
def theirs():
    return pytest.importorskip("torchcfm")


@pytest.fixture
def plans():
    return pytest.importorskip("torchcfm.optimal_transport")


def clouds(n=24, m=None, shape=(2,), seed=0, dtype=torch.float32):
    x = fastgen.randn((n + (m or n), *shape), seed=seed).to(dtype)
    return x[:n], x[n:] + 1


def seeded(run, seed=3):
    """What run gives, and the state it leaves both generators in."""
    torch.manual_seed(seed)
    np.random.seed(seed)
    found = run()
    return found, (torch.rand(1).item(), np.random.rand())


def assert_same(a, b):
    assert len(a) == len(b)
    for x, y in zip(a, b, strict=True):
        assert (x is None and y is None) or (x.dtype == y.dtype and torch.equal(x, y))


@pytest.mark.parametrize("return_noise", [False, True])
@pytest.mark.parametrize(("name", "sigma"), CASES)
def test_matchers_are_torchcfms_bit_for_bit(theirs, name, sigma, return_noise):
    for shape, dtype in (((2,), torch.float32), ((3, 4, 4), torch.float64)):
        x0, x1 = clouds(shape=shape, dtype=dtype)
        found = [
            seeded(
                lambda kind=kind, x=(x0, x1): getattr(kind, name)(
                    sigma
                ).sample_location_and_conditional_flow(*x, return_noise=return_noise)
            )
            for kind in (mine, theirs)
        ]
        assert_same(found[0][0], found[1][0])
        assert found[0][1] == found[1][1]


@pytest.mark.parametrize(("name", "sigma"), CASES)
def test_given_times_and_the_parts(theirs, name, sigma):
    x0, x1 = clouds()
    t = torch.linspace(0, 0.98, 24)
    a, b = getattr(mine, name)(sigma), getattr(theirs, name)(sigma)
    found = [seeded(lambda m=m: m.sample_location_and_conditional_flow(x0, x1, t)) for m in (a, b)]
    assert_same(found[0][0], found[1][0])
    eps = x0.roll(1, 0)
    xt = a.sample_xt(x0, x1, t, eps)
    assert torch.equal(xt, b.sample_xt(x0, x1, t, eps))
    assert torch.equal(a.compute_mu_t(x0, x1, t), b.compute_mu_t(x0, x1, t))
    flow = a.compute_conditional_flow(x0, x1, t, xt)
    assert torch.equal(flow, b.compute_conditional_flow(x0, x1, t, xt))
    for part in ("compute_sigma_t", "compute_lambda"):
        first, second = (torch.as_tensor(getattr(m, part)(t)) for m in (a, b))
        assert torch.equal(first, second)


@pytest.mark.parametrize("return_noise", [False, True])
@pytest.mark.parametrize("labels", [(True, True), (False, True), (False, False)])
def test_guided(theirs, labels, return_noise):
    x0, x1 = clouds()
    y = [torch.arange(24) * (k + 1) if given else None for k, given in enumerate(labels)]
    for name in (
        "ExactOptimalTransportConditionalFlowMatcher",
        "SchrodingerBridgeConditionalFlowMatcher",
    ):
        found = [
            seeded(
                lambda kind=kind, name=name: getattr(kind, name)(
                    0.5
                ).guided_sample_location_and_conditional_flow(x0, x1, *y, return_noise=return_noise)
            )[0]
            for kind in (mine, theirs)
        ]
        assert_same(*found)


@pytest.mark.parametrize("n", [24, 16])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("normalize", [False, True])
def test_plans(plans, method, n, normalize):
    x0, x1 = clouds(24, n, shape=(2, 2), dtype=torch.float64)
    options = {"reg": 0.05 if normalize else 1.0, "reg_m": 0.5, "normalize_cost": normalize}
    a = mine.OTPlanSampler(method, **options).get_map(x0, x1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        b = plans.OTPlanSampler(method, **options).get_map(x0, x1)
    # Its "partial" is 1000 alternating projections, not yet at their limit.
    tolerance = 1e-2 if method == "partial" else 1e-5
    assert abs(a - b).max() < tolerance * b.max()


@pytest.mark.parametrize("replace", [True, False])
@pytest.mark.parametrize("method", ["exact", "sinkhorn"])
def test_draws_are_numpys(plans, method, replace):
    x0, x1 = clouds(dtype=torch.float64)
    both = [kind.OTPlanSampler(method, reg=1.0) for kind in (mine, plans)]
    found = [seeded(lambda s=s: s.sample_plan(x0, x1, replace=replace)) for s in both]
    assert_same(found[0][0], found[1][0])
    assert found[0][1] == found[1][1]
    plan = both[1].get_map(x0, x1)
    chosen = [seeded(lambda s=s: s.sample_map(plan, 24, replace))[0] for s in both]
    np.testing.assert_array_equal(chosen[0], chosen[1])


@pytest.mark.parametrize("method", ["exact", "sinkhorn"])
def test_trajectories(plans, method):
    x = fastgen.randn((12, 4, 3), seed=4).double()
    both = [kind.OTPlanSampler(method, reg=1.0) for kind in (mine, plans)]
    found = [seeded(lambda s=s: s.sample_trajectory(x)) for s in both]
    assert isinstance(found[0][0], np.ndarray)
    np.testing.assert_array_equal(found[0][0], found[1][0])
    assert found[0][1] == found[1][1]


@pytest.mark.parametrize("method", [None, "exact", "sinkhorn"])
@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize("n", [24, 16])
def test_wasserstein(plans, method, power, n):
    x0, x1 = clouds(24, n, dtype=torch.float64)
    a, b = (kind.wasserstein(x0, x1, method, 0.5, power) for kind in (mine, plans))
    assert a == pytest.approx(b, rel=1e-6)


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 7), st.integers(1, 9), st.integers(0, 2**16), st.integers(0, 2**32 - 1))
def test_cells_are_those_of_numpys_choice(n, m, seed, state):
    from fastgen.integrations.torchcfm.plans import drawn_cells

    rng = np.random.default_rng(seed)
    plan = rng.random((n, m)) * (rng.random((n, m)) < 0.6)
    plan[rng.integers(n), rng.integers(m)] = 0.5
    chosen = np.random.RandomState(state).choice(n * m, p=plan.flatten() / plan.sum(), size=50)
    i, j = drawn_cells(plan, np.random.RandomState(state).random_sample(50))
    np.testing.assert_array_equal(i * m + j, chosen)


def each_once(pairs, x0, x1):
    for drawn, all_ in zip(pairs, (x0, x1), strict=True):
        torch.testing.assert_close(drawn.sort(0).values, all_.sort(0).values, rtol=0, atol=0)


@pytest.mark.parametrize("noise", ["torch", "contract"])
@pytest.mark.parametrize("method", METHODS)
def test_once_keeps_every_sample(method, noise):
    x0, x1 = clouds()
    sampler = mine.OTPlanSampler(method, reg=1.0, noise=noise)
    pairs = sampler.sample_plan(x0, x1, replace="once")
    each_once(pairs, x0, x1)
    assert_same(pairs, sampler.sample_plan_with_scipy(x0, x1))
    i, j = sampler.sample_map(sampler.get_map(x0, x1), 24, replace="once")
    assert_same(pairs, (x0[i], x1[j]))
    matcher = mine.ExactOptimalTransportConditionalFlowMatcher(replace="once", noise=noise)
    t, xt, ut = matcher.sample_location_and_conditional_flow(x0, x1)
    start = xt - t[:, None] * ut
    torch.testing.assert_close(start.sort(0).values, x0.sort(0).values)


@pytest.mark.parametrize("noise", ["torch", "contract"])
def test_without_replacement_of_an_exact_plan_keeps_every_sample(noise):
    x0, x1 = clouds()
    each_once(mine.OTPlanSampler("exact", noise=noise).sample_plan(x0, x1, False), x0, x1)
    pairs = mine.OTPlanSampler("exact", noise=noise).sample_plan(x0, x1, True)
    assert len(pairs[0].unique(dim=0)) < 24


def test_contract_draws_follow_the_plan():
    plan = np.array([[0.4, 0.1, 0.0], [0.0, 0.2, 0.3]])
    sampler = mine.OTPlanSampler("sinkhorn", noise="contract", seed=1)
    count = 40_000
    i, j = sampler.sample_map(plan, count)
    found = np.bincount(i * 3 + j, minlength=6) / count
    error = 5 * np.sqrt(plan * (1 - plan) / count).flatten()
    assert (abs(found - plan.flatten()) <= error).all()
    first = np.concatenate([np.stack(sampler.sample_map(plan, 1, False)) for _ in range(600)], 1)
    found = np.bincount(first[0] * 3 + first[1], minlength=6) / 600
    assert (abs(found - plan.flatten()) <= error * math.sqrt(count / 600)).all()
    i, j = sampler.sample_map(plan, 4, False)
    assert len({*zip(i.tolist(), j.tolist(), strict=True)}) == 4


@pytest.mark.parametrize(("name", "sigma"), CASES)
def test_contract_noise_solves_the_same_equations(name, sigma):
    options = {"replace": "once"} if "Exact" in name or "Schr" in name else {}
    x0, x1 = clouds(dtype=torch.float64)
    made = [getattr(mine, name)(sigma, noise="contract", seed=7, **options) for _ in range(2)]
    noisy = sigma > 0 or "Target" in name
    batches = [m.sample_location_and_conditional_flow(x0, x1, return_noise=noisy) for m in made]
    assert_same(*batches)
    t, xt, ut = batches[0][:3]
    if options:
        x0, x1 = made[0].ot_sampler.sample_plan(x0, x1, "once")
    eps = batches[0][3] if noisy else torch.zeros_like(xt)
    assert abs(eps.mean()) < 0.7
    torch.testing.assert_close(xt, made[0].sample_xt(x0, x1, t, eps))
    wanted = made[0].compute_conditional_flow(x0, x1, t, xt)
    torch.testing.assert_close(ut, wanted, rtol=1e-5, atol=1e-5)
    again = made[0].sample_location_and_conditional_flow(x0, x1)
    assert not torch.equal(again[0], t)
    given = made[0].sample_location_and_conditional_flow(x0, x1, t)
    assert torch.equal(given[0], t)


def test_users_formulas_are_called():
    class Slow(mine.ConditionalFlowMatcher):
        def compute_mu_t(self, x0, x1, t):
            return super().compute_mu_t(x0, x1, t**2)

    x0, x1 = clouds()
    (t, xt, _), _ = seeded(lambda: Slow().sample_location_and_conditional_flow(x0, x1))
    torch.testing.assert_close(xt, x0 + t[:, None] ** 2 * (x1 - x0))
    with pytest.raises(ValueError, match=r"Slow\.compute_mu_t would not be called"):
        Slow(noise="contract")


def test_times_between_clouds_of_one_size_only_matter_where_they_must():
    x0, x1 = clouds(16, 24)
    matcher = mine.ExactOptimalTransportConditionalFlowMatcher()
    t, xt, ut = matcher.sample_location_and_conditional_flow(x0, x1)
    assert t.shape == (16,)
    assert xt.shape == ut.shape == (16, 2)


@pytest.mark.parametrize(
    ("run", "error", "message"),
    [
        (lambda x: mine.OTPlanSampler("sinkhor"), ValueError, "Unknown method.*sinkhorn"),
        (lambda x: mine.OTPlanSampler("exact", reg=0), ValueError, "reg=0"),
        (lambda x: mine.OTPlanSampler("exact", num_threads=0), ValueError, "num_threads=0"),
        (lambda x: mine.OTPlanSampler("exact", seed=1), ValueError, "seed=1"),
        (lambda x: mine.OTPlanSampler("exact", noise="cuda"), ValueError, "noise='cuda'"),
        (lambda x: mine.SchrodingerBridgeConditionalFlowMatcher(0), ValueError, "Sigma must be"),
        (lambda x: mine.wasserstein(x, x, power=3), ValueError, "power=3"),
        (lambda x: mine.wasserstein(x, x, "sinkhor"), ValueError, "Unknown method"),
        (lambda x: mine.wasserstein(x, x, numItermax=3), TypeError, "numItermax"),
        (lambda x: mine.OTPlanSampler("sinkhorn").get_map(x / 0, x), ValueError, "x0.*finite"),
        (
            lambda x: mine.OTPlanSampler("exact").sample_plan(x, x[:3], "once"),
            ValueError,
            "one size",
        ),
        (lambda x: mine.OTPlanSampler("exact").sample_plan(x, x, "all"), ValueError, "'once'"),
        (
            lambda x: mine.OTPlanSampler("exact").sample_map(np.eye(3), 4, False),
            ValueError,
            "4 pairs of a plan with 3",
        ),
        (
            lambda x: mine.ConditionalFlowMatcher().sample_location_and_conditional_flow(
                x, x, torch.rand(3)
            ),
            ValueError,
            "t: expected 24",
        ),
        (
            lambda x: mine.ConditionalFlowMatcher(
                noise="contract"
            ).sample_location_and_conditional_flow(x, x, return_noise=True),
            ValueError,
            "no noise",
        ),
    ],
)
def test_errors(run, error, message):
    with pytest.raises(error, match=message):
        run(clouds()[0])


def test_slow_plans_warn():
    x0, x1 = clouds(dtype=torch.float64)
    with pytest.warns(UserWarning, match="marginal error"):
        mine.OTPlanSampler("unbalanced", reg=1e-5, reg_m=1e3).get_map(50 * x0, x1)
    with pytest.warns(UserWarning, match="Small sigma"):
        mine.SchrodingerBridgeConditionalFlowMatcher(1e-4)


@pytest.mark.parametrize("noise", ["torch", "contract"])
def test_the_training_loop(noise):
    """torchcfm's 2-D example, shortened: noise to two blobs, integrated by the torch loop."""
    torch.manual_seed(0)
    np.random.seed(0)
    net = torch.nn.Sequential(
        torch.nn.Linear(3, 64), torch.nn.SELU(), torch.nn.Linear(64, 64), torch.nn.SELU(),
        torch.nn.Linear(64, 2),
    )  # fmt: skip
    optimiser = torch.optim.Adam(net.parameters(), 3e-3)
    matcher = mine.ExactOptimalTransportConditionalFlowMatcher(sigma=0.05, noise=noise)
    for _ in range(200):
        x0 = torch.randn(128, 2)
        x1 = torch.tensor([3.0, 0.0]) * (2 * torch.randint(2, (128, 1)) - 1)
        x1 = x1 + 0.2 * torch.randn(128, 2)
        t, xt, ut = matcher.sample_location_and_conditional_flow(x0, x1)
        loss = (net(torch.cat([xt, t[:, None]], -1)) - ut).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with torch.no_grad():
        x = torch.randn(256, 2)
        for k in range(40):
            x = x + net(torch.cat([x, torch.full((256, 1), k / 40)], -1)) / 40
    assert x[:, 1].abs().mean() < 0.5
    assert (x[:, 0].abs() - 3).abs().mean() < 1
    assert 0.3 < (x[:, 0] > 0).float().mean() < 0.7


@pytest.mark.parametrize("kind", MATCHERS)
@pytest.mark.parametrize("sigma", [-1.0, math.nan, math.inf, "0.1"])
def test_widths_that_are_none(kind, sigma):
    with pytest.raises((TypeError, ValueError), match=r"[sS]igma"):
        getattr(mine, kind)(sigma=sigma)
