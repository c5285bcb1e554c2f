"""A small conditional model and a set of its samples, which any process can make again."""

import numpy as np
import torch

import fastgen
from fastgen import networks

SHAPE, COUNT, SHARD, BATCH, SEED = (1, 4, 4), 230, 20, 8, 5
LABELS = [i % 3 for i in range(COUNT)]


def model(seed=0):
    torch.manual_seed(seed)
    net = networks.MLP(SHAPE, (32, 32), classes=3).eval()
    rectified = fastgen.schedules.Rectified()
    return fastgen.Model(net, rectified, "velocity", data_at=1, per_sample=("labels",))


def sampler(seed=0, solver="ddim", guidance=None, **options):
    made = model(seed)
    options = {"eta": 1.0} | options if solver == "ddim" else options
    plan = fastgen.plan(solver, made.schedule, 4, start=0.99, **options)
    return fastgen.Sampler(made, plan, guidance=guidance)


def generate(out, given=None, **options):
    options = {"count": COUNT, "seed": SEED, "shard": SHARD, "batch": BATCH} | options
    options = {"labels": LABELS[: options["count"]]} | options
    return fastgen.generate(given or sampler(), SHAPE, out=out, **options)


def by_hand(given=None, count=COUNT, labels=True):
    """The same samples by plain calls of the sampler, in the batches that generate promises."""
    given = given or sampler()
    parts = []
    for first in range(0, count, SHARD):
        rows = min(SHARD, count - first)
        for begin in range(first, first + rows, BATCH):
            ids = range(begin, begin + BATCH)
            own = {"labels": torch.tensor([LABELS[min(i, count - 1)] for i in ids])}
            x = given((BATCH, *SHAPE), seed=SEED, sample_ids=ids, **(own if labels else {}))
            parts.append(x[: min(BATCH, first + rows - begin)])
    return torch.cat(parts)


def checksums(folder):
    """Of all shards and statistics, as the manifest of a whole set has them."""
    found = fastgen.generation.Generated(folder)
    assert found.manifest["complete"]
    assert [s["first"] for s in found.manifest["shards"]] == list(range(0, len(found), SHARD))
    assert sum(s["count"] for s in found.manifest["shards"]) == len(found)
    sums = [s["sha256"] for s in found.manifest["shards"]]
    statistics = folder / "statistics.npz"
    if statistics.exists():
        with np.load(statistics) as file:
            sums += [file[name].tobytes() for name in sorted(file)]
    return sums
