"""What the commands that sample share: the plan, guidance, and where the model is put."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastgen.cli.arguments import add_plan_arguments
from fastgen.cli.sources import FoundModel
from fastgen.solvers import get, plan

if TYPE_CHECKING:
    import torch

    from fastgen.model import Guidance
    from fastgen.plans import Plan

SOLVER = "auto"  # where the source recommends no plan


def add_drawing_arguments(parser: argparse.ArgumentParser) -> None:
    """Add those of the plan and of guidance."""
    parser.add_argument(
        "--solver", help=f"see `fastgen solvers` (the plan of the source, otherwise {SOLVER})"
    )
    parser.add_argument("--plan", type=Path, help="a plan's file, of `tune` or Plan.to_json")
    add_plan_arguments(parser, None)
    parser.add_argument("--guidance", type=float, help="scale of classifier-free guidance")
    parser.add_argument("--null", type=int, help="the label that stands for none, with --guidance")


def check_solver(arguments: argparse.Namespace) -> None:
    """Name mistakes before torch is imported, which takes seconds."""
    if arguments.solver is not None:
        get(arguments.solver)
    if (arguments.guidance is None) != (arguments.null is None):
        raise ValueError("--guidance: give --null too, the label that stands for none")


def plan_of(arguments: argparse.Namespace, source: FoundModel, options: dict[str, Any]) -> Plan:
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


def guidance_of(
    arguments: argparse.Namespace, name: str, rows: int, device: torch.device | None = None
) -> Guidance | None:
    """What `--guidance` and `--null` ask for, in batches of so many rows."""
    if arguments.guidance is None:
        return None
    if arguments.labels is None:
        raise ValueError("--guidance: it is between the labels and --null; give --labels")
    import torch

    from fastgen.model import Guidance

    null = torch.full((rows,), arguments.null, device=device)
    return Guidance(arguments.guidance, {name: null})


def placed(source: FoundModel, device: str | None, local: int = 0) -> FoundModel:
    """The model on a device: by default on the process's own GPU, where there are some."""
    import torch
    from torch import nn

    from fastgen.common.devices import check_device

    if device is None:
        count = torch.cuda.device_count()
        device = f"cuda:{local % count}" if count else "cpu"
    where = check_device("--device", device)
    for net in (source.model.net, getattr(source.latent, "network", None)):
        if isinstance(net, nn.Module):
            net.to(where)
    return source
