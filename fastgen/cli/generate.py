"""`fastgen generate`: samples by the million, in shards, with any number of processes."""

from __future__ import annotations

import argparse
import importlib.util
import re
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastgen.cli.arguments import limits, plan_options, shape
from fastgen.cli.drawing import (
    add_drawing_arguments,
    check_solver,
    guidance_of,
    placed,
    plan_of,
)
from fastgen.cli.sources import FoundModel, add_source_arguments, find_model, named_callable

if TYPE_CHECKING:
    from fastgen.generation import Features
    from fastgen.sampling import Sampler

# As `fastgen.generation` has them, which takes torch to import.
FORMATS = ("npz", "safetensors", "webdataset", "png", "zarr")
DTYPES = ("uint8", "float16", "float32", "float64")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_source_arguments(parser)
    parser.add_argument("--shape", type=shape, help="C,H,W of one state; the source's, if known")
    parser.add_argument("--count", type=int, required=True, help="how many samples")
    parser.add_argument("--out", type=Path, required=True, help="the folder")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--shard", type=int, default=1000, help="samples in a file (1000)")
    parser.add_argument("--batch", type=int, help="states in a call of the network (64 at most)")
    parser.add_argument("--format", choices=FORMATS, default="npz")
    parser.add_argument("--dtype", choices=DTYPES, help="uint8 for pictures, otherwise float32")
    parser.add_argument("--limits", type=limits, default=(-1.0, 1.0), help="black,white (-1,1)")
    parser.add_argument(
        "--labels",
        help="0,1,2, repeated; 0x5000,1x5000: so many of each; or a file of one for each, "
        ".npy or .txt",
    )
    parser.add_argument("--label-name", default="labels", help="the network's argument (labels)")
    add_drawing_arguments(parser)
    parser.add_argument("--device", help="the process's own GPU, or the CPU")
    parser.add_argument("--features", help="gather statistics: pixels, or package.module:function")
    parser.add_argument("--against", type=Path, help="npz with mu and sigma: Fréchet distance")
    parser.add_argument("--real", type=Path, help=".npy of features: precision and recall")
    parser.add_argument("--verify", type=int, default=0, metavar="K", help="redraw K of each shard")
    parser.add_argument("--join", type=Path, help="write one .npz of all at the end")
    parser.add_argument("--ray", type=int, metavar="ACTORS", help="on Ray, with so many actors")
    parser.add_argument("--gpus", type=float, default=0.0, help="of each of Ray's actors (0)")


def run(arguments: argparse.Namespace) -> None:
    """Generate, and say what there is."""
    check_solver(arguments)
    if arguments.join is not None and arguments.join.suffix != ".npz":
        raise ValueError(f"--join {arguments.join}: expected a name that ends in .npz")
    if arguments.count < 1:
        raise ValueError(f"--count {arguments.count}: expected at least 1")
    if arguments.batch is None:
        from fastgen.generation.run import usual_batch

        arguments.batch = usual_batch(max(1, arguments.shard))
    if arguments.ray is not None:
        if importlib.util.find_spec("ray") is None:
            raise ValueError("--ray: Ray is needed: pip install 'fastgen-torch[ray]'")
        from fastgen.integrations.ray import generate as by_ray

        for name in ("against", "real"):
            if getattr(arguments, name) is not None:
                raise ValueError(f"--{name}: run the command again without --ray, which judges")
        _, sizes, options = made(arguments, 0)
        found = by_ray(
            partial(_sampler, arguments), sizes, out=arguments.out, actors=arguments.ray,
            gpus=arguments.gpus, **options,
        )  # fmt: skip
        place = None
    else:
        from fastgen.generation import Place, generate

        place = Place.found()
        sampler, sizes, options = made(arguments, place.local)
        real = _real(arguments.real)
        try:
            found = generate(
                sampler, sizes, out=arguments.out, place=place, progress=True, **options,
                against=arguments.against, real=real, verify=arguments.verify,
            )  # fmt: skip
        except RuntimeError as error:
            raise ValueError(f"the network failed at --shape {list(sizes)}: {error}") from error
    if place is not None and place.rank:
        return
    if arguments.join is not None:
        found.join(arguments.join)
        print(f"wrote {arguments.join}")
    print(f"{arguments.out}: {len(found)} samples, {arguments.format}, seed {arguments.seed}")
    for name, value in (found.statistics or {}).items():
        print(f"{name}: {value}")


def _sampler(arguments: argparse.Namespace) -> Sampler:
    """What an actor of Ray draws with."""
    return made(arguments, 0)[0]


def made(
    arguments: argparse.Namespace, local: int
) -> tuple[Sampler, tuple[int, ...], dict[str, Any]]:
    """The sampler, the shape of a state, and what else decides the samples."""
    options = plan_options(arguments)
    source = placed(find_model(arguments), arguments.device, local)
    sizes = _shape(arguments, source)
    plan = plan_of(arguments, source, options)
    from fastgen.sampling import Sampler

    device = source.model.device
    guidance = guidance_of(arguments, arguments.label_name, arguments.batch, device)
    sampler = Sampler(source.model, plan, guidance=guidance)
    features = _features(arguments)
    found = {"count": arguments.count, "seed": arguments.seed, "shard": arguments.shard}
    found |= {"batch": arguments.batch, "format": arguments.format, "dtype": arguments.dtype}
    found |= {"limits": arguments.limits, "labels": _labels(arguments.labels, arguments.count)}
    found |= {"label_name": arguments.label_name, "features": features}
    found |= {"decode": None if source.latent is None else source.latent.decode}
    return sampler, sizes, found


def _shape(arguments: argparse.Namespace, source: FoundModel) -> tuple[int, ...]:
    if arguments.shape is not None:
        given: tuple[int, ...] = arguments.shape
        return given
    if source.shape is None:
        raise ValueError(f"--shape: {arguments.source} does not say what shape a sample has")
    return source.shape


def _features(arguments: argparse.Namespace) -> Features | None:
    if arguments.features is None:
        if arguments.against is not None or arguments.real is not None:
            raise ValueError(
                "--against, --real: give --features, pixels or package.module:function"
            )
        return None
    from fastgen.generation import Features

    keep = arguments.real is not None
    if arguments.features == "pixels":
        return Features(keep=keep)
    function = named_callable(arguments.features)
    return Features(function, arguments.features, keep=keep)


def _real(path: Path | None) -> Any:
    if path is None:
        return None
    import torch

    return torch.from_numpy(_array("--real", path))


def _array(flag: str, path: Path) -> Any:
    """The array of a .npy file, or of the words of a .txt file.

    Raises:
        ValueError: naming flag and file.
    """
    import numpy as np

    try:
        if path.suffix == ".txt":
            return np.loadtxt(path, ndmin=1)
        found = np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ValueError(f"{flag} {path}: no numbers that can be read ({error})") from error
    if not isinstance(found, np.ndarray):  # an npz file
        raise ValueError(f"{flag} {path}: expected one array, a .npy file")
    return found


def _labels(text: str | None, count: int) -> Any:
    """Labels of all samples, int64 [count].

    Raises:
        ValueError: saying what there was.
    """
    if text is None:
        return None
    import numpy as np

    if text.endswith((".npy", ".txt")):
        path = Path(text)
        found = _array("--labels", path)
        if found.ndim != 1 or found.dtype.kind not in "iuf" or (found != np.floor(found)).any():
            what = f"{found.dtype} {list(found.shape)}"
            raise ValueError(f"--labels {path}: expected whole numbers [count], got {what}")
        if len(found) != count:
            raise ValueError(f"--labels {path}: {len(found)} labels for --count {count}")
        return np.asarray(found, dtype=np.int64).tolist()
    parts = [re.fullmatch(r"(\d+)(?:x(\d+))?", part) for part in text.split(",")]
    if not all(parts):
        raise ValueError(f"--labels {text}: expected 0,1,2, or 0x5000,1x5000, or a file")
    pairs = [(int(p[1]), p[2]) for p in parts if p is not None]
    if any(times is not None for _, times in pairs):
        found = np.repeat([c for c, _ in pairs], [int(times or 1) for _, times in pairs])
        if len(found) != count:
            raise ValueError(f"--labels {text}: {len(found)} labels for --count {count}")
        return found.tolist()
    return np.resize([c for c, _ in pairs], count).tolist()
