"""Paths against their formulas, torchcfm, and the marginals of Gaussian mixtures."""

import math

import numpy as np
import pytest
import torch

import fastgen
from fastgen import schedules
from fastgen.kernels import Stream
from fastgen.training import paths, times
from fastgen.training.paths import Encoded, FlatTorus, Sphere

F64 = torch.float64
LINEAR = [
    paths.Linear(),
    paths.Linear(0.3),
    paths.Target(0.1),
    paths.Brownian(0.7),
    paths.Scheduled(schedules.CosineVP()),
    paths.Scheduled(schedules.Rectified()),
    paths.Scheduled(schedules.EDM()),
    paths.Interpolant("trigonometric", "sine_squared"),
    paths.Interpolant("linear", "brownian"),
    paths.Interpolant("encoder_decoder", "quadratic"),
    paths.Interpolant((lambda t: (1 - t) ** 2, lambda t: t**3), 0.2),
]
IDS = [repr(path)[:60] for path in LINEAR]


def batch(rows=64, columns=3, dtype=F64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x0, x1 = torch.randn(2, rows, columns, generator=generator, dtype=F64).unbind(0)
    return x0.to(dtype), (2 * x1 + 1).to(dtype), torch.rand(rows, generator=generator, dtype=F64)


def wanted(path):
    score = ("noise", "score") if path.has_noise or path.noise_source else ()
    return ("velocity", "data", "source", *score)


@pytest.mark.parametrize("path", LINEAR, ids=IDS)
class TestEveryPath:
    def test_velocity_is_the_time_derivative(self, path):
        x0, x1, t = batch()
        t, h = 0.05 + 0.9 * t, 1e-5
        t = torch.where((t - 0.5).abs() < 1e-3, 0.4, t)  # the encoder-decoder's kink
        at = path.sample(x0, x1, t)
        ends = [path.sample(x0, x1, t + e).x_t for e in (-h, h)]
        difference = (ends[1] - ends[0]) / (2 * h)
        assert torch.allclose(at.velocity, difference, rtol=1e-6, atol=1e-6)

    def test_ends_noise_and_score(self, path):
        x0, x1, t = batch()
        if path.has_noise and isinstance(path.__dict__.get("gamma", 0.0), str):
            edge = path.sample(x0, x1, torch.zeros(64, dtype=F64))
            assert torch.allclose(edge.x_t, x0, atol=1e-12)
            edge = path.sample(x0, x1, torch.ones(64, dtype=F64))
            assert torch.allclose(edge.x_t, x1, atol=1e-12)
        s = path.sample(x0, x1, t, targets=wanted(path), seed=5, step=9)
        assert torch.equal(s.data, x1)
        assert torch.equal(s.source, x0)
        if path.has_noise or path.noise_source:
            z = fastgen.randn((64, 3), seed=5, draw=9, stream=Stream.TRAINING, dtype=F64)
            assert torch.equal(s.noise, x0 if path.noise_source else z)
            std = path.standard_deviation(t)[:, None]
            assert torch.allclose(s.score * std, -s.noise, rtol=1e-12)

    def test_backwards_is_the_mirror_image(self, path):
        x0, x1, t = batch()
        options = {"targets": wanted(path), "seed": 3}
        forwards = path.sample(x0, x1, t, **options)
        backwards = type(path).__new__(type(path))
        backwards.__dict__.update(path.__dict__)
        backwards.data_at, backwards._tables = 0, {}
        mirror = backwards.sample(x0, x1, 1 - t, **options)
        assert torch.allclose(mirror.x_t, forwards.x_t, atol=1e-12)
        for name in wanted(path):
            sign = -1 if name == "velocity" else 1
            a, b = getattr(mirror, name), sign * getattr(forwards, name)
            assert torch.allclose(a, b, rtol=1e-9, atol=1e-9), name

    def test_float32_is_the_rounded_float64(self, path):
        x0, x1, t = batch(dtype=torch.float32)
        t = 0.01 + 0.98 * t
        low = path.sample(x0, x1, t, targets=wanted(path))
        high = path.sample(x0.double(), x1.double(), t, targets=wanted(path))
        assert low.t.dtype == low.x_t.dtype == torch.float32
        for name in ("x_t", *wanted(path)):
            a, b = getattr(low, name).double(), getattr(high, name)
            assert torch.allclose(a, b, rtol=1e-5, atol=1e-4 * float(b.abs().max())), name


class TestTorchcfm:
    @pytest.mark.parametrize("sigma", [0.0, 0.3, 1.0])
    @pytest.mark.parametrize(
        ("name", "make"),
        [
            ("ConditionalFlowMatcher", paths.Linear),
            ("TargetConditionalFlowMatcher", paths.Target),
            ("SchrodingerBridgeConditionalFlowMatcher", paths.Brownian),
            (
                "VariancePreservingConditionalFlowMatcher",
                lambda s: paths.Interpolant("trigonometric", s),
            ),
        ],
    )
    def test_states_and_targets(self, name, make, sigma, monkeypatch):
        torchcfm = pytest.importorskip("torchcfm")
        if make is paths.Brownian and sigma == 0:
            pytest.skip("a bridge needs noise")
        x0, x1, t = batch()
        t = 0.02 + 0.96 * t
        path = make(sigma)
        z = fastgen.randn((64, 3), seed=1, draw=2, stream=Stream.TRAINING, dtype=F64)
        if path.noise_source:
            x0 = None
        ours = path.sample(x0, x1, t, seed=1, step=2)
        matcher = getattr(torchcfm.conditional_flow_matching, name)(sigma)
        monkeypatch.setattr(matcher, "sample_noise_like", lambda x: z)
        other = z if x0 is None else x0
        with monkeypatch.context() as patch:  # its coupling is not what is compared
            if hasattr(matcher, "ot_sampler"):
                patch.setattr(matcher.ot_sampler, "sample_plan", lambda x0, x1: (x0, x1))
            _, x_t, u_t = matcher.sample_location_and_conditional_flow(other, x1, t)
        # Theirs takes differences of x_t; the Brownian one adds 1e-8 to a denominator.
        assert torch.allclose(ours.x_t, x_t, rtol=1e-12, atol=1e-12)
        assert torch.allclose(ours.velocity, u_t, rtol=1e-6, atol=4e-6)
        if sigma and not path.noise_source:
            weight = 2 * path.standard_deviation(t) / sigma**2
            if not isinstance(path, paths.Interpolant):
                assert torch.equal(paths.drift_weight(path, t), weight)
            assert torch.allclose(matcher.compute_lambda(t) + 0 * t, weight, rtol=1e-6)


class TestMarginals:
    """E[target | x_t] is the marginal's velocity and score: regressed on both sides of a bin."""

    MEANS, STD = torch.tensor([-2.0, 2.0], dtype=F64), 0.5

    @pytest.mark.parametrize(
        "path",
        [paths.Linear(0.4), paths.Brownian(0.8), paths.Scheduled(schedules.LinearVP())],
        ids=["linear", "brownian", "vp"],
    )
    def test_conditional_expectations(self, path):
        rows, time = 400_000, 0.6
        x0 = fastgen.randn((rows, 1), seed=1, dtype=F64)
        generator = torch.Generator().manual_seed(2)
        which = torch.randint(2, (rows,), generator=generator)
        x1 = self.MEANS[which][:, None] + self.STD * fastgen.randn((rows, 1), seed=2, dtype=F64)
        t = torch.full((rows,), time, dtype=F64)
        s = path.sample(x0, x1, t, targets=("velocity", "score"), seed=3)
        c = {k: float(v[0]) for k, v in path.coefficients(t[:1]).items()}
        # Given the component, x_t and the velocity are jointly Gaussian.
        variance = c["a"] ** 2 + (c["b"] * self.STD) ** 2 + c["s"] ** 2
        covariance = c["a"] * c["da"] + c["b"] * c["db"] * self.STD**2 + c["s"] * c["ds"]

        def marginal(x):
            apart = x[:, None] - c["b"] * self.MEANS
            share = torch.softmax(-(apart**2) / (2 * variance), 1)
            velocity = c["db"] * self.MEANS + covariance / variance * apart
            return (share * velocity).sum(1), (share * -apart / variance).sum(1)

        x = s.x_t[:, 0]
        order = x.argsort()
        expected = marginal(x)
        for target, truth in zip((s.velocity, s.score), expected, strict=True):
            residual = (target[:, 0] - truth)[order].reshape(100, -1)
            error = residual.std(1) / residual.shape[1] ** 0.5
            score = residual.mean(1) / error
            assert score.abs().max() < 4.5
            assert abs(float(score.square().mean()) - 1) < 0.6


class TestManifolds:
    def test_great_circles(self):
        x0, x1, t = batch()
        x0, x1 = (x / x.norm(dim=1, keepdim=True) for x in (x0, x1))
        x1[0] = x0[0]
        s = Sphere().sample(x0, x1, t)
        ones = torch.ones(64, dtype=F64)
        assert torch.allclose(s.x_t.norm(dim=1), ones)
        assert torch.allclose((s.x_t * s.velocity).sum(1), 0 * ones, atol=1e-12)
        angle = torch.acos((x0 * x1).sum(1).clamp(-1, 1))
        assert torch.allclose(s.velocity.norm(dim=1), angle, atol=1e-7)
        travelled = torch.acos((x0 * s.x_t).sum(1).clamp(-1, 1))
        assert torch.allclose(travelled, t * angle, atol=1e-7)
        ends = [Sphere().sample(x0, x1, t + h).x_t for h in (-1e-6, 1e-6)]
        assert torch.allclose(s.velocity, (ends[1] - ends[0]) / 2e-6, atol=1e-7)
        with pytest.raises(ValueError, match="points on one sphere"):
            Sphere().sample(x0, 2 * x1, t)

    def test_the_short_way_round_the_torus(self):
        x0 = torch.tensor([[0.1, 3.0], [6.0, 1.0]], dtype=F64)
        x1 = torch.tensor([[6.2, 3.5], [0.5, 2.0]], dtype=F64)
        s = FlatTorus().sample(x0, x1, torch.tensor([0.5, 1.0], dtype=F64))
        turn = 2 * math.pi
        expected = torch.tensor([[6.1 - turn, 0.5], [turn - 5.5, 1.0]], dtype=F64)
        assert torch.allclose(s.velocity, expected)
        assert torch.allclose(s.x_t[1], x1[1])
        assert torch.allclose(s.x_t[0], (x0[0] + expected[0] / 2) % turn)

    def test_through_a_decoder(self):
        x0, x1, t = batch()
        s = Encoded(lambda x: x.sinh(), lambda z: z.asinh()).sample(x0, x1, t)
        z = (1 - t[:, None]) * x0.sinh() + t[:, None] * x1.sinh()
        assert torch.allclose(s.x_t, z.asinh())
        assert torch.allclose(s.velocity, (x1.sinh() - x0.sinh()) / (1 + z * z).sqrt())


class TestPairing:
    def test_a_coupling_and_its_indices_are_the_same(self):
        x0, x1, t = batch()
        i, j = torch.randint(64, (2, 50), generator=torch.Generator().manual_seed(0))
        calls = []

        def coupling(a, b, labels0=None, labels1=None):
            calls.append((labels0, labels1))
            return i, j

        labels = torch.arange(64), torch.arange(64)
        s = paths.Brownian().sample(x0, x1, t[:50], coupling=coupling, labels=labels)
        same = paths.Brownian().sample(x0[i], x1[j], t[:50])
        assert calls == [labels]
        assert torch.equal(s.x_t, same.x_t)
        assert torch.equal(s.velocity, same.velocity)
        given = paths.Brownian().sample(x0, x1, t[:50], pairs=(i, j))
        assert torch.equal(given.x_t, same.x_t)

    def test_gradients_reach_the_end_points(self):
        x0, x1, t = batch(8)
        j = torch.randint(8, (8,), generator=torch.Generator().manual_seed(0))

        def run(x0, x1):
            s = paths.Linear(0.2).sample(x0, x1, t, pairs=(None, j))
            return s.x_t, s.velocity

        assert torch.autograd.gradcheck(run, (x0.requires_grad_(), x1.requires_grad_()))


class TestErrors:
    @pytest.mark.parametrize(
        ("call", "message"),
        [
            (lambda x: paths.Brownian(0.0), r"sigma=0.0: expected a positive number"),
            (lambda x: paths.Brownian(math.inf), "sigma=inf"),
            (lambda x: paths.Linear(-1), "sigma=-1"),
            (lambda x: paths.Linear(data_at=2), "data_at=2"),
            (lambda x: paths.Interpolant("trigonometrc"), "mean 'trigonometric'"),
            (lambda x: paths.Interpolant(gamma="brwnian"), "'brownian'"),
            (lambda x: paths.Linear().sample(None, x), "starts from samples"),
            (lambda x: paths.Linear().sample(x[:3], x), "x0: expected as many rows"),
            (lambda x: paths.Linear().sample(x[:, :1], x), "x0: expected rows of shape"),
            (lambda x: paths.Linear().sample(x, x.long()), "x1: expected floating"),
            (lambda x: paths.Linear().sample(x, x, torch.full((4,), 1.5)), "got 1.5"),
            (lambda x: paths.Linear().sample(x, x, torch.full((4,), math.nan)), "got nan"),
            (lambda x: paths.Linear().sample(x, x, torch.zeros(3)), r"t: expected floating \[4\]"),
            (lambda x: paths.Linear().sample(x, x, targets=("score",)), "there is no noise"),
            (
                lambda x: paths.Linear().sample(x, x, targets=("velocty",)),
                "did you mean 'velocity'",
            ),
            (lambda x: paths.Linear().sample(x, x, step=-1), "step=-1"),
            (lambda x: paths.Linear().sample(x, x, labels=(x[:, 0], None)), "only a coupling"),
            (
                lambda x: paths.Linear().sample(
                    x, x, coupling=lambda *_: None, labels=(x[:, 0], None)
                ),
                r"labels\[1\]: expected one label for each of 4 rows, got None",
            ),
            (lambda x: paths.Target().sample(None, x, coupling=lambda *_: None), "give x0"),
            (lambda x: paths.drift_weight(paths.Linear(), x[:, 0]), "sigma=0.0"),
            (lambda x: FlatTorus(0.0), "period=0.0"),
            (lambda x: Sphere().sample(x + 1, x + 1, targets=("noise",)), "no noise"),
            (lambda x: times.uniform(0.5, 0.2), "quantiles"),
            (lambda x: times.uniform(sampling="strat"), "'stratified'"),
            (lambda x: times.logit_normal(std=0), "std=0"),
            (lambda x: times.beta(0, 1), "a=0"),
            (lambda x: times.importance(lambda t: -t), "density"),
        ],
    )
    def test_are_clear(self, call, message):
        with pytest.raises(ValueError, match=message):
            call(torch.zeros(4, 2))

    @pytest.mark.parametrize("again", [False, True])
    @pytest.mark.parametrize(
        ("options", "error", "message"),
        [
            ({"targets": "velocity"}, ValueError, r"expected names in a tuple, \('velocity',\)"),
            ({"targets": None}, ValueError, "targets=None: expected names in a tuple"),
            ({"times": "uniform"}, TypeError, "times='uniform'"),
            ({"t": 0.5}, TypeError, "t=0.5"),
            ({"x0": [[0.0, 1.0]]}, TypeError, "x0: expected a tensor, got list"),
            ({"x1": np.zeros((4, 2))}, TypeError, "x1: expected a tensor, got ndarray"),
            ({"pairs": torch.arange(4)}, TypeError, "pairs: expected a tuple"),
            ({"pairs": (None, [0, 1, 2, 3])}, TypeError, "pairs: expected index tensors"),
            ({"pairs": (None, torch.zeros(4))}, ValueError, "index1: expected int64"),
            ({"pairs": (None, torch.full((4,), -1))}, ValueError, "index: an entry is outside"),
            ({"seed": 1.5}, TypeError, "seed=1.5"),
            ({"seed": 2**64}, ValueError, f"seed={2**64}"),
            ({"step": 1.0}, TypeError, "step=1.0"),
            ({"step": 2**32}, ValueError, f"step={2**32}"),
        ],
    )
    def test_of_arguments_are_clear_at_every_call(self, options, error, message, again):
        path, x = paths.Linear(0.1), torch.zeros(4, 2)
        arguments = {"x0": x, "x1": x, **options}
        for _ in range(2):
            if again:  # as after calls that went well
                path.sample(x, x)
            with pytest.raises(error, match=message):
                path.sample(**arguments)

    def test_a_target_that_was_not_asked_for(self):
        s = paths.Linear(0.1).sample(torch.zeros(4, 2), torch.ones(4, 2))
        with pytest.raises(AttributeError, match=r"has the targets \('velocity',\); ask for more"):
            _ = s.score


class TestTimes:
    def test_distributions(self):
        stats = pytest.importorskip("scipy.stats")
        logistic = torch.special.logit
        cases = [
            (times.uniform(0.1, 0.6), lambda t: (t - 0.1) / 0.5),
            (times.logit_normal(0.3, 0.7), lambda t: stats.norm.cdf((logistic(t) - 0.3) / 0.7)),
            (times.beta(1, 1.5), lambda t: stats.beta.cdf(t, 1, 1.5)),
            (times.importance(lambda t: 2 * t), lambda t: t**2),
        ]
        x = torch.zeros(20_000, 1, dtype=F64)
        for distribution, cdf in cases:
            t = paths.Linear().sample(x, x, times=distribution, seed=4).t
            assert stats.kstest(cdf(t), "uniform").pvalue > 1e-3
            middle = (distribution.quantiles[1:] + distribution.quantiles[:-1]) / 2
            density = distribution.density(torch.from_numpy(middle))
            widths = torch.from_numpy(distribution.quantiles).diff()
            assert torch.allclose(density * widths, torch.full_like(widths, 1 / len(widths)))

    def test_likelihood_weighting(self):
        schedule = schedules.LinearVP()
        q = torch.from_numpy(times.likelihood(schedule, data_at=0).quantiles)
        middle = (q[1:] + q[:-1]) / 2
        density = schedule.diffusion_squared(middle) / schedule.sigma(middle) ** 2
        ratio = density * q.diff()
        assert torch.allclose(ratio[5:], ratio.mean(), rtol=0.02)


@pytest.mark.parametrize("pairs", [3, None, torch.arange(3), (torch.arange(3), 3)], ids=range(4))
def test_what_a_coupling_must_return(pairs):
    x = torch.ones(3, 2)
    with pytest.raises(TypeError, match=r"coupling: expected (a pair of index tensors|index)"):
        paths.Linear().sample(x, x, coupling=lambda *_: pairs)
