"""Latent models: the bounds in closed form, VAE, scale and shift, training and sampling."""

import math

import pytest
import torch
from torch import nn

import fastgen
from fastgen import networks, schedules
from fastgen.training import Autoencoding, Batch, Flow, Settings, Trainer, losses, times


def gaussian_log_density(x, variance):
    return -(x.square() / variance + math.log(2 * math.pi * variance)).flatten(1).sum(1) / 2


class TestEvidenceBound:
    """x = w z + sqrt(v) noise: the marginal is N(0, w^2 + v), the posterior Gaussian."""

    w, v = 1.5, 0.3

    def draws(self, count=400, mean_shift=0.0):
        x = fastgen.randn((3, 2), seed=1) * (self.w**2 + self.v) ** 0.5
        variance = 1 / (1 + self.w**2 / self.v)
        mean = (variance * self.w / self.v * x + mean_shift).repeat_interleave(count, 0)
        log_variance = torch.full_like(mean, math.log(variance))
        z = mean + variance**0.5 * fastgen.randn(mean.shape, seed=2)
        return x, x.repeat_interleave(count, 0), z, mean, log_variance

    def test_at_the_true_posterior_it_is_the_log_density(self):
        x, data, z, mean, log_variance = self.draws(20_000)
        bound = losses.evidence_bound(
            self.w * z, data, mean, log_variance, variance=self.v, reduction="none"
        ).reshape(3, -1)
        error = bound.std(1) / bound.shape[1] ** 0.5
        truth = -gaussian_log_density(x, self.w**2 + self.v)
        assert ((bound.mean(1) - truth).abs() < 4.5 * error).all()
        _, data, z, mean, log_variance = self.draws(20_000, mean_shift=0.3)
        worse = losses.evidence_bound(
            self.w * z, data, mean, log_variance, variance=self.v, reduction="none"
        ).reshape(3, -1)
        gap = 2 * 0.3**2 * (1 + self.w**2 / self.v) / 2  # KL of the shifted posterior, 2 elements
        assert ((worse.mean(1) - truth - gap).abs() < 4.5 * worse.std(1) / 20_000**0.5).all()

    def test_beta_weighs_the_divergence(self):
        zero = torch.zeros(4, 3)
        mean = torch.ones(4, 2)
        bounds = [
            float(losses.evidence_bound(zero, zero, mean, 0 * mean, beta=b)) for b in (0.0, 2.0)
        ]
        assert bounds[1] - bounds[0] == pytest.approx(2.0)  # 2 * 2 elements * 1 / 2
        assert bounds[0] == pytest.approx(1.5 * math.log(2 * math.pi))

    @pytest.mark.parametrize(
        ("options", "message"),
        [({"beta": -1.0}, "beta=-1.0"), ({"variance": 0.0}, "variance=0.0")],
    )
    def test_mistakes(self, options, message):
        with pytest.raises(ValueError, match=message):
            Autoencoding(**options)
        x = torch.zeros(2, 3)
        with pytest.raises(ValueError, match="output: expected shape"):
            losses.evidence_bound(x[:, :1], x, x, x)
        with pytest.raises(ValueError, match="log_variance: expected shape"):
            losses.evidence_bound(x, x, x, x[:, :1])


class GaussianScore:
    """The exact network for latents N(0, s^2)."""

    def __init__(self, schedule, s, predicts="noise"):
        self.schedule, self.s, self.predicts = schedule, s, predicts

    def __call__(self, x, t):
        alpha, sigma = (f(t.double()).float()[:, None] for f in (schedules_alpha, schedules_sigma))
        return sigma * x / (alpha**2 * self.s**2 + sigma**2)


SCHEDULE = schedules.LinearVP()


def schedules_alpha(t):
    return SCHEDULE.alpha(t)


def schedules_sigma(t):
    return SCHEDULE.sigma(t)


class TestScorePrior:
    @pytest.mark.parametrize("sampling", ["uniform", "importance"])
    def test_cross_entropy_of_a_gaussian(self, sampling):
        """Over z ~ N(0, s^2) it is the entropy of the marginal at the smallest time."""
        s, low = 0.7, 1e-2
        model = fastgen.Model(GaussianScore(SCHEDULE, s), SCHEDULE, "noise")
        when = (
            times.uniform(low, 1.0)
            if sampling == "uniform"
            else times.likelihood(SCHEDULE, low=low, data_at=0)
        )
        z = s * fastgen.randn((60_000, 2), seed=4)
        found = losses.latent_cross_entropy(model, z, times=when, seed=1, reduction="none")
        variance = SCHEDULE.alpha(low) ** 2 * s**2 + SCHEDULE.sigma(low) ** 2
        truth = math.log(2 * math.pi * math.e * variance)  # two elements
        assert abs(float(found.mean()) - truth) < 4.5 * float(found.std()) / 60_000**0.5 + 1e-3

    def test_importance_sampling_has_the_smaller_variance(self):
        model = fastgen.Model(GaussianScore(SCHEDULE, 0.7), SCHEDULE, "noise")
        z = 0.7 * fastgen.randn((4000, 2), seed=4)
        spread = [
            float(losses.latent_cross_entropy(model, z, times=when, reduction="none").std())
            for when in (times.uniform(1e-3, 1.0), times.likelihood(SCHEDULE, low=1e-3, data_at=0))
        ]
        assert spread[1] < spread[0] / 2

    def test_encoder_learns_the_priors_scale(self):
        """With no data term, CE - entropy is least where q is the prior's N(0, s^2)."""
        s = 0.7
        model = fastgen.Model(GaussianScore(SCHEDULE, s), SCHEDULE, "noise")
        log_variance = torch.zeros(1, requires_grad=True)
        optimiser = torch.optim.Adam([log_variance], 0.05)
        when = times.likelihood(SCHEDULE, low=1e-3, sampling="stratified", data_at=0)
        data, trail = torch.zeros(2000, 1), []
        for step in range(120):
            wide = log_variance.expand(2000, 1)
            z = (wide / 2).exp() * fastgen.randn((2000, 1), seed=5, draw=step)
            loss = losses.score_prior_bound(model, data, data, z, wide, step=step, times=when)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            trail.append(log_variance.item())
        assert sum(trail[60:]) / 60 == pytest.approx(2 * math.log(s), abs=0.06)

    def test_mistakes(self):
        z = torch.zeros(2, 1)
        model = fastgen.Model(lambda x, t: x, schedules.EDM(), "edm")
        with pytest.raises(ValueError, match="'edm' scales its input"):
            losses.latent_cross_entropy(model, z)
        model = fastgen.Model(lambda x, t: x, SCHEDULE, "noise")
        with pytest.raises(ValueError, match="keep away from the data"):
            losses.latent_cross_entropy(model, z, times=times.uniform())
        with pytest.raises(ValueError, match="log_variance: expected shape"):
            losses.score_prior_bound(model, z, z, z, z[:, 0])


class TestVAE:
    @pytest.mark.parametrize(
        ("dims", "shape", "latent"), [(2, (3, 8, 12), (2, 4, 6)), (1, (3, 16), (2, 8))]
    )
    def test_shapes_and_gradients(self, dims, shape, latent):
        vae = networks.VAE(3, 2, width=8, dims=dims)
        assert vae.latent_shape(shape) == latent
        x = torch.randn(5, *shape)
        output, posterior, z = vae(x, torch.randn(5, *latent))
        assert output.shape == x.shape
        assert posterior.mean.shape == z.shape == (5, *latent)
        assert not torch.equal(z, posterior.mean)
        assert torch.equal(vae(x).latent, vae(x).posterior.mean)
        Autoencoding().loss(vae, Batch(x, None, 0, 0)).backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in vae.parameters())

    def test_mistakes(self):
        with pytest.raises(ValueError, match="dims=3"):
            networks.VAE(dims=3)
        with pytest.raises(ValueError, match="multiples of 2"):
            networks.VAE().encode(torch.zeros(1, 1, 7, 8))


def linear_pair(scale=3.0, shift=2.0):
    """Latents of deviation 3 and 6, means 2 and 4, in two channels."""
    factors = torch.tensor([1.0, 2.0]).reshape(2, 1)
    return (
        lambda x: factors * (scale * x + shift),
        lambda z: (z / factors - shift) / scale,
    )


class TestLatent:
    def test_fit_standardises_channels_and_decode_undoes_it(self):
        data = fastgen.randn((3000, 2, 5), seed=1)
        latent = fastgen.Latent(*linear_pair()).fit(data, batch=700)
        z = latent.encode(data)
        assert latent.shape == (2, 5)
        torch.testing.assert_close(z.mean((0, 2)), torch.zeros(2), atol=1e-5, rtol=0)
        torch.testing.assert_close(z.std((0, 2)), torch.ones(2), atol=1e-3, rtol=0)
        torch.testing.assert_close(latent.decode(z, batch=700), data)

    def test_posterior_draws_do_not_depend_on_batches(self):
        vae = networks.VAE(1, 2, 8)
        x = torch.randn(7, 1, 8, 8)
        latent = fastgen.Latent.of(vae)
        whole, parts = latent.encode(x, seed=3), latent.encode(x, seed=3, batch=2)
        torch.testing.assert_close(whole, parts)
        assert not torch.allclose(whole, latent.encode(x, seed=4))
        torch.testing.assert_close(latent.encode(x, seed=None), vae.encode(x).mean)

    def test_sampling_is_sampling_then_decoding(self):
        latent = fastgen.Latent(*linear_pair()).fit(fastgen.randn((50, 2, 5), seed=1))
        model = fastgen.Model(lambda x, t: -x, schedules.Rectified(), "velocity")
        found = latent.sample(model, 4, "heun", 3, seed=2)
        z = fastgen.sample(model, (4, 2, 5), "heun", 3, seed=2)
        assert torch.equal(found, latent.decode(z.clone()))
        start = fastgen.randn((4, 2, 5), seed=2)
        assert torch.equal(latent.sample(model, start, "heun", 3), found)

    def test_save_and_load(self, tmp_path):
        pytest.importorskip("safetensors")
        vae, x = networks.VAE(1, 2, 8).eval(), torch.randn(6, 1, 8, 8)
        latent = fastgen.Latent.of(vae).fit(x)
        latent.save(tmp_path / "l.safetensors")
        again = fastgen.Latent.load(tmp_path / "l.safetensors")
        assert again.shape == (2, 4, 4)
        assert torch.equal(again.encode(x), latent.encode(x))
        assert torch.equal(again.decode(latent.encode(x)), latent.decode(latent.encode(x)))
        whole = (tmp_path / "l.safetensors").read_bytes()
        (tmp_path / "l.safetensors").write_bytes(whole[:-5])
        with pytest.raises(ValueError, match="not a whole safetensors file"):
            fastgen.Latent.load(tmp_path / "l.safetensors")
        with pytest.raises(ValueError, match=r"only of Latent\.of"):
            fastgen.Latent(*linear_pair()).save(tmp_path / "m.safetensors")
        assert not (tmp_path / "m.safetensors").exists()

    def test_mistakes(self):
        pair = linear_pair()
        with pytest.raises(ValueError, match=r"scale=0\.0"):
            fastgen.Latent(*pair, scale=0.0)
        with pytest.raises(ValueError, match="shift=nan"):
            fastgen.Latent(*pair, shift=math.nan)
        with pytest.raises(ValueError, match=r"channels \[0, 1\] are constant"):
            fastgen.Latent(lambda x: 0 * x, pair[1]).fit(torch.randn(9, 2, 5))
        with pytest.raises(ValueError, match="data: expected"):
            fastgen.Latent(*pair).encode(torch.zeros(0, 2, 5))
        model = fastgen.Model(lambda x, t: -x, schedules.Rectified(), "velocity")
        with pytest.raises(ValueError, match=r"call fit\(data\) first"):
            fastgen.Latent(*pair).sample(model, 4, "euler", 2)
        with pytest.raises(ValueError, match="trajectory: sample the latents"):
            fastgen.Latent(*pair).sample(model, torch.zeros(1, 2, 5), trajectory=True)


class LinearVAE(nn.Module):
    """An encoder and a score model of two numbers, for LSGM's joint training."""

    def __init__(self):
        super().__init__()
        self.encoder, self.decoder = nn.Linear(2, 4), nn.Linear(2, 2)
        self.prior = networks.ModulatedMLP((2,), 32, 1)


def test_score_prior_trains_jointly():
    """LSGM on correlated Gaussians: the bound comes down to the entropy of the data."""
    mix = torch.tensor([[1.0, 0.0], [0.8, 0.6]])
    data = fastgen.randn((4000, 2), seed=1) @ mix.T
    when = times.likelihood(SCHEDULE, low=1e-3, sampling="stratified", data_at=0)
    variance = 0.05

    def loss(network, batch):
        mean, log_variance = network.encoder(batch.data).chunk(2, 1)
        noise = fastgen.randn(mean.shape, seed=batch.seed, draw=batch.step)
        z = mean + (log_variance / 2).exp() * noise
        model = fastgen.Model(network.prior, SCHEDULE, "noise")
        return losses.score_prior_bound(
            model,
            network.decoder(z),
            batch.data,
            z,
            log_variance,
            variance=variance,
            seed=batch.seed,
            step=batch.step,
            times=when,
        )

    torch.manual_seed(0)
    settings = Settings(steps=400, batch=256, learning_rate=5e-3, clip=5.0, warm_up=20)
    found = Trainer(LinearVAE(), loss, data, settings).run()
    entropy = math.log(2 * math.pi * math.e) + math.log(0.6)
    last = sum(found[-50:]) / 50
    # A bound never falls below it; 400 steps leave the score model's own error.
    assert entropy - 0.1 < last < entropy + 1
    assert sum(found[:20]) / 20 > last + 1


@pytest.mark.parametrize("coupling", ["independent", "label-ot"])
def test_class_conditional_latent_flow_with_guidance(coupling):
    """Two classes at +-2 behind a linear pair: labels steer, guidance sharpens, none gives both."""
    labels = torch.arange(2000) % 2
    data = 2.0 * (2 * labels[:, None] - 1) + fastgen.randn((2000, 2), seed=1)
    latent = fastgen.Latent(lambda x: 5 * x + 3, lambda z: (z - 3) / 5).fit(data)
    torch.manual_seed(0)
    network = networks.ModulatedMLP((2,), 48, 2, classes=2)
    objective = Flow(coupling=coupling)
    settings = Settings(
        steps=350, batch=256, learning_rate=4e-3, average=0.98, warm_up=20, label_dropout=0.2
    )
    trainer = Trainer(network, objective.loss, latent.encode(data), settings, labels)
    trainer.run()
    model = objective.model(trainer.average)
    wanted = torch.arange(600) % 2
    none = torch.full_like(wanted, network.classes)
    options = {"solver": "heun", "steps": 12, "seed": 5}
    plain = latent.sample(model, 600, **options, net_kwargs={"labels": wanted})
    means = torch.stack([plain[wanted == c].mean(0) for c in (0, 1)])
    torch.testing.assert_close(means, torch.tensor([[-2.0, -2], [2, 2]]), atol=0.35, rtol=0)
    assert float(plain[wanted == 0].std(0).mean()) == pytest.approx(1.0, abs=0.2)
    guidance = fastgen.Guidance(3.0, {"labels": none})
    guided = latent.sample(model, 600, **options, guidance=guidance, net_kwargs={"labels": wanted})
    side = 2.0 * wanted - 1
    assert float((guided.sum(1) * side).mean()) > float((plain.sum(1) * side).mean()) + 0.1
    assert ((guided.sum(1) > 0) == (wanted == 1)).double().mean() > 0.99
    free = latent.sample(model, 600, **options)
    assert 0.35 < float((free.sum(1) > 0).double().mean()) < 0.65
