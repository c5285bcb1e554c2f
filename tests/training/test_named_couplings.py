"""Couplings by name: in the trainer's objective, across a restart, on the command line."""

import pytest
import torch

import fastgen
import fastgen.cli
from fastgen import networks
from fastgen.couplings.named import NAMES, NamedCoupling
from fastgen.training import Batch, Flow, Settings, Trainer, load, objectives

NEEDED = {"unbalanced": {"penalty": 1.0}, "partial": {"mass": 0.7}}


def options_of(name):
    return NEEDED.get(name.removeprefix("label-"), {})


def clouds(count=64):
    labels = torch.arange(count) % 3
    x0, x1 = (fastgen.randn((count, 2), seed=s) for s in (1, 2))
    return x0, x1 + 3 * labels[:, None], labels


@pytest.mark.parametrize("name", NAMES)
def test_pairs_are_shorter_and_a_function_of_seed_and_step(name):
    x0, x1, labels = clouds()
    coupling = NamedCoupling(name, options_of(name))
    i, j = coupling(x0, x1, labels, seed=3, step=5, classes=3)
    assert i.dtype == j.dtype == torch.int64
    assert len(i) == len(j) == 64
    again = NamedCoupling(name, options_of(name))(x0, x1, labels, seed=3, step=5, classes=3)
    assert torch.equal(i, again[0])
    assert torch.equal(j, again[1])
    lengths = (x0[i] - x1[j]).square().sum(1).mean()
    apart = (x0 - x1).square().sum(1).mean()
    assert lengths == apart if name == "independent" else lengths < apart
    if name.startswith("label-") and "partial" not in name and "unbalanced" not in name:
        assert torch.equal(labels[i], labels[j]), "noise goes to labels as it comes"
    other = coupling(x0, x1, labels, seed=3, step=6, classes=3)
    random = any(kind in name for kind in ("sinkhorn", *NEEDED))
    assert torch.equal(other[1], j) != random


def test_a_partial_plan_leaves_out_what_is_far():
    x0, x1 = (fastgen.randn((100, 2), seed=s) for s in (1, 2))
    x1 = torch.cat([x1[:80], x1[80:] + 50])
    _, all_of_them = NamedCoupling("sinkhorn")(x0, x1)
    _, near = NamedCoupling("partial", {"mass": 0.7})(x0, x1)
    assert (all_of_them >= 80).double().mean() > 0.1
    assert (near >= 80).double().mean() == 0


@pytest.mark.parametrize("sigma", [0.0, 0.1])
def test_flow_on_paired_noise_is_the_loss_of_those_pairs(sigma):
    x1, labels = clouds()[1:]
    batch = Batch(x1, labels, 7, 3)
    seen = {}

    def network(x, t, labels):
        seen.update(x=x, t=t, labels=labels)
        return torch.zeros_like(x)

    loss = Flow(sigma, coupling="ot").loss(network, batch)
    x0 = objectives.drawn_noise(batch)
    i, j = fastgen.couplings.ExactOT()(x0, x1)
    t = seen["t"][:, None]
    torch.testing.assert_close(seen["x"], (1 - (1 - sigma) * t) * x0[i] + t * x1[j])
    assert torch.equal(seen["labels"], labels[j]), "labels go with their samples"
    expected = (x1[j] - (1 - sigma) * x0[i]).square().mean()
    torch.testing.assert_close(loss, expected)


def test_noise_of_couplings_is_that_of_none():
    batch = Batch(clouds()[1], None, 11, 5)
    sample = fastgen.training.paths.Target().sample(
        None, batch.data, seed=5, step=11, targets=("velocity", "noise")
    )
    assert torch.equal(sample.noise, objectives.drawn_noise(batch))


def test_label_couplings_keep_each_labels_noise():
    """With "ot" the noise of a label depends on it; within labels it does not."""
    shifts = []
    for name in ("ot", "label-ot"):
        means = torch.zeros(3, 2)
        for step in range(40):
            _, x1, labels = clouds()
            x0 = fastgen.randn((64, 2), seed=9, draw=step)
            i, j = NamedCoupling(name)(x0, x1, labels, step=step, classes=3)
            means += torch.stack([x0[i][labels[j] == c].mean(0) for c in range(3)]) / 40
        shifts.append(float(means.abs().max()))
    assert shifts[0] > 0.5
    assert shifts[1] < 0.15  # about four standard errors of 850 samples


@pytest.mark.parametrize("name", ["ot", "sinkhorn", "label-sinkhorn"])
def test_a_run_goes_on_with_the_same_pairs(name, tmp_path):
    pytest.importorskip("safetensors")
    objective = Flow(coupling=name)
    _, data, labels = clouds()
    path = tmp_path / "c.safetensors"

    def trainer():
        torch.manual_seed(0)
        network = networks.ModulatedMLP((2,), 16, 1, classes=3)
        facts = fastgen.training.describe(network, objective)
        return Trainer(network, objective.loss, data, Settings(steps=8, batch=24), labels, facts)

    whole = trainer().run()
    first = trainer()
    losses = first.run(4, checkpoint=path)
    second = trainer()
    second.resume(path)
    assert losses + second.run(checkpoint=path) == whole
    assert load(path).objective == objective


@pytest.mark.parametrize(
    ("name", "options", "error", "message"),
    [
        ("optimal", {}, ValueError, "coupling='optimal'"),
        ("sinkorn", {}, ValueError, "did you mean 'sinkhorn'"),
        ("ot", {"reg": 1}, TypeError, "unknown option 'reg'; known: cost"),
        ("unbalanced", {}, ValueError, "give the option 'penalty'"),
        ("label-partial", {}, ValueError, "give the option 'mass'"),
    ],
)
def test_mistakes_are_named(name, options, error, message):
    with pytest.raises(error, match=message):
        Flow(coupling=name, coupling_options=options)


def test_labels_that_are_missing():
    with pytest.raises(ValueError, match="the data have no labels; give them, or use 'ot'"):
        Flow(coupling="label-ot").loss(lambda x, t: x, Batch(clouds()[1], None, 0, 0))


class TestCommand:
    @pytest.fixture
    def run(self, tmp_path, monkeypatch, capsys):
        for package in ("safetensors", "tqdm"):
            pytest.importorskip(package)
        monkeypatch.chdir(tmp_path)

        def call(line):
            options = "--steps 3 --batch 16 --network MLP:widths=[8] --out c.safetensors"
            code = fastgen.cli.main(f"train {line} {options}".split())
            return code, capsys.readouterr().err

        return call

    def test_a_coupling_is_stored(self, run, tmp_path):
        assert run("moons --coupling sinkhorn:reg=0.2,reg_scale=mean_cost")[0] == 0
        objective = load(tmp_path / "c.safetensors").objective
        assert (objective.coupling, objective.coupling_options["reg"]) == ("sinkhorn", 0.2)

    @pytest.mark.parametrize(
        ("line", "message"),
        [
            ("moons --coupling label-ot", "moons has no labels"),
            ("moons --coupling ot --predicts v", "in flow matching only"),
            ("moons --coupling unbalanced", "give the option 'penalty'"),
            ("moons --coupling partial:mass=2", "mass"),
            ("moons --coupling sinkhorn:reg", "--coupling sinkhorn:reg: expected key=value"),
        ],
    )
    def test_mistakes(self, run, line, message):
        code, error = run(line)
        assert code == 2
        assert message in error
