"""`generate`: any number of samples into a folder of shards, by any number of processes."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastgen.common.checks import (
    check_choice,
    check_dense,
    check_pair,
    check_range,
    check_real_device,
    check_sizes,
    check_whole,
)
from fastgen.common.threads import threads
from fastgen.common.transforms import BACKWARD, untransformed
from fastgen.common.typed import typed
from fastgen.generation.folder import STATISTICS, Folder, Generated, read_manifest
from fastgen.generation.formats.block import Block, Layout, same_bits
from fastgen.generation.formats.images import CHANNELS
from fastgen.generation.formats.table import FORMATS, format_named
from fastgen.generation.progress import Progress
from fastgen.generation.statistics import (
    Features,
    Statistics,
    frechet,
    precision_recall,
    stored_statistics,
)
from fastgen.generation.task import DTYPES, NetKwargs, Task
from fastgen.generation.world import Place, shards
from fastgen.generation.writer import Writer
from fastgen.sampling.sampler import Sampler

BATCH = 64  # states in a call at most, unless it is said


@untransformed(BACKWARD)
@typed
def generate(
    sampler: Sampler,
    shape: Sequence[int],
    *,
    count: int,
    out: str | Path,
    seed: int = 0,
    shard: int = 1000,
    batch: int | None = None,
    format: str = "npz",
    dtype: str | None = None,
    limits: Sequence[float] = (-1.0, 1.0),
    labels: Sequence[int] | Tensor | None = None,
    label_name: str = "labels",
    net_kwargs: NetKwargs | None = None,
    decode: Callable[[Tensor], Tensor] | None = None,
    features: Features | None = None,
    against: str | Path | None = None,
    real: Tensor | None = None,
    verify: int = 0,
    place: Place | None = None,
    progress: bool = False,
) -> Generated:
    """Draw samples 0 .. count - 1 of a seed into a folder, in shards; go on where a run stopped.

    Sample i is the one of sample id i in the noise contract, and shard k has samples
    k * shard ... (k + 1) * shard - 1. Every call of the network has ``batch`` states: batch b of a
    shard begins with its sample b * batch, and the last is filled up with the ids that follow,
    which are thrown away. Since libraries for matrix products may add in another order for another
    number of rows or threads, this is what makes a shard the same bits whoever draws it: it equals
    ``sampler((batch, *shape), sample_ids=...)`` of these ids. The number of torch's threads is that
    of the run that began the folder.

    Started by torchrun or srun, processes share the work: see `Place`. A shard is written whole or
    not at all, and recorded after that, so that any process may be killed at any time; the same
    call again, by however many processes, draws what is missing or damaged. ``count`` may grow.
    Every process returns when all shards are on the disk; the first one then writes the checksums
    and the statistics.

    Args:
        sampler: model, plan, guidance; its model is where the samples are drawn. Guidance with a
            row for each sample needs ``batch`` rows, and is the same for every batch.
        shape: of one state, without a batch axis.
        count: number of samples.
        out: the folder, which all processes see.
        seed: of the noise.
        shard: samples in a file. In memory are two shards of a process, one that is drawn and
            the one before, which a thread writes, and the latter's bytes as the format has them.
        batch: states in a call of the network, of which a shard's last call throws some away
            unless they divide it. The default is 64 or a little less, so that next to none are
            thrown away: 63 for shards of 1000.
        format: "npz" (as ADM's evaluator reads), "safetensors", "webdataset" (tar), "png" (a
            folder of pictures) or "zarr" (one array for all).
        dtype: of what is stored, "uint8", "float16", "float32" or "float64"; the default is uint8
            for pictures (1, 3 or 4 channels, three axes) in any format but safetensors and zarr,
            otherwise float32.
        limits: the numbers that become 0 and 255, for uint8.
        labels: one for each sample, handed to the network as ``label_name`` and stored.
        label_name: the network's argument.
        net_kwargs: further arguments of the network: the same for all, or a function of sample
            ids, int64 [batch], that returns them.
        decode: from states [batch, ...] to samples [batch, ...]: `fastgen.Latent.decode` say.
        features: gather mean and covariance of these.
        against: an npz file with mu and sigma, whose Fréchet distance is wanted.
        real: features [N, D] of real samples, for precision and recall; ``features`` must be
            kept, and both sets are then in memory: 4 D bytes a feature vector.
        verify: redraw so many samples of each shard at the end and compare bits.
        place: of this process among others; the default is what the launcher said.
        progress: the first process says how far all are, on stderr.

    Returns:
        The folder. Of other processes than the first its manifest may not be complete yet.

    Raises:
        TypeError, ValueError: naming the argument; or what differs from the run that began the
            folder (model, plan, seed, ...), and for samples whose bits differ, which they are.
        FloatingPointError: for NaN or infinity, naming the sample.
        OSError: of the file system. Shards that are whole stay.
    """
    task = made_task(
        sampler, shape, count=count, seed=seed, shard=shard, batch=batch, format=format,
        dtype=dtype, limits=limits, labels=labels, label_name=label_name, net_kwargs=net_kwargs,
        decode=decode, features=features,
    )  # fmt: skip
    check_whole("verify", verify, 0)
    _check_statistics(features, against, real)
    target = None if against is None else stored_statistics(against)
    own = Place.found() if place is None else place
    folder, manifest = begun(task, out, format)
    with threads(manifest["threads"]):
        report = None
        if progress and own.rank == 0:
            report = Progress(count, folder.done)
        with made_writer(task, folder, manifest["threads"]) as writer:
            for k in shards(own, task.layout.shards, writer.missing, folder.begun):
                found = drawn_shard(task, folder, k)
                if found is not None:
                    writer.put(k, *found)
                if report is not None:
                    report.shown()
        if report is not None:
            report.shown(last=True)
        if own.rank == 0:
            for k in folder.gone():
                draw_shard(task, folder, k)
            completed(task, folder, manifest, target, real)
        if verify:
            compared = verify_bits(task, folder, verify, own)
            if progress:
                print(f"{compared} samples drawn again: the same bits", file=sys.stderr)
    return Generated(folder.path)


@typed
def made_task(
    sampler: Sampler,
    shape: Sequence[int],
    *,
    count: int,
    seed: int,
    shard: int,
    batch: int | None,
    format: str,
    dtype: str | None,
    limits: Sequence[float],
    labels: Sequence[int] | Tensor | NDArray[np.int64] | None,
    label_name: str,
    net_kwargs: NetKwargs | None,
    decode: Callable[[Tensor], Tensor] | None,
    features: Features | None,
) -> Task:
    """What `generate` is to draw, checked."""
    for name, value in (("count", count), ("shard", shard)):
        check_whole(name, value, 1)
    check_range("seed", seed, 64)
    if count > 2**48:
        raise ValueError(f"count={count}: there are 2^48 sample ids")
    check_choice("format", format, FORMATS)
    state = tuple(check_sizes("shape", shape, "the shape of one state, (3, 32, 32) say"))
    size = check_whole("batch", usual_batch(shard) if batch is None else batch, 1)
    if size > shard:
        raise ValueError(
            f"batch={batch}: a shard has {shard} samples, so that every call would draw "
            f"{size - shard} states for nothing; give shard={size} or more"
        )
    low, high = check_pair("limits", limits)
    if not low < high:
        raise ValueError(f"limits={limits!r}: expected low < high")
    given = _checked_labels(labels, count)
    stored = state if decode is None else decoded_shape(sampler, state, decode)
    picture = len(stored) == 3 and stored[0] in CHANNELS
    kind = format_named(format)
    if dtype is None:
        dtype = "uint8" if picture and format not in ("safetensors", "zarr") else "float32"
    check_choice("dtype", dtype, DTYPES)
    if kind.images and not (picture and dtype == "uint8"):
        raise ValueError(
            f"format={format!r}: pictures [1, 3 or 4, H, W] of uint8, got {list(stored)} of "
            f"{dtype}; use 'webdataset' or 'npz'"
        )
    layout = Layout(stored, dtype, count, shard, given is not None)
    parts = (given, label_name, net_kwargs, decode, (low, high), features)
    return Task(sampler, state, seed, size, *parts, layout)


def usual_batch(shard: int) -> int:
    """The states of a call that fill a shard in as few calls of at most 64 as there can be."""
    return -(-shard // -(-shard // BATCH))


def begun(task: Task, out: str | Path, format: str) -> tuple[Folder, dict[str, Any]]:
    """The folder of a task, and its manifest, compared or new."""
    folder = Folder(Path(out), format_named(format), task.layout)
    found = read_manifest(folder.path)
    counts = {task.layout.count} | ({found["count"]} if found is not None else set())
    labels = {n: task.first_labels(n) for n in counts}
    return folder, folder.begin(task.facts, labels)


def completed(
    task: Task,
    folder: Folder,
    manifest: dict[str, Any],
    target: tuple[Tensor, Tensor] | None = None,
    real: Tensor | None = None,
) -> None:
    """Write the statistics and the manifest of a set whose shards are all there."""
    numbers: dict[str, Any] | None = None
    if task.features is not None:
        moments = folder.moments()
        mean, covariance = moments.mean, moments.covariance
        distance = None if target is None else frechet(mean, covariance, *target)
        shares: Sequence[float | None] = (None, None)
        if real is not None:
            shares = precision_recall(real, folder.features())
        found = Statistics(moments.count, mean.numpy(), covariance.numpy(), distance, *shares)
        found.save(folder.path / STATISTICS)
        numbers = {"features": task.features.name, "count": found.count}
        judged = {"frechet": distance, "precision": shares[0], "recall": shares[1]}
        numbers |= {name: value for name, value in judged.items() if value is not None}
    folder.finish(manifest, numbers)


def draw_shard(task: Task, folder: Folder, k: int) -> None:
    """Draw a shard and put it on the disk, unless another process does before."""
    found = drawn_shard(task, folder, k)
    if found is not None:
        folder.write(k, *found, *_kept(task))


def drawn_shard(
    task: Task, folder: Folder, k: int
) -> tuple[Block, NDArray[np.float32] | None] | None:
    """Say in the folder that a shard is drawn here, and draw it, unless another process does."""
    folder.claim(k)
    return task.block(k, unwanted=lambda: not folder.missing(k))


def made_writer(task: Task, folder: Folder, count: int) -> Writer:
    """What writes a task's shards, on so many threads of torch."""
    return Writer(folder, *_kept(task), count)


def _kept(task: Task) -> tuple[bool, str]:
    """Whether all features are written, and what drew them."""
    keep = task.features is not None and task.features.keep
    return keep, device_name(task.sampler.model.device)


def verify_bits(task: Task, folder: Folder, count: int, place: Place) -> int:
    """Redraw samples of this process's shards and compare bits; how many were compared.

    Chosen are one batch of each shard by its number, and ``count`` of its samples, further batches
    where one has fewer.

    Raises:
        ValueError: naming the shard, the samples, and the devices, if they are not the same.
    """
    compared = 0
    for k in range(place.rank, task.layout.shards, place.world):
        first = task.layout.first(k)
        stored = folder.kind.read(folder.path, k, first).samples
        chooser = np.random.default_rng(k)
        parts = list(task.batches(k))
        wanted, differing = count, []
        for index in chooser.permutation(len(parts)):
            begin, size = parts[index]
            rows = np.sort(chooser.permutation(size)[:wanted])
            again = task.drawn(first + begin)
            for row in rows:
                if not same_bits(again[row], stored[begin + row]):
                    differing.append(first + begin + int(row))
            compared += len(rows)
            wanted -= len(rows)
            if wanted <= 0:
                break
        if differing:
            there, here = folder.device(k), device_name(task.sampler.model.device)
            why = "" if there == here else f"; drawn on {there}, redrawn on {here}"
            raise ValueError(
                f"{folder.path / folder.kind.entry(k)}: other bits when drawn again, samples "
                f"{', '.join(map(str, differing[:8]))}{why}"
            )
    return compared


def device_name(device: torch.device) -> str:
    """What kind of processor draws."""
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    return f"{device.type} {torch.backends.cpu.get_cpu_capability()}"


def _checked_labels(labels: Any, count: int) -> NDArray[np.int64] | None:
    if labels is None:
        return None
    if isinstance(labels, Tensor):
        check_real_device("labels", check_dense("labels", labels))
        labels = labels.cpu()
    found = np.asarray(labels)
    if found.dtype.kind not in "iu" or found.ndim != 1:
        raise TypeError(f"labels: expected whole numbers [count], got {found.dtype} {found.shape}")
    if len(found) != count:
        raise ValueError(f"labels: expected {count}, one for each sample, got {len(found)}")
    return found.astype(np.int64)


def decoded_shape(
    sampler: Sampler, state: tuple[int, ...], decode: Callable[[Tensor], Tensor]
) -> tuple[int, ...]:
    """The shape of what is made of one state."""
    found = decode(torch.zeros((1, *state), dtype=sampler.dtype, device=sampler.model.device))
    if not isinstance(found, Tensor) or not found.is_floating_point() or len(found) != 1:
        raise ValueError("decode: expected a function of states [B, ...] that returns [B, ...]")
    return tuple(found.shape[1:])


def _check_statistics(features: Features | None, against: Any, real: Tensor | None) -> None:
    if features is None and (against is not None or real is not None):
        raise ValueError("against, real: say of which features, features=Features()")
    if real is not None and not (features and features.keep):
        raise ValueError("real: precision and recall need every feature, Features(keep=True)")
    if real is not None and (real.ndim != 2 or len(real) < 4 or not real.isfinite().all()):
        raise ValueError(
            f"real: expected finite features [N, D] of at least 4 samples, got {list(real.shape)}"
        )
