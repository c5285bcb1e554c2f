"""What several commands read from their arguments: schedules, options of plans, sizes."""

from __future__ import annotations

import argparse
import ast
import importlib.util
import inspect
from typing import Any

import fastgen.schedules as schedules
from fastgen.common.errors import nearest
from fastgen.schedules import Schedule

EXTRAS = {  # what is imported: what is installed
    "matplotlib": "matplotlib",
    "safetensors": "safetensors",
    "sklearn": "scikit-learn",
    "tqdm": "tqdm",
}


def add_plan_arguments(parser: argparse.ArgumentParser, schedule: str | None) -> None:
    """Add those of a plan; schedule: the one that is used unless another is given."""
    parser.add_argument(
        "--schedule",
        default=schedule,
        metavar="NAME[:key=value,...]",
        help=f"such as Rectified:shift=3 or DiscreteVP.linear:num=100 ({schedule})",
    )
    parser.add_argument("--steps", type=int, help="number of steps")
    parser.add_argument("--timesteps", type=_timesteps, help="a grid's name, or times 1,0.5,0")
    parser.add_argument(
        "--option",
        action="append",
        default=[],
        type=named_options,
        metavar="key=value",
        help="of the solver, the grid or the plan (clip=-1,1); repeat for more",
    )


def plan_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """What `--option` gave.

    Raises:
        ValueError: for what another argument gives.
    """
    options = dict(arguments.option)
    for name in ("solver", "schedule", "steps", "timesteps"):
        if name in options:
            raise ValueError(f"--option {name}=...: it has an argument of its own")
    return options


def named_schedule(text: str) -> Schedule:
    """The schedule that `NAME[.constructor][:key=value,...]` describes.

    Raises:
        ValueError: naming the nearest schedule, constructor or parameter.
    """
    head, _, tail = text.partition(":")
    name, _, constructor = head.partition(".")
    parameters = dict(named_options(part) for part in tail.split(",")) if tail else {}
    if name == "DiscreteVP":
        known = dict(inspect.getmembers(schedules.DiscreteVP, inspect.ismethod))
        if constructor not in known:
            meant = nearest(constructor, known)
            raise ValueError(f"--schedule {text}: write DiscreteVP.constructor; {meant}")
        try:
            inspect.signature(known[constructor]).bind(**parameters)
        except TypeError as error:
            raise ValueError(f"--schedule {text}: {error}") from error
        result: Schedule = known[constructor](**parameters)
        return result
    return schedules.from_config({"name": head, **parameters})


def require(*modules: str) -> None:
    """Refuse to go on without these packages.

    Raises:
        ValueError: saying what to install.
    """
    missing = [EXTRAS[name] for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        raise ValueError(f"{', '.join(missing)} needed: pip install 'fastgen-torch[demo]'")


def literal(text: str) -> Any:
    """A number, tuple, True, None ... as Python writes it; anything else is text."""
    try:
        return ast.literal_eval(text)
    except (SyntaxError, ValueError):
        return text


def integers(text: str) -> list[int]:
    """Whole numbers, separated by commas."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"expected whole numbers such as 16,1,8,8, got {text!r}"
        ) from None


def shape(text: str) -> tuple[int, ...]:
    """Sizes of at least 1, separated by commas."""
    sizes = tuple(integers(text))
    if min(sizes) < 1:
        raise argparse.ArgumentTypeError(f"expected sizes of at least 1, got {text!r}")
    return sizes


def limits(text: str) -> tuple[float, float]:
    """The numbers that are black and white, separated by a comma."""
    try:
        low, high = map(float, text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected two numbers, -1,1 say, got {text!r}") from None
    return low, high


def named_options(text: str) -> tuple[str, Any]:
    """``key=value`` as a name and what Python reads the value as."""
    key, equals, value = text.partition("=")
    if not equals or not key.isidentifier():
        raise argparse.ArgumentTypeError(f"expected key=value, got {text!r}")
    return key, literal(value)


def _timesteps(text: str) -> str | list[float]:
    value = literal(text)
    return list(value) if isinstance(value, tuple) else text
