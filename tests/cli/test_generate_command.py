"""`fastgen generate`: the library's function, from a command line."""

import numpy as np
import pytest
import torch

import fastgen
from fastgen import networks
from fastgen.cli import main
from fastgen.generation import Generated
from fastgen.generation.task import stored_as

NETS = """
import torch
from tests.generation import sets
model = sets.model
def means(samples):
    return samples.flatten(1).double().mean(1, keepdim=True) + torch.zeros(2)
"""


@pytest.fixture
def run(capsys, tmp_path, monkeypatch):
    """Run `fastgen generate LINE` in a new folder; what it said, or the error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("os.fsync", lambda descriptor: None)
    (tmp_path / "nets.py").write_text(NETS)
    monkeypatch.delitem(__import__("sys").modules, "nets", raising=False)

    def call(line):
        code = main(["generate", *line.split()])
        out, err = capsys.readouterr()
        if code:
            assert (code, out) == (2, "")
            return err.splitlines()[-1]
        return out

    return call


def expected(count, labels, solver="euler", guidance=None):
    from tests.generation import sets

    made = sets.model()
    sampler = fastgen.Sampler(
        made, fastgen.plan(solver, made.schedule, 3, start=0.99), guidance=guidance
    )
    parts = []
    for first in range(0, count, 4):
        ids = range(first, first + 4)
        own = torch.tensor([labels[min(i, count - 1)] for i in ids])
        parts.append(sampler((4, *sets.SHAPE), seed=2, sample_ids=ids, labels=own))
    return torch.cat(parts)[:count]


LINE = "nets:model --shape 1,4,4 --steps 3 --solver euler --option start=0.99 --seed 2 --batch 4 "


class TestSamples:
    @pytest.mark.parametrize(
        ("given", "labels"),
        [
            ("0,1,2", [i % 3 for i in range(10)]),
            ("0x4,2x5,1", [0] * 4 + [2] * 5 + [1]),
            ("l.npy", [2, 1] * 5),
            ("l.txt", [1, 2] * 5),
            ("one.txt", [1]),
        ],
    )
    def test_labels(self, given, labels, run, tmp_path):
        np.save(tmp_path / "l.npy", [2, 1] * 5)
        np.savetxt(tmp_path / "l.txt", [1, 2] * 5, fmt="%d")
        (tmp_path / "one.txt").write_text("1\n")
        n = len(labels)
        out = run(f"{LINE} --count {n} --shard 8 --out a --labels {given} --dtype float32")
        assert out.splitlines()[-1] == f"a: {n} samples, npz, seed 2"
        found = Generated("a")
        assert found.labels().tolist() == labels
        assert torch.equal(found.samples(), expected(n, labels))

    def test_guidance_statistics_checks_and_one_file(self, run, tmp_path):
        null = {"labels": torch.full((4,), 2)}
        samples = stored_as(
            expected(12, [0, 1] * 6, guidance=fastgen.Guidance(2.0, null)), "uint8", (-2.0, 2.0)
        )
        np.savez(tmp_path / "s.npz", mu=np.zeros(2), sigma=np.eye(2))
        line = f"{LINE} --count 12 --shard 8 --out a --labels 0,1 --guidance 2 --null 2"
        out = run(
            f"{line} --limits=-2,2 --features nets:means --against s.npz --verify 2 --join all.npz"
        )
        with np.load("all.npz") as file:
            assert (file["arr_0"] == np.moveaxis(samples.numpy(), 1, -1)).all()
        means = samples.flatten(1).double().mean(1)
        # Two equal features of variance v beside (0, 1): 2 m^2 + 2 + 2 v - 2 sqrt(2 v).
        v = float(means.var())
        distance = 2 * float(means.mean()) ** 2 + 2 + 2 * v - 2 * (2 * v) ** 0.5
        said = dict(part.split(": ") for part in out.splitlines()[2:])
        assert float(said["frechet"]) == pytest.approx(distance, rel=1e-6)

    def test_a_folder_of_a_model_with_its_plan(self, run):
        torch.manual_seed(0)
        model = fastgen.Model(networks.MLP((2,), (8,)), fastgen.schedules.Rectified(), "velocity")
        plan = fastgen.plan("heun", model.schedule, 3)
        model.save_pretrained("m", plan=plan, shape=(2,))
        run("m --count 6 --out a --batch 6")
        alone = fastgen.Sampler(model, plan)((6, 2))
        assert torch.equal(Generated("a").samples(), alone)

    def test_latents_are_decoded(self, run):
        torch.manual_seed(0)
        latent = fastgen.Latent.of(networks.VAE(1, 2, 8)).fit(torch.randn(8, 1, 4, 4))
        net = networks.ModulatedMLP(latent.shape, 8, 1)
        prior = fastgen.Model(net, fastgen.schedules.Rectified(), "velocity")
        prior.save_pretrained("m", plan=fastgen.plan("euler", prior.schedule, 2))
        latent.save_pretrained("m")
        run("m --count 3 --out a --batch 3 --dtype float32")
        drawn = latent.sample(prior, 3, "euler", 2, seed=0)
        assert torch.equal(Generated("a").samples(), drawn)
        run("m --count 3 --out a --batch 3 --dtype float32")  # the same decoder, loaded again


class TestRefusals:
    @pytest.mark.parametrize(
        ("line", "message"),
        [
            ("--count 0 --out a", "--count 0"),
            ("--count 5 --out a --labels 0x3", "3 labels for --count 5"),
            ("--count 5 --out a --labels a,b", "expected 0,1,2, or 0x5000"),
            ("--count 5 --out a --labels nowhere.npy", "No such file"),
            ("--count 5 --out a --labels nets.txt", "--labels nets.txt: no numbers that can be"),
            ("--count 5 --out a --labels half.txt", "expected whole numbers [count], got float64"),
            ("--count 5 --out a --features pixels --real no.npy", "--real no.npy: no numbers that"),
            ("--count 5 --out a --features pixels --real half.npy", "real: expected finite feat"),
            ("--count 5 --out a --guidance 2", "give --null too"),
            ("--count 5 --out a --guidance 2 --null 0", "give --labels"),
            ("--count 5 --out a --against s.npz", "give --features"),
            ("--count 5 --out a --features nets:nothing", "no callable 'nothing'"),
            ("--count 5 --out a --join x.tar", "expected a name that ends in .npz"),
            ("--count 5 --out a --limits=1", "expected two numbers"),
            ("--count 5 --out a --format zip", "invalid choice"),
            ("--count 5 --out a --labels 0 --format png --dtype float32", "pictures"),
        ],
    )
    def test_in_one_line(self, line, message, run, tmp_path):
        for name, text in (("nets.txt", "a b"), ("half.txt", "0.5"), ("no.npy", "text")):
            (tmp_path / name).write_text(text)
        np.save(tmp_path / "half.npy", [0.5])
        assert message in run(LINE + line)
        assert not (tmp_path / "a").exists()

    def test_a_shape_of_another_network(self, run):
        error = run(f"{LINE} --count 4 --out a --labels 0 --shape 3,4,4")
        assert "the network failed at --shape [3, 4, 4]: mat1 and mat2" in error

    def test_without_ray(self, run, monkeypatch):
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
        assert "pip install 'fastgen-torch[ray]'" in run(f"{LINE} --count 5 --out a --ray 2")

    def test_another_seed(self, run):
        run(f"{LINE} --count 4 --out a --labels 0")
        error = run(f"{LINE} --count 4 --out a --labels 0 --seed 3")
        assert "begun with another seed: 2 there, 3 here" in error
        assert "remove" not in error

    def test_a_folder_that_a_mistake_began(self, run):
        assert "smaller than num_classes" in run(f"{LINE} --count 4 --out a --labels 9")
        error = run(f"{LINE} --count 4 --out a --labels 0")
        assert "other labels there" in error
        assert "or remove this one, which has no shard yet" in error


def test_the_lists_of_the_command_line_are_those_of_the_library():
    from fastgen.cli import generate
    from fastgen.generation import FORMATS
    from fastgen.generation.task import DTYPES

    assert tuple(FORMATS) == generate.FORMATS
    assert DTYPES == generate.DTYPES
