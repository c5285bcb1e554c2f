"""Every loss trains a Gaussian to its known optimum; identities between the losses."""

import math

import numpy as np
import pytest
import torch
from torch import nn

import fastgen
from fastgen import schedules
from fastgen.training import losses, paths, times
from fastgen.training.losses.variational import discretised, posterior
from tests.support.closed_forms import Gaussian, output

F64 = torch.float64
ROWS = 10_000
MEAN, STD = 0.7, 0.6
GAUSSIAN = Gaussian((MEAN,), (STD,))


def normal(seed, rows=ROWS):
    return fastgen.randn((rows, 1), seed=seed, dtype=F64)


class Affine(nn.Module):
    """a x + b: holds the optimum at one time exactly."""

    def __init__(self, outputs=1):
        super().__init__()
        self.a = nn.Parameter(torch.zeros(outputs, dtype=F64))
        self.b = nn.Parameter(torch.zeros(outputs, dtype=F64))

    def forward(self, x, t=None):
        return self.a * x + self.b


def minimise(module, loss):
    """All these losses are smooth and nearly quadratic in a few numbers."""
    optimiser = torch.optim.LBFGS(module.parameters(), 1, 20, line_search_fn="strong_wolfe")

    def closure():
        optimiser.zero_grad()
        value = loss()
        value.backward()
        return value

    optimiser.step(closure)


def coefficients(module):
    return [float(module.a.detach()[0]), float(module.b.detach()[0])]


class TestFlows:
    @pytest.mark.parametrize("path", [paths.Linear(0.5), paths.Brownian(0.9)])
    def test_velocity_and_score_of_the_marginal(self, path):
        t = torch.full((ROWS,), 0.7, dtype=F64)
        x0, x1 = normal(1), MEAN + STD * normal(2)
        sample = path.sample(x0, x1, t, seed=3, targets=("velocity", "noise"))
        velocity, score = Affine(), Affine()
        both = nn.ModuleList([velocity, score])
        minimise(
            both,
            lambda: losses.score_and_flow_matching(velocity(sample.x_t), score(sample.x_t), sample),
        )
        c = {k: float(v[0]) for k, v in path.coefficients(t[:1]).items()}
        variance = c["a"] ** 2 + (c["b"] * STD) ** 2 + c["s"] ** 2
        gain = (c["a"] * c["da"] + c["b"] * c["db"] * STD**2 + c["s"] * c["ds"]) / variance
        centre = c["b"] * MEAN
        assert coefficients(velocity) == pytest.approx([gain, MEAN - gain * centre], abs=0.06)
        half = path.sigma**2 / 2  # the network's score is that of the drift, sigma^2 / 2 grad log p
        assert coefficients(score) == pytest.approx(
            [-half / variance, half * centre / variance], abs=0.03
        )
        again = Affine()
        minimise(again, lambda: losses.flow_matching(again(sample.x_t), sample))
        assert coefficients(again) == pytest.approx(coefficients(velocity), abs=1e-4)

    def flow(self, x, t, r):
        """The probability flow of the rectified path from N(0, 1) to the data."""

        def spread(u):
            return ((1 - u) ** 2 + (u * STD) ** 2).sqrt()

        return r * MEAN + spread(r) / spread(t) * (x - t * MEAN)

    def test_mean_flow_is_stationary_at_the_average_velocity(self):
        t = 0.1 + 0.6 * torch.rand(ROWS, dtype=F64, generator=torch.Generator().manual_seed(0))
        r = losses.interval_ends(t, torch.linspace(0.1, 1, ROWS, dtype=F64).flip(0), 0.75)
        assert (r == t).double().mean() == pytest.approx(0.25)
        assert ((r >= t) & (r <= 1)).all()
        sample = paths.Linear().sample(normal(1), MEAN + STD * normal(2), t)
        extra = Affine()

        def net(x, t, r):
            s, e = t[:, None], torch.where(r == t, t + 1e-4, r)[:, None]
            return (self.flow(x, s, e) - x) / (e - s) + extra(x)

        each = losses.mean_flow(net, sample, r, power=0, reduction="none")
        each.mean().backward()
        error = float(each.detach().std()) * 2 / ROWS**0.5
        assert abs(float(extra.a.grad)) < 8 * error
        assert abs(float(extra.b.grad)) < 8 * error
        weighted = losses.mean_flow(net, sample, r, reduction="none")
        e = each.detach()
        assert torch.allclose(weighted.detach(), e / (e + 1e-3))

    def test_shortcuts_of_the_exact_flow_cost_nothing(self):
        t = torch.linspace(0.1, 0.5, 64, dtype=F64)
        d = torch.linspace(0.05, 0.5, 64, dtype=F64)
        for data_at in (0, 1):
            path = paths.Linear(data_at=data_at)
            at = t if data_at == 1 else 1 - t
            sample = path.sample(normal(1, 64), MEAN + STD * normal(2, 64), at)

            def net(x, t, d, data_at=data_at):
                u = (t if data_at == 1 else 1 - t)[:, None]
                step = (self.flow(x, u, u + d[:, None]) - x) / d[:, None]
                return step if data_at == 1 else -step

            assert losses.shortcut(net, sample, d) < 1e-25
            moved = losses.shortcut(lambda x, t, d, net=net: net(x, t, d) + 1, sample, d)
            assert moved > 1e-4
        still = losses.shortcut(lambda x, t, d: 0 * x, sample, 0 * d, reduction="none")
        assert torch.allclose(still, sample.velocity.square()[:, 0])

    def test_divergence_of_the_latent_posterior(self):
        sample = paths.Linear().sample(normal(1, 8), normal(2, 8), torch.full((8,), 0.5).double())
        mean, log_variance = torch.randn(2, 8, 3, dtype=F64).unbind(0)
        q = torch.distributions.Normal(mean, (log_variance / 2).exp())
        p = torch.distributions.Normal(torch.zeros_like(mean), 1.0)
        kl = torch.distributions.kl_divergence(q, p).sum(1)
        got = losses.variational_flow_matching(
            sample.velocity + 1, mean, log_variance, sample, kl_weight=0.3, reduction="none"
        )
        assert torch.allclose(got, 1 + 0.3 * kl)


MODELS = [
    ("noise", schedules.CosineVP()),
    ("data", schedules.LinearVP()),
    ("v", schedules.CosineVP()),
    ("velocity", schedules.Rectified()),
    ("score", schedules.VE()),
    ("edm", schedules.EDM()),
]


class TestDenoising:
    @pytest.mark.parametrize("data_at", [0, 1])
    @pytest.mark.parametrize(("predicts", "schedule"), MODELS)
    def test_optimum(self, predicts, schedule, data_at):
        net = Affine()
        model = fastgen.Model(net, schedule, predicts, data_at=data_at)
        s = 0.4
        t = torch.full((ROWS,), 1 - s if data_at else s, dtype=F64)
        data = MEAN + STD * normal(2)
        minimise(net, lambda: losses.denoising(model, data, t, seed=5))
        x = torch.tensor([[-0.5], [1.0]], dtype=F64)
        x = x * (schedule.sigma(s) + schedule.alpha(s))
        truth = output(GAUSSIAN, schedule, predicts, x, s)
        if predicts == "velocity" and data_at == 1:
            truth = -truth
        scaled = x * model.parametrisation.input_scale(s)
        scale = float(truth.abs().max())
        assert torch.allclose(net(scaled), truth, atol=0.06 * scale)

    @pytest.mark.parametrize("weighting", ["likelihood", "min_snr", "edm", "sigmoid"])
    @pytest.mark.parametrize("schedule", [schedules.CosineVP(), schedules.EDM()])
    def test_weightings_do_not_depend_on_the_prediction(self, weighting, schedule):
        """The same denoiser costs the same, in whichever form it comes."""
        data = MEAN + STD * normal(2, 64)
        t = torch.linspace(0.05, 0.95, 64, dtype=F64)
        found = []
        for predicts in ("noise", "data", "v", "score", "edm", "velocity"):

            def net(x, t, predicts=predicts):
                rows = []
                for one, u in zip(x, t.tolist(), strict=True):
                    if predicts == "edm":
                        one = one * math.hypot(schedule.sigma(u), 0.5 * schedule.alpha(u))
                    rows.append(output(GAUSSIAN, schedule, predicts, one[None] * 1.1, u)[0])
                    # A wrong denoiser: that of another state, moved to this one.
                    if predicts != "data":
                        back = output(GAUSSIAN, schedule, "data", one[None] * 1.1, u)[0]
                        noise = (one - schedule.alpha(u) * back) / schedule.sigma(u)
                        model = fastgen.Model(lambda *_: None, schedule, predicts)
                        a, b = model.parametrisation.target(torch.tensor([u], dtype=F64))
                        rows[-1] = a * back + b * noise
                return torch.stack(rows)

            model = fastgen.Model(net, schedule, predicts, time_dtype=F64)
            found.append(losses.denoising(model, data, t, weighting=weighting, reduction="none"))
        for other in found[1:]:
            assert torch.allclose(other, found[0], rtol=1e-6)

    def test_weights_against_their_formulas(self):
        schedule, s = schedules.CosineVP(), torch.tensor([0.2, 0.5, 0.9], dtype=F64)
        snr = schedule.log_snr(s).exp()
        for predicts, power in (("noise", 1), ("data", 0)):
            model = fastgen.Model(nn.Identity(), schedule, predicts)
            found = losses.WEIGHTINGS["min_snr"](model, s)
            assert torch.allclose(found, snr.clamp(max=5) / snr**power)
        model = fastgen.Model(nn.Identity(), schedule, "v")
        assert torch.allclose(losses.WEIGHTINGS["min_snr"](model, s), snr.clamp(max=5) / (snr + 1))
        model = fastgen.Model(nn.Identity(), schedule, "score")
        assert torch.allclose(
            losses.WEIGHTINGS["likelihood"](model, s), schedule.diffusion_squared(s)
        )
        model = fastgen.Model(nn.Identity(), schedules.EDM(), "edm")
        assert torch.allclose(losses.WEIGHTINGS["edm"](model, s), torch.ones_like(s))

    def test_annealed_scores(self):
        sigmas = torch.tensor([2.0, 0.5], dtype=F64)
        levels = nn.ModuleList([Affine(), Affine()])

        def net(x, index):
            return torch.where(index[:, None] == 0, levels[0](x), levels[1](x))

        data = MEAN + STD * normal(2)
        minimise(levels, lambda: losses.annealed(net, data, sigmas, condition="index", seed=1))
        for level, sigma in zip(levels, sigmas, strict=True):
            variance = STD**2 + float(sigma) ** 2
            assert coefficients(level) == pytest.approx([-1 / variance, MEAN / variance], abs=0.06)


class TestScoreMatching:
    def score(self, x):
        return torch.tanh(1.3 * x) - 0.8 * x + 0.1 * x.flip(1) ** 2

    def test_implicit_is_explicit_up_to_the_constant(self):
        """Expectations by Gauss-Hermite quadrature in two dimensions."""
        nodes, weights = np.polynomial.hermite_e.hermegauss(60)
        grid = torch.from_numpy(np.stack(np.meshgrid(nodes, nodes), -1).reshape(-1, 2))
        w = torch.from_numpy(np.outer(weights, weights).reshape(-1)) / (2 * math.pi)
        x = MEAN + STD * grid
        truth = -(x - MEAN) / STD**2
        for score in (self.score, lambda x: 0.3 * x - 1, lambda x: x.sin()):
            known = (w * losses.explicit(score(x), truth, reduction="none")).sum()
            found = (w * losses.implicit(score, x, reduction="none")).sum()
            constant = (w * truth.square().sum(1) / 2).sum()
            assert float((known - found - constant).detach()) == pytest.approx(0, abs=1e-6)

    def test_estimators_are_unbiased(self):
        x = normal(1, 16).reshape(8, 2)
        exact = losses.implicit(self.score, x, reduction="none")
        for estimate in (
            lambda **o: losses.implicit(self.score, x, trace="hutchinson", **o),
            lambda **o: losses.sliced(self.score, x, **o),
            lambda **o: losses.sliced(self.score, x, variance_reduction=False, **o),
        ):
            values = torch.stack([estimate(step=k, reduction="none") for k in range(500)])
            error = values.std(0) / 500**0.5
            assert ((values.mean(0) - exact).abs() < 4.5 * error).all()
        many = losses.sliced(self.score, x, probes=2, step=3, reduction="none")
        each = [losses.sliced(self.score, x, step=k, reduction="none") for k in (6, 7)]
        assert torch.allclose(many, (each[0] + each[1]) / 2)

    @pytest.mark.parametrize("kind", ["implicit", "hutchinson", "sliced", "explicit"])
    def test_optimum(self, kind):
        net, x = Affine(), MEAN + STD * normal(2)
        truth = -(x - MEAN) / STD**2
        options = {"probes": 4}
        loss = {
            "implicit": lambda: losses.implicit(net, x),
            "hutchinson": lambda: losses.implicit(net, x, trace="hutchinson", **options),
            "sliced": lambda: losses.sliced(net, x, **options),
            "explicit": lambda: losses.explicit(net(x), truth),
        }[kind]
        minimise(net, loss)
        assert coefficients(net) == pytest.approx([-1 / STD**2, MEAN / STD**2], abs=0.15)

    def test_gradients_reach_the_parameters(self):
        w = torch.randn(2, 2, dtype=F64, generator=torch.Generator().manual_seed(0))
        x = normal(3, 10).reshape(5, 2)

        def loss(w):
            return losses.sliced(lambda x: torch.tanh(x @ w), x)

        assert torch.autograd.gradcheck(loss, w.requires_grad_())


class TestVariational:
    SCHEDULE = schedules.DiscreteVP.squared_cosine(50)

    def test_posterior_is_bayes_rule(self):
        index = torch.arange(1, 50)
        q = posterior(self.SCHEDULE, index)
        times_ = [self.SCHEDULE.time_of_index(i.double()) for i in (index, index - 1)]
        (a, s), (b, r) = ((self.SCHEDULE.alpha(t), self.SCHEDULE.sigma(t)) for t in times_)
        step, noise = a / b, s**2 - (a / b * r) ** 2
        precision = 1 / r**2 + step**2 / noise
        assert torch.allclose(q.lower.exp(), 1 / precision)
        assert torch.allclose(q.keep, step / noise / precision)
        assert torch.allclose(q.data, b / r**2 / precision)
        first = posterior(self.SCHEDULE, torch.tensor([0]))
        assert float(first.data) == pytest.approx(1)
        assert float(first.keep) == 0
        assert torch.isfinite(first.lower).all()

    def test_learned_variance_is_that_of_the_reverse_step(self):
        """Var(x_{i-1} | x_i) = beta~ + w^2 Var(x_0 | x_i); and the mean learns from L_simple."""
        index, i = torch.full((ROWS,), 20), 20
        net = Affine(2)
        model = fastgen.Model(
            lambda x, t: net(x.expand(-1, 2)),
            self.SCHEDULE,
            "noise",
            time_input="index",
            learned_variance=True,
        )
        data = MEAN + STD * normal(2)
        minimise(net, lambda: losses.hybrid(model, data, index, vlb_weight=1.0, seed=3))
        t = self.SCHEDULE.time_of_index(float(i))
        alpha, sigma = self.SCHEDULE.alpha(t), self.SCHEDULE.sigma(t)
        variance = (alpha * STD) ** 2 + sigma**2
        q = posterior(self.SCHEDULE, torch.tensor([i]))
        wanted = q.lower.exp() + q.data**2 * STD**2 * sigma**2 / variance
        share = (wanted.log() - q.lower) / (q.upper - q.lower)
        assert net.a.detach()[0] == pytest.approx(sigma / variance, abs=0.05)
        assert net.a.detach()[1] == pytest.approx(0, abs=0.05)
        assert (net.b.detach()[1] + 1) / 2 == pytest.approx(float(share), abs=0.05)

    def test_bits_per_dimension_come_close_to_the_entropy(self):
        schedule = schedules.DiscreteVP.squared_cosine(100)
        gaussian = Gaussian((0.0,), (0.25,))
        levels = torch.linspace(-1, 1, 256, dtype=F64)
        data = levels[((0.25 * normal(7, 600) + 1) * 127.5).round().long().clamp(0, 255)]

        def net(x, t):
            return output(gaussian, schedule, "noise", x, schedule.time_of_index(float(t[0])))

        model = fastgen.Model(net, schedule, "noise", time_input="index", time_dtype=F64)
        bits = losses.bits_per_dimension(model, data, seed=1)
        entropy = math.log2(0.25 * math.sqrt(2 * math.pi * math.e) / (2 / 255))
        error = float(bits.std()) / 600**0.5
        assert -4 * error < float(bits.mean()) - entropy < 0.15 + 4 * error

    def test_a_discretised_gaussian_has_unit_mass(self):
        levels = torch.linspace(-1, 1, 256, dtype=F64)
        for mean, std in ((0.1, 0.3), (-0.999, 0.004), (1.4, 0.1)):
            log_std = torch.full_like(levels, math.log(std))
            mass = discretised(levels, torch.full_like(levels, mean), log_std).exp()
            assert float(mass.sum()) == pytest.approx(1, abs=1e-9)


class TestConsistency:
    def test_optimum_for_a_fixed_teacher(self):
        low, high = 0.5, 0.8
        data = STD * normal(2)
        slope = (STD**2 / (STD**2 + low**2)) ** 0.5
        net = Affine()
        ones = torch.ones(ROWS, dtype=F64)
        minimise(
            net,
            lambda: losses.consistency(
                net,
                data,
                low * ones,
                high * ones,
                teacher=lambda x, s: slope * x,
                metric="square",
                seed=4,
            ),
        )
        wanted = slope * (STD**2 + low * high) / (STD**2 + high**2)
        assert coefficients(net) == pytest.approx([wanted, 0], abs=0.02)

    def test_metric_and_weights(self):
        net = losses.Boundary(nn.Linear(1, 1).double())
        net.net.forward = lambda x, t: 0 * x + t[:, None]
        x, low = normal(1, 6), torch.full((6,), 0.1, dtype=F64)
        high = 2 * low
        square = losses.consistency(net, x, low, high, metric="square", reduction="none")
        huber = losses.consistency(net, x, low, high, reduction="none")
        c = 0.00054
        assert torch.allclose(huber, ((square + c**2).sqrt() - c) / (high - low))

    def test_boundary(self):
        net = losses.Boundary(nn.Linear(3, 3).double(), sigma_data=0.7, sigma_min=0.01)
        net.net.forward = lambda x, t: x + t[:, None]
        x = normal(1, 12).reshape(4, 3)
        assert torch.equal(net(x, torch.full((4,), 0.01, dtype=F64)), x)
        far = net(x, torch.full((4,), 1e8, dtype=F64))
        assert torch.allclose(far, 0.7 * (x / 1e8 + math.log(1e8) / 4), rtol=1e-6)


class TestErrors:
    @pytest.mark.parametrize(
        ("call", "message"),
        [
            (
                lambda s, m: losses.flow_matching(s.x_t[:, :1], s),
                "output: expected a real tensor of shape",
            ),
            (lambda s, m: losses.flow_matching(s.x_t, s, reduction="sum"), "reduction='sum'"),
            (lambda s, m: losses.flow_matching(s.x_t, s, weight=s.x_t), "weight: expected"),
            (lambda s, m: losses.mean_flow(m.net, s, s.t[:2]), "r: expected"),
            (lambda s, m: losses.shortcut(m.net, s, s.t[:2]), "step: expected"),
            (lambda s, m: losses.denoising(m, s.x_t, weighting="snr"), "mean 'min_snr'"),
            (lambda s, m: losses.denoising(m, s.x_t, s.t + 1), "within|times in"),
            (lambda s, m: losses.denoising(m, s.x_t, noise=s.t), "noise: expected shape"),
            (lambda s, m: losses.denoising(m, s.x_t, step=-1), "step=-1"),
            (lambda s, m: losses.min_snr(0), "gamma=0"),
            (lambda s, m: losses.annealed(m.net, s.x_t, s.t - 1), "sigmas: expected positive"),
            (lambda s, m: losses.implicit(m.net, s.x_t, trace="hutch"), "trace='hutch'"),
            (lambda s, m: losses.sliced(lambda x: x, s.x_t, probes=0), "probes=0"),
            (lambda s, m: losses.implicit(lambda x: -x.detach(), s.x_t), "score: .*did not record"),
            (lambda s, m: losses.hybrid(m, s.x_t), "expected a DiscreteVP"),
            (lambda s, m: losses.consistency(m.net, s.x_t, s.t, s.t), "low < high"),
            (lambda s, m: losses.interval_ends(s.t, s.t, 2.0), "share=2.0"),
            (lambda s, m: times.Times([0.5], "independent"), "quantiles"),
        ],
    )
    def test_are_clear(self, call, message):
        x = torch.randn(4, 2, generator=torch.Generator().manual_seed(0))
        sample = paths.Linear().sample(x, x + 1, torch.full((4,), 0.5))
        model = fastgen.Model(lambda x, t: x, schedules.CosineVP(), "noise")
        with pytest.raises(ValueError, match=message):
            call(sample, model)
