"""TensorBoard, Weights & Biases and MLflow themselves get losses, validation and pictures."""

import json
import struct

import numpy as np
import pytest
import torch

from fastgen import networks
from fastgen.training import Flow, Settings, Trainer

pytest.importorskip("accelerate")
pytest.importorskip("matplotlib")
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from fastgen.integrations.accelerate import Accelerated
from fastgen.plots import TrainingSheets

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


@pytest.fixture
def trained(tmp_path, monkeypatch):
    """Run sixty steps that a tracker is told of; the losses, the validation, and one picture."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/runs.db")

    def run(kind):
        accelerator = Accelerator(cpu=True, log_with=kind, project_dir=str(tmp_path))
        accelerator.init_trackers("here", config={"batch": 16})
        torch.manual_seed(0)
        data = torch.randn(96, 2)
        trainer = Trainer(
            networks.MLP((2,), (16,)), Flow().loss, data, Settings(steps=60, batch=16),
            engine=Accelerated(accelerator), validation=data[:20],
        )  # fmt: skip
        pictures = []
        taken = trainer.engine.log_image
        trainer.engine.log_image = lambda *a: pictures.append(a[1]) or taken(*a)
        sheets = TrainingSheets(Flow(), (2,), "euler", 2, count=4)
        losses = trainer.run(validate=30, watch=[(60, sheets)])
        trainer.engine.end()
        told = {"loss": {0: losses[0], 50: losses[50]}, "val_loss": trainer.validated}
        return told, pictures[0]

    yield run
    AcceleratorState._reset_state(reset_partial_state=True)


def same(found, told):
    """Numbers by step, which trackers keep as float32 or as text."""
    for name, values in told.items():
        assert found[name].keys() == values.keys()
        assert list(found[name].values()) == pytest.approx(list(values.values()), rel=1e-6)


def test_tensorboard(trained, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    told, pixels = trained("tensorboard")
    events = EventAccumulator(str(tmp_path / "here"), {"scalars": 0, "images": 0}).Reload()
    names = events.Tags()["scalars"]
    same({k: {e.step: e.value for e in events.Scalars(k)} for k in names}, told)
    (picture,) = events.Images("samples")
    assert (picture.step, picture.height, picture.width) == (60, *pixels.shape[:2])


def test_mlflow(trained):
    mlflow = pytest.importorskip("mlflow")
    image = pytest.importorskip("PIL.Image")
    told, pixels = trained("mlflow")
    client = mlflow.MlflowClient()
    (run,) = client.search_runs([client.get_experiment_by_name("here").experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.params["batch"] == "16"
    history = {k: client.get_metric_history(run.info.run_id, k) for k in run.data.metrics}
    same({k: {m.step: m.value for m in found} for k, found in history.items()}, told)
    path = client.download_artifacts(run.info.run_id, "samples-00000060.png")
    assert np.array_equal(np.asarray(image.open(path)), pixels)


def test_wandb(trained, tmp_path):
    """Without its server: what it keeps here to be sent later."""
    wandb = pytest.importorskip("wandb")
    image = pytest.importorskip("PIL.Image")
    told, pixels = trained("wandb")
    wandb.teardown()  # its process, which writes the file, ends
    (path,) = (tmp_path / "wandb").glob("offline-run-*/*.wandb")
    same(history(path.read_bytes()), told)
    (picture,) = path.parent.glob("files/media/images/samples_60_*.png")
    assert np.array_equal(np.asarray(image.open(picture).convert("RGB")), pixels)


def history(content):
    """Numbers by name and step of a run's file: LevelDB's log format after seven bytes."""
    from wandb.proto import wandb_internal_pb2 as records

    found, part, at = {}, b"", 7
    while at + 7 <= len(content):
        if 32768 - at % 32768 < 7:  # no room for a head at the end of a block
            at += 32768 - at % 32768
            continue
        size, kind = struct.unpack("<HB", content[at + 4 : at + 7])
        part += content[at + 7 : at + 7 + size]
        at += 7 + size
        if kind not in (1, 4):  # whole, or the last part; others go on
            continue
        record, part = records.Record.FromString(part), b""
        told = {"/".join(i.nested_key) or i.key: i.value_json for i in record.history.item}
        for name in told.keys() & {"loss", "val_loss"}:
            found.setdefault(name, {})[json.loads(told["_step"])] = json.loads(told[name])
    return found
