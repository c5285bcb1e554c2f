"""What every case of the 2-D experiments is told, and how its results are kept."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchmarks.tools.rows import Row, row
from fastgen.common.files import replacing

SUITE = "two_dimensional"


class Protocol(NamedTuple):
    """Seeds, training steps, points of generated and test data, size of a batch."""

    seeds: Sequence[int] = tuple(range(5))
    steps: int = 20_000
    points: int = 10_000
    batch: int = 512


def file_of(name: str) -> str:
    """The name of a case's files."""
    return name.replace("->", " to ")


def kept(
    work: Callable[..., tuple[list[Any], dict[str, float]]],
    name: str,
    protocol: Protocol,
    folder: Path,
    compiled: bool,
) -> tuple[list[Any], dict[str, float]]:
    """What the work returns, which is done once only."""
    path = folder / f"{file_of(name)}.json"
    about = protocol._asdict() | {"seeds": list(protocol.seeds)}
    if path.exists():
        stored = json.loads(path.read_text())
        if stored["protocol"] != about:
            raise ValueError(f"{path} is of {stored['protocol']}, not of {about}: remove it")
        return stored["results"], stored["facts"]
    results, facts = work(name, protocol, folder, compiled)
    with replacing(path) as file:
        stored = {"protocol": about, "results": results, "facts": facts}
        file.write(json.dumps(stored).encode())
    return results, facts


def mean_row(
    case: str,
    provider: str,
    metric: str,
    shape: tuple[int, ...],
    mean: float,
    std: float,
    note: str,
) -> Row:
    """A row of a mean, with one standard deviation either way."""
    found = row(SUITE, case, provider, "fastgen-torch", shape, torch.float32, metric, "", [mean])
    low, high = (float(f"{mean + sign * std:.5g}") for sign in (-1, 1))
    return replace(found, p20=low, p80=high, note=note)
