import csv
import subprocess
import sys

import pytest
import torch
from torch import nn

import fastgen
from fastgen.common.files import load_strictly
from fastgen.datasets import CLASSES, load_digits
from fastgen.demo.checkpoint import Checkpoint
from fastgen.demo.report import (
    NFES,
    SOLVERS,
    Run,
    nearest_distance,
    steps_for,
    write_csv,
    write_sheet,
)
from fastgen.demo.tables import table
from fastgen.demo.train import OBJECTIVE, train
from fastgen.networks import ModulatedMLP
from fastgen.training import Batch

pytest.importorskip("sklearn")
pytest.importorskip("safetensors")


@pytest.fixture(scope="module")
def digits():
    return load_digits()


@pytest.fixture(scope="module")
def checkpoint(digits):
    return train(digits.train, steps=2, minutes=60, seed=3, width=16, progress=False)


def test_digits_are_those_of_scikit_learn(digits):
    """The file is read without importing it, so that its requirements are not needed."""
    datasets = pytest.importorskip("sklearn.datasets")
    pixels, targets = datasets.load_digits(return_X_y=True)
    ours = torch.cat([part.images for part in digits]).flatten(1)
    theirs = torch.from_numpy(pixels).float() / 8 - 1
    labels = torch.cat([part.labels for part in digits])

    def ordered(x, y):
        rows = torch.cat([x, y[:, None].float()], 1).tolist()
        return sorted(rows)

    assert ordered(ours, labels) == ordered(theirs, torch.from_numpy(targets))


def test_it_runs_on_what_make_demo_installs(tmp_path):
    """Without SciPy, what scikit-learn requires, and all that tests and peers need."""
    pytest.importorskip("matplotlib")
    left_out = ("scipy", "joblib", "threadpoolctl", "rich", "diffusers", "triton")
    code = (
        "import sys\n"
        f"sys.modules.update(dict.fromkeys({left_out}))\n"
        "from fastgen.cli import main\n"
        "from fastgen.demo import report\n"
        "report.NFES, report.SOLVERS = (2,), (('euler', {}),)\n"
        "assert main(['demo', '--steps', '1', '--out', 'out']) == 0\n"
        "assert 'sklearn' not in sys.modules\n"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert (tmp_path / "out" / "samples.png").exists()


class TestDigits:
    def test_the_parts_are_disjoint_and_complete(self, digits):
        assert sum(len(part.labels) for part in digits) == 1797
        pixels = torch.cat([part.images.flatten(1) for part in digits])
        assert len(torch.unique(pixels, dim=0)) == 1797
        assert pixels.min() == -1
        assert pixels.max() == 1

    def test_the_held_out_parts_have_the_same_labels(self, digits):
        assert torch.equal(digits.held_out_a.labels, digits.held_out_b.labels)
        assert set(digits.held_out_a.labels.tolist()) == set(range(CLASSES))

    def test_the_split_is_always_the_same(self, digits):
        assert torch.equal(load_digits().train.images, digits.train.images)


class TestTraining:
    def test_the_loss_falls(self, digits):
        made = train(digits.train, steps=120, minutes=60, seed=0, width=32, progress=False)
        with torch.no_grad():
            losses = [
                OBJECTIVE.loss(network, Batch(*digits.held_out_a, step=0, seed=0))
                for network in (made.network, ModulatedMLP((1, 8, 8), 32, classes=CLASSES))
            ]
        assert losses[0] < 0.8 * losses[1]

    def test_the_seed_determines_the_weights(self, digits, checkpoint):
        state = torch.random.get_rng_state()
        again = train(digits.train, steps=2, minutes=60, seed=3, width=16, progress=False)
        other = train(digits.train, steps=2, minutes=60, seed=4, width=16, progress=False)
        assert torch.equal(torch.random.get_rng_state(), state)
        weights = [made.network.outward.weight for made in (checkpoint, again, other)]
        assert torch.equal(weights[0], weights[1])
        assert not torch.equal(weights[0], weights[2])

    def test_it_stops_at_the_time_limit(self, digits):
        made = train(digits.train, steps=10**6, minutes=0.001, seed=0, width=16, progress=False)
        assert 0 < made.steps < 10**6

    @pytest.mark.parametrize("bad", [{"steps": 0}, {"minutes": 0.0}, {"minutes": float("nan")}])
    def test_refuses_no_budget(self, digits, bad):
        with pytest.raises(ValueError, match=next(iter(bad))):
            train(digits.train, **{"steps": 1, "minutes": 1.0, "seed": 0, **bad})

    def test_labels_matter_and_may_be_left_out(self):
        torch.manual_seed(0)
        net = ModulatedMLP((1, 8, 8), 16, classes=CLASSES)
        x, t = torch.randn(3, 1, 8, 8), torch.rand(3)
        none = torch.full((3,), CLASSES)
        assert torch.equal(net(x, t), net(x, t, labels=none))
        assert not torch.equal(net(x, t), net(x, t, labels=torch.zeros(3, dtype=torch.int64)))


class TestCheckpoint:
    def test_comes_back_the_same(self, checkpoint, tmp_path):
        path = tmp_path / "deep" / "checkpoint.safetensors"
        checkpoint.save(path)
        loaded = Checkpoint.load(path)
        assert loaded.schedule == checkpoint.schedule
        assert (loaded.seed, loaded.steps, loaded.seconds) == (3, 2, checkpoint.seconds)
        x = [
            fastgen.sample(made.model(), (2, 1, 8, 8), "euler", 3) for made in (checkpoint, loaded)
        ]
        assert torch.equal(*x)
        assert [file.name for file in path.parent.iterdir()] == [path.name]

    def test_a_cut_or_foreign_file_is_a_clear_error(self, checkpoint, tmp_path):
        from safetensors.torch import save_file

        path = tmp_path / "checkpoint.safetensors"
        checkpoint.save(path)
        path.write_bytes(path.read_bytes()[:-10])
        with pytest.raises(ValueError, match="not a whole safetensors file"):
            Checkpoint.load(path)
        save_file({"x": torch.zeros(1)}, path)
        with pytest.raises(ValueError, match="not a checkpoint of `fastgen demo`"):
            Checkpoint.load(path)
        save_file({"x": torch.zeros(1)}, path, {"fastgen_demo": "2", "network": "{"})
        with pytest.raises(ValueError, match="damaged metadata"):
            Checkpoint.load(path)
        with pytest.raises(FileNotFoundError, match="no such file"):
            Checkpoint.load(tmp_path / "nowhere")

    def test_weights_that_do_not_fit_are_named(self, tmp_path):
        net = nn.Linear(2, 3)
        with pytest.raises(ValueError, match="missing bias; unexpected gain; 1 of another shape"):
            load_strictly(net, {"gain": torch.zeros(1), "weight": torch.zeros(3, 4)}, tmp_path)


class TestReport:
    @pytest.mark.parametrize(("solver", "options"), SOLVERS)
    @pytest.mark.parametrize("nfe", NFES)
    def test_steps_use_the_evaluations_up(self, solver, options, nfe):
        schedule = fastgen.schedules.CosineVP()
        steps = steps_for(solver, options, schedule, nfe)
        used = fastgen.plan(solver, schedule, steps, **options).nfe
        more = fastgen.plan(solver, schedule, steps + 1, **options).nfe
        assert used <= nfe < more

    def test_nearest_distance(self):
        images = torch.tensor([0.0, 10.0]).reshape(2, 1, 1, 1)
        reference = torch.tensor([3.0, 4.0, 9.0]).reshape(3, 1, 1, 1)
        assert nearest_distance(images, reference) == pytest.approx(2.0)

    def test_table_aligns_text_left_and_numbers_right(self):
        text = table(("name", "n"), [("euler", 5), ("rk4", 10)])
        assert text.splitlines() == ["name    n", "-----  --", "euler   5", "rk4    10"]

    def test_csv_and_sheet(self, digits, tmp_path):
        images, labels = digits.held_out_a
        rows = [Run(s, n, n, 0.1, 1.0, 2.0, images) for s in ("euler", "rk4") for n in NFES]
        rows.append(Run("real", 0, 0, 0.0, 0.5, 2.0, images))
        write_csv(rows, tmp_path / "r.csv")
        with (tmp_path / "r.csv").open() as file:
            lines = list(csv.DictReader(file))
        assert len(lines) == 9
        assert lines[0]["solver"] == "euler"
        assert lines[-1]["frechet"] == "0.5"
        pytest.importorskip("matplotlib")
        write_sheet(rows, labels, tmp_path / "s.png")
        assert (tmp_path / "s.png").read_bytes().startswith(b"\x89PNG")
