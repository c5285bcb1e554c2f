"""What runs around a step: schedules, validation, watchers, flips, checkpoints as folders."""

import json

import pytest
import torch

import fastgen
from fastgen import networks
from fastgen.training import Denoising, Flow, LatentScore, Settings, Trainer, load

DATA = torch.randn(64, 2, generator=torch.Generator().manual_seed(0))
SETTINGS = Settings(steps=30, batch=16, warm_up=1, seed=1)


def made(settings=SETTINGS, objective=None, data=DATA, **options):
    torch.manual_seed(0)
    network = networks.MLP((2,), (16,))
    return Trainer(network, (objective or Flow()).loss, data, settings, **options)


def one_cycle(optimiser):
    return torch.optim.lr_scheduler.OneCycleLR(optimiser, 3e-3, total_steps=31)


class TestSchedule:
    def test_a_schedule_of_torch_is_stepped_and_gone_on_with(self, tmp_path):
        rates = []
        whole = made(schedule=one_cycle)
        losses = whole.run(on_step=lambda *_: rates.append(whole.optimiser.param_groups[0]["lr"]))
        other = one_cycle(torch.optim.AdamW([torch.nn.Parameter(torch.ones(1))]))
        for rate in rates:
            other.optimizer.step()
            other.step()
            assert rate == other.get_last_lr()[0]
        part = made(schedule=one_cycle)
        first = part.run(13, checkpoint=tmp_path / "a.safetensors")
        rest = made(schedule=one_cycle)
        rest.resume(tmp_path / "a.safetensors")
        assert first + rest.run() == losses

    def test_what_is_no_function_of_the_step_is_refused(self):
        with pytest.raises(TypeError, match="depends on losses"):
            made(schedule=torch.optim.lr_scheduler.ReduceLROnPlateau)
        with pytest.raises(ValueError, match="a limit of time needs"):
            made(schedule=one_cycle).run(minutes=1)


class TestValidation:
    def test_it_is_of_the_average_with_equal_noise(self):
        trainer = made(validation=DATA[:41])
        trainer.run(6)
        first = trainer.validate()
        assert trainer.validate() == first
        with torch.no_grad():
            trainer.network.layers[0].weight.zero_()
        assert trainer.validate() == first
        with torch.no_grad():
            trainer.average.layers[0].weight.zero_()
        assert trainer.validate() != first

    def test_it_comes_every_few_steps_and_at_the_end(self):
        seen = []
        trainer = made(validation=DATA[:5], objective=Flow(coupling="ot"))
        trainer.run(25, validate=10, watch=[(9, lambda t: seen.append(t.step))])
        assert list(trainer.validated) == [10, 20, 25]
        assert seen == [9, 18, 25]
        with pytest.raises(ValueError, match="validation=held_out"):
            made().run(validate=5)
        with pytest.raises(ValueError, match=r"shape \[3\], trained on \[2\]"):
            made(validation=torch.ones(4, 3))
        with pytest.raises(ValueError, match="just where there are labels"):
            made(validation=(DATA, torch.zeros(64).long()))


def test_half_of_the_samples_are_mirrored_anew_each_time():
    data = torch.arange(64.0)[:, None] + torch.tensor([[0.25, 0.75]])
    trainer = made(Settings(steps=100, batch=64, flip=True), data=data)
    batches = torch.stack([trainer.batch(k).data for k in range(100)])
    mirrored = batches[..., 0] > batches[..., 1]
    assert float(mirrored.double().mean()) == pytest.approx(0.5, abs=4 / 160)
    assert len({tuple(row) for row in mirrored.tolist()}) == 100
    assert torch.equal(batches[0].floor()[:, 0].sort().values, torch.arange(64.0))


def test_a_compiled_network_is_trained(tmp_path):
    plain, compiled = made(), made()
    compiled.network.compile(backend="eager")
    assert compiled.run(5, checkpoint=tmp_path / "a.safetensors") == plain.run(5)
    assert load(tmp_path / "a.safetensors").step == 5


class TestFolder:
    """Checkpoints of torch.distributed.checkpoint, here of one process."""

    def test_they_are_gone_on_with_and_loaded(self, tmp_path):
        losses = made().run()
        part = made()
        first = part.run(10, checkpoint=tmp_path / "a", every=4)
        rest = made()
        rest.resume(tmp_path / "a")
        assert first + rest.run() == losses
        assert [p.name for p in (tmp_path / "a").glob("step-*")] == ["step-00000010"]
        part.save(tmp_path / "a")  # once more at the same step
        loaded = load(tmp_path / "a")
        assert loaded.step == 10
        for p, q in zip(loaded.network.parameters(), part.average.parameters(), strict=True):
            assert torch.equal(p, q)
        begun = made()
        begun.save(tmp_path / "begun")
        begun.resume(tmp_path / "begun")
        assert begun.run() == losses

    def test_a_run_that_was_killed_while_it_saved_leaves_the_one_before(self, tmp_path):
        part = made()
        losses = part.run(10, checkpoint=tmp_path / "a")
        left = tmp_path / "a" / "step-00000020"
        left.mkdir()
        (left / "__0_0.distcp").write_bytes(b"cut off")
        rest = made()
        rest.resume(tmp_path / "a")
        assert losses + rest.run(20, checkpoint=tmp_path / "a") == made().run(20)
        assert load(tmp_path / "a").step == 20

    @pytest.mark.parametrize(
        ("damage", "message"),
        [
            (lambda f: (f / "fastgen.json").write_text("{"), "fastgen.json: damaged"),
            (lambda f: (f / "fastgen.json").write_text("[1]"), "expected an object of texts"),
            (lambda f: (f / "fastgen.json").unlink(), "fastgen.json is missing"),
            (lambda f: (f / "step-00000010" / ".metadata").write_bytes(b"x"), "damaged"),
            (lambda f: next((f / "step-00000010").glob("*.distcp")).unlink(), "damaged"),
            (
                lambda f: (f / "fastgen.json").write_text(
                    json.dumps({**json.loads((f / "fastgen.json").read_text()), "step": "31"})
                ),
                "step '31'",
            ),
        ],
        ids=["cut", "list", "no pointer", "metadata", "no shares", "step"],
    )
    def test_damaged_ones_are_named_and_change_nothing(self, damage, message, tmp_path):
        made().run(10, checkpoint=tmp_path / "a")
        damage(tmp_path / "a")
        fresh = made()
        before = [p.clone() for p in fresh.network.parameters()]
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            fresh.resume(tmp_path / "a")
        assert fresh.step == 0
        assert all(map(torch.equal, before, fresh.network.parameters()))

    def test_of_another_network_or_settings(self, tmp_path):
        made().run(2, checkpoint=tmp_path / "a")
        torch.manual_seed(0)
        other = Trainer(networks.MLP((2,), (8,)), Flow().loss, DATA, SETTINGS)
        with pytest.raises(ValueError, match="of another network"):
            other.resume(tmp_path / "a")
        with pytest.raises(ValueError, match="other settings: seed"):
            made(Settings(**{**vars(SETTINGS), "seed": 2})).resume(tmp_path / "a")
        (tmp_path / "file").write_text("mine")
        with pytest.raises(NotADirectoryError, match="name a folder"):
            made().save(tmp_path / "file")


@pytest.mark.parametrize(
    "objective",
    [
        Flow(0.1),
        Flow(sampling="antithetic"),
        Denoising(fastgen.schedules.CosineVP()),
        LatentScore(),
    ],
    ids=["noisy", "antithetic", "denoising", "latent"],
)
def test_parts_of_a_batch_draw_what_the_whole_would(objective):
    """Exactly: the mean of the parts' losses is the whole's, to rounding."""
    torch.manual_seed(0)
    if isinstance(objective, LatentScore):
        data = torch.rand(12, 1, 4, 4, dtype=torch.float64)
        network = networks.ScoreVAE(networks.VAE(1, 2, 8), networks.DiT(2, 2, 1, 16, 1, 2))
        network = network.double()
    else:
        data, network = DATA[:12].double(), networks.MLP((2,), (16,)).double()
    trainer = Trainer(network, objective.loss, data, Settings(batch=12, seed=3))
    whole = trainer.batch(5)
    expected = objective.loss(network, whole)
    for count in (4, 6):
        parts = [objective.loss(network, whole.rows(k, count)) for k in range(0, 12, count)]
        torch.testing.assert_close(torch.stack(parts).mean(), expected, rtol=1e-12, atol=1e-14)


def test_sheets_are_written_where_no_tracker_takes_them(tmp_path):
    image = pytest.importorskip("matplotlib.image")
    from fastgen.plots import TrainingSheets
    from fastgen.training import Scaling

    sheets = TrainingSheets(Flow(), (2,), "euler", 2, count=4, folder=tmp_path)
    trainer = made(scaling=Scaling([100.0, 0.0], [1.0, 1.0]))
    trainer.run(20, watch=[(10, sheets)])
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["step-00000010.png", "step-00000020.png"]
    pixels = image.imread(tmp_path / names[0])
    assert pixels.shape[-1] in (3, 4)
    assert pixels.std() > 0
    assert (sheets.draw(trainer)[:, 0] > 50).all(), "of the data's own scale"
