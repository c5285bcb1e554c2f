"""Lightning trains what `fastgen.training.Trainer` trains, goes on exactly, and shows samples."""

import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import fastgen
from fastgen import networks
from fastgen.training import Denoising, Flow, Settings, Trainer

pytest.importorskip("matplotlib")
pytest.importorskip("lightning")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import lightning.pytorch as pl
from lightning.pytorch.loggers import Logger

from fastgen.integrations.lightning import SampleSheets, TrainingModule

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
DATA = torch.randn(96, 2, generator=torch.Generator().manual_seed(0)) * 0.3 + 1
LABELS = torch.arange(96) % 3
OPTIONS = {"learning_rate": 5e-3, "warm_up": 3, "average": 0.9, "seed": 4}


def network(classes=0):
    torch.manual_seed(1)
    return networks.MLP((2,), (16,), classes=classes)


def loader(*tensors, batch=16, **options):
    return DataLoader(TensorDataset(*(tensors or (DATA,))), batch, **options)


def fit(module, folder, *args, ckpt_path=None, **options):
    options = {
        "max_steps": 12,
        "accelerator": "cpu",
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "default_root_dir": folder,
        "log_every_n_steps": 1,
        **options,
    }
    trainer = pl.Trainer(**options)
    trainer.fit(module, *args, ckpt_path=ckpt_path)
    return trainer


def in_order(first, count):
    """The data in their own order, as the loader here gives them."""
    return torch.arange(first, first + count) % len(DATA)


@pytest.mark.parametrize(
    ("objective", "classes"),
    [(Flow(coupling="ot"), 0), (Flow(), 3), (Denoising(fastgen.schedules.CosineVP()), 3)],
    ids=["ot", "labels", "denoising"],
)
def test_the_weights_are_those_of_the_trainer(objective, classes, tmp_path):
    module = TrainingModule(network(classes), objective, **OPTIONS)
    tensors = (DATA, LABELS) if classes else (DATA,)
    fit(module, tmp_path, loader(*tensors), gradient_clip_val=1.0)
    settings = Settings(steps=12, batch=16, clip=1.0, **OPTIONS)
    labels = LABELS if classes else None
    ours = Trainer(network(classes), objective.loss, DATA, settings, labels)
    ours.feed.order.at = in_order
    ours.run()
    for a, b in ((module.network, ours.network), (module.average, ours.average)):
        for p, q in zip(a.parameters(), b.parameters(), strict=True):
            torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)
    assert not torch.equal(module.average.layers[0].weight, module.network.layers[0].weight)


def test_it_goes_on_from_a_checkpoint(tmp_path):
    whole = TrainingModule(network(), Flow(), **OPTIONS)
    fit(whole, tmp_path, loader(batch=96))
    part = TrainingModule(network(), Flow(), **OPTIONS)
    # The same end, so that the rate is the same; all data in a batch: their order is Lightning's.
    stopped = fit(part, tmp_path, loader(batch=96), callbacks=[Stop(6)])
    stopped.save_checkpoint(tmp_path / "a.ckpt")
    rest = TrainingModule(network(), Flow(), **OPTIONS)
    fit(rest, tmp_path, loader(batch=96), ckpt_path=tmp_path / "a.ckpt")
    assert rest.draws == whole.draws == 12
    for p, q in zip(rest.average.parameters(), whole.average.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-7)
    loaded = TrainingModule.load_from_checkpoint(
        tmp_path / "a.ckpt", network=network(), objective=Flow()
    )
    assert loaded.settings.seed == 4
    assert torch.equal(loaded.average.layers[0].weight, part.average.layers[0].weight)


class Stop(pl.Callback):
    def __init__(self, step):
        self.step = step

    def on_train_batch_end(self, trainer, *_):
        trainer.should_stop = trainer.global_step >= self.step


def test_accumulated_batches_draw_other_noise_and_the_average_follows_steps(tmp_path):
    module = TrainingModule(network(), Flow(), **OPTIONS)
    moved = []
    follow = TrainingModule.optimizer_step

    def counted(self, *args, **kwargs):
        before = self.average.layers[0].weight.clone()
        follow(self, *args, **kwargs)
        moved.append(not torch.equal(before, self.average.layers[0].weight))

    module.optimizer_step = counted.__get__(module)
    fit(module, tmp_path, loader(batch=8), max_steps=3, accumulate_grad_batches=2)
    assert module.draws == 6
    assert moved == [True] * 3


def test_validation_is_of_the_average_with_equal_noise(tmp_path):
    module = TrainingModule(network(), Flow(), **OPTIONS)
    trainer = fit(module, tmp_path, loader(), loader(batch=32))
    assert "loss" in trainer.callback_metrics
    (first,), (second,) = (trainer.validate(module, loader(batch=32), verbose=False) for _ in "ab")
    assert first == second
    with torch.no_grad():
        for p in module.network.parameters():
            p.zero_()
    (third,) = trainer.validate(module, loader(batch=32), verbose=False)
    assert third == first
    with torch.no_grad():
        module.average.layers[0].weight.add_(1.0)
    (fourth,) = trainer.validate(module, loader(batch=32), verbose=False)
    assert fourth["val_loss"] != first["val_loss"]
    assert not module.average.training


def test_the_model_samples_and_is_saved(tmp_path):
    pytest.importorskip("safetensors")
    module = TrainingModule(network(), Flow(), **OPTIONS)
    fit(module, tmp_path, loader(), max_steps=150)
    x = fastgen.sample(module.model(), (200, 2), "heun", 10, seed=0)
    assert (x.mean(0) - DATA.mean(0)).norm() < 0.4
    module.model().save_pretrained(tmp_path / "m")
    again = fastgen.Model.from_pretrained(tmp_path / "m")
    assert torch.equal(fastgen.sample(again, (200, 2), "heun", 10, seed=0), x)


def test_a_loss_of_ones_own(tmp_path):
    def loss(net, batch):
        return (net(batch.data, torch.zeros(len(batch.data))) - batch.data).square().mean()

    module = TrainingModule(network(), loss, **OPTIONS)
    fit(module, tmp_path, loader(), max_steps=2)
    with pytest.raises(ValueError, match="give model=lambda network"):
        module.model()
    own = TrainingModule(
        network(),
        loss,
        model=lambda n: fastgen.Model(n, fastgen.schedules.Rectified(), "data"),
    )
    assert own.model().net is own.average
    with pytest.raises(TypeError, match=r"objective=3: expected one of fastgen\.training"):
        TrainingModule(network(), 3)


def test_what_does_not_fit_is_named(tmp_path):
    with pytest.raises(ValueError, match="decay='cosine' needs an end"):
        fit(TrainingModule(network(), Flow()), tmp_path, loader(), max_steps=-1, max_epochs=-1)
    module = TrainingModule(network(), Flow())
    with pytest.raises(TypeError, match=r"expected data, or \(data, labels\), got \(Tensor, Tens"):
        fit(module, tmp_path, loader(DATA, LABELS, LABELS))
    with pytest.raises(ValueError, match="batch: expected floating"):
        fit(module, tmp_path, loader(LABELS))

    class Other(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(2, 1)

        def training_step(self, batch, batch_idx):
            return self.layer(batch[0]).mean()

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 0.1)

    with pytest.raises(TypeError, match="expected to train a TrainingModule, got Other"):
        fit(Other(), tmp_path, loader(), max_epochs=1, callbacks=[SampleSheets((2,))])


def test_other_processes_draw_other_noise():
    from fastgen.integrations.common.training import seed_of

    assert len({seed_of(seed, rank) for seed in (0, 1, 2**31 - 1) for rank in range(3)}) == 9
    assert seed_of(7, 0) == 7


class Pictures(Logger):
    """A logger that takes pictures as Weights & Biases does."""

    def __init__(self):
        super().__init__()
        self.taken = []

    name, version = "pictures", 0

    def log_metrics(self, metrics, step=None):
        pass

    def log_hyperparams(self, params, *args, **kwargs):
        pass

    def log_image(self, key, images, step):
        self.taken.append((key, images[0], step))

    @property
    def experiment(self):
        return self


class Board(Pictures):
    """As TensorBoard does."""

    log_image = property()

    def add_image(self, tag, pixels, step, dataformats):
        assert dataformats == "HWC"
        self.taken.append((tag, pixels, step))


class TestSampleSheets:
    @pytest.mark.parametrize("kind", [Pictures, Board])
    def test_a_logger_gets_them(self, kind, tmp_path):
        logger = kind()
        module = TrainingModule(network(), Flow(), **OPTIONS)
        sheets = SampleSheets((2,), "euler", 3, count=50, every=2)
        options = {"max_steps": -1, "max_epochs": 4, "logger": logger, "callbacks": [sheets]}
        fit(module, tmp_path, loader(), **options)
        assert [(key, step) for key, _, step in logger.taken] == [("samples", 12), ("samples", 24)]
        pixels = logger.taken[0][1]
        assert pixels.dtype == np.uint8
        assert pixels.shape[2] == 3
        assert pixels.min() < 200 < pixels.max()
        assert not list(tmp_path.glob("**/*.png"))

    @pytest.mark.parametrize("given", [True, False])
    def test_files(self, given, tmp_path):
        from matplotlib.image import imread

        torch.manual_seed(0)
        images = torch.rand(32, 1, 4, 4)
        module = TrainingModule(networks.ModulatedMLP((1, 4, 4), 16, 1, classes=2), Flow())
        sheets = SampleSheets(
            (1, 4, 4),
            "euler",
            2,
            count=4,
            net_kwargs={"labels": torch.tensor([0, 1, 0, 1])},
            folder=tmp_path / "given" if given else None,
        )
        labelled = loader(images, torch.arange(32) % 2)
        fit(module, tmp_path, labelled, max_steps=-1, max_epochs=1, callbacks=[sheets])
        (path,) = tmp_path.glob("**/*.png")
        assert path == tmp_path / ("given" if given else "samples") / "step-00000002.png"
        assert imread(path).shape[0] >= 200
        assert torch.equal(sheets.draw(module), sheets.draw(module))

    def test_arguments(self):
        with pytest.raises(ValueError, match="every=0"):
            SampleSheets((2,), every=0)
        with pytest.raises(TypeError, match="shape=2"):
            SampleSheets(2)
