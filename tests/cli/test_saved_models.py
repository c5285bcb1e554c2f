"""`fastgen sample` of what `save_pretrained` and a trainer wrote, and of the Hub."""

from pathlib import Path

import numpy as np
import pytest
import torch

import fastgen
from fastgen import networks
from fastgen.cli import main
from fastgen.model import Model
from fastgen.training import Denoising, Flow, LatentScore, Scaling, Settings, Trainer, describe

pytest.importorskip("safetensors")


@pytest.fixture
def run(capsys, tmp_path, monkeypatch):
    """Run `fastgen sample SOURCE ...` in a new folder; the samples, or the error."""
    monkeypatch.chdir(tmp_path)

    def call(line):
        code = main(f"sample {line} --out x.npz".split())
        out, err = capsys.readouterr()
        if code:
            assert (code, out, err.count("\n")) == (2, "", 1)
            return err
        with np.load("x.npz") as file:
            return torch.from_numpy(file["samples"]), out

    return call


def moons(classes=0):
    torch.manual_seed(0)
    net = networks.MLP((2,), (8,), classes=classes)
    return Model(net, fastgen.schedules.Rectified(), "velocity", data_at=1)


class TestFolders:
    def test_its_own_plan_and_shape(self, run):
        model = moons()
        plan = fastgen.plan("heun", model.schedule, 3)
        model.save_pretrained("m", plan=plan, shape=(2,))
        samples, out = run("m --seed 5")
        assert torch.equal(samples, fastgen.Sampler(model, plan)((16, 2), seed=5))
        assert "[16, 2], heun, 6 evaluations" in out
        assert run("m --count 3")[0].shape == (3, 2)
        assert run("m --shape 4,2")[0].shape == (4, 2)

    @pytest.mark.parametrize(
        ("line", "expected"),
        [
            ("--solver euler --steps 2", ("euler", 2, {})),
            ("--steps 4", ("auto", 4, {})),
            ("--steps 2 --timesteps karras", ("auto", 2, {"timesteps": "karras"})),
            ("--steps 2 --option clip=-1,1", ("auto", 2, {"clip": (-1, 1)})),
        ],
    )
    def test_what_is_asked_for_comes_first(self, line, expected, run):
        model = moons()
        model.save_pretrained("m", plan=fastgen.plan("heun", model.schedule, 3), shape=(2,))
        solver, steps, options = expected
        samples = fastgen.sample(model, (16, 2), solver, steps, seed=0, **options)
        assert torch.equal(run(f"m {line}")[0], samples)

    def test_labels(self, run):
        model = moons(classes=3)
        model.save_pretrained("m", plan=fastgen.plan("euler", model.schedule, 2), shape=(2,))
        a, b = run("m --labels 0,1 --count 4")[0], run("m --labels 0 --count 4")[0]
        assert torch.equal(a[::2], b[::2])
        assert not torch.equal(a[1::2], b[1::2])

    def test_the_hub(self, run, monkeypatch):
        hub = pytest.importorskip("huggingface_hub")
        model = moons()
        model.save_pretrained("there", plan=fastgen.plan("euler", model.schedule, 2), shape=(2,))
        asked = []

        def download(name, *, revision, **_):
            asked.append((name, revision))
            return "there"

        monkeypatch.setattr(hub, "snapshot_download", download)
        expected = fastgen.sample(model, (16, 2), "euler", 2, seed=0)
        assert torch.equal(run("hf:me/moons@v1")[0], expected)
        assert asked == [("me/moons", "v1")]

    def test_a_model_of_latents_is_decoded(self, run):
        torch.manual_seed(0)
        latent = fastgen.Latent.of(networks.VAE(1, 2, 8)).fit(torch.randn(8, 1, 4, 4))
        net = networks.ModulatedMLP(latent.shape, 8, 1)
        prior = Model(net, fastgen.schedules.Rectified(), "velocity")
        prior.save_pretrained("m", plan=fastgen.plan("euler", prior.schedule, 2))
        latent.save_pretrained("m")
        samples, out = run("m --count 3")
        assert torch.allclose(samples, latent.sample(prior, 3, "euler", 2, seed=0))
        assert "[3, 1, 4, 4]" in out

    def test_a_model_of_scaled_data_gives_data(self, run):
        prior = moons()
        scaling = Scaling([100.0, -3.0], [50.0, 0.5])
        scaling.shape = (2,)
        prior.save_pretrained("m", plan=fastgen.plan("euler", prior.schedule, 2), shape=(2,))
        scaling.save_pretrained("m")
        with pytest.warns(UserWarning, match="scaling.json: kept from an earlier save"):
            prior.save_pretrained("m", plan=fastgen.plan("euler", prior.schedule, 2), shape=(2,))
        samples, _ = run("m --count 3")
        assert torch.equal(samples, scaling.sample(prior, 3, "euler", 2, seed=0))
        again = Scaling.from_pretrained("m")
        assert again.shape == (2,)
        assert again.to_config() == scaling.to_config()
        for text in (
            "{",
            "[]",
            '{"mean": [1.0]}',
            '{"mean": "a", "deviation": [1], "shape": null}',
        ):
            Path("m/scaling.json").write_text(text)
            assert "scaling.json: damaged" in run("m --count 3")
        scaling.save_pretrained("m")
        fastgen.Latent.of(networks.VAE(1, 2, 8)).fit(torch.randn(8, 1, 4, 4)).save_pretrained("m")
        assert "beside latent.safetensors" in run("m --count 3")
        with pytest.raises(fastgen.model.PretrainedError, match="no such file"):
            Scaling.from_pretrained(".")

    def test_what_is_wrong_is_said_in_one_line(self, run):
        moons().save_pretrained("m")
        assert "--shape: m does not say what shape a sample has" in run("m --steps 2")
        assert "no --shape beside it" in run("m --shape 4,2 --count 3 --steps 2")
        assert "--count 0" in run("m --count 0 --steps 2")
        assert "--weights is for package.module:factory" in run("m --weights a --shape 2,2")
        assert "no such file" in run("none --shape 2,2")
        assert "expected a repository, such as hf:ORG/NAME" in run("hf:moons --shape 2,2")
        Path("m/config.json").write_text("{}")
        assert "config.json: not of a fastgen model" in run("m --shape 2,2")

    def test_a_plan_of_another_model(self, run):
        model = moons()
        model.save_pretrained("m", shape=(2,))
        other = fastgen.plan("euler", fastgen.schedules.CosineVP(), 2)
        Path("m/plan.json").write_text(other.to_json())
        assert "plan.json: made for CosineVP" in run("m")

    def test_pictures(self, run, capsys):
        pytest.importorskip("matplotlib")
        torch.manual_seed(0)
        net = networks.ModulatedMLP((1, 4, 4), 8, 1)
        model = Model(net, fastgen.schedules.Rectified(), "velocity")
        model.save_pretrained("m", plan=fastgen.plan("euler", model.schedule, 2), shape=(1, 4, 4))
        assert main(["sample", "m", "--out", "x.png"]) == 0
        moons().save_pretrained("p", shape=(2,))
        assert main(["sample", "p", "--out", "x.png", "--steps", "2"]) == 2
        assert "a PNG shows [B, 1 or 3, H, W]" in capsys.readouterr().err


class TestCheckpoints:
    def trained(self, network, objective, data, **facts):
        trainer = Trainer(
            network,
            objective.loss,
            data,
            Settings(steps=2, batch=4),
            description=describe(network, objective, **facts),
        )
        trainer.run()
        trainer.save("c.safetensors")
        return trainer

    @pytest.mark.parametrize("kind", ["flow", "denoising"])
    def test_the_shape_is_that_of_the_data(self, kind, run):
        objective = Flow() if kind == "flow" else Denoising(fastgen.schedules.CosineVP())
        trainer = self.trained(networks.MLP((2,), (8,)), objective, torch.randn(8, 2), shape=[2])
        model = objective.model(trainer.average)
        expected = fastgen.sample(model, (16, 2), "auto", 3, seed=0)
        assert torch.equal(run("c.safetensors --steps 3")[0], expected)

    def test_it_becomes_a_folder(self, run):
        self.trained(networks.MLP((2,), (8,)), Flow(), torch.randn(8, 2), shape=[2])
        before = run("c.safetensors --steps 3")[0]
        fastgen.training.load("c.safetensors").model().save_pretrained("m", shape=(2,))
        assert torch.equal(run("m --steps 3")[0], before)

    def test_a_score_of_latents_is_decoded(self, run):
        net = networks.ScoreVAE(networks.VAE(1, 2, 8), networks.ModulatedMLP((2, 2, 2), 8, 1))
        objective, data = LatentScore(), torch.randn(8, 1, 4, 4)
        trainer = self.trained(net, objective, data, shape=[1, 4, 4])
        latent = objective.latent(trainer.average, (1, 4, 4))
        model = objective.model(trainer.average)
        expected = latent.sample(model, 3, "ddim", 3, seed=0)
        samples, _ = run("c.safetensors --count 3 --solver ddim --steps 3")
        assert torch.allclose(samples, expected)
