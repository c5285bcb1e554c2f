"""Judging samples: the Fréchet distance, the table, the CSV and the sheet of pictures."""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import fastgen.solvers as solvers
from fastgen.common.files import replacing
from fastgen.common.threads import threads
from fastgen.datasets import CLASSES, Digits
from fastgen.demo.checkpoint import Checkpoint
from fastgen.demo.tables import table
from fastgen.generation import frechet_distance
from fastgen.plots import samples
from fastgen.sampling.sample import sample
from fastgen.sampling.sampler import Sampler
from fastgen.schedules import Schedule

NFES = (5, 10, 20, 50)
SOLVERS: tuple[tuple[str, Mapping[str, Any]], ...] = (
    ("euler", {}),
    ("heun", {}),
    ("rk4", {}),
    ("adams_bashforth", {}),
    ("dpmpp_2m", {}),
    ("ddim", {"eta": 0.5}),
    ("ddim", {"eta": 1.0}),
    ("ddpm", {"variance": "large"}),
    ("predictor_corrector", {}),
)
HEADERS = ("solver", "NFE", "seconds", "Fréchet", "nearest")


@dataclass(frozen=True)
class Run:
    """One run: nfe evaluations of the network for each digit, seconds for the whole batch.

    frechet: mean of the distances to the two held-out parts. nearest: mean Euclidean distance to
    the nearest training digit, which tells copies from new digits. asked: the NFE asked for.
    """

    solver: str
    asked: int
    nfe: int
    seconds: float
    frechet: float
    nearest: float
    images: Tensor = field(repr=False)


def steps_for(solver: str, options: Mapping[str, Any], schedule: Schedule, nfe: int) -> int:
    """Most steps that cost at most ``nfe`` evaluations (at least 1)."""
    one, two = (solvers.plan(solver, schedule, n, **options).nfe for n in (1, 2))
    return max(1, (nfe - one) // (two - one) + 1)


@threads(1)
@torch.inference_mode()
def compare(checkpoint: Checkpoint, digits: Digits, seed: int) -> list[Run]:
    """Every solver at every NFE, from the same initial noise; then the floor.

    Features are those of `DigitFeatures.describe`. All sets have the size and
    the labels of a held-out part, so every distance has the same bias as the floor: that of one
    held-out part to the other.
    """
    model, labels = checkpoint.model(), digits.held_out_a.labels
    shape = tuple(digits.held_out_a.images.shape)
    features = checkpoint.features.describe
    real = [features(part.images) for part in (digits.held_out_a, digits.held_out_b)]
    sample(model, shape, "euler", 1, net_kwargs={"labels": labels})  # warm up
    rows = []
    for solver, options in SOLVERS:
        name = solver + "".join(f" {k}={v}" for k, v in options.items())
        for asked in NFES:
            steps = steps_for(solver, options, model.schedule, asked)
            plan = solvers.plan(solver, model.schedule, steps, **options)
            sampler = Sampler(model, plan)
            start = time.perf_counter()
            images = sampler(shape, seed=seed, labels=labels)
            seconds = time.perf_counter() - start
            found = features(images)
            frechet = sum(frechet_distance(found, half) for half in real) / 2
            nearest = nearest_distance(images, digits.train.images)
            rows.append(Run(name, asked, plan.nfe, seconds, frechet, nearest, images))
    nearest = nearest_distance(digits.held_out_a.images, digits.train.images)
    floor = frechet_distance(*real)
    real_digits = digits.held_out_a.images
    return [*rows, Run("real digits (floor)", 0, 0, 0.0, floor, nearest, real_digits)]


def nearest_distance(images: Tensor, reference: Tensor) -> float:
    """Mean over the images of the Euclidean distance to the nearest reference image."""
    return float(torch.cdist(images.flatten(1), reference.flatten(1)).amin(1).mean())


def report(rows: Sequence[Run]) -> str:
    """The demonstration's table."""
    cells = [
        (
            row.solver,
            row.nfe or "",
            f"{row.seconds:.3f}" if row.nfe else "",
            f"{row.frechet:.3f}",
            f"{row.nearest:.2f}",
        )
        for row in rows
    ]
    return table(HEADERS, cells)


def write_csv(rows: Sequence[Run], path: Path) -> None:
    """One line per row; seconds are for ``samples`` digits."""
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(
        ("solver", "nfe_asked", "nfe", "seconds", "frechet", "nearest_training", "samples")
    )
    for r in rows:
        writer.writerow((r.solver, r.asked, r.nfe, r.seconds, r.frechet, r.nearest, len(r.images)))
    with replacing(path) as file:
        file.write(text.getvalue().encode())


def write_sheet(rows: Sequence[Run], labels: Tensor, path: Path) -> None:
    """Digits 0 to 9 of every solver (down) at every NFE (across) below real ones, as PNG."""
    from matplotlib.figure import Figure

    first = [int((labels == c).nonzero()[0]) for c in range(CLASSES)]
    *runs, real = rows
    lines: dict[str, list[tuple[str, Tensor]]] = {"held-out digits": []}
    for k in range(len(NFES)):  # other real digits in every column
        lines["held-out digits"].append(("", real.images[[i + k for i in first]]))
    for row in runs:
        title = f"NFE {row.nfe}, distance {row.frechet:.2f}"
        lines.setdefault(row.solver, []).append((title, row.images[first]))
    figure = Figure(figsize=(3.1 * len(NFES) + 1.8, 0.52 * len(lines)), layout="constrained")
    axes = figure.subplots(len(lines), len(NFES), squeeze=False)
    for line, (solver, cells) in zip(axes, lines.items(), strict=True):
        line[0].set_ylabel(solver, rotation=0, ha="right", va="center", fontsize=9)
        for axis, (title, images) in zip(line, cells, strict=True):
            samples(images, axis, columns=CLASSES, limits=(-1, 1), invert=True)  # dark ink
            axis.set_title(title, fontsize=7, pad=2)
    with replacing(path) as file:
        figure.savefig(file, dpi=150, format="png")
