"""`fastgen sample`: samples of a checkpoint, or of the network that a function makes."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fastgen.cli.arguments import add_plan_arguments, integers, plan_options, require, shape
from fastgen.cli.sources import FoundModel, add_source_arguments, find_model, is_function
from fastgen.solvers import get, plan

if TYPE_CHECKING:
    from torch import Tensor

    from fastgen.plans import Plan

COUNT = 16  # samples, where no shape is given
SOLVER = "dpmpp_2m"  # where the source recommends no plan


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_source_arguments(parser)
    parser.add_argument(
        "--shape", type=shape, help="B,C,H,W; the source's, if it knows one, of --count samples"
    )
    parser.add_argument("--count", type=int, help=f"how many samples, instead of --shape ({COUNT})")
    parser.add_argument("--out", type=Path, required=True, help=".npz, or .png for images")
    parser.add_argument(
        "--solver", help=f"see `fastgen solvers` (the plan of the source, otherwise {SOLVER})"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--labels", type=integers, help="classes, such as 0,1,2; repeated over B")
    parser.add_argument("--plan", type=Path, help="a plan's file, of `tune` or Plan.to_json")
    add_plan_arguments(parser, None)


def run(arguments: argparse.Namespace) -> None:
    """Draw the samples and write them."""
    out = arguments.out
    if out.suffix not in (".npz", ".png"):
        raise ValueError(f"--out {out}: expected a name that ends in .npz or .png")
    if arguments.count is not None and (arguments.shape is not None or arguments.count < 1):
        raise ValueError(f"--count {arguments.count}: expected at least 1, no --shape beside it")
    if arguments.shape is not None and is_function(arguments.source):  # before any work
        _check_output(out, arguments.shape)
    if arguments.solver is not None:
        get(arguments.solver)  # mistakes are named before torch is imported, which takes seconds
    options = plan_options(arguments)
    source = find_model(arguments)
    shape = _shape(arguments, source)
    if source.latent is None:
        _check_output(out, shape)
    made = _plan(arguments, source, options)
    import torch

    from fastgen.sampling import Sampler

    network_options: dict[str, Any] = {}
    if arguments.labels is not None:
        labels = torch.tensor(arguments.labels)
        network_options["labels"] = labels.repeat(-(-shape[0] // len(labels)))[: shape[0]]
    sampler = Sampler(source.model, made)
    try:
        samples = sampler(shape, seed=arguments.seed, check_finite=True, **network_options)
        if source.latent is not None:
            samples = source.latent.decode(samples)
    except (RuntimeError, IndexError) as error:
        raise ValueError(f"the network failed at --shape {shape}: {error}") from error
    shape = tuple(samples.shape)
    _check_output(out, shape)
    if out.suffix == ".png":
        _write_png(samples, out)
    else:
        _write_npz(out, samples=samples.cpu().numpy(), seed=arguments.seed, plan=made.to_json())
    print(f"wrote {out}: {list(shape)}, {made.solver}, {made.nfe} evaluations")


def _shape(arguments: argparse.Namespace, source: FoundModel) -> tuple[int, ...]:
    """Of what the network is given: of latents, where they are decoded."""
    if arguments.shape is not None:
        given: tuple[int, ...] = arguments.shape
        return given
    if source.shape is None:
        raise ValueError(f"--shape: {arguments.source} does not say what shape a sample has")
    return (COUNT if arguments.count is None else arguments.count, *source.shape)


def _plan(arguments: argparse.Namespace, source: FoundModel, options: dict[str, Any]) -> Plan:
    """What is asked for; the source's plan, if nothing is."""
    asked = (arguments.solver, arguments.steps, arguments.timesteps)
    if arguments.plan is not None:
        if options or any(part is not None for part in asked):
            raise ValueError("--plan: it has its solver, steps, times and options already")
        return _stored(arguments.plan, source)
    if source.plan is not None and not options and all(part is None for part in asked):
        return source.plan
    return plan(
        arguments.solver or SOLVER,
        source.model.schedule,
        arguments.steps,
        timesteps=arguments.timesteps,
        **{"predicts": source.model.predicts, **options},
    )


def _stored(path: Path, source: FoundModel) -> Plan:
    """The plan of a file, for this model."""
    from fastgen.plans import Plan

    try:
        found = Plan.from_json(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"--plan {path}: {error}") from error
    if found.schedule != source.model.schedule:
        raise ValueError(
            f"--plan {path}: made for {found.schedule!r}, the model is on {source.model.schedule!r}"
        )
    return found


def _check_output(out: Path, shape: tuple[int, ...]) -> None:
    """Refuse what could not be written."""
    if out.suffix == ".png":
        require("matplotlib")
        if len(shape) != 4 or shape[1] not in (1, 3):
            raise ValueError(f"--out {out}: a PNG shows [B, 1 or 3, H, W], not {shape}; use .npz")
    out.parent.mkdir(parents=True, exist_ok=True)


def _write_png(samples: Tensor, path: Path) -> None:
    """A square grid of images with [-1, 1] from black to white, small ones enlarged."""
    from matplotlib.image import imsave

    from fastgen.common.files import replacing
    from fastgen.plots import sheet

    grid = sheet(samples, limits=(-1, 1))
    grid = grid[..., :3] + 1 - grid[..., 3:]  # on white
    zoom = max(1, 512 // max(grid.shape[:2]))
    with replacing(path) as file:
        imsave(file, grid.repeat(zoom, axis=0).repeat(zoom, axis=1), format="png")


def _write_npz(path: Path, **arrays: Any) -> None:
    from fastgen.common.files import replacing

    with replacing(path) as file:
        np.savez(file, **arrays)
