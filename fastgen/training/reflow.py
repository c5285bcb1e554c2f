"""Reflow: a model's own pairs of noise and samples, generated once and kept on disk.

A flow trained on the pairs (x0, x1) of another flow has straighter trajectories: Liu et al. 2023
(arXiv 2209.03003).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import fastgen.solvers as solvers
from fastgen.common.checks import check_at_least
from fastgen.common.display import displayed
from fastgen.common.files import read_object, read_safetensors, write_safetensors
from fastgen.model.model import Model
from fastgen.noise.normals import randn
from fastgen.plans import Plan
from fastgen.plans.forms import Increment, Let, Normal
from fastgen.sampling.sampler import Sampler

FORMAT, VERSION = "fastgen_reflow", "1"


def reflow(
    model: Model,
    folder: Path | str,
    count: int,
    shape: tuple[int, ...] = (),
    *,
    source: Tensor | None = None,
    solver: str | solvers.Solver[...] = "euler",
    steps: int = 100,
    seed: int = 0,
    shard: int = 4096,
    options: Mapping[str, Any] | None = None,
    **net_kwargs: Any,
) -> Pairs:
    """Generate ``count`` pairs with a deterministic solver, in shards; go on where a run stopped.

    Shard k is the file pairs-k.safetensors with x0 and x1, written whole or not at all. Those there
    are kept if they are of the same arguments, so that a killed run is simply started again.

    Args:
        model: what samples.
        folder: of the shards.
        count: number of pairs.
        shape: of one sample, where noise is drawn (sample ids 0 .. count - 1 of ``seed``).
        source: initial states [count, ...] in place of noise: any source of a data-to-data flow.
        solver, steps, options: as for `fastgen.plan`; the solver must draw no noise. Options that
            the solver has been given count as these.
        seed: of the noise.
        shard: pairs in a file.
        net_kwargs: handed to the network.

    Raises:
        ValueError: naming an argument that does not fit, or a damaged or foreign shard.
    """
    folder = Path(folder)
    check_at_least("count", count, 1)
    check_at_least("shard", shard, 1)
    if source is not None and len(source) != count:
        raise ValueError(f"source: expected {count} states, got {len(source)}")
    if source is None and not shape:
        raise ValueError("shape: give that of one sample, or source")
    plan = solvers.plan(solver, model.schedule, steps, predicts=model.predicts, **(options or {}))
    if _draws_noise(plan):
        raise ValueError(f"solver={solver!r}: it draws noise, so that x0 does not determine x1")
    given = {**(solver.given if isinstance(solver, solvers.Solver) else {}), **(options or {})}
    facts = {"solver": plan.solver, "steps": steps, "seed": seed, "count": count, "shard": shard}
    facts |= {"options": given, "source": source is not None}
    sampler = Sampler(model, plan)
    for k, first in enumerate(range(0, count, shard)):
        path, rows = _path(folder, k), min(shard, count - first)
        if path.exists():
            _read(path, facts)
            continue
        if source is not None:
            x0 = source[first : first + rows]
        else:
            ids = range(first, first + rows)
            x0 = randn((rows, *shape), seed=seed, sample_ids=ids) * model.schedule.sigma(
                plan.times[0]
            )
        with torch.no_grad():
            x1 = sampler(x0, **net_kwargs)
        _write(path, {"x0": x0, "x1": x1}, facts)
    return Pairs(folder)


@displayed
class Pairs:
    """The pairs in a folder: ``x0`` and ``x1`` [count, ...], in their order.

    Raises:
        FileNotFoundError: if there is no first shard.
        ValueError: if a shard is missing, damaged, or of other arguments than the first; it is
            named, and nothing is changed: remove it and run `reflow` again to make it anew.
    """

    def __init__(self, folder: Path | str) -> None:
        folder = Path(folder)
        first, self.facts = _read(_path(folder, 0))
        count, shard = self.facts["count"], self.facts["shard"]
        parts = [first]
        for k in range(1, -(-count // shard)):
            path = _path(folder, k)
            if not path.exists():
                raise ValueError(f"{path}: missing; run reflow again with the same arguments")
            parts.append(_read(path, self.facts)[0])
        self.x0 = torch.cat([part["x0"] for part in parts])
        self.x1 = torch.cat([part["x1"] for part in parts])
        if len(self.x0) != count:
            raise ValueError(f"{folder}: expected {count} pairs, found {len(self.x0)}")

    def __len__(self) -> int:
        return len(self.x0)


def _draws_noise(plan: Plan) -> bool:
    forms = [i.form for i in plan.instructions if isinstance(i, Let)]
    return any(isinstance(symbol, Normal | Increment) for form in forms for symbol in form.terms)


def _path(folder: Path, k: int) -> Path:
    return folder / f"pairs-{k:05d}.safetensors"


def _write(path: Path, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
    metadata = {FORMAT: VERSION, "facts": json.dumps(facts, sort_keys=True)}
    write_safetensors(path, tensors, metadata)


def _read(
    path: Path, facts: dict[str, Any] | None = None
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    try:
        tensors, metadata = read_safetensors(path)
    except ValueError as error:
        raise ValueError(f"{error}; remove it and run reflow again") from error
    if metadata.get(FORMAT) != VERSION or tensors.keys() != {"x0", "x1"}:
        raise ValueError(f"{path}: not a shard of fastgen.training.reflow (version {VERSION})")
    found = read_object(path, metadata, "facts")
    for name in ("count", "shard"):
        if type(found.get(name)) is not int or found[name] < 1:
            raise ValueError(f"{path}: damaged metadata ({name}={found.get(name)!r}); remove it")
    shapes = [list(x.shape) for x in tensors.values()]
    if shapes[0] != shapes[1] or not all(x.is_floating_point() for x in tensors.values()):
        raise ValueError(f"{path}: x0 and x1 are not floating states of one shape; remove it")
    if facts is not None and found != json.loads(json.dumps(facts)):
        other = {k: v for k, v in found.items() if facts.get(k) != v}
        raise ValueError(f"{path}: made with other arguments ({other}); use another folder")
    return tensors, found
