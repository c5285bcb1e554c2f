"""Where commands find a model: checkpoints, folders, the Hub, functions."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from fastgen.cli.arguments import named_schedule, require
from fastgen.common.errors import nearest
from fastgen.common.hub import LATENT, PLAN, SCALING, PretrainedError, folder_of, is_hub_name

if TYPE_CHECKING:
    from fastgen.model import Model
    from fastgen.plans import Plan
    from fastgen.training import Scaling
    from fastgen.training.latent import Latent


class FoundModel(NamedTuple):
    """A model, and as far as the source knows: a plan, what it samples, and what decodes that.

    shape: of one sample of the model. latent: with ``decode``, of latents or of scaled data.
    """

    model: Model
    plan: Plan | None = None
    shape: tuple[int, ...] | None = None
    latent: Latent | Scaling | None = None


def add_source_arguments(parser: argparse.ArgumentParser) -> None:
    """Add those that `find_model` reads, but ``--schedule``."""
    parser.add_argument(
        "source",
        help="a checkpoint of `train` or `demo`, a folder of save_pretrained, "
        "hf:ORG/NAME[@REVISION], or package.module:factory",
    )
    parser.add_argument("--weights", type=Path, help="safetensors for the factory's network")
    parser.add_argument("--predicts", help="what a factory's bare network predicts")
    parser.add_argument("--time-input", default="unit", help="what it is fed as time (unit)")
    parser.add_argument("--data-at", type=int, default=0, help="its time at data: 0 or 1")


def is_function(source: str) -> bool:
    """Whether a source is ``package.module:factory``."""
    return ":" in source and not is_hub_name(source) and not Path(source).exists()


def find_model(arguments: argparse.Namespace) -> FoundModel:
    """What the command's arguments name.

    Raises:
        ValueError, OSError: naming the source.
    """
    source: str = arguments.source
    if is_function(source):
        return FoundModel(_made(arguments, source))
    require("safetensors")
    for name in ("weights", "schedule", "predicts"):
        if getattr(arguments, name) is not None:
            raise ValueError(f"--{name} is for package.module:factory, not for a saved model")
    path = Path(source)
    if is_hub_name(source) or path.is_dir():
        return _folder(source)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    return _checkpoint(path)


def _folder(source: str) -> FoundModel:
    """What `Model.save_pretrained` wrote, here or on the Hub."""
    folder = folder_of(source)
    from fastgen.model import Model
    from fastgen.model.facts import Facts
    from fastgen.plans import Plan
    from fastgen.training import Scaling
    from fastgen.training.latent import Latent

    model = Model.from_pretrained(folder)
    plan = Plan.from_pretrained(folder) if (folder / PLAN).exists() else None
    if plan is not None and plan.schedule != model.schedule:
        raise PretrainedError(
            f"{folder / PLAN}: made for {plan.schedule!r}, the model is on {model.schedule!r}; "
            "save the model again"
        )
    latent: Latent | Scaling | None = None
    if (folder / LATENT).exists():
        latent = Latent.load(folder / LATENT)
    if (folder / SCALING).exists():
        if latent is not None:
            raise PretrainedError(
                f"{folder / SCALING}: beside {LATENT}; remove the one that the model was not "
                "trained with"
            )
        latent = Scaling.from_pretrained(folder)
    shape = Facts.read(folder).shape
    if shape is None and latent is not None:
        shape = latent.shape
    return FoundModel(model, plan, shape, latent)


def _checkpoint(path: Path) -> FoundModel:
    """What `fastgen train`, `fastgen demo` or a `Trainer` wrote."""
    from fastgen.common.files import read_safetensors
    from fastgen.demo.checkpoint import FORMAT, Checkpoint
    from fastgen.training import LatentScore, load

    if FORMAT in read_safetensors(path)[1]:
        return FoundModel(Checkpoint.load(path).model(), shape=(1, 8, 8))
    trained = load(path)
    shape, sizes = trained.description.get("shape"), None
    if isinstance(shape, list) and all(type(n) is int and n > 0 for n in shape):
        sizes = tuple(shape)
    if not isinstance(trained.objective, LatentScore):
        return FoundModel(trained.model(), shape=sizes, latent=trained.scaling)
    if sizes is None:
        raise ValueError(
            f"{path}: a model of latents, of data of unknown shape; describe(network, objective, "
            "shape=...) stores it, or sample from Python, with trained = "
            "fastgen.training.load(path) and trained.objective.latent(...)"
        )
    latent = trained.objective.latent(trained.network, sizes)  # type: ignore[arg-type]
    return FoundModel(trained.model(), shape=latent.shape, latent=latent)


def _made(arguments: argparse.Namespace, source: str) -> Model:
    """What a factory makes."""
    made = named_callable(source)()
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


def named_callable(source: str) -> Any:
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
