"""The trainer: exact resumption after a kill, sampling what was trained, checkpoints, reflow."""

import os
import random
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch.optim.swa_utils import AveragedModel

import fastgen
from fastgen import networks, schedules
from fastgen.training import (
    Denoising,
    Flow,
    Pairs,
    Settings,
    Trainer,
    describe,
    load,
    paths,
    reflow,
)
from fastgen.training.steps import Averaged

pytest.importorskip("safetensors")
SCRIPT = """
import sys
from pathlib import Path
import torch
from fastgen import networks, schedules
from fastgen.training import Denoising, Settings, Trainer, describe

torch.set_num_threads(1)
path, log = Path(sys.argv[1]), Path(sys.argv[2])
torch.manual_seed(0)
network = networks.ModulatedMLP((2,), 32, 2, classes=3)
data = torch.randn(100, 2, generator=torch.Generator().manual_seed(1))
labels = torch.arange(100) % 3
objective = Denoising(schedules.CosineVP(), "v", "min_snr")
settings = Settings(steps=60, batch=48, clip=1.0, warm_up=10, seed=5, bfloat16=True)
trainer = Trainer(network, objective.loss, data, settings, labels, describe(network, objective))
if path.exists():
    trainer.resume(path)
with log.open("a") as file:
    def note(step, loss):
        file.write(f"{step} {loss.item().hex()}\\n")
        file.flush()
    trainer.run(checkpoint=path, every=7, on_step=note)
"""


class TestResume:
    def start(self, script, *arguments):
        command = [sys.executable, str(script), *map(str, arguments)]
        root = str(Path(fastgen.__file__).parents[1])
        return subprocess.Popen(
            command, stderr=subprocess.PIPE, env={**os.environ, "PYTHONPATH": root}
        )

    def test_a_killed_run_goes_on_with_the_same_losses(self, tmp_path, monkeypatch):
        script = tmp_path / "train.py"
        script.write_text(SCRIPT)
        logs = [tmp_path / name for name in ("whole.log", "killed.log")]
        files = [tmp_path / name for name in ("whole.safetensors", "killed.safetensors")]
        monkeypatch.setattr(sys, "argv", [str(script), str(files[0]), str(logs[0])])
        threads = torch.get_num_threads()
        runpy.run_path(str(script))
        torch.set_num_threads(threads)
        at = random.Random().randrange(10, 55)
        killed = self.start(script, files[1], logs[1])
        while not (logs[1].exists() and logs[1].read_text().count("\n") >= at):
            assert killed.poll() is None, killed.stderr.read()
            time.sleep(0.002)
        killed.send_signal(signal.SIGKILL)
        killed.communicate()
        again = self.start(script, files[1], logs[1])
        _, error = again.communicate(timeout=120)
        assert again.returncode == 0, error
        expected = dict(line.split() for line in logs[0].read_text().splitlines())
        lines = [line.split() for line in logs[1].read_text().splitlines() if line.count(" ")]
        assert len(expected) == 60
        assert len(lines) >= 60, "the second run began where the first had saved"
        assert {step for step, _ in lines} == set(expected), at
        assert all(expected[step] == loss for step, loss in lines), at
        weights = [load(path).network.state_dict() for path in files]
        assert all(torch.equal(weights[0][k], weights[1][k]) for k in weights[0])


def small(objective, steps=30, data=None, labels=None, **settings):
    torch.manual_seed(0)
    network = networks.ModulatedMLP((2,), 16, 1, classes=3 if labels is not None else 0)
    data = torch.randn(50, 2) if data is None else data
    options = {"steps": steps, "batch": 16, "warm_up": 5, **settings}
    description = describe(network, objective, shape=[2])
    return Trainer(network, objective.loss, data, Settings(**options), labels, description)


class TestTrainer:
    def test_data_come_in_permutations(self):
        data = torch.arange(50.0)[:, None].repeat(1, 2)
        trainer = small(Flow(), data=data)
        seen = torch.cat([trainer.batch(step).data[:, 0] for step in range(25)]).reshape(8, 50)
        assert torch.equal(seen.sort(1).values, data[:, 0].expand(8, 50))
        assert len({tuple(row.tolist()) for row in seen}) == 8
        again = small(Flow(), data=data)
        assert torch.equal(again.batch(17).data, trainer.batch(17).data)
        assert not torch.equal(small(Flow(), data=data, seed=1).batch(0).data, seen[0, :16])

    def test_labels_are_dropped_at_their_rate(self):
        labels = torch.zeros(50, dtype=torch.int64)
        trainer = small(Flow(), labels=labels, batch=50, label_dropout=0.2)
        dropped = torch.cat([trainer.batch(step).labels == 3 for step in range(200)])
        assert float(dropped.double().mean()) == pytest.approx(0.2, abs=0.02)

    def test_the_average_is_torchs_with_its_buffers(self):
        torch.manual_seed(0)
        net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4)).double()
        ours, theirs = Averaged(net, 0.9), None
        seen = []
        for step in range(6):
            net(torch.randn(8, 3, dtype=torch.float64)).square().sum().backward()
            for p in net.parameters():
                p.data -= 0.1 * p.grad
            ours.update_parameters(net)
            decay = min(0.9, (1 + step) / (10 + step))
            follow = lambda a, w, n, d=decay: torch._foreach_lerp_(a, w, 1 - d)  # noqa: E731
            theirs = theirs or AveragedModel(net)
            theirs.multi_avg_fn = follow
            theirs.update_parameters(net)
            seen.append(ours.module[0].weight.clone())
            for a, b in zip(ours.state_dict().items(), theirs.state_dict().items(), strict=True):
                assert a[0] == b[0]
                assert torch.equal(a[1], b[1]), (step, a[0])
        assert not torch.equal(seen[-1], seen[-2])
        other = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4)).double()
        ours.update_parameters(other)  # of another module than before
        expected = torch.lerp(seen[-1], other[0].weight, 1 - min(0.9, 7 / 16))
        torch.testing.assert_close(ours.module[0].weight, expected, rtol=1e-14, atol=0)

    def test_average_and_clip(self):
        trainer = small(Flow(), steps=1, average=0.0, clip=1e-3, warm_up=0)
        before = [p.detach().clone() for p in trainer.network.parameters()]
        trainer.run()
        norm = sum(float(p.grad.square().sum()) for p in trainer.network.parameters()) ** 0.5
        assert norm <= 1.001e-3
        for p, a, b in zip(
            trainer.network.parameters(), trainer.average.parameters(), before, strict=True
        ):
            assert torch.equal(p, a)
            assert p.shape == b.shape

    def test_a_loss_that_is_not_finite_leaves_the_checkpoint(self, tmp_path):
        path = tmp_path / "c.safetensors"
        trainer = small(Flow())
        trainer.run(5, checkpoint=path)
        held = path.read_bytes()
        trainer.loss = lambda network, batch: sum(p.sum() for p in network.parameters()) * torch.nan
        with pytest.raises(FloatingPointError, match="the loss of step"):
            trainer.run(checkpoint=path, every=1)
        assert path.read_bytes() == held

    @pytest.mark.parametrize(
        "objective",
        [
            Flow(),
            Flow(0.01, data_at=0),
            Denoising(schedules.CosineVP(), "noise"),
            Denoising(schedules.EDM(), "edm", "edm", time_input="edm"),
        ],
    )
    def test_checkpoints_rebuild_the_model(self, objective, tmp_path):
        path = tmp_path / "c.safetensors"
        trainer = small(objective)
        trainer.run(checkpoint=path)
        trained = load(path)
        assert trained.objective == objective
        assert trained.step == 30
        x = [
            fastgen.sample(model, (4, 2), "euler", 3, timesteps="uniform", end=0.01)
            for model in (trained.model(), objective.model(trainer.average))
        ]
        assert torch.equal(*x)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"steps": 0}, "steps=0"),
            ({"batch": -1}, "batch=-1"),
            ({"average": 1.0}, "average=1.0"),
            ({"decay": "cos"}, "decay='cos'"),
            ({"clip": 0.0}, "clip=0.0"),
            ({"seed": -1}, "seed=-1"),
            ({"data": torch.zeros(0, 2)}, "data: expected"),
            ({"data": torch.zeros(3, 2, dtype=torch.int64)}, "data: expected"),
            ({"labels": torch.zeros(3, dtype=torch.int64)}, "labels: expected one for each"),
            ({"labels": torch.full((50,), 7)}, "labels: expected 0 .. 2, or 3 for none, got 7"),
            ({"labels": torch.full((50,), -1)}, "labels: expected whole numbers >= 0"),
            ({"labels": torch.zeros(50)}, "labels: expected whole numbers >= 0, got torch.float32"),
            ({"data": torch.full((3, 2), torch.nan)}, "data: NaN or infinity"),
        ],
    )
    def test_errors_are_clear(self, change, message):
        with pytest.raises(ValueError, match=message):
            small(Flow(), **change)

    def test_of_running_are_clear(self, tmp_path):
        trainer = small(Flow())
        with pytest.raises(ValueError, match="every=0"):
            trainer.run(checkpoint=tmp_path / "c.safetensors", every=0)
        with pytest.raises(ValueError, match="minutes=-1"):
            trainer.run(minutes=-1)
        with pytest.raises(TypeError, match="data: expected a tensor, got list"):
            Trainer(trainer.network, trainer.loss, [1.0], trainer.settings)
        assert trainer.step == 0
        assert not list(tmp_path.iterdir())

    def test_files_may_be_named_by_text(self, tmp_path):
        path = str(tmp_path / "c.safetensors")
        trainer = small(Flow())
        trainer.run(3, checkpoint=path)
        again = small(Flow())
        again.resume(path)
        assert again.step == load(path).step == 3

    def test_foreign_and_damaged_checkpoints(self, tmp_path):
        from safetensors.torch import save_file

        path = tmp_path / "c.safetensors"
        small(Flow()).run(3, checkpoint=path)
        with pytest.raises(ValueError, match=r"other settings: batch \(16 there, 8 here\)"):
            small(Flow(), batch=8).resume(path)
        path.write_bytes(path.read_bytes()[:-9])
        with pytest.raises(ValueError, match="not a whole safetensors file"):
            small(Flow()).resume(path)
        save_file({"x": torch.zeros(1)}, path)
        with pytest.raises(ValueError, match=r"not a checkpoint of fastgen\.training"):
            load(path)


@pytest.mark.parametrize(
    ("objective", "solver"),
    [
        (Flow(), "heun"),
        pytest.param(Flow(data_at=0), "heun", marks=pytest.mark.slow),
        pytest.param(Denoising(schedules.CosineVP(), "v"), "ddim", marks=pytest.mark.slow),
    ],
)
def test_what_is_trained_is_sampled(objective, solver):
    """N((2, -1), diag(0.25, 1)): mean and standard deviation come out."""
    mean, std = torch.tensor([2.0, -1.0]), torch.tensor([0.5, 1.0])
    data = mean + std * fastgen.randn((4000, 2), seed=3)
    torch.manual_seed(0)
    network = networks.ModulatedMLP((2,), 48, 2)
    settings = Settings(steps=500, batch=256, learning_rate=3e-3, average=0.99, warm_up=20)
    trainer = Trainer(network, objective.loss, data, settings)
    trainer.run()
    x = fastgen.sample(objective.model(trainer.average), (4000, 2), solver, 25, seed=1)
    assert torch.allclose(x.mean(0), mean, atol=0.12)
    assert torch.allclose(x.std(0), std, atol=0.1)


class TestReflow:
    def model(self):
        return fastgen.Model(lambda x, t: -0.5 * x + 1, schedules.Rectified(), "velocity")

    def test_pairs_are_what_the_solver_makes(self, tmp_path):
        pairs = reflow(self.model(), tmp_path, 10, (3,), shard=4, steps=5, seed=2)
        x0 = fastgen.randn((10, 3), seed=2)
        assert len(pairs) == 10
        assert torch.equal(pairs.x0, x0)
        expected = fastgen.sample(self.model(), x0, "euler", 5)
        assert torch.allclose(pairs.x1, expected, atol=1e-6)
        assert len(list(tmp_path.iterdir())) == 3
        sample = paths.Linear().sample(pairs.x0, pairs.x1)
        assert torch.equal(sample.velocity, pairs.x1 - pairs.x0)

    def test_a_stopped_run_goes_on_and_a_damaged_shard_is_named(self, tmp_path):
        whole = reflow(self.model(), tmp_path, 10, (3,), shard=4, steps=5)
        second = tmp_path / "pairs-00001.safetensors"
        held, first = second.read_bytes(), (tmp_path / "pairs-00000.safetensors").read_bytes()
        second.write_bytes(held[:-5])
        for read in (
            lambda: Pairs(tmp_path),
            lambda: reflow(self.model(), tmp_path, 10, (3,), shard=4, steps=5),
        ):
            with pytest.raises(ValueError, match=r"pairs-00001.*remove it and run reflow again"):
                read()
        assert (tmp_path / "pairs-00000.safetensors").read_bytes() == first
        second.unlink()
        with pytest.raises(ValueError, match=r"pairs-00001.*missing"):
            Pairs(tmp_path)
        again = reflow(self.model(), tmp_path, 10, (3,), shard=4, steps=5)
        assert torch.equal(again.x0, whole.x0)
        assert torch.equal(again.x1, whole.x1)

    def test_states_of_the_users_own(self, tmp_path):
        source = torch.randn(5, 2)
        pairs = reflow(self.model(), tmp_path, 5, source=source, steps=2, solver="heun")
        assert torch.equal(pairs.x0, source)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"count": 0}, "count=0"),
            ({"shape": ()}, "shape: give that"),
            ({"source": torch.zeros(3, 3)}, "source: expected 10"),
            ({"solver": "euler_ancestral"}, "it draws noise"),
            ({"seed": 9}, "made with other arguments"),
        ],
    )
    def test_errors_are_clear(self, change, message, tmp_path):
        reflow(self.model(), tmp_path, 10, (3,), steps=2)
        options = {"count": 10, "shape": (3,), "steps": 2, **change}
        with pytest.raises(ValueError, match=message):
            reflow(self.model(), tmp_path, **options)
