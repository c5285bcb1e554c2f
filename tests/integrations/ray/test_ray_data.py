"""Actors of Ray draw the bits that one process draws."""

import os
from pathlib import Path

import pytest
import torch

pytest.importorskip("ray")
pytest.importorskip("pyarrow")
import ray

import fastgen.integrations.ray as on_ray
from tests.generation import sets
from tests.integrations.ray import dying

ROOT = Path(__file__).parents[3]
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(scope="module")
def mark(tmp_path_factory):
    """A cluster of this machine; the file that says that an actor has died."""
    found = tmp_path_factory.mktemp("ray") / "died"
    path = f"{ROOT}:{os.environ.get('PYTHONPATH', '')}"
    own = {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "FASTGEN_TEST_MARK": str(found)}
    patch = pytest.MonkeyPatch()
    patch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    patch.setenv("FASTGEN_TEST_MARK", str(found))
    ray.init(
        num_cpus=2, include_dashboard=False, log_to_driver=False, runtime_env={"env_vars": own}
    )
    ray.data.DataContext.get_current().enable_progress_bars = False
    yield found
    ray.shutdown()
    patch.undo()


OPTIONS = {
    "count": sets.COUNT, "seed": sets.SEED, "shard": sets.SHARD, "batch": sets.BATCH,
    "labels": sets.LABELS,
}  # fmt: skip


def test_a_folder_by_actors_of_which_one_dies(mark, tmp_path):
    sets.generate(tmp_path / "a")
    found = on_ray.generate(dying.sampler, sets.SHAPE, out=tmp_path / "b", actors=2, **OPTIONS)
    assert mark.exists()
    assert found.manifest["complete"]
    assert sets.checksums(tmp_path / "b") == sets.checksums(tmp_path / "a")
    sets.generate(tmp_path / "b", verify=2)


def test_a_data_set(mark):
    own = {"count": 30, "labels": sets.LABELS[:30]}
    rows = on_ray.dataset(sets.sampler, sets.SHAPE, actors=2, **{**OPTIONS, **own}).take_all()
    rows.sort(key=lambda row: row["id"])
    assert [row["id"] for row in rows] == list(range(30))
    assert [row["label"] for row in rows] == sets.LABELS[:30]
    ids = range(24, 32)
    labels = torch.tensor([sets.LABELS[min(i, 29)] for i in ids])
    alone = sets.sampler()((8, *sets.SHAPE), seed=sets.SEED, sample_ids=ids, labels=labels)
    assert torch.equal(torch.stack([torch.tensor(row["sample"]) for row in rows[24:]]), alone[:6])


def test_refusals(tmp_path):
    with pytest.raises(ValueError, match="actors=0"):
        on_ray.generate(sets.sampler, sets.SHAPE, out=tmp_path, actors=0, **OPTIONS)
    with pytest.raises(TypeError, match="colour"):
        on_ray.generate(sets.sampler, sets.SHAPE, out=tmp_path, colour=1, **OPTIONS)
    with pytest.raises(ValueError, match="expected 30, one for each sample, got 230"):
        on_ray.dataset(sets.sampler, sets.SHAPE, **{**OPTIONS, "count": 30})
