"""The command line: `fastgen demo | train | sample | solvers | plan`."""

from __future__ import annotations

import argparse
import ast
import importlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor, nn

import fastgen
import fastgen.schedules as schedules
from fastgen.cli import solvers_page as solver_table
from fastgen.common.errors import nearest
from fastgen.schedules import Schedule

EXTRAS = {  # what is imported: what is installed
    "matplotlib": "matplotlib",
    "safetensors": "safetensors",
    "sklearn": "scikit-learn",
    "tqdm": "tqdm",
}
MISUSE = (
    argparse.ArgumentTypeError,
    ArithmeticError,
    ImportError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)


class _Parser(argparse.ArgumentParser):
    """Reports bad arguments as an exception, which `main` prints on one line."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message} (see {self.prog} --help)")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; 0 if it succeeded, 2 after one line on stderr if it was misused."""
    parser = _arguments()
    try:
        arguments = parser.parse_args(argv)
        arguments.run(arguments)
    except SystemExit as finished:  # --help and --version
        return int(finished.code or 0)
    except KeyboardInterrupt:
        print("fastgen: interrupted", file=sys.stderr)
        return 130
    except MISUSE as error:
        if os.environ.get("FASTGEN_TRACEBACK"):
            raise
        print(f"fastgen: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


def _arguments() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="fastgen",
        description="Samplers for score, diffusion and flow-matching models.",
        epilog="FASTGEN_TRACEBACK=1 shows where an error arose.",
    )
    parser.add_argument("--version", action="version", version=f"fastgen {fastgen.__version__}")
    commands = parser.add_subparsers(required=True, metavar="command")

    demo = commands.add_parser("demo", help="train on handwritten digits and compare solvers")
    demo.add_argument("--out", type=Path, default=Path("out/demo"), help="folder for the results")
    demo.add_argument("--seed", type=int, default=0, help="of training and of the samples")
    demo.add_argument("--steps", type=int, default=2500, help="training steps (%(default)s)")
    demo.add_argument("--minutes", type=float, default=1.75, help="training's limit (%(default)s)")
    demo.add_argument("--retrain", action="store_true", help="ignore a stored checkpoint")
    demo.set_defaults(run=_demo)

    from fastgen.cli import train as training_cli

    training_cli.add_parser(commands)

    sample = commands.add_parser("sample", help="draw samples from a network")
    sample.add_argument(
        "source", help="a checkpoint of `train` or `demo`, or package.module:factory"
    )
    sample.add_argument("--weights", type=Path, help="safetensors for the factory's network")
    sample.add_argument("--shape", type=_shape, required=True, help="B,C,H,W")
    sample.add_argument("--out", type=Path, required=True, help=".npz, or .png for images")
    sample.add_argument("--solver", default="dpmpp_2m", help="see `fastgen solvers`")
    sample.add_argument("--seed", type=int, default=0)
    sample.add_argument("--labels", type=_integers, help="classes, such as 0,1,2; repeated over B")
    sample.add_argument("--predicts", help="what a factory's bare network predicts")
    sample.add_argument("--time-input", default="unit", help="what it is fed as time (unit)")
    sample.add_argument("--data-at", type=int, default=0, help="its time at data: 0 or 1")
    _plan_arguments(sample, None)
    sample.set_defaults(run=_sample)

    listing = commands.add_parser("solvers", help="list the solvers")
    listing.add_argument("--markdown", action="store_true", help="as the page docs/solvers.md")
    listing.set_defaults(run=_solvers)

    plan = commands.add_parser("plan", help="print a solver's program")
    plan.add_argument("solver", help="see `fastgen solvers`")
    plan.add_argument("--json", action="store_true", help="as JSON, for Plan.from_json")
    _plan_arguments(plan, "Rectified")
    plan.set_defaults(run=_plan)
    return parser


def _plan_arguments(parser: argparse.ArgumentParser, schedule: str | None) -> None:
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
        type=_assignment,
        metavar="key=value",
        help="of the solver, the grid or the plan (clip=-1,1); repeat for more",
    )


def _demo(arguments: argparse.Namespace) -> None:
    _require("sklearn", "safetensors", "matplotlib", "tqdm")
    from fastgen.datasets import load_digits
    from fastgen.demo import report
    from fastgen.demo.checkpoint import Checkpoint
    from fastgen.demo.train import train

    digits, folder = load_digits(), arguments.out
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "checkpoint.safetensors"
    if path.exists() and not arguments.retrain:
        try:
            checkpoint = Checkpoint.load(path)
        except ValueError as error:
            raise ValueError(f"{error}; --retrain trains a new one") from error
        verb, hint = "reusing", "; --retrain trains again"
    else:
        checkpoint = train(
            digits.train, steps=arguments.steps, minutes=arguments.minutes, seed=arguments.seed
        )
        checkpoint.save(path)
        verb, hint = "wrote", ""
    print(
        f"{verb} {path}: {checkpoint.steps} training steps in {checkpoint.seconds:.0f} s on "
        f"{len(digits.train.labels)} digits, seed {checkpoint.seed}{hint}"
    )
    rows = report.compare(checkpoint, digits, arguments.seed)
    count = len(digits.held_out_a.labels)
    print(f"\n{report.report(rows)}\n")
    print(
        f"NFE: network evaluations per digit. seconds: for {count} digits on one thread.\n"
        f"Fréchet: distance of {count} generated to {count} held-out digits (mean of two halves)\n"
        "in 64 pixels and 32 hidden units of a classifier; the floor is the distance of one half\n"
        "to the other, with the same bias from their finite number. nearest: mean distance to\n"
        "the nearest training digit; far below that of real digits would mean copies."
    )
    report.write_csv(rows, folder / "results.csv")
    report.write_sheet(rows, digits.held_out_a.labels, folder / "samples.png")
    print(f"\nwrote {folder / 'results.csv'} and {folder / 'samples.png'}")


def _sample(arguments: argparse.Namespace) -> None:
    out, shape = arguments.out, arguments.shape
    _check_output(out, shape)
    model = _model(arguments)
    options = dict(arguments.option)
    _refuse_taken(options)
    plan = fastgen.plan(
        arguments.solver,
        model.schedule,
        arguments.steps,
        timesteps=arguments.timesteps,
        **{"predicts": model.predicts, **options},
    )
    network_options: dict[str, Any] = {}
    if arguments.labels is not None:
        labels = torch.tensor(arguments.labels)
        network_options["labels"] = labels.repeat(-(-shape[0] // len(labels)))[: shape[0]]
    sampler = fastgen.Sampler(model, plan)
    try:
        samples = sampler(shape, seed=arguments.seed, check_finite=True, **network_options)
    except (RuntimeError, IndexError) as error:
        raise ValueError(f"the network failed at --shape {shape}: {error}") from error
    if out.suffix == ".png":
        _write_png(samples, out)
    else:
        _write_npz(out, samples=samples.cpu().numpy(), seed=arguments.seed, plan=plan.to_json())
    print(f"wrote {out}: {list(shape)}, {plan.solver}, {plan.nfe} evaluations")


def _solvers(arguments: argparse.Namespace) -> None:
    from fastgen.demo.report import table

    if arguments.markdown:
        print(solver_table.markdown(), end="")
    else:
        print(table(solver_table.HEADERS, [row.cells() for row in solver_table.rows()]))


def _plan(arguments: argparse.Namespace) -> None:
    options = dict(arguments.option)
    _refuse_taken(options)
    schedule = _schedule(arguments.schedule)
    plan = fastgen.plan(
        arguments.solver, schedule, arguments.steps, timesteps=arguments.timesteps, **options
    )
    print(plan.to_json() if arguments.json else plan)


def _model(arguments: argparse.Namespace) -> fastgen.Model:
    """The model of a checkpoint, or what a factory makes."""
    source: str = arguments.source
    if ":" not in source or Path(source).exists():
        _require("safetensors")
        from fastgen.demo.checkpoint import FORMAT, Checkpoint
        from fastgen.training import LatentScore, load
        from fastgen.training.files import read_safetensors

        for name in ("weights", "schedule", "predicts"):
            if getattr(arguments, name) is not None:
                raise ValueError(f"--{name} is for package.module:factory, not for a checkpoint")
        path = Path(source)
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
    net = made.net if isinstance(made, fastgen.Model) else made
    if arguments.weights is not None:
        if not isinstance(net, nn.Module):
            raise ValueError(f"--weights: {source} made no torch.nn.Module but {net!r}")
        _require("safetensors")
        from fastgen.training.files import load_strictly, read_safetensors

        load_strictly(net, read_safetensors(arguments.weights)[0], arguments.weights)
    if isinstance(net, nn.Module):
        net.eval()
    if isinstance(made, fastgen.Model):
        return made
    if arguments.schedule is None or arguments.predicts is None:
        raise ValueError(
            f"{source} makes a bare network: give --schedule and --predicts (and --time-input, "
            "--data-at), or let the factory return a fastgen.Model"
        )
    return fastgen.Model(
        made,
        _schedule(arguments.schedule),
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


def _schedule(text: str) -> Schedule:
    """`NAME[.constructor][:key=value,...]`."""
    head, _, tail = text.partition(":")
    name, _, constructor = head.partition(".")
    parameters = dict(_assignment(part) for part in tail.split(",")) if tail else {}
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


def _refuse_taken(options: dict[str, Any]) -> None:
    for name in ("solver", "schedule", "steps", "timesteps"):
        if name in options:
            raise ValueError(f"--option {name}=...: it has an argument of its own")


def _assignment(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals or not key.isidentifier():
        raise argparse.ArgumentTypeError(f"expected key=value, got {text!r}")
    return key, _literal(value)


def _literal(text: str) -> Any:
    """A number, tuple, True, None ... as Python writes it; anything else is text."""
    try:
        return ast.literal_eval(text)
    except (SyntaxError, ValueError):
        return text


def _timesteps(text: str) -> str | list[float]:
    value = _literal(text)
    return list(value) if isinstance(value, tuple) else text


def _integers(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"expected whole numbers such as 16,1,8,8, got {text!r}"
        ) from None


def _shape(text: str) -> tuple[int, ...]:
    shape = tuple(_integers(text))
    if min(shape) < 1:
        raise argparse.ArgumentTypeError(f"expected sizes of at least 1, got {text!r}")
    return shape


def _require(*modules: str) -> None:
    missing = [EXTRAS[name] for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        raise ValueError(f"{', '.join(missing)} needed: pip install 'fastgen-torch[demo]'")


def _check_output(out: Path, shape: tuple[int, ...]) -> None:
    """Refuse what could not be written, before any work."""
    if out.suffix not in (".npz", ".png"):
        raise ValueError(f"--out {out}: expected a name that ends in .npz or .png")
    if out.suffix == ".png":
        _require("matplotlib")
        if len(shape) != 4 or shape[1] not in (1, 3):
            raise ValueError(f"--out {out}: a PNG shows [B, 1 or 3, H, W], not {shape}; use .npz")
    out.parent.mkdir(parents=True, exist_ok=True)


def _write_png(samples: Tensor, path: Path) -> None:
    """A square grid of images with [-1, 1] from black to white, small ones enlarged."""
    from matplotlib.image import imsave

    from fastgen.demo.report import strip
    from fastgen.training.files import replacing

    grid = strip(samples, columns=int(np.ceil(len(samples) ** 0.5)))
    zoom = max(1, 512 // max(grid.shape[:2]))
    with replacing(path) as temporary:
        imsave(temporary, grid.repeat(zoom, axis=0).repeat(zoom, axis=1), format="png")


def _write_npz(path: Path, **arrays: Any) -> None:
    from fastgen.training.files import replacing

    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)


if __name__ == "__main__":
    sys.exit(main())
