"""`fastgen sample`: samples of a checkpoint, or of the network that a function makes."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fastgen.cli.arguments import integers, plan_options, require, shape
from fastgen.cli.drawing import add_drawing_arguments, check_solver, guidance_of, plan_of
from fastgen.cli.sources import FoundModel, add_source_arguments, find_model, is_function

if TYPE_CHECKING:
    from torch import Tensor

COUNT = 16  # samples, where no shape is given


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_source_arguments(parser)
    parser.add_argument(
        "--shape", type=shape, help="B,C,H,W; the source's, if it knows one, of --count samples"
    )
    parser.add_argument("--count", type=int, help=f"how many samples, instead of --shape ({COUNT})")
    parser.add_argument("--out", type=Path, required=True, help=".npz, or .png for images")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--labels", type=integers, help="classes, such as 0,1,2; repeated over B")
    add_drawing_arguments(parser)


def run(arguments: argparse.Namespace) -> None:
    """Draw the samples and write them."""
    out = arguments.out
    if out.suffix not in (".npz", ".png"):
        raise ValueError(f"--out {out}: expected a name that ends in .npz or .png")
    if arguments.count is not None and (arguments.shape is not None or arguments.count < 1):
        raise ValueError(f"--count {arguments.count}: expected at least 1, no --shape beside it")
    if arguments.shape is not None and is_function(arguments.source):  # before any work
        _check_output(out, arguments.shape)
    check_solver(arguments)
    options = plan_options(arguments)
    source = find_model(arguments)
    shape = _shape(arguments, source)
    if source.latent is None:
        _check_output(out, shape)
    made = plan_of(arguments, source, options)
    import torch

    from fastgen.sampling import Sampler

    network_options: dict[str, Any] = {}
    if arguments.labels is not None:
        labels = torch.tensor(arguments.labels, device="cpu")
        network_options["labels"] = labels.repeat(-(-shape[0] // len(labels)))[: shape[0]]
    guidance = guidance_of(arguments, "labels", shape[0])
    sampler = Sampler(source.model, made, guidance=guidance)
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
