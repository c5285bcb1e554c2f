"""Ray Data over the ids of samples: into a folder of shards, or as a data set that streams on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import ray
from numpy.typing import NDArray
from ray.data import ActorPoolStrategy, Dataset

from fastgen.common.checks import check_whole
from fastgen.common.threads import threads
from fastgen.generation import Generated
from fastgen.generation.folder import Folder
from fastgen.generation.formats.table import format_named
from fastgen.generation.run import begun, completed, draw_shard, made_task
from fastgen.sampling import Sampler

Make = Callable[[], Sampler]
# What `fastgen.generation.run.made_task` is told where nothing is said.
DEFAULTS: dict[str, Any] = {
    **{"seed": 0, "shard": 1000, "batch": None, "format": "npz", "dtype": None},
    **{"limits": (-1.0, 1.0), "labels": None, "label_name": "labels", "net_kwargs": None},
    **{"decode": None, "features": None},
}


class Shards:
    """An actor that draws whole shards into the folder."""

    def __init__(
        self, make: Make, shape: Sequence[int], out: str, told: dict[str, Any], own: int
    ) -> None:
        self._task = made_task(make(), shape, **told)
        self._folder = Folder(Path(out), format_named(told["format"]), self._task.layout)
        self._threads = own

    def __call__(self, batch: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Draw the shards of these numbers that are missing."""
        drawn = []
        with threads(self._threads):
            for k in batch["id"].tolist():
                drawn.append(self._folder.missing(k, closely=True))
                if drawn[-1]:
                    draw_shard(self._task, self._folder, k)
        return {"shard": batch["id"], "drawn": np.array(drawn)}


class Rows:
    """An actor that draws one batch for each number, as rows of a data set."""

    def __init__(self, make: Make, shape: Sequence[int], told: dict[str, Any]) -> None:
        self._task = made_task(make(), shape, **told)

    def __call__(self, batch: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """The samples of these batches."""
        task = self._task
        parts: list[NDArray[Any]] = []
        ids: list[int] = []
        with threads(1):
            for index in batch["id"].tolist():
                first = index * task.batch
                rows = min(task.batch, task.layout.count - first)
                parts.append(task.drawn(first)[:rows])
                ids += range(first, first + rows)
        found = {"id": np.array(ids), "sample": np.concatenate(parts)}
        if task.labels is not None:
            found["label"] = task.labels[found["id"]]
        return found


def generate(
    make: Make,
    shape: Sequence[int],
    *,
    out: str | Path,
    actors: int = 2,
    gpus: float = 0.0,
    cpus: float = 1.0,
    **options: Any,
) -> Generated:
    """`fastgen.generate` by Ray's actors: the same folder, the same bits.

    Each actor makes a sampler once and draws whole shards. One that dies is started again by Ray
    and draws what it had in hand. Run again, the same call draws what is missing.

    Args:
        make: makes the sampler, in every actor and once in the caller, which compares its facts
            with the folder's. On a GPU of its own an actor sees it as "cuda".
        shape: of one state.
        out: a folder that all machines see.
        actors: in the pool.
        gpus, cpus: of each actor; Ray places them by that.
        **options: count, seed, shard, batch, format, dtype, limits, labels, label_name,
            net_kwargs, decode and features of `fastgen.generate`.

    Returns:
        The folder, whole.

    Raises:
        TypeError, ValueError: as `fastgen.generate`.
    """
    check_whole("actors", actors, 1)
    told = {**DEFAULTS, **options}
    task = made_task(make(), shape, **told)
    folder, manifest = begun(task, out, told["format"])
    own = make, tuple(shape), str(Path(out).absolute()), told, manifest["threads"]
    done = _mapped(Shards, own, task.layout.shards, actors, gpus, cpus)
    for _ in done.iter_batches(batch_size=None):
        pass
    completed(task, folder, manifest)
    return Generated(out)


def dataset(
    make: Make,
    shape: Sequence[int],
    *,
    actors: int = 2,
    gpus: float = 0.0,
    cpus: float = 1.0,
    **options: Any,
) -> Dataset:
    """Samples as rows of a Ray data set: ``id``, ``sample`` and, of labels, ``label``.

    They are drawn as they are asked for, by `Dataset.iter_batches` or a write. The bits are those
    of calls of ``batch`` states, which begin with ids 0, batch, 2 batch, ..., on one thread.

    Args:
        make, shape, actors, gpus, cpus: as for `generate`.
        **options: count, seed, batch, dtype, limits, labels, label_name, net_kwargs and decode of
            `fastgen.generate`.
    """
    check_whole("actors", actors, 1)
    told = {**DEFAULTS, "dtype": "float32", **options}
    told["shard"] = told["batch"] = 64 if told["batch"] is None else told["batch"]
    batches = made_task(make(), shape, **told).layout.shards  # mistakes are named here
    return _mapped(Rows, (make, tuple(shape), told), batches, actors, gpus, cpus)


def _mapped(
    kind: type[Any], own: tuple[Any, ...], count: int, actors: int, gpus: float, cpus: float
) -> Dataset:
    # Blocks that are there, since tasks that make them would wait for a CPU that no actor has; and
    # so small that who is slow takes fewer.
    blocks = min(count, max(32, 8 * actors))
    numbers = ray.data.from_items([{"id": k} for k in range(count)], override_num_blocks=blocks)
    return numbers.map_batches(
        kind,
        batch_size=1,
        compute=ActorPoolStrategy(size=actors),
        fn_constructor_args=own,
        num_gpus=gpus,
        num_cpus=cpus,
    )
