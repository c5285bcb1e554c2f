"""`fastgen train`: arrays, image folders and built-in sets, from the command line."""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import fastgen.schedules as schedules
from fastgen.cli.arguments import literal, require
from fastgen.common.errors import nearest

if TYPE_CHECKING:
    from fastgen.training import Engine, Scaling

# Of fastgen.networks, which needs torch.
NETWORKS = ("DiT", "MLP", "ModulatedMLP", "ScoreVAE", "UNet")
# Points of up to so many numbers are learned by a plain MLP of a thousandth of the weights.
FEW_NUMBERS = 8
RATE, MLP_RATE = 1e-3, 1e-2
STORED_FROM = 1 << 30  # bytes of a file that is read as it is needed, and not at once
LOOKED_AT = 20_000  # samples of which the scale is taken
TWO_PARTS = "ScoreVAE"  # a network that no single line of arguments describes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "source",
        help=".npy, .npz (data, labels), .csv, .zarr, .tar (WebDataset's layout; 'a-*.tar' is "
        "several), a folder of images, or 8gaussians, moons, scurve, checkerboard, digits",
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
    parser.add_argument(
        "--scale",
        choices=("auto", "always", "never"),
        default="auto",
        help="train on (x - mean) / deviation of each channel, and undo it on samples: where the "
        "data are far from the noise's scale, always, or never (%(default)s)",
    )
    parser.add_argument("--flip", action="store_true", help="mirror half of the images")
    parser.add_argument("--balanced", action="store_true", help="let classes come equally often")
    parser.add_argument(
        "--stored",
        action="store_true",
        help="read samples from the disk as they are needed: .npy and folders; files above "
        f"{STORED_FROM >> 30} GiB, .zarr and .tar always are",
    )
    parser.add_argument("--workers", type=int, default=0, help="processes that read them ahead")
    parser.add_argument(
        "--skip-corrupt", action="store_true", help="of those: report what is damaged and go on"
    )
    parser.add_argument(
        "--accumulate", type=int, default=1, help="parts of a batch that fit into memory"
    )
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
    from fastgen.training import Denoising, Flow, Settings, Trainer, checkpoint, describe

    engine = _engine(arguments)
    say = print if not engine.rank else lambda *_, **__: None
    with warnings.catch_warnings(record=True) as notes:
        warnings.simplefilter("always")
        found = _data(arguments)
    for note in notes:
        say(f"note: {note.message}", file=sys.stderr)
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
        flip=arguments.flip,
        balanced=arguments.balanced,
        seed=arguments.seed,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(arguments.seed)
        network = networks.from_config(config)
    shape = found.shape
    facts = describe(network, objective, shape=shape, source=arguments.source)
    going_on = out.exists() and not arguments.restart
    scaling = _scaling(arguments, found, out if going_on else None, engine.rank)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "data: means from")  # --scale never was told
        trainer = Trainer(
            network,
            objective.loss,
            found.samples,
            settings,
            found.labels,
            facts,
            engine=engine,
            scaling=scaling,
            workers=arguments.workers,
            on_corrupt="skip" if arguments.skip_corrupt else "raise",
        )
    if going_on:
        trainer.resume(out)
        say(f"going on from step {trainer.step} of {out}")
        source = checkpoint.read(out).description.get("source")
        if source != arguments.source:
            say(f"note: it was trained on {source} so far, and goes on with {arguments.source}")
    threads = torch.get_num_threads()
    torch.set_num_threads(arguments.threads)
    try:
        losses = trainer.run(checkpoint=out, every=arguments.every, progress=True)
    finally:
        torch.set_num_threads(threads)
    engine.end()
    if engine.rank:
        return
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
    _draw(arguments, found, scaling)


def _engine(arguments: argparse.Namespace) -> Engine:
    """One process; or accelerate, where a launcher started several."""
    from fastgen.training import Engine

    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        return Engine(arguments.accumulate)
    if importlib.util.find_spec("accelerate") is None:
        raise ValueError(
            "WORLD_SIZE: training on several processes needs accelerate; "
            "pip install 'fastgen-torch[accelerate]'"
        )
    from fastgen.integrations.accelerate import Accelerated

    precision = "bf16" if arguments.bfloat16 else "no"
    return Accelerated(mixed_precision=precision, gradient_accumulation_steps=arguments.accumulate)


class _Found(NamedTuple):
    """Samples in memory or on the disk, their labels, and the shape of one."""

    samples: Any
    labels: Any
    shape: list[int]
    classes: int


def _data(arguments: argparse.Namespace) -> _Found:
    """What the source names."""
    from fastgen.datasets import load, stored

    path = Path(arguments.source)
    large = path.suffix == ".npy" and path.is_file() and path.stat().st_size > STORED_FROM
    if arguments.stored or large or path.suffix in (".tar", ".zarr"):
        records = stored(path)
        labels = records.labels
        classes = 0 if labels is None else int(labels.max()) + 1
        return _Found(records, labels, list(records.shape), classes)
    if arguments.workers or arguments.skip_corrupt:
        raise ValueError(
            f"--workers, --skip-corrupt: {path} is read at once; give --stored beside them"
        )
    found = load(arguments.source)
    return _Found(found.samples, found.labels, list(found.samples.shape[1:]), found.classes)


def _scaling(
    arguments: argparse.Namespace, found: _Found, going_on: Path | None, rank: int
) -> Scaling | None:
    """Of a checkpoint that is gone on with; or of the data, if they are far from the noise."""
    from fastgen.training import Scaling, checkpoint
    from fastgen.training.scaling import far

    if going_on is not None:
        config = checkpoint.read(going_on).description.get("scaling")
        return None if config is None else Scaling.from_config(config, found.shape)
    if arguments.scale == "never":
        return None
    on_corrupt = "skip" if arguments.skip_corrupt else "raise"
    scaling = Scaling.of(found.samples, most=LOOKED_AT, on_corrupt=on_corrupt)
    note = far(scaling)
    if note is not None and not rank:
        print(
            f"note: {arguments.source}: {note}: training on (x - mean) / deviation of each "
            "channel, which `fastgen sample` undoes (--scale never does not)",
            file=sys.stderr,
        )
    return scaling if note is not None or arguments.scale == "always" else None


def _draw(arguments: argparse.Namespace, found: _Found, scaling: Scaling | None) -> None:
    """Write the picture where there can be one, and say where it is."""
    import torch

    from fastgen.cli.picture import POINTS, drawable, write_picture
    from fastgen.training import load

    path: Path = arguments.picture or arguments.out.with_suffix(".png")
    if not drawable(tuple(found.shape)):
        if arguments.picture is not None:
            print(f"note: no picture of samples of shape {found.shape}", file=sys.stderr)
        return
    if importlib.util.find_spec("matplotlib") is None:
        print("note: no picture without matplotlib: pip install matplotlib", file=sys.stderr)
        return
    model, samples, labels = load(arguments.out).model(), found.samples, found.labels
    if hasattr(samples, "rows"):
        numbers = torch.linspace(
            0, len(samples) - 1, min(len(samples), POINTS), device="cpu"
        ).long()
        from fastgen.training.feed import Reader

        # As in training: what cannot be read gives its place to the next sample.
        samples, numbers, _ = Reader(samples, "skip").__getitems__(numbers.tolist())
        labels = None if labels is None else labels[numbers]
    write_picture(path, model, samples, labels, arguments.seed, scaling)
    print(f"the picture: {path.resolve()}")


def _network(text: str | None, found: _Found) -> dict[str, Any]:
    """A configuration, with what the data determine."""
    shape = found.shape
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
