"""LSGM as an objective of the trainer: jointly, and on a frozen VAE."""

import math

import pytest
import torch

import fastgen
from fastgen import networks, schedules
from fastgen.training import Batch, Flow, LatentScore, Settings, Trainer, describe, load, losses
from fastgen.training.objectives import POSTERIORS, drawn_noise, from_config
from fastgen.training.times import likelihood

pytest.importorskip("safetensors")
SHAPE = (1, 4)


def score_vae(classes=0):
    torch.manual_seed(0)
    vae = networks.VAE(1, 1, 8, multipliers=(1,), dims=1)
    return networks.ScoreVAE(vae, networks.ModulatedMLP(SHAPE, 16, 1, classes=classes))


def signals(count=64):
    """Two numbers behind four."""
    return fastgen.randn((count, 1, 2), seed=3).repeat_interleave(2, 2)


def trainer(network, objective, steps=20, labels=None, data=None, **settings):
    data = signals() if data is None else data
    options = Settings(steps=steps, batch=16, warm_up=2, label_dropout=0.0, **settings)
    described = describe(network, objective, shape=list(SHAPE))
    return Trainer(network, objective.loss, data, options, labels, described)


def test_the_joint_loss_is_the_bound():
    network, batch = score_vae(), Batch(signals(8), None, 3, 5)
    objective = LatentScore(variance=0.2, beta=0.7, rising=8, low=1e-2)
    noise = drawn_noise(batch, (8, 1, 4), POSTERIORS)
    output, posterior, latent = network.vae(batch.data, noise)
    times = likelihood(objective.schedule, low=1e-2, sampling="stratified", data_at=0)
    expected = losses.score_prior_bound(
        fastgen.Model(network.prior, objective.schedule, "noise"),
        output,
        batch.data,
        latent,
        posterior.log_variance,
        variance=0.2,
        beta=0.7 * 4 / 8,
        seed=5,
        step=3,
        times=times,
    )
    found = objective.loss(network, batch)
    torch.testing.assert_close(found, expected / 4)
    found.backward()
    assert all(p.grad is not None for p in network.vae.parameters())
    assert any(float(p.grad.abs().max()) > 0 for p in network.prior.parameters())


def test_posterior_and_diffusion_draw_different_noise():
    batch = Batch(torch.zeros(2000, 3), None, 3, 5)
    both = torch.stack(
        [drawn_noise(batch).flatten(), drawn_noise(batch, None, POSTERIORS).flatten()]
    )
    assert abs(float(torch.corrcoef(both)[0, 1])) < 4.5 / 6000**0.5


def test_a_frozen_vae_stays_and_its_prior_learns_the_cross_entropy(tmp_path):
    network, objective = score_vae(), LatentScore(frozen=True)
    with pytest.raises(ValueError, match=r"requires_grad_\(False\)"):
        objective.loss(network, Batch(signals(8), None, 0, 0))
    network.vae.requires_grad_(False)
    batch = Batch(signals(8), None, 3, 5)
    latent = network.vae.encode(batch.data).sample(drawn_noise(batch, (8, 1, 4), POSTERIORS))
    times = likelihood(objective.schedule, low=1e-3, sampling="stratified", data_at=0)
    model = fastgen.Model(network.prior, objective.schedule, "noise")
    expected = losses.latent_cross_entropy(model, latent, seed=5, step=3, times=times) / 4
    torch.testing.assert_close(objective.loss(network, batch), expected)

    before = {k: v.clone() for k, v in network.vae.state_dict().items()}
    path = tmp_path / "c.safetensors"
    whole = trainer(network, objective)
    expected_losses = whole.run()
    assert all(torch.equal(before[k], v) for k, v in network.vae.state_dict().items())
    networks_ = [score_vae() for _ in range(2)]
    for each in networks_:
        each.vae.requires_grad_(False)
    first = trainer(networks_[0], objective).run(9, checkpoint=path)
    again = trainer(networks_[1], objective)
    again.resume(path)
    assert first + again.run() == expected_losses


def test_the_prior_of_a_frozen_vae_comes_down_towards_the_entropy():
    """It beats the standard normal prior by half a nat, and stays above the truth."""
    network, objective = score_vae(), LatentScore(frozen=True, low=1e-2)
    network.vae.requires_grad_(False)
    data = signals(4000)
    found = trainer(network, objective, 300, data=data, learning_rate=1e-2, average=0.98).run()
    latent = fastgen.Latent.of(network.vae).encode(data).flatten(1).double()
    constant = math.log(2 * math.pi) / 2
    standard = constant + float(latent.square().mean()) / 2
    # No entropy is larger than that of the Gaussian with the same covariance; the loss is a bound
    # on a slightly blurred one.
    gaussian = constant + 0.5 + float(torch.logdet(torch.cov(latent.T))) / 8
    last = sum(found[-100:]) / 100
    assert gaussian - 0.1 < last < standard - 0.5
    assert sum(found[:10]) / 10 > last + 0.5


def test_a_checkpoint_samples_and_decodes(tmp_path):
    path = tmp_path / "c.safetensors"
    objective = LatentScore(schedules.LinearVP(0.1, 18.0), "v", beta=0.5, rising=5)
    labels = torch.arange(64) % 3
    run = trainer(score_vae(3), objective, labels=labels)
    run.run(checkpoint=path)
    trained = load(path)
    assert trained.objective == objective
    assert from_config(objective.to_config()) == objective
    latent = trained.objective.latent(trained.network, SHAPE)
    options = {"steps": 4, "seed": 1, "net_kwargs": {"labels": labels[:5]}}
    found = latent.sample(trained.model(), 5, **options)
    assert found.shape == (5, *SHAPE)
    assert found.isfinite().all()
    again = objective.latent(run.average, SHAPE).sample(objective.model(run.average), 5, **options)
    assert torch.equal(found, again)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"schedule": schedules.VE(0.01, 50.0)}, "expected one that ends in"),
        ({"schedule": schedules.EDM()}, "expected one that ends in"),
        ({"schedule": schedules.CosineVP()}, "infinite where alpha is 0"),
        ({"predicts": "edm"}, "predicts='edm'"),
        ({"predicts": "nois"}, "predicts='nois'"),
        ({"variance": 0.0}, "variance=0.0"),
        ({"beta": -1.0}, "beta=-1.0"),
        ({"low": 0.0}, "low=0.0"),
        ({"rising": -1}, "rising=-1"),
    ],
)
def test_mistakes(options, message):
    with pytest.raises(ValueError, match=message):
        LatentScore(**options)


def test_other_networks_are_refused():
    with pytest.raises(TypeError, match="ScoreVAE"):
        LatentScore().loss(networks.ModulatedMLP((2,), 8, 1), Batch(torch.zeros(2, 2), None, 0, 0))


class TestResumeRefuses:
    def run(self, objective, network=None, described=True):
        torch.manual_seed(0)
        network = network or networks.ModulatedMLP((2,), 8, 1)
        description = describe(network, objective) if described else None
        return Trainer(
            network, objective.loss, torch.zeros(8, 2), Settings(steps=4), description=description
        )

    @pytest.mark.parametrize("described", [True, False])
    def test_another_objective(self, tmp_path, described):
        path = tmp_path / "c.safetensors"
        self.run(Flow(), described=described).run(2, checkpoint=path)
        other = self.run(Flow(0.1, coupling="ot"), described=described)
        weights = [p.clone() for p in other.network.parameters()]
        message = r"another objective: sigma \(0.0 there, 0.1 here\), coupling \(independent there"
        with pytest.raises(ValueError, match=message):
            other.resume(path)
        assert other.step == 0
        assert all(
            torch.equal(p, q) for p, q in zip(weights, other.network.parameters(), strict=True)
        )
        same = self.run(Flow(), described=described)
        same.resume(path)
        assert same.step == 2

    def test_another_network_of_the_same_weights(self, tmp_path):
        path = tmp_path / "c.safetensors"
        self.run(Flow()).run(2, checkpoint=path)
        other = self.run(Flow(), networks.ModulatedMLP((2,), 8, 1, time_scale=1000.0))
        with pytest.raises(ValueError, match=r"another network: time_scale \(1.0 there, 1000.0"):
            other.resume(path)

    def test_a_checkpoint_without_the_optimisers_state(self, tmp_path):
        from safetensors.torch import safe_open, save_file

        path = tmp_path / "c.safetensors"
        self.run(Flow()).run(2, checkpoint=path)
        with safe_open(path, "pt") as file:
            metadata = file.metadata()
            del metadata["fastgen_crc32"]
            names = [k for k in list(file.keys()) if "exp_avg_sq" not in k]
            kept = {k: file.get_tensor(k) for k in names}
        save_file(kept, path, metadata)
        other = self.run(Flow())
        weights = [p.clone() for p in other.network.parameters()]
        with pytest.raises(ValueError, match=r"the optimiser's state of .* is missing"):
            other.resume(path)
        assert all(
            torch.equal(p, q) for p, q in zip(weights, other.network.parameters(), strict=True)
        )
