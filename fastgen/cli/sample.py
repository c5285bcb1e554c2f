"""`fastgen sample`: samples of a checkpoint, or of the network that a function makes."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fastgen.cli.arguments import (
    add_plan_arguments,
    integers,
    named_schedule,
    plan_options,
    require,
    shape,
)
from fastgen.common.errors import nearest
from fastgen.solvers import get, plan

if TYPE_CHECKING:
    from torch import Tensor

    from fastgen.model import Model


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "source", help="a checkpoint of `train` or `demo`, or package.module:factory"
    )
    parser.add_argument("--weights", type=Path, help="safetensors for the factory's network")
    parser.add_argument("--shape", type=shape, required=True, help="B,C,H,W")
    parser.add_argument("--out", type=Path, required=True, help=".npz, or .png for images")
    parser.add_argument("--solver", default="dpmpp_2m", help="see `fastgen solvers`")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--labels", type=integers, help="classes, such as 0,1,2; repeated over B")
    parser.add_argument("--predicts", help="what a factory's bare network predicts")
    parser.add_argument("--time-input", default="unit", help="what it is fed as time (unit)")
    parser.add_argument("--data-at", type=int, default=0, help="its time at data: 0 or 1")
    add_plan_arguments(parser, None)


def run(arguments: argparse.Namespace) -> None:
    """Draw the samples and write them."""
    out, shape = arguments.out, arguments.shape
    _check_output(out, shape)
    get(arguments.solver)  # mistakes are named before torch is imported, which takes seconds
    options = plan_options(arguments)
    model = _model(arguments)
    made = plan(
        arguments.solver,
        model.schedule,
        arguments.steps,
        timesteps=arguments.timesteps,
        **{"predicts": model.predicts, **options},
    )
    import torch

    from fastgen.sampling import Sampler

    network_options: dict[str, Any] = {}
    if arguments.labels is not None:
        labels = torch.tensor(arguments.labels)
        network_options["labels"] = labels.repeat(-(-shape[0] // len(labels)))[: shape[0]]
    sampler = Sampler(model, made)
    try:
        samples = sampler(shape, seed=arguments.seed, check_finite=True, **network_options)
    except (RuntimeError, IndexError) as error:
        raise ValueError(f"the network failed at --shape {shape}: {error}") from error
    if out.suffix == ".png":
        _write_png(samples, out)
    else:
        _write_npz(out, samples=samples.cpu().numpy(), seed=arguments.seed, plan=made.to_json())
    print(f"wrote {out}: {list(shape)}, {made.solver}, {made.nfe} evaluations")


def _model(arguments: argparse.Namespace) -> Model:
    """The model of a checkpoint, or what a factory makes."""
    source: str = arguments.source
    if ":" not in source or Path(source).exists():
        require("safetensors")
        for name in ("weights", "schedule", "predicts"):
            if getattr(arguments, name) is not None:
                raise ValueError(f"--{name} is for package.module:factory, not for a checkpoint")
        path = Path(source)
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such file")
        from fastgen.common.files import read_safetensors
        from fastgen.demo.checkpoint import FORMAT, Checkpoint
        from fastgen.training import LatentScore, load

        if FORMAT in read_safetensors(path)[1]:
            return Checkpoint.load(path).model()
        trained = load(path)
        if isinstance(trained.objective, LatentScore):
            raise ValueError(
                f"{source}: a model of latents; sample and decode from Python, with "
                "trained = fastgen.training.load(path) and trained.objective.latent(...)"
            )
        return trained.model()
    made = _factory(source)()
    from torch import nn

    from fastgen.model import Model

    net = made.net if isinstance(made, Model) else made
    if arguments.weights is not None:
        if not isinstance(net, nn.Module):
            raise ValueError(f"--weights: {source} made no torch.nn.Module but {net!r}")
        require("safetensors")
        from fastgen.common.files import load_strictly, read_safetensors

        load_strictly(net, read_safetensors(arguments.weights)[0], arguments.weights)
    if isinstance(net, nn.Module):
        net.eval()
    if isinstance(made, Model):
        return made
    if arguments.schedule is None or arguments.predicts is None:
        raise ValueError(
            f"{source} makes a bare network: give --schedule and --predicts (and --time-input, "
            "--data-at), or let the factory return a fastgen.Model"
        )
    return Model(
        made,
        named_schedule(arguments.schedule),
        arguments.predicts,
        time_input=arguments.time_input,
        data_at=arguments.data_at,
    )


def _factory(source: str) -> Any:
    """The callable that `package.module:factory` names, seen from the current folder too."""
    module_name, _, name = source.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise ValueError(f"{source}: cannot import {module_name!r} ({error})") from error
    if not callable(getattr(module, name, None)):
        public = [k for k, v in vars(module).items() if callable(v) and not k.startswith("_")]
        raise ValueError(f"{source}: no callable {name!r} there; {nearest(name, public)}")
    return getattr(module, name)


def _check_output(out: Path, shape: tuple[int, ...]) -> None:
    """Refuse what could not be written, before any work."""
    if out.suffix not in (".npz", ".png"):
        raise ValueError(f"--out {out}: expected a name that ends in .npz or .png")
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
