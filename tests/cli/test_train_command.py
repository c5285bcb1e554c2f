"""`fastgen train` from every kind of data, `fastgen sample` from its checkpoints."""

import numpy as np
import pytest
import torch

import fastgen.datasets as datasets
from fastgen import networks
from fastgen.cli import main
from fastgen.cli.train import NETWORKS
from fastgen.training import LatentScore, Settings, Trainer, describe, load

for package in ("safetensors", "tqdm"):
    pytest.importorskip(package)


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def call(line):
        code = main(line.split())
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


SMALL = "--steps 6 --batch 8 --every 2 --out c.safetensors"


def test_networks_are_named_without_importing_them():
    assert networks.names() == NETWORKS


class TestTrain:
    def test_a_built_in_set_then_samples(self, run, tmp_path):
        code, out, _ = run(f"train 8gaussians --network MLP:widths=[8,8] {SMALL}")
        assert code == 0
        assert "step 6 of 6" in out
        assert "fastgen sample c.safetensors --shape 16,2" in out
        line = "sample c.safetensors --shape 5,2 --steps 3 --solver heun --out x.npz"
        assert run(line)[0] == 0
        assert np.isfinite(np.load(tmp_path / "x.npz")["samples"]).all()
        code, out, _ = run(f"train 8gaussians --network MLP:widths=[8,8] {SMALL}")
        assert code == 0
        assert "all 6 steps are done" in out

    @pytest.mark.parametrize("source", ["8gaussians", "moons", "scurve", "checkerboard"])
    def test_points_in_the_plane_take_a_small_network_and_a_picture(self, source, run, tmp_path):
        pytest.importorskip("matplotlib")
        code, out, _ = run(f"train {source} --steps 2 --batch 8 --out c.safetensors")
        assert code == 0
        trained = load(tmp_path / "c.safetensors")
        assert isinstance(trained.network, networks.MLP)
        assert trained.network.config["widths"] == [64, 64, 64]
        assert out.splitlines()[-1] == f"the picture: {(tmp_path / 'c.png').resolve()}"
        assert (tmp_path / "c.png").read_bytes().startswith(b"\x89PNG")

    @pytest.mark.parametrize(
        ("scales", "far"),
        [([100, 1, 5], True), ([1, 0.01, 1], True), ([3, 1, 0], False)],
    )
    def test_data_of_another_scale_are_scaled_and_samples_are_not(self, run, tmp_path, scales, far):
        np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(50, 3)) * scales + 2)
        line = f"train x.npy --network ModulatedMLP:width=8 {SMALL}"
        code, _, err = run(line)
        assert code == 0
        assert ("note: x.npy: means from" in err) == far
        assert (load(tmp_path / "c.safetensors").scaling is not None) == far
        assert run("sample c.safetensors --count 400 --steps 3 --out x.npz")[0] == 0
        deviation = np.load(tmp_path / "x.npz")["samples"].std(0)
        if far:
            assert deviation == pytest.approx(np.array(scales), rel=0.6)
        code, _, err = run(f"{line} --scale never --restart")
        assert code == 0
        assert "note" not in err
        assert load(tmp_path / "c.safetensors").scaling is None

    def test_sets_on_the_disk_give_the_same_training(self, run, tmp_path):
        np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(50, 3)) * 30)
        found = []
        for options in ("", "--stored", "--stored --workers 1", "--accumulate 2"):
            assert run(f"train x.npy {SMALL} --restart {options}")[0] == 0, options
            found.append(load(tmp_path / "c.safetensors").network.state_dict())
        for weights in found[1:3]:
            assert all(torch.equal(weights[k], found[0][k]) for k in weights)
        for k, x in found[3].items():
            assert torch.allclose(x, found[0][k], atol=1e-5)
        code, _, err = run(f"train x.npy {SMALL} --restart --workers 1")
        assert code == 2
        assert "give --stored beside them" in err

    @pytest.mark.filterwarnings("ignore:data. sample:UserWarning")
    def test_a_damaged_sample_stops_the_run_or_is_skipped(self, run, tmp_path):
        pytest.importorskip("matplotlib")
        x = np.random.default_rng(0).normal(size=(50, 2))
        x[7] = np.nan
        np.save(tmp_path / "x.npy", x)
        code, _, err = run(f"train x.npy --stored {SMALL}")
        assert code == 2
        assert "sample 7: NaN or infinity" in err
        assert run(f"train x.npy --stored --skip-corrupt --picture p.png {SMALL}")[0] == 0
        assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")

    def test_images_end_with_a_picture_too_and_other_shapes_without(self, run, tmp_path):
        pytest.importorskip("matplotlib")
        pytest.importorskip("sklearn")
        line = "train digits --steps 1 --batch 8 --out d.safetensors --network MLP:widths=[8]"
        assert run(f"{line} --picture p.png")[0] == 0
        assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")
        np.save(tmp_path / "x.npy", np.zeros((9, 3)))
        code, out, err = run("train x.npy --steps 1 --batch 8 --out x.safetensors --picture x.png")
        assert (code, "picture" in out) == (0, False)
        assert "no picture of samples of shape [3]" in err

    def test_a_picture_is_refused_before_any_work(self, run, monkeypatch):
        code, _, err = run(f"train moons {SMALL} --picture p.jpg")
        assert code == 2
        assert "ends in .png" in err

    def test_arrays_with_labels_and_denoising(self, run, tmp_path):
        rng = np.random.default_rng(0)
        arrays = {"data": rng.standard_normal((20, 1, 4, 4)), "labels": np.arange(20) % 3}
        np.savez(tmp_path / "a.npz", **arrays)
        options = "--predicts v --weighting min_snr --network UNet:width=8"
        code, _, err = run(f"train a.npz {options} {SMALL}")
        assert code == 0, err
        trained = load(tmp_path / "c.safetensors")
        assert trained.network.classes == 3
        assert trained.objective.predicts == "v"
        line = "sample c.safetensors --shape 4,1,4,4 --steps 3 --labels 0,1,2 --out x.npz"
        assert run(line)[0] == 0

    def test_going_on_is_the_same_as_one_run(self, run, tmp_path):
        options = "--network MLP:widths=[8]"
        assert run(f"train moons {options} {SMALL}")[0] == 0
        whole = load(tmp_path / "c.safetensors").network.state_dict()
        stop = Trainer.run
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Trainer, "run", lambda self, **o: stop(self, 3, **o))
            assert run(f"train moons {options} {SMALL} --restart")[0] == 0
        assert load(tmp_path / "c.safetensors").step == 3
        code, out, _ = run(f"train moons {options} {SMALL}")
        assert code == 0
        assert "going on from step 3" in out
        again = load(tmp_path / "c.safetensors").network.state_dict()
        assert all(torch.equal(whole[k], again[k]) for k in whole)

    def test_another_objective_is_refused_and_other_data_are_noted(self, run, tmp_path):
        start = f"--network MLP:widths=[8] {SMALL}"
        assert run(f"train moons {start}")[0] == 0
        held = (tmp_path / "c.safetensors").read_bytes()
        code, _, err = run(f"train moons {start} --predicts v")
        assert code == 2
        assert "another objective: kind (flow there, denoising here)" in err
        code, _, err = run(f"train moons {start} --coupling ot")
        assert code == 2
        assert "coupling (independent there, ot here)" in err
        assert (tmp_path / "c.safetensors").read_bytes() == held
        code, out, _ = run(f"train scurve {start}")
        assert code == 0
        assert "it was trained on moons so far, and goes on with scurve" in out

    def test_models_of_latents_of_unknown_data_are_sampled_from_python(self, run, tmp_path):
        vae = networks.VAE(1, 1, 4, multipliers=(1,), dims=1)
        network = networks.ScoreVAE(vae, networks.ModulatedMLP((1, 4), 8, 1))
        objective = LatentScore()
        trainer = Trainer(
            network,
            objective.loss,
            torch.randn(8, 1, 4),
            Settings(steps=1, batch=4),
            description=describe(network, objective, shape=None),
        )
        trainer.run(checkpoint=tmp_path / "c.safetensors")
        code, _, err = run("sample c.safetensors --shape 4,1,4 --steps 3 --out x.npz")
        assert code == 2
        assert "of data of unknown shape" in err
        assert "or sample from Python" in err

    @pytest.mark.parametrize(
        ("line", "message"),
        [
            ("moon", "did you mean 'moons'"),
            ("nowhere.npy", "no such file"),
            ("moons --network UNet", "have no channels"),
            ("moons --network Unet", "did you mean 'UNet'"),
            ("moons --network MLP:widths", "expected key=value"),
            ("moons --predicts nose", "did you mean 'noise'"),
            ("moons --predicts v --schedule CosinVP", "did you mean 'CosineVP'"),
            ("moons --predicts v --weighting minsnr", "did you mean 'min_snr'"),
            ("moons --network ScoreVAE", "trained from Python"),
            ("moons --batch 0", "batch=0"),
            ("moons --out x.pt", "ends in .safetensors"),
        ],
    )
    def test_mistakes_are_named(self, run, line, message, tmp_path):
        code, out, err = run(f"train --out c.safetensors --steps 2 {line}")
        assert (code, out) == (2, "")
        assert message in err
        assert not (tmp_path / "c.safetensors").exists()


class TestData:
    def test_folders_of_images(self, tmp_path):
        image = pytest.importorskip("matplotlib.image")
        for k, name in enumerate(("cat", "cat", "dog")):
            (tmp_path / name).mkdir(exist_ok=True)
            pixels = np.full((4, 6, 3), 255 * (k == 2), dtype=np.uint8)
            image.imsave(tmp_path / name / f"{k}.png", pixels)
        found = datasets.load(str(tmp_path))
        assert found.samples.shape == (3, 3, 4, 6)
        assert found.samples[:, 0, 0, 0].tolist() == [-1, -1, 1]
        assert found.labels.tolist() == [0, 0, 1]
        image.imsave(tmp_path / "cat" / "z.png", np.zeros((4, 5, 3), dtype=np.uint8))
        with pytest.raises(ValueError, match="bring all images to one size"):
            datasets.load(str(tmp_path))

    def test_files_that_cannot_be_used_are_one_line_and_others_are_noted(self, run, tmp_path):
        image = pytest.importorskip("matplotlib.image")
        (tmp_path / "set").mkdir()
        image.imsave(tmp_path / "set" / "a.png", np.zeros((4, 4, 3), dtype=np.uint8))
        (tmp_path / "set" / "notes.txt").write_text("mine")
        line = "train set --out c.safetensors --steps 2 --batch 2"
        code, _, err = run(line)
        assert code == 0
        assert "note: set: left out, no images: notes.txt" in err
        (tmp_path / "set" / "b.png").write_bytes(b"broken")
        code, out, err = run(f"{line} --restart")
        assert (code, out) == (2, "")
        assert err.startswith("fastgen: error: set/b.png: not a whole image (")
        assert err.count("\n") == 1

    @pytest.mark.parametrize("name", list(datasets.SETS))
    def test_sets_have_their_moments(self, name):
        x = datasets.load(name).samples
        assert x.shape == (datasets.SAMPLES, 2)
        assert x.isfinite().all()
        assert 0.5 < float(x.std()) < 5
