"""`fastgen tune`: a plan fitted to a checkpoint, or to the network that a function makes."""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastgen.cli.arguments import integers, named_options, require, shape
from fastgen.cli.sources import add_source_arguments, find_model

if TYPE_CHECKING:
    from torch import Tensor


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_source_arguments(parser)
    parser.add_argument("--nfe", type=int, required=True, help="evaluations of the plan")
    parser.add_argument("--out", type=Path, required=True, help="the plan's file, .json")
    parser.add_argument("--shape", type=shape, help="C,H,W of one sample; the source's, if known")
    parser.add_argument("--labels", type=integers, help="classes to fit to, such as 0,1,2")
    parser.add_argument("--race", type=Path, help="write the race of solvers as .csv")
    parser.add_argument("--schedule", metavar="NAME[:key=value,...]", help="of a factory's network")
    parser.add_argument(
        "--option",
        action="append",
        default=[],
        type=named_options,
        metavar="key=value",
        help="of fastgen.tune: samples=512, what=grid, optimiser=adam, clip=-1,1; repeat for more",
    )


def run(arguments: argparse.Namespace) -> None:
    """Fit the plan and write it."""
    out, options = arguments.out, dict(arguments.option)
    if out.suffix != ".json":
        raise ValueError(f"--out {out}: expected a name that ends in .json")
    source = find_model(arguments)
    sizes = arguments.shape or source.shape
    if sizes is None:
        raise ValueError(f"--shape: {arguments.source} does not say what shape a sample has")
    import inspect

    import torch

    from fastgen.common.errors import nearest
    from fastgen.common.files import replacing
    from fastgen.fitting import tune

    known = list(inspect.signature(tune).parameters)[3:]
    for name in options:
        if name not in known:
            raise ValueError(f"--option {name}=...: {nearest(name, known)}")
    if options.get("progress"):
        require("tqdm")
    if arguments.labels is not None:
        labels = torch.tensor(arguments.labels, device="cpu")

        def conditioning(ids: Tensor) -> dict[str, Any]:
            return {"labels": labels.to(ids.device)[ids % len(labels)]}

        options["net_kwargs"] = conditioning
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            plan, report = tune(source.model, sizes, arguments.nfe, **{**options, "report": True})
        except (RuntimeError, IndexError) as error:
            raise ValueError(f"the network failed at --shape {sizes}: {error}") from error
    if report.race is not None:
        print(repr(report.race))
        if arguments.race is not None:
            report.race.to_csv(arguments.race)
    for warning in said:
        if issubclass(warning.category, UserWarning):
            print(warning.message)
    out.parent.mkdir(parents=True, exist_ok=True)
    with replacing(out) as file:
        file.write(plan.to_json().encode())
    print(f"wrote {out}: {plan.nfe} evaluations{f'; {plan.note}' if plan.note else ''}")
