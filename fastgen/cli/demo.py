"""`fastgen demo`: train on handwritten digits, sample with many solvers, compare."""

from __future__ import annotations

import argparse
import math
from pathlib import Path

from fastgen.cli.arguments import require


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("--out", type=Path, default=Path("out/demo"), help="folder for the results")
    parser.add_argument("--seed", type=int, default=0, help="of training and of the samples")
    parser.add_argument("--steps", type=int, default=1400, help="training steps (%(default)s)")
    parser.add_argument(
        "--minutes", type=float, default=math.inf, help="training's limit (none; steps are counted)"
    )
    parser.add_argument("--retrain", action="store_true", help="ignore a stored checkpoint")


def run(arguments: argparse.Namespace) -> None:
    """Train, or reuse the checkpoint that is there; compare and report."""
    require("sklearn", "safetensors", "matplotlib", "tqdm")
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
    print(f"\nwrote {folder / 'results.csv'}\nthe picture: {(folder / 'samples.png').resolve()}")
