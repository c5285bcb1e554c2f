"""What the examples share: arguments, pictures, and the distance between sets of digits."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastgen.common.files import replacing
from fastgen.datasets import Digits, load_digits
from fastgen.demo.classifier import DigitFeatures, classifier
from fastgen.demo.report import frechet_distance, strip


def arguments(
    name: str, summary: str, steps: int, argv: Sequence[str] | None, **more: int
) -> argparse.Namespace:
    """--steps, --out, --seed, and more whole numbers; one thread, and ``out`` made.

    Raises:
        SystemExit: for arguments that are unknown or out of range.
    """
    program = f"python -m examples.{name}"
    parser = argparse.ArgumentParser(prog=program, description=summary)
    parser.add_argument("--steps", type=int, default=steps, help="of training (%(default)s)")
    parser.add_argument(
        "--out", type=Path, default=Path("out/examples"), help="folder (%(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0)
    for key, value in more.items():
        parser.add_argument(f"--{key}", type=int, default=value, help="(%(default)s)")
    found = parser.parse_args(argv)
    if found.steps < 1 or any(getattr(found, key) < 1 for key in more):
        parser.error(f"--steps{''.join(f', --{k}' for k in more)}: expected at least 1")
    found.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(found.seed)
    return found


class Judge:
    """Fréchet distances to held-out digits, in pixels and a classifier's hidden units."""

    def __init__(self, steps: int) -> None:
        self.digits: Digits = load_digits()
        self.features: DigitFeatures = classifier(self.digits.train, steps)
        half_a, half_b = self.digits.held_out_a, self.digits.held_out_b
        self.labels = half_a.labels
        self._real = [self.features.describe(half.images) for half in (half_a, half_b)]
        self.floor = frechet_distance(*self._real)

    def distance(self, images: Tensor) -> float:
        """Of images with the labels ``self.labels``: the mean over the two halves."""
        found = self.features.describe(images)
        return sum(frechet_distance(found, half) for half in self._real) / 2

    def accuracy(self, images: Tensor) -> float:
        """The share of images that the classifier takes for their label."""
        return float((self.features(images).argmax(1) == self.labels).double().mean())


def sheet(rows: Mapping[str, Tensor], path: Path, columns: int = 20) -> None:
    """One line of digits [columns, 1, 8, 8] for each row, with its name, as PNG."""
    cells = [(name, partial(_digits, x[:columns], columns)) for name, x in rows.items()]
    _figure(path, cells, len(rows), (0.36 * columns, 0.62 * len(rows)))


def panels(
    rows: Mapping[str, tuple[Tensor, Tensor | None]], path: Path, limits: float, lines: int = 1
) -> None:
    """Points [N, 2] of each panel over thin trajectories [T, N', 2], if there are any, as PNG."""

    def draw(points: Tensor, states: Tensor | None, axis: Any) -> None:
        if states is not None:
            axis.plot(states[..., 0], states[..., 1], color="0.7", linewidth=0.3, zorder=0)
            axis.scatter(*states[0].T, s=3, color="black", linewidths=0)
        axis.scatter(*points.T, s=3, color="tab:blue", linewidths=0)
        axis.set_xlim(-limits, limits)
        axis.set_ylim(-limits, limits)
        axis.set_aspect("equal")

    width = -(-len(rows) // lines)
    cells = [(name, partial(draw, *pair)) for name, pair in rows.items()]
    _figure(path, cells, lines, (2.8 * width, 3.0 * lines))


def _digits(images: Tensor, columns: int, axis: Any) -> None:
    axis.imshow(strip(-images, columns), interpolation="nearest")  # dark ink


def _figure(
    path: Path,
    cells: Sequence[tuple[str, Callable[[Any], None]]],
    lines: int,
    size: tuple[float, float],
) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(lines, -(-len(cells) // lines), squeeze=False)
    for axis, (title, draw) in zip(axes.flat, cells, strict=False):
        draw(axis)
        axis.set_title(title, fontsize=8, pad=3)
        axis.set_xticks([])
        axis.set_yticks([])
    with replacing(path) as file:
        figure.savefig(file, dpi=150, format="png")
    print(f"wrote {path}")
