"""Training densities, averages of weights, and the pieces of samplers, beside k-diffusion's."""

import contextlib
import copy
import math
import threading

import pytest
import torch
from torch import nn

from fastgen.integrations.k_diffusion import sampling, utils
from tests.support.peers import k_diffusion

DENSITIES = {
    "rand_cosine_interpolated": (64, 32, 128),
    "rand_log_logistic": (-0.5, 0.7, 0.1, 20.0),
    "rand_log_normal": (-1.2, 1.2),
    "rand_log_uniform": (0.01, 80.0),
    "rand_split_log_normal": (0.3, 0.5, 1.5),
    "rand_v_diffusion": (0.5, 0.01, 50.0),
}


@pytest.fixture(scope="module")
def peer():
    settings = threading.local()
    return k_diffusion(
        "rand_", "stratified_", "enable_stratified", "EMAWarmup", "ema_update",
        module="utils",
        stratified_settings=settings,
        contextmanager=contextlib.contextmanager,
        # The learning rates' base class; they are not looked at.
        optim=torch.optim,
    )  # fmt: skip


@pytest.mark.parametrize("name", sorted(DENSITIES))
@pytest.mark.parametrize("stratified", [False, True])
def test_levels_are_k_diffusions(peer, name, stratified):
    found = []
    for draw, enable in (
        (peer[name], peer["enable_stratified"]),
        (getattr(utils, name), utils.enable_stratified),
    ):
        torch.manual_seed(3)
        with enable(1, 4, disable=not stratified):
            found.append(draw([500], *DENSITIES[name]))
    # Tangents near their poles magnify a rounding of the angle.
    torch.testing.assert_close(found[1], found[0], rtol=3e-5, atol=1e-7)
    assert found[1].dtype == torch.float32


def test_strata_are_all_hit():
    """Groups together have one number in each of their strata."""
    groups = [utils.stratified_uniform([8], group, 4) for group in range(4)]
    places = (torch.cat(groups) * 32).floor().sort().values
    assert torch.equal(places, torch.arange(32.0))
    with pytest.raises(ValueError, match="group=4"):
        utils.stratified_uniform([8], 4, 4)


def test_stratification_ends_and_nests():
    with utils.enable_stratified(0, 1):
        with utils.enable_stratified(0, 1, disable=True):
            pass
        inside = utils.stratified_with_settings([1000]).sort().values
    assert ((inside * 1000).floor() == torch.arange(1000)).float().mean() > 0.99
    outside = utils.stratified_with_settings([1000]).sort().values
    assert ((outside * 1000).floor() == torch.arange(1000)).float().mean() < 0.5


def test_averages_of_weights(peer):
    model, average = nn.BatchNorm1d(3), nn.BatchNorm1d(3)
    model.weight.data += 2
    model.running_mean += 5
    theirs = copy.deepcopy(average)
    utils.ema_update(model, average, 0.9)
    with torch.no_grad():
        peer["ema_update"](model, theirs, 0.9)
    for a, b in zip(average.state_dict().values(), theirs.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    with pytest.raises(ValueError, match=r"averaged_model: .*\['0\.bias', '0\.weight', 'bias'"):
        utils.ema_update(nn.Sequential(nn.Linear(2, 2)), nn.Linear(2, 2), 0.9)
    assert utils.ema_update_dict({"loss": 1.0}, {"loss": 2.0, "new": 3.0}, 0.75) == {
        "loss": 1.25,
        "new": 3.0,
    }


def test_warmup_of_averages(peer):
    options = {"inv_gamma": 2.0, "power": 2 / 3, "min_value": 0.1, "max_value": 0.95, "start_at": 2}
    mine, theirs = utils.EMAWarmup(**options), peer["EMAWarmup"](**options)
    for _ in range(300):
        assert mine.get_value() == theirs.get_value()
        mine.step()
        theirs.step()
    fresh = utils.EMAWarmup()
    fresh.load_state_dict(mine.state_dict())
    assert fresh.get_value() == mine.get_value() == 0.95


def test_modes_are_given_back():
    model = nn.Sequential(nn.Linear(2, 2), nn.Dropout())
    model[1].eval()
    with utils.eval_mode(model):
        assert not any(m.training for m in model.modules())
    assert [m.training for m in model.modules()] == [True, True, False]


def test_what_is_of_files_says_so():
    with pytest.raises(AttributeError, match="no FolderOfImages: it is of files"):
        utils.FolderOfImages  # noqa: B018


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_linear_multistep_weights_integrate_polynomials(order):
    """Weights of the values of t^p at the nodes are its integral over the step, p < order."""
    t = torch.tensor([5.0, 3.0, 2.2, 1.0, 0.4])
    weights = [sampling.linear_multistep_coeff(order, t, 3, j) for j in range(order)]
    nodes = [float(t[3 - j]) for j in range(order)]
    for p in range(order):
        found = sum(w * node**p for w, node in zip(weights, nodes, strict=True))
        exact = (float(t[4]) ** (p + 1) - float(t[3]) ** (p + 1)) / (p + 1)
        assert found == pytest.approx(exact, rel=1e-12)
    with pytest.raises(ValueError, match="order=3"):
        sampling.linear_multistep_coeff(3, t, 1, 0)


def denoiser(x, sigma):
    """The exact one of N(0, 0.25)."""
    variance = 0.25 / (0.25 + sigma.reshape(-1, *(1,) * (x.ndim - 1)) ** 2)
    return variance * x


def test_densities_of_a_normal_distribution():
    torch.manual_seed(0)
    x = torch.randn(6, 4, dtype=torch.float64) / 2
    found, info = sampling.log_likelihood(denoiser, x, 1e-3, 80.0, atol=1e-7, rtol=1e-7)
    exact = torch.distributions.Normal(0, 0.5).log_prob(x).sum(1)
    # Data with sigma_min's noise, and latents without the data's variance: 1e-5 each.
    torch.testing.assert_close(found, exact, rtol=1e-4, atol=1e-4)
    assert info["fevals"] > 10


def test_step_sizes_are_k_diffusions():
    peer = k_diffusion("PIDStepSizeController")
    options = (0.05, 0.2, 0.6, 0.1, 3)
    mine, theirs = sampling.PIDStepSizeController(*options), peer["PIDStepSizeController"](*options)
    for error in (0.5, 3.0, 1.2, 0.01, 0.9, 1.4):
        assert mine.propose_step(error) == theirs.propose_step(error)
        assert mine.h == pytest.approx(theirs.h, rel=1e-12)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_steps_of_dpm_solver_are_k_diffusions(order):
    peer = k_diffusion("DPMSolver", "to_d", "PIDStepSizeController")
    x = torch.randn(3, 2, dtype=torch.float64)
    t = -torch.tensor([2.0, 0.7], dtype=torch.float64).log()
    found, calls = [], []
    for kind in (peer["DPMSolver"], sampling.DPMSolver):
        solver = kind(denoiser, eps_callback=lambda: calls.append(1))
        step = getattr(solver, f"dpm_solver_{order}_step")
        new, cache = step(x, t[0], t[1])
        again, _ = step(x, t[0], t[1], eps_cache=cache)
        assert torch.equal(new, again)
        found.append(new)
    torch.testing.assert_close(found[1], found[0], rtol=1e-13, atol=1e-13)
    assert len(calls) == 2 * order


def test_loops_of_dpm_solver_reach_the_data():
    """An exact denoiser's flow is x sqrt((1/4 + sigma_min^2) / (1/4 + sigma_max^2))."""
    x, told, calls = torch.randn(3, 2) * 20, [], []
    solver = sampling.DPMSolver(
        denoiser, eps_callback=lambda: calls.append(1), info_callback=told.append
    )
    start, end = (solver.t(torch.tensor(s)) for s in (20.0, 0.01))
    exact = x * math.sqrt((0.25 + 0.01**2) / (0.25 + 20.0**2))
    fast = solver.dpm_solver_fast(x, start, end, 30)
    assert len(calls) == 30
    assert told
    assert (fast - exact).abs().max() < 1e-2 * exact.abs().max()
    near, info = solver.dpm_solver_adaptive(x, start, end, rtol=1e-4, atol=1e-5)
    assert (near - exact).abs().max() < 1e-2 * exact.abs().max()
    assert info["nfe"] > 0
