"""accelerate runs the trainer on one process and on several: the same batches, losses, weights."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest
import torch

from fastgen import networks
from fastgen.training import Engine, Flow, Settings, Trainer, load

pytest.importorskip("accelerate")
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.tracking import GeneralTracker

from fastgen.integrations.accelerate import Accelerated

DATA = torch.randn(96, 2, generator=torch.Generator().manual_seed(0)) * 0.3 + 1
LABELS = torch.arange(96) % 3
SETTINGS = Settings(
    steps=12, batch=16, learning_rate=5e-3, warm_up=3, average=0.9, seed=4, clip=1.0
)


@pytest.fixture(autouse=True)
def fresh():
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def made(objective=None, settings=SETTINGS, *, classes=0, engine=None, **options):
    torch.manual_seed(1)
    network = networks.MLP((2,), (16,), classes=classes)
    labels = LABELS if classes else None
    engine = engine or Accelerated(cpu=True)
    loss = getattr(objective or Flow(), "loss", objective)
    return Trainer(network, loss, DATA, settings, labels, engine=engine, **options)


def weights(trainer):
    return [*trainer.network.parameters(), *trainer.average.parameters()]


@pytest.mark.parametrize("classes", [0, 3], ids=["unlabelled", "labelled"])
def test_on_one_process_the_weights_are_those_of_no_engine(classes):
    theirs, ours = made(classes=classes), made(classes=classes, engine=Engine())
    seen = []
    losses = theirs.run(on_step=lambda step, loss: seen.append((step, loss.item())))
    assert losses == ours.run()
    assert seen == list(enumerate(losses))
    for p, q in zip(weights(theirs), weights(ours), strict=True):
        assert torch.equal(p, q)


@pytest.mark.parametrize("objective", [Flow(), Flow(coupling="ot")], ids=["independent", "ot"])
def test_accumulated_parts_are_one_batch(objective):
    whole = made(objective, engine=Engine()).run()
    for engine in (Engine(4), Accelerated(cpu=True, gradient_accumulation_steps=4)):
        assert made(objective, engine=engine).run() == pytest.approx(whole, rel=1e-4)
        with pytest.raises(ValueError, match="batch=6: expected a multiple of 4"):
            made(objective, Settings(batch=6), engine=engine)


def test_parts_of_a_loss_of_your_own_draw_apart():
    seen = []

    def loss(network, batch):
        seen.append((batch.seed, batch.first, len(batch.data), batch.total))
        return network(batch.data, batch.data[:, 0]).square().mean()

    made(loss, engine=Engine(2)).run(1)
    assert seen == [(4, 0, 8, 16), (4 + (1 << 32), 8, 8, 16)]
    seen.clear()
    loss.by_row = True
    made(loss, engine=Engine(2)).run(1)
    assert [seed for seed, *_ in seen] == [4, 4]


def test_bfloat16():
    settings = Settings(steps=4, batch=16, bfloat16=True)
    with pytest.raises(ValueError, match="mixed_precision='bf16'"):
        made(settings=settings)
    AcceleratorState._reset_state(reset_partial_state=True)
    found = made(settings=settings, engine=Accelerated(cpu=True, mixed_precision="bf16")).run()
    exact = made(settings=Settings(steps=4, batch=16), engine=Engine()).run()
    assert found != exact
    assert found == pytest.approx(exact, rel=0.05)
    assert found == pytest.approx(made(settings=settings, engine=Engine()).run(), rel=1e-2)


class Tracker(GeneralTracker):
    """Keeps what it is told."""

    name, requires_logging_directory, main_process_only = "kept", False, True

    def __init__(self):
        super().__init__()
        self.told, self.pictures = [], []

    tracker = None

    def start(self):
        pass

    def store_init_configuration(self, values):
        pass

    def log(self, values, step, **_):
        self.told.append((step, sorted(values)))

    def log_images(self, values, step, **_):
        self.pictures += [(step, name, pixels.shape) for name, pixels in values.items()]


def test_trackers_are_told_losses_validation_and_pictures():
    pytest.importorskip("matplotlib")
    from fastgen.plots import TrainingSheets

    tracker = Tracker()
    accelerator = Accelerator(cpu=True, log_with=tracker)
    accelerator.init_trackers("here")
    trainer = made(engine=Accelerated(accelerator), validation=DATA[:20])
    sheets = TrainingSheets(Flow(), (2,), "euler", 2, count=4)
    trainer.run(validate=6, watch=[(10, sheets)])
    rate = ["learning_rate", "loss"]
    assert tracker.told == [(0, rate), (6, ["val_loss"]), (12, ["val_loss"])]
    assert [(step, name) for step, name, _ in tracker.pictures] == [
        (10, "samples"),
        (12, "samples"),
    ]
    assert tracker.pictures[0][2][0] == 1
    assert tracker.pictures[0][2][-1] == 3


def test_other_kinds_and_both_are_refused():
    with pytest.raises(TypeError, match="cpu: for a new Accelerator"):
        Accelerated(Accelerator(cpu=True), cpu=True)
    assert "kind='NO'" in repr(Accelerated(cpu=True))


# On CPUs accelerate does not shard: the script says to its state that it does.
TWO = """
import json, sys, torch
torch.set_num_threads(1)
from accelerate import Accelerator
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from fastgen import networks
from fastgen.integrations.accelerate import Accelerated
from fastgen.training import Denoising, Flow, Settings, Trainer
from fastgen.schedules import CosineVP

folder, kinds = sys.argv[1], sys.argv[2].split(",")
GENERATOR = torch.Generator().manual_seed(1)
DATA = torch.randn(100, 2, generator=GENERATOR, dtype=torch.float64)
LABELS = torch.arange(100) % 3
OBJECTIVES = {"flow": Flow(), "ot": Flow(coupling="ot"), "v": Denoising(CosineVP(), "v")}


def made(name, kind, accumulate=1):
    torch.manual_seed(0)
    network = networks.ModulatedMLP((2,), 16, 2, classes=3).double()
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=accumulate)
    if kind == "sharded":
        plugin = FullyShardedDataParallelPlugin(fsdp_version=2, cpu_ram_efficient_loading=False)
        accelerator.state.fsdp_plugin = plugin
        accelerator.state.distributed_type = DistributedType.FSDP
    settings = Settings(steps=50, batch=32, warm_up=5, clip=1.0, seed=3, flip=True, balanced=True)
    return Trainer(
        network, OBJECTIVES[name].loss, DATA, settings, LABELS,
        engine=Accelerated(accelerator), validation=(DATA[:37], LABELS[:37]),
    )


found = {}
for kind in kinds:
    for name in OBJECTIVES if kind == "whole" else ["flow"]:
        trainer = made(name, kind, 2 if name == "v" else 1)
        losses = trainer.run(50 if name == "flow" else 12, validate=40)
        found[kind, name] = losses + list(trainer.validated.values())
    place = f"{folder}/{kind}-{trainer.engine.processes}"
    first = made("flow", kind)
    first.run(20, checkpoint=place)
    first.save(place + ".safetensors")
    for suffix in ("", ".safetensors"):
        rest = made("flow", kind)
        rest.resume(place + suffix)
        assert rest.run() == found[kind, "flow"][20:50], (kind, suffix)
    first.run(24, checkpoint=place)
    for other in sys.argv[3:]:  # what another number of processes wrote at step 24, whole or not
        rest = made("flow", kind)
        rest.resume(f"{folder}/{other}")
        found[kind, f"flow from {other}"] = rest.run()
if not trainer.engine.rank:
    with open(f"{folder}/found-{trainer.engine.processes}.json", "w") as file:
        json.dump({"-".join(k): v for k, v in found.items()}, file)
trainer.engine.end()
"""


def started(folder, processes, *arguments, script=TWO):
    place = folder / "script.py"
    place.write_text(script)
    command = [sys.executable]
    if processes > 1:
        command += ["-m", "torch.distributed.run", f"--nproc-per-node={processes}"]
        command += ["--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0"]
    return subprocess.Popen(
        [*command, str(place), str(folder), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={
            **os.environ,
            "ACCELERATE_USE_CPU": "true",
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.getcwd(),
        },
    )


def ended(run):
    said, _ = run.communicate(timeout=400)
    assert run.returncode == 0, said[-3000:]


def alone():
    """The script's trainer of "flow", here, on one process without accelerate."""
    data = torch.randn(100, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    labels = torch.arange(100) % 3
    torch.manual_seed(0)
    network = networks.ModulatedMLP((2,), 16, 2, classes=3).double()
    settings = Settings(steps=50, batch=32, warm_up=5, clip=1.0, seed=3, flip=True, balanced=True)
    return Trainer(network, Flow().loss, data, settings, labels)


def same(found, expected):
    """Losses to rounding."""
    assert found == pytest.approx(expected, rel=1e-12, abs=1e-12)


def as_one(folder, size, one, kinds):
    """What processes found and wrote is what one did, to rounding, and it goes on from there."""
    found = json.loads((folder / f"found-{size}.json").read_text())
    assert {kind.partition("-")[0] for kind in found} == set(kinds)
    for key, losses in found.items():
        name = key.split("-")[1]
        if " from " in name:
            same(losses, one["whole-flow"][24:50])
        else:
            same(losses, one["whole-" + name])
            assert len(losses) == (52 if name == "flow" else 13)
    # Weights in a file and in a folder of shares, whole and sharded: one training.
    for suffix, step in ((".safetensors", 20), ("", 24)):
        expected = load(folder / f"whole-1{suffix}").network.state_dict()
        for kind in kinds:
            written = load(folder / f"{kind}-{size}{suffix}")
            assert written.step == step
            for k, x in written.network.state_dict().items():
                assert torch.allclose(x, expected[k], rtol=1e-10, atol=1e-12), (kind, k)
            rest = alone()
            rest.resume(folder / f"{kind}-{size}{suffix}")
            same(rest.run(), one["whole-flow"][step:50])
    assert len(list((folder / f"sharded-{size}").glob("step-*"))) == 1


def test_two_processes_have_the_losses_of_one_whole_or_sharded(tmp_path):
    """And go on exactly at two; at one, from what two wrote, to rounding."""
    for run in [started(tmp_path, 1, "whole"), started(tmp_path, 2, "whole,sharded")]:
        ended(run)
    one = json.loads((tmp_path / "found-1.json").read_text())
    as_one(tmp_path, 2, one, ["whole", "sharded"])


@pytest.mark.slow
def test_four_processes_have_the_losses_of_one_and_go_on_from_two(tmp_path):
    """Exactly at four; to rounding from what two wrote, and at one from what four did."""
    for size, kinds, *others in [
        (1, "whole"),
        (2, "whole,sharded"),
        (4, "whole,sharded", "whole-2", "sharded-2"),
    ]:
        ended(started(tmp_path, size, kinds, *others))
    one = json.loads((tmp_path / "found-1.json").read_text())
    as_one(tmp_path, 4, one, ["whole", "sharded"])
    found = json.loads((tmp_path / "found-4.json").read_text())
    assert {f"{k}-flow from {k}-2" for k in ("whole", "sharded")} <= found.keys()


KILLED = (
    TWO.split("found = {}")[0]
    + """
import os
folder = sys.argv[1]
trainer = made("flow", "whole")
place = f"{folder}/run"
if os.path.exists(place):
    trainer.resume(place)
with open(f"{folder}/log-{trainer.engine.rank}", "a") as log:
    def note(step, loss):
        print(os.getpid(), step, loss.item().hex(), file=log, flush=True)
    trainer.run(checkpoint=place, every=4, on_step=note)
trainer.engine.end()
"""
)


@pytest.mark.slow
def test_a_run_whose_processes_are_killed_goes_on_with_the_same_losses(tmp_path):
    whole = tmp_path / "whole"
    whole.mkdir()
    ended(started(whole, 2, "whole", script=KILLED))
    expected = dict(line.split()[1:] for line in (whole / "log-0").read_text().splitlines())
    assert len(expected) == 50
    for rank in (1, 0):
        log = tmp_path / f"log-{rank}"
        run = started(tmp_path, 2, "whole", script=KILLED)
        at = (len(log.read_text().splitlines()) if log.exists() else 0) + random.randrange(9, 20)
        while not (log.exists() and log.read_text().count("\n") >= at):
            assert run.poll() is None, run.communicate()[0][-3000:]
            time.sleep(0.01)
        os.kill(int(log.read_text().splitlines()[-1].split()[0]), signal.SIGKILL)
        run.communicate(timeout=120)
        assert run.returncode != 0
    ended(started(tmp_path, 2, "whole", script=KILLED))
    lines = (tmp_path / "log-0").read_text().splitlines()
    found = [line.split()[1:] for line in lines if line.count(" ") == 2]
    assert {step for step, _ in found} == set(expected)
    assert all(expected[step] == loss for step, loss in found)
