"""`posterior`: samples against closed forms, with every solver, in every way of running a model."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import fastgen
from fastgen import observations, schedules
from fastgen.control import DAPS, Twisted
from fastgen.observations import Linear, Mask, conditioned
from tests.support.gaussian_posterior import GaussianPrior
from tests.support.gaussian_posterior import given as exactly

MATRIX = torch.tensor([[1.0, 0.5, 0, 0, -1, 0], [0, 1, 1, 0.3, 0, 0], [0, 0, 0, 1, 1, 1]]).double()
Y = torch.tensor([[1.0, -0.5, 2.0]]).double()
KNOWN = torch.tensor([[0.5, -1.0, 2.0, 0.25, -0.75, 1.5]])
MASK = torch.tensor([True, False, True, True, False, False])


def linear(noise=0.3, y=Y):
    return Linear(lambda x: x @ MATRIX.to(x).T, lambda w: w @ MATRIX.to(w), y=y, noise=noise)


def posterior_of(prior, noise=0.3):
    mean, covariance = exactly(prior.mean[None], prior.covariance, MATRIX, Y, noise)
    return mean[0], covariance


def affine(run, start):
    """The affine map from initial states [n] to results: its offset and matrix."""
    x = torch.cat([torch.zeros(1, 6), torch.eye(6)]).double()
    found = run(start * x)
    return found[0], (found[1:] - found[0]).T


@pytest.mark.parametrize("predicts", ["data", "noise", "velocity"])
def test_mmps_samples_the_posterior_of_gaussian_data(predicts):
    """A solver of the flow is then affine in the noise: mean and covariance without drawing."""
    prior, schedule = GaussianPrior.correlated(), schedules.LinearVP()
    model = conditioned(prior.model(schedule, predicts), linear(), observations.MMPS(3))

    wanted, covariance = posterior_of(prior)

    def run(x):
        x = x + schedule.alpha(1.0) * wanted
        return fastgen.sample(model, x, "dpmpp_2m", 120, dtype=torch.float64)

    mean, factor = affine(run, schedule.sigma(1.0))
    # What 120 steps of second order leave.
    assert (mean - wanted).abs().max() < 2e-3
    assert (factor @ factor.T - covariance).abs().max() < 2e-3


@pytest.mark.parametrize("solver", ["ddpm", "consistency"])
def test_solvers_with_noise_have_the_posteriors_spread(solver):
    prior, schedule = GaussianPrior.correlated(), schedules.CosineVP()
    model, shape = prior.model(schedule), (2000, 6)
    steps = 60 if solver == "ddpm" else 120
    x = fastgen.posterior(model, linear(), shape, observations.MMPS(3), solver, steps).double()
    mean, covariance = posterior_of(prior)
    # Five standard errors of 2000 samples.
    error = 5 * covariance.diagonal().sqrt() / 2000**0.5
    assert ((x.mean(0) - mean).abs() < error + 0.02).all()
    if solver == "ddpm":  # consistency forgets slowly what it is to keep: a narrower law
        spread = x.T.cov() - covariance
        largest = covariance.diagonal().max()
        assert spread.abs().max() < 5 * largest * (2 / 2000) ** 0.5


def test_twisted_is_exact_where_the_method_inside_is_not():
    prior, schedule = GaussianPrior.correlated(), schedules.CosineVP()
    model = prior.model(schedule)
    mean, covariance = posterior_of(prior, 0.5)
    errors = {}
    for name, method in (("twisted", Twisted(2.0)), ("pigdm", observations.PiGDM(2.0))):
        x = fastgen.posterior(model, linear(0.5), (4000, 6), method, steps=50, seed=2).double()
        errors[name] = float((x.mean(0) - mean).abs().max())
        spread = (x.T.cov() - covariance).abs().max() / covariance.diagonal().max()
        errors[name] += float(spread)
    assert errors["twisted"] < 0.25
    assert errors["pigdm"] > 2 * errors["twisted"]


def test_daps_is_exact_for_data_of_one_deviation_and_one_evaluation():
    prior = GaussianPrior(0.7**2 * torch.eye(6, dtype=torch.float64), torch.ones(6))
    mean, covariance = posterior_of(prior)
    method = DAPS(0.7, evaluations=1)
    x = fastgen.posterior(prior.model(schedules.LinearVP()), linear(), (3000, 6), method, steps=40)
    error = 5 * covariance.diagonal().sqrt() / 3000**0.5
    assert ((x.double().mean(0) - mean).abs() < error + 0.01).all()
    spread = (x.double().T.cov() - covariance).abs().max()
    assert spread < 5 * covariance.diagonal().max() * (2 / 3000) ** 0.5


def test_repaint_comes_nearer_than_replacement():
    covariance = torch.tensor([[1.0, 0.9], [0.9, 1.0]]).double()
    prior = GaussianPrior(covariance, torch.zeros(2))
    seen = Mask(torch.tensor([[1.5, 0.0]]), torch.tensor([True, False]))
    model, shape = prior.model(schedules.LinearVP()), (2000, 2)
    plain = fastgen.posterior(model, seen, shape, "replacement", steps=40)
    options = {"steps": 40, "jump": 5, "repetitions": 6}
    again = fastgen.posterior(model, seen, shape, "repaint", **options)
    wanted = 0.9 * 1.5
    errors = [abs(float(x[:, 1].mean()) - wanted) for x in (plain, again)]
    assert errors[1] < 0.3 * errors[0]
    assert bool((again[:, 0] == 1.5).all())


def test_repaint_is_ddpm_with_repetitions():
    schedule = schedules.LinearVP()
    assert fastgen.plan("repaint", schedule, 23, jump=10).nfe == 3 + 10 * 20
    assert fastgen.plan("repaint", schedule, 4).nfe == 1 + 10 * 3
    model = GaussianPrior.correlated().model(schedule)
    once = fastgen.sample(model, (4, 6), "repaint", 7, jump=2, repetitions=1, seed=1)
    assert torch.allclose(once, fastgen.sample(model, (4, 6), "ddpm", 7, seed=1), atol=1e-5)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    solver=st.sampled_from(
        ["ddim", "ddpm", "dpmpp_2m", "heun", "unipc", "euler_ancestral", "res_3m"]
    ),
    schedule=st.sampled_from(
        [schedules.LinearVP(), schedules.EDM(), schedules.Rectified(), schedules.VE()]
    ),
    predicts=st.sampled_from(["data", "noise", "velocity", "v", "score"]),
    method=st.sampled_from(["replacement", "ddnm", "mmps", "pigdm", "tmpd", "diffpir"]),
    weights=st.lists(st.booleans(), min_size=6, max_size=6),
)
def test_known_numbers_are_kept_by_every_solver(solver, schedule, predicts, method, weights):
    model = GaussianPrior.correlated().model(schedule, predicts)
    mask = torch.tensor(weights)
    options = {"end": 1e-3} if solver == "heun" else {}
    if predicts in ("noise", "score", "v") and schedule == schedules.Rectified():
        options |= {"start": 0.99}
    x = fastgen.posterior(model, Mask(KNOWN, mask), (3, 6), method, solver, 8, **options)
    assert x.isfinite().all()
    assert torch.equal(x[:, mask], KNOWN[:, mask].expand(3, -1))
    if method == "replacement" and solver in ("ddim", "ddpm"):  # the model itself ends there
        given = conditioned(model, Mask(KNOWN, mask), method)
        free = fastgen.sample(given, (3, 6), solver, 8, **options)
        assert torch.allclose(free[:, mask], KNOWN[:, mask].expand(3, -1), atol=1e-5)


class TestAsAnyModel:
    """With an observation for each sample: the same bits in each way of running."""

    @pytest.fixture(params=["mask", "linear"])
    def case(self, request):
        schedule = schedules.CosineVP()
        torch.manual_seed(0)
        prior = fastgen.Model(fastgen.networks.MLP((6,), (16,)), schedule, "noise")
        if request.param == "mask":
            observation = Mask(torch.randn(4, 6), MASK)
            model = conditioned(prior, observation, "replacement")
        else:
            observation = linear(0.5, torch.randn(4, 3))
            model = conditioned(prior, observation, "mmps")
        sampler = fastgen.Sampler(model, fastgen.plan("ddpm", schedule, 6))
        return observation, sampler, sampler((4, 6), seed=3)

    def test_rows_as_an_argument_of_the_network(self, case):
        observation, sampler, wanted = case
        assert torch.equal(sampler((4, 6), seed=3, **observation.rows(4)), wanted)
        part = {name: x[2:3] for name, x in observation.rows(4)["observed"].items()}
        again = sampler((1, 6), seed=3, sample_ids=[2], observed=part)
        assert torch.allclose(again, wanted[2:3], atol=1e-5)

    def test_served(self, case):
        observation, sampler, wanted = case
        rows = observation.rows(4)["observed"]
        slots = {name: x[:2].clone() for name, x in rows.items()}
        batch = sampler.serve((2, 6), observed=slots)
        waiting, tickets, found = list(range(4)), {}, {}
        while len(found) < 4:
            while waiting and len(tickets) - len(found) < 2:
                i = waiting.pop(0)
                own = {name: x[i] for name, x in rows.items()}
                tickets[batch.admit(seed=3, sample_id=i, observed=own)] = i
            found.update({tickets[k]: x for k, x in batch.step().items()})
        served = torch.stack([found[i] for i in range(4)])
        assert torch.allclose(served, wanted, atol=1e-5)

    def test_captured_parallel_and_in_inference_mode(self, case):
        observation, sampler, wanted = case
        captured = sampler.capture((4, 6), **observation.rows(4))
        assert torch.equal(captured(seed=3), wanted)
        parallel = fastgen.Parallel(3, 0.0)
        found = sampler((4, 6), seed=3, parallel=parallel, **observation.rows(4))
        if sampler.prepared.masked is None:
            assert torch.equal(found, wanted)
        else:  # the network keeps what is known there, the stages elsewhere
            torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
        with torch.inference_mode():
            assert torch.equal(sampler((4, 6), seed=3), wanted)

    def test_gradients_in_what_was_observed(self, case):
        observation, sampler, wanted = case
        name, value = next(iter(observation.tensors.items()))
        rows = observation.rows(4)["observed"]

        def run(y):
            return sampler((4, 6), seed=3, differentiable=True, observed=rows | {name: y})

        y = value.clone().requires_grad_()
        out = run(y)
        assert torch.equal(out.detach(), wanted)
        (gradient,) = torch.autograd.grad(out.sum(), y)
        step = 1e-2 * torch.randn(value.shape, generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            change = (run(value + step) - run(value - step)).sum() / 2
        assert torch.allclose(change, (gradient * step).sum(), rtol=0.02, atol=1e-3)

    def test_error_control_and_likelihood(self, case):
        observation, sampler, wanted = case
        options = {"net_kwargs": observation.rows(4), "rtol": 0.1, "atol": 0.1}
        options |= {"start": 0.9, "end": 0.2}
        assert fastgen.sample(sampler.model, wanted, "dopri5", **options).isfinite().all()
        found = fastgen.log_likelihood(sampler.model, wanted, **options)
        assert found.isfinite().all()

    @pytest.mark.slow  # torch's compiler is loaded
    def test_compiled(self, case):
        observation, sampler, wanted = case
        compiled = fastgen.Sampler(sampler.model, sampler.plan, compile=True)
        found = compiled((4, 6), seed=3, **observation.rows(4))
        assert torch.allclose(found, wanted, atol=1e-4)


def test_plans_are_fitted_to_a_conditioned_model():
    schedule = schedules.LinearVP()
    model = conditioned(GaussianPrior.correlated().model(schedule), linear(), observations.MMPS(3))
    base = fastgen.plan("ddim", schedule, 3)
    options = {"samples": 64, "held_out": 64, "iterations": 0, "report": True}
    _, report = fastgen.tune(model, (6,), base=base, **options)
    # A flow that is affine in the noise is fitted exactly, but for the ridge.
    errors = report.held_out
    assert errors["least squares"].rms < 0.5 * errors["base"].rms


def test_gradients_in_an_observation_that_is_given_to_posterior():
    y = Y.float().clone().requires_grad_()
    prior = GaussianPrior.correlated().model(schedules.LinearVP())
    options = {"steps": 5, "differentiable": True, "dtype": torch.float64}
    x = fastgen.posterior(prior, linear(0.5, y), (3, 6), **options)
    (gradient,) = torch.autograd.grad(x.sum(), y)
    # The posterior mean's own slope is what a solver approaches; here that it is not lost.
    assert gradient.shape == y.shape
    assert bool((gradient != 0).all())


def test_guidance_is_the_priors():
    """The guided prior's posterior: its data prediction, corrected once."""
    weak, strong = GaussianPrior.correlated(seed=1), GaussianPrior.correlated()
    schedule = schedules.LinearVP()
    guidance = fastgen.Guidance(2.0, network=weak.model(schedule).net)
    model = conditioned(strong.model(schedule), linear(), "ddnm", guidance=guidance)
    x, t = torch.randn(3, 6, dtype=torch.float64), torch.tensor([0.2, 0.5, 0.8]).double()
    guided = 2 * strong.at(schedule, x, t)[0] - weak.at(schedule, x, t)[0]
    fixed = fastgen.Model(lambda x, t: guided, schedule, "data", time_dtype=torch.float64)
    wanted = conditioned(fixed, linear(), "ddnm").net(x, t)
    assert torch.allclose(model.net(x, t), wanted)
    x = fastgen.posterior(strong.model(schedule), linear(), (3, 6), steps=5, guidance=guidance)
    assert x.isfinite().all()


def test_networks_of_whole_times():
    schedule = schedules.DiscreteVP.linear(100)
    seen = []

    def net(x, t):
        seen.append(t.clone())
        return 0.1 * x

    whole = {"time_input": "index", "time_dtype": torch.int64}
    model = fastgen.Model(net, schedule, "noise", **whole)
    x = fastgen.posterior(model, linear(), (2, 6), steps=10, timesteps="trailing")
    assert x.isfinite().all()
    plan = fastgen.plan("ddpm", schedule, 10, timesteps="trailing")
    wanted = [round(schedule.index_of_time(e.time)) for e in plan.evaluations]
    told = [int(t[0]) for t in seen if t.dtype == torch.int64]
    assert sorted(set(told), reverse=True) == wanted
    with pytest.raises(ValueError, match="is not whole"):
        fastgen.posterior(model, linear(), (2, 6), steps=7, timesteps="uniform")


def test_transforms_may_see_the_state():
    schedule, states = schedules.LinearVP(), []
    model = GaussianPrior.correlated().model(schedule)

    def transform(data, t, x):
        states.append((t, x.clone()))
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        return data + 0.1 * (x - alpha * data) / sigma

    plan = fastgen.plan("ddim", schedule, 5)
    sampler = fastgen.Sampler(model, plan, transform=transform)
    x, kept = sampler((2, 6), seed=1, trajectory=True)
    assert [t for t, _ in states] == [e.time for e in plan.evaluations]
    for (_, x), state in zip(states, kept, strict=False):
        assert torch.equal(x, state)
    by_default = fastgen.Sampler(model, plan, transform=lambda data, t, scale=1.0: scale * data)
    assert torch.equal(by_default((2, 6), seed=1), fastgen.Sampler(model, plan)((2, 6), seed=1))


class TestErrors:
    def test_named(self):
        model = GaussianPrior.correlated().model(schedules.LinearVP())
        for call, match in (
            (lambda: fastgen.posterior(model, linear(), (3, 5)), "A: it does not take samples"),
            (lambda: fastgen.posterior(model, linear(), (3, 6), "mmpss"), "did you mean 'mmps'"),
            (
                lambda: fastgen.posterior(model, linear(), (3, 6), "daps", "heun"),
                "DAPS has steps of its own",
            ),
            (lambda: fastgen.posterior(model, linear(), (3, 6), "repaint"), "Replacement is for"),
            (
                lambda: fastgen.posterior(model, Mask(KNOWN, MASK), (3, 6), "repaint", "heun"),
                "solver='heun': method='repaint'",
            ),
            (
                lambda: fastgen.posterior(model, Mask(KNOWN, MASK), (3, 6), "twisted"),
                "give a deviation above 0",
            ),
            (
                lambda: fastgen.posterior(model, linear(0.3, Y.expand(3, 3)), (3, 6), "twisted"),
                "are of one system",
            ),
            (lambda: fastgen.plan("repaint", schedules.LinearVP(), 3, jump=0), "jump=0"),
            (lambda: Twisted(threshold=0.0), "threshold"),
            (lambda: DAPS(evaluations=0), "evaluations=0"),
        ):
            with pytest.raises(ValueError, match=match):
                call()
        for call in (
            lambda: fastgen.posterior(model, torch.zeros(1, 3), (3, 6)),
            lambda: fastgen.posterior(model, linear(), 3),
            lambda: fastgen.posterior(model, linear(), (3, 6), stepz=3),
            lambda: fastgen.posterior(model, linear(), (3, 6), "daps", eta=3),
        ):
            with pytest.raises(TypeError):
                call()
