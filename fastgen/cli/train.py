"""`fastgen train`: arrays, image folders and built-in sets, from the command line."""

from __future__ import annotations

import argparse
import importlib.util
import re
import sys
import warnings
from pathlib import Path
from typing import Any

import fastgen.schedules as schedules
from fastgen.cli.arguments import literal, require
from fastgen.common.errors import nearest

# Of fastgen.networks, which needs torch.
NETWORKS = ("DiT", "MLP", "ModulatedMLP", "ScoreVAE", "UNet")
# Points of up to so many numbers are learned by a plain MLP of a thousandth of the weights.
FEW_NUMBERS = 8
RATE, MLP_RATE = 1e-3, 1e-2
FAR = 10.0  # times the noise's deviation, from which data are told to be of another scale
TWO_PARTS = "ScoreVAE"  # a network that no single line of arguments describes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "source",
        help=".npy, .npz (data, labels), .csv, a folder of images, or 8gaussians, moons, scurve, "
        "checkerboard, digits",
    )
    parser.add_argument("--out", type=Path, required=True, help="the checkpoint, .safetensors")
    parser.add_argument(
        "--network",
        default=None,
        metavar="NAME[:key=value,...]",
        help=f"of {', '.join(n for n in NETWORKS if n != TWO_PARTS)}; chosen by the data's "
        "shape if not given",
    )
    parser.add_argument(
        "--predicts", default="velocity", help="velocity (flow matching), noise, data, v, score"
    )
    parser.add_argument("--schedule", default="CosineVP", help="of all but flow matching")
    parser.add_argument("--weighting", default="simple", help="simple, min_snr, edm, sigmoid ...")
    parser.add_argument(
        "--coupling",
        default="independent",
        metavar="NAME[:key=value,...]",
        help="of noise and data in flow matching: independent, ot, sinkhorn, unbalanced, partial, "
        "hilbert, sorted, or label-ot ... within labels (%(default)s)",
    )
    parser.add_argument("--steps", type=int, default=2000, help="training steps (%(default)s)")
    parser.add_argument("--batch", type=int, default=256, help="samples in a step (%(default)s)")
    parser.add_argument(
        "--learning-rate",
        type=float,
        help=f"({RATE}, or {MLP_RATE} of the MLP that is chosen for points)",
    )
    parser.add_argument("--clip", type=float, help="largest norm of the gradient")
    parser.add_argument("--average", type=float, default=0.998, help="decay of averaged weights")
    parser.add_argument("--bfloat16", action="store_true", help="autocast")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1, help="of the CPU (%(default)s)")
    parser.add_argument("--every", type=int, default=500, help="steps between checkpoints")
    parser.add_argument(
        "--picture",
        type=Path,
        help="samples beside the data, .png; with --out's name if not given, for points in the "
        "plane and images, where matplotlib is installed",
    )
    parser.add_argument("--restart", action="store_true", help="do not go on from --out")


def run(arguments: argparse.Namespace) -> None:
    """Train, or go on from the checkpoint that is there."""
    from fastgen.datasets.sources import check_source

    out: Path = arguments.out
    if out.suffix != ".safetensors":
        raise ValueError(f"--out {out}: expected a name that ends in .safetensors")
    if arguments.picture is not None:
        if arguments.picture.suffix != ".png":
            raise ValueError(f"--picture {arguments.picture}: expected a name that ends in .png")
        require("matplotlib")
    check_source(arguments.source)
    _check_network(_named(arguments.network or "", "--network")[0])
    # Mistakes above are named at once: this imports torch, which takes seconds.
    import torch

    import fastgen.networks as networks
    from fastgen.datasets import load
    from fastgen.training import Denoising, Flow, Settings, Trainer, checkpoint, describe

    with warnings.catch_warnings(record=True) as notes:
        warnings.simplefilter("always")
        found = load(arguments.source)
    for note in notes:
        print(f"note: {note.message}", file=sys.stderr)
    if scale := _scale_note(found.samples):
        print(f"note: {arguments.source}: {scale}", file=sys.stderr)
    name, options = _named(arguments.coupling, "--coupling")
    objective: Flow | Denoising = Flow(coupling=name, coupling_options=options)
    if name.startswith("label-") and found.labels is None:
        raise ValueError(f"--coupling {name}: {arguments.source} has no labels")
    if arguments.predicts != "velocity":
        if name != "independent":
            raise ValueError(
                f"--coupling {name}: noise is paired in flow matching only (--predicts velocity), "
                f"got --predicts {arguments.predicts}"
            )
        schedule = schedules.from_config({"name": arguments.schedule})
        objective = Denoising(schedule, arguments.predicts, arguments.weighting)
    config = _network(arguments.network, found)
    small = config["name"] == "MLP" and not arguments.network
    rate = arguments.learning_rate
    settings = Settings(
        steps=arguments.steps,
        batch=arguments.batch,
        learning_rate=rate if rate is not None else MLP_RATE if small else RATE,
        clip=arguments.clip,
        average=arguments.average,
        bfloat16=arguments.bfloat16,
        seed=arguments.seed,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(arguments.seed)
        network = networks.from_config(config)
    shape = list(found.samples.shape[1:])
    facts = describe(network, objective, shape=shape, source=arguments.source)
    trainer = Trainer(network, objective.loss, found.samples, settings, found.labels, facts)
    if out.exists() and not arguments.restart:
        trainer.resume(out)
        print(f"going on from step {trainer.step} of {out}")
        source = checkpoint.read(out).description.get("source")
        if source != arguments.source:
            print(f"note: it was trained on {source} so far, and goes on with {arguments.source}")
    threads = torch.get_num_threads()
    torch.set_num_threads(arguments.threads)
    try:
        losses = trainer.run(checkpoint=out, every=arguments.every, progress=True)
    finally:
        torch.set_num_threads(threads)
    if not losses:
        print(f"{out}: all {settings.steps} steps are done; --restart begins anew")
        return
    recent = losses[-100:]
    size = ",".join(map(str, [16, *shape]))
    print(
        f"wrote {out}: step {trainer.step} of {settings.steps}, mean loss of the last "
        f"{len(recent)} steps {sum(recent) / len(recent):.4g}\n"
        f"next: fastgen sample {out} --shape {size} --steps 20 --out samples.npz"
    )
    _draw(arguments, found, shape)


def _scale_note(samples: Any) -> str | None:
    """What to do where data are far from the scale of the noise, N(0, 1)."""
    points = samples.ndim == 2
    values = samples.double() if points else samples.double().reshape(-1, 1)
    mean, deviation = values.mean(0), values.std(0, correction=0)
    if not bool(
        ((mean.abs() > FAR) | (deviation > FAR) | (deviation < 1 / FAR) & (deviation > 0)).any()
    ):
        return None
    remedy = "(x - x.mean(0)) / x.std(0), and undo it on samples" if points else "to [-1, 1]"
    return (
        f"means from {float(mean.min()):.3g} to {float(mean.max()):.3g}, standard deviations from "
        f"{float(deviation.min()):.3g} to {float(deviation.max()):.3g}; training is meant for data "
        f"of about the scale of the noise, N(0, 1): scale them first, {remedy}"
    )


def _draw(arguments: argparse.Namespace, found: Any, shape: list[int]) -> None:
    """Write the picture where there can be one, and say where it is."""
    from fastgen.cli.picture import drawable, write_picture
    from fastgen.training import load

    path: Path = arguments.picture or arguments.out.with_suffix(".png")
    if not drawable(tuple(shape)):
        if arguments.picture is not None:
            print(f"note: no picture of samples of shape {shape}", file=sys.stderr)
        return
    if importlib.util.find_spec("matplotlib") is None:
        print("note: no picture without matplotlib: pip install matplotlib", file=sys.stderr)
        return
    model = load(arguments.out).model()
    write_picture(path, model, found.samples, found.labels, arguments.seed)
    print(f"the picture: {path.resolve()}")


def _network(text: str | None, found: Any) -> dict[str, Any]:
    """A configuration, with what the data determine."""
    shape = list(found.samples.shape[1:])
    head, given = _named(text or "", "--network")
    if not head:
        large = len(shape) == 3 and shape[1] > 8 and shape[1] % 2 == shape[2] % 2 == 0
        few = len(shape) == 1 and shape[0] <= FEW_NUMBERS
        head = "UNet" if large else "MLP" if few else "ModulatedMLP"
    config: dict[str, Any] = {"name": head, "classes": found.classes}
    if head in ("MLP", "ModulatedMLP"):
        config["shape"] = shape
        if not text and head == "MLP":
            config["activation"] = "silu"  # half as far from the data as selu after 2000 steps
    elif len(shape) == 3 or (len(shape) == 2 and head == "UNet"):
        config["channels"] = shape[0]
        config |= {"size": shape[1]} if head == "DiT" else {"dims": len(shape) - 1}
    else:
        raise ValueError(f"--network {head}: data of shape {shape} have no channels; use an MLP")
    return {**config, **given}


def _check_network(head: str) -> None:
    """Raise a ValueError for a name of no network, or of one that is not trained here."""
    if head == TWO_PARTS:
        raise ValueError(
            f"--network {head}: has two parts and is trained from Python, with "
            "fastgen.training.LatentScore"
        )
    if head and head not in NETWORKS:
        raise ValueError(f"--network {head}: {nearest(head, NETWORKS)}")


def _named(text: str, argument: str) -> tuple[str, dict[str, Any]]:
    """NAME[:key=value,...]: the name, and the values as Python writes them (or as text)."""
    head, _, tail = text.partition(":")
    given: dict[str, Any] = {}
    for part in filter(None, re.split(r",(?=[a-z_0-9]+=)", tail)):
        key, equals, value = part.partition("=")
        if not equals:
            raise ValueError(f"{argument} {text}: expected key=value, got {part!r}")
        given[key] = literal(value)
    return head, given
