"""accelerate trains what `fastgen.training.Trainer` trains, and goes on exactly."""

import os
import subprocess
import sys

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

import fastgen
from fastgen import networks
from fastgen.training import Denoising, Flow, LatentScore, Settings, Trainer

pytest.importorskip("accelerate")
from accelerate import Accelerator
from accelerate.utils import DataLoaderConfiguration

from fastgen.integrations.accelerate import AcceleratedTrainer

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
DATA = torch.randn(96, 2, generator=torch.Generator().manual_seed(0)) * 0.3 + 1
LABELS = torch.arange(96) % 3
SETTINGS = Settings(
    steps=12, batch=16, learning_rate=5e-3, warm_up=3, average=0.9, seed=4, clip=1.0
)


def network(classes=0):
    torch.manual_seed(1)
    return networks.MLP((2,), (16,), classes=classes)


def loader(*tensors, batch=16, **options):
    return DataLoader(TensorDataset(*(tensors or (DATA,))), batch, **options)


def made(objective=None, settings=SETTINGS, classes=0, **options):
    tensors = (DATA, LABELS) if classes else (DATA,)
    accelerator = options.pop("accelerator", None) or Accelerator(cpu=True)
    given = options.pop("loader", None)
    given = loader(*tensors) if given is None else given  # an empty one is false
    return AcceleratedTrainer(
        network(classes), objective or Flow(), given, settings, accelerator, **options
    )


class Ordered(Trainer):
    """The data in their own order, as the loader here gives them."""

    def _permutation(self, epoch):
        return torch.arange(len(self.data))


def weights(trainer):
    return [*trainer.network.parameters(), *trainer.average.parameters()]


@pytest.mark.parametrize(
    ("objective", "classes"),
    [(Flow(coupling="ot"), 0), (Flow(), 3), (Denoising(fastgen.schedules.CosineVP()), 3)],
    ids=["ot", "labels", "denoising"],
)
def test_the_weights_are_those_of_the_trainer(objective, classes):
    theirs = made(objective, classes=classes)
    labels = LABELS if classes else None
    ours = Ordered(network(classes), objective.loss, DATA, SETTINGS, labels)
    seen = []
    losses = theirs.run(on_step=lambda step, loss: seen.append((step, loss.item())))
    assert losses == ours.run()
    assert seen == list(enumerate(losses))
    for p, q in zip(weights(theirs), weights(ours), strict=True):
        assert torch.equal(p, q)


@pytest.mark.parametrize("stop", [4, 6, 9], ids=lambda n: f"at {n} of 6 in an epoch")
@pytest.mark.parametrize("shuffled", [False, True])
def test_it_goes_on_from_a_checkpoint(stop, shuffled, tmp_path):
    def fresh():
        configuration = DataLoaderConfiguration(use_seedable_sampler=True)
        torch.manual_seed(8)
        return made(
            accelerator=Accelerator(cpu=True, dataloader_config=configuration),
            loader=loader(shuffle=shuffled),
        )

    whole = fresh()
    losses = whole.run()
    part = fresh()
    first = part.run(stop, checkpoint=tmp_path / "c", every=100)
    part.run(stop + 1)
    rest = fresh()
    rest.resume(tmp_path / "c")
    assert rest.step == stop
    assert first + rest.run() == losses
    for p, q in zip(weights(rest), weights(whole), strict=True):
        assert torch.equal(p, q)
    with pytest.raises(FileNotFoundError, match="no such folder"):
        rest.resume(tmp_path / "none")


def test_running_in_parts_is_running():
    a, b = made(), made()
    assert a.run(5) + a.run(8) + a.run() == b.run()


def test_accumulated_batches():
    one = made(accelerator=Accelerator(cpu=True, gradient_accumulation_steps=2))
    losses = one.run(3)
    assert len(losses) == one.step == 3
    assert one._place.draws == 6
    assert losses != made().run(3)


def test_validation_is_of_the_average_with_equal_noise():
    trainer = made(validation=loader(batch=40))
    trainer.run(6)
    first = trainer.validate()
    assert trainer.validate() == first
    with torch.no_grad():
        trainer.network.layers[0].weight.zero_()
    assert trainer.validate() == first
    with torch.no_grad():
        trainer.average.layers[0].weight.zero_()
    assert trainer.validate() != first
    with pytest.raises(ValueError, match="validation=loader"):
        made().validate()


def test_bfloat16():
    settings = Settings(steps=4, batch=16, bfloat16=True)
    with pytest.raises(ValueError, match="mixed_precision='bf16'"):
        made(settings=settings)
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)
    trainer = AcceleratedTrainer(
        network(), Flow(), loader(), settings, Accelerator(cpu=True, mixed_precision="bf16")
    )
    found = trainer.run()
    AcceleratorState._reset_state(reset_partial_state=True)
    exact = made(settings=Settings(steps=4, batch=16)).run()
    assert found != exact
    assert found == pytest.approx(exact, rel=0.05)


def test_the_model_samples():
    trainer = made(settings=Settings(steps=150, batch=16, learning_rate=5e-3, average=0.9))
    trainer.run()
    x = fastgen.sample(trainer.model(), (200, 2), "heun", 10, seed=0)
    assert (x.mean(0) - DATA.mean(0)).norm() < 0.4


def test_objectives_that_look_at_the_network():
    images = torch.rand(16, 1, 4, 4)
    net = networks.ScoreVAE(networks.VAE(1, 2, 8), networks.DiT(2, 2, 1, 16, 1, 2))
    trainer = AcceleratedTrainer(
        net, LatentScore(), loader(images, batch=8), Settings(steps=2), Accelerator(cpu=True)
    )
    assert all(torch.isfinite(torch.tensor(trainer.run())))


def test_what_does_not_fit_is_named():
    with pytest.raises(ValueError, match="it has no batches"):
        made(loader=loader(DATA[:0])).run(1)
    with pytest.raises(FloatingPointError, match="the loss of step 0 is nan"):
        made(lambda net, batch: net(batch.data, batch.data[:, 0]).sum() * float("nan")).run(1)
    with pytest.raises(TypeError, match=r"expected data, or \(data, labels\)"):
        made(loader=loader(DATA, LABELS, LABELS)).run(1)


TWO = """
import sys, torch
sys.path.insert(0, sys.argv[1])
from torch.utils.data import DataLoader, TensorDataset
from accelerate import Accelerator
from fastgen import networks
from fastgen.training import Flow, Settings
from fastgen.integrations.accelerate import AcceleratedTrainer
torch.manual_seed(0)
data = torch.zeros(32, 2)
accelerator = Accelerator(cpu=True)
trainer = AcceleratedTrainer(
    networks.MLP((2,), (8,), classes=2), Flow(),
    DataLoader(TensorDataset(data, torch.zeros(32, dtype=torch.long)), 4),
    Settings(steps=3, batch=4), accelerator,
    validation=DataLoader(TensorDataset(data), 4),
)
losses = trainer.run()
mean = trainer.validate()
flat = torch.cat([p.flatten() for p in trainer.average.parameters()])
both = accelerator.gather(flat[None])
apart = accelerator.gather(torch.tensor([losses]))
assert torch.equal(both[0], both[1]), "one network"
assert not torch.equal(apart[0], apart[1]), "of data that are all the same: other noise"
print("fine", mean)
"""


def test_two_processes_learn_one_network_of_different_noise(tmp_path):
    script = tmp_path / "two.py"
    script.write_text(TWO)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2"]
    command += ["--master-port=0", "--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0"]
    run = subprocess.run(
        [*command, str(script), os.getcwd()],
        capture_output=True,
        text=True,
        timeout=240,
        env={**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"},
    )
    assert run.returncode == 0, run.stderr[-3000:]
    assert run.stdout.count("fine") == 2


def test_it_shows_itself():
    assert "step=0 of 12" in repr(made())
    assert "loss=Flow.loss" in repr(made())
